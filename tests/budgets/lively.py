"""A ledger that has seen everything: every way a call can end, over weeks, under caps of every kind.

It owns nothing but that scene; the tests of checking, rebuilding and deleting by age share it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import count
from typing import Any

from sqlalchemy import Connection, insert

from autopack_mcp.budgets import ledger
from autopack_mcp.budgets.call_rules import RulesInForce, RulesOf
from autopack_mcp.budgets.caps import CallScope
from autopack_mcp.config.settings import Settings, WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import phase_caps
from autopack_mcp.usage.event import UsageEvent, UsageLine
from tests.factories import (
    NOON,
    call_scope,
    held_against,
    insert_run,
    provider_settings,
    reservation,
    settings,
    token_counts,
    truth_of,
    usage_event,
)

DAYS_AGO = (0, 1, 8, 40, 100, 400)
SCOPES = (
    call_scope(),
    call_scope(phase_id="P2", role="auditor"),
    call_scope(provider="anthropic", run_id="R/2", phase_id=None),
    call_scope(provider="anthropic", role="agent:plan/er", run_id=None, phase_id=None),
)
REHEARSED = call_scope(purpose="rehearsal", run_id="H1")
_numbers = count(1)


def capped_everywhere(tokens: int = 1_000_000_000) -> Settings:
    """Caps of every kind, wide enough to deny nothing."""
    windows = tuple(WindowCap(window, tokens, tokens * 1_000) for window in ("day", "week", "month"))
    accounts = (
        provider_settings(*windows),
        provider_settings(*windows, provider="anthropic", api_key_env="ANTHROPIC_API_KEY"),
    )
    return settings(*accounts, role_caps={"builder": windows, "auditor": windows}, global_caps=windows)


def live(database: Database, days_ago: tuple[int, ...] = DAYS_AGO, config: Settings | None = None) -> None:
    """On each of these days every scope makes a call of every kind, and a rehearsal some."""
    rules = RulesInForce(config or capped_everywhere())
    database.write_now(_insert_runs)
    for days in sorted(days_ago, reverse=True):
        at = NOON - timedelta(days=days)
        for scope in SCOPES:
            database.write_now(_one_of_each_kind, scope, rules, at)
        database.write_now(_rehearse, rules, at)


def _insert_runs(connection: Connection) -> None:
    for run_id, is_rehearsal in (("R1", False), ("R/2", False), ("H1", True)):
        insert_run(connection, run_id, token_cap=10**9, cost_cap_nano=10**12, is_rehearsal=is_rehearsal)
    connection.execute(insert(phase_caps).values(run_id="R1", phase_id="P1", token_cap=10**9))


def _one_of_each_kind(connection: Connection, scope: CallScope, rules: RulesInForce, at: datetime) -> None:
    def promised(under: RulesOf = rules, **overrides: Any) -> ledger.Reservation:
        promise = reservation(f"lively-{next(_numbers)}", scope=scope, **overrides)
        assert ledger.reserve(connection, promise, under, None, at) == at
        return promise

    def settled(tokens: int, promise: ledger.Reservation | None = None, **overrides: Any) -> None:
        ledger.settle(connection, truth_of(promise or promised(), tokens=tokens, **overrides), rules, at)

    settled(70)
    settled(0, cost_nano=0, status="failed")
    settled(80, cost_nano=None, price_version=None)
    settled(55, model="gpt-4o-mini", category=None)
    settled(30, status="cut", usage_source="partial")
    settled(100, usage_source="estimated", cost_nano=None, price_version=None)
    unpriced = promised(held_against(), bound_nano=None)
    settled(100, unpriced, usage_source="estimated", cost_nano=None, price_version=None)
    _settle_two_models(connection, promised(), rules, at)
    ledger.book_external(connection, _made_elsewhere(scope, at), rules, at)
    ledger.release(connection, promised().call_id, at)
    corrected, _lost = promised(lease_s=1.0), promised(lease_s=1.0)
    ledger.expire_overdue(connection, rules, at + timedelta(seconds=2))
    settled(40, corrected)
    promised(lease_s=10**9)


def _settle_two_models(connection: Connection, promise: ledger.Reservation, rules: RulesInForce, at: datetime) -> None:
    lines = (UsageLine("gpt-4o", token_counts()), UsageLine("gpt-4o-mini", token_counts(output=1, uncached_input=2)))
    counts = lines[0].counts + lines[1].counts
    event = truth_of(promise, tokens=0, counts=counts, lines=lines, raw_usage={"iterations": 2})
    ledger.settle(connection, event, rules, at)


def _made_elsewhere(scope: CallScope, at: datetime) -> UsageEvent:
    return usage_event(f"lively-{next(_numbers)}", scope=scope, status="external", occurred_at=at)


def _rehearse(connection: Connection, rules: RulesInForce, at: datetime) -> None:
    for tokens in (10, None):
        promise = reservation(f"lively-{next(_numbers)}", scope=REHEARSED, lease_s=10**9)
        assert ledger.reserve(connection, promise, rules, None, at) == at
        if tokens is not None:
            ledger.settle(connection, truth_of(promise, tokens=tokens), rules, at)
