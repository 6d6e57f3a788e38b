"""CapView: every cap of models.yaml says whose it is, how far it is used, and when it is reached at this pace."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

from autopack_mcp.budgets.ledger import book_external, reserve
from autopack_mcp.config.settings import Settings, WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.money import NANO_PER_USD
from autopack_mcp.summary.caps import CapView, RecentCharges, cap_views
from tests.factories import (
    NOON,
    call_scope,
    held_against,
    provider_settings,
    reservation,
    settings,
    token_counts,
    usage_event,
)


def spend(database: Database, tokens: int, **overrides: Any) -> None:
    event = usage_event(counts=token_counts(uncached_input=tokens, output=0), **overrides)
    database.write_now(book_external, event, held_against(), NOON)


def caps(database: Database, of: Settings) -> tuple[CapView, ...]:
    return database.read_now(lambda connection: cap_views(connection, of, NOON, RecentCharges(connection, NOON)))


def test_caps_of_providers_roles_and_all_calls_stand_side_by_side(database: Database) -> None:
    of = settings(
        provider_settings(WindowCap("week", 1_000), share="0.5"),
        role_caps={"agent:planner": (WindowCap("day", 200),)},
        global_caps=(WindowCap("month", None, 10 * NANO_PER_USD),),
    )
    spend(database, 100, cost_nano=NANO_PER_USD)
    spend(database, 50, scope=call_scope(provider="anthropic", role="agent:planner"), cost_nano=NANO_PER_USD)
    promise = reservation(scope=call_scope(role="agent:planner"), bound_input=60, bound_output=40)
    database.write_now(reserve, promise, held_against(), None, NOON)
    found = [
        (
            cap.kind,
            cap.label,
            cap.provider,
            cap.role,
            cap.period,
            cap.window_label,
            cap.used_tokens,
            cap.reserved_tokens,
        )
        for cap in caps(database, of)
    ]
    assert found == [
        ("role", "the agent:planner's cap of the day", None, "agent:planner", "day", "2026-11-18", 150, 100),
        ("provider", "openai's cap of the week", "openai", None, "week", "2026-W47", 200, 100),
        ("global", "the cap of all calls of the month", None, None, "month", "2026-11", 250, 100),
    ]


def test_only_a_providers_share_and_soft_limit_change_a_cap(database: Database) -> None:
    of = settings(provider_settings(WindowCap("week", 1_000), share="0.5"), global_caps=(WindowCap("week", 1_000),))
    spend(database, 900)
    shared, own = sorted(caps(database, of), key=lambda cap: cap.kind)
    assert (own.cap_tokens, own.configured_cap_tokens, own.percent_of_cap) == (500, 1_000, 180.0)
    assert (own.soft_limit_percent, own.is_over_soft_limit) == (80.0, True)
    assert (shared.cap_tokens, shared.configured_cap_tokens, shared.percent_of_cap) == (1_000, 1_000, 90.0)
    assert (shared.soft_limit_percent, shared.is_over_soft_limit, shared.level) == (None, False, "critical")


def test_each_cap_is_paced_by_the_calls_that_it_counts(database: Database) -> None:
    of = settings(
        provider_settings(WindowCap("week", 1_000)),
        role_caps={"auditor": (WindowCap("week", 1_000),)},
        global_caps=(WindowCap("week", 1_000),),
    )
    two_hours_ago = NOON - timedelta(hours=2)
    spend(database, 100, occurred_at=two_hours_ago)
    spend(database, 300, scope=call_scope(provider="anthropic", role="auditor"), occurred_at=two_hours_ago)
    burns = {cap.kind: cap.pace.burn for cap in caps(database, of) if cap.pace is not None}
    assert {kind: burn.tokens_per_hour for kind, burn in burns.items() if burn is not None} == {
        "provider": 50,
        "role": 150,
        "global": 200,
    }


def test_a_pace_is_measured_from_the_first_hour_with_a_call_in_the_window(database: Database) -> None:
    of = settings(
        provider_settings(WindowCap("day", 1_000), WindowCap("week", 1_000)),
        provider_settings(WindowCap("week", 1_000), provider="anthropic", api_key_env="ANTHROPIC_API_KEY"),
    )
    for hours, tokens in ((37, 1_000), (16, 100), (4, 10), (2, 1)):
        spend(database, tokens, occurred_at=NOON - timedelta(hours=hours))
    spend(database, 5, scope=call_scope(provider="anthropic"), occurred_at=NOON - timedelta(hours=5))
    burns = {cap.label: cap.pace.burn for cap in caps(database, of) if cap.pace is not None}
    assert {label: (burn.measured_from, burn.tokens) for label, burn in burns.items() if burn is not None} == {
        "openai's cap of the day": (NOON - timedelta(hours=4), 11),
        "openai's cap of the week": (NOON - timedelta(hours=16), 111),
        "anthropic's cap of the week": (NOON - timedelta(hours=5), 5),
    }


def test_calls_of_hours_that_have_not_come_are_no_pace(database: Database) -> None:
    spend(database, 500, occurred_at=NOON + timedelta(hours=30))
    (cap,) = caps(database, settings(provider_settings(WindowCap("week", 1_000))))
    assert cap.pace is not None
    assert (cap.used_tokens, cap.pace.burn) == (500, None)


def test_rehearsed_calls_are_no_pace(database: Database) -> None:
    spend(database, 500, scope=call_scope(purpose="rehearsal"))
    (cap,) = caps(database, settings(provider_settings(WindowCap("week", 1_000))))
    assert cap.pace is not None
    assert (cap.used_tokens, cap.pace.burn) == (0, None)


def test_a_cap_in_dollars_is_paced_in_dollars(database: Database) -> None:
    of = settings(provider_settings(WindowCap("week", None, 10 * NANO_PER_USD)))
    spend(database, 5, cost_nano=4 * NANO_PER_USD, occurred_at=NOON - timedelta(hours=4))
    (cap,) = caps(database, of)
    assert cap.pace is not None
    assert (cap.percent_of_cap, cap.percent_of_cap_usd, cap.cap_usd) == (None, 40.0, Decimal(10))
    assert (cap.pace.unit, cap.pace.reached_at) == ("dollars", NOON + timedelta(hours=6))
