"""A reply's diff in a real workspace: exactly the tree that was meant, or nothing at all and the reason."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import anyio
import pytest

from autopack_mcp.errors import EditMisfit, UnusableReply
from autopack_mcp.replies.edits import parse_edits
from autopack_mcp.workspace.clone import AppliedChange, Workspace, pin_base
from autopack_mcp.workspace.git import run_git
from benchmarks.edits import outcome_of
from tests.corrupted_diffs import KINDS, spoilt
from tests.projects import git, make_repository

pytestmark = pytest.mark.anyio
SEEDS = range(12)
EXACT_KINDS = ["unspoilt", "shifted context", "CRLF", "fenced in prose", "blank lines emptied", "no a/ and b/"]
TEXT = "one\ntwo\nthree\nfour\nfive\n"
MAIN_DIFF = "--- a/main.txt\n+++ b/main.txt\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n"
FILES = {
    "main.txt": TEXT,
    "twice.txt": TEXT * 2,
    "tool.sh": "#!/bin/sh\necho old\necho end\n",
    "windows.txt": TEXT.replace("\n", "\r\n"),
    "src/deep.txt": TEXT,
}


@pytest.fixture(scope="module")
def git_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("git")
    anyio.run(lambda: run_git("init", "--quiet", str(folder), cwd=folder))
    return folder / ".git"


@pytest.fixture
async def workspace(tmp_path: Path) -> Workspace:
    repository = make_repository(tmp_path / "project", FILES)
    (repository / "tool.sh").chmod(0o755)
    (repository / "link").symlink_to("main.txt")
    (repository / "out").symlink_to("/etc")
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "a tool and links")
    commit = await pin_base(repository, "r1", "HEAD")
    made = Workspace(tmp_path / "workspaces" / "r1", repository, "r1")
    await made.create(commit)
    return made


async def applied(workspace: Workspace, reply: str, *allowed: str, allow_fuzzy: bool = False) -> AppliedChange:
    return await workspace.apply(parse_edits(reply).edits, allowed, allow_fuzzy=allow_fuzzy)


def is_untouched(workspace: Workspace) -> bool:
    return git(workspace.path, "status", "--porcelain", "--untracked-files=all") == ""


@pytest.mark.parametrize("kind", KINDS)
async def test_a_spoilt_diff_makes_exactly_what_was_meant_or_nothing(git_dir: Path, kind: str) -> None:
    outcomes = [await outcome_of(spoilt(kind, seed), git_dir, allow_fuzzy=False) for seed in SEEDS]

    assert "wrong" not in outcomes
    if kind in EXACT_KINDS:
        assert set(outcomes) == {"exact"}


def test_the_spoilt_diffs_have_every_kind_and_are_the_same_each_time() -> None:
    assert len(KINDS) >= 12
    for kind in KINDS:
        assert spoilt(kind, 3) == spoilt(kind, 3)
        assert len({spoilt(kind, seed).reply for seed in SEEDS}) == len(SEEDS)


async def test_files_are_changed_made_deleted_and_renamed_by_one_diff(workspace: Workspace) -> None:
    change = await applied(
        workspace,
        MAIN_DIFF
        + "diff --git a/windows.txt b/windows.txt\n--- a/windows.txt\n+++ b/windows.txt\n"
        + "@@ -3,3 +3,3 @@\n three\n-four\n+4\n five\n"
        + "diff --git a/new/a.txt b/new/a.txt\nnew file mode 100644\n"
        + "--- /dev/null\n+++ b/new/a.txt\n@@ -0,0 +1 @@\n+x\n"
        + "diff --git a/src/deep.txt b/src/deep.txt\ndeleted file mode 100644\n--- a/src/deep.txt\n+++ /dev/null\n"
        + "@@ -1,5 +0,0 @@\n-one\n-two\n-three\n-four\n-five\n"
        + "diff --git a/tool.sh b/bin/tool.sh\nsimilarity index 60%\nrename from tool.sh\nrename to bin/tool.sh\n"
        + "--- a/tool.sh\n+++ b/bin/tool.sh\n@@ -1,3 +1,3 @@\n #!/bin/sh\n-echo old\n+echo new\n echo end\n",
    )

    assert change.how == "diff"
    assert change.files == ("bin/tool.sh", "main.txt", "new/a.txt", "src/deep.txt", "tool.sh", "windows.txt")
    assert (workspace.path / "windows.txt").read_bytes() == TEXT.replace("four", "4").replace("\n", "\r\n").encode()
    assert (workspace.path / "bin/tool.sh").read_text() == "#!/bin/sh\necho new\necho end\n"
    assert stat.S_IMODE((workspace.path / "bin/tool.sh").stat().st_mode) & stat.S_IXUSR
    assert not (workspace.path / "tool.sh").exists()
    assert "rename from tool.sh\nrename to bin/tool.sh\n" in change.diff
    assert "old mode" not in change.diff
    assert not list((workspace.path / ".git").glob("autopack-diff*"))


HEADER = "--- a/{0}\n+++ b/{0}\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n"
NEW = "--- /dev/null\n+++ b/{0}\n@@ -0,0 +1 @@\n+x\n"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        pytest.param(HEADER.format("../main.txt"), "leaves the workspace", id="up"),
        pytest.param(NEW.format("../../x"), "leaves the workspace", id="a new file above"),
        pytest.param("--- /etc/passwd\n+++ /etc/passwd\n@@ -1 +1 @@\n-a\n+b\n", "is not relative", id="absolute"),
        pytest.param(NEW.format(".git/hooks/pre-commit"), "not the builder's", id="a hook"),
        pytest.param(NEW.format(".autopack/rules.md"), "not the builder's", id="the rules"),
        pytest.param(NEW.format("out/x"), "'out' is a symbolic link", id="through a link"),
        pytest.param(HEADER.format("link"), "'link' is a symbolic link", id="onto a link"),
        pytest.param(NEW.format("main.txt"), "but it exists", id="a new file that is there"),
        pytest.param(NEW.format("main.txt/x"), "'main.txt' is a file", id="below a file"),
        pytest.param(
            "diff --git a/main.txt b/../x\nsimilarity index 100%\nrename from main.txt\nrename to ../x\n",
            "leaves the workspace",
            id="a rename that leaves",
        ),
        pytest.param(
            "diff --git a/.git/config b/x\nsimilarity index 100%\nrename from .git/config\nrename to x\n",
            "not the builder's",
            id="a rename of git's own",
        ),
        pytest.param(
            "diff --git a/main.txt b/twice.txt\nsimilarity index 100%\nrename from main.txt\nrename to twice.txt\n",
            "renames a file to 'twice.txt', which exists",
            id="a rename onto another",
        ),
        pytest.param(
            "diff --git a/link b/x\nsimilarity index 100%\nrename from link\nrename to x\n",
            "'link' is a symbolic link",
            id="a rename of a link",
        ),
        pytest.param(HEADER.format("twice.txt"), "fits at 2 places (lines 1, 6)", id="two places"),
        pytest.param(MAIN_DIFF.replace("+2", "+two"), "change nothing", id="no change"),
    ],
)
async def test_a_hostile_or_doubtful_diff_writes_nothing(workspace: Workspace, reply: str, reason: str) -> None:
    with pytest.raises(UnusableReply) as refused:
        await applied(workspace, reply)

    assert reason in refused.value.reason
    assert is_untouched(workspace)
    assert not os.path.lexists(workspace.path.parent / "x")


async def test_both_names_of_a_rename_must_be_allowed(workspace: Workspace) -> None:
    renames = "diff --git a/main.txt b/src/m.txt\nsimilarity index 100%\nrename from main.txt\nrename to src/m.txt\n"

    with pytest.raises(UnusableReply, match=r"'main.txt' is not allowed"):
        await applied(workspace, renames, "src")
    assert (await applied(workspace, renames, "src", "main.txt")).files == ("main.txt", "src/m.txt")


async def test_all_that_does_not_fit_is_named_at_once_and_nothing_is_written(workspace: Workspace) -> None:
    reply = f"{MAIN_DIFF}{HEADER.format('twice.txt')}{HEADER.format('windows.txt').replace('one', 'uno')}"

    with pytest.raises(EditMisfit) as refused:
        await workspace.check(parse_edits(reply).edits, ())

    assert [misfit.path for misfit in refused.value.misfits] == ["twice.txt", "windows.txt"]
    assert [excerpt.first_line for excerpt in refused.value.misfits[0].excerpts] == [1, 1]
    assert "one\r\ntwo" in refused.value.misfits[1].excerpts[0].text
    assert is_untouched(workspace)


async def test_a_check_of_what_fits_says_nothing_and_writes_nothing(workspace: Workspace) -> None:
    await workspace.check(parse_edits(MAIN_DIFF).edits, ())

    assert is_untouched(workspace)


async def test_what_git_would_not_take_is_not_taken(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git has the last word: here it is one that takes nothing."""
    (workspace.path.parent / "git").write_text('#!/bin/sh\nfor word; do [ "$word" = apply ] && exit 1; done\n'
                                              'PATH=/usr/bin:/bin exec git "$@"\n')  # fmt: skip
    (workspace.path.parent / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{workspace.path.parent}:{os.environ['PATH']}")

    with pytest.raises(EditMisfit, match=r"git does not take the diff of 'main.txt'"):
        await applied(workspace, MAIN_DIFF)


async def test_an_attribute_of_the_project_has_no_say_in_how_a_diff_is_applied(workspace: Workspace) -> None:
    attributes = "--- /dev/null\n+++ b/.gitattributes\n@@ -0,0 +1 @@\n+* text eol=crlf\n"

    await applied(workspace, attributes + MAIN_DIFF)

    assert (workspace.path / "main.txt").read_bytes() == TEXT.replace("two", "2").encode()


@pytest.mark.parametrize(
    ("reply", "how"),
    [
        pytest.param("*** WRITE a.txt\nx\n*** END\n*** DELETE main.txt\n", "files", id="whole files"),
        pytest.param(
            "*** WRITE a\nx\n*** END\n*** EDIT main.txt\n<<<<<<< SEARCH\ntwo\n=======\n2\n>>>>>>> REPLACE\n*** END\n",
            "blocks",
            id="a block among them",
        ),
        pytest.param(MAIN_DIFF, "diff", id="a diff"),
        pytest.param(MAIN_DIFF.replace(" three", " three  "), "fuzzy", id="what is only similar"),
    ],
)
async def test_a_change_says_by_which_lane_it_came(workspace: Workspace, reply: str, how: str) -> None:
    assert (await applied(workspace, reply, allow_fuzzy=True)).how == how


async def test_only_a_plan_that_says_so_gets_a_likely_place(workspace: Workspace) -> None:
    similar = MAIN_DIFF.replace(" three", " three  ")

    with pytest.raises(EditMisfit, match="with other white space"):
        await applied(workspace, similar)
    await applied(workspace, similar, allow_fuzzy=True)

    assert (workspace.path / "main.txt").read_text() == TEXT.replace("two", "2")
