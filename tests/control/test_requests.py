"""Pause, resume and cancel: every answer and every refusal in words, asked twice or at once, with nobody there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from autopack_mcp.control.overrides import OverrideWish
from autopack_mcp.control.requests import ACKNOWLEDGE_S, WAIT_S, RequestOutcome
from autopack_mcp.database.tables import requests, runs
from autopack_mcp.errors import IllegalTransition, RequestRefused, RunNotFound
from autopack_mcp.runs.requests import Action, answer_request, pending_requests
from autopack_mcp.runs.states import RunState
from tests.control.counter import BOB, HAIKU, LIMIT_S, Counter, count_of, obeyed_once, pending
from tests.factories import NOON
from tests.projects import a_phase, a_plan
from tests.runs.house import ANN

pytestmark = pytest.mark.anyio


def test_a_chat_never_waits_longer_than_promised() -> None:
    assert ACKNOWLEDGE_S <= 1.0  # Contract 27.
    assert WAIT_S <= 3.0  # No tool call blocks longer.


async def test_a_pause_in_a_long_step_is_acknowledged_within_a_second_and_says_what_it_waits_for(
    counter: Counter, repository: Path
) -> None:
    house, loop = counter.house, asyncio.get_running_loop()
    control = counter.control(wait_s=LIMIT_S, acknowledge_s=ACKNOWLEDGE_S / 4)
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository, [a_phase("a")]))
        await house.gate.reached.wait()
        asked_at = loop.time()
        first = await control.request(run_id, "pause", ANN)
        waited_s = loop.time() - asked_at
        again = await control.request(run_id, "pause", BOB)
        now = await control.request(run_id, "pause", BOB, now=True)
        house.gate.open()

    assert waited_s < ACKNOWLEDGE_S
    assert first == RequestOutcome(
        run_id, "pause", "pausing",
        f"Run {run_id} pauses as soon as the building of phase a is done; to pause now interrupts it.", True,
    )  # fmt: skip
    assert (again.message, again.is_pending) == (
        f"Run {run_id} is already pausing: pause asked by ann through a test",
        True,
    )
    assert (now.state, now.is_pending) == ("paused", False)
    assert now.message == f"It was already pausing. Run {run_id} is paused: paused as asked"
    assert counter.read(count_of, requests) == 2  # The one that was already so left no row.


async def test_a_request_that_nobody_answers_is_written_down_once_and_says_so(counter: Counter) -> None:
    counter.a_run("running")
    control, loop = counter.control(), asyncio.get_running_loop()

    asked_at = loop.time()
    outcomes = [await control.request("R1", "cancel", person) for person in (ANN, BOB)]

    assert loop.time() - asked_at < 1
    assert {(outcome.state, outcome.is_pending) for outcome in outcomes} == {("running", True)}
    assert outcomes[0].message == (
        "The request is written down; the supervisor has not answered yet. Run R1 is running."
    )
    [request] = counter.read(pending_requests)
    assert (request.author, request.action) == ("ann", "cancel")


async def test_a_cancel_that_is_obeyed_but_not_done_yet_says_that(counter: Counter) -> None:
    counter.a_run("running", lease_token=0)
    asking = asyncio.create_task(counter.control(wait_s=0.2).request("R1", "cancel", ANN))
    await obeyed_once(counter)

    outcome = await asking
    assert (outcome.state, outcome.is_pending) == ("cancelling", True)
    assert outcome.message == "Run R1 is being cancelled: its step is being ended and its workspace cleaned."


@pytest.mark.parametrize(
    "action, state, message",
    [
        ("pause", "paused", "Run R1 is already paused: so"),
        ("pause", "budget_paused", "Run R1 is already budget_paused: so"),
        ("resume", "running", "Run R1 is already running: so"),
        ("resume", "queued", "Run R1 is already queued: so"),
        ("cancel", "cancelled", "Run R1 is already cancelled: so"),
    ],
)
async def test_asking_for_what_is_so_already_changes_nothing(
    counter: Counter, action: Action, state: RunState, message: str
) -> None:
    counter.a_run(state)

    assert await counter.control().request("R1", action, ANN) == RequestOutcome("R1", action, state, message, False)
    assert counter.read(count_of, requests) == 0
    # Whoever asks about a run that should move also makes sure that somebody moves it.
    assert (counter.posted.asked > 0) == (state in ("running", "queued"))


@pytest.mark.parametrize(
    "action, state, words",
    [
        (
            "pause",
            "needs_attention",
            (
                "'pause' is not possible while the run is 'needs_attention'. "
                "Allowed now: resume, cancel, give_up, retry, skip, edit, raise_cap."
            ),
        ),
        (
            "resume",
            "cancelling",
            "'resume' is not possible while the run is 'cancelling'. Nothing can be asked of it any more.",
        ),
        (
            "cancel",
            "succeeded",
            "'cancel' is not possible while the run is 'succeeded'. Nothing can be asked of it any more.",
        ),
    ],
)
async def test_what_cannot_be_asked_now_says_what_can(counter: Counter, action: Action, state: str, words: str) -> None:
    counter.a_run(state)

    with pytest.raises(IllegalTransition) as caught:
        await counter.control().request("R1", action, ANN)
    assert str(caught.value) == words
    assert counter.read(count_of, requests) == 0


async def test_an_unknown_run_is_answered_with_those_that_exist(counter: Counter) -> None:
    counter.a_run("running")
    control = counter.control()
    for asking in (
        control.request("R2", "pause", ANN),
        control.add_note("R2", "words", "tool", ANN),
        control.withdraw_note("R2", 1),
        control.override(OverrideWish("builder", "*", "*", HAIKU, "run", "R2"), ANN),
    ):
        with pytest.raises(RunNotFound, match=r"No run 'R2'\. Known runs, newest first: R1"):
            await asking


async def test_a_run_that_ends_while_it_is_asked_refuses_in_words(counter: Counter) -> None:
    counter.a_run("running")
    asking = asyncio.create_task(counter.control(wait_s=LIMIT_S).request("R1", "pause", ANN))
    await pending(counter)
    counter.write(lambda connection: connection.execute(runs.update().values(state="succeeded", why="all is done")))
    await obeyed_once(counter)

    with pytest.raises(RequestRefused) as caught:
        await asking
    assert str(caught.value) == (
        "pause is not possible: the run is succeeded. Run R1 is succeeded: all is done. It can be asked now: nothing"
        " any more."
    )


async def test_a_pause_that_a_cancel_has_overtaken_waits_for_nothing(counter: Counter) -> None:
    counter.a_run("running")
    asking = asyncio.create_task(counter.control(wait_s=LIMIT_S, acknowledge_s=LIMIT_S).request("R1", "pause", ANN))
    await pending(counter)
    [request] = counter.read(pending_requests)
    counter.write(lambda connection: connection.execute(runs.update().values(state="cancelling")))
    counter.write(answer_request, request.request_id, "done", "Done.", NOON)

    async with asyncio.timeout(LIMIT_S / 2):
        outcome = await asking
    assert (outcome.state, outcome.is_pending) == ("cancelling", False)


async def test_what_is_so_now_is_asked_all_the_same_while_another_wish_is_on_its_way(counter: Counter) -> None:
    counter.a_run("paused", lease_token=0)
    resuming = asyncio.create_task(counter.control().request("R1", "resume", ANN))
    await pending(counter)
    pausing = asyncio.create_task(counter.control().request("R1", "pause", BOB))
    await pending(counter, 2)
    await obeyed_once(counter, 2)

    await resuming
    assert (await pausing).state == "pausing"  # The last word: without it the run would go on.
