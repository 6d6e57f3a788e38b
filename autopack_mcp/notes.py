"""A person's words to a run: rows that every later prompt quotes, and an append-only file beside the work.

It owns the ``notes`` table and ``<workspace>/.autopack/human_notes.md``: what a tool or the command line adds is
appended there, what a hand adds there becomes a row. It never rewrites the file, so two writers can append at once, and
it never reads or writes through a link. The tools, the command line and the executor call it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, and_, insert, select, update

from autopack_mcp.database.tables import notes
from autopack_mcp.errors import RequestRefused
from autopack_mcp.text_safety import visible

NOTE_LIMIT = 4_000  # Characters of one note: it enters every later prompt, and is paid for each time.
FILE_LIMIT_BYTES = 256 * 1024  # A notes file beyond this is not read; somebody pasted something else.
_OUR_LINE = re.compile(r"- \[\d{4}-\d\d-\d\dT[\d:]+Z\] \(note (\d+), ")
_MORE = "  | "  # Begins every further line of a note of ours, so that it is not taken for one that somebody added.
_HEADER = (
    "# Notes to this run\n\n"
    "A line you add below becomes a note: every later prompt of the run will quote it.\n\n"
)  # fmt: skip

# What opening a link, a folder or nothing at all says.
_NOT_A_FILE = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.ENXIO, errno.EMLINK})

Source = Literal["tool", "cli", "file"]


@dataclass(frozen=True, slots=True)
class Note:
    """One note. ``first_phase_id`` names the phase whose prompt carried it first; None until one has."""

    note_id: int
    run_id: str
    text: str
    source: Source
    author: str
    created_at: datetime
    withdrawn_at: datetime | None
    first_phase_id: str | None
    first_delivered_at: datetime | None
    delivered_count: int


def notes_file(workspace: Path) -> Path:
    """Where a run's notes stand for people who would rather open a file."""
    return workspace / ".autopack" / "human_notes.md"


def checked_note(text: str) -> str:
    """The note as it will be stored.

    Raises:
        RequestRefused: it is empty, or longer than ``NOTE_LIMIT`` characters.
    """
    stripped = text.strip()
    if not stripped:
        raise RequestRefused("The note is empty.", hint="Say in words what the next prompt should contain.")
    if len(stripped) > NOTE_LIMIT:
        raise RequestRefused(
            f"The note has {len(stripped)} characters, the limit is {NOTE_LIMIT}.",
            hint="It enters every later prompt; say it shorter, or commit a document and name its path.",
        )
    return visible(stripped, NOTE_LIMIT, multiline=True)


def add_note(connection: Connection, run_id: str, text: str, source: Source, author: str, at: datetime) -> int:
    """Write one checked note down; returns its id."""
    row = {"run_id": run_id, "text": text, "source": source, "author": author, "created_at": at}
    done = connection.execute(insert(notes).values(**row, delivered_count=0))
    assert done.inserted_primary_key is not None, "the key is generated"
    return int(done.inserted_primary_key[0])


def withdraw_note(connection: Connection, run_id: str, note_id: int, at: datetime) -> bool:
    """Take a note out of all later prompts; False when the run has no such note in force."""
    mine = and_(notes.c.run_id == run_id, notes.c.note_id == note_id, notes.c.withdrawn_at.is_(None))
    return connection.execute(update(notes).where(mine).values(withdrawn_at=at)).rowcount == 1


def notes_of_run(connection: Connection, run_id: str) -> tuple[Note, ...]:
    """All notes of a run, oldest first, withdrawn ones too."""
    fields = tuple(Note.__dataclass_fields__)
    found = select(*(notes.c[name] for name in fields)).where(notes.c.run_id == run_id).order_by(notes.c.note_id)
    return tuple(Note(**row) for row in connection.execute(found).mappings())


def notes_in_force(connection: Connection, run_id: str) -> tuple[Note, ...]:
    """The notes that the next prompt of a run must quote, oldest first."""
    return tuple(note for note in notes_of_run(connection, run_id) if note.withdrawn_at is None)


def mark_delivered(connection: Connection, note_ids: Sequence[int], phase_id: str | None, at: datetime) -> None:
    """Count one prompt that carried these notes; the first one is remembered by its phase."""
    if not note_ids:
        return
    these = notes.c.note_id.in_(note_ids)
    first = and_(these, notes.c.delivered_count == 0)
    connection.execute(update(notes).where(first).values(first_phase_id=phase_id, first_delivered_at=at))
    connection.execute(update(notes).where(these).values(delivered_count=notes.c.delivered_count + 1))


