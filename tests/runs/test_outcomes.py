"""What a step came to, as rows: all of it in one transaction, and nothing when the run has gone elsewhere."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, Row, select

from autopack_mcp.budgets.ledger import RunFence
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import attempts, phases, run_events, runs
from autopack_mcp.errors import IllegalTransition
from autopack_mcp.replies.edited import AppliedHow
from autopack_mcp.runs.outcomes import (
    AttemptFailed,
    BudgetDenied,
    FailureRule,
    NeedsRepair,
    Outcome,
    Prepared,
    Stuck,
    WasApplied,
    WasApproved,
    WasBuilt,
    WasCommitted,
    WasVerified,
    begin_attempt,
    cancel_run,
    close_run,
    drop_attempt,
    give_up_run,
    stop_for_person,
    write_outcome,
)
from autopack_mcp.runs.records import AttemptRecord, PhaseRecord, RunEventRecord, RunRecord
from autopack_mcp.runs.states import RunState
from autopack_mcp.runs.store import (
    attempts_of_phase,
    events_of_run,
    move_phase,
    phases_of_run,
    record_event,
    run_by_id,
)
from tests.factories import NOON, insert_attempt, insert_phase, insert_run

MINE = RunFence("R1", 1)
LATER = NOON + timedelta(seconds=9)
COMMIT = "c" * 40
STOP, GO_ON = FailureRule(3, "stop"), FailureRule(3, "continue")


@pytest.fixture
def opened(database: Database) -> Database:
    """Run R1 with phases P1 and P2 and no attempt yet."""
    database.write_now(insert_run)
    database.write_now(insert_phase, 1)
    database.write_now(insert_phase, 2)
    return database


def rows(connection: Connection) -> list[Row[Any]]:
    return [row for table in (runs, phases, attempts, run_events) for row in connection.execute(select(table))]


def run(database: Database) -> RunRecord:
    return database.read_now(run_by_id, "R1")


def phase(database: Database) -> PhaseRecord:
    return database.read_now(phases_of_run, "R1")[0]


def attempt(database: Database) -> AttemptRecord:
    return database.read_now(attempts_of_phase, "R1", "P1")[-1]


def events(database: Database) -> list[RunEventRecord]:
    return list(reversed(database.read_now(events_of_run, "R1", 99)))


def in_state(database: Database, state: str, number: int = 1, **facts: Any) -> None:
    """P1 is in this state, in attempt ``number``."""
    database.write_now(lambda connection: connection.execute(phases.delete().where(phases.c.phase_index == 1)))
    database.write_now(partial(insert_phase, index=1, state=state, attempt=number, **facts))
    database.write_now(insert_attempt, "P1", number)


def written(database: Database, outcome: Outcome, rule: FailureRule = STOP, at: datetime = LATER) -> None:
    database.write_now(write_outcome, MINE, phase(database), outcome, rule, at)


def test_a_phase_leaves_one_row_for_its_attempt_and_one_event_for_each_step(opened: Database) -> None:
    verdict = {"approved": True, "summary": "fine", "issues": []}
    opened.write_now(begin_attempt, MINE, run(opened), phase(opened), NOON)
    written(opened, WasBuilt("the reply", "adds a", "gpt", ("medium uses gpt",)))
    written(opened, WasApplied("the diff", "t" * 40))
    written(opened, WasVerified("green", 0, "ok"))
    written(opened, WasApproved("claude", ("medium uses claude",), verdict, minor_issues=2))
    written(opened, WasCommitted(COMMIT, "adds a"))

    kept, done = attempt(opened), phase(opened)
    assert (kept.state, kept.reply, kept.diff, kept.tree) == ("kept", "the reply", "the diff", "t" * 40)
    assert (kept.builder_model, kept.builder_reasons) == ("gpt", ["medium uses gpt"])
    assert (kept.verify_outcome, kept.verify_exit_code, kept.verify_output) == ("green", 0, "ok")
    assert (kept.auditor_model, kept.auditor_reasons, kept.verdict) == ("claude", ["medium uses claude"], verdict)
    assert (kept.started_at, kept.finished_at) == (NOON, LATER)
    assert (done.state, done.commit_sha, done.summary, done.is_verified) == ("succeeded", COMMIT, "adds a", True)
    assert (done.minor_issues, done.major_issues, done.started_at, done.finished_at) == (2, 0, NOON, LATER)
    assert (run(opened).state, run(opened).head_commit, run(opened).last_summary) == ("running", COMMIT, "adds a")
    assert [(event.from_state, event.to_state) for event in events(opened)] == [
        ("queued", "building"), ("building", "applying"), ("applying", "verifying"), ("verifying", "auditing"),
        ("auditing", "committing"), ("committing", "succeeded"),
    ]  # fmt: skip
    assert all(event.why and event.attempt == 1 for event in events(opened))


def test_a_reply_that_does_not_fit_is_kept_while_the_phase_goes_on_building(opened: Database) -> None:
    opened.write_now(begin_attempt, MINE, run(opened), phase(opened), NOON)
    written(opened, NeedsRepair("the reply", "It fits\nnowhere.", "gpt", ("medium uses gpt",)))

    tried = attempt(opened)
    assert (tried.state, tried.reply, tried.builder_model) == ("open", "the reply", "gpt")
    assert phase(opened).state == "building"
    assert events(opened)[-1].why == "gpt is asked once more, for its edits do not fit: It fits nowhere."


@pytest.mark.parametrize(("how", "said"), [("fuzzy", True), ("diff", False), ("blocks", False), ("files", False)])
def test_what_was_put_at_a_likely_place_is_said_at_every_later_step(
    opened: Database, how: AppliedHow, said: bool
) -> None:
    opened.write_now(begin_attempt, MINE, run(opened), phase(opened), NOON)
    written(opened, WasBuilt("the reply", "adds a", "gpt", ()))
    written(opened, WasApplied("the diff", "t" * 40, how))
    written(opened, WasVerified("green", 0, "ok"))
    written(opened, WasApproved("claude", (), {"approved": True}, minor_issues=0))
    written(opened, WasCommitted(COMMIT, "adds a"))

    assert attempt(opened).applied_how == how
    whys = [
        event.why for event in events(opened) if event.to_state in ("verifying", "auditing", "committing", "succeeded")
    ]
    assert [why.endswith(", applied fuzzily (allow_fuzzy)") for why in whys] == [said] * 4


def test_no_command_is_written_down_as_unverified_and_said_again_at_the_commit(opened: Database) -> None:
    in_state(opened, "verifying")
    written(opened, WasVerified("unverified", None, ""))
    assert (phase(opened).is_verified, phase(opened).why) == (False, "unverified: the plan says verify: none")

    written(opened, WasApproved("claude", (), {}, 0))
    written(opened, WasCommitted(COMMIT, "adds a"))
    assert phase(opened).why == f"committed as {COMMIT[:10]}, unverified"


def test_a_workspace_that_is_ready_says_how_commands_are_confined(opened: Database) -> None:
    written(opened, Prepared("in bubblewrap"))

    assert (run(opened).sandbox, run(opened).is_set_up, run(opened).state) == ("in bubblewrap", True, "running")
    assert phase(opened).state == "queued"


@pytest.mark.parametrize(
    "number, retried_after, state, run_state",
    [
        pytest.param(1, None, "queued", "running", id="first of three"),
        pytest.param(2, None, "queued", "running", id="second of three"),
        pytest.param(3, None, "failed", "needs_attention", id="the last one"),
        pytest.param(4, 3, "queued", "running", id="first after a person's retry"),
        pytest.param(6, 3, "failed", "needs_attention", id="the last one after it"),
        pytest.param(4, 2, "queued", "running", id="second after a retry that came early"),
        pytest.param(5, 2, "failed", "needs_attention", id="the last one after that"),
    ],
)
def test_attempts_are_limited_and_a_retry_brings_a_full_set(
    opened: Database, number: int, retried_after: int | None, state: str, run_state: str
) -> None:
    in_state(opened, "auditing", number, is_verified=True)
    if retried_after is not None:
        retried = ("phase", "asked", "P1", retried_after, "failed", "queued")
        opened.write_now(lambda connection: record_event(connection, "R1", NOON, *retried))

    written(opened, AttemptFailed("too clever", "rejected", (("auditor_model", "claude"),)))

    closed, left = attempt(opened), phase(opened)
    assert (closed.state, closed.reason, closed.auditor_model) == ("rejected", "too clever", "claude")
    assert closed.finished_at == LATER
    assert (left.state, left.attempt, left.is_verified) == (state, number, None)
    assert "too clever" in left.why
    assert run(opened).state == run_state
    assert ("phase P1 failed: too clever" in run(opened).why) == (run_state == "needs_attention")
    assert (left.finished_at is None) == (state == "queued")


def test_a_limit_of_one_fails_at_the_first_try(opened: Database) -> None:
    in_state(opened, "building")
    written(opened, AttemptFailed("prose"), FailureRule(1, "stop"))

    assert (phase(opened).state, run(opened).state) == ("failed", "needs_attention")


def test_a_plan_that_goes_on_fails_the_phase_and_not_the_run(opened: Database) -> None:
    in_state(opened, "verifying", 3)
    written(opened, AttemptFailed("red"), GO_ON)

    assert (phase(opened).state, run(opened).state) == ("failed", "running")


@pytest.mark.parametrize(
    "outcome, state",
    [(BudgetDenied("the cap is full"), "budget_paused"), (Stuck("the disk is gone"), "needs_attention")],
    ids=["a cap", "a wall"],
)
def test_what_only_a_person_can_mend_leaves_the_attempt_open_where_it_is(
    opened: Database, outcome: BudgetDenied | Stuck, state: str
) -> None:
    in_state(opened, "auditing")
    before = (phase(opened), attempt(opened))
    written(opened, outcome)

    assert (run(opened).state, run(opened).why) == (state, outcome.why)
    assert (phase(opened), attempt(opened)) == before


@pytest.mark.parametrize(
    "outcome",
    [AttemptFailed("red"), BudgetDenied("full"), Stuck("gone")],
    ids=["the last attempt failed", "a cap denied it", "it cannot be done"],
)
def test_an_outcome_that_comes_after_a_cancel_writes_nothing_at_all(opened: Database, outcome: Outcome) -> None:
    in_state(opened, "verifying", 3)
    opened.write_now(lambda connection: connection.execute(runs.update().values(state="cancelling")))
    before = opened.read_now(rows)

    with pytest.raises(IllegalTransition):
        written(opened, outcome)
    assert opened.read_now(rows) == before


def test_an_outcome_is_written_once(opened: Database) -> None:
    in_state(opened, "committing", is_verified=True)
    seen, outcome = phase(opened), WasCommitted(COMMIT, "adds a")
    opened.write_now(write_outcome, MINE, seen, outcome, STOP, LATER)
    before = opened.read_now(rows)

    # Neither by somebody who looked before it was, nor by somebody who looks now.
    for known, refused in ((seen, IllegalTransition), (phase(opened), AssertionError)):
        with pytest.raises(refused):
            opened.write_now(write_outcome, MINE, known, outcome, STOP, LATER)
    assert opened.read_now(rows) == before


def test_the_next_attempt_starts_from_the_last_commit_that_was_kept(opened: Database) -> None:
    in_state(opened, "committing")
    written(opened, WasCommitted(COMMIT, "adds a"))
    second = opened.read_now(phases_of_run, "R1")[1]
    opened.write_now(begin_attempt, MINE, run(opened), second, LATER)

    [begun] = opened.read_now(attempts_of_phase, "R1", "P2")
    assert (begun.attempt, begun.parent_commit, begun.state) == (1, COMMIT, "open")


def test_a_retried_phase_keeps_the_moment_of_its_first_start(opened: Database) -> None:
    in_state(opened, "building", 1, started_at=NOON)
    written(opened, AttemptFailed("prose"))
    opened.write_now(begin_attempt, MINE, run(opened), phase(opened), LATER)

    assert (phase(opened).attempt, phase(opened).started_at, attempt(opened).started_at) == (2, NOON, LATER)


# ── ends ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "states, verified, state, why",
    [
        (("succeeded", "succeeded"), (True, True), "succeeded", "all 2 phases are completed"),
        (
            ("succeeded", "skipped"),
            (False, None),
            "succeeded",
            "all 2 phases are completed, 1 of them skipped, 1 of them unverified",
        ),
        (("failed", "succeeded"), (None, True), "failed", "phases failed: P1"),
    ],
    ids=["all green", "skipped and unverified", "one failed"],
)
def test_a_run_with_nothing_left_to_do_ends_as_its_phases_did(
    database: Database, states: tuple[str, ...], verified: tuple[bool | None, ...], state: str, why: str
) -> None:
    database.write_now(insert_run)
    for index, (ended, is_verified) in enumerate(zip(states, verified, strict=True), start=1):
        database.write_now(partial(insert_phase, index=index, state=ended, is_verified=is_verified))

    database.write_now(close_run, MINE, LATER)

    assert (run(database).state, run(database).why, run(database).finished_at) == (state, why, LATER)


def test_a_run_whose_phase_was_queued_again_in_the_last_moment_does_not_end(opened: Database) -> None:
    before = opened.read_now(rows)

    opened.write_now(close_run, MINE, LATER)
    assert opened.read_now(rows) == before


def test_a_run_that_was_given_up_has_failed_and_leaves_nothing_open(opened: Database) -> None:
    in_state(opened, "auditing", 2)
    opened.write_now(partial(insert_phase, index=3, state="succeeded", commit_sha=COMMIT))
    opened.write_now(partial(insert_phase, index=4, state="failed"))
    opened.write_now(lambda connection: connection.execute(runs.update().values(state="needs_attention")))

    opened.write_now(give_up_run, MINE, "give_up asked by ann", LATER)

    states = [one.state for one in opened.read_now(phases_of_run, "R1")]
    assert states == ["cancelled", "cancelled", "succeeded", "failed"]
    assert (attempt(opened).state, attempt(opened).reason) == ("interrupted", "the run was given up")
    assert (run(opened).state, run(opened).why) == ("failed", "give_up asked by ann")


# ── going round in circles ───────────────────────────────────────────────────────────────────────────────────────────


def tries(database: Database, count: int, **facts: Any) -> None:
    """So many attempts at P1 that were not kept; the next one is being verified."""
    for number in range(1, count + 1):
        database.write_now(partial(insert_attempt, phase_id="P1", number=number, state="failed", **facts))
    in_state(database, "verifying", count + 1)


PATIENT = FailureRule(9, "stop")


def test_the_same_failure_a_third_time_stops_the_phase_whatever_is_left_and_says_what_may_help(
    opened: Database,
) -> None:
    tries(opened, 2, reason="test_a failed after 0.31 s in /tmp/x81")
    written(opened, AttemptFailed("test_a failed after 1.2 s in /tmp/y44"), PATIENT)

    assert (phase(opened).state, run(opened).state) == ("failed", "needs_attention")
    assert phase(opened).why.startswith("stuck, 3 attempts failed in the same way; attempt 3 was the last: test_a")
    assert run(opened).why == (
        "phase P1 is stuck, 3 attempts failed in the same way; say 'edit phase P1', 'another model for phase P1', 'skip"
        " phase P1' or 'retry': test_a failed after 1.2 s in /tmp/y44"
    )


def test_the_same_change_a_third_time_is_spend_without_anything_new(opened: Database) -> None:
    for number in (1, 2):
        words = f"rejected, in words of its own {'x' * number}"
        opened.write_now(
            partial(insert_attempt, phase_id="P1", number=number, state="rejected", reason=words, tree="t" * 40)
        )
    in_state(opened, "auditing", 3)
    opened.write_now(lambda connection: connection.execute(attempts.update().values(tree="t" * 40)))
    written(opened, AttemptFailed("and once more otherwise", "rejected"), PATIENT)

    assert run(opened).state == "needs_attention"
    assert "is stuck, 3 attempts brought the same change" in run(opened).why


def test_a_retry_by_a_person_counts_anew_what_repeats(opened: Database) -> None:
    tries(opened, 2, reason="red")
    retried = ("phase", "asked", "P1", 2, "failed", "queued")
    opened.write_now(lambda connection: record_event(connection, "R1", NOON, *retried))
    written(opened, AttemptFailed("red"), PATIENT)

    assert (phase(opened).state, run(opened).state) == ("queued", "running")


def test_an_attempt_that_a_person_dropped_counts_for_nothing(opened: Database) -> None:
    tries(opened, 2, reason="red")
    opened.write_now(
        lambda connection: connection.execute(
            attempts.update().where(attempts.c.attempt == 2).values(state="interrupted")
        )
    )
    written(opened, AttemptFailed("red"), FailureRule(2, "stop"))

    assert (phase(opened).state, run(opened).state) == ("queued", "running")


def test_a_plan_that_goes_on_leaves_a_stuck_phase_behind(opened: Database) -> None:
    tries(opened, 2, reason="red")
    written(opened, AttemptFailed("red"), FailureRule(9, "continue"))

    assert (phase(opened).state, run(opened).state) == ("failed", "running")


def test_a_cancelled_run_closes_what_is_open_and_keeps_what_is_done(opened: Database) -> None:
    in_state(opened, "verifying", 2)
    opened.write_now(partial(insert_phase, index=3, state="succeeded", commit_sha=COMMIT))
    opened.write_now(partial(insert_phase, index=4, state="failed"))
    opened.write_now(lambda connection: connection.execute(runs.update().values(state="cancelling")))

    opened.write_now(cancel_run, MINE, LATER)

    states = [one.state for one in opened.read_now(phases_of_run, "R1")]
    assert states == ["cancelled", "cancelled", "succeeded", "failed"]
    assert (attempt(opened).state, attempt(opened).reason) == ("interrupted", "the run was cancelled")
    assert (run(opened).state, run(opened).why) == ("cancelled", "cancelled as asked")


@pytest.mark.parametrize(
    "state, stops",
    [("running", True), ("pausing", True), ("cancelling", False), ("queued", False), ("paused", False)],
)
def test_a_failure_of_ours_waits_for_a_person_where_there_is_such_a_wait(
    opened: Database, state: RunState, stops: bool
) -> None:
    opened.write_now(lambda connection: connection.execute(runs.update().values(state=state)))

    assert opened.write_now(stop_for_person, MINE, "internal error: oh", LATER) == stops
    assert run(opened).state == ("needs_attention" if stops else state)
    assert (run(opened).why == "internal error: oh") == stops


def test_a_phase_that_moved_meanwhile_keeps_its_outcome_out(opened: Database) -> None:
    in_state(opened, "building")
    seen = phase(opened)
    opened.write_now(lambda connection: move_phase(connection, MINE, seen, "built", "by somebody", NOON))
    before = opened.read_now(rows)

    with pytest.raises(IllegalTransition):
        opened.write_now(write_outcome, MINE, seen, WasBuilt("another reply", "", "gpt", ()), STOP, LATER)
    assert opened.read_now(rows) == before


@pytest.mark.parametrize(
    "outcome",
    [WasBuilt("reply", "", "gpt", ()), AttemptFailed("red"), BudgetDenied("the cap is full"), Stuck("no key")],
    ids=["built", "failed", "a cap", "a wall"],
)
def test_a_phase_that_a_person_skipped_meanwhile_stops_nothing(opened: Database, outcome: Outcome) -> None:
    in_state(opened, "building")
    seen = phase(opened)
    opened.write_now(drop_attempt, MINE, seen, "skipped", NOON)
    opened.write_now(lambda connection: move_phase(connection, MINE, seen, "skip", "skipped by ann", NOON))
    before = opened.read_now(rows)

    with pytest.raises(IllegalTransition):
        opened.write_now(write_outcome, MINE, seen, outcome, STOP, LATER)
    assert opened.read_now(rows) == before
    assert run(opened).state == "running"
