"""What the ledger must add up to, computed the slow way from its events and reservations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, select, text

from autopack_mcp.budgets.caps import CallScope, scopes_of_call
from autopack_mcp.budgets.ledger import ScopeUse
from autopack_mcp.database.tables import budget_scopes, metadata, reservations, usage_events

SUMS = """
    count(*), sum(CASE WHEN status IN ('ok', 'external') THEN 0 ELSE 1 END),
    sum(CASE WHEN cost_nano IS NULL THEN 1 ELSE 0 END), sum(uncached_input), sum(cache_read),
    sum(cache_write_5m + cache_write_1h + cache_write_other), sum(output), sum(reasoning), sum(charged_tokens),
    sum(charged_nano), sum(coalesce(cost_nano, 0))
"""
SUM_COLUMNS = """
    calls, failed_calls, unpriced_calls, uncached_input, cache_read, cache_write, output, reasoning, charged_tokens,
    charged_nano, cost_nano
"""
HOURS_OF_EVENTS = f"""
    SELECT occurred_at - occurred_at % 3600000000, purpose, provider, model, role, coalesce(category, ''), {SUMS}
    FROM usage_events GROUP BY 1, 2, 3, 4, 5, 6
"""
PHASES_OF_EVENTS = f"""
    SELECT run_id, coalesce(phase_id, ''), purpose, provider, model, role, {SUMS}
    FROM usage_events WHERE run_id IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6
"""
DAYS_OF_EVENTS = HOURS_OF_EVENTS.replace("3600000000", "86400000000")
HOURS = f"SELECT hour_start, purpose, provider, model, role, category, {SUM_COLUMNS} FROM usage_hours"
DAYS = HOURS.replace("hour", "day")
PHASES = f"SELECT run_id, phase_id, purpose, provider, model, role, {SUM_COLUMNS} FROM usage_phases"

Rows = list[tuple[Any, ...]]


def everything(connection: Connection) -> Mapping[str, Rows]:
    """Every row of every table, to see that nothing changed."""
    return {table.name: _rows(connection, f"SELECT * FROM {table.name}") for table in metadata.sorted_tables}


def rollups(connection: Connection) -> Mapping[str, Rows]:
    """The derived tables as they stand."""
    return {
        "usage_hours": _rows(connection, HOURS),
        "usage_days": _rows(connection, DAYS),
        "usage_phases": _rows(connection, PHASES),
    }


def true_rollups(connection: Connection) -> Mapping[str, Rows]:
    """The derived tables as GROUP BY over the events makes them."""
    return {
        "usage_hours": _rows(connection, HOURS_OF_EVENTS),
        "usage_days": _rows(connection, DAYS_OF_EVENTS),
        "usage_phases": _rows(connection, PHASES_OF_EVENTS),
    }


def counters(connection: Connection) -> dict[str, ScopeUse]:
    """Every counter as it stands."""
    return {
        row.scope: ScopeUse(row.settled_tokens, row.reserved_tokens, row.settled_nano, row.reserved_nano)
        for row in connection.execute(select(budget_scopes))
    }


def true_counters(connection: Connection) -> dict[str, ScopeUse]:
    """What the counter of every scope that was ever touched must be: all events, and all reservations still held."""
    sums: dict[str, Counter[str]] = {}
    for row in connection.execute(select(usage_events)).mappings():
        for name in _scopes(row, row["occurred_at"]):
            found = sums.setdefault(name, Counter())
            found.update(settled_tokens=row["charged_tokens"], settled_nano=row["charged_nano"])
    for row in connection.execute(select(reservations).where(reservations.c.state == "held")).mappings():
        for name in _scopes(row, row["reserved_at"]):
            found = sums.setdefault(name, Counter())
            bound = row["bound_input"] + row["bound_output"]
            found.update(reserved_tokens=bound, reserved_nano=row["bound_nano"] or 0)
    return {name: ScopeUse(**found) for name, found in sums.items()}


def assert_ledger_adds_up(connection: Connection) -> None:
    """Counters and derived tables equal what the events and the held reservations say."""
    truth = true_counters(connection)
    assert counters(connection) == {name: truth.get(name, ScopeUse()) for name in counters(connection)}
    assert rollups(connection) == true_rollups(connection)


def _scopes(row: RowMapping, at: datetime) -> tuple[str, ...]:
    scope = CallScope(row["provider"], row["role"], row["purpose"], row["run_id"], row["phase_id"])
    return scopes_of_call(scope, at)


def _rows(connection: Connection, query: str) -> Rows:
    return sorted(map(tuple, connection.execute(text(query))), key=repr)
