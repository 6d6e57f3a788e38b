"""Wishes for other caps: what an amount may be, what asking twice does, and who is refused."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from autopack_mcp.control.caps import LARGEST, CapWish, checked_caps
from autopack_mcp.control.requests import RequestOutcome
from autopack_mcp.database.tables import requests
from autopack_mcp.errors import IllegalTransition, RequestRefused, RunNotFound, SupervisorUnavailable
from autopack_mcp.runs.own_caps import NewCaps
from autopack_mcp.runs.requests import pending_requests
from autopack_mcp.runs.states import RUN_ENDED, RunState
from autopack_mcp.runs.store import run_by_id
from tests.control.counter import BOB, LIMIT_S, Counter, count_of, obeyed_once, pending
from tests.factories import insert_phase
from tests.runs.house import ANN

pytestmark = pytest.mark.anyio

HINT = "It is the new total, not what is added. To spend nothing more, pause the run."


@pytest.mark.parametrize(
    "wish, expected",
    [
        (CapWish(tokens=1), NewCaps(1)),
        (CapWish(tokens=LARGEST), NewCaps(LARGEST)),
        (CapWish(usd=Decimal("2.5")), NewCaps(None, 2_500_000_000)),
        (CapWish(usd=Decimal("1e-9")), NewCaps(None, 1)),
        (CapWish(usd=Decimal("0.0000000019")), NewCaps(None, 1)),
        (CapWish(5, Decimal(9_223_372_036), "p"), NewCaps(5, 9_223_372_036_000_000_000, "p")),
    ],
)
def test_an_amount_is_whole_tokens_and_nano_dollars(wish: CapWish, expected: NewCaps) -> None:
    assert checked_caps(wish) == expected


@pytest.mark.parametrize(
    "wish, words",
    [
        (CapWish(), "No cap is given. Say the new total: tokens, dollars or both."),
        (CapWish(phase_id="P1"), "No cap is given. Say the new total: tokens, dollars or both."),
        (CapWish(tokens=0), f"A cap is from 1 to 9,223,372,036,854,775,807 tokens, not 0. {HINT}"),
        (CapWish(tokens=-5), f"A cap is from 1 to 9,223,372,036,854,775,807 tokens, not -5. {HINT}"),
        (CapWish(tokens=LARGEST + 1), "tokens, not 9,223,372,036,854,775,808."),
        (CapWish(usd=Decimal(0)), f"A cap is above $0 and at most $9,223,372,036, not 0. {HINT}"),
        (CapWish(usd=Decimal("-0.01")), "not -0.01."),
        (CapWish(usd=Decimal("1e-10")), "not 1E-10."),
        (CapWish(usd=Decimal("NaN")), "not NaN."),
        (CapWish(usd=Decimal("sNaN")), "not sNaN."),
        (CapWish(usd=Decimal("-Infinity")), "not -Infinity."),
        (CapWish(usd=Decimal("1e999999")), "not 1E+999999."),
        (CapWish(usd=Decimal("1e-999999")), "not 1E-999999."),
        (CapWish(5, Decimal(0)), "not 0."),
    ],
)
async def test_what_is_no_cap_is_refused_and_nothing_is_written(counter: Counter, wish: CapWish, words: str) -> None:
    counter.a_run("running")

    with pytest.raises(RequestRefused) as caught:
        await counter.control().raise_cap("R1", wish, ANN)
    assert words in str(caught.value)
    assert counter.read(count_of, requests) == 0


async def test_a_cap_that_is_so_already_is_answered_without_a_request(counter: Counter) -> None:
    counter.a_run("paused", token_cap=500)

    message = "The cap of run R1 is 500 tokens already; nothing was changed. Run R1 is paused: so"
    assert await counter.control().raise_cap("R1", CapWish(tokens=500), ANN) == RequestOutcome(
        "R1", "raise_cap", "paused", message, is_pending=False
    )
    assert (counter.read(count_of, requests), counter.posted.asked) == (0, 0)


async def test_asking_twice_while_nobody_answers_is_one_request(counter: Counter) -> None:
    counter.a_run("running", token_cap=500)
    control = counter.control()
    outcomes = [await control.raise_cap("R1", CapWish(tokens=900), person) for person in (ANN, BOB)]

    assert {outcome.is_pending for outcome in outcomes} == {True}
    assert "The request is written down; the supervisor has not answered yet." in outcomes[0].message
    [request] = counter.read(pending_requests)
    assert (request.author, request.action) == ("ann", "raise_cap")
    assert request.arguments == {"tokens": 900, "nano_usd": None, "phase_id": None}
    assert counter.read(run_by_id, "R1").token_cap == 500


async def test_what_is_so_now_is_asked_all_the_same_while_another_cap_is_on_its_way(counter: Counter) -> None:
    counter.a_run("running", token_cap=500, lease_token=0)
    control = counter.control(wait_s=LIMIT_S)
    asking = [asyncio.create_task(control.raise_cap("R1", CapWish(tokens=900), ANN))]
    await pending(counter)
    asking.append(asyncio.create_task(control.raise_cap("R1", CapWish(tokens=500), BOB)))
    await obeyed_once(counter, 2)

    first, second = [await outcome for outcome in asking]
    assert "is now 900 tokens (before: 500 tokens)" in first.message
    assert "is now 500 tokens (before: 900 tokens)" in second.message
    assert counter.read(run_by_id, "R1").token_cap == 500


@pytest.mark.parametrize("state", [*sorted(RUN_ENDED), "cancelling"])
async def test_a_run_that_has_ended_has_no_use_for_a_cap(counter: Counter, state: RunState) -> None:
    counter.a_run(state)

    with pytest.raises(IllegalTransition, match=f"'raise_cap' is not possible while the run is '{state}'"):
        await counter.control().raise_cap("R1", CapWish(tokens=5), ANN)
    assert counter.read(count_of, requests) == 0


async def test_an_unknown_run_or_phase_is_answered_with_those_that_exist(counter: Counter) -> None:
    counter.a_run("running")
    counter.write(lambda connection: insert_phase(connection))

    with pytest.raises(RunNotFound, match="R1"):
        await counter.control().raise_cap("R2", CapWish(tokens=5), ANN)
    with pytest.raises(RequestRefused) as caught:
        await counter.control().raise_cap("R1", CapWish(tokens=5, phase_id="P\x1b[2"), ANN)
    assert str(caught.value) == "Run R1 has no phase 'P\\x1b[2'. Its phases: P1."


async def test_a_cap_that_nobody_can_change_is_not_written_down(counter: Counter) -> None:
    counter.a_run("budget_paused")
    counter.posted.error = SupervisorUnavailable("No supervisor came up within 20 s.")

    with pytest.raises(SupervisorUnavailable):
        await counter.control().raise_cap("R1", CapWish(tokens=5), ANN)
    assert counter.read(count_of, requests) == 0


async def test_a_run_that_ends_while_its_cap_is_asked_refuses_in_words(counter: Counter) -> None:
    counter.a_run("running", lease_token=0)
    asking = asyncio.create_task(counter.control(wait_s=LIMIT_S).raise_cap("R1", CapWish(tokens=5), ANN))
    await pending(counter)
    counter.write(lambda connection: connection.exec_driver_sql("UPDATE runs SET state = 'failed'"))
    await obeyed_once(counter)

    with pytest.raises(RequestRefused, match="'raise_cap' is not possible while the run is 'failed'"):
        await asking
