"""Checking the ledger: nothing to say of one that adds up, and every number that was tampered with, in numbers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import settings as examples
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import Connection, Engine, Executable, Table, delete, insert, select, update

from autopack_mcp.budgets import check as checking
from autopack_mcp.budgets import ledger
from autopack_mcp.budgets.caps import scopes_of_call
from autopack_mcp.budgets.check import LedgerCheck, check_ledger
from autopack_mcp.config.settings import Settings, WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import (
    budget_scopes,
    reservations,
    runs,
    usage_days,
    usage_events,
    usage_hours,
    usage_lines,
    usage_phases,
)
from tests.budgets.lively import SCOPES, capped_everywhere, live
from tests.budgets.test_ledger_properties import LedgerMachine
from tests.factories import (
    NOON,
    call_scope,
    held_against,
    insert_run,
    provider_settings,
    reservation,
    run_cap,
    settings,
    truth_of,
    usage_event,
    window_cap,
)
from tests.ledger_truth import counters, everything, rollups, true_counters, true_rollups

WEEK = "provider/openai/week/2026-W47"
SHADOW = "rehearsal/H1/provider/openai/week/2026-W47"
SHADOWS = {
    f"rehearsal/H1/{scope}"
    for days in (0, 8)
    for scope in scopes_of_call(call_scope(run_id=None, phase_id=None), NOON - timedelta(days=days))
}


@pytest.fixture
def lively(database: Database) -> Database:
    """A ledger that has seen everything, for a week and a day."""
    live(database, days_ago=(0, 8))
    return database


def checked(database: Database, config: Settings | None = None) -> LedgerCheck:
    return database.read_now(check_ledger, config or capped_everywhere(), NOON)


def said(database: Database, config: Settings | None = None) -> list[str]:
    return [str(difference) for difference in checked(database, config).differences]


def damaged(database: Database, *statements: Executable) -> None:
    def damage(connection: Connection) -> None:
        for statement in statements:
            assert connection.execute(statement).rowcount != 0

    database.write_now(damage)


def one_of(database: Database, table: Table, **where: Any) -> dict[str, Any]:
    matches = [table.c[name] == value for name, value in where.items()]
    query = select(table).where(*matches).order_by(*table.primary_key).limit(1)
    return dict(database.read_now(lambda connection: connection.execute(query).mappings().one()))


def row_of(table: Table, row: dict[str, Any]) -> list[Any]:
    return [column == row[column.name] for column in table.primary_key]


# What adds up


def test_a_ledger_that_has_seen_everything_adds_up(lively: Database) -> None:
    before = lively.read_now(everything)
    found = checked(lively)

    assert found.adds_up
    assert lively.read_now(rollups) == lively.read_now(true_rollups)
    # The slow truth knows no start of a rehearsal's window.
    truth, counted = lively.read_now(true_counters), lively.read_now(counters)
    assert {name: use for name, use in counted.items() if truth[name] != use}.keys() <= SHADOWS
    assert (found.events, found.reservations) == (2 * (4 * 11 + 1), 2 * (4 * 12 + 2))
    assert found.counters == len(before["budget_scopes"])
    assert found.notes == ()
    assert lively.read_now(everything) == before


def test_an_empty_ledger_adds_up(database: Database) -> None:
    assert checked(database) == LedgerCheck(0, 0, 0, 0, (), ())


def test_a_counter_that_nobody_has_asked_for_is_not_missed(lively: Database) -> None:
    damaged(lively, delete(budget_scopes).where(budget_scopes.c.scope == WEEK))

    assert checked(lively).adds_up


def test_whatever_happens_nothing_is_found(ledger_in_memory: Engine) -> None:
    class Machine(LedgerMachine):
        def __init__(self) -> None:
            super().__init__(ledger_in_memory)

        def all_leases_end(self) -> None:
            for _ in range(2):  # With calls in flight, and when all of them have ended.
                assert check_ledger(self.connection, settings(), NOON).differences == ()
                super().all_leases_end()

    run_state_machine_as_test(Machine, settings=examples(max_examples=20, stateful_step_count=25, deadline=None))


# Derived tables


TABLES = pytest.mark.parametrize("table", [usage_hours, usage_days, usage_phases], ids=lambda table: table.name)


@TABLES
def test_a_wrong_sum_is_said_with_both_numbers(lively: Database, table: Table) -> None:
    row = one_of(lively, table, provider="openai", role="builder", purpose="run", model="gpt-4o-mini")
    damaged(lively, update(table).where(*row_of(table, row)).values(calls=7, cost_nano=table.c.cost_nano - 1))

    (of_calls, of_cost) = said(lively)

    assert of_calls.startswith(table.name)
    assert of_calls.endswith(f": calls is 7, must be {row['calls']}")
    assert of_cost.endswith(f": cost_nano is {row['cost_nano'] - 1:,}, must be {row['cost_nano']:,}")


@TABLES
def test_a_row_that_is_missing_is_said_with_what_it_must_hold(lively: Database, table: Table) -> None:
    row = one_of(lively, table, provider="anthropic")
    damaged(lively, delete(table).where(*row_of(table, row)))

    (difference,) = checked(lively).differences

    assert difference.found == "missing"
    assert f"calls {row['calls']}" in difference.expected


@TABLES
@pytest.mark.parametrize("calls", [5, 0], ids=["of calls", "of nothing"])
def test_a_row_that_no_call_stands_behind_is_found(lively: Database, table: Table, calls: int) -> None:
    row = one_of(lively, table)
    damaged(lively, insert(table).values({**row, "model": "nobody's", "calls": calls}))

    (difference,) = checked(lively).differences

    assert "nobody's" in difference.where
    assert difference.expected == "absent"


def test_a_spare_row_is_found_beside_a_missing_one_of_as_many_calls(lively: Database) -> None:
    row = one_of(lively, usage_days)
    damaged(lively, update(usage_days).where(*row_of(usage_days, row)).values(model="another"))

    assert sorted(difference.found == "missing" for difference in checked(lively).differences) == [False, True]


# Counters


@pytest.mark.parametrize("scope", [WEEK, "run/R1", "phase/R1/P1", "role/auditor/day/2026-11-18", "run/R%2F2",
                                   "global/month/2026-11", "rehearsal/H1/run/H1"])  # fmt: skip
def test_a_counter_that_is_one_off_is_said_with_both_numbers(lively: Database, scope: str) -> None:
    row = one_of(lively, budget_scopes, scope=scope)
    numbers = ("settled_tokens", "reserved_tokens", "settled_nano", "reserved_nano")
    values = {number: row[number] + 1 for number in numbers}
    damaged(lively, update(budget_scopes).where(budget_scopes.c.scope == scope).values(values))

    assert said(lively) == [f"counter {scope}: {name} is {row[name] + 1:,}, must be {row[name]:,}" for name in numbers]


def test_a_counter_of_nothing_is_found(lively: Database) -> None:
    nothing = {"settled_tokens": 0, "reserved_tokens": 0, "settled_nano": 0, "reserved_nano": 0}
    damaged(lively, insert(budget_scopes).values(scope="provider/openai/year/2026", **nothing))

    assert "provider/openai/year/2026" in said(lively)[0]


@pytest.mark.parametrize(
    "number, value, must_be",
    [
        ("settled_tokens", 9, "at least 10"),
        ("settled_tokens", 10, None),
        ("settled_tokens", 10**9, None),
        ("settled_nano", 499_999, "at least 500,000"),
        ("reserved_tokens", 99, "100"),
        ("reserved_tokens", 101, "100"),
    ],
)
def test_of_a_rehearsals_window_the_promises_and_the_least_spent_are_known(
    lively: Database, number: str, value: int, must_be: str | None
) -> None:
    damaged(lively, update(budget_scopes).where(budget_scopes.c.scope == SHADOW).values({number: value}))

    expected = [] if must_be is None else [f"counter {SHADOW}: {number} is {value:,}, must be {must_be}"]
    assert said(lively) == expected


# Reservations and events


def settled_call(connection: Connection) -> None:
    """The only call of a ledger: promised 100 tokens, 70 used."""
    promise = reservation("c-1")
    ledger.reserve(connection, promise, held_against(), None, NOON)
    ledger.settle(connection, truth_of(promise, tokens=70), held_against(), NOON)


CALL = usage_events.c.call_id == "c-1"
PROMISE = reservations.c.call_id == "c-1"


@pytest.mark.parametrize(
    "damage, says",
    [
        (update(reservations).where(PROMISE).values(state="released"), "what a released call left is an event"),
        (update(reservations).where(PROMISE).values(state="held", resolved_at=None), "what a held call left is"),
        (update(reservations).where(PROMISE).values(resolved_at=None), "the end of a settled call is unknown"),
        (update(usage_events).where(CALL).values(status="expired"), "the state of a call that was lost is settled"),
        (update(usage_events).where(CALL).values(status="external"), "the status of a call that was reserved is ext"),
        (update(usage_events).where(CALL).values(price_version="p", cost_nano=None), "the price of an unpriced call"),
        (update(usage_events).where(CALL).values(charged_tokens=71), "charged_tokens is 71, must be 70"),
        (update(usage_events).where(CALL).values(charged_nano=1), "charged_nano is 1, must be 500,000"),
        (update(usage_events).where(CALL).values(usage_source="partial"), "charged_tokens is 70, must be 100"),
        (update(usage_events).where(CALL).values(phase_id=None), "who pays and when is not as reserved"),
        (delete(usage_events).where(CALL), "what a settled call left is no event, must be one"),
        (delete(reservations).where(PROMISE), "its reservation is missing"),
        (update(reservations).where(PROMISE).values(call_id="c-2"), "what a settled call left is no event"),
    ],
)  # fmt: skip
def test_a_call_that_was_not_resolved_exactly_once_is_said(database: Database, damage: Executable, says: str) -> None:
    database.write_now(settled_call)
    damaged(database, damage)

    assert any(says in line and "c-" in line for line in said(database)), said(database)


@pytest.mark.parametrize(
    "values, says", [({"charged_tokens": 99}, "charged_tokens is 99, must be 100"), ({"charged_nano": 0}, "charged_n")]
)
def test_a_call_made_elsewhere_weighs_what_it_says(database: Database, values: dict[str, int], says: str) -> None:
    event = usage_event("c-1", status="external")
    database.write_now(ledger.book_external, event, held_against(), NOON)
    assert checked(database).adds_up
    damaged(database, update(usage_events).where(CALL).values(values))

    assert any(says in line for line in said(database))


@pytest.mark.parametrize(
    "damage",
    [
        update(usage_lines).where(usage_lines.c.line_index == 1).values(output=2),
        update(usage_lines).where(usage_lines.c.line_index == 1).values(line_index=5),
        delete(usage_lines).where(usage_lines.c.line_index == 0),
    ],
    ids=["another number", "a gap", "one alone"],
)
def test_lines_that_are_not_the_parts_of_their_call_are_found(lively: Database, damage: Executable) -> None:
    damaged(lively, damage)

    found = said(lively)

    assert len(found) == 2 * len(SCOPES)
    assert all(line.startswith("lines of lively-") for line in found)


def test_of_a_file_damaged_all_over_the_first_differences_and_their_number_are_kept(
    lively: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "SHOWN_LIMIT", 3)
    damaged(lively, delete(usage_hours))

    found = checked(lively)

    assert len(found.differences) == 3
    assert found.difference_count > 10


# Caps that stand exceeded


def over_the_week(tokens: int) -> Settings:
    return settings(provider_settings(WindowCap("week", tokens=tokens)))


def notes(database: Database, config: Settings) -> tuple[str, ...]:
    found = checked(database, config)
    assert found.adds_up
    return found.notes


def use_week(database: Database, *, promised: int = 0, truth: int = 0, elsewhere: int = 0, cap: int = 10**6) -> None:
    """Some of openai's week, against a cap of the moment."""
    rules = held_against(window_cap(tokens=cap))

    def use(connection: Connection) -> None:
        if promised:
            promise = reservation(bound_input=promised, bound_output=0)
            ledger.reserve(connection, promise, rules, None, NOON)
            ledger.settle(connection, truth_of(promise, tokens=truth), rules, NOON)
        if elsewhere:
            counts = usage_event().counts.__class__(uncached_input=elsewhere)
            ledger.book_external(connection, usage_event(status="external", counts=counts), rules, NOON)

    database.write_now(use)


