"""Alerts: each level of each cap once, from what is spent and not from what may be given back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import select

from autopack_mcp.budgets import ledger
from autopack_mcp.budgets.alerts import Alert, alerts_between
from autopack_mcp.budgets.caps import ScopeCap
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import outbox
from tests.factories import NOON, call_scope, held_against, reservation, run_cap, truth_of, usage_event, window_cap

WEEK = timedelta(days=7)


def spend(database: Database, tokens: int, *caps: ScopeCap, levels: Sequence[int] = (80, 90)) -> None:
    rules = held_against(*caps, alert_levels_percent=levels)
    promise = reservation(bound_input=tokens, bound_output=0)
    database.write_now(ledger.reserve, promise, held_against(), None, NOON)
    database.write_now(ledger.settle, truth_of(promise, tokens=tokens), rules, NOON)


def raised(database: Database) -> list[tuple[str, str, int]]:
    return [(alert.scope, alert.unit, alert.level_percent) for alert in _all(database)]


def _all(database: Database) -> tuple[Alert, ...]:
    return database.read_now(alerts_between, NOON - WEEK, NOON + WEEK, 100)[::-1]


def messages(database: Database) -> list[str]:
    texts = select(outbox.c.text).where(outbox.c.delivered_at.is_(None)).order_by(outbox.c.message_id)
    return list(database.read_now(lambda connection: connection.execute(texts).scalars().all()))


@pytest.mark.parametrize("spent, levels", [(799, []), (800, [80]), (899, [80]), (900, [80, 90]), (1_000, [80, 90])])
def test_a_level_is_told_when_it_is_reached(database: Database, spent: int, levels: list[int]) -> None:
    spend(database, spent, window_cap(tokens=1_000))
    assert raised(database) == [("provider/openai/week/2026-W47", "tokens", level) for level in levels]


def test_each_level_is_told_once_and_leaves_one_message(database: Database) -> None:
    cap = window_cap(tokens=1_000)
    for _ in range(4):
        spend(database, 230, cap)
    assert [level for *_, level in raised(database)] == [80, 90]
    assert messages(database) == [
        "80 % of openai's cap of the week are spent: 920 tokens of 1,000 tokens.",
        "90 % of openai's cap of the week are spent: 920 tokens of 1,000 tokens.",
    ]


def test_every_cap_and_unit_has_its_own_levels(database: Database) -> None:
    spend(database, 850, window_cap(tokens=1_000, nano_usd=600_000), run_cap(tokens=1_000), window_cap("day"))
    assert raised(database) == [
        ("provider/openai/week/2026-W47", "tokens", 80),
        ("provider/openai/week/2026-W47", "nano_usd", 80),
        ("run/R1", "tokens", 80),
    ]


def test_what_only_calls_in_flight_hold_raises_no_alert(database: Database) -> None:
    cap = window_cap(tokens=1_000)
    in_flight = reservation(bound_input=950, bound_output=0)
    database.write_now(ledger.reserve, in_flight, held_against(cap), None, NOON)
    spend(database, 50, cap)
    assert raised(database) == []


def test_a_call_that_is_charged_because_it_was_lost_raises_one(database: Database) -> None:
    lost = reservation(bound_input=850, bound_output=0, lease_s=1)
    database.write_now(ledger.reserve, lost, held_against(), None, NOON)
    rules = held_against(window_cap(tokens=1_000), alert_levels_percent=(80,))
    database.write_now(ledger.expire_overdue, rules, NOON + timedelta(seconds=2))
    assert [level for *_, level in raised(database)] == [80]


def test_a_cap_that_was_raised_is_another_cap_and_warns_anew(database: Database) -> None:
    spend(database, 850, window_cap(tokens=1_000))
    spend(database, 800, window_cap(tokens=2_000))
    assert [(alert.allowance, alert.level_percent) for alert in _all(database)] == [(1_000, 80), (2_000, 80)]


def test_the_next_window_warns_anew(database: Database) -> None:
    for at in (NOON, NOON + WEEK):
        event = usage_event(counts=usage_event().counts, occurred_at=at)
        rules = held_against(window_cap(tokens=100, at=at), alert_levels_percent=(80,))
        database.write_now(ledger.book_external, event, rules, at)
    found = database.read_now(alerts_between, NOON - WEEK, NOON + 2 * WEEK, 100)
    assert [alert.scope for alert in found] == ["provider/openai/week/2026-W48", "provider/openai/week/2026-W47"]


def test_a_rehearsal_warns_in_its_own_scopes_and_wakes_nobody(database: Database) -> None:
    rehearsed = call_scope(purpose="rehearsal")
    cap = ScopeCap("rehearsal/R1/run/R1", "run", "the cap of run R1", 100, None)
    rules = held_against(cap, alert_levels_percent=(80,))
    database.write_now(ledger.book_external, usage_event(scope=rehearsed), rules, NOON)
    assert raised(database) == []
    assert messages(database) == []
    own = database.read_now(alerts_between, NOON - WEEK, NOON + WEEK, 100, ["rehearsal/R1/run/R1"])
    assert [alert.level_percent for alert in own] == [80]


def test_without_levels_nothing_is_told(database: Database) -> None:
    spend(database, 1_000, window_cap(tokens=1_000), levels=())
    assert raised(database) == []
