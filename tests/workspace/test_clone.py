"""A run's clone, tried with real git: what a builder may do in it, what reaches the person, and what never does."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest

from autopack_mcp.errors import UnusableReply, WorkspaceError
from autopack_mcp.plans.plan import PlanLimits
from autopack_mcp.replies.edits import DeleteFile, Edit, SearchReplace, WholeFile
from autopack_mcp.sandbox import plain_sandbox
from autopack_mcp.workspace.clone import Workspace, pin_base

pytestmark = pytest.mark.anyio

RUN = "r-1118-abc123"
AT = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)
TRAILERS = {"Autopack-Run": RUN, "Autopack-Phase": "p1", "Autopack-Attempt": "1"}
PLAIN = plain_sandbox("this is a test")
GIT_ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@localhost",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@localhost",
}


def git(folder: Path, *words: str, env: Mapping[str, str] = GIT_ENVIRONMENT) -> str:
    done = subprocess.run(["git", *words], cwd=folder, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


def trailers_in(message: str) -> list[str]:
    parse = ["git", "interpret-trailers", "--parse"]
    return subprocess.run(parse, input=message.encode(), capture_output=True, check=True).stdout.decode().splitlines()


def commit_all(repository: Path, message: str = "more") -> str:
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "--allow-empty", "-m", message)
    return git(repository, "rev-parse", "HEAD")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project with a file of every kind, copied for each test because that is cheaper than making it."""
    folder = tmp_path_factory.mktemp("template") / "project"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "main.py").write_text("import os\n\nprint('old')\n")
    (folder / "src" / "windows.py").write_bytes(b"a = 1\r\nb = 2\r\n")
    (folder / "src" / "no_newline.py").write_text("a = 1\nb = 2")
    (folder / "src" / "tool.sh").write_text("#!/bin/sh\necho old\n")
    (folder / "src" / "tool.sh").chmod(0o755)
    (folder / "docs").mkdir()
    (folder / "docs" / "guide.md").write_text("# Guide\n")
    (folder / "logo.bin").write_bytes(b"\x00\x01\x02")
    (folder / "latin.txt").write_bytes("für\n".encode("latin-1"))
    (folder / "link_out").symlink_to("/etc")
    (folder / "link_in").symlink_to("src")
    (folder / "link_file").symlink_to("src/main.py")
    (folder / "uv.lock").write_text("locked\n")
    (folder / ".gitignore").write_text("build/\n*.log\n")
    git(folder, "init", "-q", "-b", "main")
    commit_all(folder, "first")
    return folder


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "a project", symlinks=True)


async def make_workspace(repository: Path, home: Path, run_id: str = RUN, base: str = "HEAD") -> Workspace:
    commit = await pin_base(repository, run_id, base)
    workspace = Workspace(home / "workspaces" / run_id, repository, run_id)
    await workspace.create(commit)
    return workspace


@pytest.fixture
async def workspace(repository: Path, tmp_path: Path) -> Workspace:
    return await make_workspace(repository, tmp_path / "home")


