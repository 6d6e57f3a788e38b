"""The acting tools on a whole product: what a client asks for happens, and its answer says so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from mcp.types import Implementation

from autopack_mcp.mcp_server.asking import account
from autopack_mcp.mcp_server.server import create_mcp_server
from autopack_mcp.runs.store import run_by_id
from tests.projects import a_phase, a_plan, make_repository
from tests.runs.house import House, open_house

pytestmark = pytest.mark.anyio

in_both_eras = pytest.mark.parametrize("chat", ["legacy", "auto"], ids=["2025-11-25", "2026-07-28"], indirect=True)

PHONE = Implementation(name="claude\u202e mobile", version="7")


@dataclass(frozen=True, slots=True)
class Chat:
    """A client that acts, and the product behind it."""

    client: Client
    house: House

    async def asks(self, tool: str, **arguments: Any) -> dict[str, Any]:
        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        answer: dict[str, Any] = result.structured_content
        return answer

    async def is_refused(self, tool: str, **arguments: Any) -> str:
        result = await self.client.call_tool(tool, arguments)
        assert result.is_error, result.structured_content
        return str(result.content[0].text)  # type: ignore[union-attr]


@pytest.fixture
async def house(tmp_path: Path, empty_database_file: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path, empty_database_file) as opened:
        repository = make_repository(tmp_path / "project")
        plans = opened.autopack.home.plans
        plans.mkdir()
        phases = [a_phase("a"), a_phase("b", complexity="low")]
        (plans / "small.yaml").write_text(a_plan(repository, phases), encoding="utf-8")
        yield opened


@asynccontextmanager
async def chat_of(house: House, era: str) -> AsyncIterator[Chat]:
    server = create_mcp_server(summaries=house.autopack.summaries, control=house.control, version="1")
    async with Client(server, mode=era, client_info=PHONE) as client:
        yield Chat(client, house)


@pytest.fixture
async def chat(house: House, request: pytest.FixtureRequest) -> AsyncIterator[Chat]:
    """A client while somebody supervises; calls of models are held until the gate opens."""
    house.gate.close()
    async with house.supervising(), chat_of(house, getattr(request, "param", "auto")) as connected:
        yield connected
        house.gate.open()


async def started(chat: Chat) -> str:
    """A rehearsal whose first call is held."""
    run_id = str((await chat.asks("control_run", action="start", plan="small", rehearse=True))["run_id"])
    await chat.house.gate.reached.wait()
    return run_id


@in_both_eras
async def test_run_is_started_paused_resumed_and_done(chat: Chat) -> None:
    start = await chat.asks("control_run", action="start", plan="small", rehearse=True)
    assert (start["state"], start["action"], start["is_pending"]) == ("queued", "start", True)
    assert "no tokens are bought" in start["message"]
    await chat.house.gate.reached.wait()

    pausing = await chat.asks("control_run", action="pause", now=True)
    assert (pausing["run_id"], pausing["state"]) == (start["run_id"], "paused")
    assert (await chat.asks("get_run_status"))["needs_you"]["say"] == f"resume run {start['run_id']}"

    chat.house.gate.open()
    resumed = await chat.asks("control_run", action="resume", run_id=start["run_id"])
    assert resumed["is_pending"] is False
    assert (await chat.house.stopped(start["run_id"])).state == "succeeded"
    assert (await chat.asks("get_run_status"))["percent_complete"] == 100.0


@pytest.mark.parametrize("word", ["cancel", "stop", "Stop"])
async def test_stop_is_cancel(chat: Chat, word: str) -> None:
    await started(chat)
    answer = await chat.asks("control_run", action=word)
    assert (answer["action"], answer["state"]) == ("cancel", "cancelled")


@in_both_eras
async def test_who_asked_is_kept_with_hidden_characters_shown(chat: Chat) -> None:
    run_id = await started(chat)
    await chat.asks("add_human_note", note="Be brief.")
    (note,) = (await chat.house.run(run_id)).notes
    assert (note.source, note.text) == ("tool", "Be brief.")
    run = chat.house.autopack.database.read_now(run_by_id, run_id)
    assert run.client == "claude\\u202e mobile 7"
    assert run.author == account() == note.author


async def test_note_is_in_force_until_it_is_withdrawn(chat: Chat) -> None:
    run_id = await started(chat)
    added = await chat.asks("add_human_note", run_id=run_id, note="Skip the UI tests, no test data.")
    assert added.keys() >= {"message", "timestamp", "notes_file", "note_id"}  # Contract 25.
    assert "Skip the UI tests" in Path(added["notes_file"]).read_text(encoding="utf-8")
    assert (await chat.asks("get_run_status"))["notes"][0]["text"] == "Skip the UI tests, no test data."

    withdrawn = await chat.asks("add_human_note", withdraw=added["note_id"])
    assert withdrawn["in_force"] is False
    assert "notes" not in await chat.asks("get_run_status")
    assert "has no note" in await chat.is_refused("add_human_note", withdraw=added["note_id"])


async def test_override_lists_the_future_phases_that_change(chat: Chat) -> None:
    run_id = await started(chat)
    before = (await chat.asks("explain_model", role="builder", complexity="low", run_id=run_id))["model"]
    wish = {"role": "builder", "category": "*", "complexity": "low"}
    answer = await chat.asks("override_model", **wish, model="gpt-4o")
    assert answer["changes"] == [{"phase_id": "b", "role": "builder", "from_model": before, "to_model": "gpt-4o"}]
    assert (answer["scope"], answer["run_id"]) == ("run", run_id)
    after = await chat.asks("explain_model", role="builder", complexity="low", run_id=run_id)
    assert (after["model"], after["rule"]) == ("gpt-4o", "run override")

    undone = await chat.asks("override_model", **wish, undo=True)
    assert [change["to_model"] for change in undone["changes"]] == [before]


async def test_global_override_leaves_runs_in_progress_alone(chat: Chat) -> None:
    await started(chat)
    wish = {"role": "builder", "category": "*", "complexity": "*", "model": "gpt-4o", "scope": "global"}
    answer = await chat.asks("override_model", **wish, expires="2999-01-01T00:00:00Z")
    assert answer["changes"] == []
    assert "Runs in progress keep the models they started with." in answer["message"]
    assert (await chat.asks("explain_model", role="builder"))["rule"] == "global override"


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"action": "start"}, "start needs a plan."),
        ({"action": "start", "plan": "nowhere"}, "Known plans: small.yaml."),
        ({"action": "start", "plan": "name: x\ntiers: []"}, "Inline plans are off"),
        ({"action": "start", "plan": "small", "run_id": "r-1"}, "takes no run_id"),
        ({"action": "pause"}, "There is no run."),
        ({"action": "pause", "run_id": "r-9"}, "No run 'r-9'."),
        ({"action": "pause", "plan": "small"}, "pause takes no plan."),
        ({"action": "resume", "now": True}, "resume takes no now."),
        ({"action": "pause", "tokens": 5}, "pause takes no tokens."),
        ({"action": "start", "plan": "small", "cost_usd": 0}, "start takes no cost_usd."),
        ({"action": "raise_cap", "tokens": 5}, "There is no run."),
        ({"action": "raise_cap", "run_id": "r-9"}, "No cap is given."),
        ({"action": "raise_cap", "run_id": "r-9", "tokens": 5}, "No run 'r-9'."),
        ({"action": "raise_cap", "run_id": "r-9", "tokens": 0}, "A cap is from 1 to"),
        ({"action": "raise_cap", "run_id": "r-9", "cost_usd": -0.5}, "at most $9,223,372,036, not -0.5."),
        ({"action": "raise_cap", "run_id": "r-9", "cost_usd": "NaN"}, "not NaN."),
        ({"action": "raise_cap", "run_id": "r-9", "tokens": "all"}, "tokens"),
        ({"action": "raise_cap", "run_id": "r-9", "tokens": 5, "now": True}, "raise_cap takes no now."),
        ({"action": "kill"}, "'raise_cap', 'cancel' or 'give_up'."),
        ({}, "The argument 'action' is missing."),
        ({"action": "pause", "reason": "tired"}, "pause takes no reason."),
        ({"action": "cancel", "phase_id": "a"}, "It belongs to edit, fork, raise_cap, retry, skip."),
        ({"action": "skip", "run_id": "r-9"}, "skip needs a phase."),
        ({"action": "skip", "run_id": "r-9", "phase_id": "a"}, "reason must not be empty."),
        ({"action": "skip", "run_id": "r-9", "phase_id": "a", "reason": "x" * 501}, "500 is the most."),
        ({"action": "edit", "run_id": "r-9", "phase_id": "a"}, "Nothing to edit is given."),
        ({"action": "edit", "run_id": "r-9", "phase_id": "a", "description": " "}, "description must not be empty."),
        ({"action": "edit", "run_id": "r-9", "phase_id": "a", "verify": "rm -rf ~"}, "cannot be set from a chat"),
        ({"action": "retry", "run_id": "r-9"}, "No run 'r-9'."),
        ({"action": "fork", "run_id": "r-9"}, "fork needs a phase."),
        ({"action": "fork", "run_id": "r-9", "phase_id": "a"}, "No run 'r-9'."),
        ({"action": "fork", "run_id": "r-9", "phase_id": "a", "verify": "rm -rf ~"}, "cannot be set from a chat"),
        ({"action": "fork", "run_id": "r-9", "phase_id": "a", "model": "none"}, "No model 'none' in the catalog."),
        ({"action": "edit", "run_id": "r-9", "phase_id": "a", "model": "gpt"}, "edit takes no model."),
    ],
    ids=[
        "no plan", "unknown plan", "inline plan", "start with a run", "no run", "unknown run", "plan for another",
        "now for another", "cap for another", "cap for a new run", "cap of no run", "no cap", "cap of an unknown run",
        "cap of 0", "cap below 0", "cap that is no number", "cap in words", "cap now", "unknown action", "no action",
        "reason for another", "phase for another", "skip nothing", "skip for no reason", "skip for a long reason",
        "edit nothing", "edit to nothing", "a command from a chat", "retry of an unknown run",
        "fork from nowhere", "fork of an unknown run", "a command of a fork", "fork with no model", "model for another",
    ],
)  # fmt: skip
async def test_request_that_cannot_be_is_refused_with_what_can(
    house: House, arguments: dict[str, Any], said: str
) -> None:
    async with chat_of(house, "auto") as chat:
        assert said in await chat.is_refused("control_run", **arguments)


async def test_raising_a_cap_says_the_new_total_and_lets_a_stopped_run_go_on(chat: Chat) -> None:
    run_id = await started(chat)
    lowered = await chat.asks("control_run", action="raise_cap", tokens=1_000, cost_usd=2.5)
    assert (lowered["run_id"], lowered["action"], lowered["state"], lowered["is_pending"]) == (
        run_id, "raise_cap", "running", False,
    )  # fmt: skip
    assert f"The cap of run {run_id} is now 1,000 tokens (there was none);" in lowered["message"]
    assert f"The cap of run {run_id} is now $2.50 (there was none);" in lowered["message"]
    chat.house.gate.open()
    await chat.house.stopped(run_id)
    status = await chat.asks("get_run_status")
    assert (status["state"], status["token_cap"], status["cost_cap_usd"]) == ("budget_paused", 1_000, 2.5)
    assert status["needs_you"]["say"].startswith(f"raise the cap of run {run_id} to ")

    in_vain = await chat.asks("control_run", action="raise_cap", tokens=9_000_000, phase_id="a")
    assert (in_vain["state"], status["needs_you"]["say"] in in_vain["message"]) == ("budget_paused", True)
    raised = await chat.asks("control_run", action="raise_cap", tokens=9_000_000)
    assert "The run goes on where it paused." in raised["message"]
    assert (await chat.house.stopped(run_id)).state == "succeeded"
    assert "'raise_cap' is not possible while the run is 'succeeded'" in await chat.is_refused(
        "control_run", action="raise_cap", tokens=5, run_id=run_id
    )


async def test_a_run_is_forked_and_compared_from_a_chat(chat: Chat) -> None:
    run_id = await started(chat)
    chat.house.gate.open()
    await chat.house.stopped(run_id)
    asked = {"phase_id": "b", "description": "Better.", "model": "claude-opus-5-5", "note": "Mind the tests."}
    forked = await chat.asks("control_run", action="fork", **asked)
    assert (forked["action"], forked["state"], forked["is_pending"]) == ("fork", "queued", True)
    assert f"run {run_id} again from phase b, is queued (1 phases, rehearsal" in forked["message"]
    await chat.house.stopped(forked["run_id"])
    compared = await chat.asks("compare_runs", run_id=forked["run_id"])
    assert compared["b"]["forked_from"] == f"{run_id}, phase b"
    assert compared["models_differ"] == ["builder of b: gpt-6-luna in the first, claude-opus-5-5 in the second"]
    status = await chat.asks("get_run_status", run_id=forked["run_id"])
    assert (status["forked_from"], status["notes"][0]["text"]) == (f"{run_id}, phase b", "Mind the tests.")


async def test_ended_run_says_that_nothing_can_be_asked(chat: Chat) -> None:
    run_id = await started(chat)
    await chat.asks("control_run", action="cancel")
    assert "'resume' is not possible while the run is 'cancelled'" in await chat.is_refused(
        "control_run", action="resume", run_id=run_id
    )


async def test_several_unfinished_runs_must_be_told_apart(chat: Chat) -> None:
    first = await started(chat)
    second = (await chat.asks("control_run", action="start", plan="small", rehearse=True))["run_id"]
    refusal = await chat.is_refused("control_run", action="cancel")
    assert first in refusal
    assert second in refusal
    for run_id in (first, second):
        await chat.asks("control_run", action="cancel", run_id=run_id)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({}, "Give either note or withdraw."),
        ({"note": "x", "withdraw": 1}, "Give either note or withdraw."),
        ({"note": "  ", "run_id": "RUN"}, "The note is empty."),
        ({"note": "x" * 4_001, "run_id": "RUN"}, "the limit is 4000"),
    ],
    ids=["nothing", "both", "empty", "too long"],
)
async def test_note_that_cannot_be_is_refused(chat: Chat, arguments: dict[str, Any], said: str) -> None:
    run_id = await started(chat)
    named = {**arguments, **({"run_id": run_id} if "run_id" in arguments else {})}
    assert said in await chat.is_refused("add_human_note", **named)


@pytest.mark.parametrize(
    "overrides, said",
    [
        ({"model": "no-such"}, "No model 'no-such' in the catalog."),
        ({"model": None}, "override_model needs a model."),
        ({"category": "poetry*"}, "No category matches 'poetry*'."),
        ({"expires": "2001-01-01"}, "would already have expired"),
        ({"expires": "soon"}, "expires cannot be 'soon'"),
        ({"scope": "global", "run_id": "r-1"}, "A global override has no run_id."),
    ],
    ids=["model", "no model", "category", "expired", "no time", "scope"],
)
async def test_override_that_cannot_be_is_refused(chat: Chat, overrides: dict[str, Any], said: str) -> None:
    await started(chat)
    wish = {"role": "builder", "category": "*", "complexity": "low", "model": "gpt-4o"}
    assert said in await chat.is_refused("override_model", **{**wish, **overrides})
