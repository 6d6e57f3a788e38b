"""RunUsage: what one run cost adds up by tier, phase, role and model, and nothing is left out."""

from __future__ import annotations

from decimal import Decimal

import pytest
from sqlalchemy import Connection

from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import RunNotFound
from autopack_mcp.money import NANO_PER_USD
from autopack_mcp.summary.run import run_summary
from autopack_mcp.summary.run_usage import RunUsage, run_usage
from autopack_mcp.usage.event import UsageEvent
from tests.factories import NOON, call_scope, held_against, insert_phase, insert_run, token_counts, usage_event


def book(database: Database, *events: UsageEvent) -> None:
    for event in events:
        database.write_now(book_external, event, held_against(), NOON)


def call(phase_id: str | None, tokens: int, *, role: str = "builder", purpose: str = "run", cost_nano: int | None = 0,
         run_id: str = "R1") -> UsageEvent:  # fmt: skip
    """A call of a phase with so many tokens."""
    scope = call_scope(run_id=run_id, phase_id=phase_id, role=role, purpose=purpose)
    return usage_event(scope=scope, counts=token_counts(uncached_input=tokens, output=0), cost_nano=cost_nano)


def two_tiers(connection: Connection, /, *, is_rehearsal: bool = False) -> None:
    """R1: P1 and P2 in "Core", P3 in "Interface"."""
    insert_run(connection, is_rehearsal=is_rehearsal)
    for index, tier, name in ((1, 1, "Core"), (2, 1, "Core"), (3, 2, "Interface")):
        insert_phase(connection, index, tier_index=tier, tier_name=name)


def of_run(database: Database, run_id: str = "R1") -> RunUsage:
    return database.read_now(run_usage, run_id)


def test_tiers_are_the_sums_of_their_phases_in_plan_order(database: Database) -> None:
    database.write_now(two_tiers)
    book(database, call("P1", 10, cost_nano=NANO_PER_USD), call("P2", 200, role="auditor", cost_nano=2 * NANO_PER_USD))
    run = of_run(database)
    assert [(tier.tier_index, tier.tier_name, tier.phases, tier.total_tokens, tier.cost_usd) for tier in run.tiers] == [
        (1, "Core", 2, 210, Decimal(3)),
        (2, "Interface", 1, 0, Decimal(0)),
    ]
    assert [(phase.phase_id, phase.tier_index, phase.total_tokens) for phase in run.phases] == [
        ("P1", 1, 10), ("P2", 1, 200), ("P3", 2, 0),
    ]  # fmt: skip
    assert [(row.role, row.is_core, row.total_tokens) for row in run.roles] == [
        ("auditor", True, 200), ("builder", True, 10),
    ]  # fmt: skip
    assert (run.total_tokens, run.charged_tokens, run.cost_usd, run.calls) == (210, 210, Decimal(3), 2)


def test_calls_outside_any_phase_of_the_plan_are_told_apart_and_counted(database: Database) -> None:
    database.write_now(two_tiers)
    book(database, call("P1", 1), call(None, 10), call("elsewhere", 100))
    run = of_run(database)
    assert (run.tiers[-1].tier_index, run.tiers[-1].total_tokens, run.total_tokens) == (None, 110, 111)
    assert [(phase.phase_id, phase.tier_index) for phase in run.phases[3:]] == [("elsewhere", None), ("", None)]


def test_the_parts_add_up_to_what_the_status_says(database: Database) -> None:
    database.write_now(two_tiers)
    book(database, call("P1", 7, cost_nano=NANO_PER_USD), call("P3", 70), call(None, 700, cost_nano=None))
    run, status = of_run(database), database.read_now(run_summary, "R1", NOON)
    for parts in (run.tiers, run.phases, run.roles, run.models):
        assert sum(part.total_tokens for part in parts) == run.total_tokens
        assert sum(part.calls for part in parts) == run.calls
    assert (run.charged_tokens, run.cost_usd, run.unpriced_calls) == (
        status.tokens_used, status.cost_usd, status.unpriced_calls,
    )  # fmt: skip


def test_a_rehearsal_shows_its_rehearsed_calls_and_says_so(database: Database) -> None:
    database.write_now(two_tiers, is_rehearsal=True)
    book(database, call("P1", 5, purpose="rehearsal"), call("P1", 500))
    run = of_run(database)
    assert (run.is_rehearsal, run.total_tokens) == (True, 5)
    assert run.note.startswith("A rehearsal: no tokens were bought")


def test_a_run_that_another_program_named_is_told_by_its_phases(database: Database) -> None:
    book(database, call("step 1", 5, run_id="theirs"))
    run = of_run(database, "theirs")
    assert (run.plan_name, run.total_tokens) == (None, 5)
    assert [(phase.phase_id, phase.total_tokens) for phase in run.phases] == [("step 1", 5)]


def test_an_unknown_run_is_refused_with_those_that_exist(database: Database) -> None:
    database.write_now(two_tiers)
    with pytest.raises(RunNotFound, match="Known runs, newest first: R1"):
        of_run(database, "R9")


def test_calls_without_a_price_have_no_cost(database: Database) -> None:
    database.write_now(two_tiers)
    book(database, call("P1", 5, cost_nano=None), call("P2", 5, cost_nano=NANO_PER_USD))
    run = of_run(database)
    assert [phase.cost_usd for phase in run.phases] == [None, Decimal(1), Decimal(0)]
    assert [(tier.cost_usd, tier.unpriced_calls) for tier in run.tiers] == [(Decimal(1), 1), (Decimal(0), 0)]
