"""What people ask of a run: written once, answered once, in order, and never at the price of the run's lease."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, get_args

import pytest
from sqlalchemy import Connection, Row, insert, select

from autopack_mcp.budgets.ledger import RunFence
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import phases, requests
from autopack_mcp.errors import LeaseLost, RunNotFound
from autopack_mcp.runs.obeying import Obeyed, obey
from autopack_mcp.runs.requests import (
    Action,
    RequestRecord,
    add_request,
    answer_request,
    event_of,
    pending_requests,
    request_by_id,
)
from autopack_mcp.runs.states import RunState, next_run_state
from autopack_mcp.runs.store import claim, claimable_runs, events_of_run, phases_of_run, run_by_id
from tests.factories import NOON, insert_phase
from tests.factories import insert_run as insert_run_row

LEASE_S = 6.0

# Per action and state: what the run becomes, or "already" (nothing to do), or "no" (it cannot be asked).
ANSWERS: Mapping[Action, Mapping[RunState, str]] = {
    "pause": {
        "queued": "paused", "running": "pausing", "pausing": "already", "paused": "already", "budget_paused": "already",
        "needs_attention": "no", "cancelling": "no", "succeeded": "no", "failed": "no", "cancelled": "no",
    },
    "resume": {
        "queued": "already", "running": "already", "pausing": "running", "paused": "running",
        "budget_paused": "running", "needs_attention": "running", "cancelling": "no", "succeeded": "no",
        "failed": "no", "cancelled": "no",
    },
    "cancel": {
        "queued": "cancelling", "running": "cancelling", "pausing": "cancelling", "paused": "cancelling",
        "budget_paused": "cancelling", "needs_attention": "cancelling", "cancelling": "already",
        "succeeded": "no", "failed": "no", "cancelled": "already",
    },
    "give_up": {
        "queued": "no", "running": "no", "pausing": "no", "paused": "no", "budget_paused": "no",
        "needs_attention": "failed", "cancelling": "no", "succeeded": "no", "failed": "already", "cancelled": "no",
    },
}  # fmt: skip
CASES = [(action, state, answer) for action, answers in ANSWERS.items() for state, answer in answers.items()]


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def ask(database: Database, action: Action, *, second: float = 0, run_id: str = "R1", **arguments: Any) -> str:
    return database.write_now(add_request, run_id, action, "ann", "chat", at(second), arguments)


def known(database: Database, request_id: str) -> RequestRecord:
    return database.read_now(request_by_id, request_id)


def obeyed(database: Database, request_id: str, fence: RunFence | None = None) -> Obeyed | None:
    return database.write_now(obey, known(database, request_id), fence, "me", at(60))


def a_run(database: Database, state: str = "running", **overrides: Any) -> None:
    database.write_now(insert_run_row, "R1", state=state, **overrides)


def phase_rows(database: Database) -> list[Row[Any]]:
    return list(database.read_now(lambda connection: connection.execute(select(phases)).all()))


# ── writing down ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_keeps_who_asked_through_what_and_when(database: Database) -> None:
    request = known(database, ask(database, "pause", second=1, now=True))

    assert (request.run_id, request.action, request.author, request.client) == ("R1", "pause", "ann", "chat")
    assert (request.state, request.answer, request.created_at, request.handled_at) == ("pending", "", at(1), None)
    assert request.arguments == {"now": True}


def test_asking_again_while_the_same_is_pending_writes_nothing_new(database: Database) -> None:
    first = ask(database, "pause", now=False)

    assert ask(database, "pause", second=1, now=False) == first
    assert [request.request_id for request in database.read_now(pending_requests)] == [first]


@pytest.mark.parametrize(
    "second",
    [
        pytest.param({"action": "pause", "now": True}, id="more urgent"),
        pytest.param({"action": "resume", "now": False}, id="another wish"),
        pytest.param({"action": "pause", "now": False, "run_id": "R2"}, id="of another run"),
    ],
)
def test_another_wish_is_a_request_of_its_own(database: Database, second: dict[str, Any]) -> None:
    first = ask(database, "pause", now=False)
    later = ask(database, second=1, **second)

    assert later != first
    assert [request.request_id for request in database.read_now(pending_requests)] == [first, later]


def test_the_last_word_counts_although_the_same_was_said_before(database: Database) -> None:
    a_run(database)
    wishes: list[Action] = ["pause", "resume", "pause"]
    for second, action in enumerate(wishes):
        ask(database, action, second=second)
    for request in database.read_now(pending_requests):
        obeyed(database, request.request_id)

    assert database.read_now(run_by_id, "R1").state == "pausing"


def test_what_was_asked_later_is_later_whatever_the_clock_says(database: Database) -> None:
    ids = [ask(database, "pause", second=5), ask(database, "resume", second=5), ask(database, "cancel", second=1)]

    assert [request.request_id for request in database.read_now(pending_requests)] == ids


def test_an_answered_request_is_history_and_asking_again_is_new(database: Database) -> None:
    first = ask(database, "pause")
    database.write_now(answer_request, first, "done", "Done.", at(2))

    assert (known(database, first).state, known(database, first).handled_at) == ("done", at(2))
    assert database.read_now(pending_requests) == ()
    assert ask(database, "pause") != first


def test_pending_requests_are_listed_oldest_first_of_all_runs_or_of_some(database: Database) -> None:
    late, early = ask(database, "pause", second=2), ask(database, "cancel", second=1, run_id="R2")

    assert [request.request_id for request in database.read_now(pending_requests)] == [early, late]
    assert [request.request_id for request in database.read_now(pending_requests, ("R2",))] == [early]
    assert database.read_now(pending_requests, ()) == ()


# ── obeying ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_there_is_an_answer_for_every_action_in_every_state() -> None:
    assert set(ANSWERS) == set(get_args(Action))
    assert all(set(answers) == set(get_args(RunState)) for answers in ANSWERS.values())


@pytest.mark.parametrize(
    "action, state, expected", CASES, ids=[f"{action} while {state}" for action, state, _ in CASES]
)
def test_a_request_is_answered_truthfully_and_leaves_the_lease_free(
    database: Database, action: Action, state: RunState, expected: str
) -> None:
    a_run(database, state)
    request_id = ask(database, action)

    answer = obeyed(database, request_id)
    request, run = known(database, request_id), database.read_now(run_by_id, "R1")

    assert answer is not None
    assert request.answer == answer.answer
    assert request.handled_at == at(60)
    assert (run.lease_owner, run.lease_expires_at) == (None, None)
    if expected in ("already", "no"):
        assert (run.state, run.why, run.lease_token) == (state, "", 1)
        assert request.state == ("done" if expected == "already" else "refused")
        assert state in request.answer
    else:
        assert (run.state, run.why) == (expected, f"{action} asked by ann through chat")
        assert (request.state, request.answer) == ("done", "Done.")
        assert next_run_state(state, event_of(action, state)) == expected


def test_a_run_of_our_own_stays_in_hand_while_it_obeys(database: Database) -> None:
    a_run(database, lease_owner="me", lease_expires_at=at(99))

    obeyed(database, ask(database, "pause"), RunFence("R1", 1))

    run = database.read_now(run_by_id, "R1")
    assert (run.state, run.lease_owner, run.lease_token) == ("pausing", "me", 1)


def test_a_request_to_a_run_that_somebody_else_has_in_hand_waits_for_its_owner(database: Database) -> None:
    a_run(database, lease_owner="other", lease_expires_at=at(99))
    request_id = ask(database, "cancel")

    assert obeyed(database, request_id) is None
    assert known(database, request_id).state == "pending"
    assert database.read_now(run_by_id, "R1").state == "running"
    assert database.read_now(events_of_run, "R1", 9) == ()


def test_a_request_is_not_obeyed_under_a_lease_that_was_lost(database: Database) -> None:
    a_run(database, lease_token=2, lease_owner="other", lease_expires_at=at(99))
    request_id = ask(database, "cancel")

    with pytest.raises(LeaseLost):
        obeyed(database, request_id, RunFence("R1", 1))
    assert known(database, request_id).state == "pending"


def test_a_request_that_another_process_has_answered_is_left_alone(database: Database) -> None:
    a_run(database)
    listed = known(database, ask(database, "pause"))
    obeyed(database, listed.request_id)
    ask(database, "resume", second=1)
    for request in database.read_now(pending_requests):
        obeyed(database, request.request_id)

    # Whoever had listed the pause before must not pause the run again, after a person let it go on.
    assert database.write_now(obey, listed, None, "another", at(61)) is None
    assert database.read_now(run_by_id, "R1").state == "running"


def test_a_request_that_was_answered_in_the_very_moment_of_its_move_undoes_the_move(database: Database) -> None:
    a_run(database)
    request_id = ask(database, "pause")

    def answered_twice(connection: Connection) -> None:
        assert answer_request(connection, request_id, "done", "elsewhere", at(2))
        assert not answer_request(connection, request_id, "refused", "here", at(3))

    database.write_now(answered_twice)
    assert (known(database, request_id).state, known(database, request_id).answer) == ("done", "elsewhere")


def test_a_request_to_a_run_that_is_gone_is_an_error(database: Database) -> None:
    with pytest.raises(RunNotFound):
        obeyed(database, ask(database, "pause", run_id="nowhere"))


def test_an_answer_that_changes_nothing_holds_nobody_up(database: Database) -> None:
    a_run(database, "queued")
    obeyed(database, ask(database, "resume"))

    assert [run.run_id for run in database.read_now(claimable_runs, at(60))] == ["R1"]
    assert database.write_now(claim, "R1", "me", at(60), LEASE_S) is not None


@pytest.mark.parametrize(
    "action, state, arguments, interrupts",
    [
        pytest.param("pause", "running", {}, False, id="a pause waits for the step"),
        pytest.param("pause", "running", {"now": True}, True, id="pause now does not"),
        pytest.param("pause", "pausing", {"now": True}, True, id="nor when a pause is waiting already"),
        pytest.param("cancel", "running", {}, True, id="cancel ends the step"),
        pytest.param("resume", "pausing", {}, False, id="resume lets it go on"),
    ],
)
def test_what_interrupts_a_step(
    database: Database, action: Action, state: str, arguments: dict[str, Any], interrupts: bool
) -> None:
    a_run(database, state)

    answer = obeyed(database, ask(database, action, **arguments))

    assert answer is not None
    assert answer.interrupts == interrupts


def test_resuming_what_needs_attention_queues_the_failed_phases_again_and_no_other(database: Database) -> None:
    a_run(database, "needs_attention")
    database.write_now(insert_phase, 1, state="succeeded", attempt=1, finished_at=NOON)
    database.write_now(insert_phase, 2, state="failed", attempt=3, finished_at=NOON)
    database.write_now(insert_phase, 3, state="verifying", attempt=2)
    database.write_now(insert_phase, 4)
    others = [row for row in phase_rows(database) if row.phase_id != "P2"]

    obeyed(database, ask(database, "resume"))

    retried = database.read_now(phases_of_run, "R1")[1]
    assert (retried.state, retried.attempt, retried.finished_at) == ("queued", 3, None)
    assert retried.why == "retried by a person"
    assert [row for row in phase_rows(database) if row.phase_id != "P2"] == others


def test_a_request_of_a_kind_that_we_do_not_know_says_so(database: Database) -> None:
    a_run(database)
    row = {"request_id": "q-1", "run_id": "R1", "action": "dance", "arguments": {}, "author": "ann", "client": "chat"}
    database.write_now(
        lambda connection: connection.execute(
            insert(requests).values(**row, state="pending", answer="", created_at=NOON)
        )
    )

    with pytest.raises(KeyError):  # The supervisor answers it with that, see test_supervision.
        obeyed(database, "q-1")
