"""What a person may do with a phase, wherever it and its run stand: try it anew, skip it, edit it, or read why not."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import get_args

import pytest

from autopack_mcp.budgets.ledger import RunFence
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import IllegalTransition, RequestRefused
from autopack_mcp.plans.plan import PhaseSpec, Plan, TierSpec, plan_from_json, plan_to_json
from autopack_mcp.runs.obeying import Obeyed, obey
from autopack_mcp.runs.phase_wishes import PhaseWish, answer_to_wish, wish_from_json, wish_to_json
from autopack_mcp.runs.plan_edits import PhaseEdit
from autopack_mcp.runs.records import AttemptRecord, PhaseRecord, RunRecord
from autopack_mcp.runs.requests import PhaseAction, RequestRecord, add_request, request_by_id
from autopack_mcp.runs.states import PHASE_ACTIVE, RUN_ENDED, PhaseState, RunState
from autopack_mcp.runs.store import attempts_of_phase, events_of_run, phases_of_run, plan_json_of_run, run_by_id
from tests.factories import NOON, insert_attempt, insert_phase, insert_run

LATER = NOON + timedelta(seconds=9)
PLAN = Plan(
    "a plan", "/repository", "make test",
    (TierSpec("t1", "tier 1", (PhaseSpec("P1", "one", "Write one."), PhaseSpec("P2", "two", "Write two."))),),
)  # fmt: skip
EDIT = PhaseEdit("Write it better.", "make check")
WISHES = {
    "retry": PhaseWish("retry", "P1"),
    "skip": PhaseWish("skip", "P1", "no time for it"),
    "edit": PhaseWish("edit", "P1", edit=EDIT),
}


def a_run(database: Database, state: str, phase_state: str, attempt: int = 2, second_state: str = "queued") -> None:
    """A run whose first phase stands so, with an open attempt if it is in hand."""
    database.write_now(partial(insert_run, state=state, why="so", plan_json=plan_to_json(PLAN), lease_token=4))
    number = 0 if phase_state == "queued" else attempt
    commit = "c" * 40 if phase_state == "succeeded" else None
    database.write_now(partial(insert_phase, index=1, state=phase_state, attempt=number, commit_sha=commit))
    database.write_now(partial(insert_phase, index=2, state=second_state))
    if phase_state in PHASE_ACTIVE:
        database.write_now(insert_attempt, "P1", number)


def asked(database: Database, wish: PhaseWish, at: datetime = NOON) -> str:
    return database.write_now(add_request, "R1", wish.action, "ann", "chat", at, wish_to_json(wish))


def known(database: Database, request_id: str) -> RequestRecord:
    return database.read_now(request_by_id, request_id)


def obeyed(database: Database, wish: PhaseWish, fence: RunFence | None = None) -> tuple[Obeyed, RequestRecord]:
    request_id = asked(database, wish)
    answer = database.write_now(obey, known(database, request_id), fence, "me", LATER)
    assert answer is not None
    return answer, known(database, request_id)


def run(database: Database) -> RunRecord:
    return database.read_now(run_by_id, "R1")


def phase(database: Database, index: int = 1) -> PhaseRecord:
    return database.read_now(phases_of_run, "R1")[index - 1]


def attempt(database: Database) -> AttemptRecord:
    return database.read_now(attempts_of_phase, "R1", "P1")[-1]


def plan(database: Database) -> Plan:
    return plan_from_json(database.read_now(plan_json_of_run, "R1"))


# Per action, run and phase: what both become, or why nothing changes ("already") or cannot ("no").
RUNS: tuple[RunState, ...] = ("queued", "running", "pausing", "paused", "budget_paused", "needs_attention")
STOPPED = ("paused", "budget_paused", "needs_attention")


def expected(action: PhaseAction, state: RunState, phase_state: PhaseState) -> str | tuple[PhaseState, RunState]:
    """The document's table, in code."""
    if phase_state in ("succeeded", "committing"):
        return "no"
    in_hand, frees = phase_state in PHASE_ACTIVE, state == "needs_attention"
    if action == "retry":
        if in_hand and state not in STOPPED:
            return "already"
        if phase_state == "queued" and not frees:
            return "already"
        # A skipped phase is not what a run needs attention for.
        return "queued", "running" if frees and phase_state != "skipped" else state
    if action == "skip":
        return "already" if phase_state == "skipped" else ("skipped", "running" if frees else state)
    if phase_state == "skipped" or (in_hand and state not in STOPPED):
        return "no"
    return "queued" if in_hand else phase_state, state