@pytest.mark.parametrize(
    "used, cap, why",
    [
        ({"elsewhere": 150, "cap": 100}, 100, "50 tokens from calls made elsewhere (breaches on record: 1)"),
        ({"promised": 100, "truth": 130, "cap": 100}, 100,
         "30 tokens from calls that cost more than was promised for them (breaches on record: 1)"),
        ({"promised": 100, "truth": 100}, 60,
         "40 tokens because the cap was lowered, or first set, after it was spent (breaches on record: 0)"),
        ({"promised": 100, "truth": 130, "elsewhere": 5, "cap": 100}, 60,
         "5 tokens from calls made elsewhere, 30 tokens from calls that cost more than was promised for them, 40 to"),
    ],
    ids=["elsewhere", "above its promise", "lowered", "all three"],
)  # fmt: skip
def test_a_cap_that_stands_exceeded_is_explained_to_the_token(
    database: Database, used: dict[str, int], cap: int, why: str
) -> None:
    use_week(database, **used)

    (note,) = notes(database, over_the_week(cap))

    assert note.startswith(f"Openai's cap of the week is {cap:,} tokens and ")
    assert why in note


def test_a_cap_that_was_set_after_it_was_spent_needs_no_counter_to_be_found(database: Database) -> None:
    database.write_now(settled_call)

    (note,) = notes(database, over_the_week(60))

    assert "10 tokens because the cap was lowered, or first set, after it was spent" in note


def test_a_cap_that_is_used_up_is_not_exceeded(database: Database) -> None:
    use_week(database, promised=100, truth=100, cap=100)

    assert notes(database, over_the_week(100)) == ()


def test_a_runs_own_cap_is_among_those_in_force(database: Database) -> None:
    database.write_now(insert_run, token_cap=100)
    spend: Callable[[Connection], None] = lambda connection: ledger.book_external(  # noqa: E731
        connection, usage_event(status="external", scope=call_scope()), held_against(run_cap(tokens=100)), NOON
    )
    database.write_now(spend)
    assert notes(database, settings()) == ()
    damaged(database, update(runs).values(token_cap=99, cost_cap_nano=1))

    in_tokens, in_dollars = notes(database, settings())

    assert in_tokens.startswith("The cap of run R1 is 99 tokens and 100 tokens are used: 1 token too many")
    assert in_dollars.startswith("The cap of run R1 is less than $0.0001 and $0.0005 are used")
