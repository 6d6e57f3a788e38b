"""Wishes about a phase before they are written down: what may be said, by whom, and what is so already."""

from __future__ import annotations

from functools import partial

import pytest

from autopack_mcp.control.phases import REASON_LIMIT, checked_wish
from autopack_mcp.database.tables import requests
from autopack_mcp.errors import IllegalTransition, RequestRefused, RunNotFound, SupervisorUnavailable
from autopack_mcp.plans.phases import COMMAND_LIMIT, DESCRIPTION_LIMIT
from autopack_mcp.plans.plan import PhaseSpec, Plan, TierSpec, plan_to_json
from autopack_mcp.runs.phase_wishes import PhaseWish
from autopack_mcp.runs.plan_edits import PhaseEdit
from autopack_mcp.runs.requests import pending_requests
from tests.control.counter import BOB, Counter, count_of
from tests.factories import insert_phase
from tests.runs.house import ANN

pytestmark = pytest.mark.anyio
PLAN = plan_to_json(Plan("a plan", "/r", "make test", (TierSpec("t", "t", (PhaseSpec("P1", "one", "Write one."),)),)))


def a_run(counter: Counter, state: str, phase_state: str = "queued") -> None:
    counter.a_run(state, plan_json=PLAN)
    counter.write(partial(insert_phase, state=phase_state))


@pytest.mark.parametrize(
    "wish, said",
    [
        (PhaseWish("skip", None, "why"), "skip needs a phase. Give its phase_id"),
        (PhaseWish("edit", None, edit=PhaseEdit("x")), "edit needs a phase."),
        (PhaseWish("skip", "a"), "reason must not be empty. Say why"),
        (PhaseWish("skip", "a", " \n"), "reason must not be empty."),
        (PhaseWish("skip", "a", "x" * (REASON_LIMIT + 1)), "reason has 501 characters; 500 is the most."),
        (PhaseWish("skip", "a", "be\x1b[2Jep"), "reason must not hold the control character"),
        (PhaseWish("edit", "a"), "Nothing to edit is given. Give a description, a verify command or both."),
        (PhaseWish("edit", "a", edit=PhaseEdit("")), "description must not be empty."),
        (PhaseWish("edit", "a", edit=PhaseEdit("x" * (DESCRIPTION_LIMIT + 1))), "20,000 is the most."),
        (PhaseWish("edit", "a", edit=PhaseEdit(verify=" ")), "verify must not be empty. To go without verification,"),
        (PhaseWish("edit", "a", edit=PhaseEdit(verify="x" * (COMMAND_LIMIT + 1))), "4,000 is the most."),
        (PhaseWish("edit", "a", edit=PhaseEdit("x\0")), "description must not hold the control character"),
    ],
)
def test_words_that_no_plan_could_have_are_refused(wish: PhaseWish, said: str) -> None:
    with pytest.raises(RequestRefused) as caught:
        checked_wish(wish, may_set_commands=True)
    assert said in str(caught.value)


@pytest.mark.parametrize("command, becomes", [(" make test ", "make test"), ("None", "none"), ("a\nb", "a\nb")])
def test_a_command_is_as_a_plan_would_have_it(command: str, becomes: str) -> None:
    wish = checked_wish(PhaseWish("edit", "a", edit=PhaseEdit(verify=command)), may_set_commands=True)
    assert wish.edit == PhaseEdit(None, becomes)


def test_a_reason_becomes_one_line_as_it_is_shown() -> None:
    assert checked_wish(PhaseWish("skip", "a", " no\n time "), may_set_commands=False).reason == "no time"


@pytest.mark.parametrize("is_allowed", [False, True])
async def test_a_command_from_elsewhere_is_written_down_only_where_plans_may_come_from_there(
    counter: Counter, is_allowed: bool
) -> None:
    a_run(counter, "running")
    counter.changed_settings = {"allow_inline_plans": is_allowed}
    asking = counter.control().about_phase("R1", PhaseWish("edit", "P1", edit=PhaseEdit(verify="true")), ANN)
    if is_allowed:
        assert (await asking).is_pending
    else:
        with pytest.raises(
            RequestRefused, match=r"cannot be set from a chat.*autopack-mcp edit --verify on the machine"
        ):
            await asking
    assert counter.read(count_of, requests) == is_allowed


@pytest.mark.parametrize(
    "wish, phase_state, said",
    [
        (PhaseWish("retry", "P1"), "queued", "Phase P1 waits to be tried already; nothing was changed."),
        (PhaseWish("skip", "P1", "x"), "skipped", "Phase P1 is skipped already; nothing was changed."),
        (PhaseWish("edit", "P1", edit=PhaseEdit("Write one.")), "queued", "Phase P1 says so already;"),
    ],
    ids=["retry", "skip", "edit"],
)
async def test_what_is_so_already_is_answered_without_a_request(
    counter: Counter, wish: PhaseWish, phase_state: str, said: str
) -> None:
    a_run(counter, "running", phase_state)

    outcome = await counter.control().about_phase("R1", wish, ANN)
    assert (outcome.action, outcome.state, outcome.is_pending) == (wish.action, "running", False)
    assert outcome.message.startswith(said)
    assert outcome.message.endswith("Run R1 is running: so")
    assert counter.read(count_of, requests) == 0


async def test_a_wish_that_nobody_answers_is_written_down_once_with_who_asked(counter: Counter) -> None:
    a_run(counter, "running")
    outcomes = [
        await counter.control().about_phase("R1", PhaseWish("skip", "P1", "no time"), person) for person in (ANN, BOB)
    ]

    assert all(outcome.is_pending for outcome in outcomes)
    [request] = counter.read(pending_requests)
    assert (request.action, request.author, request.client) == ("skip", "ann", "a test")
    assert request.arguments == {"phase_id": "P1", "reason": "no time", "description": None, "verify": None}


async def test_what_another_request_is_about_to_change_is_left_to_the_supervisor(counter: Counter) -> None:
    a_run(counter, "running", "building")
    control, edit = counter.control(), PhaseWish("edit", "P1", edit=PhaseEdit("Otherwise."))
    with pytest.raises(RequestRefused, match="is in hand"):
        await control.about_phase("R1", edit, ANN)

    # Behind a pause that is still to be obeyed the same edit may be possible.
    await control.request("R1", "pause", ANN, now=True)
    assert (await control.about_phase("R1", edit, ANN)).is_pending
    assert [request.action for request in counter.read(pending_requests)] == ["pause", "edit"]


async def test_a_run_that_is_unknown_or_has_ended_is_refused_and_so_is_asking_nobody(counter: Counter) -> None:
    wish = PhaseWish("skip", "P1", "no time")
    with pytest.raises(RunNotFound):
        await counter.control().about_phase("R9", wish, ANN)
    a_run(counter, "succeeded", "succeeded")
    with pytest.raises(IllegalTransition, match="Nothing can be asked of it any more"):
        await counter.control().about_phase("R1", wish, ANN)

    counter.a_run("running", run_id="R2", plan_json=PLAN)
    counter.write(partial(insert_phase, run_id="R2"))
    counter.posted.error = SupervisorUnavailable("nobody is there")
    with pytest.raises(SupervisorUnavailable):
        await counter.control().about_phase("R2", wish, ANN)
    assert counter.read(count_of, requests) == 0
