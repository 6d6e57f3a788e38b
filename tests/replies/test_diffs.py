"""A foreign diff is read as what it says or refused by name; what could be a part of a larger one is never used."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.errors import UnusableReply
from autopack_mcp.replies.diffs import HUNKS_LIMIT, FileDiff, Hunk, HunkLine, parse_diff
from autopack_mcp.replies.edits import DeleteFile, by_path, parse_edits

HUNK = "@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"
CHANGE = f"--- a/x.py\n+++ b/x.py\n{HUNK}"
LINES = (HunkLine(" ", "a\n"), HunkLine("-", "b\n"), HunkLine("+", "B\n"), HunkLine(" ", "c\n"))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(CHANGE, id="plain"),
        pytest.param(f"diff --git a/x.py b/x.py\nindex 1..2 100644\n{CHANGE}", id="git's"),
        pytest.param(f"--- x.py\t2026-11-22\n+++ x.py\t2026-11-22\n{HUNK}", id="no prefixes, with times"),
        pytest.param(f"diff --git x.py x.py\n--- x.py\n+++ x.py\n{HUNK}", id="git's without prefixes"),
        pytest.param(f"Index: x.py\n======\n{CHANGE}", id="subversion's"),
        pytest.param(f"I did it:\n\n{CHANGE}\nThat is all.\n", id="with prose"),
        pytest.param(f"I did it:\n```diff\n{CHANGE}```\n- a bullet\n+ another\n", id="in a fence"),
        pytest.param(CHANGE.replace("\n", "\r\n"), id="carriage returns by the carrier"),
        pytest.param(f"Here:\n```\n{CHANGE.replace(chr(10), chr(13) + chr(10))}```\n", id="and only in the fence"),
        pytest.param(CHANGE.replace(" @@", " @@ def f():"), id="with a heading"),
        pytest.param(CHANGE.replace("-1,3 +1,3", "-1,9 +1,2") + CHANGE.replace("x.py", "y.py"), id="wrong counts"),
        pytest.param(f"```\n{CHANGE.replace('-1,3 +1,3', '-1,9 +1,2')}```", id="wrong counts at the end of a fence"),
    ],
)
def test_a_diff_is_read(text: str) -> None:
    first = parse_diff(text.replace("\r\n", "\n") if text.startswith("---") else text)[0]

    assert first == FileDiff("x.py", (Hunk(LINES, 1),))


@pytest.mark.parametrize("heading", ["@@", "@@ @@", "@@ ... @@", "@@ … @@ def f():"])
def test_line_numbers_may_be_missing_where_the_end_is_plain(heading: str) -> None:
    text = CHANGE.replace("@@ -1,3 +1,3 @@", heading)

    assert parse_diff(f"```diff\n{text}```\n") == (FileDiff("x.py", (Hunk(LINES, None),)),)
    with pytest.raises(UnusableReply, match="no fence shows its end"):
        parse_diff(text)


def test_files_come_go_and_move() -> None:
    text = (
        "diff --git a/new.py b/new.py\nnew file mode 100644\n--- /dev/null\n+++ b/new.py\n@@ -0,0 +1 @@\n+x\n"
        "diff --git a/old.py b/old.py\ndeleted file mode 100644\n--- a/old.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
        "diff --git a/a b.py b/c.py\nsimilarity index 100%\nrename from a b.py\nrename to c.py\n"
        "diff --git a/empty.py b/empty.py\nnew file mode 100644\nindex 0000000..e69de29\n"
    )

    edits = parse_edits(text).edits

    assert edits == (
        FileDiff("new.py", (Hunk((HunkLine("+", "x\n"),), 0),), "new"),
        FileDiff("old.py", (Hunk((HunkLine("-", "x\n"),), 1),), "deletion"),
        FileDiff("c.py", (), renamed_from="a b.py"),
        FileDiff("empty.py", (), "new"),
    )
    assert by_path(edits)["a b.py"] == [DeleteFile("a b.py")]


def test_a_missing_line_break_is_read_and_what_looks_like_a_header_inside_a_hunk_is_no_header() -> None:
    text = "--- a/q.sql\n+++ b/q.sql\n@@ -1,3 +1,3 @@\n--- old\n+++ new\n a\n b\n\\ No newline at end of file\n"

    (diff,) = parse_diff(text)

    assert [line.text for line in diff.hunks[0].lines] == ["-- old\n", "++ new\n", "a\n", "b"]


def test_a_reply_with_blocks_is_no_diff_whatever_its_prose_shows() -> None:
    (edit,) = parse_edits(f"As a diff:\n\n{CHANGE}\n*** DELETE old.py\n").edits

    assert edit == DeleteFile("old.py")


MODES = "diff --git a/x b/x\n{}\n--- a/x\n+++ b/x\n" + HUNK


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(MODES.format("old mode 100644\nnew mode 100755"), "changes the mode", id="a mode"),
        pytest.param(MODES.format("new file mode 120000"), "a symbolic link (mode 120000)", id="a link"),
        pytest.param(MODES.format("index 1..2 120000"), "a symbolic link (mode 120000)", id="a link's target"),
        pytest.param(MODES.format("deleted file mode 120000"), "a symbolic link", id="a link that goes"),
        pytest.param(MODES.format("new file mode 160000"), "a submodule (mode 160000)", id="a submodule"),
        pytest.param(
            MODES.format("index 1..2 160000"), "a submodule (mode 160000)", id="another commit of a submodule"
        ),
        pytest.param(MODES.format("new file mode 100755"), "makes an executable file", id="a new program"),
        pytest.param(MODES.format("new file mode 104755"), "the mode '104755'", id="no mode of git's"),
        pytest.param(MODES.format("copy from y\ncopy to x"), "copies a file", id="a copy"),
        pytest.param(MODES.format("index 1\nindex 2"), "'index' twice", id="a header twice"),
        pytest.param(
            "diff --git a/x b/x\nindex 1..2\nGIT binary patch\nliteral 3\nKcmZQzU|?i`\n\n--- a/y\n+++ b/y\n",
            "binary content",
            id="binary",
        ),
        pytest.param("diff --git a/x b/x\nBinary files a/x and b/x differ\n", "binary content", id="binary, as words"),
        pytest.param(f'--- "a/x\\n.py"\n+++ "b/x\\n.py"\n{HUNK}', "a name in quotes", id="a quoted path"),
        pytest.param(f'diff --git "a/\\303\\244" b/x\n{CHANGE}', "a name in quotes", id="a quoted path in git's line"),
        pytest.param(f"--- a/x.py\n+++ b/y.py\n{HUNK}", "for one file, and no rename", id="two names"),
        pytest.param(f"diff --git a/q.py b/q.py\n{CHANGE}", "name different files", id="three names"),
        pytest.param(
            f"diff --git a/x.py b/y.py\nrename from ../z.py\nrename to y.py\n--- a/x.py\n+++ b/y.py\n{HUNK}",
            "contradict each other",
            id="a rename of another file",
        ),
        pytest.param("diff --git a/x b/x\nrename to x\n", "contradict each other", id="half a rename"),
        pytest.param(f"--- /dev/null\n+++ /dev/null\n{HUNK}", "/dev/null before and after", id="nothing at all"),
        pytest.param("diff --git a/x b/yy\n", "does not say which file", id="no names"),
        pytest.param(
            "--- /dev/null\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n", "has old lines of it", id="a new file with old lines"
        ),
        pytest.param("--- a/x\n+++ /dev/null\n@@ -1 +1 @@\n-a\n+b\n", "leaves lines in it", id="half a deletion"),
        pytest.param(HUNK, "belongs to no hunk of any file", id="a hunk without a file"),
        pytest.param(f"--- a/x\n+++ b/x\n@@ one @@\n{HUNK}", "is no heading of a hunk", id="no numbers"),
        pytest.param("--- a/x\n+++ b/x\n@@ -1 +1 @@\n a\n", "changes nothing", id="no change"),
        pytest.param(
            "--- a/x\n+++ b/x\n@@ -0,0 +0,0 @@\n\\ No newline\n", "line break is missing", id="a remark alone"
        ),
        pytest.param(f"--- a/x\n+++ b/x\n{HUNK * (HUNKS_LIMIT + 1)}", "more than 500 hunks", id="too much"),
        pytest.param(f"```diff\n{CHANGE}```\n\n{CHANGE}", "a part outside", id="inside and outside of a fence"),
        pytest.param(CHANGE + CHANGE, "'x.py' is named twice", id="a file twice"),
    ],
)
def test_what_is_no_plain_change_of_text_files_is_refused_by_name(text: str, reason: str) -> None:
    with pytest.raises(UnusableReply) as refused:
        parse_edits(text)

    assert reason in refused.value.reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(f"```diff\n{CHANGE}", "the fence around it is never closed", id="in a fence"),
        pytest.param(CHANGE.removesuffix(" c\n"), "fewer lines than its heading says", id="before a kept line"),
        pytest.param(CHANGE.removesuffix("+B\n c\n"), "fewer lines", id="before an added line"),
        pytest.param("--- /dev/null\n+++ b/x\n@@ -0,0 +1,2 @@\n+one\n+tw", "without a line break", id="within a line"),
        pytest.param(f"{CHANGE}diff --gi", "do not say where it ends", id="within a word"),
        pytest.param(f"{CHANGE}diff --git a/y b/y\nnew file mode 100644\n", "has no hunk", id="before the names"),
        pytest.param(f"{CHANGE}diff --git a/y b/y\n--- a/y\n", "without its other half", id="between the names"),
        pytest.param(f"{CHANGE}--- a/y\n+++ b/y\n", "has no hunk", id="before a hunk"),
        pytest.param(f"{CHANGE}@@ -9 +9", "is no heading of a hunk", id="within a heading"),
        pytest.param(
            "diff --git a/x b/y\nsimilarity index 90%\nrename from x\nrename to y\n", "has no hunk", id="after a rename"
        ),
        pytest.param(CHANGE.replace("\n a", "\na"), "where it ends", id="a kept line that lost its blank"),
        pytest.param(CHANGE.replace("+B", "B"), "where it ends", id="an added line that lost its sign"),
        pytest.param(f"{CHANGE}\n+ and a bullet\n", "where it ends. Put it in a fence", id="or is it a bullet"),
        pytest.param(f"{CHANGE}\nSo:\n+ and a bullet\n", "belongs to no hunk", id="or one further below"),
        pytest.param(f"```\n{CHANGE}\nand then\n```", "is no line of a diff", id="prose within a fence"),
    ],
)
def test_a_diff_that_may_be_a_part_of_a_larger_one_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UnusableReply) as refused:
        parse_diff(text)

    assert reason in refused.value.reason


PIECES = st.sampled_from(
    ["diff --git a/x b/x", "--- a/x", "+++ b/x", "@@ -1,2 +1,2 @@", "@@", " a", "-b", "+c", "", "```", "prose", "\\ No",
     "rename from x", "rename to y", "new file mode 100644", "index 1..2 100644", "\r", "--- /dev/null"]
)  # fmt: skip


@given(st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=30))
def test_any_text_is_read_as_a_diff_or_refused(lines: list[str]) -> None:
    with contextlib.suppress(UnusableReply):
        for diff in parse_diff("\n".join(lines)):
            assert diff.path
