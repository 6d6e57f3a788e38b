"""How attempts ended, by the models that made and judged them, and which call belongs to which attempt."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.database.engine import Database
from autopack_mcp.runs.track_record import (
    AttemptCosts,
    Begun,
    CallCosts,
    ExperimentCosts,
    attempt_costs,
    attempt_endings,
    experiment_costs,
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

EVER = Begun()
YES, NO = {"approved": True}, {"approved": False}


def begin(database: Database, *, category: str = "ui", started_at: Any = NOON, **facts: Any) -> None:
    """Run R1 with its phase P1, which was begun at noon."""
    database.write_now(insert_run, **facts)
    database.write_now(insert_phase, task_category=category, started_at=started_at)


def attempt(database: Database, number: int = 1, phase_id: str = "P1", **facts: Any) -> None:
    database.write_now(insert_attempt, phase_id, number, **{"state": "kept", "builder_model": "gpt-big", **facts})


def spend(database: Database, tokens: int, model: str = "gpt-big", role: str = "builder", **facts: Any) -> None:
    """One call of an attempt at P1, at a nano-dollar a token."""
    scope = call_scope(role=role, **facts.pop("scope", {}))
    counts = token_counts(uncached_input=tokens, output=0)
    event = usage_event(scope=scope, counts=counts, model=model, **{"cost_nano": tokens, **facts})
    database.write_now(book_external, event, held_against(), NOON)


def costs(database: Database, begun: Begun = EVER) -> set[tuple[str | None, str, str, str, CallCosts]]:
    found = database.read_now(attempt_costs, begun)
    return {(one.builder_model, one.ending, one.role, one.model, one.spent) for one in found}


@pytest.mark.parametrize(
    "facts, ending",
    [
        ({"auditor_model": "claude", "verdict": YES}, "approved"),
        ({"state": "rejected", "auditor_model": "claude", "verdict": NO}, "rejected"),
        ({"state": "failed"}, "failed"),
        ({"state": "failed", "verify_outcome": "red"}, "failed"),
        ({"state": "failed", "verify_outcome": "timeout"}, "failed"),
        ({"state": "failed", "builder_model": None}, "no reply"),
        ({"state": "failed", "verify_outcome": "green"}, "no audit"),
        ({"state": "failed", "verify_outcome": "unverified"}, "no audit"),
        ({"state": "failed", "auditor_model": "claude", "verdict": NO}, "no verdict"),
        ({"state": "failed", "auditor_model": "claude", "verdict": YES}, "disturbed"),
        ({"state": "interrupted"}, "interrupted"),
        ({"state": "open", "builder_model": None}, "open"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_way_in_which_an_attempt_ends_has_its_word(
    database: Database, facts: dict[str, Any], ending: str
) -> None:
    begin(database)
    attempt(database, **facts)
    (found,) = database.read_now(attempt_endings, EVER)
    assert (found.ending, found.attempts, found.category, found.complexity) == (ending, 1, "ui", "medium")
    assert (found.is_first, found.is_pruned) == (True, False)


def test_attempts_that_ended_alike_are_counted_together(database: Database) -> None:
    begin(database)
    database.write_now(insert_phase, 2, task_category="ui", started_at=NOON)
    attempt(database, 1, state="failed")
    attempt(database, 2, state="failed")
    attempt(database, 3)
    attempt(database, 1, "P2")
    found = database.read_now(attempt_endings, EVER)
    counted = {(one.ending, one.is_first): one.attempts for one in found}
    assert counted == {("failed", True): 1, ("failed", False): 1, ("approved", False): 1, ("approved", True): 1}


def test_each_call_belongs_to_the_attempt_that_it_was_made_for(database: Database) -> None:
    begin(database)
    attempt(database, 1, state="rejected", builder_model="gpt-small", auditor_model="claude")
    attempt(database, 2, auditor_model="claude")
    spend(database, 10, "gpt-small", attempt=1)
    spend(database, 1, "claude", "auditor", attempt=1)
    spend(database, 20, "gpt-small", attempt=2, status="failed")  # Then it was rerouted.
    spend(database, 30, "gpt-big", attempt=2)
    spend(database, 2, "claude", "auditor", attempt=2)
    spend(database, 2, "claude", "auditor", attempt=2)
    assert costs(database) == {
        ("gpt-small", "rejected", "builder", "gpt-small", CallCosts(1, 0, 10, 10)),
        ("gpt-small", "rejected", "auditor", "claude", CallCosts(1, 0, 1, 1)),
        ("gpt-big", "approved", "builder", "gpt-small", CallCosts(1, 0, 20, 20)),
        ("gpt-big", "approved", "builder", "gpt-big", CallCosts(1, 0, 30, 30)),
        ("gpt-big", "approved", "auditor", "claude", CallCosts(2, 0, 4, 4)),
    }


def test_all_tokens_of_all_attempts_are_counted_once(database: Database) -> None:
    begin(database)
    attempt(database, 1, state="failed")
    attempt(database, 2)
    for number, tokens in enumerate((3, 5, 7, 11), start=1):
        spend(database, tokens, attempt=1 + number % 2)
    assert sum(one.spent.tokens for one in database.read_now(attempt_costs, EVER)) == 26


def test_all_kinds_of_input_and_the_output_are_tokens(database: Database) -> None:
    begin(database)
    attempt(database)
    counts = token_counts(uncached_input=1, cache_read=2, cache_write_5m=4, cache_write_1h=8, cache_write_other=16,
                          output=32, reasoning=32)  # fmt: skip
    database.write_now(book_external, usage_event(counts=counts), held_against(), NOON)
    (found,) = database.read_now(attempt_costs, EVER)
    assert found.spent.tokens == 63


def test_an_unknown_price_is_counted_and_not_taken_for_nothing(database: Database) -> None:
    begin(database)
    attempt(database)
    spend(database, 10)
    spend(database, 10, cost_nano=None)
    (found,) = database.read_now(attempt_costs, EVER)
    assert found == AttemptCosts("ui", "medium", "gpt-big", "approved", "builder", "gpt-big", CallCosts(2, 1, 20, 10))


def test_calls_of_no_attempt_and_of_agents_and_experiments_belong_to_none(database: Database) -> None:
    begin(database)
    attempt(database)
    spend(database, 1, attempt=None)
    spend(database, 2, role="agent:planner")
    spend(database, 4, scope={"purpose": "experiment"})
    spend(database, 8, scope={"run_id": "label"})
    assert costs(database) == set()
    assert database.read_now(experiment_costs, EVER) == (ExperimentCosts("gpt-big", CallCosts(1, 0, 4, 4)),)


def test_rehearsals_are_in_neither(database: Database) -> None:
    begin(database, is_rehearsal=True)
    attempt(database)
    spend(database, 1, scope={"purpose": "rehearsal"})
    assert database.read_now(attempt_endings, EVER) == ()
    assert costs(database) == set()


@pytest.mark.parametrize(
    "begun, is_in",
    [
        (Begun(since=NOON), True),
        (Begun(since=NOON + timedelta(microseconds=1)), False),
        (Begun(until=NOON), False),
        (Begun(until=NOON + timedelta(microseconds=1)), True),
        (Begun(category="ui"), True),
        (Begun(category="docs"), False),
        (Begun(complexity="medium"), True),
        (Begun(complexity="low"), False),
        (Begun(NOON, NOON + timedelta(days=1), "ui", "medium"), True),
    ],
)
def test_a_phase_belongs_to_the_time_in_which_it_was_begun(database: Database, begun: Begun, is_in: bool) -> None:
    begin(database)
    attempt(database)
    # Later than the phase, as all that belongs to it may be.
    spend(database, 1, occurred_at=NOON + timedelta(days=3))
    assert len(database.read_now(attempt_endings, begun)) == is_in
    assert len(costs(database, begun)) == is_in


def test_a_phase_that_was_never_begun_is_in_no_time(database: Database) -> None:
    begin(database, started_at=None)
    assert database.read_now(attempt_endings, EVER) == ()


def test_another_run_with_a_phase_of_the_same_name_has_its_own_attempts(database: Database) -> None:
    begin(database, category="ui")
    database.write_now(insert_run, "R2")
    database.write_now(insert_phase, 1, "R2", task_category="docs", started_at=NOON)
    attempt(database)
    attempt(database, run_id="R2", builder_model="claude")
    spend(database, 1)
    spend(database, 2, "claude", scope={"run_id": "R2"})
    by_category = {
        one.category: (one.builder_model, one.spent.tokens) for one in database.read_now(attempt_costs, EVER)
    }
    assert by_category == {"ui": ("gpt-big", 1), "docs": ("claude", 2)}


def test_a_phase_whose_calls_have_been_deleted_by_age_says_so_and_costs_nothing_that_could_be_told(
    database: Database,
) -> None:
    begin(database)
    attempt(database)
    spend(database, 1, occurred_at=NOON - timedelta(days=400))
    spend(database, 2)
    prune(database, NOON - timedelta(days=100), NOON, pause=lambda seconds: None)
    (found,) = database.read_now(attempt_endings, EVER)
    assert (found.ending, found.is_pruned) == ("approved", True)
    assert costs(database) == set()


@pytest.mark.parametrize(
    "begun, calls",
    [
        (EVER, 2),
        (Begun(since=NOON), 1),
        (Begun(until=NOON - timedelta(days=1)), 1),
        (Begun(category="general"), 2),
        (Begun(category="ui"), 0),
    ],
)
def test_experiments_are_counted_by_the_day(database: Database, begun: Begun, calls: int) -> None:
    for days in (0, 2):
        spend(database, 1, scope={"purpose": "experiment"}, occurred_at=NOON - timedelta(days=days))
    assert sum(one.spent.calls for one in database.read_now(experiment_costs, begun)) == calls
