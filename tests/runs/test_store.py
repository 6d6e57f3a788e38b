"""Runs in the database: who may move them, what a move leaves behind, and that a loser changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, Row, select

from autopack_mcp.budgets.ledger import RunFence
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import attempts, phases, run_events, runs
from autopack_mcp.errors import IllegalTransition, LeaseLost, RunNotFound
from autopack_mcp.plans.plan import PhaseSpec, Plan, TierSpec, plan_from_json, plan_to_json
from autopack_mcp.runs.outcomes import (
    AttemptFailed,
    BudgetDenied,
    FailureRule,
    Prepared,
    Stuck,
    WasBuilt,
    WasCommitted,
    begin_attempt,
    cancel_run,
    close_run,
    stop_for_person,
    write_outcome,
)
from autopack_mcp.runs.states import RUN_ENDED, RunEvent
from autopack_mcp.runs.store import (
    KNOWN_RUNS_SHOWN,
    NewRun,
    attempts_of_phase,
    check_lease,
    chosen_at,
    claim,
    claimable_runs,
    events_of_run,
    insert_run,
    let_go,
    move_phase,
    move_run,
    phases_of_run,
    plan_json_of_run,
    record_event,
    renew,
    rules_of_run,
    run_by_id,
    runs_newest_first,
    set_attempt,
    set_run,
    unfinished_runs,
)
from autopack_mcp.runs.store import insert_attempt as open_attempt
from tests.factories import NOON, insert_attempt, insert_phase
from tests.factories import insert_run as insert_run_row

LEASE_S = 6.0
MINE, STALE = RunFence("R1", 1), RunFence("R1", 0)
TICK = timedelta(microseconds=1)
RULE = FailureRule(attempts_limit=3, on_failure="stop")


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def rows(connection: Connection) -> list[Row[Any]]:
    """Everything that is known about runs."""
    return [row for table in (runs, phases, attempts, run_events) for row in connection.execute(select(table))]


def write(database: Database, operation: Callable[..., object], *arguments: Any, **facts: Any) -> None:
    database.write_now(partial(operation, **facts), *arguments)


def unchanged(
    database: Database, refused: type[Exception], operation: Callable[..., object], *arguments: Any, **facts: Any
) -> Any:
    """The error of an operation that must be refused and write nothing."""
    before = database.read_now(rows)
    with pytest.raises(refused) as caught:
        write(database, operation, *arguments, **facts)
    assert database.read_now(rows) == before
    return caught.value


@pytest.fixture
def in_hand(database: Database) -> Database:
    """Run R1 is ours under token 1, its first phase is being built, its second waits."""
    database.write_now(insert_run_row, "R1", lease_owner="me", lease_expires_at=at(LEASE_S))
    database.write_now(insert_phase, 1, state="building", attempt=1)
    database.write_now(insert_phase, 2)
    database.write_now(insert_attempt, "P1", 1)
    return database


# ── leases ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "owner, expires_at, is_free",
    [
        pytest.param(None, None, True, id="nobody's"),
        pytest.param("other", at(6), False, id="held"),
        pytest.param("other", at(0), False, id="held for this moment still"),
        pytest.param("other", at(0) - TICK, True, id="run out"),
        pytest.param("me", at(6), False, id="held by ourselves"),
    ],
)
def test_only_a_free_lease_can_be_claimed(
    database: Database, owner: str | None, expires_at: datetime | None, is_free: bool
) -> None:
    database.write_now(insert_run_row, "R1", lease_token=7, lease_owner=owner, lease_expires_at=expires_at)

    fence = database.write_now(claim, "R1", "me", NOON, LEASE_S)

    run = database.read_now(run_by_id, "R1")
    assert fence == (RunFence("R1", 8) if is_free else None)
    assert (run.lease_owner, run.lease_expires_at) == (("me", at(LEASE_S)) if is_free else (owner, expires_at))
    assert run.lease_token == (8 if is_free else 7)


@pytest.mark.parametrize("state", sorted(RUN_ENDED))
def test_what_has_ended_cannot_be_claimed(database: Database, state: str) -> None:
    database.write_now(insert_run_row, "R1", state=state)

    assert database.write_now(claim, "R1", "me", NOON, LEASE_S) is None
    assert database.write_now(claim, "no such run", "me", NOON, LEASE_S) is None


def test_of_two_claims_the_second_comes_too_late(database: Database) -> None:
    database.write_now(insert_run_row, "R1")

    fences = [database.write_now(claim, "R1", owner, NOON, LEASE_S) for owner in ("one", "two")]

    assert fences == [RunFence("R1", 2), None]
    assert database.read_now(run_by_id, "R1").lease_owner == "one"


def test_a_renewal_prolongs_what_is_still_ours_and_names_what_is_lost(in_hand: Database) -> None:
    in_hand.write_now(insert_run_row, "R2", lease_token=5, lease_owner="other", lease_expires_at=at(3))
    lost = RunFence("R2", 4)

    assert in_hand.write_now(renew, [MINE, lost], at(4), LEASE_S) == (lost,)

    assert in_hand.read_now(run_by_id, "R1").lease_expires_at == at(4 + LEASE_S)
    assert in_hand.read_now(run_by_id, "R2").lease_expires_at == at(3)


def test_a_lease_that_ran_out_but_that_nobody_took_is_renewed(in_hand: Database) -> None:
    assert in_hand.write_now(renew, [MINE], at(60), LEASE_S) == ()
    assert in_hand.write_now(claim, "R1", "other", at(61), LEASE_S) is None


def test_a_lease_that_was_given_back_is_free_at_once_and_only_its_owner_can_give_it(in_hand: Database) -> None:
    in_hand.write_now(let_go, STALE)
    assert in_hand.write_now(claim, "R1", "other", NOON, LEASE_S) is None

    in_hand.write_now(let_go, MINE)
    assert in_hand.write_now(claim, "R1", "other", NOON, LEASE_S) == RunFence("R1", 2)


def test_runs_to_advance_are_listed_oldest_first(database: Database) -> None:
    free = {"lease_owner": None}
    database.write_now(insert_run_row, "young", state="queued", created_at=at(3), **free)
    database.write_now(insert_run_row, "old", state="running", created_at=at(1), **free)
    database.write_now(insert_run_row, "twin", state="cancelling", created_at=at(1), **free)
    database.write_now(insert_run_row, "middle", state="pausing", created_at=at(2), **free)
    database.write_now(insert_run_row, "held", created_at=at(0), lease_owner="other", lease_expires_at=at(9))
    database.write_now(insert_run_row, "left", created_at=at(0), lease_owner="dead", lease_expires_at=at(-1))
    for state in ("paused", "budget_paused", "needs_attention", *RUN_ENDED):
        database.write_now(insert_run_row, state, state=state, created_at=at(0), **free)

    listed = [run.run_id for run in database.read_now(claimable_runs, NOON)]

    assert listed == ["left", "old", "twin", "middle", "young"]


# ── guards ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _phase(connection: Connection) -> Any:
    return phases_of_run(connection, "R1")[0]


GUARDED: dict[str, Callable[[Connection, RunFence], object]] = {
    "check_lease": check_lease,
    "move_run": lambda c, fence: move_run(c, fence, "pause", "", NOON),
    "set_run": lambda c, fence: set_run(c, fence, NOON, last_summary="mine"),
    "move_phase": lambda c, fence: move_phase(c, fence, _phase(c), "built", "", NOON),
    "insert_attempt": lambda c, fence: open_attempt(c, fence, "P1", 2, "0" * 40, NOON),
    "set_attempt": lambda c, fence: set_attempt(c, fence, "P1", 1, summary="mine"),
    "begin_attempt": lambda c, fence: begin_attempt(c, fence, run_by_id(c, "R1"), phases_of_run(c, "R1")[1], NOON),
    "close_run": lambda c, fence: close_run(c, fence, NOON),
    "cancel_run": lambda c, fence: cancel_run(c, fence, NOON),
    "stop_for_person": lambda c, fence: stop_for_person(c, fence, "", NOON),
    **{
        type(outcome).__name__: lambda c, fence, outcome=outcome: write_outcome(  # type: ignore[misc]
            c, fence, _phase(c), outcome, RULE, NOON
        )
        for outcome in (
            Prepared("bubblewrap"), WasBuilt("reply", "", "gpt", ()), WasCommitted("1" * 40, ""), AttemptFailed("red"),
            BudgetDenied("full"), Stuck("gone"),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("operation", GUARDED.values(), ids=GUARDED)
def test_whoever_has_lost_the_run_writes_nothing(
    in_hand: Database, operation: Callable[[Connection, RunFence], object]
) -> None:
    error = unchanged(in_hand, LeaseLost, operation, STALE)

    assert error.run_id == "R1"
    in_hand.write_now(check_lease, MINE)


def test_an_event_that_a_state_does_not_know_is_refused_with_those_it_knows(in_hand: Database) -> None:
    error = unchanged(in_hand, IllegalTransition, move_run, MINE, "resume", "go on", NOON)

    assert (error.state, error.event) == ("running", "resume")
    assert "pause" in error.allowed
    assert "Allowed now: pause, cancel" in str(error)


def test_a_phase_moves_only_from_the_state_that_was_read(in_hand: Database) -> None:
    seen = in_hand.read_now(_phase)
    write(in_hand, move_phase, MINE, seen, "built", "gpt wrote a change", NOON)

    unchanged(in_hand, IllegalTransition, move_phase, MINE, seen, "built", "once more", NOON)
    unchanged(in_hand, IllegalTransition, move_phase, MINE, in_hand.read_now(_phase), "committed", "no", NOON)


def test_an_attempt_that_was_closed_is_not_written_again(in_hand: Database) -> None:
    write(in_hand, set_attempt, MINE, "P1", 1, state="failed", reason="red")

    unchanged(in_hand, AssertionError, set_attempt, MINE, "P1", 1, reason="green after all")


# ── moves ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_move_says_why_in_the_row_and_in_the_log(in_hand: Database) -> None:
    in_hand.write_now(move_run, MINE, "pause", "pause asked by ann", at(1))

    run = in_hand.read_now(run_by_id, "R1")
    [event] = in_hand.read_now(events_of_run, "R1", 10)
    assert (run.state, run.why, run.updated_at, run.finished_at) == ("pausing", "pause asked by ann", at(1), None)
    assert (event.kind, event.from_state, event.to_state, event.why) == ("run", "running", "pausing", run.why)


def test_a_run_that_was_paused_in_the_queue_started_when_it_was_let_on(database: Database) -> None:
    database.write_now(insert_run_row, "R1", state="queued", lease_owner="me")
    events: list[RunEvent] = ["pause", "resume", "pause", "boundary", "resume", "all_done"]
    for second, event in enumerate(events, start=1):
        database.write_now(move_run, MINE, event, "", at(second))

    run = database.read_now(run_by_id, "R1")
    assert (run.state, run.started_at, run.finished_at) == ("succeeded", at(2), at(6))
    assert run.lease_owner is None  # What has ended is nobody's.


def test_moving_a_phase_writes_its_facts_and_its_attempt_into_the_log(in_hand: Database) -> None:
    in_hand.write_now(begin_attempt, MINE, in_hand.read_now(run_by_id, "R1"), _second(in_hand), at(2))

    phase = _second(in_hand)
    [attempt] = in_hand.read_now(attempts_of_phase, "R1", "P2")
    [event] = in_hand.read_now(events_of_run, "R1", 1)
    assert (phase.state, phase.attempt, phase.why, phase.started_at) == ("building", 1, "attempt 1", at(2))
    assert (attempt.state, attempt.parent_commit, attempt.started_at) == ("open", "0" * 40, at(2))
    assert (event.phase_id, event.attempt, event.from_state, event.to_state) == ("P2", 1, "queued", "building")


def _second(database: Database) -> Any:
    return database.read_now(phases_of_run, "R1")[1]


# ── starting and asking ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_run_waits_in_the_queue_with_all_its_phases(database: Database) -> None:
    specs = [PhaseSpec(name, f"Phase {name}", "", task_category=f"of {name}", complexity="high") for name in "abc"]
    tiers = (TierSpec("t1", "First", tuple(specs[:2])), TierSpec("t2", "Second", tuple(specs[2:])))
    plan = Plan("a plan", "/repository", "make", tiers, token_cap=9, cost_cap_nano=8, source="plan.yaml")
    new = NewRun("R1", plan, plan_to_json(plan), True, "ann", "chat", {"map": 1}, "rules", "0" * 40, "/workspace")
    database.write_now(insert_run, new, NOON)

    run = database.read_now(run_by_id, "R1")
    found = database.read_now(phases_of_run, "R1")
    assert (run.state, run.why, run.is_rehearsal) == ("queued", "waiting for the supervisor", True)
    assert (run.token_cap, run.cost_cap_nano, run.plan_source) == (9, 8, "plan.yaml")
    assert (run.base_commit, run.head_commit, run.branch) == ("0" * 40, "0" * 40, "autopack/R1")
    assert [(one.phase_index, one.phase_id, one.tier_index, one.tier_name) for one in found] == [
        (1, "a", 1, "First"), (2, "b", 1, "First"), (3, "c", 2, "Second"),
    ]  # fmt: skip
    assert {(one.state, one.attempt, one.complexity) for one in found} == {("queued", 0, "high")}
    assert plan_from_json(database.read_now(plan_json_of_run, "R1")) == plan
    assert database.read_now(rules_of_run, "R1") == "rules"
    assert [event.to_state for event in database.read_now(events_of_run, "R1", 10)] == ["queued"]


def test_an_unknown_run_is_answered_with_the_newest_that_exist(database: Database) -> None:
    with pytest.raises(RunNotFound, match="There are no runs yet"):
        database.read_now(run_by_id, "R1")
    for number in range(KNOWN_RUNS_SHOWN + 1):
        database.write_now(insert_run_row, f"R{number}", created_at=at(number))

    with pytest.raises(RunNotFound) as caught:
        database.read_now(run_by_id, "r1")
    assert caught.value.known == ("R5", "R4", "R3", "R2", "R1")


def test_runs_are_listed_newest_first_all_or_unfinished(database: Database) -> None:
    for number, state in enumerate(("running", "failed", "paused")):
        database.write_now(insert_run_row, f"R{number}", state=state, created_at=at(number))

    assert [run.run_id for run in database.read_now(runs_newest_first, 2)] == ["R2", "R1"]
    assert [run.run_id for run in database.read_now(runs_newest_first, 9, at(2))] == ["R1", "R0"]
    assert [run.run_id for run in database.read_now(unfinished_runs)] == ["R2", "R0"]


@pytest.mark.parametrize(
    "left, expected",
    [
        pytest.param("paused", at(0), id="a pause changes nothing about a phase in hand"),
        pytest.param("budget_paused", at(5), id="a cap stopped it"),
        pytest.param("needs_attention", at(5), id="a provider stopped it"),
    ],
)
def test_the_models_of_an_attempt_are_those_of_its_start_or_of_its_way_out(
    in_hand: Database, left: str, expected: datetime
) -> None:
    in_hand.write_now(record_event, "R1", at(5), "run", "", from_state=left, to_state="running")

    assert in_hand.read_now(chosen_at, "R1", "P1", 1) == expected
    assert in_hand.read_now(chosen_at, "R1", "P2", 1) is None
