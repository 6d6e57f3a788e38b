"""Deletes events by age and keeps what they came to: hours, days and runs count them for ever.

It owns ``pruned_phases`` and ``retention``, which let every sum be checked and rebuilt all the same. It deletes in
short transactions, because calls go on meanwhile; killed in between, it goes on where it stopped. The command line
calls it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, case, delete, func, literal, select

from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import UtcTime, pruned_phases, reservations, retention, usage_events, usage_lines
from autopack_mcp.errors import RequestRefused
from autopack_mcp.usage.true_sums import MEASURES, phase_sums_of_events
from autopack_mcp.usage.windows import window_at

# A month and the one before it, whatever their length: no window that is in use, or just closed, loses an event.
LEAST_KEPT_DAYS = 62
CALLS_PER_COMMIT = 500  # Some 20 ms; nobody who reserves or settles a call waits longer.
PAUSE_S = 0.02  # Between two commits, so that other processes, which ask for the lock now and then, get it.

_EVENT = usage_events.c
_RESERVED = reservations.c


@dataclass(frozen=True, slots=True)
class Pruned:
    """What went: calls reserved before ``before`` (a UTC midnight), with their lines and reservations.

    ``first`` and ``last`` are when the oldest and the newest of the calls were reserved; None when there were none.
    ``promises`` counts reservations, those of calls that were never billed too.
    """

    before: datetime
    events: int = 0
    lines: int = 0
    promises: int = 0
    first: datetime | None = None
    last: datetime | None = None


def kept_days(text: str) -> int:
    """A number of whole days, as people write it: "400d".

    Raises:
        RequestRefused: it is written otherwise, or fewer than ``LEAST_KEPT_DAYS``.
    """
    found = re.fullmatch(r"(\d{1,5})d", text.strip().lower(), re.ASCII)
    if found is None:
        raise RequestRefused(f"{text!r} is no number of days.", hint="Write days, like 400d.")
    days = int(found[1])
    if days < LEAST_KEPT_DAYS:
        raise RequestRefused(
            f"{days} days would reach into windows that are in use.", hint=f"Keep {LEAST_KEPT_DAYS}d or more."
        )
    return days


def prune_cutoff(now: datetime, days: int) -> datetime:
    """The UTC midnight before which calls are older than so many whole days."""
    return window_at("day", now).start - timedelta(days=days)


def prunable(connection: Connection, before: datetime) -> Pruned:
    """What would go, were everything before this moment deleted now."""
    old = _EVENT.occurred_at < before
    events, first, last = connection.execute(
        select(func.count(), func.min(_EVENT.occurred_at), func.max(_EVENT.occurred_at)).where(old)
    ).one()
    of_old = select(func.count()).select_from(usage_lines.join(usage_events)).where(old)
    with_event = (
        select(func.count())
        .select_from(reservations.join(usage_events, _EVENT.call_id == _RESERVED.call_id))
        .where(old)
    )
    lines, billed = (connection.execute(count).scalar_one() for count in (of_old, with_event))
    unbilled = connection.execute(select(func.count()).where(*_unbilled(before))).scalar_one()
    return Pruned(before, events, lines, billed + unbilled, first, last)


def prune(database: Database, before: datetime, now: datetime, pause: Callable[[float], object] = time.sleep) -> Pruned:
    """Delete everything that is older than ``before``, batch by batch, and say what went."""
    gone = Pruned(before)
    while True:
        batch = database.write_now(_prune_some, before, now)
        if batch.events == batch.promises == 0:
            return gone
        gone = _together(gone, batch)
        pause(PAUSE_S)


def _prune_some(connection: Connection, before: datetime, now: datetime) -> Pruned:
    oldest = select(_EVENT.call_id, _EVENT.occurred_at).where(_EVENT.occurred_at < before)
    rows = connection.execute(oldest.order_by(_EVENT.occurred_at).limit(CALLS_PER_COMMIT)).all()
    if not rows:
        return Pruned(before, promises=_delete_unbilled(connection, before))
    _note_retention(connection, before, now)
    calls = [row.call_id for row in rows]
    _keep_phases(connection, calls)
    return Pruned(
        before,
        lines=_delete(connection, usage_lines, usage_lines.c.call_id.in_(calls)),
        promises=_delete(connection, reservations, _RESERVED.call_id.in_(calls)),
        events=_delete(connection, usage_events, _EVENT.call_id.in_(calls)),
        first=rows[0].occurred_at,
        last=rows[-1].occurred_at,
    )


def _note_retention(connection: Connection, before: datetime, now: datetime) -> None:
    """In the transaction that deletes the first event, so that no check ever misses one without knowing why."""
    row = _upsert(connection, retention).values(name="usage_events", pruned_before=before, pruned_at=now)
    farthest = case((retention.c.pruned_before > before, retention.c.pruned_before), else_=literal(before, UtcTime()))
    changed = {"pruned_before": farthest, "pruned_at": now}
    connection.execute(row.on_conflict_do_update(index_elements=[retention.c.name], set_=changed))


def _keep_phases(connection: Connection, calls: Sequence[str]) -> None:
    sums = phase_sums_of_events(_EVENT.call_id.in_(calls))
    row = _upsert(connection, pruned_phases).from_select(list(sums.selected_columns.keys()), sums)
    added = {name: pruned_phases.c[name] + row.excluded[name] for name in MEASURES}
    connection.execute(row.on_conflict_do_update(index_elements=list(pruned_phases.primary_key), set_=added))


def _upsert(connection: Connection, table: Table) -> Any:
    # By name: only the dialect in use is loaded, and each has an insert of its own that can take a conflict.
    return import_module(f"sqlalchemy.dialects.{connection.dialect.name}").insert(table)


def _delete_unbilled(connection: Connection, before: datetime) -> int:
    found = select(_RESERVED.call_id).where(*_unbilled(before)).limit(CALLS_PER_COMMIT)
    calls = connection.execute(found).scalars().all()
    return _delete(connection, reservations, _RESERVED.call_id.in_(calls)) if calls else 0


def _unbilled(before: datetime) -> tuple[ColumnElement[bool], ...]:
    # What is held stays, however old: it is resolved first, when its lease has passed, and goes the next time.
    return (_RESERVED.state == "released", _RESERVED.reserved_at < before)


def _delete(connection: Connection, table: Table, which: ColumnElement[bool]) -> int:
    return connection.execute(delete(table).where(which)).rowcount


def _together(gone: Pruned, batch: Pruned) -> Pruned:
    return replace(
        gone,
        events=gone.events + batch.events,
        lines=gone.lines + batch.lines,
        promises=gone.promises + batch.promises,
        first=gone.first or batch.first,
        last=batch.last or gone.last,
    )
