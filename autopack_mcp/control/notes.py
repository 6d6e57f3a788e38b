"""Leaving a note for a run, or taking one back.

It checks and stores what a person says; that a prompt quotes it is the executor's. ``Control`` calls it for the MCP
tools and the command line alike.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from autopack_mcp.clock import Clock
from autopack_mcp.control.person import Person
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import IllegalTransition, RequestRefused
from autopack_mcp.notes import Source, add_note, append_missing, checked_note, notes_file, notes_of_run, withdraw_note
from autopack_mcp.runs.states import RUN_ENDED
from autopack_mcp.runs.store import run_by_id

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NoteOutcome:
    """A note that is in force; ``notes_file`` is where it also stands, once the run has a workspace."""

    note_id: int
    message: str
    timestamp: datetime
    notes_file: str


class Notes:
    """Puts notes in force and out of it. Every part is given by name; safe for concurrent callers."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def add_note(self, run_id: str, text: str, source: Source, person: Person) -> NoteOutcome:
        """Put a note in force for the whole run: every later prompt quotes it until it is withdrawn (contract 25).

        Raises:
            RunNotFound; RequestRefused: it is empty or too long; IllegalTransition: the run has ended.
        """
        run = await self._database.read(run_by_id, run_id)
        if run.state in RUN_ENDED:
            raise IllegalTransition(run.state, "note")
        now = self._clock.now()
        note_id = await self._database.write(add_note, run_id, checked_note(text), source, person.author, now)
        file = notes_file(Path(run.workspace))
        if Path(run.workspace).is_dir():
            await self._append(file, run_id)
        message = f"Note {note_id} will stand in every later prompt of run {run_id} until it is withdrawn."
        return NoteOutcome(note_id, message, now, str(file))

    async def _append(self, file: Path, run_id: str) -> None:
        try:
            await asyncio.to_thread(append_missing, file, await self._database.read(notes_of_run, run_id))
        except OSError:
            # The note is in force all the same: the row counts, and the executor appends what is missing later.
            log.exception("note of run %s could not be appended to its file", run_id)

    async def withdraw_note(self, run_id: str, note_id: int) -> str:
        """Take a note out of all later prompts.

        Raises:
            RunNotFound; RequestRefused: the run has no such note in force.
        """
        await self._database.read(run_by_id, run_id)
        if not await self._database.write(withdraw_note, run_id, note_id, self._clock.now()):
            raise RequestRefused(f"Run {run_id} has no note {note_id} in force.", hint="Its status lists the notes.")
        return f"Note {note_id} will not be in later prompts of run {run_id}."
