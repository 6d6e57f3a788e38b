"""Whose turn it is: which runs somebody may take up, in which order, and why the others wait.

It owns the order, its limits and whose a run is, and claims nothing; ``store.claim`` does, one run at a time. The
supervisor asks it before it claims or offers, and the summaries say with its words why a run waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, not_, or_, select, update

from autopack_mcp.config.settings import RunSettings
from autopack_mcp.database.tables import runs
from autopack_mcp.plans.repository_url import is_url
from autopack_mcp.runs.records import RunRecord
from autopack_mcp.runs.states import RUN_ACTIVE, RUN_ENDED, RunState
from autopack_mcp.runs.store import claimable_runs, is_free
from autopack_mcp.runs.supervision import SupervisorKind, count_live_workers
from autopack_mcp.text_safety import visible

STOPPING: frozenset[RunState] = frozenset(
    {"pausing", "cancelling"}
)  # All they need is a moment, so they get it at once.
NAME_LIMIT = 60  # Characters of an author's name in a reason.


@dataclass(frozen=True, slots=True)
class Reach:
    """Whose disks somebody can work on: a ``serve`` on its machine's, and on URLs; a worker on URLs alone."""

    kind: SupervisorKind
    machine: str


@dataclass(frozen=True, slots=True)
class Line:
    """Who waits at one moment, oldest first, and the authors of all unfinished runs in the same reach."""

    waiting: tuple[RunRecord, ...]
    authors: frozenset[str]


@dataclass(frozen=True, slots=True)
class Turn:
    """One run of the line: ``why`` is empty when it may be taken up now; ``place`` counts those that wait, from 1."""

    run: RunRecord
    place: int = 0
    why: str = ""


_FIELDS = tuple(RunRecord.__dataclass_fields__)


def line_at(connection: Connection, reach: Reach, at: datetime) -> Line:
    """The runs that want to be advanced, have nobody, and are within reach."""
    within = _within(connection, reach, at)
    waiting = claimable_runs(connection, at, within)
    if not waiting:
        return Line((), frozenset())
    authors = select(runs.c.author).where(within, runs.c.state.not_in(RUN_ENDED)).distinct()
    return Line(waiting, frozenset(connection.execute(authors).scalars()))


def runs_in_hand(connection: Connection, reach: Reach, at: datetime) -> tuple[RunRecord, ...]:
    """The runs within reach that somebody advances at this moment."""
    columns = [runs.c[name] for name in _FIELDS]
    held = select(*columns).where(_within(connection, reach, at), runs.c.state.in_(RUN_ACTIVE), not_(is_free(at)))
    return tuple(RunRecord(**row) for row in connection.execute(held).mappings())


def adopt_runs(connection: Connection, machine: str) -> None:
    """Make the unfinished runs of every machine this one's: for a database that only one machine can have.

    A laptop changes its host name with the network, and its runs must not wait for a machine that is no more.
    """
    others = and_(runs.c.machine.is_not(None), runs.c.machine != machine, runs.c.state.not_in(RUN_ENDED))
    connection.execute(update(runs).where(others).values(machine=machine))


def turns(line: Line, in_hand: Sequence[RunRecord], limits: RunSettings) -> tuple[Turn, ...]:
    """Every run of the line in the order of its turn; those that may be taken up now have no ``why``.

    The oldest goes first, but whoever has fewer runs in hand goes before who has more; one repository gets at most
    ``per_repository`` places; and while somebody else has an unfinished run, nobody gets the last place as well. What
    is only to be stopped needs no place.
    """
    held = _Held(in_hand, line.authors, limits)
    found = [Turn(run) for run in line.waiting if run.state in STOPPING]
    waits = 0
    for run in _in_turn([run for run in line.waiting if run.state not in STOPPING], held.by_author):
        why = held.objection(run)
        if why is None:
            held.add(run)
            found.append(Turn(run))
        else:
            waits += 1
            found.append(Turn(run, waits, why))
    return tuple(found)


class _Held:
    """The places that are taken."""

    def __init__(self, in_hand: Sequence[RunRecord], authors: Collection[str], limits: RunSettings) -> None:
        self.by_author = Counter(run.author for run in in_hand)
        self._by_repository = Counter(run.repository for run in in_hand)
        self._taken = len(in_hand)
        self._limits = limits
        is_shared = len(authors) > 1 and limits.at_once > 1
        self._per_author = limits.at_once - 1 if is_shared else limits.at_once

    def add(self, run: RunRecord) -> None:
        self.by_author[run.author] += 1
        self._by_repository[run.repository] += 1
        self._taken += 1

    def objection(self, run: RunRecord) -> str | None:
        """Why a run must wait, as the end of a sentence; None when there is a place for it."""
        limits = self._limits
        if self._by_repository[run.repository] >= limits.per_repository:
            return f"{_counted(limits.per_repository)} in its repository already (runs.per_repository)"
        if self._taken >= limits.at_once:
            return f"{_counted(limits.at_once)} under way (runs.at_once)"
        if self.by_author[run.author] >= self._per_author:
            return f"the last place is kept for others than {visible(run.author, NAME_LIMIT)}"
        return None


def _counted(limit: int) -> str:
    return "1 run is" if limit == 1 else f"{limit} runs are"


def _in_turn(waiting: Sequence[RunRecord], held_by_author: Counter[str]) -> list[RunRecord]:
    """Everybody's next run before anybody's one after that, the oldest first among equals."""
    reached = Counter(held_by_author)
    ranked = []
    for index, run in enumerate(waiting):
        ranked.append((reached[run.author], index, run))
        reached[run.author] += 1
    return [run for *_, run in sorted(ranked, key=lambda one: one[:2])]


def _within(connection: Connection, reach: Reach, at: datetime) -> ColumnElement[bool]:
    """A run by its machine's disk; one with a URL by the workers or, when none is alive, by any serve."""
    by_url = and_(runs.c.machine.is_(None), runs.c.repository.contains("://"))
    if reach.kind == "worker":
        return by_url
    # Rows of before machines were told apart: a path without a machine is whoever's finds it.
    by_path: Any = or_(runs.c.machine == reach.machine, and_(runs.c.machine.is_(None), not_(by_url)))
    return by_path if count_live_workers(connection, at) else or_(by_path, by_url)


def reach_of_run(run: RunRecord) -> Reach:
    """Whose turn a run waits for."""
    return Reach("worker", "") if run.machine is None and is_url(run.repository) else Reach("serve", run.machine or "")
