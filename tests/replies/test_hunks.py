"""A hunk goes where its lines stand, once and exactly; git is handed what is true, a misfit shows the real lines."""

from __future__ import annotations

import pytest

from autopack_mcp.errors import EditMisfit
from autopack_mcp.replies.diffs import FileDiff, parse_diff
from autopack_mcp.replies.edited import edited_text
from autopack_mcp.replies.hunks import EXCERPT_AROUND_LINES, placed, rendered

TEXT = "one\ntwo\nthree\nfour\nfive\nsix\n"


def diff_of(*hunks: str, header: str = "--- a/x\n+++ b/x\n") -> FileDiff:
    (diff,) = parse_diff(f"```\n{header}{''.join(hunks)}```")
    return diff


@pytest.mark.parametrize(
    ("before", "hunks", "after"),
    [
        pytest.param(TEXT, ["@@ -90,3 +90,3 @@\n two\n-three\n+3\n four\n"], TEXT.replace("three", "3"), id="anywhere"),
        pytest.param(
            TEXT,
            ["@@\n five\n-six\n+6\n", "@@\n-one\n+1\n two\n"],
            TEXT.replace("six", "6").replace("one", "1"),
            id="in any order",
        ),
        pytest.param("a\nb", ["@@\n a\n-b\n\\ No newline at end of file\n+c\n"], "a\nc\n", id="a line break comes"),
        pytest.param("a\nb\n", ["@@\n a\n-b\n+c\n\\ No newline at end of file\n"], "a\nc", id="a line break goes"),
        pytest.param("a\r\nb\r\n", ["@@\n a\n-b\n+c\n"], "a\r\nc\r\n", id="carriage returns of the file"),
        pytest.param("a\r\nb\n", ["@@\n a\r\n-b\n+c\n"], "a\r\nc\n", id="mixed line endings, as they are"),
        pytest.param("", ["@@ -0,0 +1 @@\n+a\n"], "a\n", id="into an empty file"),
        pytest.param(None, ["@@ -0,0 +1 @@\n+a\n"], "a\n", id="a new file without its header"),
    ],
)
def test_a_hunk_that_fits_at_one_place_goes_there(before: str | None, hunks: list[str], after: str) -> None:
    assert edited_text(before, [diff_of(*hunks)]) == after


def test_a_deletion_must_know_all_that_it_deletes() -> None:
    gone = diff_of("@@ -1,2 +0,0 @@\n-a\n-b\n", header="--- a/x\n+++ /dev/null\n")

    assert edited_text("a\nb\n", [gone]) is None
    with pytest.raises(EditMisfit, match="but not all of its lines"):
        edited_text("0\na\nb\n", [gone])
    with pytest.raises(EditMisfit, match="the file goes on at line 3"):
        edited_text("a\nb\nc\n", [gone])


@pytest.mark.parametrize(
    ("before", "hunks", "reason"),
    [
        pytest.param(TEXT * 2, ["@@ -3 +3 @@\n two\n-three\n four\n"], "fits at 2 places (lines 2, 8)", id="twice"),
        pytest.param(TEXT, ["@@\n two\n-threee\n four\n"], "fits nowhere", id="never"),
        pytest.param(TEXT, ["@@\n two\n-  three\n four\n"], "at line 2, but with other white space", id="other blanks"),
        pytest.param(TEXT, ["@@\n two\n+2.5\n"], "ends in a change, but the file goes on at line 3", id="no end"),
        pytest.param(TEXT, ["@@ -3,0 +4 @@\n+x\n"], "could stand anywhere", id="no line around it"),
        pytest.param(
            TEXT, ["@@\n one\n-two\n three\n", "@@\n three\n-four\n five\n"], "overlap at line 3", id="overlap"
        ),
        pytest.param("a\nb", ["@@\n a\n-b\n+c\n"], "other white space", id="a line break that is not there"),
        pytest.param("a\nb\n", ["@@\n a\n+c\n\\ No newline\n b\n"], "fits nowhere|ends in", id="a line break amid"),
        pytest.param("a\nb\n", ["@@\n a\n+c\r\n b\r\n"], "other white space", id="carriage returns of nobody"),
        pytest.param(None, ["@@\n a\n-b\n"], "does not exist", id="no file"),
    ],
)
def test_a_hunk_that_does_not_fit_exactly_once_is_refused(before: str | None, hunks: list[str], reason: str) -> None:
    with pytest.raises(EditMisfit) as refused:
        edited_text(before, [diff_of(*hunks)])

    assert any(part in refused.value.reason for part in reason.split("|"))


def test_a_new_file_must_not_be_there() -> None:
    with pytest.raises(EditMisfit, match="but it exists"):
        edited_text("a\n", [diff_of("@@ -0,0 +1 @@\n+a\n", header="--- /dev/null\n+++ b/x\n")])


def test_a_misfit_shows_every_refused_hunk_and_the_real_lines_where_it_was_meant() -> None:
    text = "".join(f"line {number}\n" for number in range(1, 101))

    with pytest.raises(EditMisfit) as refused:
        edited_text(text, [diff_of("@@\n line 50\n-line fifty-one\n line 52\n", "@@\n line 70\n-x\n line 72\n")])

    first, second = refused.value.misfits
    assert first.refused == " line 50\n-line fifty-one\n line 52\n"
    assert first.excerpts[0].first_line == 50 - EXCERPT_AROUND_LINES
    assert "line 51\nline 52\n" in first.excerpts[0].text
    assert "line 70\nline 71\n" in second.excerpts[0].text


def test_git_is_handed_true_places_and_counts_and_a_name_of_ours() -> None:
    diff = diff_of("@@ -9,9 +9,9 @@\n one\n+1.5\n two\n", "@@\n five\n-six\n")

    assert rendered(placed(TEXT, diff), "file") == (
        "diff --git a/file b/file\n--- a/file\n+++ b/file\n"
        "@@ -1,2 +1,3 @@\n one\n+1.5\n two\n@@ -5,2 +6,1 @@\n five\n-six\n"
    )
