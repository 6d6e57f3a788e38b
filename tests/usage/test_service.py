"""UsageService and its questions: the sums are those of the events, and rehearsed calls never mix with real ones."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.clock import ManualClock
from autopack_mcp.database.engine import Database
from autopack_mcp.usage.event import UsageEvent
from autopack_mcp.usage.service import (
    UsageService,
    first_hour,
    spent_by_phase,
    spent_by_run,
    usage_by_category,
    usage_by_day,
    usage_by_provider,
    usage_by_role,
    usage_by_run,
    usage_of_run,
)
from autopack_mcp.usage.spans import asked_span
from tests.factories import NOON, call_scope, held_against, token_counts, usage_event

WEEK = asked_span(NOON)


def book(database: Database, *events: UsageEvent) -> None:
    for event in events:
        database.write_now(book_external, event, held_against(), NOON)


@pytest.fixture
def service(database: Database, clock: ManualClock) -> UsageService:
    return UsageService(database, clock)


def test_prompt_tokens_are_all_input_and_total_adds_the_output(database: Database, service: UsageService) -> None:
    counts = token_counts(
        uncached_input=1, cache_read=10, cache_write_5m=100, cache_write_1h=1_000, cache_write_other=10_000, output=7
    )
    book(database, usage_event(counts=counts))
    (row,) = service.get_provider_usage_summary()
    assert (row.provider, row.prompt_tokens, row.completion_tokens, row.total_tokens) == ("openai", 11_111, 7, 11_118)


def test_models_of_one_name_at_two_providers_stay_apart(database: Database, service: UsageService) -> None:
    book(database, usage_event(), usage_event(scope=call_scope(provider="glm"), counts=token_counts(output=999)))
    rows = service.get_model_usage_summary()
    assert [(row.provider, row.model) for row in rows] == [("glm", "gpt-4o"), ("openai", "gpt-4o")]


def test_a_window_holds_its_first_moment_and_not_its_last(database: Database, service: UsageService) -> None:
    book(
        database,
        usage_event(occurred_at=WEEK.start, counts=token_counts(uncached_input=0, output=1)),
        usage_event(occurred_at=WEEK.end - timedelta(microseconds=1), counts=token_counts(uncached_input=0, output=2)),
        usage_event(
            occurred_at=WEEK.start - timedelta(microseconds=1), counts=token_counts(uncached_input=0, output=4)
        ),
    )
    assert [row.total_tokens for row in service.get_provider_usage_summary()] == [3]
    assert [row.total_tokens for row in service.get_provider_usage_summary(offset=-1)] == [4]


def test_a_call_without_a_price_is_counted_as_unpriced_and_not_as_free(
    database: Database, service: UsageService
) -> None:
    book(database, usage_event(cost_nano=None))
    assert service.get_provider_usage_summary()[0].cost_usd is None
    book(database, usage_event(cost_nano=420_000_000))
    (row,) = service.get_provider_usage_summary()
    assert (str(row.cost_usd), row.calls, row.unpriced_calls) == ("0.42", 2, 1)


def test_rehearsed_calls_are_in_no_window(database: Database, service: UsageService) -> None:
    book(database, usage_event(scope=call_scope(purpose="rehearsal")))
    assert service.get_provider_usage_summary() == ()
    assert database.read_now(usage_by_role, WEEK) == ()


def test_a_rehearsal_shows_its_own_numbers_and_a_real_run_only_its_real_ones(database: Database) -> None:
    book(
        database,
        usage_event(counts=token_counts(output=1)),
        usage_event(scope=call_scope(purpose="rehearsal"), counts=token_counts(output=2)),
        usage_event(scope=call_scope(purpose="experiment"), counts=token_counts(output=4)),
    )
    real = database.read_now(usage_of_run, "R1")
    rehearsed = database.read_now(usage_of_run, "R1", is_rehearsal=True)
    assert (sum(row.completion_tokens for row in real), sum(row.completion_tokens for row in rehearsed)) == (5, 2)
    assert database.read_now(spent_by_run, {"R1": True})["R1"].charged_tokens == 62
    assert database.read_now(spent_by_run, {"R1": False})["R1"].charged_tokens == 125
    assert database.read_now(spent_by_phase, "R1")["P1"].charged_tokens == 125


def test_a_run_without_calls_has_used_nothing(database: Database) -> None:
    assert database.read_now(spent_by_run, {"R9": False}) == {}
    assert database.read_now(spent_by_phase, "R9") == {}


def test_usage_of_a_run_is_told_apart_by_phase_role_and_model(database: Database) -> None:
    auditor = call_scope(role="auditor", provider="anthropic")
    book(
        database,
        usage_event(),
        usage_event(),
        usage_event(scope=auditor, model="claude"),
        usage_event(scope=call_scope(phase_id=None)),
    )
    rows = database.read_now(usage_of_run, "R1")
    found = {(row.phase_id, row.role, row.provider, row.model): row.calls for row in rows}
    assert found == {
        ("P1", "builder", "openai", "gpt-4o"): 2,
        ("P1", "auditor", "anthropic", "claude"): 1,
        ("", "builder", "openai", "gpt-4o"): 1,
    }


def test_core_roles_are_builder_and_auditor(database: Database) -> None:
    roles = ("builder", "auditor", "agent:planner")
    book(database, *(usage_event(scope=call_scope(role=role)) for role in roles))
    rows = database.read_now(usage_by_role, WEEK)
    assert {row.role: row.is_core for row in rows} == {"builder": True, "auditor": True, "agent:planner": False}


def test_calls_without_a_category_have_the_empty_one(database: Database) -> None:
    book(database, usage_event(category=None), usage_event(category="ui"))
    assert {row.category for row in database.read_now(usage_by_category, WEEK)} == {"", "ui"}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["openai", "anthropic"]),
            st.sampled_from(["builder", "agent:planner"]),
            st.integers(0, 10_000),
            st.integers(0, 200),
        ),
        max_size=12,
    )
)
def test_every_grouping_adds_up_to_the_events(database: Database, calls: list[tuple[str, str, int, int]]) -> None:
    before = _totals(database)
    book(
        database,
        *(
            usage_event(
                scope=call_scope(provider=provider, role=role),
                counts=token_counts(uncached_input=tokens, output=0),
                occurred_at=NOON - timedelta(hours=hours),
            )
            for provider, role, tokens, hours in calls
        ),
    )
    expected = sum(tokens for *_, tokens, hours in calls if NOON - timedelta(hours=hours) >= WEEK.start)
    assert {name: total - before[name] for name, total in _totals(database).items()} == dict.fromkeys(before, expected)


def _totals(database: Database) -> Counter[str]:
    groupings = {"provider": usage_by_provider, "role": usage_by_role, "category": usage_by_category}
    return Counter(
        {name: sum(row.total_tokens for row in database.read_now(ask, WEEK)) for name, ask in groupings.items()}
    )


def test_library_users_ask_between_two_dates_too(database: Database, service: UsageService) -> None:
    for days in (0, 1, 9, 10):
        book(database, usage_event(occurred_at=NOON - timedelta(days=days)))
    first, last = "2026-11-09", "2026-11-17"
    assert [row.calls for row in service.get_provider_usage_summary(from_=first, to=last)] == [2]
    assert [row.calls for row in service.get_model_usage_summary(from_=first, to=last)] == [2]


def test_a_stretch_adds_up_the_hours_at_its_ends_and_the_days_between(database: Database) -> None:
    hours = (1, 11, 13, 35, 37, 59, 60, 90)
    book(database, *(usage_event(occurred_at=NOON - timedelta(hours=hour)) for hour in hours))
    span = asked_span(NOON, from_=NOON - timedelta(hours=59), to=NOON - timedelta(hours=1))
    assert [row.calls for row in database.read_now(usage_by_provider, span)] == [5]
    days = database.read_now(usage_by_day, span)
    assert {day.day: row.calls for day, row in days.items()} == {16: 2, 17: 2, 18: 1}


def test_runs_of_a_span_are_those_with_calls_in_it(database: Database) -> None:
    book(
        database,
        usage_event(counts=token_counts(cache_read=5, cache_write_1h=7, output=1), cost_nano=None),
        usage_event(scope=call_scope(phase_id=None), counts=token_counts(output=2)),
        usage_event(scope=call_scope(run_id="R2"), occurred_at=WEEK.start - timedelta(microseconds=1)),
        usage_event(scope=call_scope(run_id=None, phase_id=None)),
        usage_event(scope=call_scope(purpose="rehearsal")),
    )
    (row,) = database.read_now(usage_by_run, WEEK)
    assert (row.run_id, row.calls, row.unpriced_calls) == ("R1", 2, 1)
    assert (row.prompt_tokens, row.completion_tokens, row.cost_nano) == (132, 3, 500_000)


def test_the_first_hour_is_that_of_whom_it_is_asked(database: Database) -> None:
    for hours, provider, role in ((5, "openai", "builder"), (3, "anthropic", "builder"), (2, "openai", "auditor")):
        scope = call_scope(provider=provider, role=role)
        book(database, usage_event(scope=scope, occurred_at=NOON - timedelta(hours=hours, minutes=-1)))
    book(database, usage_event(scope=call_scope(purpose="rehearsal"), occurred_at=NOON - timedelta(hours=9)))

    def hours_ago(**of: str) -> float | None:
        found = database.read_now(first_hour, WEEK.start, **of)
        return None if found is None else (NOON - found) / timedelta(hours=1)

    assert (hours_ago(), hours_ago(provider="anthropic"), hours_ago(role="auditor")) == (5, 3, 2)
    assert (hours_ago(provider="glm"), database.read_now(first_hour, NOON)) == (None, None)
