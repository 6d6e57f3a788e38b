"""The scorecard: what counts for and against a model, rates with their counts, and costs of an approved phase."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import RequestRefused
from autopack_mcp.money import NANO_PER_USD
from autopack_mcp.summary.scorecard import (
    SMALL_SAMPLE,
    BuilderScore,
    ModelScorecard,
    Rate,
    ScorecardWish,
    model_scorecard,
    wilson,
)
from autopack_mcp.usage.pruning import prune
from tests.factories import (
    NOON,
    call_scope,
    held_against,
    insert_attempt,
    insert_phase,
    insert_run,
    token_counts,
    usage_event,
)

EVER = ScorecardWish()


@pytest.fixture(autouse=True)
def run(database: Database) -> None:
    """Run R1, whose phases a test inserts."""
    database.write_now(insert_run)


def phase(database: Database, index: int, *endings: str, category: str = "ui", **facts: Any) -> None:
    """A phase begun at noon, and its attempts: "gpt-big kept claude" is builder, state and auditor."""
    database.write_now(insert_phase, index, **{"task_category": category, "started_at": NOON, **facts})
    for number, ending in enumerate(endings, start=1):
        builder, state, auditor = (None if word == "-" else word for word in ending.split())
        verdict = None if auditor is None else {"approved": state == "kept"}
        row = {"state": state, "builder_model": builder, "auditor_model": auditor, "verdict": verdict}
        database.write_now(insert_attempt, f"P{index}", number, **row)


def spend(
    database: Database, index: int, attempt: int, model: str, tokens: int, role: str = "builder", **facts: Any
) -> None:
    """One call, at a dollar a token."""
    event = usage_event(
        scope=call_scope(role=role, phase_id=f"P{index}"),
        model=model,
        attempt=attempt,
        counts=token_counts(uncached_input=tokens, output=0),
        **{"cost_nano": tokens * NANO_PER_USD, **facts},
    )
    database.write_now(book_external, event, held_against(), NOON)


def card(database: Database, wish: ScorecardWish = EVER) -> ModelScorecard:
    return database.read_now(model_scorecard, NOON + timedelta(hours=1), wish)


def builder(found: ModelScorecard, model: str, category: str = "ui") -> BuilderScore:
    return next(one for one in found.builders if (one.model, one.category) == (model, category))


def test_approvals_and_first_tries_are_of_what_a_model_made(database: Database) -> None:
    phase(database, 1, "gpt-big kept claude")
    phase(database, 2, "gpt-big rejected claude", "gpt-big kept claude")
    phase(database, 3, "gpt-small failed -", "gpt-big kept claude")
    found = card(database)
    big, small = builder(found, "gpt-big"), builder(found, "gpt-small")
    assert (big.attempts, big.approved_attempts, big.approval.percent) == (4, 3, 75.0)
    assert (big.first_try.hits, big.first_try.tries, big.first_try.percent) == (1, 2, 50.0)
    assert (small.attempts, small.approval.percent, small.first_try.tries, small.first_try.percent) == (1, 0.0, 1, 0.0)


@pytest.mark.parametrize(
    "ending, interrupted, unjudged, opened",
    [
        ("gpt-big interrupted -", 1, 0, 0),
        ("gpt-big failed claude", 0, 1, 0),
        ("- failed -", 0, 1, 0),
        ("gpt-big open -", 0, 0, 1),
    ],
    ids=["ended by a person", "no usable verdict", "no provider answered", "not over"],
)
def test_what_says_nothing_about_a_change_counts_neither_for_nor_against_it(
    database: Database, ending: str, interrupted: int, unjudged: int, opened: int
) -> None:
    phase(database, 1, ending, "gpt-big kept claude")
    spend(database, 1, 1, "gpt-big", 100)
    spend(database, 1, 2, "gpt-big", 7)
    found = card(database)
    big = builder(found, "gpt-big")
    assert (big.attempts, big.approval.percent, big.first_try.tries, big.tokens) == (1, 100.0, 0, 7)
    assert (found.interrupted_attempts, found.unjudged_attempts, found.open_attempts) == (interrupted, unjudged, opened)
    # An attempt that no model has answered is nobody's.
    assert (big.interrupted_attempts, big.unjudged_attempts) == (interrupted, unjudged if ending[0] != "-" else 0)


def test_a_call_is_paid_by_the_model_that_answered_it_and_an_audit_by_the_model_it_judged(database: Database) -> None:
    phase(database, 1, "gpt-small rejected claude", "gpt-big kept claude")
    spend(database, 1, 1, "gpt-small", 10)
    spend(database, 1, 1, "claude", 1, "auditor")
    spend(database, 1, 2, "gpt-small", 20, status="failed")  # Tried first, then another model answered.
    spend(database, 1, 2, "gpt-big", 300)
    spend(database, 1, 2, "claude", 2, "auditor")
    found = card(database)
    big, small = builder(found, "gpt-big"), builder(found, "gpt-small")
    assert (big.tokens, big.cost_usd, big.tokens_per_approved_phase, big.cost_usd_per_approved_phase) == (
        302, Decimal(302), 302, Decimal(302),
    )  # fmt: skip
    assert (small.tokens, small.tokens_per_approved_phase, small.cost_usd_per_approved_phase) == (31, None, None)
    assert sum(one.tokens for one in found.builders) == 333


def test_failed_tries_are_in_the_price_of_an_approved_phase(database: Database) -> None:
    phase(database, 1, "gpt-big failed -", "gpt-big kept claude")
    phase(database, 2, "gpt-big kept claude")
    for index, attempt in ((1, 1), (1, 2), (2, 1)):
        spend(database, index, attempt, "gpt-big", 10)
    big = builder(card(database), "gpt-big")
    assert (big.counted_phases, big.tokens_per_approved_phase, big.cost_usd_per_approved_phase) == (2, 15, Decimal(15))


@pytest.mark.parametrize(
    "costs, known, unpriced",
    [((None, None), None, 2), ((None, 5 * NANO_PER_USD), Decimal(5), 1), ((0, 0), Decimal(0), 0)],
    ids=["none is known", "one is known", "free of charge"],
)
def test_an_unknown_price_is_counted_and_never_nothing(
    database: Database, costs: tuple[int | None, ...], known: Decimal | None, unpriced: int
) -> None:
    phase(database, 1, "gpt-big kept claude")
    for cost_nano in costs:
        spend(database, 1, 1, "gpt-big", 1, cost_nano=cost_nano)
    big = builder(card(database), "gpt-big")
    assert (big.cost_usd, big.cost_usd_per_approved_phase, big.unpriced_calls) == (known, known, unpriced)


def test_a_phase_whose_calls_were_deleted_counts_in_rates_and_not_in_costs(database: Database) -> None:
    phase(database, 1, "gpt-big kept claude")
    phase(database, 2, "gpt-big kept claude")
    spend(database, 1, 1, "gpt-big", 1_000, occurred_at=NOON - timedelta(days=400))
    spend(database, 2, 1, "gpt-big", 10)
    prune(database, NOON - timedelta(days=100), NOON, pause=lambda seconds: None)
    found = card(database)
    big = builder(found, "gpt-big")
    assert (big.approved_attempts, big.counted_phases, big.tokens_per_approved_phase) == (2, 1, 10)
    assert found.uncounted_phases == 1


def test_auditors_are_scored_by_their_verdicts(database: Database) -> None:
    phase(database, 1, "gpt-big rejected claude", "gpt-big failed claude", "gpt-big kept claude")
    phase(database, 2, "gpt-big kept gpt-small")
    spend(database, 1, 1, "claude", 10, "auditor")
    spend(database, 1, 2, "claude", 20, "auditor")
    spend(database, 1, 3, "claude", 30, "auditor")
    claude, small = card(database).auditors
    assert (claude.model, claude.verdicts, claude.rejected, claude.unusable_verdicts) == ("claude", 2, 1, 1)
    assert (claude.tokens, claude.tokens_per_verdict, claude.rejection.percent, claude.sample) == (
        60, 30, 50.0, "small (2 verdicts)",
    )  # fmt: skip
    assert (small.model, small.verdicts, small.tokens_per_verdict) == ("gpt-small", 1, 0)


def test_rows_are_by_category_and_a_model_that_was_given_the_harder_phases_can_be_seen(database: Database) -> None:
    phase(database, 1, "gpt-big kept claude", complexity="high")
    phase(database, 2, "gpt-big kept claude", complexity="low")
    phase(database, 3, "claude kept gpt-big", category="docs")
    found = card(database)
    assert [(one.category, one.model) for one in found.builders] == [("docs", "claude"), ("ui", "gpt-big")]
    assert builder(found, "gpt-big").attempts_by_complexity == {"low": 1, "medium": 0, "high": 1}


@pytest.mark.parametrize(
    "wish, categories",
    [
        (ScorecardWish(category="ui"), ["ui"]),
        (ScorecardWish(category="nothing"), []),
        (ScorecardWish(complexity="low"), ["docs"]),
        (ScorecardWish(days=1), ["docs"]),
        (ScorecardWish(days=3), ["docs", "ui"]),
        (ScorecardWish(from_="2026-11-16", to="2026-11-16"), ["ui"]),
        (ScorecardWish(from_="2026-11-18"), ["docs"]),
    ],
    ids=["category", "unknown category", "complexity", "last day", "last three days", "a day", "from a day on"],
)
def test_it_can_be_asked_about_a_part(database: Database, wish: ScorecardWish, categories: list[str]) -> None:
    phase(database, 1, "gpt-big kept claude", started_at=NOON - timedelta(days=2))
    phase(database, 2, "gpt-big kept claude", category="docs", complexity="low")
    assert [one.category for one in card(database, wish).builders] == categories


@pytest.mark.parametrize(
    "wish, message",
    [
        (ScorecardWish(complexity="huge"), "Unknown complexity 'huge'. Known are low, medium, high."),
        (ScorecardWish(days=0), "The last 0 days are no stretch of time. Ask for 1 to"),
        (ScorecardWish(days=10**9), "days are no stretch of time"),
        (ScorecardWish(days=1, from_="2026-11-01"), "were both asked for"),
        (ScorecardWish(to="2026-11-01"), "has an end and no beginning"),
        (ScorecardWish(from_="yesterday"), "'yesterday' is no date"),
    ],
    ids=["complexity", "no day", "too long", "both", "no beginning", "no date"],
)
def test_what_cannot_be_asked_is_refused_with_what_can(database: Database, wish: ScorecardWish, message: str) -> None:
    with pytest.raises(RequestRefused) as refusal:
        card(database, wish)
    assert message in str(refusal.value)


def test_experiments_are_apart_and_in_no_rate(database: Database) -> None:
    tried = call_scope(purpose="experiment", run_id=None, phase_id=None)
    counts = token_counts(uncached_input=5, output=0)
    database.write_now(book_external, usage_event(scope=tried, counts=counts, cost_nano=None), held_against(), NOON)
    found = card(database)
    assert found.builders == ()
    (experiment,) = found.experiments
    assert (experiment.model, experiment.tokens, experiment.cost_usd, experiment.unpriced_calls) == (
        "gpt-4o", 5, None, 1,
    )  # fmt: skip


def test_names_of_others_are_shown_without_hidden_characters(database: Database) -> None:
    phase(database, 1, "gpt\x1b[31m kept claude", category="ui\u200b")
    (found,) = card(database).builders
    assert (found.model, found.category) == ("gpt\\x1b[31m", "ui\\u200b")


# --- rates


@pytest.mark.parametrize(
    "hits, tries, low, high",
    [(0, 1, 0.0, 79.3), (1, 1, 20.7, 100.0), (3, 4, 30.1, 95.4), (20, 40, 35.2, 64.8), (81, 263, 25.5, 36.6)],
)
def test_intervals_are_wilsons(hits: int, tries: int, low: float, high: float) -> None:
    found = wilson(hits, tries)
    assert (found.hits, found.tries, found.low_percent, found.high_percent) == (hits, tries, low, high)


def test_nothing_tried_is_no_rate() -> None:
    assert wilson(0, 0) == Rate(0, 0, None, None, None)


@given(st.integers(0, 500), st.integers(1, 500))
def test_a_rate_lies_in_its_interval_and_the_interval_in_what_is_possible(hits: int, more: int) -> None:
    found = wilson(hits, hits + more)
    assert None not in (found.percent, found.low_percent, found.high_percent)
    assert 0.0 <= (found.low_percent or 0.0) <= (found.percent or 0.0) <= (found.high_percent or 0.0) <= 100.0


@pytest.mark.parametrize(
    "count, sample",
    [
        (1, "small (1 attempt)"),
        (SMALL_SAMPLE - 1, "small (39 attempts)"),
        (SMALL_SAMPLE, "40 attempts"),
        (SMALL_SAMPLE + 1, "41 attempts"),
    ],
)
def test_a_small_sample_is_seen_to_be_small(database: Database, count: int, sample: str) -> None:
    for index in range(1, count + 1):
        phase(database, index, "gpt-big kept claude")
    big = builder(card(database), "gpt-big")
    assert (big.sample, big.is_small_sample) == (sample, count < SMALL_SAMPLE)


def test_from_the_threshold_on_a_rate_is_known_to_fifteen_points(database: Database) -> None:
    half = wilson(SMALL_SAMPLE // 2, SMALL_SAMPLE)
    assert ((half.high_percent or 0.0) - (half.low_percent or 0.0)) / 2 < 15.0
    fewer = wilson(SMALL_SAMPLE // 2 - 1, SMALL_SAMPLE - 2)
    assert ((fewer.high_percent or 0.0) - (fewer.low_percent or 0.0)) / 2 > 15.0
