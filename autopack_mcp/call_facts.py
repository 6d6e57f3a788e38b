"""Everything that a call is decided on: the routing snapshot, what its run adds, and the notes its prompt must quote.

It owns how fresh that is: never older than the last commit before the question, this process's or another's. On SQLite
it keeps what it read until somebody commits, which a look of microseconds tells; elsewhere it reads each time. It
decides nothing; ``calls`` asks it for every question.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from sqlalchemy import Connection

from autopack_mcp.clock import Clock
from autopack_mcp.config.settings import Settings
from autopack_mcp.database.changes import ChangeWatch
from autopack_mcp.database.engine import Database
from autopack_mcp.notes import Note, notes_in_force
from autopack_mcp.routing.model_router import RoutingSnapshot
from autopack_mcp.routing.snapshot import RunRules, SnapshotReader, StandingsOnDemand

T = TypeVar("T")

KEPT_FOR = timedelta(seconds=1)  # Even when nobody commits: prices change by the clock alone.
KEPT_LIMIT = 64  # Answers; whoever asks about more runs and phases than that reads more often.


@dataclass(frozen=True, slots=True)
class CallFacts:
    """What one question is decided on; ``rules`` is None for a call outside any run of the database."""

    snapshot: RoutingSnapshot
    rules: RunRules | None


@dataclass(frozen=True, slots=True)
class _Kept(Generic[T]):
    found: T
    settings: Settings | None
    version: Hashable
    read_at: datetime


class CallFactsReader:
    """Reads them for the door, in one event loop; give every part by name. Close it once.

    ``run_rules`` answers None for an id that is only a caller's label; ``visible_keys`` changes when a key comes or
    goes.
    """

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        snapshots: SnapshotReader,
        run_rules: Callable[[Connection, str, datetime, str | None, int | None], RunRules | None],
        visible_keys: Callable[[Settings], Hashable],
    ) -> None:
        self._database = database
        self._clock = clock
        self._snapshots = snapshots
        self._run_rules = run_rules
        self._visible_keys = visible_keys
        self._changes = ChangeWatch(database) if database.is_sqlite else None
        self._facts: dict[Hashable, _Kept[CallFacts]] = {}
        self._notes: dict[Hashable, _Kept[tuple[Note, ...]]] = {}

    async def facts(
        self, settings: Settings, run_id: str | None, phase_id: str | None, attempt: int | None
    ) -> CallFacts:
        """The facts of this moment, under settings that the caller holds on to."""

        def read(connection: Connection) -> CallFacts:
            rules = self._run_rules(connection, run_id, self._clock.now(), phase_id, attempt) if run_id else None
            if self._changes is None:
                return CallFacts(self._snapshots.read(connection, rules, settings), rules)
            ask = self._database.read_kept
            return CallFacts(self._snapshots.read_on_demand(connection, ask, rules, settings, likely), rules)

        key = (run_id, phase_id, attempt) if run_id else None
        likely = _looked_at(self._facts.get(key), settings)
        found = await self._fresh(self._facts, key, read, settings, self._visible_keys(settings))
        # Overrides expire by the clock alone.
        return replace(found, snapshot=replace(found.snapshot, at=self._clock.now()))

    async def notes(self, run_id: str | None) -> tuple[Note, ...]:
        """The notes that the next prompt of a run must quote, none for a call outside any run."""
        if run_id is None:
            return ()
        return await self._fresh(self._notes, run_id, lambda connection: notes_in_force(connection, run_id))

    def close(self) -> None:
        """Give the connection back."""
        if self._changes is not None:
            self._changes.close()

    async def _fresh(
        self,
        kept: dict[Hashable, _Kept[T]],
        key: Hashable,
        read: Callable[[Connection], T],
        settings: Settings | None = None,
        keys: Hashable = None,
    ) -> T:
        if self._changes is None:
            return await self._database.read(read)
        commits = self._changes.version()  # Before the read: a commit in between is seen next time.
        now = self._clock.now()
        version = (commits, now.date(), keys)  # A new day may be a new window of every cap.
        found = kept.pop(key, None)
        if found is None or found.version != version or found.settings is not settings or not _is_recent(found, now):
            # On this thread: in WAL mode no writer keeps a reader waiting, and a hop to another thread costs more.
            found = _Kept(self._database.read_kept(read), settings, version, now)
        if len(kept) >= KEPT_LIMIT:
            del kept[next(iter(kept))]  # The one not asked for longest.
        kept[key] = found
        return found.found


def _looked_at(kept: _Kept[CallFacts] | None, settings: Settings) -> tuple[str, ...]:
    """The accounts that the last choice of this kind came to: the next one will come to them, too."""
    standings = None if kept is None or kept.settings is not settings else kept.found.snapshot.standings
    return standings.read_already if isinstance(standings, StandingsOnDemand) else ()


def _is_recent(kept: _Kept[T], now: datetime) -> bool:
    return kept.read_at <= now < kept.read_at + KEPT_FOR
