"""Alerts: once per cap, window and level, that so much of an allowance has been spent.

It owns ``alerts`` and writes a message for each into the outbox; settle calls it in its own transaction, so an alert
is neither lost nor raised twice. What only calls in flight hold does not count: it may be given back. It delivers
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from typing import Literal

from sqlalchemy import ClauseElement, ColumnElement, Connection, Dialect, and_, insert, or_, select

from autopack_mcp.budgets.caps import CallScope, ScopeCap, phase_scope, scopes_of_call, shadow_prefix
from autopack_mcp.budgets.counters import ScopeUse
from autopack_mcp.budgets.measures import amount, measures
from autopack_mcp.clock import to_us
from autopack_mcp.database.bare import BareStatement
from autopack_mcp.database.tables import alerts, outbox, usage_phases
from autopack_mcp.usage.event import Purpose


@dataclass(frozen=True, slots=True)
class Alert:
    """``level_percent`` of an allowance were spent at ``occurred_at``; ``label`` names the cap in a sentence."""

    alert_id: int
    scope: str
    unit: Literal["tokens", "nano_usd"]
    level_percent: int
    allowance: int
    used: int
    call_id: str
    label: str
    occurred_at: datetime

    @property
    def sentence(self) -> str:
        """It in words, with its numbers."""
        of = f"{amount(self.unit, self.used)} of {amount(self.unit, self.allowance)}"
        return f"{self.level_percent} % of {self.label} are spent: {of}."


_FACTS = tuple(name for name in Alert.__dataclass_fields__ if name != "alert_id")


def raise_alerts(
    connection: Connection,
    caps: Sequence[ScopeCap],
    uses: Mapping[str, ScopeUse],
    levels_percent: Sequence[int],
    call_id: str,
    at: datetime,
) -> None:
    """Write down every level that the settled part of these counters has reached and that is not on record yet."""
    for cap in caps:
        if cap.scope not in uses:
            continue
        for measure in measures(cap, uses[cap.scope]):
            for level in levels_percent:
                if measure.settled * 100 >= level * measure.allowance:
                    alert = Alert(
                        0, cap.scope, measure.unit, level, measure.allowance, measure.settled, call_id, cap.label, at
                    )
                    _raise(connection, alert)


def alerts_between(
    connection: Connection, start: datetime, end: datetime, limit: int, scopes: Sequence[str] | None = None
) -> tuple[Alert, ...]:
    """The newest ``limit`` alerts with ``start <= occurred_at < end``, newest first; of some counters, or of all real
    ones (not those of a rehearsal's shadow).
    """
    within: list[ColumnElement[bool]] = [alerts.c.occurred_at >= start, alerts.c.occurred_at < end]
    if scopes is None:
        within.append(~alerts.c.scope.startswith("rehearsal/", autoescape=True))
    else:
        within.append(alerts.c.scope.in_(scopes))
    return _newest(connection, and_(*within), limit)


def alerts_on_run(connection: Connection, run_id: str, purpose: Purpose, at: datetime, limit: int) -> tuple[Alert, ...]:
    """The newest ``limit`` alerts of what the calls of a run count on, newest first: the run, its phases, and of the
    providers and roles it has asked, and of all calls, the windows that are open ``at`` that moment.
    """
    is_rehearsed = usage_phases.c.purpose == "rehearsal"
    asked = select(usage_phases.c.provider, usage_phases.c.role).distinct()
    rows = connection.execute(
        asked.where(usage_phases.c.run_id == run_id, is_rehearsed if purpose == "rehearsal" else ~is_rehearsed)
    )
    calls = [CallScope(provider, role, purpose, run_id) for provider, role in rows]
    scopes = {scope for call in calls for scope in scopes_of_call(call, at)}
    if not scopes:
        return ()  # Nothing was spent, so no level was reached by it.
    of_phases = alerts.c.scope.startswith(phase_scope(shadow_prefix(calls[0]), run_id, ""), autoescape=True)
    return _newest(connection, or_(alerts.c.scope.in_(scopes), of_phases), limit)


def _newest(connection: Connection, which: ColumnElement[bool], limit: int) -> tuple[Alert, ...]:
    found = select(alerts).where(which).order_by(alerts.c.alert_id.desc()).limit(limit)
    return tuple(Alert(**row) for row in connection.execute(found).mappings())


def _raise(connection: Connection, alert: Alert) -> None:
    facts = {name: getattr(alert, name) for name in _FACTS}
    row = _INSERT.row(connection, {**facts, "occurred_at": to_us(alert.occurred_at)})
    if row is None or alert.scope.startswith("rehearsal/"):
        return  # On record already; or nothing that anybody should be woken up for.
    message = {"kind": "alert", "subject_id": row[0], "run_id": None, "text": alert.sentence, "tries": 0}
    connection.execute(insert(outbox).values(**message, created_at=alert.occurred_at))


def _insert(dialect: Dialect) -> ClauseElement:
    # Only the dialect in use is loaded: PostgreSQL's costs a third of what `autopack-mcp status` may take to start.
    row = import_module(f"sqlalchemy.dialects.{dialect.name}").insert(alerts)
    statement: ClauseElement = row.on_conflict_do_nothing().returning(alerts.c.alert_id)
    return statement


_INSERT = BareStatement(_insert, _FACTS)