CASES = [
    (action, state, phase_state)
    for action in get_args(PhaseAction)
    for state in RUNS
    for phase_state in get_args(PhaseState)
    if phase_state != "cancelled"  # Only in a run that has ended.
]


@pytest.mark.parametrize(
    "action, state, phase_state", CASES, ids=[f"{action} {phase} of a {run} run" for action, run, phase in CASES]
)
def test_a_wish_does_what_the_document_says_and_leaves_the_lease_free(
    database: Database, action: PhaseAction, state: RunState, phase_state: PhaseState
) -> None:
    a_run(database, state, phase_state)
    before = (run(database), phase(database))
    outcome = expected(action, state, phase_state)

    answer, request = obeyed(database, WISHES[action])

    assert (request.answer, request.handled_at) == (answer.answer, LATER)
    if isinstance(outcome, str):
        assert request.state == ("refused" if outcome == "no" else "done")
        assert (run(database), phase(database)) == before
        assert database.read_now(events_of_run, "R1", 9) == ()
        assert not answer.interrupts
        return
    assert request.state == "done"
    assert (phase(database).state, run(database).state) == outcome
    assert run(database).lease_owner is None
    assert answer.interrupts == (action == "skip" and phase_state in PHASE_ACTIVE)
    if phase_state in PHASE_ACTIVE:
        assert (attempt(database).state, attempt(database).finished_at) == ("interrupted", LATER)
    # What was true once is true, and asking again leaves it so.
    after = (run(database).state, run(database).plan_edits, phase(database))
    if state != "needs_attention" or action == "edit":
        _, again = obeyed(database, WISHES[action])
        assert again.state == "done"
        assert (run(database).state, run(database).plan_edits, phase(database)) == after


@pytest.mark.parametrize("action", get_args(PhaseAction))
@pytest.mark.parametrize("state", sorted(RUN_ENDED | {"cancelling"}))
def test_nothing_is_done_with_a_phase_of_a_run_that_has_ended(
    database: Database, action: PhaseAction, state: RunState
) -> None:
    a_run(database, state, "failed")

    answer, request = obeyed(database, WISHES[action])
    assert request.state == "refused"
    assert answer.answer == (
        f"{action!r} is not possible while the run is {state!r}. Nothing can be asked of it any more."
    )
    assert phase(database).state == "failed"


def test_a_skipped_phase_says_why_and_by_whom_wherever_it_is_shown(database: Database) -> None:
    a_run(database, "running", "verifying")
    answer, _ = obeyed(database, WISHES["skip"], RunFence("R1", 4))

    assert answer == Obeyed(
        "Phase P1 is skipped and counts as completed (no time for it). Its attempt 2 was dropped.", True, "P1"
    )
    assert phase(database).why == "skipped by ann through chat: no time for it"
    assert (phase(database).finished_at, phase(database).is_verified) == (LATER, None)
    assert attempt(database).reason == phase(database).why
    [event] = database.read_now(events_of_run, "R1", 9)
    assert (event.phase_id, event.from_state, event.to_state, event.why) == (
        "P1", "verifying", "skipped", phase(database).why,
    )  # fmt: skip
    assert (run(database).lease_token, run(database).state) == (4, "running")


def test_an_edit_changes_the_pinned_plan_and_the_log_keeps_both_texts(database: Database) -> None:
    a_run(database, "running", "queued")
    answer, _ = obeyed(database, WISHES["edit"])

    edited = plan(database)
    assert edited.phases[0] == replace(PLAN.phases[0], description="Write it better.", verify="make check")
    assert replace(edited, tiers=PLAN.tiers) == PLAN
    assert edited.phases[1] == PLAN.phases[1]
    assert run(database).plan_edits == 1
    assert answer.answer == "Phase P1 has another description and verification command now."
    verify, description = database.read_now(events_of_run, "R1", 9)
    assert (description.kind, description.phase_id) == ("edit", "P1")
    assert description.why == ("edited by ann through chat: description is 'Write it better.' now, it was 'Write one.'")
    assert verify.why == "edited by ann through chat: verify is 'make check' now, it was 'make test'"


