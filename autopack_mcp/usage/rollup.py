"""Books one usage event with its sums, in the caller's transaction: the row, its lines, its hour, day and phase.

It owns the arithmetic of the derived tables, so that they equal the sum of the events at every commit; it decides
nothing and checks no cap. The ledger is its caller. They can be rebuilt from events.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import import_module
from typing import Any

from sqlalchemy import ClauseElement, Connection, Dialect, Table, bindparam, delete, insert, select, update

from autopack_mcp.clock import to_us
from autopack_mcp.database.bare import BareStatement
from autopack_mcp.database.batch import batch_of, flush_batch
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


def book(connection: Connection, event: UsageEvent, charge: Charge, recorded_at: datetime) -> None:
    """Insert the event and add it to every sum; the caller has made sure that the call is not booked yet."""
    _INSERT_EVENT.run(connection, _event_row(event, charge, recorded_at))
    _insert_lines(connection, event)
    _add_to_sums(connection, event, _sums_of(event, charge))


def rebook(connection: Connection, old: UsageEvent, old_charge: Charge, new: UsageEvent, charge: Charge,
           recorded_at: datetime) -> None:  # fmt: skip
    """Replace a booked event by a later truth about the same call, sums included."""
    minus = {name: -value for name, value in _sums_of(old, old_charge).items()}
    _add_to_sums(connection, old, minus)
    flush_batch(connection)
    _drop_empty_sums(connection, old)
    _REPLACE_EVENT.run(connection, {**_event_row(new, charge, recorded_at), "same_call": old.call_id})
    connection.execute(delete(usage_lines).where(usage_lines.c.call_id == old.call_id))
    _insert_lines(connection, new)
    _add_to_sums(connection, new, _sums_of(new, charge))


def booked_event(connection: Connection, call_id: str) -> tuple[UsageEvent, Charge] | None:
    """The event of a call as it is booked now, and what it was charged; None when there is none."""
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


def _insert_lines(connection: Connection, event: UsageEvent) -> None:
    if len(event.lines) < 2:
        return  # One line would only repeat the event.
    rows = [
        {"call_id": event.call_id, "line_index": index, "model": line.model, **_count_columns(line.counts)}
        for index, line in enumerate(event.lines)
    ]
    connection.execute(insert(usage_lines), rows)


def _sums_of(event: UsageEvent, charge: Charge) -> dict[str, int]:
    counts = event.counts
    return {
        "calls": 1,
        "failed_calls": 0 if event.status in ("ok", "external") else 1,
        "unpriced_calls": 1 if event.cost_nano is None else 0,
        "uncached_input": counts.uncached_input,
        "cache_read": counts.cache_read,
        "cache_write": counts.cache_write,
        "output": counts.output,
        "reasoning": counts.reasoning,
        "charged_tokens": charge.tokens,
        "charged_nano": charge.nano_usd,
        "cost_nano": event.cost_nano or 0,
    }


def _keys_of(event: UsageEvent) -> Iterator[tuple[Table, dict[str, Any]]]:
    # Microseconds since 1970 are UTC: an hour of a zone like +05:30 begins in the middle of one of ours.
    at = to_us(event.occurred_at)
    common = {"purpose": event.purpose, "provider": event.provider, "model": event.model, "role": event.role}
    category = event.category or ""
    yield usage_hours, {**common, "category": category, "hour_start": at - at % HOUR_US}
    yield usage_days, {**common, "category": category, "day_start": at - at % DAY_US}
    if event.run_id is not None:
        yield usage_phases, {**common, "run_id": event.run_id, "phase_id": event.phase_id or ""}


def _add_to_sums(connection: Connection, event: UsageEvent, sums: Mapping[str, int]) -> None:
    batch = batch_of(connection)
    if batch is None:
        for table, key in _keys_of(event):
            _adding_to(table).run(connection, {**key, **sums})
        return
    kept = batch.keeper(_KeptSums)
    for table, key in _keys_of(event):
        kept.add(table, key, sums)


class _KeptSums:
    """What the bookings of one transaction add to the derived tables, by table and key."""

    def __init__(self) -> None:
        self._added: dict[Table, dict[tuple[Any, ...], dict[str, Any]]] = {}

    def add(self, table: Table, key: Mapping[str, Any], sums: Mapping[str, int]) -> None:
        """Add to the row of this key."""
        rows = self._added.setdefault(table, {})
        row = rows.get(tuple(key.values()))
        if row is None:
            rows[tuple(key.values())] = {**key, **sums}
        else:
            for name, value in sums.items():
                row[name] += value

    def flush(self, connection: Connection) -> None:
        """Write one row for each key."""
        for table, rows in self._added.items():
            _adding_to(table).run_many(connection, list(rows.values()))
        self._added.clear()


def _drop_empty_sums(connection: Connection, event: UsageEvent) -> None:
    # A later truth may name another model; a row that counts nothing any more would not come out of a rebuild.
    for table, key in _keys_of(event):
        _drop_empty(table).run(connection, {f"same_{name}": value for name, value in key.items()})


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
