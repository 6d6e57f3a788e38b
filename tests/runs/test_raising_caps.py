"""Caps of a run and of its phases on a whole product: it stops at one, and raised, goes on where it paused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from autopack_mcp.control.caps import CapWish
from autopack_mcp.database.tables import attempts, requests, run_events, usage_events
from tests.ledger_truth import assert_ledger_adds_up
from tests.projects import a_phase, a_plan, git, make_repository
from tests.runs.house import ANN, House, open_house

pytestmark = pytest.mark.anyio

ENOUGH = 10_000_000  # Tokens.
# A rehearsed builder reserves about 18,200 tokens and uses about 450, an auditor less: phase a fits, phase b does not.
ONE_PHASE = 18_500


@pytest.fixture
async def house(tmp_path: Path, empty_database: Path | str) -> AsyncIterator[House]:
    async with open_house(tmp_path, empty_database) as opened:
        yield opened


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "project")


def steps(connection: Connection, run_id: str) -> list[tuple[Any, ...]]:
    """Every try at a phase, and then every call, in order."""
    tried = select(attempts.c.phase_id, attempts.c.attempt, attempts.c.state).order_by(attempts.c.phase_id)
    tried = tried.where(attempts.c.run_id == run_id)
    called = select(usage_events.c.phase_id, usage_events.c.role, usage_events.c.attempt)
    called = called.where(usage_events.c.run_id == run_id).order_by(usage_events.c.recorded_at)
    return [*map(tuple, connection.execute(tried)), *map(tuple, connection.execute(called))]


def log(connection: Connection, run_id: str) -> list[str]:
    found = select(run_events.c.why).where(run_events.c.run_id == run_id, run_events.c.kind == "cap")
    return list(connection.execute(found).scalars())


async def test_a_run_stopped_by_its_cap_says_what_to_say_and_goes_on_where_it_paused(
    house: House, repository: Path
) -> None:
    async with house.supervising():
        stopped = await house.stopped(await house.start(a_plan(repository, token_cap=ONE_PHASE)))
        needed = stopped.needs_you
        raised = await house.control.raise_cap(stopped.run_id, CapWish(tokens=ENOUGH), ANN)
        run = await house.stopped(stopped.run_id)

    assert (stopped.state, [phase.state for phase in stopped.phases]) == ("budget_paused", ["succeeded", "building"])
    assert needed is not None
    assert needed.say.startswith(f"raise the cap of run {run.run_id} to ")
    assert (raised.action, raised.is_pending) == ("raise_cap", False)
    assert "is now 10,000,000 tokens (before: 18,500 tokens)" in raised.message
    assert "The run goes on where it paused." in raised.message
    assert (run.state, run.token_cap) == ("succeeded", ENOUGH)
    assert house.autopack.database.read_now(steps, run.run_id) == [
        ("a", 1, "kept"), ("b", 1, "kept"),
        ("a", "builder", 1), ("a", "auditor", 1), ("b", "builder", 1), ("b", "auditor", 1),
    ]  # fmt: skip
    assert house.autopack.database.read_now(log, run.run_id) == [
        f"ann through a test changed the cap of run {run.run_id} from 18,500 tokens to 10,000,000 tokens"
    ]
    assert git(repository, "log", "--format=%s", f"main..{run.branch}").splitlines() == ["Phase b", "Phase a"]


async def test_the_phrase_that_a_stopped_run_gives_is_enough_for_the_call_that_was_denied(
    house: House, repository: Path
) -> None:
    async with house.supervising():
        stopped = await house.stopped(await house.start(a_plan(repository, token_cap=ONE_PHASE)))
        assert stopped.needs_you is not None
        amount = int(stopped.needs_you.say.split(" to ")[1].removesuffix(" tokens").replace(",", ""))
        await house.control.raise_cap(stopped.run_id, CapWish(tokens=amount), ANN)
        run = await house.stopped(stopped.run_id)

    assert run.state == "succeeded"


async def test_the_cap_of_a_phase_stops_the_run_and_raised_lets_it_go_on(house: House, repository: Path) -> None:
    plan = a_plan(repository, [a_phase("a"), a_phase("b", token_cap=1_000), a_phase("c")], token_cap=ENOUGH)
    async with house.supervising():
        stopped = await house.stopped(await house.start(plan))
        in_vain = await house.control.raise_cap(stopped.run_id, CapWish(tokens=ENOUGH + 1), ANN)
        still = await house.run(stopped.run_id)
        raised = await house.control.raise_cap(stopped.run_id, CapWish(tokens=ENOUGH // 10, phase_id="b"), ANN)
        run = await house.stopped(stopped.run_id)

    assert (stopped.state, [phase.state for phase in stopped.phases]) == (
        "budget_paused", ["succeeded", "building", "queued"],
    )  # fmt: skip
    assert stopped.why.startswith(f"The cap of phase b of run {run.run_id} is 1,000 tokens: 0 tokens are used")
    assert stopped.needs_you is not None
    assert stopped.needs_you.say.startswith(f"raise the cap of phase b of run {run.run_id} to ")
    assert f"so it stays stopped: {stopped.needs_you.say}." in in_vain.message
    assert still.state == "budget_paused"
    assert "The run goes on where it paused." in raised.message
    assert (run.state, [phase.attempt for phase in run.phases]) == ("succeeded", [1, 1, 1])


async def test_a_cap_in_dollars_stops_a_rehearsal_and_raised_lets_it_go_on(house: House, repository: Path) -> None:
    async with house.supervising():
        stopped = await house.stopped(await house.start(a_plan(repository, [a_phase("a")], cost_cap_usd=0.01)))
        raised = await house.control.raise_cap(stopped.run_id, CapWish(usd=Decimal("25.50")), ANN)
        run = await house.stopped(stopped.run_id)

    assert (stopped.state, stopped.charged_usd) == ("budget_paused", Decimal(0))
    assert "is now $25.50 (before: $0.01); $0.00 are used." in raised.message
    assert (run.state, run.cost_cap_usd) == ("succeeded", Decimal("25.5"))


async def test_a_cap_lowered_below_what_is_spent_stops_the_run_at_its_next_call_and_breaks_nothing(
    house: House, repository: Path
) -> None:
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository, token_cap=ENOUGH))
        await house.gate.reached.wait()
        lowered = await house.control.raise_cap(run_id, CapWish(tokens=1), ANN)
        again = await house.control.raise_cap(run_id, CapWish(tokens=1), ANN)
        house.gate.open()
        stopped = await house.stopped(run_id)
        house.autopack.database.read_now(assert_ledger_adds_up)
        await house.control.raise_cap(run_id, CapWish(tokens=ENOUGH), ANN)
        run = await house.stopped(run_id)

    # The call that was in flight is finished and booked; what follows it is denied.
    assert "Nothing of it is left: the next call is denied." in lowered.message
    assert again.message.startswith(f"The cap of run {run_id} is 1 token already; nothing was changed.")
    assert (stopped.state, stopped.phases[0].state, stopped.tokens_reserved) == ("budget_paused", "auditing", 0)
    assert stopped.tokens_used > 1
    assert run.state == "succeeded"
    assert house.autopack.database.read_now(steps, run_id)[2:] == [
        ("a", "builder", 1), ("a", "auditor", 1), ("b", "builder", 1), ("b", "auditor", 1),
    ]  # fmt: skip
    assert len(house.autopack.database.read_now(log, run_id)) == 2


OPENAI = "providers: {openai: {}}\n"
MODELS = "complexity_models:\n" + "".join(
    f"  {word}: {{builder: gpt-4o, auditor: gpt-4o}}\n" for word in ("low", "medium", "high")
)


@pytest.mark.parametrize(
    "capped, label",
    [
        pytest.param("providers: {openai: {weekly_cap_tokens: N}}\n", "Openai's cap of the week", id="an account's"),
        pytest.param(
            OPENAI + "caps: {roles: {builder: {daily_cap_tokens: N}}}\n", "The builder's cap of the day", id="a role's"
        ),
        pytest.param(
            OPENAI + "caps: {global: {monthly_cap_tokens: N}}\n", "The cap of all calls of the month",
            id="that of all calls",
        ),
    ],
)  # fmt: skip
async def test_a_run_that_a_cap_of_models_yaml_stopped_stays_stopped_until_that_one_is_raised(
    tmp_path: Path, empty_database: Path | str, repository: Path, capped: str, label: str
) -> None:
    few, enough = (capped.replace("N", str(tokens)) + MODELS for tokens in (100, ENOUGH))
    async with open_house(tmp_path, empty_database, few) as house, house.supervising():
        stopped = await house.stopped(await house.start(a_plan(repository, token_cap=ENOUGH)))
        answer = await house.control.raise_cap(stopped.run_id, CapWish(tokens=2 * ENOUGH), ANN)
        still = await house.run(stopped.run_id)
        (tmp_path / "home" / "models.yaml").write_text(enough, encoding="utf-8")
        await house.control.request(stopped.run_id, "resume", ANN)
        run = await house.stopped(stopped.run_id)

    assert stopped.needs_you is not None
    assert stopped.needs_you.say.startswith(f"resume run {run.run_id} after 20")
    assert "so it stays stopped; see to that one, then resume the run." in answer.message
    assert f"{label} is 100 tokens: 0 tokens are used" in answer.message
    assert (answer.state, still.state, still.token_cap) == ("budget_paused", "budget_paused", 2 * ENOUGH)
    assert (run.state, [phase.attempt for phase in run.phases]) == ("succeeded", [1, 1])


async def test_a_cap_is_raised_by_the_next_supervisor_when_none_was_there(house: House, repository: Path) -> None:
    async with house.supervising():
        stopped = await house.stopped(await house.start(a_plan(repository, token_cap=ONE_PHASE)))
    await house.autopack.database.write(
        lambda connection: connection.execute(
            requests.insert().values(
                request_id="q-1", run_id=stopped.run_id, action="raise_cap", author="bob", client="chat",
                arguments={"tokens": ENOUGH, "nano_usd": None, "phase_id": None}, state="pending", answer="",
                created_at=stopped.updated_at,
            )
        ).rowcount
    )  # fmt: skip
    async with house.supervising():
        run = await house.until(stopped.run_id, lambda run: run.state == "succeeded")

    assert run.token_cap == ENOUGH
