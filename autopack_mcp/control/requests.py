"""Asking something of a run, of one of its phases or of its caps: the wish is a row, its answer is waited for briefly.

It never moves a run itself: the supervisor does, and writes what came of it into the row. ``Control`` calls it for the
MCP tools and the command line alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection

from autopack_mcp.clock import Clock
from autopack_mcp.config.settings import Settings
from autopack_mcp.control.caps import CapWish, checked_caps
from autopack_mcp.control.person import Person
from autopack_mcp.control.phases import checked_wish
from autopack_mcp.database.changes import ChangeWatch
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import IllegalTransition, RequestRefused
from autopack_mcp.runs.cap_changes import answer_to
from autopack_mcp.runs.launch import SupervisorLauncher
from autopack_mcp.runs.phase_wishes import PhaseWish, answer_to_wish, wish_to_json
from autopack_mcp.runs.progress import current_phase
from autopack_mcp.runs.queue import reach_of_run
from autopack_mcp.runs.records import PhaseRecord, RunRecord
from autopack_mcp.runs.requests import (
    ALREADY_TRUE,
    Action,
    RequestAction,
    RequestRecord,
    add_request,
    allowed_actions,
    event_of,
    pending_requests,
    request_by_id,
)
from autopack_mcp.runs.states import RUN_ACTIVE, RunState, next_run_state
from autopack_mcp.runs.store import phases_of_run, run_by_id

WAIT_S = 3.0  # A tool answers within this, with what happened or with what is pending (mcp.md: no call blocks longer).
ACKNOWLEDGE_S = 1.0  # A pause is acknowledged within this, whatever it still waits for (contract 27).


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """What came of a request: the state it left the run in, in words, and whether something is still to happen."""

    run_id: str
    action: str
    state: RunState
    message: str
    is_pending: bool


class Requests:
    """Writes requests down and waits for their answers. Every part is given by name; safe for concurrent callers."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        settings: Callable[[], Settings],
        supervisors: SupervisorLauncher,
        wait_s: float = WAIT_S,
        acknowledge_s: float = ACKNOWLEDGE_S,
    ) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._supervisors = supervisors
        self._wait_s = wait_s
        self._acknowledge_s = acknowledge_s

    async def request(self, run_id: str, action: Action, person: Person, *, now: bool = False) -> RequestOutcome:
        """Ask a run to pause, resume or end, and wait up to ``WAIT_S`` seconds for it to have happened.

        ``now`` makes a pause interrupt the step in hand. Asking for what is already so changes nothing and says so.

        Raises:
            RunNotFound, IllegalTransition: with what exists or is allowed. SupervisorUnavailable: nobody can act.
            RequestRefused: the run went on meanwhile, to where this cannot be asked any more.
        """
        run, is_undisturbed = await self._database.read(_run_and_peace, run_id)
        if run.state in RUN_ACTIVE:
            # Also when nothing else is to be done: "resume" revives a run whose supervisor has died.
            await self._ensure_supervised(run_id)
        # What is so already needs no request, unless another one is on its way that changes it.
        if is_undisturbed and not (now and run.state == "pausing"):
            if run.state in ALREADY_TRUE[action]:
                message = f"Run {run_id} is already {run.state}: {run.why}"
                return RequestOutcome(run_id, action, run.state, message, _is_underway(action, run.state))
            if next_run_state(run.state, event_of(action, run.state)) is None:
                raise IllegalTransition(run.state, action, allowed_actions(run.state))
        return await self._ask(run_id, action, person, {"now": now})

    async def about_phase(
        self, run_id: str, wish: PhaseWish, person: Person, *, may_set_commands: bool
    ) -> RequestOutcome:
        """Ask to try a phase anew, to skip it or to edit it; asking for what is so already changes nothing.

        ``may_set_commands`` says that the person is at this machine, where they may run any command anyway; from
        elsewhere a verification command is set only where the configuration lets plans come from there, too.

        Raises:
            RunNotFound; RequestRefused: no usable words, no such phase, or it stands where this cannot be done.
            IllegalTransition: the run has ended. SupervisorUnavailable: nobody can act.
        """
        checked = checked_wish(wish, may_set_commands=may_set_commands or self._settings().allow_inline_plans)
        run, is_undisturbed = await self._database.read(_run_and_peace, run_id)
        # What another request is about to change may be possible by then; the supervisor says so.
        if is_undisturbed:
            answer = await self._database.read(answer_to_wish, run, checked)
            if not answer.is_change:
                message = f"{answer.words} Run {run_id} is {run.state}: {run.why}"
                return RequestOutcome(run_id, wish.action, run.state, message, False)
        return await self._ask(run_id, wish.action, person, wish_to_json(checked))

    async def raise_cap(self, run_id: str, wish: CapWish, person: Person) -> RequestOutcome:
        """Give a run, or one of its phases, other caps: the new totals, also below what is spent.

        A run that this very cap has stopped goes on where it paused. Asking for caps that are so already changes
        nothing and says so.

        Raises:
            RunNotFound; RequestRefused: no usable amount, or the run has no such phase.
            IllegalTransition: it has ended. SupervisorUnavailable: nobody can act.
        """
        new = checked_caps(wish)
        run, is_undisturbed = await self._database.read(_run_and_peace, run_id)
        answer = await self._database.read(answer_to, run, new, self._clock.now())
        if is_undisturbed and not answer.changes:
            message = f"{answer.words} Run {run_id} is {run.state}: {run.why}"
            return RequestOutcome(run_id, "raise_cap", run.state, message, False)
        return await self._ask(run_id, "raise_cap", person, asdict(new))

    async def _ensure_supervised(self, run_id: str) -> None:
        run = await self._database.read(run_by_id, run_id)
        await self._supervisors.ensure(here=reach_of_run(run).kind == "serve")

    async def _ask(
        self, run_id: str, action: RequestAction, person: Person, arguments: Mapping[str, Any]
    ) -> RequestOutcome:
        await self._ensure_supervised(run_id)
        request_id = await self._database.write(
            add_request, run_id, action, person.author, person.client, self._clock.now(), arguments
        )
        return await self._outcome(run_id, action, request_id)

    async def _outcome(self, run_id: str, action: RequestAction, request_id: str) -> RequestOutcome:
        """Wait until the request is answered and has happened, but never longer than a chat waits for its answer."""
        changes = ChangeWatch(self._database)
        now_s = asyncio.get_running_loop().time
        started_s = now_s()
        try:
            while True:
                seen = changes.version()
                request = await self._database.read(request_by_id, request_id)
                run = await self._database.read(run_by_id, run_id)
                if request.state == "refused":
                    raise RequestRefused(request.answer, hint=_may_ask(run))
                is_pending = request.state == "pending" or _is_underway(action, run.state)
                # A pause may wait for a long step: that it is acknowledged is the answer (contract 27).
                patience_s = self._acknowledge_s if run.state == "pausing" else self._wait_s
                left_s = started_s + patience_s - now_s()
                if not is_pending or left_s <= 0:
                    phases = await self._database.read(phases_of_run, run_id)
                    return RequestOutcome(run_id, action, run.state, _said(request, run, phases), is_pending)
                await changes.wait(seen, left_s)
        finally:
            changes.close()


