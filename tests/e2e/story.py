"""One real run, lived once and written down: what the chat asked and heard, what was served, booked and committed.

The tests in ``test_end_to_end`` each read one thing off it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcp import Client
from mcp.types import TextResourceContents
from sqlalchemy import RowMapping

from autopack_mcp import __version__
from autopack_mcp.database.changes import ChangeWatch
from autopack_mcp.mcp_server.server import create_mcp_server
from autopack_mcp.runs.states import RUN_ENDED
from autopack_mcp.sandbox import detect_sandbox
from tests.e2e.line import held_line
from tests.e2e.scene import LARGE_BUILDER, events, held, open_scene, quick_door
from tests.e2e.tally import LATER_RULES, NOTE, make_project, plan_text, rules_file, script_models
from tests.ledger_truth import assert_ledger_adds_up
from tests.projects import git
from tests.runs.house import Gate, House
from tests.upstream.harness import Served, Upstream

LIMIT_S = 40  # It takes about three seconds on a quiet machine.

Heard = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Story:
    """What is left of the run. ``said`` are the chat's questions that changed something, with their answers."""

    run_id: str
    repository: Path
    base: str
    said: dict[str, Heard]
    statuses: Sequence[Heard]
    final: Heard
    usage: Heard
    context: str
    journal: Sequence[Served]
    booked: Sequence[RowMapping]
    held: Sequence[RowMapping]

    @property
    def branch(self) -> str:
        return f"autopack/{self.run_id}"

    def git(self, *words: str) -> str:
        """What git says in the person's repository."""
        return git(self.repository, *words)


@dataclass(slots=True)
class Chat:
    """A person in a chat client: every word goes through MCP."""

    client: Client
    said: dict[str, Heard] = field(default_factory=dict)

    async def ask(self, tool: str, **arguments: Any) -> Heard:
        """A tool's structured answer; a refusal fails the test."""
        answer = await self.client.call_tool(tool, arguments)
        assert not answer.is_error, answer.content
        return dict(answer.structured_content)

    async def say(self, name: str, tool: str, **arguments: Any) -> Heard:
        """Ask, and keep the answer under a name."""
        self.said[name] = await self.ask(tool, **arguments)
        return self.said[name]

    async def read(self, uri: str) -> str:
        """A resource's text."""
        [content] = (await self.client.read_resource(uri)).contents
        assert isinstance(content, TextResourceContents)
        return content.text

    async def watch(self, house: House, run_id: str, statuses: list[Heard]) -> None:
        """Ask for the status at the start and after every commit, until the run has ended."""
        changes = ChangeWatch(house.autopack.database)
        try:
            while not statuses or statuses[-1]["state"] not in RUN_ENDED:
                seen = changes.version()
                statuses.append(await self.ask("get_run_status", run_id=run_id))
                await changes.wait(seen, LIMIT_S)
        finally:
            changes.close()


async def live(folder: Path, empty_database_file: Path, upstream: Upstream) -> Story:
    """The whole of it."""
    script_models(upstream)
    gate = Gate()
    repository = make_project(folder / "tally")
    async with asyncio.timeout(LIMIT_S), _opened(folder, empty_database_file, upstream, gate) as (house, chat):
        (house.autopack.home.plans / "tally.yaml").write_text(plan_text(repository), encoding="utf-8")
        gate.close()
        run_id = (await chat.say("start", "control_run", action="start", plan="tally"))["run_id"]
        statuses: list[Heard] = []
        watching = asyncio.create_task(chat.watch(house, run_id, statuses))
        await steer(house, chat, gate, run_id, repository)
        await watching
        return await _written_down(house, chat, upstream, repository, statuses)


async def steer(house: House, chat: Chat, gate: Gate, run_id: str, repository: Path) -> None:
    """Pause in the middle of the first call; leave a note, choose a model and edit the rules while it rests; go on."""
    await gate.reached.wait()
    pausing = asyncio.create_task(chat.say("pause", "control_run", action="pause", run_id=run_id))
    await house.until(run_id, lambda run: run.state == "pausing")
    gate.open()
    await pausing
    await chat.say("paused", "get_run_status", run_id=run_id)
    rules_file(repository).write_text(LATER_RULES, encoding="utf-8")
    await chat.say("note", "add_human_note", run_id=run_id, note=NOTE)
    await chat.say(
        "override", "override_model", run_id=run_id, role="builder", category="core_backend*", complexity="*",
        model=LARGE_BUILDER,
    )  # fmt: skip
    await chat.say("resume", "control_run", action="resume", run_id=run_id)


@asynccontextmanager
async def _opened(
    folder: Path, empty_database_file: Path, upstream: Upstream, gate: Gate
) -> AsyncIterator[tuple[House, Chat]]:
    """The product with a supervisor, its commands confined as this machine can, and a chat in memory."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    async with (
        held_line(upstream.url, gate) as url,
        open_scene(folder, empty_database_file, f"{url}/v1", url, PATH=path) as house,
    ):
        house.autopack.home.plans.mkdir()
        autopack = house.autopack
        server = create_mcp_server(
            summaries=autopack.summaries, control=house.control, read_only=False, version=__version__
        )
        sandbox = detect_sandbox(autopack.environ)
        async with house.supervising(quick_door(house), sandbox), Client(server) as client:
            yield house, Chat(client)


async def _written_down(
    house: House, chat: Chat, upstream: Upstream, repository: Path, statuses: Sequence[Heard]
) -> Story:
    database = house.autopack.database
    run_id = statuses[-1]["run_id"]
    await database.read(assert_ledger_adds_up)
    assert not upstream.unanswered()
    return Story(
        run_id=run_id,
        repository=repository,
        base=git(repository, "rev-parse", "main"),
        said=chat.said,
        statuses=statuses,
        final=await chat.ask("get_run_status", run_id=run_id),
        usage=await chat.ask("usage_summary", period="week"),
        context=await chat.read(f"autopack://runs/{run_id}/context"),
        journal=upstream.journal(),
        booked=await database.read(events),
        held=await database.read(held),
    )
