"""Alerts as people see them: which part of which cap was spent, and when, each as a sentence.

It words what the ledger wrote down, and decides nothing; the summaries of a run and of usage hold these views.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from autopack_mcp.budgets.alerts import Alert, alerts_between, alerts_on_run
from autopack_mcp.money import usd
from autopack_mcp.runs.records import RunRecord
from autopack_mcp.summary.shown import tokens_text, usd_text
from autopack_mcp.text_safety import visible
from autopack_mcp.usage.event import Purpose

ALERTS_SHOWN = 10  # The newest.
LABEL_CHARS = 200  # Of a cap's name: a provider, a run or a phase is named in it.


@dataclass(frozen=True, slots=True)
class AlertView:
    """``level_percent`` of a cap's allowance were spent at ``occurred_at``; ``cap`` names it: "openai's cap of …"."""

    level_percent: int
    cap: str
    occurred_at: datetime
    sentence: str


def alerts_in_window(connection: Connection, start: datetime, end: datetime) -> tuple[AlertView, ...]:
    """The newest alerts with ``start <= occurred_at < end``, newest first; not those of a rehearsal's own counters."""
    return _views(alerts_between(connection, start, end, ALERTS_SHOWN))


def alerts_of_run(connection: Connection, run: RunRecord, now: datetime) -> tuple[AlertView, ...]:
    """The newest alerts of what a run counts on, newest first: itself, its phases, and the windows of its providers and
    roles and of all calls that are open now.
    """
    purpose: Purpose = "rehearsal" if run.is_rehearsal else "run"
    return _views(alerts_on_run(connection, run.run_id, purpose, now, ALERTS_SHOWN))


def _views(alerts: Iterable[Alert]) -> tuple[AlertView, ...]:
    return tuple(_view(alert) for alert in alerts)


def _view(alert: Alert) -> AlertView:
    cap = visible(alert.label, LABEL_CHARS)
    if alert.unit == "tokens":
        amounts = f"{tokens_text(alert.used)} of {tokens_text(alert.allowance)} tokens"
    else:
        amounts = f"{usd_text(usd(alert.used))} of {usd_text(usd(alert.allowance))}"
    when = f"{alert.occurred_at:%Y-%m-%d %H:%M} UTC"
    sentence = f"{alert.level_percent} % of {cap} was reached at {when}: {amounts}."
    return AlertView(alert.level_percent, cap, alert.occurred_at, sentence)
