"""A chat at the wheel: each action about a phase, asked through the official client of a real, held run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from mcp.types import Implementation, TextContent

from autopack_mcp.config.shipped import default_config_text
from autopack_mcp.mcp_server.server import create_mcp_server
from autopack_mcp.runs.store import attempts_of_phase
from tests.projects import a_phase, a_plan, make_repository
from tests.runs.house import House, open_house

pytestmark = pytest.mark.anyio
PHONE = Implementation(name="claude mobile", version="7")
NEW_WORDS = "Write b.txt, and say in it why."


@pytest.fixture
async def house(tmp_path: Path, empty_database_file: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path, empty_database_file) as opened:
        yield opened


@asynccontextmanager
async def chatting(house: House) -> AsyncIterator[Client]:
    """A client beside a supervisor; calls of models are held until the gate opens."""
    server = create_mcp_server(summaries=house.autopack.summaries, control=house.control, version="1")
    async with house.supervising(), Client(server, client_info=PHONE) as client:
        yield client
        house.gate.open()


async def asks(client: Client, tool: str = "control_run", **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    answer: dict[str, Any] = result.structured_content
    return answer


async def is_refused(client: Client, **arguments: Any) -> str:
    result = await client.call_tool("control_run", arguments)
    assert result.is_error, result.structured_content
    [said] = result.content
    assert isinstance(said, TextContent)
    return said.text


async def test_a_chat_skips_the_phase_in_hand_and_edits_the_next_one(house: House, tmp_path: Path) -> None:
    house.gate.close()
    async with chatting(house) as client:
        run_id = await house.start(a_plan(make_repository(tmp_path / "project")))
        await house.gate.reached.wait()
        edited = await asks(client, action="edit", phase_id="b", description=NEW_WORDS)
        again = await asks(client, action="edit", phase_id="b", description=NEW_WORDS)
        skipped = await asks(client, action="skip", phase_id="a", reason="not needed\nany more")
        twice = await asks(client, action="skip", phase_id="a", reason="not needed any more")
        status = await asks(client, "get_run_status")
        house.gate.open()
        run = await house.stopped(run_id)

    assert (edited["action"], edited["state"], edited["is_pending"]) == ("edit", "running", False)
    assert "Phase b has another description now." in edited["message"]
    assert "nothing was changed" in again["message"]
    assert "Phase a is skipped and counts as completed (not needed any more)." in skipped["message"]
    assert "is skipped already; nothing was changed" in twice["message"]
    [phase] = [phase for phase in status["phases"] if phase["phase_id"] == "a"]
    assert phase["state"] == "skipped"
    assert phase["why"].endswith("through claude mobile 7: not needed any more")
    assert (run.state, run.percent_complete) == ("succeeded", 100.0)


async def test_a_chat_is_told_what_it_may_say_of_a_run_that_needs_attention_and_each_of_it_works(
    house: House, tmp_path: Path
) -> None:
    phases = [a_phase("a", verify="false"), a_phase("b", verify="false"), a_phase("c", verify="false")]
    plan = a_plan(make_repository(tmp_path / "project"), phases, attempts_limit=1)
    async with chatting(house) as client:
        run_id = await house.start(plan)
        await house.stopped(run_id)
        needs = (await asks(client, "get_run_status"))["needs_you"]
        retried = await asks(client, action="retry")
        second = await house.until(run_id, lambda run: run.state == "needs_attention" and run.phases[0].attempt == 2)
        await asks(client, action="skip", phase_id="a", reason="never mind")
        third = await house.stopped(run_id)
        ended = await asks(client, action="give up")
        refused = await is_refused(client, action="retry", run_id=run_id)

    assert needs["say"] == f"retry phase a of run {run_id}"
    for phrase in ("skip phase a because", "edit phase a:", f"cancel run {run_id}"):
        assert phrase in needs["what"]
    assert "Phase a begins anew" in retried["message"]
    assert second.phases[0].state == "failed"
    assert (third.state, third.phases[1].state) == ("needs_attention", "failed")
    assert (ended["action"], ended["state"]) == ("give_up", "failed")
    assert "'retry' is not possible while the run is 'failed'" in refused


async def test_a_chat_drops_the_attempt_of_a_paused_run(house: House, tmp_path: Path) -> None:
    house.gate.close()
    async with chatting(house) as client:
        run_id = await house.start(a_plan(make_repository(tmp_path / "project"), [a_phase("a")]))
        await house.gate.reached.wait()
        await asks(client, action="pause", now=True)
        dropped = await asks(client, action="retry", phase_id="a")
        house.gate.open()
        await asks(client, action="resume")
        run = await house.stopped(run_id)

    assert dropped["state"] == "paused"
    assert "Attempt 1 was dropped: Phase a begins anew" in dropped["message"]
    assert (run.state, run.phases[0].attempt) == ("succeeded", 2)


@pytest.mark.parametrize("is_allowed", [False, True], ids=["as shipped", "where plans come from chats as well"])
async def test_a_command_that_this_machine_runs_comes_from_a_chat_only_where_that_is_allowed(
    house: House, tmp_path: Path, is_allowed: bool
) -> None:
    if is_allowed:
        shipped = default_config_text()
        allowing = shipped.replace("allow_inline_plans: false", "allow_inline_plans: true")
        assert allowing != shipped
        (house.autopack.home.path / "models.yaml").write_text(allowing, encoding="utf-8")
    house.gate.close()
    async with chatting(house) as client:
        run_id = await house.start(a_plan(make_repository(tmp_path / "project")))
        await house.gate.reached.wait()
        wish = {"action": "edit", "phase_id": "b", "verify": "echo from-a-chat"}
        if is_allowed:
            await asks(client, **wish)
        else:
            assert "cannot be set from a chat, because this machine runs it" in await is_refused(client, **wish)
        house.gate.open()
        await house.stopped(run_id)

    [attempt] = house.autopack.database.read_now(attempts_of_phase, run_id, "b")
    assert ("from-a-chat" in (attempt.verify_output or "")) == is_allowed