@pytest.mark.parametrize(
    "edit, is_change",
    [
        (PhaseEdit("Write one."), False),
        (PhaseEdit(verify="make test"), False),  # The plan's own command, which the phase had from it.
        (PhaseEdit("Write one.", "make test"), False),
        (PhaseEdit("Write one. ", None), True),
        (PhaseEdit("Write one.", "none"), True),
    ],
)
def test_only_words_that_differ_are_an_edit(database: Database, edit: PhaseEdit, is_change: bool) -> None:
    a_run(database, "running", "queued")
    answer, request = obeyed(database, PhaseWish("edit", "P1", edit=edit))

    assert request.state == "done"
    assert run(database).plan_edits == is_change
    assert ("nothing was changed" in answer.answer) != is_change


@pytest.mark.parametrize(
    "state, phase_state, meant",
    [
        pytest.param("needs_attention", "failed", True, id="what failed"),
        pytest.param("needs_attention", "queued", True, id="what cannot begin"),
        pytest.param("paused", "auditing", True, id="what is in hand"),
        pytest.param("paused", "queued", False, id="nothing in particular"),
        pytest.param("running", "succeeded", False, id="nothing at all"),
    ],
)
def test_a_retry_without_a_phase_means_the_one_that_the_run_is_about(
    database: Database, state: str, phase_state: str, meant: bool
) -> None:
    a_run(database, state, phase_state)
    answer, request = obeyed(database, PhaseWish("retry", None))

    assert request.state == ("done" if meant else "refused")
    assert (phase(database).state == "queued") == (meant or phase_state == "queued")
    if not meant:
        assert answer.answer.startswith("No phase has failed or is in hand. Name one of P1 (")


@pytest.mark.parametrize("action", get_args(PhaseAction))
def test_a_phase_that_does_not_exist_is_answered_with_those_that_do(database: Database, action: PhaseAction) -> None:
    a_run(database, "running", "succeeded")
    answer, request = obeyed(database, replace(WISHES[action], phase_id="P9"))

    assert request.state == "refused"
    assert answer.answer == "Run R1 has no phase 'P9'. Its phases: P1 (succeeded), P2 (queued)."


def test_of_many_phases_some_are_named(database: Database) -> None:
    database.write_now(insert_run)
    for index in range(1, 31):
        database.write_now(insert_phase, index)

    with pytest.raises(RequestRefused, match=r"P20 \(queued\) and 10 more\."):
        database.read_now(answer_to_wish, run(database), PhaseWish("retry", "P99"))


def test_another_phase_than_the_one_that_a_run_needs_attention_for_leaves_it_waiting(database: Database) -> None:
    a_run(database, "needs_attention", "failed")
    answer, _ = obeyed(database, PhaseWish("skip", "P2", "later"))

    assert (phase(database, 2).state, run(database).state) == ("skipped", "needs_attention")
    assert answer.answer.endswith("The run still needs you for phase P1.")


def test_what_was_committed_stays_and_says_what_can_be_done_instead(database: Database) -> None:
    a_run(database, "running", "succeeded")

    with pytest.raises(RequestRefused, match=r"phase P1 has been committed as cccccccccc\. Later phases build on it"):
        database.read_now(answer_to_wish, run(database), WISHES["skip"])


def test_an_ended_run_is_refused_before_its_phases_are_looked_at(database: Database) -> None:
    database.write_now(partial(insert_run, state="succeeded"))

    with pytest.raises(IllegalTransition):
        database.read_now(answer_to_wish, run(database), PhaseWish("retry", "P9"))


def test_a_wish_waits_for_whoever_has_the_run_in_hand_but_is_answered_when_it_changes_nothing(
    database: Database,
) -> None:
    a_run(database, "running", "queued")
    database.write_now(
        partial(insert_run, run_id="R2", lease_owner="other", lease_expires_at=LATER + timedelta(seconds=9))
    )
    for index in (1, 2):
        database.write_now(partial(insert_phase, index=index, run_id="R2"))
    wishes = [PhaseWish("skip", "P1", "why not"), PhaseWish("retry", "P2")]
    requests = [
        database.write_now(add_request, "R2", wish.action, "ann", "chat", NOON, wish_to_json(wish)) for wish in wishes
    ]

    skip, retry = (database.write_now(obey, known(database, one), None, "me", LATER) for one in requests)
    assert skip is None
    assert known(database, requests[0]).state == "pending"
    assert retry is not None
    assert "waits to be tried already" in retry.answer


@pytest.mark.parametrize("wish", WISHES.values(), ids=WISHES)
def test_a_wish_is_the_same_after_it_was_written_down(database: Database, wish: PhaseWish) -> None:
    assert wish_from_json(known(database, asked(database, wish))) == wish
