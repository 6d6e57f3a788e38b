"""The supervisor of a machine: that there is one, whom it advances, and that nothing that fails takes the others along.

Its drivers here only wait to be ended; whole runs are in test_supervisor.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import insert, update

from autopack_mcp.budgets.ledger import Ledger, RunFence, expire_overdue
from autopack_mcp.clock import ManualClock
from autopack_mcp.config.settings import RunSettings
from autopack_mcp.database.changes import ChangeWatch
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import requests, supervisors
from autopack_mcp.errors import DatabaseBusy, SupervisorUnavailable
from autopack_mcp.runs.driver import RunDriver
from autopack_mcp.runs.records import RunRecord
from autopack_mcp.runs.requests import Action, add_request, request_by_id
from autopack_mcp.runs.store import RUN_LEASE_S, claim, let_go, move_run, run_by_id
from autopack_mcp.runs.supervision import (
    SUPERVISOR_LEASE_S,
    SupervisorRecord,
    renew_supervisor,
    step_down,
    supervisor_of,
    take_over,
)
from autopack_mcp.runs.supervisor import Supervisor
from tests.factories import NOON, insert_run, insert_supervisor, settings

anyio_test = pytest.mark.anyio
LIMIT_S = 10
AT_ONCE = 4
QUICK_S = 0.01  # Between two heartbeats, so that no test waits for one.
TICK = timedelta(microseconds=1)
WISH = SupervisorRecord("desk", 0, 99, "http://127.0.0.1:9", "1", ("A_KEY",), "none", NOON, NOON)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def holder(database: Database) -> SupervisorRecord:
    found = database.read_now(supervisor_of, "desk")
    assert found is not None
    return found


def taken(database: Database, wish: SupervisorRecord = WISH, *, second: float = 0) -> SupervisorRecord:
    found = database.write_now(take_over, wish, at(second))
    assert found is not None
    return found


# ── the row ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_supervisor_of_a_machine_takes_its_place(database: Database) -> None:
    mine = taken(database)

    assert mine == replace(WISH, token=1, key_variables=["A_KEY"], lease_expires_at=at(SUPERVISOR_LEASE_S))
    assert holder(database) == mine
    assert database.read_now(supervisor_of, "lap") is None


@pytest.mark.parametrize(
    "expires_at, token",
    [
        pytest.param(at(1), None, id="alive"),
        pytest.param(at(0), None, id="alive for this moment still"),
        pytest.param(at(0) - TICK, 8, id="dead"),
    ],
)
def test_a_place_is_taken_only_from_the_dead(database: Database, expires_at: datetime, token: int | None) -> None:
    database.write_now(insert_supervisor, "desk", token=7, lease_expires_at=expires_at)

    mine = database.write_now(take_over, WISH, NOON)

    assert (mine.token if mine else None) == token
    assert holder(database).pid == (4711 if token is None else 99)


def test_a_heartbeat_says_which_keys_can_be_seen_now(database: Database) -> None:
    assert database.write_now(renew_supervisor, taken(database), ("A_KEY", "B_KEY"), at(2))

    known = holder(database)
    assert (known.lease_expires_at, known.key_variables) == (at(2 + SUPERVISOR_LEASE_S), ["A_KEY", "B_KEY"])


def test_whoever_was_replaced_neither_renews_nor_steps_down(database: Database) -> None:
    old, new = taken(database), taken(database, replace(WISH, pid=100), second=60)

    assert not database.write_now(renew_supervisor, old, (), at(61))
    database.write_now(step_down, old, at(61))
    assert holder(database) == new

    database.write_now(step_down, new, at(61))
    assert taken(database, second=61).token == 3


# ── the process ──────────────────────────────────────────────────────────────────────────────────────────────────────


class HeldDriver(RunDriver):
    """Advances nothing: it waits to be interrupted, or fails as it is told."""

    def __init__(self, fence: RunFence, database: Database, error: BaseException | None) -> None:
        self.fence = fence
        self._database = database
        self._error = error
        self.ended = asyncio.Event()
        self.interrupts = 0

    def interrupt(self, phase_id: str | None = None) -> None:
        self.interrupts += 1
        self.ended.set()

    async def drive(self) -> None:
        if self._error is not None:
            raise self._error
        await self.ended.wait()
        run = await self._database.read(run_by_id, self.fence.run_id)
        if run.state == "cancelling" and run.lease_token == self.fence.lease_token:
            await self._database.write(move_run, self.fence, "stopped", "", NOON)
        await self._database.write(let_go, self.fence)


class Desk:
    """A supervisor of held drivers, and what happened to them."""

    def __init__(
        self, database: Database, clock: ManualClock, lock_file: Path, *, heartbeat_s: float = QUICK_S
    ) -> None:
        self.database = database
        self.clock = clock
        self.drivers: dict[str, HeldDriver] = {}
        self.errors: dict[str, BaseException] = {}
        self.boss = Supervisor(
            identity=WISH,
            lock_file=lock_file,
            database=database,
            clock=clock,
            ledger=Ledger(database, clock, settings),
            visible_keys=lambda: ("A_KEY",),
            make_driver=self._made,
            limits=lambda: RunSettings(at_once=AT_ONCE, per_repository=AT_ONCE),
            workspaces=lock_file.parent / "workspaces",
            heartbeat_s=heartbeat_s,
        )

    @asynccontextmanager
    async def supervising(self) -> AsyncIterator[asyncio.Task[None]]:
        ready = asyncio.Event()
        task = asyncio.create_task(self.boss.run(lambda _record: ready.set()))
        await ready.wait()
        try:
            yield task
        finally:
            self.boss.stop()
            await task

    async def add(self, *run_ids: str, **overrides: Any) -> None:
        """Runs in the queue, each a second younger than the one before."""
        for second, run_id in enumerate(run_ids):
            row: dict[str, Any] = {"state": "queued", "lease_token": 0, "created_at": at(second), **overrides}
            await self.database.write(partial(insert_run, run_id=run_id, **row))

    async def ask(self, run_id: str, action: Action) -> str:
        return await self.database.write(add_request, run_id, action, "ann", "chat", self.clock.now())

    async def run(self, run_id: str) -> RunRecord:
        return await self.database.read(run_by_id, run_id)

    async def until(self, is_so: Callable[[], Any]) -> None:
        """Return as soon as something is true; ``is_so`` may be a coroutine function."""
        changes = ChangeWatch(self.database)
        try:
            with anyio.fail_after(LIMIT_S):
                while True:
                    seen = changes.version()
                    found = is_so()
                    if await found if asyncio.iscoroutine(found) else found:
                        return
                    await changes.wait(seen, QUICK_S)
        finally:
            changes.close()

    async def until_answered(self, request_id: str) -> None:
        async def is_answered() -> bool:
            return (await self.database.read(request_by_id, request_id)).state == "done"

        await self.until(is_answered)

    async def until_in_hand(self, *run_ids: str) -> None:
        await self.until(
            lambda: set(run_ids) == {one for one, driver in self.drivers.items() if not driver.ended.is_set()}
        )

    def _made(self, fence: RunFence) -> HeldDriver:
        driver = HeldDriver(fence, self.database, self.errors.pop(fence.run_id, None))
        self.drivers[fence.run_id] = driver
        return driver


@pytest.fixture
def desk(database: Database, clock: ManualClock, tmp_path: Path) -> Desk:
    return Desk(database, clock, tmp_path / "lock")


@anyio_test
async def test_as_many_runs_as_there_are_places_are_advanced_oldest_first(desk: Desk) -> None:
    names = [f"R{number}" for number in range(AT_ONCE + 2)]
    await desk.add(*names)
    async with desk.supervising():
        await desk.until_in_hand(*names[:AT_ONCE])
        await desk.ask(names[1], "cancel")
        await desk.until_in_hand(names[0], *names[2 : AT_ONCE + 1])

    assert {run_id: driver.interrupts for run_id, driver in desk.drivers.items() if driver.interrupts} == {names[1]: 1}


@anyio_test
async def test_what_is_to_be_stopped_needs_no_free_place(desk: Desk) -> None:
    names = [f"R{number}" for number in range(AT_ONCE)]
    await desk.add(*names)
    await desk.add("waiting", created_at=at(60))
    await desk.add("left", state="pausing", created_at=at(61))
    async with desk.supervising():
        await desk.until_in_hand(*names, "left")
        await desk.ask("waiting", "cancel")
        await desk.until_in_hand(*names, "left", "waiting")

    assert (await desk.run("waiting")).state == "cancelling"


@anyio_test
async def test_leases_are_renewed_however_long_a_step_takes(desk: Desk, clock: ManualClock) -> None:
    await desk.add("R1")
    async with desk.supervising():
        await desk.until_in_hand("R1")
        for _ in range(3):
            clock.advance(RUN_LEASE_S - 1)

            async def is_renewed() -> bool:
                later = clock.now() + timedelta(seconds=RUN_LEASE_S)
                return (await desk.run("R1")).lease_expires_at == later == holder(desk.database).lease_expires_at

            await desk.until(is_renewed)

    assert (await desk.run("R1")).lease_token == 1
    assert desk.drivers["R1"].interrupts == 0


@anyio_test
async def test_a_run_whose_renewal_came_late_is_not_taken_from_our_own_driver(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    desk = Desk(database, clock, tmp_path / "lock", heartbeat_s=3600)
    await desk.add("R1")
    async with desk.supervising():
        await desk.until_in_hand("R1")
        driver = desk.drivers["R1"]
        clock.advance(10 * RUN_LEASE_S)  # As after a suspend: no beat for a minute, and nobody else came.
        await desk.add("R2", created_at=at(60))
        await desk.until_in_hand("R1", "R2")

        assert desk.drivers["R1"] is driver
        assert ((await desk.run("R1")).lease_token, driver.interrupts) == (1, 0)


@anyio_test
async def test_a_run_that_another_process_took_is_let_go_of_at_once(desk: Desk, clock: ManualClock) -> None:
    await desk.add("R1")
    async with desk.supervising():
        await desk.until_in_hand("R1")
        await desk.database.write(claim, "R1", "other", at(3600), RUN_LEASE_S)
        await desk.until(lambda: desk.drivers["R1"].interrupts)
        asked = await desk.ask("R1", "cancel")
        await desk.add("R2")
        await desk.until_in_hand("R2")

        assert (await desk.run("R1")).lease_owner == "other"
        assert (await desk.database.read(request_by_id, asked)).state == "pending"


@anyio_test
async def test_a_run_that_fails_to_be_driven_leaves_the_others_alone_and_is_taken_up_again(
    desk: Desk, clock: ManualClock
) -> None:
    await desk.add("bad", "good")
    desk.errors["bad"] = RuntimeError("a bug")
    async with desk.supervising():
        await desk.until_in_hand("bad", "good")
        first, good = desk.drivers["bad"], desk.drivers["good"]
        clock.advance(RUN_LEASE_S + 1)
        await desk.until(lambda: desk.drivers["bad"] is not first)

        assert desk.drivers["good"] is good
        assert not good.ended.is_set()
        assert desk.drivers["bad"].fence.lease_token == 2


@anyio_test
async def test_a_request_that_cannot_be_handled_is_refused_and_the_next_one_is_heard(desk: Desk) -> None:
    strange: dict[str, Any] = {"request_id": "q-1", "run_id": "R1", "action": "dance", "arguments": {}}
    strange |= {"author": "ann", "client": "chat", "state": "pending", "answer": "", "created_at": NOON}
    await desk.add("R1")
    await desk.database.write(lambda connection: connection.execute(insert(requests).values(**strange)))
    lost = await desk.ask("nowhere", "pause")
    asked = await desk.ask("R1", "pause")
    async with desk.supervising():

        async def is_answered() -> bool:
            return (await desk.database.read(request_by_id, asked)).state == "done"

        await desk.until(is_answered)

    answers = [await desk.database.read(request_by_id, request_id) for request_id in ("q-1", lost)]
    assert [answer.state for answer in answers] == ["refused", "refused"]
    assert "No run 'nowhere'" in answers[1].answer
    assert (await desk.run("R1")).state == "paused"


class FailsOnce(Database):
    """A database that fails at one operation, the first time."""

    def __init__(self, url: str, operation: Callable[..., Any], error: Exception) -> None:
        super().__init__(url)
        self._operation = operation
        self._error = error
        self.has_failed = False

    async def write(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if operation is self._operation and not self.has_failed:
            self.has_failed = True
            raise self._error
        return await super().write(operation, *args, **kwargs)


@anyio_test
@pytest.mark.parametrize(
    "operation, error",
    [
        pytest.param(claim, DatabaseBusy(10), id="busy as a run is claimed"),
        pytest.param(renew_supervisor, DatabaseBusy(10), id="busy at a heartbeat"),
        pytest.param(expire_overdue, RuntimeError("a bug"), id="a bug as lost calls are charged"),
    ],
)
async def test_what_fails_for_a_moment_is_tried_again_and_holds_nothing_else_up(
    database: Database, clock: ManualClock, tmp_path: Path, operation: Callable[..., Any], error: Exception
) -> None:
    failing = FailsOnce(database.url.render_as_string(), operation, error)
    desk = Desk(failing, clock, tmp_path / "lock")
    await desk.add("R1")
    async with desk.supervising():
        await desk.until(lambda: failing.has_failed)
        clock.advance(1)  # So that the next heartbeat changes a row, and the supervisor looks again.
        await desk.until_in_hand("R1")
    await failing.close()


@anyio_test
async def test_behind_a_request_that_must_wait_those_about_the_same_run_wait_and_no_other(desk: Desk) -> None:
    await desk.add("R1", "R2", state="paused")
    await desk.database.write(claim, "R1", "another process", desk.clock.now(), RUN_LEASE_S)
    asked = [await desk.ask("R1", "resume"), await desk.ask("R1", "pause")]
    desk.clock.advance(1)
    asked.append(await desk.ask("R2", "resume"))
    async with desk.supervising():
        await desk.until_answered(asked[2])
        # "It was already paused" would be answered at once, were it not for the resume before it.
        waiting = [(await desk.database.read(request_by_id, one)).state for one in asked[:2]]

    assert waiting == ["pending", "pending"]


@anyio_test
async def test_ending_gives_every_lease_back(desk: Desk) -> None:
    await desk.add("R1", "R2")
    async with desk.supervising():
        await desk.until_in_hand("R1", "R2")

    assert [(await desk.run(run_id)).lease_owner for run_id in ("R1", "R2")] == [None, None]
    assert not holder(desk.database).is_alive(NOON)


@anyio_test
async def test_a_supervisor_whose_place_was_taken_ends_and_frees_its_runs(desk: Desk) -> None:
    await desk.add("R1")
    async with desk.supervising() as task:
        await desk.until_in_hand("R1")
        await desk.database.write(lambda connection: connection.execute(update(supervisors).values(token=9, pid=1)))
        with anyio.fail_after(LIMIT_S):
            await task

    successor = holder(desk.database)
    assert (successor.token, successor.is_alive(NOON)) == (9, True)
    assert (await desk.run("R1")).lease_owner is None


@anyio_test
async def test_the_lease_of_one_that_was_killed_is_waited_for(desk: Desk, clock: ManualClock) -> None:
    await desk.database.write(insert_supervisor)
    ready = asyncio.Event()
    task = asyncio.create_task(desk.boss.run(lambda _record: ready.set()))
    await asyncio.sleep(0)
    assert not ready.is_set()

    clock.advance(SUPERVISOR_LEASE_S + 1)
    with anyio.fail_after(LIMIT_S):
        await ready.wait()
    desk.boss.stop()
    await task


@anyio_test
async def test_one_that_renews_its_lease_while_we_wait_is_alive_and_named(desk: Desk, clock: ManualClock) -> None:
    await desk.database.write(insert_supervisor)
    task = asyncio.create_task(desk.boss.run())
    await asyncio.sleep(0)
    mine = replace(WISH, token=1)
    while not task.done():
        clock.advance(1)
        await desk.database.write(renew_supervisor, mine, (), clock.now())

    with pytest.raises(SupervisorUnavailable, match="Process 4711 on desk supervises this database since"):
        await task


@anyio_test
async def test_of_two_supervisors_of_one_home_the_second_is_refused_at_once(desk: Desk, tmp_path: Path) -> None:
    async with desk.supervising():
        second = Desk(desk.database, desk.clock, tmp_path / "lock")
        with pytest.raises(SupervisorUnavailable, match="holds the lock"):
            await second.boss.run()


@anyio_test
async def test_a_request_that_another_process_answered_meanwhile_is_not_obeyed_again(desk: Desk) -> None:
    await desk.add("R1")
    asked = await desk.ask("R1", "pause")
    seen = await desk.database.read(request_by_id, asked)
    async with desk.supervising():
        await desk.until_answered(asked)
        await desk.until_answered(await desk.ask("R1", "resume"))
        await desk.boss._obey(seen)

        assert (await desk.run("R1")).state == "running"


@anyio_test
async def test_a_machine_that_changed_its_name_keeps_its_runs_where_no_other_can_have_them(
    desk: Desk, engine: str
) -> None:
    await desk.add("R1", machine="desk.example")
    await desk.add("R2", machine="desk", created_at=at(1))
    async with desk.supervising():
        await desk.until_in_hand(*(("R1", "R2") if engine == "sqlite" else ("R2",)))

    assert (await desk.run("R1")).machine == ("desk" if engine == "sqlite" else "desk.example")
