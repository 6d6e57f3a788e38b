"""Advances one run, step by step, until it must stop: the loop that commits what the executor did.

It owns the order of steps and the boundary between them, where a pause takes effect; it holds the run's fencing token
and stops at once when that is lost. The supervisor starts one driver for each run it has claimed, and interrupts it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from autopack_mcp.budgets.ledger import RunFence
from autopack_mcp.clock import Clock
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import DatabaseError, LeaseLost, WorkspaceError
from autopack_mcp.plan import Plan, plan_from_json
from autopack_mcp.runs.executor import Executor, StepJob
from autopack_mcp.runs.outcomes import FailureRule, Outcome, begin_attempt, close_run, write_outcome
from autopack_mcp.runs.progress import current_phase
from autopack_mcp.runs.records import PhaseRecord, RunRecord
from autopack_mcp.runs.states import PHASE_ENDED
from autopack_mcp.runs.store import (
    attempts_of_phase,
    let_go,
    move_phase,
    move_run,
    phases_of_run,
    plan_json_of_run,
    rules_of_run,
    run_by_id,
    set_attempt,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Fixed:
    """What a run keeps for life."""

    plan: Plan
    rules: str


class RunDriver:
    """Drives one run under one fencing token; ``drive`` returns when the run has stopped, for whatever reason."""

    def __init__(self, *, fence: RunFence, database: Database, clock: Clock, executor: Executor) -> None:
        self.fence = fence
        self._database = database
        self._clock = clock
        self._executor = executor
        self._step: asyncio.Task[Outcome] | None = None

    def interrupt(self) -> None:
        """End the step in hand now: its provider call is settled honestly, its command tree killed."""
        if self._step is not None:
            self._step.cancel()

    async def drive(self) -> None:
        """Advance the run until it waits for a person, has ended, or is somebody else's.

        A bug does not end the supervisor: it is logged, and the run waits for a person with the reason.
        """
        try:
            await self._until_stopped()
        except LeaseLost:
            log.warning("run %s is owned by another process now", self.fence.run_id)
            return
        except asyncio.CancelledError:
            await self._give_back()
            raise
        except DatabaseError:
            # The lease runs out and the run is taken up again, from its last finished step.
            log.exception("run %s lost its database", self.fence.run_id)
            return
        except Exception as error:
            log.exception("run %s stopped on an internal error", self.fence.run_id)
            await self._write(move_run, self.fence, "phase_failed", f"internal error: {error!r}", self._clock.now())
        await self._give_back()

    async def _until_stopped(self) -> None:
        run = await self._database.read(run_by_id, self.fence.run_id)
        fixed = await self._database.read(_read_fixed, run.run_id)
        if run.state == "queued":
            await self._write(move_run, self.fence, "start", "started", self._clock.now())
        is_prepared = False
        while True:
            run = await self._database.read(run_by_id, self.fence.run_id)
            if run.state == "cancelling":
                await self._cancelled(run)
            elif run.state == "pausing":
                await self._write(move_run, self.fence, "boundary", "paused as asked", self._clock.now())
            elif run.state != "running":
                return
            elif not is_prepared:
                is_prepared = await self._prepared(run, fixed.plan)
            else:
                await self._advance(run, fixed)

    async def _prepared(self, run: RunRecord, plan: Plan) -> bool:
        outcome = await self._interruptible(self._executor.prepare(run, plan))
        if outcome is None:
            return False
        phases = await self._database.read(phases_of_run, run.run_id)
        phase = current_phase(phases)
        assert phase is not None, "a validated plan has phases"
        await self._write_outcome(phase, outcome, plan)
        return True

    async def _advance(self, run: RunRecord, fixed: _Fixed) -> None:
        """One step: open an attempt, do what its phase's state asks for, or end the run."""
        phases = await self._database.read(phases_of_run, run.run_id)
        phase = current_phase(phases)
        if phase is None or phase.state in PHASE_ENDED:
            await self._write(close_run, self.fence, phases, self._clock.now())
        elif phase.state == "queued":
            await self._write(begin_attempt, self.fence, run, phase, self._clock.now())
        else:
            attempts = await self._database.read(attempts_of_phase, run.run_id, phase.phase_id)
            job = StepJob(run, fixed.plan, fixed.rules, phase, attempts, self.fence)
            outcome = await self._interruptible(self._executor.do(job))
            if outcome is not None:
                await self._write_outcome(phase, outcome, fixed.plan)

    async def _interruptible(self, work: Coroutine[Any, Any, Outcome]) -> Outcome | None:
        """What a step came to, or None when somebody interrupted it: then the run's state says why."""
        self._step = asyncio.create_task(work)
        try:
            return await self._step
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return None
        finally:
            self._step = None

    async def _cancelled(self, run: RunRecord) -> None:
        """Close what a cancelled run leaves open, then the run itself: nothing half-done stays in the workspace."""
        try:
            await self._executor.clean(run)
        except (WorkspaceError, OSError):
            # A workspace that is gone or broken must not keep its run from ending.
            log.exception("the workspace of run %s could not be cleaned", run.run_id)
        await self._write(_cancel_phases, self.fence, self._clock)

    async def _write_outcome(self, phase: PhaseRecord, outcome: Outcome, plan: Plan) -> None:
        rule = FailureRule(plan.attempts_limit, plan.on_failure)
        await self._write(write_outcome, self.fence, phase, outcome, rule, self._clock.now())

    async def _give_back(self) -> None:
        await self._write(let_go, self.fence)

    async def _write(self, operation: Callable[..., object], *arguments: object) -> None:
        await self._database.write(operation, *arguments)


def _read_fixed(connection: Connection, run_id: str) -> _Fixed:
    return _Fixed(plan_from_json(plan_json_of_run(connection, run_id)), rules_of_run(connection, run_id))


def _cancel_phases(connection: Connection, fence: RunFence, clock: Clock) -> None:
    at = clock.now()
    for phase in phases_of_run(connection, fence.run_id):
        if phase.state in PHASE_ENDED:
            continue
        if phase.state != "queued":
            why = "the run was cancelled"
            set_attempt(connection, fence, phase.phase_id, phase.attempt, state="interrupted", reason=why,
                        finished_at=at)  # fmt: skip
        move_phase(connection, fence, phase, "cancel", "the run was cancelled", at, finished_at=at)
    move_run(connection, fence, "stopped", "cancelled as asked", at)
