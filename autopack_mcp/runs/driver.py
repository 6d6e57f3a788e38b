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
from autopack_mcp.errors import DatabaseBusy, DatabaseUnusable, IllegalTransition, LeaseLost, WorkspaceError
from autopack_mcp.plans.plan import Plan, plan_from_json
from autopack_mcp.runs.executor import Executor, StepJob
from autopack_mcp.runs.firings import heed_firings, run_and_firings
from autopack_mcp.runs.outcomes import (
    FailureRule,
    Outcome,
    Prepared,
    begin_attempt,
    cancel_run,
    close_run,
    stop_for_person,
    write_outcome,
)
from autopack_mcp.runs.progress import is_over, next_phase
from autopack_mcp.runs.records import PhaseRecord, RunRecord
from autopack_mcp.runs.run_spans import Step, step_of
from autopack_mcp.runs.states import RUN_ACTIVE
from autopack_mcp.runs.store import (
    attempts_of_phase,
    let_go,
    move_run,
    phases_of_run,
    plan_json_of_run,
    rules_of_run,
    run_by_id,
)

log = logging.getLogger(__name__)

COLLISIONS_LIMIT = 3  # A person cannot move a run between our look and our write this often in a row; a bug can.


@dataclass(frozen=True, slots=True)
class _Fixed:
    """What a run keeps for life, but for the edits of a person; ``plan_edits`` says how many it has."""

    plan: Plan
    rules: str
    plan_edits: int


