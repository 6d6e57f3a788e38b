"""Books one usage event with its sums, in the caller's transaction: the row, its lines, its hour, day and phase.

It owns the arithmetic of the derived tables, so that they equal the sum of the events at every commit; it decides
nothing and checks no cap. The ledger is its caller. They can be rebuilt from events.
"""

from __future__ import annotations

import json
import operator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import import_module
from typing import Any

from sqlalchemy import ClauseElement, Connection, Dialect, Table, bindparam, delete, insert, select, update

from autopack_mcp.clock import to_us
from autopack_mcp.database.bare import BareStatement
from autopack_mcp.database.batch import flush_batch, kept, nothing, takes_part
from autopack_mcp.database.tables import usage_days, usage_events, usage_hours, usage_lines, usage_phases
from autopack_mcp.usage.event import TokenCounts, UsageEvent

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
_COUNTS = (
    "uncached_input", "cache_read", "cache_write_5m", "cache_write_1h", "cache_write_other", "output", "reasoning",
)  # fmt: skip
_SUMS = (
    "calls", "failed_calls", "unpriced_calls", "uncached_input", "cache_read", "cache_write", "output", "reasoning",
    "charged_tokens", "charged_nano", "cost_nano",
)  # fmt: skip
_SHARED_KEY = ("purpose", "provider", "model", "role")
_HOUR_KEY = ("hour_start", *_SHARED_KEY, "category")
_DAY_KEY = ("day_start", *_SHARED_KEY, "category")
_PHASE_KEY = ("run_id", "phase_id", *_SHARED_KEY)
_INSERT_EVENT = BareStatement(lambda _: insert(usage_events))
_REPLACED = tuple(column.name for column in usage_events.c if column.name != "call_id")
_REPLACE_EVENT = BareStatement(
    lambda _: update(usage_events).where(usage_events.c.call_id == bindparam("same_call")), _REPLACED
)


@dataclass(frozen=True, slots=True)
class Charge:
    """What a call weighs against the caps: more than its known tokens when the truth is only a lower bound."""

    tokens: int
    nano_usd: int


@takes_part(nothing)
def book(connection: Connection, event: UsageEvent, charge: Charge, recorded_at: datetime) -> None:
    """Insert the event and add it to every sum; the caller has made sure that the call is not booked yet."""
    kept(connection, KeptEvents).add(event, _event_row(event, charge, recorded_at))
    kept(connection, _KeptSums).add(event, _sums_of(event, charge))


@takes_part(nothing)
def rebook(connection: Connection, old: UsageEvent, old_charge: Charge, new: UsageEvent, charge: Charge,
           recorded_at: datetime) -> None:  # fmt: skip
    """Replace a booked event by a later truth about the same call, sums included."""
    kept(connection, _KeptSums).add(old, tuple(-value for value in _sums_of(old, old_charge)))
    flush_batch(connection)
    _drop_empty_sums(connection, old)
    _REPLACE_EVENT.run(connection, {**_event_row(new, charge, recorded_at), "same_call": old.call_id})
    connection.execute(delete(usage_lines).where(usage_lines.c.call_id == old.call_id))
    if rows := _line_rows(new):
        connection.execute(insert(usage_lines), rows)
    kept(connection, _KeptSums).add(new, _sums_of(new, charge))


def booked_event(connection: Connection, call_id: str) -> tuple[UsageEvent, Charge] | None:
    """The event of a call as it is booked now, and what it was charged; None when there is none."""
    flush_batch(connection)
    row = connection.execute(select(usage_events).where(usage_events.c.call_id == call_id)).mappings().first()
    if row is None:
        return None
    names = set(UsageEvent.__dataclass_fields__) - {"counts", "lines"}
    facts: dict[str, Any] = {name: row[name] for name in names}
    counts = TokenCounts(**{name: row[name] for name in _COUNTS})
    return UsageEvent(counts=counts, **facts), Charge(row["charged_tokens"], row["charged_nano"])


def _event_row(event: UsageEvent, charge: Charge, recorded_at: datetime) -> dict[str, Any]:
    return {
        "call_id": event.call_id,
        "response_id": event.response_id,
        "request_id": event.request_id,
        "provider": event.provider,
        "model": event.model,
        "role": event.role,
        "purpose": event.purpose,
        "run_id": event.run_id,
        "phase_id": event.phase_id,
        "attempt": event.attempt,
        "category": event.category,
        "status": event.status,
        "usage_source": event.usage_source,
        **_count_columns(event.counts),
        "charged_tokens": charge.tokens,
        "charged_nano": charge.nano_usd,
        "cost_nano": event.cost_nano,
        "price_version": event.price_version,
        "service_tier": event.service_tier,
        "processing": event.processing,
        "tool_calls": json.dumps(dict(event.tool_calls)) if event.tool_calls else "{}",
        "raw_usage": None if event.raw_usage is None else json.dumps(dict(event.raw_usage)),
        "error": event.error,
        "occurred_at": to_us(event.occurred_at),
        "started_at": None if event.started_at is None else to_us(event.started_at),
        "recorded_at": to_us(recorded_at),
    }


def _count_columns(counts: TokenCounts) -> dict[str, int]:
    return {
        "uncached_input": counts.uncached_input,
        "cache_read": counts.cache_read,
        "cache_write_5m": counts.cache_write_5m,
        "cache_write_1h": counts.cache_write_1h,
        "cache_write_other": counts.cache_write_other,
        "output": counts.output,
        "reasoning": counts.reasoning,
    }