@pytest.fixture(scope="module")
def shared(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One workspace for all tests in which nothing is ever written, because everything is refused."""
    folder = tmp_path_factory.mktemp("shared")
    repository = shutil.copytree(template, folder / "project", symlinks=True)
    return anyio.run(make_workspace, repository, folder / "home")


def head(workspace: Workspace) -> str:
    return git(workspace.path, "rev-parse", "HEAD")


def status(workspace: Workspace) -> str:
    return git(workspace.path, "status", "--porcelain", "--untracked-files=all")


async def committed(workspace: Workspace, *edits: Edit, trailers: Mapping[str, str] = TRAILERS) -> str:
    parent = head(workspace)
    change = await workspace.apply(edits, ())
    commit = await workspace.commit(change.tree, parent, "Change it", trailers, AT)
    await workspace.publish(commit)
    await workspace.reset(commit)
    return commit


def everything_of_the_person(repository: Path) -> dict[str, object]:
    """All that a run must leave alone: every file outside of git's objects, and every ref but ours."""
    git_dir = repository / ".git"
    files = {
        str(path.relative_to(repository)): path.read_bytes()
        for path in repository.rglob("*")
        if path.is_file() and not path.is_symlink() and "objects" not in path.parts and "autopack" not in path.parts
    }
    refs = [line for line in git(repository, "for-each-ref").splitlines() if "autopack" not in line]
    assert files.pop(".git/info/exclude", b"").replace(b".autopack/\n", b"") == b"# mine\n"
    return {"files": files, "refs": refs, "stash": git(repository, "stash", "list"), "status": git_dir.exists()}


# The base --------------------------------------------------------------------------------------------------------


async def test_the_base_is_pinned_once_and_stays_when_the_person_goes_on(repository: Path) -> None:
    first = await pin_base(repository, RUN, "main")
    commit_all(repository)

    assert await pin_base(repository, RUN, "main") == first
    assert git(repository, "rev-parse", f"refs/autopack/{RUN}/base") == first
    assert (repository / ".git/info/exclude").read_text().count(".autopack/\n") == 1


@pytest.mark.parametrize("base", ["HEAD", "main", "v1", "short"])
async def test_a_base_may_be_a_branch_a_tag_or_a_commit(repository: Path, base: str) -> None:
    git(repository, "tag", "-a", "v1", "-m", "one")
    commit = git(repository, "rev-parse", "HEAD")

    assert await pin_base(repository, RUN, commit[:10] if base == "short" else base) == commit


@pytest.mark.parametrize(
    ("base", "reason"),
    [("no-such", "has no commit 'no-such'"), ("--all", "has no commit '--all'"), ("a\nb", r"has no commit 'a\\nb'")],
    ids=["unknown", "like an option", "two lines"],
)
async def test_an_unknown_base_is_refused_and_the_branches_are_named(repository: Path, base: str, reason: str) -> None:
    with pytest.raises(WorkspaceError) as refused:
        await pin_base(repository, RUN, base)

    assert reason.replace("\\\\", "\\") in refused.value.message.replace("\\\\", "\\")
    assert "Newest branches: main" in refused.value.hint


async def test_a_folder_that_cannot_be_used_says_what_to_do(repository: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(WorkspaceError, match="is not there"):
        await pin_base(tmp_path / "gone", RUN, "HEAD")
    with pytest.raises(WorkspaceError, match=r"is not a git repository\. Run `git init`"):
        await pin_base(empty, RUN, "HEAD")
    with pytest.raises(WorkspaceError, match=r"It lies inside .*a project.*: name that folder"):
        await pin_base(repository / "src", RUN, "HEAD")
    git(empty, "init", "-q")
    with pytest.raises(WorkspaceError, match=r"has no commit yet\. Commit something first"):
        await pin_base(empty, RUN, "HEAD")


@pytest.mark.parametrize("branch", ["autopack", f"autopack/{RUN}", f"autopack/{RUN}/more"])
async def test_a_branch_in_the_way_of_ours_is_found_before_anything_is_spent(repository: Path, branch: str) -> None:
    git(repository, "branch", branch)

    with pytest.raises(WorkspaceError, match=f"git branch -m {branch} other-name"):
        await pin_base(repository, RUN, "HEAD")


@pytest.mark.parametrize("run_id", ["", "../up", "a b", "a..b", "x.lock", "-x", "ends.", "a/b", "ünï"])
async def test_a_run_id_that_cannot_be_part_of_a_branch_is_refused(repository: Path, run_id: str) -> None:
    with pytest.raises(WorkspaceError, match="cannot be part of a branch name"):
        await pin_base(repository, run_id, "HEAD")


# The clone -------------------------------------------------------------------------------------------------------


async def test_a_clone_holds_the_base_shares_objects_and_knows_no_remote(
    workspace: Workspace, repository: Path
) -> None:
    assert head(workspace) == git(repository, "rev-parse", "HEAD")
    assert status(workspace) == ""
    assert (workspace.path / "src/main.py").read_text() == "import os\n\nprint('old')\n"
    assert git(workspace.path, "remote") == ""
    assert (workspace.path / ".git/objects/info/alternates").is_file()
    assert workspace.exists()


async def test_a_sound_clone_is_kept_as_it_is(workspace: Workspace) -> None:
    (workspace.path / "build").mkdir()
    base = head(workspace)

    await workspace.create(base)

    assert (workspace.path / "build").is_dir()


def _half_a_clone(path: Path) -> None:
    shutil.rmtree(path / ".git" / "refs")


def _no_marker(path: Path) -> None:
    (path / ".git" / "autopack-workspace").unlink()


def _half_a_marker(path: Path) -> None:
    (path / ".git" / "autopack-workspace").write_text("")


def _no_git(path: Path) -> None:
    shutil.rmtree(path / ".git")


def _head_of_zeros(path: Path) -> None:
    (path / ".git" / "HEAD").write_bytes(b"\0" * 41)


@pytest.mark.parametrize("damage", [_half_a_clone, _no_marker, _half_a_marker, _no_git, _head_of_zeros])
async def test_a_clone_that_a_crash_left_half_made_is_made_again(workspace: Workspace, damage) -> None:
    base = head(workspace)
    remains = workspace.path.with_name(f".{RUN}.0123.part")
    shutil.copytree(workspace.path, remains, symlinks=True)
    damage(workspace.path)

    await workspace.create(base)

    assert head(workspace) == base
    assert status(workspace) == ""
    assert [path.name for path in workspace.path.parent.iterdir()] == [RUN]


async def test_another_base_makes_another_clone(workspace: Workspace, repository: Path) -> None:
    newer = commit_all(repository)

    await workspace.create(newer)

    assert head(workspace) == newer


def _bare(repository: Path, folder: Path) -> Path:
    git(folder, "clone", "-q", "--bare", str(repository), "bare.git")
    return folder / "bare.git"


def _worktree(repository: Path, folder: Path) -> Path:
    git(repository, "worktree", "add", "-q", "-b", "side", str(folder / "side"))
    (folder / "side" / "side.txt").write_text("side\n")
    commit_all(folder / "side")
    return folder / "side"


def _shallow(repository: Path, folder: Path) -> Path:
    commit_all(repository)
    git(folder, "clone", "-q", "--depth=1", f"file://{repository}", "shallow")
    return folder / "shallow"


def _detached(repository: Path, folder: Path) -> Path:
    commit_all(repository)
    git(repository, "checkout", "-q", "--detach", "HEAD~1")
    return repository


def _unborn_head(repository: Path, folder: Path) -> Path:
    git(repository, "checkout", "-q", "--orphan", "unborn")
    return repository


def _borrowing(repository: Path, folder: Path) -> Path:
    git(folder, "clone", "-q", "--shared", str(repository), "borrowing")
    return folder / "borrowing"


def _with_hooks(repository: Path, folder: Path) -> Path:
    """Hooks and filters that would leave a trace if one of them ever ran."""
    hooks = folder / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "reference-transaction", "post-commit", "pre-commit", "post-index-change", "update"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch '{folder}/a-hook-ran'\n")
        (hooks / name).chmod(0o755)
    git(repository, "config", "core.hooksPath", str(hooks))
    git(repository, "config", "core.fsmonitor", str(hooks / "update"))
    git(repository, "config", "uploadpack.packObjectsHook", str(hooks / "update"))
    return repository


@pytest.mark.parametrize("kind", [_bare, _worktree, _shallow, _detached, _unborn_head, _borrowing, _with_hooks])
async def test_a_phase_is_built_and_brought_back_in_every_kind_of_repository(
    repository: Path, tmp_path: Path, kind
) -> None:
    place = kind(repository, tmp_path)
    base = "main" if kind is _unborn_head else "HEAD"
    workspace = await make_workspace(place, tmp_path / "home", base=base)

    commit = await committed(workspace, WholeFile("new.py", "x = 1\n"))

    assert not (tmp_path / "a-hook-ran").exists()
    assert git(place, "rev-parse", f"autopack/{RUN}") == commit
    assert git(place, "show", f"autopack/{RUN}:new.py") == "x = 1"
    assert git(place, "rev-parse", f"autopack/{RUN}~1") == git(place, "rev-parse", base)
    git(place, "fsck", "--connectivity-only")


async def test_the_clone_outlives_a_prune_of_the_repository_after_the_base_was_force_pushed_away(
    workspace: Workspace, repository: Path
) -> None:
    git(repository, "checkout", "-q", "--orphan", "other")
    commit_all(repository, "another history")
    git(repository, "branch", "-D", "main")
    git(repository, "reflog", "expire", "--expire=now", "--all")
    git(repository, "gc", "-q", "--prune=now")

    commit = await committed(workspace, WholeFile("new.py", "x = 1\n"))

    assert git(repository, "rev-parse", f"autopack/{RUN}") == commit


# Set-up ----------------------------------------------------------------------------------------------------------

SETUP = """
echo run >> ../setups
mkdir -p venv/bin 'a [b]*'
touch venv/bin/python 'a [b]*/x' setup.log '#y'
echo changed >> uv.lock
"""


async def test_what_set_up_makes_stays_and_enters_no_commit(workspace: Workspace, tmp_path: Path) -> None:
    base = head(workspace)

    await workspace.run_setup(SETUP, PLAIN, os.environ)
    await workspace.run_setup(SETUP, PLAIN, os.environ)
    (workspace.path / "a bX").touch()
    await workspace.reset(base)

    assert (workspace.path.parent / "setups").read_text() == "run\n"
    assert all((workspace.path / name).exists() for name in ("venv/bin/python", "a [b]*/x", "setup.log", "#y"))
    assert not (workspace.path / "a bX").exists()
    assert (workspace.path / "uv.lock").read_text() == "locked\n"
    assert status(workspace) == ""


async def test_a_builder_does_not_write_into_what_set_up_made(workspace: Workspace) -> None:
    await workspace.run_setup(SETUP, PLAIN, os.environ)

    for path in ("venv/bin/python", "venv/new.py", "setup.log"):
        with pytest.raises(UnusableReply, match="made by the plan's set-up"):
            await workspace.apply([WholeFile(path, "x\n")], ())


async def test_a_failed_set_up_says_why_and_is_done_anew_from_a_clean_checkout(workspace: Workspace) -> None:
    with pytest.raises(WorkspaceError, match="failed with exit code 3: no network"):
        await workspace.run_setup("touch half; mkdir build; echo no network; exit 3", PLAIN, os.environ)

    await workspace.run_setup("test ! -e half && test ! -e build && touch whole", PLAIN, os.environ)

    assert (workspace.path / "whole").exists()


async def test_a_set_up_has_a_deadline(workspace: Workspace) -> None:
    with pytest.raises(WorkspaceError, match="ran into its deadline"):
        await workspace.run_setup("sleep 600", PLAIN, os.environ, timeout_s=0.05)


async def test_a_set_up_that_passes_a_limit_says_which(workspace: Workspace) -> None:
    limits = PlanLimits(output_mb=1)

    with pytest.raises(WorkspaceError, match=r"was ended .* limit of 1 \(`limits: output_mb` in the plan\)"):
        await workspace.run_setup("yes", PLAIN, os.environ, limits=limits)


async def test_a_set_up_gets_no_keys(workspace: Workspace) -> None:
    environ = {**os.environ, "OPENAI_API_KEY": "k1", "ZHIPU": "k2"}

    await workspace.run_setup("env > made", PLAIN, environ, secret_variables=["ZHIPU"])

    assert "k1" not in (workspace.path / "made").read_text()
    assert "k2" not in (workspace.path / "made").read_text()


# Reset -----------------------------------------------------------------------------------------------------------


async def test_a_reset_leaves_exactly_the_commit_whatever_a_command_did(workspace: Workspace) -> None:
    base = head(workspace)
    git(workspace.path, "checkout", "-q", "-b", "wandered")
    (workspace.path / "src/main.py").write_text("broken\n")
    (workspace.path / "docs/guide.md").unlink()
    (workspace.path / "left" / "deep").mkdir(parents=True)
    (workspace.path / "left" / "deep" / "over").touch()
    commit_all(workspace.path)
    git(workspace.path, "init", "-q", "nested")
    (workspace.path / "untracked").touch()

    await workspace.reset(base)
    await workspace.reset(base)

    assert head(workspace) == base
    assert git(workspace.path, "branch", "--show-current") == ""
    assert status(workspace) == ""
    assert sorted(path.name for path in workspace.path.iterdir()) == sorted(
        [".autopack", ".git", ".gitignore", "docs", "latin.txt", "link_file", "link_in", "link_out", "logo.bin", "src",
         "uv.lock"]
    )  # fmt: skip


@pytest.mark.parametrize("lock", ["index.lock", "HEAD.lock", "refs/heads/main.lock"])
async def test_a_lock_that_a_killed_git_left_is_removed(workspace: Workspace, lock: str) -> None:
    (workspace.path / ".git" / lock).touch()

    await workspace.reset(head(workspace))

    assert not (workspace.path / ".git" / lock).exists()


@pytest.mark.parametrize("content", [b"", b"DIRC" + b"\0" * 100], ids=["empty", "cut off"])
async def test_an_index_that_a_power_cut_broke_is_written_again(workspace: Workspace, content: bytes) -> None:
    (workspace.path / ".git" / "index").write_bytes(content)
    (workspace.path / "src/main.py").write_text("broken\n")

    await workspace.reset(head(workspace))

    assert status(workspace) == ""


async def test_a_reset_of_a_lost_workspace_says_so(workspace: Workspace) -> None:
    shutil.rmtree(workspace.path)

    with pytest.raises(WorkspaceError, match="is gone"):
        await workspace.reset("HEAD")


async def test_notes_beside_the_checkout_survive_a_reset_and_enter_no_commit(workspace: Workspace) -> None:
    notes = workspace.path / ".autopack" / "human_notes.md"
    notes.write_text("- be quick\n")

    change = await workspace.apply([WholeFile("new.py", "x\n")], ())

    assert notes.read_text() == "- be quick\n"
    assert change.files == ("new.py",)


# Edits -----------------------------------------------------------------------------------------------------------


async def test_a_change_is_what_git_says_it_is(workspace: Workspace) -> None:
    change = await workspace.apply(
        [
            WholeFile("src/new/hello.py", "x = 1\n"),
            SearchReplace("src/main.py", "print('old')\n", "print('new')\n"),
            DeleteFile("docs/guide.md"),
            DeleteFile("logo.bin"),
        ],
        (),
    )

    assert change.files == ("docs/guide.md", "logo.bin", "src/main.py", "src/new/hello.py")
    assert "-print('old')\n+print('new')\n" in change.diff
    assert "new file mode 100644" in change.diff
    assert "deleted file mode 100644" in change.diff
    assert change.tree == git(workspace.path, "write-tree")
    assert not (workspace.path / "docs/guide.md").exists()


async def test_modes_line_endings_and_a_missing_last_line_break_are_kept(workspace: Workspace) -> None:
    change = await workspace.apply(
        [
            WholeFile("src/tool.sh", "#!/bin/sh\necho new\n"),
            SearchReplace("src/windows.py", "b = 2\n", "b = 3\nc = 4\n"),
            SearchReplace("src/no_newline.py", "b = 2\n", "b = 3\n"),
        ],
        (),
    )

    assert stat.S_IMODE((workspace.path / "src/tool.sh").stat().st_mode) == 0o755
    assert (workspace.path / "src/windows.py").read_bytes() == b"a = 1\r\nb = 3\r\nc = 4\r\n"
    assert (workspace.path / "src/no_newline.py").read_bytes() == b"a = 1\nb = 3"
    assert "old mode" not in change.diff
    assert " 100755\n" in change.diff


HOSTILE_NAMES = [
    "-rf", "--help", "a b.py", "quote'\".py", ":(glob)x", ":!x", "*", "?", "[a]", "#x", "!x", " lead", "ümläut.py",
    "日本", "$(touch x)", "`id`", "a;b", "%s", "HEAD", "dir -x/--all", "x.lock", "@{0}", ".gitignore2", "git",
]  # fmt: skip


async def test_hostile_names_are_names_like_others(workspace: Workspace) -> None:
    edits = [WholeFile(name, f"{number}\n") for number, name in enumerate(HOSTILE_NAMES)]

    change = await workspace.apply(edits, ())
    commit = await workspace.commit(change.tree, head(workspace), "x", TRAILERS, AT)

    assert sorted(change.files) == sorted(HOSTILE_NAMES)
    for number, name in enumerate(HOSTILE_NAMES):
        assert git(workspace.path, "cat-file", "blob", f"{commit}:{name}") == str(number)


async def test_a_file_named_like_a_pathspec_stages_only_itself(workspace: Workspace) -> None:
    change = await workspace.apply([WholeFile(":(glob)**", "x\n"), WholeFile("*", "y\n")], ())

    assert change.files == ("*", ":(glob)**")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        pytest.param("/etc/passwd", "is not relative", id="absolute"),
        pytest.param("~/x", "is not relative", id="home"),
        pytest.param("C:/x", "is not relative", id="drive"),
        pytest.param("../x", "leaves the workspace", id="up"),
        pytest.param("src/../../x", "leaves the workspace", id="up from within"),
        pytest.param("src/../x", "leaves the workspace", id="up and down"),
        pytest.param("src\\..\\..\\x", "has a backslash", id="backslashes"),
        pytest.param("", "is empty", id="empty"),
        pytest.param("./x", "'.' part", id="dot"),
        pytest.param("src//x", "'.' part", id="double slash"),
        pytest.param("src/", "'.' part", id="slash at the end"),
        pytest.param(".git/config", "not the builder's", id="git folder"),
        pytest.param(".git", "not the builder's", id="git itself"),
        pytest.param(".GIT/hooks/pre-commit", "not the builder's", id="git in capitals"),
        pytest.param("src/.Git/config", "not the builder's", id="a nested git folder"),
        pytest.param(".git./config", "not the builder's", id="git with a dot"),
        pytest.param(".git /config", "not the builder's", id="git with a blank"),
        pytest.param(".git::$INDEX_ALLOCATION/config", "not the builder's", id="git as a stream"),
        pytest.param("GIT~1/config", "not the builder's", id="git's short name"),
        pytest.param(".g\u200cit/config", "control or hidden", id="git with a character that HFS ignores"),
        pytest.param(".autopack/human_notes.md", "not the builder's", id="notes"),
        pytest.param(".AutoPack/rules.md", "not the builder's", id="rules"),
        pytest.param("a\nb", "control or hidden", id="newline"),
        pytest.param("a\0b", "control or hidden", id="null"),
        pytest.param("a\x1b[2Jb", "control or hidden", id="terminal escape"),
        pytest.param("a\u202eb", "control or hidden", id="right to left"),
        pytest.param("a\ud800", "control or hidden", id="lone surrogate"),
        pytest.param("x" * 256, "is too long", id="long name"),
        pytest.param("/".join(["x" * 100] * 11), "is too long", id="long path"),
        pytest.param("link_out/passwd", "'link_out' is a symbolic link", id="through a link that leaves"),
        pytest.param("link_in/main.py", "'link_in' is a symbolic link", id="through a link that stays"),
        pytest.param("link_file", "'link_file' is a symbolic link", id="onto a link"),
        pytest.param("src", "'src' is a folder", id="onto a folder"),
        pytest.param("src/main.py/x", "'src/main.py' is a file", id="below a file"),
    ],
)
async def test_a_path_that_is_not_the_builders_is_refused_and_nothing_is_written(
    shared: Workspace, path: str, reason: str
) -> None:
    edits: list[Edit] = [WholeFile(path, "x\n"), SearchReplace(path, "a\n", "b\n"), DeleteFile(path)]

    for edit in edits:
        with pytest.raises(UnusableReply) as refused:
            await shared.apply([WholeFile("fine.py", "x\n"), edit], ())
        assert reason in refused.value.reason

    assert status(shared) == ""
    assert not (shared.path / "fine.py").exists()


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        pytest.param([SearchReplace("src/main.py", "gone\n", "x\n")], "do not occur", id="search text is absent"),
        pytest.param([SearchReplace("none.py", "a\n", "b\n")], "does not exist", id="no file to change"),
        pytest.param([DeleteFile("none.py")], "does not exist", id="no file to delete"),
        pytest.param([DeleteFile("run.log")], "does not exist", id="only a left-over to delete"),
        pytest.param([SearchReplace("run.log", "x\n", "y\n")], "does not exist", id="only a left-over to change"),
        pytest.param([SearchReplace("logo.bin", "a\n", "b\n")], "is a binary file", id="binary"),
        pytest.param([WholeFile("logo.bin", "text\n")], "is a binary file", id="text over binary"),
        pytest.param([SearchReplace("latin.txt", "für\n", "x\n")], "not UTF-8", id="other encoding"),
        pytest.param([WholeFile("a", "x\n"), WholeFile("a", "y\n")], "named twice", id="twice"),
        pytest.param(
            [WholeFile("a", "x\n"), WholeFile("a/b", "y\n")], "both a file and a folder", id="file and folder"
        ),
        pytest.param([WholeFile("a", "x\0y")], "NUL", id="not text"),
        pytest.param([WholeFile("a", "x" * 1_000_001)], "Split the file", id="too large"),
        pytest.param([WholeFile("src/main.py", "import os\n\nprint('old')\n")], "change nothing", id="nothing"),
        pytest.param([], "change nothing", id="no edits"),
    ],
)
async def test_edits_that_cannot_be_done_are_refused_and_nothing_is_written(
    shared: Workspace, edits: Sequence[Edit], reason: str
) -> None:
    (shared.path / "run.log").write_text("x\n")
    before = sorted(shared.path.rglob("*"))

    with pytest.raises(UnusableReply) as refused:
        await shared.apply([*edits], ())

    assert reason in refused.value.reason
    assert status(shared) == ""
    assert [path for path in sorted(shared.path.rglob("*")) if ".git" not in path.parts] == [
        path for path in before if ".git" not in path.parts
    ]


