"""Notes: in force until withdrawn, adopted once from the file, appended by several writers, never through a link."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from autopack_mcp.database.engine import Database
from autopack_mcp.errors import RequestRefused
from autopack_mcp.notes import (
    FILE_LIMIT_BYTES,
    NOTE_LIMIT,
    Note,
    Source,
    add_note,
    adopt_lines,
    append_missing,
    checked_note,
    hand_written,
    mark_delivered,
    notes_file,
    notes_in_force,
    notes_of_run,
    read_lines,
    withdraw_note,
)
from tests.factories import NOON
from tests.shape.sources import ROOT

WRITERS = 2
NOTES_EACH = 40
# One of our processes that appends its own notes, one after another, after both have said that they are ready.
WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from autopack_mcp.notes import Note, append_missing
file, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
at = datetime(2026, 11, 18, tzinfo=UTC)
print("ready", flush=True)
sys.stdin.readline()
for number in range(first, last):
    append_missing(file, [Note(number, "R1", f"note {number}\\nand more", "tool", "ada", at, None, None, None, 0)])
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return notes_file(tmp_path)


def a_note(note_id: int = 1, text: str = "Skip the UI tests.", source: Source = "tool", **overrides: object) -> Note:
    values = {"withdrawn_at": None, "first_phase_id": None, "first_delivered_at": None, "delivered_count": 0}
    return Note(note_id, "R1", text, source, "ada", NOON, **{**values, **overrides})  # type: ignore[arg-type]  # by name


def added(database: Database, text: str = "Skip the UI tests.", run_id: str = "R1") -> int:
    return database.write_now(add_note, run_id, text, "tool", "ada", NOON)


def texts(database: Database) -> list[str]:
    return [note.text for note in database.read_now(notes_in_force, "R1")]


def append_at_once(file: Path, *numbers: range) -> None:
    """Let one process for each range append its notes, all beginning together."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(file), str(mine.start), str(mine.stop)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for mine in numbers
    ]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=20)
        assert writer.returncode == 0


# --- rows


def test_a_note_is_in_force_for_its_run_and_for_no_other(database: Database) -> None:
    added(database, "first")
    added(database, "elsewhere", run_id="R2")
    added(database, "second")
    assert texts(database) == ["first", "second"]


def test_a_withdrawn_note_is_in_no_later_prompt_and_still_on_record(database: Database) -> None:
    kept, gone = added(database, "stays"), added(database, "goes")
    assert database.write_now(withdraw_note, "R1", gone, NOON)
    assert texts(database) == ["stays"]
    assert [note.note_id for note in database.read_now(notes_of_run, "R1")] == [kept, gone]


@pytest.mark.parametrize("run_id, twice", [("R2", False), ("R1", True)], ids=["of another run", "twice"])
def test_a_note_that_is_not_in_force_cannot_be_withdrawn(database: Database, run_id: str, twice: bool) -> None:
    note_id = added(database)
    if twice:
        database.write_now(withdraw_note, "R1", note_id, NOON)
    assert not database.write_now(withdraw_note, run_id, note_id, NOON)


def test_delivery_names_the_first_phase_and_counts_every_prompt(database: Database) -> None:
    first, later = added(database, "first"), added(database, "later")
    database.write_now(mark_delivered, [first], "P1", NOON)
    database.write_now(mark_delivered, [first, later], "P2", NOON + timedelta(minutes=1))
    seen = {note.note_id: note for note in database.read_now(notes_of_run, "R1")}
    assert (seen[first].first_phase_id, seen[first].delivered_count, seen[first].first_delivered_at) == ("P1", 2, NOON)
    assert (seen[later].first_phase_id, seen[later].delivered_count) == ("P2", 1)


@pytest.mark.parametrize("length, fits", [(NOTE_LIMIT - 1, True), (NOTE_LIMIT, True), (NOTE_LIMIT + 1, False)])
def test_a_note_has_a_limit(length: int, fits: bool) -> None:
    text = "x" * length
    if fits:
        assert checked_note(text) == text
    else:
        with pytest.raises(RequestRefused, match="the limit is"):
            checked_note(text)


def test_an_empty_note_is_refused() -> None:
    with pytest.raises(RequestRefused, match="empty"):
        checked_note(" \n\t")


def test_hidden_characters_of_a_note_are_shown_and_its_lines_kept() -> None:
    assert checked_note("  red\x1b[31m\r\nsecond\u202e line  ") == "red\\x1b[31m\nsecond\\u202e line"


# --- lines that a hand added


def test_lines_added_by_hand_become_notes_once(database: Database, file: Path) -> None:
    append_missing(file, [])
    with file.open("a") as stream:
        stream.write("- Use British spelling.\n\nNo new dependencies.\n    - also none for tests\n")
    for _ in range(2):
        database.write_now(adopt_lines, "R1", read_lines(file), NOON)
    assert texts(database) == ["Use British spelling.", "No new dependencies.", "also none for tests"]
    assert {note.source for note in database.read_now(notes_of_run, "R1")} == {"file"}


