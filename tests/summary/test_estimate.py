"""What a rehearsal says of the real run: where each figure comes from, and which cap is in the way where."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Connection

from autopack_mcp.budgets.ledger import book_external, reserve
from autopack_mcp.config.settings import Settings, WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.summary.estimate import (
    ENOUGH_CALLS,
    SMALL_SAMPLE,
    TYPICAL_OUTPUT,
    Estimate,
    RoleEstimate,
    Span,
    estimate_of,
)
from autopack_mcp.usage.prices import PriceBook
from tests.factories import (
    NOON,
    call_scope,
    held_against,
    insert_phase,
    insert_run,
    provider_settings,
    reservation,
    settings,
    token_counts,
    usage_event,
)

PROMPT = 4_000  # Bytes of every rehearsed prompt.


def rehearsed(connection: Connection, /, **run: Any) -> None:
    """A rehearsal of two phases, each asked of a builder and an auditor, the first one twice."""
    insert_run(connection, "R9", is_rehearsal=True, state="succeeded", **run)
    for index in (1, 2):
        insert_phase(connection, index, "R9", task_category="ui", complexity="low", state="succeeded")
    for phase_id, attempt in (("P1", 1), ("P1", 2), ("P2", 1)):
        for role, answer in (("builder", 6_000), ("auditor", 1_000)):
            scope = call_scope(run_id="R9", phase_id=phase_id, role=role, purpose="rehearsal")
            weight: dict[str, Any] = {"bound_input": PROMPT * attempt, "bound_output": answer, "bound_nano": 7_000_000}
            reserve(connection, reservation(scope=scope, attempt=attempt, **weight), held_against(), None, NOON)


def answered(
    connection: Connection, count: int, /, *, complexity: str = "low", category: str = "ui", **scope: Any
) -> None:
    """Real answers of 100, 200, 300 … tokens to a phase of run R1."""
    insert_run(connection, "R1")
    insert_phase(connection, 1, "R1", task_category=category, complexity=complexity)
    for number in range(1, count + 1):
        counts = token_counts(output=100 * number)
        book_external(connection, usage_event(counts=counts, scope=call_scope(**scope)), held_against(), NOON)
    connection.exec_driver_sql("UPDATE usage_events SET status = 'ok'")


def estimate(database: Database, known: Settings | None = None) -> Estimate:
    return database.read_now(estimate_of, "R9", known or settings(), PriceBook({}), NOON)


def role_of(found: Estimate, phase_id: str = "P1", role: str = "builder") -> RoleEstimate:
    return next(one for one in found.roles if (one.phase_id, one.role) == (phase_id, role))


def test_without_answers_of_ones_own_prompts_are_weighed_and_answers_assumed(database: Database) -> None:
    database.write_now(rehearsed)
    found = estimate(database)
    assert [(one.phase_id, one.role) for one in found.roles] == [
        ("P1", "builder"), ("P1", "auditor"), ("P2", "builder"), ("P2", "auditor")
    ]  # fmt: skip
    builder = role_of(found)
    # The first question counts, a scripted second one does not; the high case has two attempts.
    assert builder.prompt_tokens == Span(800, 1_000, 2 * 1_334)
    low, typical, _ = TYPICAL_OUTPUT["builder"]
    # No answer is longer than what is reserved for it.
    assert builder.completion_tokens == Span(low, typical, 2 * 6_000)
    assert builder.basis == "assumed: only 0 own answers (builder)"
    assert found.tokens.typical == 2 * (1_000 + typical) + 2 * (1_000 + TYPICAL_OUTPUT["auditor"][1])
    assert (found.caps, found.unpriced_models) == ((), ())
    assert (found.cost_usd.low or 0) < (found.cost_usd.typical or 0) < (found.cost_usd.high or 0)


@pytest.mark.parametrize(
    ("count", "scope", "basis"),
    [
        (ENOUGH_CALLS - 1, {}, f"assumed: only {ENOUGH_CALLS - 1} own answers (builder)"),
        (ENOUGH_CALLS, {}, f"{ENOUGH_CALLS} own answers (builder, ui, low, a small sample)"),
        (SMALL_SAMPLE - 1, {}, f"{SMALL_SAMPLE - 1} own answers (builder, ui, low, a small sample)"),
        (SMALL_SAMPLE, {}, f"{SMALL_SAMPLE} own answers (builder, ui, low)"),
        (SMALL_SAMPLE, {"complexity": "high"}, f"{SMALL_SAMPLE} own answers (builder, ui)"),
        (SMALL_SAMPLE, {"category": "docs"}, f"{SMALL_SAMPLE} own answers (builder, any category)"),
        (SMALL_SAMPLE, {"role": "auditor"}, "assumed: only 0 own answers (builder)"),
        (SMALL_SAMPLE, {"purpose": "rehearsal"}, "assumed: only 0 own answers (builder)"),
    ],
    ids=[
        "too few", "just enough", "nearly", "enough", "other complexity", "other category", "other role", "rehearsed",
    ],
)  # fmt: skip
def test_ones_own_answers_count_as_alike_as_there_are_enough_of(
    database: Database, count: int, scope: dict[str, str], basis: str
) -> None:
    database.write_now(rehearsed)
    database.write_now(answered, count, **scope)
    assert role_of(estimate(database)).basis == basis


def test_the_span_of_ones_own_answers_is_its_tenths(database: Database) -> None:
    database.write_now(rehearsed)
    database.write_now(answered, 21)
    found = role_of(estimate(database)).completion_tokens
    assert (found.low, found.typical, found.high) == (300, 1_100, 2 * 1_900)


def test_a_model_without_a_price_is_unpriced_and_not_free(database: Database) -> None:
    database.write_now(rehearsed)
    database.write_now(lambda connection: connection.exec_driver_sql("UPDATE reservations SET model = 'x'") and None)
    found = estimate(database)
    assert (found.unpriced_models, found.cost_usd.typical, role_of(found).cost_usd.low) == (("x",), None, None)
    assert found.tokens.typical > 0


def test_a_cap_is_in_the_way_where_the_promise_of_a_call_does_not_fit(database: Database) -> None:
    database.write_now(rehearsed)
    # What is used today counts; the longest answer of the second builder must fit beside what went before.
    typical = 3_000 + 1_400
    allowance = 100 + typical + PROMPT + 6_000
    capped = settings(provider_settings(WindowCap("week", allowance)))
    database.write_now(book_external, usage_event(), held_against(), NOON)
    assert [cap.typical for cap in estimate(database, capped).caps] == [None]
    (cap,) = estimate(database, settings(provider_settings(WindowCap("week", allowance - 1)))).caps
    assert (cap.low, cap.typical, cap.high) == (None, "P2", "P1")
    assert (cap.unit, cap.allowance, cap.left) == ("tokens", Decimal(allowance - 1), Decimal(allowance - 101))


def test_the_caps_of_the_plan_are_measured_from_nothing(database: Database) -> None:
    database.write_now(rehearsed, token_cap=PROMPT + 5_999)
    (cap,) = estimate(database).caps
    assert (cap.label, cap.low, cap.left) == ("the run's own cap", "P1", Decimal(PROMPT + 5_999))