async def test_a_link_that_appears_after_the_check_is_not_followed(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("untouched\n")
    await workspace.reset(head(workspace))
    shutil.rmtree(workspace.path / "docs")
    (workspace.path / "docs").symlink_to(tmp_path / "outside")

    with pytest.raises(UnusableReply, match="'docs' is a symbolic link"):
        await workspace._staged({"docs/file": b"gotcha"})

    assert (tmp_path / "outside" / "file").read_text() == "untouched\n"
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["file"]


async def test_a_hard_link_to_a_shared_cache_keeps_the_caches_content(workspace: Workspace, tmp_path: Path) -> None:
    cache = tmp_path / "cached"
    cache.write_text("shared\n")
    (workspace.path / "build").mkdir()
    os.link(cache, workspace.path / "build" / "module.js")

    await workspace.apply([WholeFile("build/module.js", "mine\n")], ())

    assert cache.read_text() == "shared\n"
    assert (workspace.path / "build" / "module.js").read_text() == "mine\n"


async def test_an_ignored_file_that_is_asked_for_is_part_of_the_change(workspace: Workspace) -> None:
    change = await workspace.apply([WholeFile("build/made.py", "x\n"), WholeFile("notes.log", "y\n")], ())

    assert change.files == ("build/made.py", "notes.log")


async def test_a_submodule_is_another_repository(repository: Path, tmp_path: Path) -> None:
    git(repository, "init", "-q", "sub")
    commit_all(repository / "sub")
    commit_all(repository)
    workspace = await make_workspace(repository, tmp_path / "home")

    with pytest.raises(UnusableReply, match="belongs to a submodule"):
        await workspace.apply([WholeFile("sub/x.py", "x\n")], ())


async def test_an_attribute_cannot_hide_a_change_from_the_auditor(workspace: Workspace) -> None:
    edits = [WholeFile(".gitattributes", "* -diff\n*.py binary\n"), WholeFile("src/evil.py", "do_evil()\n")]

    change = await workspace.apply(edits, ())

    assert "+do_evil()\n" in change.diff


async def test_a_filter_that_a_command_left_in_the_clone_hides_nothing_from_the_diff(workspace: Workspace) -> None:
    git(workspace.path, "config", "diff.external", "true")
    git(workspace.path, "config", "diff.noprefix", "true")
    git(workspace.path, "config", "color.ui", "always")

    change = await workspace.apply([WholeFile("src/new.py", "x\n")], ())

    assert change.diff.startswith("diff --git a/src/new.py b/src/new.py\nnew file mode 100644\n")


async def test_an_edit_outside_of_the_allowed_paths_is_refused_and_they_are_named(workspace: Workspace) -> None:
    with pytest.raises(UnusableReply, match=r"'docs/guide.md' is not allowed in this phase. Allowed: src/\*\*, tests."):
        await workspace.apply([WholeFile("src/a.py", "x\n"), DeleteFile("docs/guide.md")], ("src/**", "tests"))

    assert status(workspace) == ""


# Commits ---------------------------------------------------------------------------------------------------------


async def test_committing_twice_makes_the_same_commit(workspace: Workspace) -> None:
    change = await workspace.apply([WholeFile("new.py", "x\n")], ())
    parent = head(workspace)

    first = await workspace.commit(change.tree, parent, "Add it", TRAILERS, AT)
    second = await workspace.commit(change.tree, parent, "Add it", TRAILERS, AT)

    assert first == second
    assert git(workspace.path, "show", "-s", "--format=%an %ae %at %ct %P", first) == (
        f"autopack-mcp autopack-mcp@localhost {int(AT.timestamp())} {int(AT.timestamp())} {parent}"
    )
    assert head(workspace) == parent


@pytest.mark.parametrize(
    "message",
    [
        "Add it",
        "Add it\n\nBecause.",
        "",
        "Autopack-Phase: other",
        "Add it\n\nAutopack-Phase: other\nautopack-run : x",
        "Add it\n\nSigned-off-by: Ada\n",
        "Add it\n---\nnot a mail",
        "# not a comment\n\ndiff --git a/x b/x",
        "nul \0 escape \x1b[2J bidi \u202e surrogate \ud800",
        "x" * 500 + "\n\n" + "y" * 9000,
    ],
    ids=["subject", "body", "empty", "our trailer first", "our trailers", "trailer", "divider", "odd", "bad", "long"],
)
async def test_a_message_however_hostile_carries_exactly_our_trailers(workspace: Workspace, message: str) -> None:
    change = await workspace.apply([WholeFile("new.py", "x\n")], ())

    commit = await workspace.commit(change.tree, head(workspace), message, TRAILERS, AT)

    written = git(workspace.path, "cat-file", "commit", commit).partition("\n\n")[2]
    assert trailers_in(written) == [f"{key}: {value}" for key, value in TRAILERS.items()]
    assert len(written.splitlines()[0]) <= 101
    assert "\x1b" not in written


async def test_a_published_commit_is_found_by_its_phase(workspace: Workspace) -> None:
    assert await workspace.find_phase_commit("p1") is None

    first = await committed(workspace, WholeFile("a", "1\n"))
    second = await committed(workspace, WholeFile("b", "1\n"), trailers={**TRAILERS, "Autopack-Phase": "p 2\n"})
    again = await committed(workspace, WholeFile("a", "2\n"), trailers={**TRAILERS, "Autopack-Attempt": "4"})

    assert await workspace.find_phase_commit("p 2") == second
    assert await workspace.find_phase_commit("p1") == again
    assert await workspace.find_phase_commit("p1", 1) == first
    assert await workspace.find_phase_commit("p1", 2) is None
    assert await workspace.find_phase_commit("p") is None


async def test_a_commit_of_another_run_or_of_the_person_is_no_phase_of_ours(workspace: Workspace) -> None:
    other = await committed(workspace, WholeFile("a", "1\n"), trailers={**TRAILERS, "Autopack-Run": "other"})

    assert await workspace.find_phase_commit("p1") is None
    assert other


async def test_publishing_twice_changes_nothing_and_moves_only_forward(workspace: Workspace, repository: Path) -> None:
    base = head(workspace)
    first = await committed(workspace, WholeFile("a", "1\n"))
    second = await committed(workspace, WholeFile("a", "2\n"))

    await workspace.publish(second)
    assert git(repository, "rev-parse", f"autopack/{RUN}") == second
    for older in (first, base):
        with pytest.raises(WorkspaceError, match="has commits that are not this run's"):
            await workspace.publish(older)
    assert git(repository, "rev-parse", f"autopack/{RUN}") == second


async def test_a_commit_of_the_person_on_our_branch_is_not_overwritten(workspace: Workspace, repository: Path) -> None:
    await committed(workspace, WholeFile("a", "1\n"))
    git(repository, "checkout", "-q", f"autopack/{RUN}")
    theirs = commit_all(repository, "theirs")

    with pytest.raises(WorkspaceError, match="git branch -m"):
        await committed(workspace, WholeFile("a", "2\n"))

    assert git(repository, "rev-parse", f"autopack/{RUN}") == theirs


async def test_publishing_works_while_the_person_has_the_branch_checked_out(
    workspace: Workspace, repository: Path
) -> None:
    await committed(workspace, WholeFile("a", "1\n"))
    git(repository, "checkout", "-q", f"autopack/{RUN}")

    commit = await committed(workspace, WholeFile("a", "2\n"))

    assert git(repository, "rev-parse", f"autopack/{RUN}") == commit
    assert (repository / "a").read_text() == "1\n"


@pytest.mark.parametrize("ref", [f"refs/heads/autopack/{RUN}", f"refs/autopack/{RUN}/base"])
async def test_a_lock_that_a_power_cut_left_on_our_ref_is_removed(repository: Path, tmp_path: Path, ref: str) -> None:
    lock = repository / ".git" / f"{ref}.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()

    workspace = await make_workspace(repository, tmp_path / "home")
    commit = await committed(workspace, WholeFile("a", "1\n"))

    assert git(repository, "rev-parse", f"autopack/{RUN}") == commit


async def test_a_repository_that_has_moved_away_is_named(workspace: Workspace, repository: Path) -> None:
    commit = head(workspace)
    repository.rename(repository.with_name("moved"))

    for doing in (workspace.publish(commit), workspace.create(commit), workspace.find_phase_commit("p1")):
        with pytest.raises(WorkspaceError, match=r"is not there\. Put it back in its place"):
            await doing


async def test_another_repository_in_the_old_place_is_not_written_to(
    workspace: Workspace, repository: Path, template: Path
) -> None:
    commit = head(workspace)
    repository.rename(repository.with_name("moved"))
    shutil.copytree(template, repository, symlinks=True)

    with pytest.raises(WorkspaceError, match="is not the repository that this run started from"):
        await workspace.publish(commit)

    assert "autopack" not in git(repository, "for-each-ref")


async def test_nothing_of_the_persons_is_touched_by_a_whole_run(repository: Path, tmp_path: Path) -> None:
    (repository / ".git/info/exclude").write_text("# mine\n")
    (repository / "src/main.py").write_text("stashed\n")
    git(repository, "stash")
    (repository / "src/main.py").write_text("not staged\n")
    (repository / "docs/guide.md").write_text("staged\n")
    git(repository, "add", "docs/guide.md")
    (repository / "untracked.txt").write_text("untracked\n")
    git(repository, "branch", "other")
    before = everything_of_the_person(repository)

    workspace = await make_workspace(repository, tmp_path / "home")
    await workspace.run_setup("mkdir venv && touch venv/x", PLAIN, os.environ)
    await committed(workspace, WholeFile("src/main.py", "built\n"), DeleteFile("docs/guide.md"))
    await committed(workspace, WholeFile("more.py", "x\n"))

    assert everything_of_the_person(repository) == before


async def test_the_machines_and_the_persons_own_git_settings_have_no_say(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / ".gitconfig"
    trace = tmp_path / "ran"
    settings.write_text(
        f"""
        [core]
            hooksPath = {tmp_path}
            fsmonitor = touch {trace}
            autocrlf = true
        [init]
            templateDir = {tmp_path}
        [user]
            name = Somebody
        [diff]
            external = touch {trace}
        """
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody")

    workspace = await make_workspace(repository, tmp_path / "home")
    commit = await committed(workspace, SearchReplace("src/windows.py", "b = 2\n", "b = 3\n"))

    assert git(repository, "show", "-s", "--format=%an %cn", commit) == "autopack-mcp autopack-mcp"
    assert git(repository, "show", f"{commit}:src/windows.py") == "a = 1\r\nb = 3"
    assert not trace.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a repository to another account")
async def test_a_repository_of_another_account_works_like_our_own(repository: Path, tmp_path: Path) -> None:
    for path in (repository, *repository.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)

    workspace = await make_workspace(repository, tmp_path / "home")
    commit = await committed(workspace, WholeFile("a.py", "x\n"))

    assert (repository / ".git/refs/heads/autopack" / RUN).read_text().strip() == commit


# What a builder is shown -----------------------------------------------------------------------------------------


async def test_a_builder_sees_first_what_it_may_write_then_its_context(workspace: Workspace) -> None:
    shown = await workspace.read_context(("src/*.py",), ("docs", "uv.lock"), 10_000)

    assert list(shown) == ["src/main.py", "src/no_newline.py", "src/windows.py", "docs/guide.md", "uv.lock"]
    assert shown["src/windows.py"] == "a = 1\r\nb = 2\r\n"


async def test_without_allowed_paths_everything_that_is_text_and_written_by_hand_is_shown(workspace: Workspace) -> None:
    shown = await workspace.read_context((), ("docs",), 10_000)

    assert list(shown) == [
        "docs/guide.md", ".gitignore", "src/main.py", "src/no_newline.py", "src/tool.sh", "src/windows.py",
    ]  # fmt: skip


async def test_context_stays_within_its_bounds_and_fits_in_what_it_can(workspace: Workspace) -> None:
    sizes = {"a.txt": 50, "b.txt": 60, "c.txt": 40, "d.txt": 10}
    await committed(workspace, *(WholeFile(f"big/{name}", "x" * size) for name, size in sizes.items()))

    assert list(await workspace.read_context(("big",), (), 100)) == ["big/a.txt", "big/c.txt", "big/d.txt"]
    assert list(await workspace.read_context(("big",), (), 110)) == ["big/a.txt", "big/b.txt"]
    assert await workspace.read_context(("big",), (), 0) == {}


async def test_what_lies_beside_the_commit_is_not_shown(workspace: Workspace) -> None:
    (workspace.path / "src" / "left.py").write_text("x\n")

    assert "src/left.py" not in await workspace.read_context(("src",), (), 10_000)


async def test_files_are_listed_by_name(workspace: Workspace) -> None:
    assert await workspace.list_files(3) == (".gitignore", "docs/guide.md", "latin.txt")
    assert "link_out" not in await workspace.list_files(100)