class RunDriver:
    """Drives one run under one fencing token; ``drive`` returns when the run has stopped, for whatever reason."""

    def __init__(self, *, fence: RunFence, database: Database, clock: Clock, executor: Executor) -> None:
        self.fence = fence
        self._database = database
        self._clock = clock
        self._executor = executor
        self._step: asyncio.Task[Outcome] | None = None
        self._is_interrupted = False
        self._is_prepared = False
        self._fixed: _Fixed | None = None
        self._phase_in_hand: str | None = None
        self._cleaned_of: frozenset[str] = frozenset()

    def interrupt(self, phase_id: str | None = None) -> None:
        """End the step in hand now, or the one about to begin: its call is settled honestly, its command tree killed.

        Commit first what it is interrupted for: the driver looks at its run again, and that must say why. With a phase
        only a step of that one ends: the driver may have gone on to the next meanwhile.
        """
        if phase_id is not None and phase_id != self._phase_in_hand:
            return
        self._is_interrupted = True
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
        except (DatabaseBusy, DatabaseUnusable):
            # The lease runs out and the run is taken up again, from its last finished step. Not so when the database
            # refuses what we write: the step would be repeated, and its calls paid for, again and again.
            log.exception("run %s lost its database", self.fence.run_id)
            return
        except Exception as error:
            log.exception("run %s stopped on an internal error", self.fence.run_id)
            why = f"internal error: {error!r}"
            if not await self._database.write(stop_for_person, self.fence, why, self._clock.now()):
                # Nobody waits for a person there, and with the lease given back it would fail again at once.
                return
        await self._give_back()

    async def _until_stopped(self) -> None:
        collisions = 0
        while True:
            # Before the look: whoever interrupts has committed why, so either the look sees it or the next step does.
            self._is_interrupted = False
            run, firings = await self._database.read(run_and_firings, self.fence.run_id)
            if run.lease_token != self.fence.lease_token:
                # A workspace has no fence of its own, so the loser must not begin another step in it.
                raise LeaseLost(run.run_id)
            if run.state not in RUN_ACTIVE:
                return
            try:
                if firings:
                    # A standing order was fired by the step just done, by a call elsewhere, or before a crash.
                    await self._write(heed_firings, self.fence, self._clock.now())
                else:
                    await self._act(run)
            except IllegalTransition:
                # A person moved the run between our look and our write, and nothing was written: look again.
                collisions += 1
                if collisions == COLLISIONS_LIMIT:
                    raise
            else:
                collisions = 0

    async def _act(self, run: RunRecord) -> None:
        """What the run's state asks for: to begin, to stop, or one more step."""
        if run.state == "queued":
            await self._write(move_run, self.fence, "start", "started", self._clock.now())
        elif run.state == "cancelling":
            await self._cancel(run)
        elif run.state == "pausing":
            await self._pause(run)
        else:
            await self._advance(run)

    async def _pause(self, run: RunRecord) -> None:
        phases = await self._phases(run)
        if is_over(phases):
            # The step that the pause waited for was the last one: nothing is left that could go on later.
            await self._write(close_run, self.fence, self._clock.now())
        else:
            await self._write(move_run, self.fence, "boundary", "paused as asked", self._clock.now())

    async def _advance(self, run: RunRecord) -> None:
        """One step: make the workspace, open an attempt, do what its phase's state asks for, or end the run."""
        fixed = await self._read_fixed(run)
        phase = next_phase(await self._phases(run))
        self._phase_in_hand = None if phase is None else phase.phase_id
        if phase is None:
            await self._write(close_run, self.fence, self._clock.now())
        elif not self._is_prepared:
            step = Step("setup", self._clock.now())
            outcome = await self._interruptible(lambda: self._executor.prepare(run, fixed.plan))
            self._is_prepared = isinstance(outcome, Prepared)
            await self._write_outcome(run, phase, outcome, step)
        elif phase.state == "queued":
            await self._write(begin_attempt, self.fence, run, phase, self._clock.now())
        else:
            job = await self._job(run, phase)
            outcome = await self._interruptible(lambda: self._executor.do(job))
            await self._write_outcome(run, phase, outcome, job.step)

    async def _phases(self, run: RunRecord) -> tuple[PhaseRecord, ...]:
        """The run's phases, with nothing in the workspace of one that a person has skipped since the last look."""
        phases = await self._database.read(phases_of_run, run.run_id)
        skipped = frozenset(phase.phase_id for phase in phases if phase.state == "skipped")
        if not skipped <= self._cleaned_of:
            await self._clean(run)
        self._cleaned_of = skipped
        return phases

    async def _job(self, run: RunRecord, phase: PhaseRecord) -> StepJob:
        fixed = await self._read_fixed(run)
        attempts = await self._database.read(attempts_of_phase, run.run_id, phase.phase_id)
        step = step_of(phase.state, self._clock.now())
        return StepJob(run, fixed.plan, fixed.rules, phase, attempts, self.fence, step)

    async def _interruptible(self, work: Callable[[], Coroutine[Any, Any, Outcome]]) -> Outcome | None:
        """What a step came to, or None when somebody interrupted it: then the run's state says why."""
        if self._is_interrupted:
            return None
        self._step = asyncio.create_task(work())
        try:
            return await self._step
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return None
        finally:
            self._step = None

    async def _cancel(self, run: RunRecord) -> None:
        """Close what a cancelled run leaves open, then the run itself: nothing half-done stays in the workspace."""
        await self._clean(await self._kept(run))
        await self._write(cancel_run, self.fence, self._clock.now())

    async def _clean(self, run: RunRecord) -> None:
        try:
            await self._executor.clean(run)
        except (WorkspaceError, OSError):
            # A workspace that is gone or broken must not keep its run from ending; a step that needs it will say so.
            log.exception("the workspace of run %s could not be cleaned", run.run_id)

    async def _kept(self, run: RunRecord) -> RunRecord:
        """The run, with the phase succeeded whose commit stands on its branch already: that cannot be called off."""
        phase = next_phase(await self._database.read(phases_of_run, run.run_id))
        if phase is None or phase.state != "committing":
            return run
        await self._write_outcome(run, phase, await self._executor.find_commit(await self._job(run, phase)))
        return await self._database.read(run_by_id, run.run_id)

    async def _write_outcome(
        self, run: RunRecord, phase: PhaseRecord, outcome: Outcome | None, step: Step | None = None
    ) -> None:  # fmt: skip
        if outcome is not None:
            plan = (await self._read_fixed(run)).plan
            rule = FailureRule(plan.attempts_limit, plan.on_failure)
            await self._write(write_outcome, self.fence, phase, outcome, rule, self._clock.now(), step)

    async def _read_fixed(self, run: RunRecord) -> _Fixed:
        if self._fixed is None or self._fixed.plan_edits != run.plan_edits:
            self._fixed = await self._database.read(_fixed_of_run, run)
        return self._fixed

    async def _give_back(self) -> None:
        await self._write(let_go, self.fence)

    async def _write(self, operation: Callable[..., object], *arguments: object) -> None:
        await self._database.write(operation, *arguments)


def _fixed_of_run(connection: Connection, run: RunRecord) -> _Fixed:
    # An edit between the look at the run and this one is read here already, and once more after the next look.
    plan = plan_from_json(plan_json_of_run(connection, run.run_id))
    return _Fixed(plan, rules_of_run(connection, run.run_id), run.plan_edits)