def test_the_same_line_twice_is_two_notes_and_stays_two(database: Database) -> None:
    lines = ["Faster!", "Faster!"]
    assert [database.write_now(adopt_lines, "R1", lines, NOON) for _ in range(2)] == [2, 0]


def test_a_withdrawn_line_does_not_come_back(database: Database) -> None:
    database.write_now(adopt_lines, "R1", ["Never mind."], NOON)
    (note,) = database.read_now(notes_of_run, "R1")
    database.write_now(withdraw_note, "R1", note.note_id, NOON)
    assert database.write_now(adopt_lines, "R1", ["Never mind."], NOON) == 0
    assert texts(database) == []


def test_what_we_wrote_into_the_file_is_not_taken_for_a_persons_line(database: Database, file: Path) -> None:
    added(database, "one line")
    added(database, "several\n- lines\n  of it")
    assert append_missing(file, database.read_now(notes_of_run, "R1"))
    assert hand_written(read_lines(file)) == []


@pytest.mark.parametrize("line", ["", "   ", "---", "- ", "```", "* * *"])
def test_a_line_without_a_word_is_no_note(line: str) -> None:
    assert hand_written([line]) == []


def test_a_mark_that_an_editor_puts_in_front_makes_no_note_of_the_header(file: Path) -> None:
    append_missing(file, [])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n") + b"A note.\r\n")
    assert [text for _, text in hand_written(read_lines(file))] == ["A note."]


# --- the file


def test_notes_from_elsewhere_are_appended_once(file: Path) -> None:
    notes = [
        a_note(7, "first\nsecond"),
        a_note(8, source="cli"),
        a_note(9, source="file"),
        a_note(10, withdrawn_at=NOON),
    ]
    for _ in range(2):
        assert append_missing(file, notes)
    assert file.read_text().splitlines()[-3:] == [
        "- [2026-11-18T12:00:00Z] (note 7, tool) first",
        "  | second",
        "- [2026-11-18T12:00:00Z] (note 8, cli) Skip the UI tests.",
    ]
    assert file.read_text().count("(note") == 2


def test_appending_ends_a_line_that_a_person_left_open(file: Path) -> None:
    append_missing(file, [])
    with file.open("a") as stream:
        stream.write("half a line")
    append_missing(file, [a_note()])
    assert file.read_text().splitlines()[-2] == "half a line"


def test_the_file_is_closed_to_others(file: Path) -> None:
    append_missing(file, [])
    assert file.stat().st_mode & 0o077 == 0


def test_two_processes_append_at_once_without_losing_or_splitting_a_line(file: Path) -> None:
    total = WRITERS * NOTES_EACH
    append_at_once(file, *(range(start, start + NOTES_EACH) for start in range(0, total, NOTES_EACH)))
    lines = file.read_text().splitlines()
    assert lines.count("# Notes to this run") == 1
    written = [line for line in lines if "(note " in line]
    assert sorted(written) == sorted(
        f"- [2026-11-18T00:00:00Z] (note {number}, tool) note {number}" for number in range(total)
    )
    assert all(lines[index + 1] == "  | and more" for index, line in enumerate(lines) if "(note " in line)


def test_two_processes_with_the_same_notes_write_each_once(file: Path) -> None:
    append_at_once(file, *[range(NOTES_EACH)] * WRITERS)
    assert file.read_text().count("(note ") == NOTES_EACH


@pytest.mark.parametrize("what", ["the file", "its folder", "a dangling one"])
def test_a_link_is_neither_read_nor_written(tmp_path: Path, what: str) -> None:
    outside, file = tmp_path / "outside", notes_file(tmp_path / "workspace")
    file.parent.parent.mkdir()
    outside.mkdir()
    (outside / "human_notes.md").write_text("A secret.\n")
    if what == "its folder":
        file.parent.symlink_to(outside)
    else:
        file.parent.mkdir()
        file.symlink_to(outside / ("human_notes.md" if what == "the file" else "new.md"))
    assert read_lines(file) == ()
    assert not append_missing(file, [a_note()])
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"human_notes.md": "A secret.\n"}


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["a pipe", "a folder"])
def test_what_is_no_file_is_left_alone(file: Path, make: object) -> None:
    file.parent.mkdir()
    make(file)  # type: ignore[operator]  # one of two functions of os
    assert read_lines(file) == ()
    assert not append_missing(file, [a_note()])


def test_a_workspace_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    assert not append_missing(notes_file(tmp_path / "gone"), [a_note()])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size, is_read", [(FILE_LIMIT_BYTES, True), (FILE_LIMIT_BYTES + 1, False)])
def test_a_file_beyond_the_limit_is_neither_read_nor_written(file: Path, size: int, is_read: bool) -> None:
    file.parent.mkdir()
    file.write_text("word\n" + "x" * (size - 5))
    assert bool(read_lines(file)) == is_read
    assert append_missing(file, [a_note()]) == is_read
    assert (file.stat().st_size == size) != is_read
