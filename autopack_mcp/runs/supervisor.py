"""Whoever advances runs: it claims those whose turn it is, obeys requests and recovers what was left.

It owns a lease of its own and one driver for each claimed run; it does no step itself. ``serve`` runs the one of its
machine, ``worker`` one that is told by jobs what to claim; stopped, its runs wait where they are for the next one.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection

from autopack_mcp.budgets.ledger import Ledger, RunFence
from autopack_mcp.budgets.standing_orders import unhandled_firings
from autopack_mcp.clock import Clock
from autopack_mcp.config.settings import RunSettings
from autopack_mcp.database.changes import ChangeWatch
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import DatabaseError, LeaseLost, SupervisorUnavailable
from autopack_mcp.plans.repository_url import is_url
from autopack_mcp.runs.driver import RunDriver
from autopack_mcp.runs.firings import heed_unattended
from autopack_mcp.runs.obeying import obey
from autopack_mcp.runs.queue import STOPPING, Reach, adopt_runs, line_at, runs_in_hand, turns
from autopack_mcp.runs.records import RunRecord
from autopack_mcp.runs.requests import RequestRecord, answer_request, pending_requests
from autopack_mcp.runs.states import RUN_ACTIVE
from autopack_mcp.runs.store import RUN_LEASE_S, claim, let_go, renew, run_by_id
from autopack_mcp.runs.supervision import (
    SupervisorRecord,
    count_live_workers,
    renew_supervisor,
    step_down,
    supervisor_of,
    take_over,
)

log = logging.getLogger(__name__)

HEARTBEAT_S = 2.0
TAKE_OVER_LOOK_S = 0.2  # How often a supervisor that waits for its predecessor's lease to end asks again.
LOOK_LIMIT_S = 1.0  # Also without any commit the supervisor looks this often: leases end without one.
WORKER_REST_S = 0.2  # Between two looks of a worker: each commit wakes all of them, and a job wakes only one.
WORKER_SWEEP_S = 5.0  # Between two looks for lost calls by a worker, each of which takes its turn at writing.
OFFERED_AHEAD = 16  # Jobs made before a worker is free to take them; with more of them the order could not change.


class Jobs(Protocol):
    """Who of many workers is to claim a run, decided elsewhere: what is offered comes back through ``advance``."""

    async def offer(self, run_ids: Sequence[str]) -> None:
        """Ask for one worker to advance each of these runs; asking twice is asking once."""
        ...


class Supervisor:
    """One per machine, or one of many workers. Every part is given by name.

    ``run`` blocks until ``stop`` is called or the lease is lost. ``limits`` are asked at each look; ``workspaces`` is
    where the clones of repositories with a URL stand here. With ``jobs`` it is a worker: it offers runs instead of
    claiming them, and claims what it is told to by ``advance``. Without a ``lock_file`` there may be several at once.
    """

    def __init__(
        self,
        *,
        identity: SupervisorRecord,
        lock_file: Path | None,
        database: Database,
        clock: Clock,
        ledger: Ledger,
        visible_keys: Callable[[], Sequence[str]],
        make_driver: Callable[[RunFence], RunDriver],
        limits: Callable[[], RunSettings],
        workspaces: Path,
        jobs: Jobs | None = None,
        look_rest_s: float = 0.0,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._identity = identity
        self._lock_file = lock_file
        self._database = database
        self._clock = clock
        self._ledger = ledger
        self._visible_keys = visible_keys
        self._make_driver = make_driver
        self._limits = limits
        self._workspaces = workspaces
        self._jobs = jobs
        self._look_rest_s = look_rest_s
        self._heartbeat_s = heartbeat_s
        self._reach = Reach(identity.kind, identity.machine)
        self._group: asyncio.TaskGroup
        self._is_open = asyncio.Event()
        self._swept_at_s = -WORKER_SWEEP_S
        self._runs: dict[str, RunRecord] = {}
        self._drivers: dict[str, RunDriver] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()

    @property
    def owner(self) -> str:
        """How this supervisor signs the runs it has claimed."""
        return f"{self._identity.machine}:{self._identity.pid}:{self._identity.token}"

    def stop(self) -> None:
        """Ask ``run`` to end: steps in hand are interrupted, their runs stay where they are."""
        self._stopping.set()

    async def run(self, on_ready: Callable[[SupervisorRecord], None] = lambda record: None) -> None:
        """Hold the machine's lease and advance its runs.

        Raises:
            SupervisorUnavailable: another supervisor is alive here; the message says which.
        """
        with nullcontext() if self._lock_file is None else locked(self._lock_file):
            self._identity = await self._taken_over()
            if self._database.is_sqlite:
                await self._database.write(adopt_runs, self._identity.machine)
            on_ready(self._identity)
            try:
                await self._supervise()
            finally:
                await self._database.write(step_down, self._identity, self._clock.now())

    async def _taken_over(self) -> SupervisorRecord:
        """The machine's lease, as soon as a holder that was killed no longer has it; one that renews it is alive."""
        first: SupervisorRecord | None = None
        while True:
            taken = await self._database.write(take_over, self._identity, self._clock.now())
            if taken is not None:
                return taken
            holder = await self._database.read(supervisor_of, self._identity.machine)
            if first is None and holder is not None:
                log.info("waiting until the lease of process %s ends; it may have been killed", holder.pid)
            elif holder != first or self._stopping.is_set():
                raise SupervisorUnavailable(described(holder))
            first = holder
            await asyncio.sleep(TAKE_OVER_LOOK_S)

    async def _supervise(self) -> None:
        changes = ChangeWatch(self._database)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._group = tasks
                self._is_open.set()
                heart = tasks.create_task(self._beat())
                try:
                    while not self._stopping.is_set():
                        seen = changes.version()
                        await self._look()
                        await self._rest()
                        await changes.wait(seen, LOOK_LIMIT_S, self._stopping)
                finally:
                    heart.cancel()
                    for task in self._tasks.values():
                        task.cancel()
            # Of a run that was claimed in the very moment of the stop, the driver has never begun.
            for driver in self._drivers.values():
                await self._database.write(let_go, driver.fence)
        finally:
            changes.close()

    async def _rest(self) -> None:
        """Let commits that come together be one look: many workers would otherwise ask after each commit of each."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), self._look_rest_s)

    async def _look(self) -> None:
        """Obey what was asked, then take up what may be taken up; what goes wrong with one of them stops no other."""
        for work in await self._works():
            try:
                await work()
            except DatabaseError:
                # Busy or full for a moment: nothing is lost, the rows are still there at the next look.
                log.exception("the database could not be used; trying again")
            except Exception:  # A bug in one part must not end every run of the machine.
                log.exception("a part of the supervisor's work failed; trying again")

    async def _works(self) -> Sequence[Callable[[], Awaitable[object]]]:
        """What a look consists of; for one of many workers mostly to see, in one question, that there is nothing."""
        everything = (self._obey_all, self._heed_all, self._ledger.expire_overdue, self._claim)
        now_s = asyncio.get_running_loop().time()
        if self._jobs is None or now_s - self._swept_at_s >= WORKER_SWEEP_S:
            self._swept_at_s = now_s
            return everything
        try:
            mine = frozenset(self._drivers)
            is_up = await self._database.read(_is_anything_up, self._reach, mine, self._clock.now())
        except DatabaseError:
            log.exception("the database could not be used; trying again")
            return ()
        return (self._obey_all, self._heed_all, self._claim) if is_up else ()

    async def _obey_all(self) -> None:
        """In the order in which they were asked: behind one that must wait, those about the same run wait as well."""
        waiting: set[str] = set()
        for request in await self._database.read(pending_requests):
            if request.run_id not in waiting and not await self._obey(request):
                waiting.add(request.run_id)

    async def _obey(self, request: RequestRecord) -> bool:
        """Whether the request is answered now."""
        driver = self._drivers.get(request.run_id)
        fence = driver.fence if driver else None
        try:
            obeyed = await self._database.write(obey, request, fence, self.owner, self._clock.now())
        except LeaseLost:
            # The run was lost to another process in this moment; whoever owns it answers the request.
            log.warning("request %s about run %s is left to another process", request.request_id, request.run_id)
            return False
        except DatabaseError:
            raise
        except Exception as error:
            # Written by another version perhaps; unanswered, it would come up again at every look.
            log.exception("request %s about run %s cannot be handled", request.request_id, request.run_id)
            why = f"It cannot be handled: {error!r}"
            await self._database.write(answer_request, request.request_id, "refused", why, self._clock.now())
            return True
        if obeyed is not None and obeyed.interrupts and driver is not None:
            driver.interrupt(obeyed.phase_id)
        return obeyed is not None

    async def _heed_all(self) -> None:
        """Act on standing orders that fired for runs nobody has in hand; a driver does it itself, between two steps."""
        for firing in await self._database.read(unhandled_firings):
            driver = self._drivers.get(firing.run_id)
            if driver is None:
                now = self._clock.now()
                await self._database.write(heed_unattended, firing.run_id, self.owner, now, RUN_LEASE_S)
            elif firing.action == "cancel":
                # As a cancel by a person: the step in hand, which may be none that calls a model, ends now.
                driver.interrupt()

    async def advance(self, run_id: str) -> None:
        """Claim a run that was offered and drive it until it stops; nothing happens when somebody else has it.

        Cancelling the caller does not stop the run: ``stop`` does, and ends every step of this process in its order.
        """
        await self._is_open.wait()
        run = await self._database.read(run_by_id, run_id)
        if run.state not in RUN_ACTIVE or run_id in self._drivers or self._stopping.is_set():
            return
        task = await self._take_up(run)
        if task is not None:
            await asyncio.wait([task])

    async def _claim(self) -> None:
        """Take up the runs whose turn it is, or offer them; those that are to be stopped get their moment in any case.

        Our own, whose renewal was late, go on under their token: a new one would lose their step.
        """
        line = await self._database.read(line_at, self._reach, self._clock.now())
        if not any(run.run_id not in self._drivers for run in line.waiting):
            return
        in_hand, limits = await self._places()
        chosen = [turn.run for turn in turns(line, in_hand, limits) if not turn.why]
        mine = [run for run in chosen if run.run_id not in self._drivers]
        for run in mine:
            if self._jobs is None or run.state in STOPPING:
                await self._take_up(run)
        if self._jobs is not None:
            await self._jobs.offer([run.run_id for run in mine if run.state not in STOPPING])

    async def _places(self) -> tuple[Sequence[RunRecord], RunSettings]:
        """The runs in hand, and the limits that go with them: this process's own, or those of all workers together."""
        limits = self._limits()
        if self._jobs is None:
            return tuple(self._runs.values()), limits
        in_hand, workers = await self._database.read(_workers_hands, self._reach, self._clock.now())
        together = replace(
            limits, at_once=len(in_hand) + OFFERED_AHEAD, per_repository=limits.per_repository * max(workers, 1)
        )
        return in_hand, together

    async def _take_up(self, run: RunRecord) -> asyncio.Task[None] | None:
        """Claim a run and start to drive it; None when somebody else was faster."""
        workspace = str(self._workspaces / run.run_id) if is_url(run.repository) else None
        now = self._clock.now()
        fence = await self._database.write(claim, run.run_id, self.owner, now, RUN_LEASE_S, workspace)
        if fence is None:
            return None
        if self._stopping.is_set():
            await self._database.write(let_go, fence)
            return None
        self._runs[run.run_id] = run
        self._drivers[run.run_id] = self._make_driver(fence)
        task = self._group.create_task(self._drive(run.run_id), name=f"run {run.run_id}")
        self._tasks[run.run_id] = task
        return task

    async def _drive(self, run_id: str) -> None:
        try:
            await self._drivers[run_id].drive()
        except Exception:  # Its lease runs out and it is taken up again; the other runs go on meanwhile.
            log.exception("run %s was dropped", run_id)
        del self._drivers[run_id]
        del self._tasks[run_id]
        del self._runs[run_id]

    async def _beat(self) -> None:
        """Prolong our leases; a lost run is interrupted, a lost machine ends everything."""
        while True:
            try:
                await self._renew()
            except DatabaseError:
                # A lease outlives two missed beats; after that the fence keeps us from writing.
                log.exception("the leases could not be renewed; trying again")
            await asyncio.sleep(self._heartbeat_s)

    async def _renew(self) -> None:
        now = self._clock.now()
        fences = [driver.fence for driver in self._drivers.values()]
        for lost in await self._database.write(renew, fences, now, RUN_LEASE_S):
            if lost.run_id in self._drivers:
                self._drivers[lost.run_id].interrupt()
        if not await self._database.write(renew_supervisor, self._identity, self._visible_keys(), now):
            log.error("another supervisor has taken over this machine")
            self._stopping.set()


def described(holder: SupervisorRecord | None) -> str:
    """Who holds the machine's lease, in words."""
    if holder is None:
        return "Another supervisor holds the lock of this AUTOPACK_HOME."
    since = f"{holder.started_at:%Y-%m-%d %H:%M} UTC"
    return f"Process {holder.pid} on {holder.machine} supervises this database since {since} ({holder.url})."


def _is_anything_up(connection: Connection, reach: Reach, mine: Collection[str], at: datetime) -> bool:
    """Whether somebody asked for something, an order fired, or a run waits that is not in our hands already."""
    if pending_requests(connection) or unhandled_firings(connection):
        return True
    return any(run.run_id not in mine for run in line_at(connection, reach, at).waiting)


def _workers_hands(connection: Connection, reach: Reach, at: datetime) -> tuple[tuple[RunRecord, ...], int]:
    return runs_in_hand(connection, reach, at), count_live_workers(connection, at)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a lock of this AUTOPACK_HOME: the kernel frees it however the process ends.

    Raises:
        SupervisorUnavailable: another process holds it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SupervisorUnavailable(described(None)) from error
        yield
    finally:
        os.close(descriptor)
