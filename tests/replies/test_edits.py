"""A builder's reply is read exactly or refused with a reason a model can act on; nothing in between."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autopack_mcp.errors import UnusableReply
from autopack_mcp.replies.edited import FILE_LIMIT_BYTES, edited_text, unified_diff
from autopack_mcp.replies.edits import (
    EDIT_FORMAT,
    FILES_LIMIT,
    SUMMARY_LIMIT,
    BlockEdit,
    DeleteFile,
    SearchReplace,
    WholeFile,
    parse_edits,
    render_edits,
)

REPLY = """Sure, here is the change.

*** SUMMARY Adds a greeting.

*** WRITE src/hello.py
def hello():
    return "hi"
*** END

*** EDIT src/main.py
<<<<<<< SEARCH
import os
=======
import os
import hello
>>>>>>> REPLACE

<<<<<<< SEARCH
print("old")
=======
>>>>>>> REPLACE
*** END

*** DELETE old.py

Anything else?
"""
EDITS = (
    WholeFile("src/hello.py", 'def hello():\n    return "hi"\n'),
    SearchReplace("src/main.py", "import os\n", "import os\nimport hello\n"),
    SearchReplace("src/main.py", 'print("old")\n', ""),
    DeleteFile("old.py"),
)


# Reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(REPLY, id="as asked for, with prose around"),
        pytest.param(f"```\n{REPLY}\n```", id="all of it in a fence"),
        pytest.param(REPLY.replace("\n", "\r\n"), id="with carriage returns"),
        pytest.param(REPLY.replace("*** END\n", "*** END  \n"), id="with blanks behind the markers"),
        pytest.param(
            REPLY.replace("DELETE old.py", "DELETE `./old.py`\n*** END"), id="with an END that none asked for"
        ),
        pytest.param(
            REPLY.replace("<<<<<<< SEARCH\nimport", "```python\n<<<<<<< SEARCH\nimport"), id="with a fence in an EDIT"
        ),
        pytest.param(
            REPLY.replace("hello.py\n", "hello.py\n```python\n", 1).replace('"hi"\n', '"hi"\n```\n'),
            id="with a fence in a WRITE",
        ),
    ],
)
def test_a_reply_is_read_however_it_is_dressed(reply: str) -> None:
    read = parse_edits(reply)

    assert read.summary == "Adds a greeting."
    assert read.edits == EDITS


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        pytest.param("", "The reply is empty.", id="nothing"),
        pytest.param("I would change the parser.", "contains no edits", id="prose"),
        pytest.param("*** SUMMARY Nothing to do.", "contains no edits", id="only a summary"),
        pytest.param("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b", "cut off", id="half a diff"),
        pytest.param("*** WRITE a.py\nx = 1\n", "ends inside the WRITE of 'a.py'", id="cut off in a WRITE"),
        pytest.param("*** EDIT a.py\n<<<<<<< SEARCH\nx\n", "ends inside the EDIT of 'a.py'", id="cut off in a SEARCH"),
        pytest.param(
            "*** EDIT a.py\n<<<<<<< SEARCH\nx\n=======\ny\n>>>>>>> REPLACE\n",
            "ends inside the EDIT of 'a.py'",
            id="cut off before the END of an EDIT",
        ),
        pytest.param(
            "*** WRITE a\nx\n*** WRITE b\ny\n*** END\n", "Line 3: '*** WRITE b' before", id="one END is missing"
        ),
        pytest.param("*** WRITE a\nx\n*** END\ny\n*** END\n", "Line 5: *** END without a block", id="one END too many"),
        pytest.param("*** EDIT a\n*** END\n", "has no <<<<<<< SEARCH block", id="an EDIT without blocks"),
        pytest.param("*** EDIT a\nx = 1\n*** END\n", "Line 2: between the blocks", id="an EDIT with bare content"),
        pytest.param(
            "*** EDIT a\n<<<<<<< SEARCH\nx\n=======\ny\n=======\nz\n>>>>>>> REPLACE\n*** END\n",
            "Line 6: '=======' where >>>>>>> REPLACE was expected",
            id="two dividers",
        ),
        pytest.param(
            "*** EDIT a\n<<<<<<< SEARCH\nx\n>>>>>>> REPLACE\n*** END\n",
            "Line 4: '>>>>>>> REPLACE' where ======= was expected",
            id="no divider",
        ),
        pytest.param("*** WRITE\nx\n*** END\n", "names no path", id="no path"),
        pytest.param('*** WRITE "a\nx\n*** END\n', "is not a JSON string", id="half a quoted path"),
        pytest.param("*** WRITE a\n*** END\n*** DELETE a\n", "'a' is named twice", id="written and deleted"),
        pytest.param("*** WRITE a\n*** END\n*** WRITE ./a\n*** END\n", "'a' is named twice", id="written twice"),
        pytest.param(
            "*** EDIT a\n<<<<<<< SEARCH\nx\n=======\n>>>>>>> REPLACE\n*** END\n*** WRITE a\n*** END\n",
            "'a' is named twice",
            id="changed and written",
        ),
        pytest.param(
            "".join(f"*** DELETE f{i}\n" for i in range(FILES_LIMIT + 1)),
            f"changes {FILES_LIMIT + 1} files; at most {FILES_LIMIT}",
            id="too many files",
        ),
    ],
)
def test_a_reply_that_cannot_be_used_says_why(reply: str, reason: str) -> None:
    with pytest.raises(UnusableReply) as refused:
        parse_edits(reply)

    assert reason in refused.value.reason


def test_a_reason_shows_hidden_characters_instead_of_repeating_them() -> None:
    with pytest.raises(UnusableReply) as refused:
        parse_edits("Done.\x1b[2J\u202e")

    assert "\x1b" not in refused.value.reason
    assert "\u202e" not in refused.value.reason


@pytest.mark.parametrize(
    ("reply", "summary"),
    [
        ("*** SUMMARY\nFirst line.\nSecond line.\n*** DELETE a\n", "First line.\nSecond line."),
        ("*** DELETE a\n*** DELETE b\n", "Changes a, b."),
        (f"*** SUMMARY {'x' * 5000}\n*** DELETE a\n", "x" * (SUMMARY_LIMIT - 1) + "…"),
        ("*** SUMMARY \x1b[31mred\n*** DELETE a\n", "\\x1b[31mred"),
    ],
    ids=["on the lines below", "none", "too long", "hostile"],
)
def test_a_summary_is_always_there_and_fit_to_be_shown(reply: str, summary: str) -> None:
    assert parse_edits(reply).summary == summary


def test_a_fence_that_belongs_to_a_document_stays() -> None:
    reply = "*** WRITE notes.md\n```python\nx = 1\n```\n*** END\n"

    assert parse_edits(reply).edits == (WholeFile("notes.md", "```python\nx = 1\n```\n"),)


def test_a_fence_that_is_not_exactly_around_the_content_stays() -> None:
    content = "```python\nx = 1\n```\ntext\n```\ny\n```\n"

    assert parse_edits(f"*** WRITE a.txt\n{content}*** END\n").edits == (WholeFile("a.txt", content),)


def test_the_format_we_ask_for_is_one_that_we_read() -> None:
    example = EDIT_FORMAT.split("Rules:")[0]

    assert [type(edit) for edit in parse_edits(example).edits] == [WholeFile, SearchReplace, DeleteFile]


# Writing and reading back ----------------------------------------------------------------------------------------

MARKERS = [
    "*** END", "*** END NO NEWLINE", "\\*** END", "*** WRITE b", "*** EDIT b", "*** DELETE b", "*** SUMMARY s",
    "*** END of it", "<<<<<<< SEARCH", "=======", "\\=======", ">>>>>>> REPLACE", "```", "```python", "````", "", " ",
    "*** END\r", "=======\r", "```\r", "x = 1", "\ttabbed", "ends\r", "\\", "./x", "`x`", "\x0b", "\x85\u2028",
]  # fmt: skip
LINES = st.one_of(st.sampled_from(MARKERS), st.text(st.characters(exclude_characters="\n"), max_size=8))
CONTENTS = st.builds(
    lambda lines, end: "\n".join(lines) + end, st.lists(LINES, max_size=8), st.sampled_from(["", "\n"])
)
PATHS = st.one_of(
    st.sampled_from(
        ["a.py", "src/a b.py", "notes.md", '"q"', "`b`", "./x", " lead", "trail ", "a\nb", "-n", "ü", "\\"]
    ),
    st.text(min_size=1, max_size=8),
)
SEARCHES = st.lists(LINES, min_size=1, max_size=4).map(lambda lines: "\n".join(lines) + "\n")
REPLACEMENTS = st.one_of(st.just(""), SEARCHES)


@st.composite
def edit_lists(draw: st.DrawFn) -> list[BlockEdit]:
    edits: list[BlockEdit] = []
    for path in draw(st.lists(PATHS, min_size=1, max_size=4, unique=True)):
        kind = draw(st.sampled_from(["write", "edit", "delete"]))
        if kind == "write":
            edits.append(WholeFile(path, draw(CONTENTS)))
        elif kind == "delete":
            edits.append(DeleteFile(path))
        else:
            edits += [SearchReplace(path, draw(SEARCHES), draw(REPLACEMENTS)) for _ in range(draw(st.integers(1, 3)))]
    return edits


@given(edit_lists())
@example([WholeFile("a.txt", "```\nx\n```\n")])
@example([WholeFile("a.txt", "```python\n````\nx\n````\n```")])
@example([WholeFile("a.txt", "```\n```")])
def test_what_is_rendered_is_read_back_exactly(edits: list[BlockEdit]) -> None:
    assert list(parse_edits(render_edits(edits, "why")).edits) == edits


@given(edit_lists())
def test_a_fence_around_a_rendered_reply_changes_nothing(edits: list[BlockEdit]) -> None:
    assert list(parse_edits(f"Here:\n```\n{render_edits(edits)}```\nDone.").edits) == edits


@given(st.text(), st.lists(st.sampled_from(MARKERS), max_size=12))
def test_any_text_is_either_read_or_refused(prose: str, lines: list[str]) -> None:
    with contextlib.suppress(UnusableReply):
        assert parse_edits("\n".join([prose, *lines])).edits


# What a file contains afterwards ---------------------------------------------------------------------------------


def replaced(text: str, *blocks: tuple[str, str]) -> str | None:
    return edited_text(text, [SearchReplace("a.py", search, replace) for search, replace in blocks])


@pytest.mark.parametrize(
    ("before", "blocks", "after"),
    [
        pytest.param("a\nb\nc\n", [("b\n", "B\nB\n")], "a\nB\nB\nc\n", id="more lines"),
        pytest.param("a\nb\nc\n", [("b", "B")], "a\nB\nc\n", id="a last line break makes no difference"),
        pytest.param("a\nb\nc\n", [("b\n", "")], "a\nc\n", id="removed"),
        pytest.param("a\n", [("a\n", "")], "", id="all removed"),
        pytest.param("a\nb", [("b\n", "B\n")], "a\nB", id="no line break at the end stays so"),
        pytest.param("a\nb\nc\n", [("c\n", "C\n"), ("a\n", "A\n")], "A\nb\nC\n", id="two blocks in any order"),
        pytest.param("a\nb\n", [("a\n", "b\n"), ("b\n", "a\n")], "b\na\n", id="looked up in the file as it was"),
        pytest.param("a\r\nb\r\n", [("b\n", "B\nC\n")], "a\r\nB\r\nC\r\n", id="carriage returns are kept"),
        pytest.param("a\r\nb", [("b\n", "B\nC\n")], "a\r\nB\r\nC", id="carriage returns without a last line break"),
        pytest.param("a\r\nb\r\n", [("a\r\nb\r\n", "c\r\n")], "c\r\n", id="carriage returns in the reply too"),
        pytest.param("\ufeffa\nb\n", [("b\n", "c\n")], "\ufeffa\nc\n", id="a byte order mark is kept"),
        pytest.param("xs = 1\nx = 1\n", [("x = 1\n", "x = 2\n")], "xs = 1\nx = 2\n", id="only whole lines count"),
    ],
)
def test_lines_that_occur_once_are_replaced(before: str, blocks: Sequence[tuple[str, str]], after: str) -> None:
    assert replaced(before, *blocks) == after


@pytest.mark.parametrize(
    ("before", "blocks", "reason"),
    [
        pytest.param("a\n", [("b\n", "c\n")], "do not occur in the file as whole lines", id="absent"),
        pytest.param("x = 10\n", [("x = 1\n", "")], "do not occur in the file as whole lines", id="a part of a line"),
        pytest.param("a\nb\na\n", [("a\n", "c\n")], "occur 2 times (lines 1, 3)", id="twice"),
        pytest.param("a\na\na\n", [("a\na\n", "c\n")], "occur 2 times (lines 1, 2)", id="overlapping itself"),
        pytest.param("    a\n", [("a\n", "c\n")], "at line 1, but with other white space", id="other indentation"),
        pytest.param("a\n\n", [("\n", "c\n")], "is blank", id="a blank line"),
        pytest.param("a\n", [("", "c\n")], "is blank", id="nothing"),
        pytest.param("a\nb\nc\n", [("a\nb\n", "x\n"), ("b\nc\n", "y\n")], "overlap at line 2", id="overlap"),
        pytest.param("a\n", [("a\n", "x\0\n")], "NUL", id="not text"),
    ],
)
def test_lines_that_do_not_fit_exactly_once_are_refused(
    before: str, blocks: Sequence[tuple[str, str]], reason: str
) -> None:
    with pytest.raises(UnusableReply) as refused:
        replaced(before, *blocks)

    assert reason in refused.value.reason


def test_a_whole_file_keeps_the_line_endings_of_the_one_it_replaces() -> None:
    assert edited_text("a\r\nb\r\n", [WholeFile("a", "x\ny")]) == "x\r\ny"
    assert edited_text("a\r\n", [WholeFile("a", "x\r\ny\n")]) == "x\r\ny\n"
    assert edited_text("a\nb\n", [WholeFile("a", "x\ny\n")]) == "x\ny\n"
    assert edited_text(None, [WholeFile("a", "x\ny\n")]) == "x\ny\n"


@pytest.mark.parametrize(
    ("size", "fits"), [(FILE_LIMIT_BYTES, True), (FILE_LIMIT_BYTES + 1, False)], ids=["at the limit", "above it"]
)
def test_a_file_has_a_largest_size(size: int, fits: bool) -> None:
    edit = WholeFile("a", "x" * size)

    if fits:
        assert edited_text(None, [edit]) == edit.content
    else:
        with pytest.raises(UnusableReply, match="Split the file"):
            edited_text(None, [edit])


def test_a_lone_surrogate_is_not_text() -> None:
    with pytest.raises(UnusableReply, match="not valid Unicode"):
        edited_text(None, [WholeFile("a", "\ud800")])


def test_a_file_that_does_not_exist_cannot_be_changed_or_deleted() -> None:
    assert edited_text("a\n", [DeleteFile("a")]) is None
    with pytest.raises(UnusableReply, match="cannot be deleted"):
        edited_text(None, [DeleteFile("a")])
    with pytest.raises(UnusableReply, match=r"cannot be changed. Use \*\*\* WRITE"):
        edited_text(None, [SearchReplace("a", "x", "y")])


@given(st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=8), st.data())
def test_replacing_a_line_by_itself_changes_nothing_or_is_refused(lines: list[str], data: st.DataObject) -> None:
    text = "\n".join(lines) + data.draw(st.sampled_from(["", "\n"]))
    line = data.draw(st.sampled_from(["a", "b", "c"]))

    if text.split("\n").count(line) == 1:
        assert replaced(text, (line, line)) == text
    else:
        with pytest.raises(UnusableReply):
            replaced(text, (line, line))


@pytest.mark.parametrize(
    ("before", "after", "diff"),
    [
        ("a\nb\n", "a\nc\n", "--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n"),
        (None, "a\n", "new file mode 100644\n--- /dev/null\n+++ b/f\n@@ -0,0 +1 @@\n+a\n"),
        ("a\n", None, "deleted file mode 100644\n--- a/f\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n"),
        ("a", "a\n", "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n"),
    ],
    ids=["changed", "new", "deleted", "line break at the end"],
)
def test_a_diff_of_texts_looks_like_one_of_git(before: str | None, after: str | None, diff: str) -> None:
    assert unified_diff("f", before, after) == f"diff --git a/f b/f\n{diff}"
    assert unified_diff("f", before, before) == ""
