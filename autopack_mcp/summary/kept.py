"""Answers kept while nothing has changed: the very same object again, so that its reader need not render it again.

It owns the question "may that be said once more"; it knows nothing about the answers. ``Summaries`` keeps what servers
are asked for again and again, and the MCP tools know an unchanged run by its identity.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar, cast

from autopack_mcp.clock import Clock
from autopack_mcp.database.changes import ChangeWatch
from autopack_mcp.database.engine import Database

T = TypeVar("T")

# Without a commit an answer changes only as time passes: a lease runs out. Half a second late is a twelfth of a lease.
KEEP_FOR = timedelta(seconds=0.5)
QUESTIONS_KEPT = 16  # Few runs are looked at at a time; an answer about a thousand phases takes half a megabyte.


@dataclass(frozen=True, slots=True)
class _Kept:
    """An answer, the version of the database before it was read, and when that was."""

    version: int
    at: datetime
    answer: object


class KeptAnswers:
    """One per database and event loop. On engines that do not number their commits nothing is kept."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._changes: ChangeWatch | None = None
        self._kept: dict[Hashable, _Kept] = {}

    async def ask(self, question: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        """What ``read`` answered before, or answers now. One question has answers of one type."""
        # Before reading: a commit that comes in between makes the next question read again, never this one stale.
        version, now = self._version(), self._clock.now()
        kept = self._kept.get(question)
        if kept is not None and kept.version == version and timedelta(0) <= now - kept.at < KEEP_FOR:
            return cast("T", kept.answer)
        answer = await read()
        if version is not None:
            self._keep(question, _Kept(version, now, answer))
        return answer

    def _version(self) -> int | None:
        if self._changes is None:
            self._changes = ChangeWatch(self._database)
            weakref.finalize(self, self._changes.close)
        return self._changes.version()

    def _keep(self, question: Hashable, kept: _Kept) -> None:
        self._kept.pop(question, None)
        while len(self._kept) >= QUESTIONS_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[question] = kept
