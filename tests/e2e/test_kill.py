"""Processes that are killed in the middle of the work: the chat client's server, then the supervisor in a paid call.

Real processes over a real upstream. What a killed call cost nobody knows, so its promise stays held until its lease
ends and is then charged in full, once.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from autopack_mcp import app
from autopack_mcp.budgets.ledger import expire_overdue
from autopack_mcp.calls import CALL_TIMEOUT_S, LEASE_MARGIN_S
from autopack_mcp.runs.supervision import SupervisorRecord, supervisor_of
from tests.e2e.line import held_line
from tests.e2e.scene import approval, events, held, of_auditor, of_builder, open_scene, script_phase, writes
from tests.factories import held_against
from tests.ledger_truth import assert_ledger_adds_up
from tests.projects import a_plan, git, make_repository
from tests.runs.house import Gate, House
from tests.runs.programs import HELLO, ROOT, SERVE, running
from tests.upstream.harness import Answer, Upstream

pytestmark = pytest.mark.anyio

LIMIT_S = 50  # About ten seconds on a quiet machine; six of them are the dead supervisor's lease.
NEVER_MS = 3_600_000


async def supervisor(house: House) -> SupervisorRecord:
    found = await house.autopack.database.read(supervisor_of, app.machine_name())
    assert found is not None
    return found


async def until_asked(upstream: Upstream, count: int) -> None:
    """Return when the upstream has got so many requests: a fact of another process, of which no event can tell."""
    while len(await anyio.to_thread.run_sync(upstream.journal)) < count:  # noqa: ASYNC110
        await anyio.sleep(0.02)


@pytest.fixture
async def gate() -> Gate:
    return Gate()


@pytest.fixture
async def house(tmp_path: Path, empty_database_file: Path, upstream: Upstream, gate: Gate) -> AsyncIterator[House]:
    async with (
        held_line(upstream.url, gate) as url,
        open_scene(tmp_path, empty_database_file, f"{url}/v1", url, PYTHONPATH=ROOT) as opened,
    ):
        yield opened
        # A supervisor that a failed test left behind would go on for ever. One that has ended gave its lease back.
        left = await opened.autopack.database.read(supervisor_of, app.machine_name())
        if left is not None and left.is_alive(opened.autopack.clock.now()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(left.pid, signal.SIGKILL)


async def start_in_chat_and_kill_the_chat(house: House, plan: str) -> str:
    folder = house.autopack.home.plans
    folder.mkdir()
    (folder / "work.yaml").write_text(plan, encoding="utf-8")
    async with running(house.autopack.environ, "stdio") as chat:
        await chat.ask("initialize", HELLO)
        start = {"name": "control_run", "arguments": {"action": "start", "plan": "work"}}
        answer = await chat.ask("tools/call", start)
        await chat.end(signal.SIGKILL)
    run_id: str = answer["structuredContent"]["run_id"]
    return run_id


async def test_a_run_outlives_its_client_and_its_supervisor_and_no_step_is_done_twice(
    house: House, tmp_path: Path, upstream: Upstream, gate: Gate
) -> None:
    repository = make_repository(tmp_path / "project")
    script_phase(upstream, "a")
    upstream.script(
        of_builder("b"), Answer(text="too late", starts_after_ms=NEVER_MS), Answer(text=writes("b.txt", "b\n"))
    )
    upstream.script(of_auditor("b"), Answer(text=approval()))
    gate.close()
    with anyio.fail_after(LIMIT_S):
        run_id = await start_in_chat_and_kill_the_chat(house, a_plan(repository))
        gate.open()  # Only now does the first call leave: nobody but the detached supervisor is there to go on.
        await until_asked(upstream, 3)
        killed = await supervisor(house)
        os.kill(killed.pid, signal.SIGKILL)
        between = await house.run(run_id)
        async with running(house.autopack.environ, *SERVE) as successor:
            run = await house.stopped(run_id)
            assert (await supervisor(house)).pid == successor.process.pid
            assert await successor.end(signal.SIGTERM) == 0
        # One that is told to end gives its place back; only a killed one has to be waited for.
        assert not (await supervisor(house)).is_alive(house.autopack.clock.now())

    assert (between.state, [phase.state for phase in between.phases]) == ("running", ["succeeded", "building"])
    assert (run.state, [phase.attempt for phase in run.phases]) == ("succeeded", [1, 1])
    # Phase a was not built again, the call in flight was made anew, and each phase has one commit.
    assert [served.model.partition("-")[0] for served in upstream.journal()] == [
        "gpt",
        "claude",
        "gpt",
        "gpt",
        "claude",
    ]
    assert git(repository, "log", "--format=%s", f"main..{run.branch}").splitlines() == ["Phase b", "Phase a"]
    await assert_the_killed_call_is_charged_once(house, run_id)


async def assert_the_killed_call_is_charged_once(house: House, run_id: str) -> None:
    """It is held for now and counts against the cap; when its lease ends, all of it is charged, and only once."""
    database, now = house.autopack.database, house.autopack.clock.now()
    [lost] = await database.read(held)
    promised = lost["bound_input"] + lost["bound_output"]
    run = await house.run(run_id)
    assert (lost["phase_id"], run.tokens_reserved) == ("b", promised)
    assert {event["status"] for event in await database.read(events)} == {"ok"}

    later = now + timedelta(seconds=CALL_TIMEOUT_S + LEASE_MARGIN_S)
    assert await database.write(expire_overdue, held_against(), later) == 1
    assert await database.write(expire_overdue, held_against(), later) == 0
    [expired] = [event for event in await database.read(events) if event["status"] == "expired"]
    assert (expired["call_id"], expired["charged_tokens"]) == (lost["call_id"], promised)
    assert (await house.run(run_id)).tokens_used == run.tokens_used + promised
    assert await database.read(held) == []
    await database.read(assert_ledger_adds_up)
