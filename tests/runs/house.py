"""A whole product in one process for tests: home, database, control and a supervisor that can be ended and begun again.

Replies are rehearsed and pass a gate, so a test can hold a run in the middle of a call without sleeping.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from autopack_mcp import app
from autopack_mcp.app import Autopack
from autopack_mcp.calls import CallDoor
from autopack_mcp.clock import Clock
from autopack_mcp.control.control import Control
from autopack_mcp.control.person import Person
from autopack_mcp.database.changes import ChangeWatch
from autopack_mcp.database.engine import Database
from autopack_mcp.runs.states import RUN_ACTIVE
from autopack_mcp.runs.store import run_by_id
from autopack_mcp.runs.supervision import SupervisorRecord, step_down, take_over
from autopack_mcp.sandbox import Sandbox, plain_sandbox
from autopack_mcp.summary.run import RunSummary

ANN = Person("ann", "a test")
LIMIT_S = 50  # Everything in these tests takes well under a second or two; a machine can be busy with something else.


class _Reached(asyncio.Event):
    """An event that nobody waits for without end: a run that breaks before its first call must fail its test."""

    async def wait(self) -> Literal[True]:
        async with asyncio.timeout(LIMIT_S):
            return await super().wait()


class Gate:
    """Stands before every scripted reply; closed, it holds the call there."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self.reached = _Reached()

    def close(self) -> None:
        self._open.clear()
        self.reached.clear()

    def open(self) -> None:
        self._open.set()

    def let_pass(self) -> None:
        """Let the call go that is held, and hold the next one."""
        held, self._open = self._open, asyncio.Event()
        self.reached.clear()
        held.set()

    async def __call__(self) -> None:
        self.reached.set()
        await self._open.wait()


@dataclass(slots=True)
class House:
    """What a test needs of a running product."""

    autopack: Autopack
    control: Control
    folder: Path
    gate: Gate = field(default_factory=Gate)

    @asynccontextmanager
    async def supervising(
        self, door: CallDoor | None = None, sandbox: Sandbox | None = None, database: Database | None = None
    ) -> AsyncIterator[None]:
        """A supervisor while the body runs; leaving ends it as SIGTERM would. It closes the door that it is given.

        ``database`` is what it and all its parts use instead of the house's own, as another process would.
        """
        autopack = self.autopack if database is None else replace(self.autopack, database=database)
        door = door or app.call_door(autopack, rehearsal_pause=self.gate)
        sandbox = sandbox or plain_sandbox("this is a test")
        boss = app.supervisor(autopack, door, sandbox, "http://127.0.0.1:1")
        ready = asyncio.Event()
        task = asyncio.create_task(boss.run(lambda _record: ready.set()))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            waiting.cancel()
            await task
        try:
            yield
        finally:
            boss.stop()
            await task
            await door.close()

    async def start(self, plan: str, *, is_rehearsal: bool = True) -> str:
        """Rehearse a plan, or run it for real; returns the run's id."""
        file = self.folder / "plan.yaml"
        file.write_text(plan, encoding="utf-8")
        return (await self.control.start_file(file, ANN, is_rehearsal=is_rehearsal)).run_id

    async def start_unattended(self, plan: str) -> str:
        """Put a plan into the queue while nobody advances it; the next ``supervising`` takes it up."""
        database, now = self.autopack.database, self.autopack.clock.now()
        absent = SupervisorRecord(app.machine_name(), 0, 1, "http://127.0.0.1:1", "0", (), "", now, now)
        record = await database.write(take_over, absent, now)
        assert record is not None
        run_id = await self.start(plan)
        await database.write(step_down, record, self.autopack.clock.now())
        return run_id

    async def run(self, run_id: str) -> RunSummary:
        return await self.autopack.summaries.run(run_id)

    async def stopped(self, run_id: str) -> RunSummary:
        """The run as soon as nobody advances it any more."""
        database = self.autopack.database

        async def has_stopped() -> bool:
            # The row alone: a whole summary after every commit would take longer than the run.
            return (await database.read(run_by_id, run_id)).state not in RUN_ACTIVE

        await self._until(has_stopped)
        return await self.run(run_id)

    async def until(self, run_id: str, is_so: Callable[[RunSummary], bool]) -> RunSummary:
        """The run as soon as something is true of it."""
        seen: list[RunSummary] = []

        async def is_true() -> bool:
            seen[:] = [await self.run(run_id)]
            return is_so(seen[0])

        await self._until(is_true)
        return seen[0]

    async def _until(self, is_so: Callable[[], Awaitable[bool]]) -> None:
        """Look again after every commit."""
        changes = ChangeWatch(self.autopack.database)
        try:
            async with asyncio.timeout(LIMIT_S):
                while True:
                    seen = changes.version()
                    if await is_so():
                        return
                    await changes.wait(seen, LIMIT_S)
        finally:
            changes.close()


@asynccontextmanager
async def open_house(
    folder: Path,
    empty_database: Path | str,
    models_yaml: str | None = None,
    environ: Mapping[str, str] | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[House]:
    """A house in a folder of its own, whose config is the default.

    Its database is a copy of an empty file, or the empty one that an address names.
    """
    home = folder / "home"
    home.mkdir()
    if isinstance(empty_database, str):
        environ = {"AUTOPACK_DATABASE_URL": empty_database, **(environ or {})}
    else:
        shutil.copy(empty_database, home / "autopack.db")
    if models_yaml is not None:
        (home / "models.yaml").write_text(models_yaml, encoding="utf-8")
    async with reopen_house(folder, environ, clock) as house:
        yield house


@asynccontextmanager
async def reopen_house(
    folder: Path, environ: Mapping[str, str] | None = None, clock: Clock | None = None
) -> AsyncIterator[House]:
    """The house that stands in a folder already, as a new process finds it."""
    seen = {"PATH": os.environ["PATH"], "HOME": str(folder), "AUTOPACK_HOME": str(folder / "home"), **(environ or {})}
    autopack = app.open_autopack(seen, clock=clock)
    try:
        yield House(autopack, app.control(autopack), folder)
    finally:
        await autopack.database.close()
