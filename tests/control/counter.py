"""A counter at which people ask: control over a product in which nobody supervises, unless a test does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select

from autopack_mcp import app
from autopack_mcp.clock import ManualClock
from autopack_mcp.config.settings import Settings
from autopack_mcp.control.control import Control
from autopack_mcp.control.person import Person
from autopack_mcp.database.changes import ChangeWatch
from autopack_mcp.errors import SupervisorUnavailable
from autopack_mcp.routing.model_map import current_model_map, model_map_to_json
from autopack_mcp.runs.obeying import obey
from autopack_mcp.runs.requests import pending_requests
from autopack_mcp.runs.supervision import SupervisorRecord
from tests.factories import NOON
from tests.factories import insert_run as insert_run_row
from tests.runs.house import House

BOB = Person("bob", "a phone")
ALL_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
HAIKU = "claude-haiku-5-5"
QUICK_S = 0.05
LIMIT_S = 10


@dataclass(slots=True)
class Posted:
    """A supervisor that is said to be there; it advances nothing."""

    keys: tuple[str, ...] = ALL_KEYS
    error: SupervisorUnavailable | None = None
    asked: int = 0

    async def ensure(self, *, here: bool = True) -> SupervisorRecord:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return SupervisorRecord("desk", 1, 1, "http://127.0.0.1:1", "1", self.keys, "", NOON, NOON)


@dataclass(slots=True)
class Counter:
    """Control over a house in which nobody supervises; its patience is short unless a test says otherwise."""

    house: House
    clock: ManualClock
    posted: Posted = field(default_factory=Posted)
    changed_settings: dict[str, Any] = field(default_factory=dict)

    def control(self, *, wait_s: float = QUICK_S, acknowledge_s: float = QUICK_S) -> Control:
        autopack = self.house.autopack
        return Control(
            home=autopack.home,
            database=autopack.database,
            clock=self.clock,
            settings=self._settings,
            supervisors=self.posted,
            snapshots=app.snapshot_reader(autopack),
            wait_s=wait_s,
            acknowledge_s=acknowledge_s,
        )

    def read(self, question: Callable[..., Any], *arguments: Any) -> Any:
        return self.house.autopack.database.read_now(question, *arguments)

    def write(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        return self.house.autopack.database.write_now(operation, *arguments)

    def a_run(self, state: str, **overrides: Any) -> None:
        self.write(lambda connection: insert_run_row(connection, state=state, why="so", **overrides))

    def _settings(self) -> Settings:
        return replace(self.house.autopack.settings(), **self.changed_settings)


def count_of(connection: Connection, table: Any) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def written_plan(folder: Path, text: str, name: str = "plan.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


async def pending(counter: Counter, count: int = 1) -> None:
    """Return when so many requests wait for an answer."""
    async with asyncio.timeout(LIMIT_S):
        changes = ChangeWatch(counter.house.autopack.database)
        while len(counter.read(pending_requests)) < count:
            await changes.wait(changes.version(), QUICK_S)
        changes.close()


async def obeyed_once(counter: Counter, count: int = 1) -> None:
    """What a supervisor does with the pending requests."""
    await pending(counter, count)
    for request in counter.read(pending_requests):
        counter.write(obey, request, None, "boss", counter.clock.now())


async def pinned_map(counter: Counter) -> dict[str, Any]:
    """The model map of the settings, as a run that starts now pins it."""
    return dict(model_map_to_json(current_model_map(counter.house.autopack.settings(), ())))