def _line_rows(event: UsageEvent) -> list[dict[str, Any]]:
    if len(event.lines) < 2:
        return []  # One line would only repeat the event.
    return [
        {"call_id": event.call_id, "line_index": index, "model": line.model, **_count_columns(line.counts)}
        for index, line in enumerate(event.lines)
    ]


def _sums_of(event: UsageEvent, charge: Charge) -> tuple[int, ...]:
    """What a booked event adds, in the order of ``_SUMS``."""
    counts = event.counts
    return (
        1,
        0 if event.status in ("ok", "external") else 1,
        1 if event.cost_nano is None else 0,
        counts.uncached_input,
        counts.cache_read,
        counts.cache_write,
        counts.output,
        counts.reasoning,
        charge.tokens,
        charge.nano_usd,
        event.cost_nano or 0,
    )


class KeptEvents:
    """The events that one transaction has booked and not written yet."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Any]] = {}
        self._answers: set[tuple[str, str]] = set()
        self._lines: list[dict[str, Any]] = []

    def add(self, event: UsageEvent, row: dict[str, Any]) -> None:
        """Have the event written, and its lines when several models billed it."""
        self._rows[event.call_id] = row
        if event.response_id:
            self._answers.add((event.provider, event.response_id))
        self._lines += _line_rows(event)

    def holds(self, event: UsageEvent) -> bool:
        """Whether the same call, or the same answer of its provider, is among them."""
        return event.call_id in self._rows or (event.provider, event.response_id or "") in self._answers

    def flush(self, connection: Connection) -> None:
        """Write them."""
        _INSERT_EVENT.run_many(connection, list(self._rows.values()))
        if self._lines:
            connection.execute(insert(usage_lines), self._lines)
        self._rows.clear()
        self._answers.clear()
        self._lines = []


class _KeptSums:
    """What the bookings of one transaction add to the derived tables, by key; the days are the sums of their hours."""

    def __init__(self) -> None:
        self._hours: dict[tuple[Any, ...], tuple[int, ...]] = {}
        self._phases: dict[tuple[Any, ...], tuple[int, ...]] = {}

    def add(self, event: UsageEvent, sums: tuple[int, ...]) -> None:
        """Add to the hour, and thereby the day, of an event, and to its phase."""
        _add(self._hours, _hour_key(event), sums)
        if event.run_id is not None:
            _add(self._phases, _phase_key(event), sums)

    def flush(self, connection: Connection) -> None:
        """Write one row for each key."""
        days: dict[tuple[Any, ...], tuple[int, ...]] = {}
        for key, sums in self._hours.items():
            _add(days, _day_key(key), sums)
        for table, names, added in (
            (usage_hours, _HOUR_KEY, self._hours),
            (usage_days, _DAY_KEY, days),
            (usage_phases, _PHASE_KEY, self._phases),
        ):
            columns = (*names, *_SUMS)
            rows = [dict(zip(columns, (*key, *sums), strict=True)) for key, sums in added.items()]
            _adding_to(table).run_many(connection, rows)
            added.clear()


def _add(added: dict[tuple[Any, ...], tuple[int, ...]], key: tuple[Any, ...], sums: tuple[int, ...]) -> None:
    before = added.get(key)
    added[key] = sums if before is None else tuple(map(operator.add, before, sums))


def _hour_key(event: UsageEvent) -> tuple[Any, ...]:
    # Microseconds since 1970 are UTC: an hour of a zone like +05:30 begins in the middle of one of ours.
    at = to_us(event.occurred_at)
    return (at - at % HOUR_US, event.purpose, event.provider, event.model, event.role, event.category or "")


def _day_key(hour_key: tuple[Any, ...]) -> tuple[Any, ...]:
    start, *rest = hour_key
    return (start - start % DAY_US, *rest)


def _phase_key(event: UsageEvent) -> tuple[Any, ...]:
    return (event.run_id, event.phase_id or "", event.purpose, event.provider, event.model, event.role)


def _drop_empty_sums(connection: Connection, event: UsageEvent) -> None:
    # A later truth may name another model; a row that counts nothing any more would not come out of a rebuild.
    hour = _hour_key(event)
    keys = [(usage_hours, _HOUR_KEY, hour), (usage_days, _DAY_KEY, _day_key(hour))]
    if event.run_id is not None:
        keys.append((usage_phases, _PHASE_KEY, _phase_key(event)))
    for table, names, key in keys:
        _drop_empty(table).run(connection, {f"same_{name}": value for name, value in zip(names, key, strict=True)})


@cache
def _adding_to(table: Table) -> BareStatement:
    """Insert a row of sums or add it to the one with its key."""

    def build(dialect: Dialect) -> ClauseElement:
        # Only the dialect in use is loaded: PostgreSQL's costs a third of what `autopack-mcp status` may take to start.
        row = import_module(f"sqlalchemy.dialects.{dialect.name}").insert(table)
        added = {name: table.c[name] + row.excluded[name] for name in _SUMS}
        statement: ClauseElement = row.on_conflict_do_update(index_elements=list(table.primary_key), set_=added)
        return statement

    return BareStatement(build)


@cache
def _drop_empty(table: Table) -> BareStatement:
    same_key = [column == bindparam(f"same_{column.name}", type_=column.type) for column in table.primary_key]
    return BareStatement(lambda _: delete(table).where(*same_key, table.c.calls == 0))
