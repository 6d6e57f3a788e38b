"""What is only similar goes where it most likely belongs, and nowhere when two places are as likely."""

from __future__ import annotations

import pytest

from autopack_mcp.errors import EditMisfit
from autopack_mcp.replies.edited import edited_text, fuzzily_edited_text, how_applied
from autopack_mcp.replies.edits import DeleteFile, SearchReplace, WholeFile, parse_edits

TEXT = "import os\n\n\ndef total(items):\n    count = 0\n    for item in items:\n        count += 1\n    return count\n"


def block(search: str, replace: str) -> list[SearchReplace]:
    return [SearchReplace("a.py", search, replace)]


@pytest.mark.parametrize(
    ("search", "replace", "after"),
    [
        pytest.param(
            "def total(items):  \n    count = 0\t\n",
            "def total(items):  \n    count = 1\t\n",
            TEXT.replace("count = 0", "count = 1"),
            id="blanks at the ends of lines",
        ),
        pytest.param(
            "for item in items:\n    count += 1\n",
            "for item in items:\n    # one more\n    count += 2\n",
            TEXT.replace("        count += 1", "        # one more\n        count += 2"),
            id="less indentation",
        ),
        pytest.param(
            "        for item in items:\n            count += 1\n        return count\n",
            "        for item in items:\n            count += 2\n        return count\n",
            TEXT.replace("+= 1", "+= 2"),
            id="more indentation",
        ),
        pytest.param(
            "def total(items):\n    count = 0\n    for item in items:\n        pass\n        count += 1\n",
            "def total(items):\n    count = 5\n    for item in items:\n        pass\n        count += 1\n",
            TEXT.replace("count = 0", "count = 5"),
            id="a kept line that is not there",
        ),
    ],
)
def test_what_is_similar_goes_to_its_likely_place(search: str, replace: str, after: str) -> None:
    with pytest.raises(EditMisfit):
        edited_text(TEXT, block(search, replace))

    assert fuzzily_edited_text(TEXT, block(search, replace)) == after


@pytest.mark.parametrize(
    ("text", "search", "replace"),
    [
        pytest.param(
            TEXT, "    count = 7\n    for item in items:\n", "    for item in items:\n", id="a line that goes"
        ),
        pytest.param(TEXT * 2, " count = 0\n for item in items:\n", " count = 1\n", id="two places"),
        pytest.param(
            TEXT, "def other(things):\n    count = 0\n    pass\n    continue\n", "", id="too little in common"
        ),
        pytest.param(TEXT, "  count = 0\n     for item in items:\n", "  count = 1\n", id="indented in two ways"),
        pytest.param(
            TEXT, "    count = 0\n    return count\n", "    count = 0\n    x = 1\n    return count\n", id="apart"
        ),
    ],
)
def test_what_has_no_likely_place_is_refused_as_exactly(text: str, search: str, replace: str) -> None:
    with pytest.raises(EditMisfit) as exactly:
        edited_text(text, block(search, replace))
    with pytest.raises(EditMisfit) as likely:
        fuzzily_edited_text(text, block(search, replace))

    assert likely.value.reason == exactly.value.reason


def test_a_hunk_with_other_indentation_is_placed_and_one_that_lost_its_end_is_not() -> None:
    hunk = "@@ -9,3 +9,3 @@\n for item in items:\n-    count += 1\n+    count += 2\n return count\n"
    whole = parse_edits(f"--- a/a.py\n+++ b/a.py\n{hunk}").edits
    cut = hunk.removesuffix(" return count\n")
    half = parse_edits(f"```\n--- a/a.py\n+++ b/a.py\n{cut}```").edits

    assert fuzzily_edited_text(TEXT, whole) == TEXT.replace("+= 1", "+= 2")
    with pytest.raises(EditMisfit):
        fuzzily_edited_text(TEXT, half)


def test_what_fits_exactly_is_not_guessed_at() -> None:
    assert fuzzily_edited_text("a\nb\n", block("b\n", "c\n")) == "a\nc\n"
    with pytest.raises(EditMisfit, match="does not exist"):
        fuzzily_edited_text(None, block("b\n", "c\n"))


def test_the_lane_is_that_of_the_edit_to_look_at_closest() -> None:
    diff = parse_edits("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n c\n".replace("-1 +1", "-1,2 +1,2")).edits

    assert how_applied([WholeFile("a", ""), DeleteFile("b")]) == "files"
    assert how_applied([WholeFile("a", ""), *block("b", "c")]) == "blocks"
    assert how_applied([*block("b", "c"), *diff]) == "diff"


@pytest.mark.parametrize("line", ["x", "", "    x"], ids=["the same line", "blank lines", "an indented line"])
def test_a_file_and_a_reply_of_thousands_of_equal_lines_are_refused_in_no_time(line: str) -> None:
    text = f"{line}\n" * 100_000
    hunk = "--- a/a\n+++ b/a\n@@\n" + f" {line}\n" * 3_000 + "-y\n" + f" {line}\n"
    edits = parse_edits(f"```\n{hunk}```").edits

    with pytest.raises(EditMisfit):
        fuzzily_edited_text(text, edits)
    with pytest.raises(EditMisfit):
        fuzzily_edited_text(text, block("z\n" + f"{line}\n" * 3_000, "y\n"))