def read_lines(file: Path) -> tuple[str, ...]:
    """The lines of a notes file; none when it is absent, reached by a link, or longer than ``FILE_LIMIT_BYTES``."""
    with _opened(file, os.O_RDONLY) as descriptor:
        return () if descriptor is None else _lines(descriptor)


def adopt_lines(connection: Connection, run_id: str, lines: Sequence[str], at: datetime) -> int:
    """Make notes of the lines a person added by hand; returns how many are new.

    Safe to repeat: a line is known by its text and by which of several equal lines it is.
    """
    return sum(_adopt(connection, run_id, key, text, at) for key, text in hand_written(lines))


def append_missing(file: Path, known: Sequence[Note]) -> bool:
    """Append the notes in force that came from elsewhere and do not stand in the file yet; make the file if need be.

    False when the file cannot be used and was left alone: there is no workspace, it or its folder is a link, or it is
    longer than ``FILE_LIMIT_BYTES``. The notes are in force all the same.
    """
    with suppress(FileExistsError, FileNotFoundError):
        file.parent.mkdir()
    with _opened(file, os.O_RDWR | os.O_CREAT | os.O_APPEND) as descriptor:
        if descriptor is None:
            return False
        # Locked from the look to the write: of two of our processes the second sees what the first has written.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        if size > FILE_LIMIT_BYTES:
            return False
        _append(descriptor, size, _missing(_lines(descriptor), known))
    return True


def _missing(lines: Sequence[str], known: Sequence[Note]) -> str:
    written = {int(match[1]) for line in lines if (match := _OUR_LINE.match(line))}
    return "".join(_line(note) for note in known if _belongs_in_file(note, written))


def _belongs_in_file(note: Note, written: set[int]) -> bool:
    return note.source != "file" and note.withdrawn_at is None and note.note_id not in written


def hand_written(lines: Sequence[str]) -> list[tuple[str, str]]:
    """(key, text) of every line with a word in it that is neither ours nor part of our header."""
    ours = set(_HEADER.splitlines())
    seen: dict[str, int] = {}
    found = []
    for line in lines:
        text = line.strip()
        is_ours = line in ours or line.startswith(_MORE) or _OUR_LINE.match(line)
        if is_ours or not any(character.isalnum() for character in text):
            continue
        seen[text] = seen.get(text, 0) + 1
        digest = hashlib.sha256(f"{seen[text]} {text}".encode()).hexdigest()
        found.append((digest, text))
    return found


def _adopt(connection: Connection, run_id: str, key: str, text: str, at: datetime) -> bool:
    known = select(notes.c.note_id).where(notes.c.run_id == run_id, notes.c.file_key == key)
    if connection.execute(known).first() is not None:
        return False
    safe = visible(text.removeprefix("- "), NOTE_LIMIT)
    row = {"run_id": run_id, "text": safe, "source": "file", "author": "notes file", "file_key": key, "created_at": at}
    connection.execute(insert(notes).values(**row, delivered_count=0))
    return True


def _line(note: Note) -> str:
    first, *rest = note.text.splitlines()
    head = f"- [{note.created_at:%Y-%m-%dT%H:%M:%SZ}] (note {note.note_id}, {note.source}) {first}\n"
    return head + "".join(f"{_MORE}{line}\n" for line in rest)


@contextmanager
def _opened(file: Path, flags: int) -> Iterator[int | None]:
    """A descriptor of the notes file, None when there is no such plain file in a plain folder.

    A repository may hold links under these names that lead out of the workspace, so neither is ever followed.
    """
    with ExitStack() as stack:
        try:
            folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            stack.callback(os.close, folder)
            # O_NONBLOCK: a pipe of this name must not hold us up.
            descriptor = os.open(file.name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600, dir_fd=folder)
            stack.callback(os.close, descriptor)
        except OSError as error:
            if error.errno not in _NOT_A_FILE:
                raise
            yield None
        else:
            yield descriptor if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def _lines(descriptor: int) -> tuple[str, ...]:
    size = os.fstat(descriptor).st_size
    if size > FILE_LIMIT_BYTES:
        return ()
    # utf-8-sig: some editors put a mark in front, which would make a note of our header.
    return tuple(os.pread(descriptor, size, 0).decode("utf-8-sig", errors="replace").splitlines())


def _append(descriptor: int, size: int, text: str) -> None:
    if size == 0:
        text = _HEADER + text
    elif text and os.pread(descriptor, 1, size - 1) != b"\n":
        text = "\n" + text
    rest = memoryview(text.encode())
    while rest:
        rest = rest[os.write(descriptor, rest) :]
