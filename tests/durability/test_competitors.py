"""Many processes on one database: two chats, and two servers that each believe they might supervise."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from autopack_mcp import app
from autopack_mcp.runs.states import RUN_ENDED
from autopack_mcp.runs.store import phases_of_run, runs_newest_first
from autopack_mcp.runs.supervision import supervisor_of
from benchmarks.billing import billing_upstream
from tests.durability.picture import booked_calls
from tests.durability.scene import PATIENT, home_on, until
from tests.ledger_truth import assert_ledger_adds_up
from tests.projects import a_phase, a_plan, git, make_repository
from tests.runs.house import House
from tests.runs.programs import HELLO, SERVE, Running, running

pytestmark = [pytest.mark.anyio, PATIENT]

ANSWER_S = 0.05
CHATS = ("one", "two")


async def _start(chat: Running, plan: str) -> None:
    await chat.ask("initialize", HELLO)
    answer = await chat.ask("tools/call", {"name": "control_run", "arguments": {"action": "start", "plan": plan}})
    assert not answer.get("isError"), answer


async def _somebody_supervises(house: House) -> bool:
    found = await house.autopack.database.read(supervisor_of, app.machine_name())
    return found is not None and found.is_alive(house.autopack.clock.now())


async def _all_ended(house: House) -> bool:
    found = await house.autopack.database.read(runs_newest_first, len(CHATS) + 1)
    return len(found) == len(CHATS) and all(run.state in RUN_ENDED for run in found)


async def _run_everything(house: House, other: House) -> list[str]:
    """Two servers of two homes and two chats; what the servers said of themselves."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(running(home.autopack.environ, *SERVE)) for home in (house, other)]
        chats = [await stack.enter_async_context(running(house.autopack.environ, "stdio")) for _ in CHATS]
        # A chat that found nobody would start a server of its own.
        await until(lambda: _somebody_supervises(house))
        for chat, plan in zip(chats, CHATS, strict=True):
            await _start(chat, plan)
        await until(lambda: _all_ended(house))
        found = await house.autopack.database.read(supervisor_of, app.machine_name())
        assert found is not None
        said = []
        for server in servers:
            first = await server.line()
            said.append("supervises" if server.process.pid == found.pid else await server.line())
            assert first.startswith("Serving ")
        return said


async def test_two_chats_and_two_servers_on_one_database_do_nothing_twice(database_url: str, tmp_path: Path) -> None:
    with billing_upstream(tmp_path / "billed.txt", ANSWER_S) as upstream:
        house, other = (home_on(tmp_path, name, database_url, upstream) for name in ("first", "second"))
        repository = make_repository(tmp_path / "project")
        _write_plans(house, repository)
        said = await _run_everything(house, other)
        database = house.autopack.database
        found = await database.read(runs_newest_first, len(CHATS))
        phases = [phase for run in found for phase in await database.read(phases_of_run, run.run_id)]
        calls = await database.read(booked_calls)
        await database.read(assert_ledger_adds_up)
        for home in (house, other):
            await home.autopack.database.close()
        billed = upstream.billed()

    # One supervised and the other said so; nothing was asked twice, and nothing was committed twice.
    assert sorted(word.partition(":")[0] for word in said) == ["Reading only", "supervises"]
    assert [(phase.state, phase.attempt) for phase in phases] == [("succeeded", 1)] * (2 * len(CHATS))
    once = {(role, f"{plan}-{number}"): 1 for role in ("builder", "auditor") for plan in CHATS for number in "12"}
    assert Counter((call.role, call.phase_id) for call in billed) == once
    assert Counter((call.role, call.phase_id) for call in calls.elements()) == once
    for run in found:
        plan = next(name for name in CHATS if run.plan_name == name)
        subjects = git(repository, "log", "--format=%s", f"main..{run.branch}").splitlines()
        assert subjects == [f"Phase {plan}-2", f"Phase {plan}-1"]


def _write_plans(house: House, repository: Path) -> None:
    house.autopack.home.plans.mkdir()
    for name in CHATS:
        plan = a_plan(repository, [a_phase(f"{name}-1"), a_phase(f"{name}-2")], name=name)
        (house.autopack.home.plans / f"{name}.yaml").write_text(plan, encoding="utf-8")
