"""UsageSummary: sums against the caps that are ours, and levels that are never shown before they are reached."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Connection, insert, update

from autopack_mcp.budgets.ledger import book_external, reserve
from autopack_mcp.config.settings import Settings, WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import retention, usage_days
from autopack_mcp.errors import RequestRefused
from autopack_mcp.money import NANO_PER_USD
from autopack_mcp.summary.caps import CapView, level_of, percent_of
from autopack_mcp.summary.usage import RUNS_UP_TO_CALLS, ProviderUsage, UsageSummary, usage_summary
from autopack_mcp.usage.event import UsageEvent
from tests.factories import (
    NOON,
    call_scope,
    held_against,
    insert_run,
    provider_settings,
    reservation,
    settings,
    token_counts,
    usage_event,
    window_cap,
)

LEVELS = (80, 90)


def capped(tokens: int | None = 1_000, *, share: str = "1", nano_usd: int | None = None, **overrides: Any) -> Settings:
    return settings(provider_settings(WindowCap("week", tokens, nano_usd), share=share), **overrides)


def book(database: Database, *events: UsageEvent) -> None:
    for event in events:
        database.write_now(book_external, event, held_against(), NOON)


def spend(database: Database, tokens: int, **overrides: Any) -> None:
    book(database, usage_event(counts=token_counts(uncached_input=tokens, output=0), **overrides))


def usage(database: Database, of: Settings, period: str = "week", offset: int = 0) -> UsageSummary:
    return database.read_now(usage_summary, of, NOON, period, offset)


def openai(summary: UsageSummary) -> ProviderUsage:
    return next(row for row in summary.providers if row.provider == "openai")


def test_used_is_settled_plus_reserved_against_the_allowance(database: Database) -> None:
    spend(database, 300)
    database.write_now(reserve, reservation(bound_input=100, bound_output=50), held_against(), None, NOON)
    row = openai(usage(database, capped(1_001, share="0.5")))
    assert (row.configured_cap_tokens, row.cap_tokens) == (1_001, 500)
    assert (row.charged_tokens, row.reserved_tokens, row.percent_of_cap, row.level) == (300, 150, 90.0, "critical")
    assert row.resets_at is not None
    assert row.resets_at.isoformat() == "2026-11-23T00:00:00+00:00"


def test_what_the_summary_shows_is_what_the_ledger_compares(database: Database) -> None:
    of = capped(1_000)
    cap = window_cap(tokens=1_000)
    spend(database, 600)
    assert (
        database.write_now(reserve, reservation(bound_input=300, bound_output=100), held_against(cap), None, NOON)
        == NOON
    )
    row = openai(usage(database, of))
    assert (row.percent_of_cap, row.level) == (100.0, "critical")
    denial = database.write_now(reserve, reservation(bound_input=1, bound_output=0), held_against(cap), None, NOON)
    assert denial != NOON


def test_without_a_cap_in_this_period_there_is_no_percent_and_no_level(database: Database) -> None:
    spend(database, 300)
    row = openai(usage(database, capped(), "day"))
    assert (row.cap_tokens, row.configured_cap_tokens, row.percent_of_cap, row.level) == (None, None, None, None)
    assert (row.total_tokens, row.charged_tokens) == (300, 300)


def test_a_cap_in_dollars_has_its_own_percent_and_the_level_is_the_worse_one(database: Database) -> None:
    spend(database, 100, cost_nano=9 * NANO_PER_USD)
    row = openai(usage(database, capped(1_000, nano_usd=10 * NANO_PER_USD)))
    assert (row.percent_of_cap, row.percent_of_cap_usd, row.level) == (10.0, 90.0, "critical")
    assert (row.cap_usd, row.configured_cap_usd, row.cost_usd) == (Decimal(10), Decimal(10), Decimal(9))


def test_every_configured_provider_has_a_row_and_so_has_one_that_is_configured_no_more(database: Database) -> None:
    spend(database, 5, scope=call_scope(provider="gone"))
    rows = {row.provider: row for row in usage(database, capped()).providers}
    assert rows.keys() == {"openai", "anthropic", "gone"}
    assert (rows["gone"].total_tokens, rows["gone"].level, rows["gone"].soft_limit_percent) == (5, None, None)
    assert (rows["openai"].total_tokens, rows["openai"].soft_limit_percent) == (0, 80.0)


def test_rehearsals_are_in_no_number_of_the_summary(database: Database) -> None:
    spend(database, 500, scope=call_scope(purpose="rehearsal"))
    summary = usage(database, capped())
    assert (summary.total_tokens, summary.models, summary.roles, summary.cost_usd) == (0, (), (), Decimal(0))
    assert openai(summary).charged_tokens == 0
    assert "Rehearsals are not in these numbers" in summary.note
    assert summary.rehearsed_calls == 1


@pytest.mark.parametrize(("offset", "calls"), [(0, 2), (-1, 0)], ids=["this week", "the week before"])
def test_rehearsed_calls_of_the_time_asked_for_are_counted_apart(database: Database, offset: int, calls: int) -> None:
    for _ in range(2):
        spend(database, 500, scope=call_scope(purpose="rehearsal"))
    spend(database, 5)
    assert usage(database, capped(), offset=offset).rehearsed_calls == calls


def test_core_and_auxiliary_roles_add_up_to_all(database: Database) -> None:
    for role, tokens in (("builder", 1), ("auditor", 10), ("agent:planner", 100)):
        spend(database, tokens, scope=call_scope(role=role))
    summary = usage(database, capped())
    assert (summary.core_tokens, summary.auxiliary_tokens, summary.total_tokens) == (11, 100, 111)
    assert [(row.role, row.is_core) for row in summary.roles] == [
        ("agent:planner", False), ("auditor", True), ("builder", True),
    ]  # fmt: skip


def test_unpriced_calls_are_counted_apart_from_what_is_known(database: Database) -> None:
    spend(database, 1, cost_nano=None, model="mystery")
    spend(database, 2, cost_nano=NANO_PER_USD)
    summary = usage(database, capped())
    assert (summary.cost_usd, summary.unpriced_calls) == (Decimal(1), 1)
    assert {row.model: row.cost_usd for row in summary.models} == {"mystery": None, "gpt-4o": Decimal(1)}


def test_last_week_holds_last_weeks_calls_and_no_present_caps(database: Database) -> None:
    spend(database, 700, occurred_at=NOON - timedelta(weeks=1))
    spend(database, 5)
    summary = usage(database, capped(), offset=-1)
    assert (summary.window_label, summary.offset, summary.total_tokens, summary.caps) == ("2026-W46", -1, 700, ())
    assert (openai(summary).charged_tokens, openai(summary).percent_of_cap) == (700, 70.0)


def test_a_call_in_flight_over_midnight_stays_in_the_window_it_was_reserved_in(database: Database) -> None:
    yesterday = NOON - timedelta(days=1)
    database.write_now(reserve, reservation(), held_against(), None, yesterday)
    assert openai(usage(database, capped(), "day", -1)).reserved_tokens == 100
    assert openai(usage(database, capped(), "day")).reserved_tokens == 0


def test_caps_of_every_period_stand_fullest_first(database: Database) -> None:
    spend(database, 100)
    spend(database, 50, scope=call_scope(provider="anthropic"))
    of = settings(
        provider_settings(WindowCap("day", 1_000), WindowCap("month", 200)),
        provider_settings(WindowCap("week", 100), provider="anthropic"),
    )
    caps = usage(database, of).caps
    assert [(cap.provider, cap.period, cap.window_label, cap.percent_of_cap) for cap in caps] == [
        ("anthropic", "week", "2026-W47", 50.0),
        ("openai", "month", "2026-11", 50.0),
        ("openai", "day", "2026-11-18", 10.0),
    ]


def test_a_cap_over_its_soft_limit_says_so(database: Database) -> None:
    def cap(of: Settings) -> CapView:
        return usage(database, of).caps[0]

    spend(database, 799)
    assert (cap(capped()).is_over_soft_limit, cap(capped()).level) == (False, "ok")
    spend(database, 1)
    assert (cap(capped()).is_over_soft_limit, cap(capped()).level) == (True, "warn")


def test_breaches_of_the_window_are_counted_and_shadow_caps_are_not(database: Database) -> None:
    cap = window_cap(tokens=10)
    database.write_now(book_external, usage_event(), held_against(cap), NOON)
    shadow = call_scope(purpose="rehearsal")
    shadow_cap = window_cap(tokens=10)
    shadow_cap = type(shadow_cap)(
        f"rehearsal/R1/{cap.scope}", "provider", "", 10, None, "week", "openai", cap.resets_at
    )
    database.write_now(book_external, usage_event(scope=shadow), held_against(shadow_cap), NOON)
    assert usage(database, capped()).breaches == 1
    assert usage(database, capped(), offset=-1).breaches == 0


def test_a_stretch_between_two_dates_is_measured_against_no_cap(database: Database) -> None:
    for days, tokens in ((0, 1), (1, 10), (5, 100), (16, 1_000), (17, 10_000)):
        spend(database, tokens, occurred_at=NOON - timedelta(days=days))
    of = capped()
    summary = database.read_now(usage_summary, of, NOON, from_="2026-11-02", to="2026-11-17")
    assert (summary.period, summary.offset, summary.window_label) == (None, 0, "2026-11-02 to 2026-11-17")
    assert (summary.starts_at, summary.ends_at) == (NOON.replace(day=2, hour=0), NOON.replace(day=18, hour=0))
    assert (summary.total_tokens, summary.caps, summary.burn) == (1_110, (), None)
    row = openai(summary)
    assert (row.period, row.cap_tokens, row.percent_of_cap, row.level, row.resets_at) == (None,) * 5
    assert (row.total_tokens, row.charged_tokens) == (1_110, 1_110)


def test_a_stretch_of_hours_holds_its_hours_and_no_more(database: Database) -> None:
    for hours in (0, 1, 13, 36, 37, 60):
        spend(database, 1 << hours, occurred_at=NOON - timedelta(hours=hours))
    start = NOON - timedelta(hours=36)
    summary = database.read_now(usage_summary, capped(), NOON, from_=start, to=NOON)
    assert summary.total_tokens == (1 << 1) + (1 << 13) + (1 << 36)
    assert [(day.date, day.total_tokens) for day in summary.days] == [
        ("2026-11-17", 1 << 36 | 1 << 13),
        ("2026-11-18", 1 << 1),
    ]


def test_what_calls_in_flight_hold_is_shown_without_a_cap_too(database: Database) -> None:
    database.write_now(reserve, reservation(), held_against(), None, NOON)
    database.write_now(reserve, reservation(scope=call_scope(purpose="rehearsal")), held_against(), None, NOON)
    assert openai(usage(database, settings())).reserved_tokens == 100


def test_history_has_every_day_that_has_begun(database: Database) -> None:
    spend(database, 7, cost_nano=NANO_PER_USD)
    spend(database, 5, occurred_at=NOON - timedelta(days=2), cost_nano=None)
    days = usage(database, capped()).days
    assert [(day.date, day.total_tokens, day.cost_usd, day.unpriced_calls) for day in days] == [
        ("2026-11-16", 5, None, 1),
        ("2026-11-17", 0, Decimal(0), 0),
        ("2026-11-18", 7, Decimal(1), 0),
    ]


def test_categories_are_told_apart_and_calls_without_one_have_none(database: Database) -> None:
    spend(database, 5, category="ui")
    spend(database, 7, category=None)
    spend(database, 1, category="ui")
    found = [(row.category, row.total_tokens, row.calls) for row in usage(database, capped()).categories]
    assert found == [("", 7, 1), ("ui", 6, 2)]


def test_runs_of_the_span_are_told_apart_by_what_they_spent_in_it(database: Database) -> None:
    database.write_now(insert_run, "R1", plan_name="Lending\u202e library")
    spend(database, 5, cost_nano=NANO_PER_USD)
    spend(database, 70, scope=call_scope(phase_id="P2"), cost_nano=None)
    spend(database, 600, occurred_at=NOON - timedelta(weeks=1))
    spend(database, 8_000, scope=call_scope(run_id="theirs"))
    spend(database, 90_000, scope=call_scope(run_id=None, phase_id=None))
    spend(database, 1_000_000, scope=call_scope(purpose="rehearsal"))
    runs = usage(database, capped()).runs
    assert runs is not None
    assert [(run.run_id, run.plan_name, run.total_tokens, run.calls, run.unpriced_calls) for run in runs] == [
        ("theirs", None, 8_000, 1, 0),
        ("R1", "Lending\\u202e library", 75, 2, 1),
    ]
    assert runs[1].cost_usd == Decimal(1)


def test_runs_among_many_calls_are_told_apart_for_whoever_asks(database: Database) -> None:
    def many(connection: Connection) -> None:
        # As if there were as many more of them; only the sum of a day is asked how many there are.
        connection.execute(update(usage_days).values(calls=RUNS_UP_TO_CALLS + 1))

    spend(database, 1)
    database.write_now(many)
    summary = usage(database, capped())
    assert (summary.runs, summary.runs_note) == (None, "More than 5,000 calls: runs are told apart for less time.")
    asked = database.read_now(usage_summary, capped(), NOON, with_runs=True)
    assert asked.runs is not None
    assert [(run.run_id, run.calls) for run in asked.runs] == [("R1", 1)]


def test_runs_are_not_told_apart_where_calls_went_by_age(database: Database) -> None:
    def pruned(connection: Connection) -> None:
        before = NOON.replace(day=10, hour=0)
        connection.execute(insert(retention).values(name="usage_events", pruned_before=before, pruned_at=NOON))

    database.write_now(pruned)
    assert usage(database, capped()).runs == ()
    summary = usage(database, capped(), "month")
    note = "Calls before 2026-11-10 went by age; runs are not told apart."
    assert (summary.runs, summary.runs_note) == (None, note)


def test_the_present_window_has_a_rate_and_past_ones_have_none(database: Database) -> None:
    spend(database, 600, occurred_at=NOON - timedelta(hours=3))
    burn = usage(database, capped()).burn
    assert burn is not None
    assert (burn.tokens_per_hour, burn.measured_from) == (200, NOON - timedelta(hours=3))
    assert usage(database, capped(), offset=-1).burn is None


def test_core_and_auxiliary_costs_stand_apart(database: Database) -> None:
    spend(database, 1, cost_nano=NANO_PER_USD)
    spend(database, 1, scope=call_scope(role="agent:planner"), cost_nano=None)
    summary = usage(database, capped())
    assert (summary.core_cost_usd, summary.auxiliary_cost_usd, summary.cost_usd) == (Decimal(1), None, Decimal(1))


def test_hidden_characters_in_names_are_shown(database: Database) -> None:
    spend(database, 1, model="gpt\u202e\x1b[2J", category="a\nb", scope=call_scope(role="agent:\u200b"))
    summary = usage(database, capped())
    assert [summary.models[0].model, summary.categories[0].category, summary.roles[0].role] == [
        "gpt\\u202e\\x1b[2J", "a\\nb", "agent:\\u200b",
    ]  # fmt: skip


def test_a_window_of_the_future_is_refused(database: Database) -> None:
    with pytest.raises(RequestRefused, match="names no past or present week"):
        usage(database, capped(), offset=1)


@pytest.mark.parametrize(
    ("used", "percent", "level"),
    [
        (0, 0.0, "ok"),
        (7_999, 79.9, "ok"),
        (8_000, 80.0, "warn"),
        (8_999, 89.9, "warn"),
        (9_000, 90.0, "critical"),
        (10_000, 100.0, "critical"),
        (10_001, 100.0, "exceeded"),
        (11_200, 112.0, "exceeded"),
    ],
    ids=str,
)
def test_levels_begin_exactly_where_the_shown_percent_says(used: int, percent: float, level: str) -> None:
    assert (percent_of(used, 10_000), level_of(used, 10_000, LEVELS)) == (percent, level)


@pytest.mark.parametrize(
    ("alert_levels", "used", "level"),
    [
        ((), 99, "ok"),
        ((), 100, "critical"),
        ((50,), 50, "warn"),
        ((50,), 99, "warn"),
        ((50,), 100, "critical"),
        ((50, 60, 70), 60, "warn"),
        ((70, 50), 70, "critical"),
    ],
)
def test_alert_levels_are_the_persons(alert_levels: tuple[int, ...], used: int, level: str) -> None:
    assert level_of(used, 100, alert_levels) == level


def test_an_allowance_of_nothing_is_used_up_and_no_cap_has_no_percent() -> None:
    assert (percent_of(0, 0), level_of(0, 0, LEVELS)) == (100.0, "critical")
    assert (percent_of(5, None), level_of(5, None, LEVELS)) == (None, None)