def _run_and_peace(connection: Connection, run_id: str) -> tuple[RunRecord, bool]:
    """The run, and whether nothing that was asked of it is still unanswered."""
    return run_by_id(connection, run_id), not pending_requests(connection, (run_id,))


def _is_underway(action: RequestAction, state: RunState) -> bool:
    """Whether what was asked has begun and is not done yet."""
    return (action, state) in (("pause", "pausing"), ("cancel", "cancelling"))


def _may_ask(run: RunRecord) -> str:
    actions = ", ".join(allowed_actions(run.state)) or "nothing any more"
    return f"Run {run.run_id} is {run.state}: {run.why}. It can be asked now: {actions}."


def _said(request: RequestRecord, run: RunRecord, phases: Sequence[PhaseRecord]) -> str:
    """What came of a request, in words; of a pause also what it waits for."""
    if request.state == "pending":
        return f"The request is written down; the supervisor has not answered yet. Run {run.run_id} is {run.state}."
    if run.state == "pausing":
        phase = current_phase(phases)
        step = f"{phase.state} of phase {phase.phase_id}" if phase is not None else "step in hand"
        return f"Run {run.run_id} pauses as soon as the {step} is done; to pause now interrupts it."
    if run.state == "cancelling":
        return f"Run {run.run_id} is being cancelled: its step is being ended and its workspace cleaned."
    return f"{request.answer} Run {run.run_id} is {run.state}: {run.why}"
