"""The one process of a machine that advances runs: it claims them, obeys requests and recovers what was left.

It owns the machine's lease and one driver for each claimed run; it does no step itself. ``serve`` runs it until it is
told to stop, and then every run waits where it is for the next one.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from autopack_mcp.budgets.ledger import Ledger, RunFence
from autopack_mcp.budgets.standing_orders import unhandled_firings
from autopack_mcp.clock import Clock
from autopack_mcp.database.changes import ChangeWatch
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import DatabaseError, LeaseLost, SupervisorUnavailable
from autopack_mcp.runs.driver import RunDriver
from autopack_mcp.runs.firings import heed_unattended
from autopack_mcp.runs.obeying import obey
from autopack_mcp.runs.requests import RequestRecord, answer_request, pending_requests
from autopack_mcp.runs.states import RunState
from autopack_mcp.runs.store import RUN_LEASE_S, claim, claimable_runs, let_go, renew
from autopack_mcp.runs.supervision import (
    SupervisorRecord,
    renew_supervisor,
    step_down,
    supervisor_of,
    take_over,
)

log = logging.getLogger(__name__)

HEARTBEAT_S = 2.0
RUNS_AT_ONCE = 4  # Runs that one machine advances at the same time; the others wait in the order they were started.
TAKE_OVER_LOOK_S = 0.2  # How often a supervisor that waits for its predecessor's lease to end asks again.
STOPPING: frozenset[RunState] = frozenset(
    {"pausing", "cancelling"}
)  # All they need is a moment, so they get it at once.
LOOK_LIMIT_S = 1.0  # Also without any commit the supervisor looks this often: leases end without one.


class Supervisor:
    """One per machine. Every part is given by name; ``run`` blocks until ``stop`` is called or the lease is lost."""

    def __init__(
        self,
        *,
        identity: SupervisorRecord,
        lock_file: Path,
        database: Database,
        clock: Clock,
        ledger: Ledger,
        visible_keys: Callable[[], Sequence[str]],
        make_driver: Callable[[RunFence], RunDriver],
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._identity = identity
        self._lock_file = lock_file
        self._database = database
        self._clock = clock
        self._ledger = ledger
        self._visible_keys = visible_keys
        self._make_driver = make_driver
        self._heartbeat_s = heartbeat_s
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
        with _locked(self._lock_file):
            self._identity = await self._taken_over()
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
                heart = tasks.create_task(self._beat())
                try:
                    while not self._stopping.is_set():
                        seen = changes.version()
                        await self._look(tasks)
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

    async def _look(self, tasks: asyncio.TaskGroup) -> None:
        """Obey what was asked, then take up what may be taken up; what goes wrong with one of them stops no other."""
        for work in (self._obey_all, self._heed_all, self._ledger.expire_overdue, partial(self._claim, tasks)):
            try:
                await work()
            except DatabaseError:
                # Busy or full for a moment: nothing is lost, the rows are still there at the next look.
                log.exception("the database could not be used; trying again")
            except Exception:  # A bug in one part must not end every run of the machine.
                log.exception("a part of the supervisor's work failed; trying again")

    async def _obey_all(self) -> None:
        for request in await self._database.read(pending_requests):
            await self._obey(request)

    async def _obey(self, request: RequestRecord) -> None:
        driver = self._drivers.get(request.run_id)
        fence = driver.fence if driver else None
        try:
            obeyed = await self._database.write(obey, request, fence, self.owner, self._clock.now())
        except LeaseLost:
            # The run was lost to another process in this moment; whoever owns it answers the request.
            log.warning("request %s about run %s is left to another process", request.request_id, request.run_id)
            return
        except DatabaseError:
            raise
        except Exception as error:
            # Written by another version perhaps; unanswered, it would come up again at every look.
            log.exception("request %s about run %s cannot be handled", request.request_id, request.run_id)
            why = f"It cannot be handled: {error!r}"
            await self._database.write(answer_request, request.request_id, "refused", why, self._clock.now())
            return
        if obeyed is not None and obeyed.interrupts and driver is not None:
            driver.interrupt()

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

    async def _claim(self, tasks: asyncio.TaskGroup) -> None:
        for run in await self._database.read(claimable_runs, self._clock.now()):
            # A person waits to see it stop, however many others are being advanced.
            must_wait = run.state not in STOPPING and len(self._drivers) >= RUNS_AT_ONCE
            # Our own, whose renewal was late: it goes on under its token, and a new one would lose its step.
            if must_wait or run.run_id in self._drivers:
                continue
            fence = await self._database.write(claim, run.run_id, self.owner, self._clock.now(), RUN_LEASE_S)
            if fence is not None:
                self._drivers[run.run_id] = self._make_driver(fence)
                self._tasks[run.run_id] = tasks.create_task(self._drive(run.run_id), name=f"run {run.run_id}")

    async def _drive(self, run_id: str) -> None:
        try:
            await self._drivers[run_id].drive()
        except Exception:  # Its lease runs out and it is taken up again; the other runs go on meanwhile.
            log.exception("run %s was dropped", run_id)
        del self._drivers[run_id]
        del self._tasks[run_id]

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


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold this AUTOPACK_HOME's lock: the kernel frees it however the process ends."""
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
