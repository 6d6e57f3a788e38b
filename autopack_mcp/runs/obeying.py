"""Obeys one request: the move that a person asked for and the answer to it, in one transaction.

It owns what each action means for a run as it stands, and interrupts nothing itself: it says whether the step in hand
must end. The supervisor calls it for every pending request, oldest first.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from autopack_mcp.budgets.ledger import RunFence
from autopack_mcp.errors import IllegalTransition, LeaseLost, RequestRefused
from autopack_mcp.plans.plan import plan_to_json
from autopack_mcp.runs.cap_changes import answer_to
from autopack_mcp.runs.outcomes import drop_attempt, give_up_run
from autopack_mcp.runs.own_caps import NewCaps, set_caps
from autopack_mcp.runs.phase_wishes import PhaseAnswer, PhaseWish, answer_to_wish, wish_from_json
from autopack_mcp.runs.records import RunRecord
from autopack_mcp.runs.requests import (
    ALREADY_TRUE,
    Action,
    RequestRecord,
    RequestState,
    answer_request,
    event_of,
    request_by_id,
)
from autopack_mcp.runs.states import PHASE_ACTIVE, next_run_state
from autopack_mcp.runs.store import (
    RUN_LEASE_S,
    claim,
    let_go,
    move_phase,
    move_run,
    phases_of_run,
    record_event,
    run_by_id,
    set_run,
)


@dataclass(frozen=True, slots=True)
class Obeyed:
    """What a request meant for a driver: nothing, or that its step must end now; with a phase, only a step of that."""

    answer: str
    interrupts: bool = False
    phase_id: str | None = None


def obey(
    connection: Connection, request: RequestRecord, fence: RunFence | None, owner: str, at: datetime
) -> Obeyed | None:
    """Do what a request asks, in one transaction with its answer; None leaves it to the run's owner.

    A run that nobody has in hand is claimed for the moment of its move.

    Raises:
        LeaseLost: ``fence`` is stale, or another process was faster. RunNotFound: there is no such run.
    """
    if request_by_id(connection, request.request_id).state != "pending":
        # Another process has answered it since it was listed; after what was asked since then it would be wrong.
        return None
    run = run_by_id(connection, request.run_id)
    match request.action:
        case "raise_cap":
            return _change_caps(connection, request, run, fence, owner, at)
        case "retry" | "skip" | "edit":
            return _steer_phase(connection, request, wish_from_json(request), run, fence, owner, at)
        case action:
            return _move(connection, request, action, run, fence, owner, at)


def _move(
    connection: Connection,
    request: RequestRecord,
    action: Action,
    run: RunRecord,
    fence: RunFence | None,
    owner: str,
    at: datetime,
) -> Obeyed | None:
    """Pause a run, let it go on, end it."""
    wants_now = action == "pause" and bool(request.arguments.get("now"))
    if run.state in ALREADY_TRUE[action]:
        return _answered(connection, request, "done", Obeyed(f"It was already {run.state}.", wants_now), at)
    event = event_of(action, run.state)
    if next_run_state(run.state, event) is None:
        refusal = Obeyed(f"{action} is not possible: the run is {run.state}.")
        return _answered(connection, request, "refused", refusal, at)
    mine = fence or claim(connection, run.run_id, owner, at, RUN_LEASE_S)
    if mine is None:
        return None
    why = f"{action} asked by {_who(request)}"
    if event == "give_up":
        give_up_run(connection, mine, why, at)
    else:
        move_run(connection, mine, event, why, at)
    if event == "retry":
        _requeue_failed(connection, mine, at)
    if fence is None:
        let_go(connection, mine)
    return _answered(connection, request, "done", Obeyed("Done.", wants_now or action == "cancel"), at)


def _change_caps(
    connection: Connection, request: RequestRecord, run: RunRecord, fence: RunFence | None, owner: str, at: datetime
) -> Obeyed | None:
    """Give a run other caps, and let it go on when it was one of them that had stopped it."""
    new = NewCaps(**request.arguments)
    try:
        answer = answer_to(connection, run, new, at)
    except (RequestRefused, IllegalTransition) as error:
        return _answered(connection, request, "refused", Obeyed(str(error)), at)
    if answer.changes:
        mine = fence or claim(connection, run.run_id, owner, at, RUN_LEASE_S)
        if mine is None:
            return None
        by = _who(request)
        set_caps(connection, mine, new, at)
        for change in answer.changes:
            record_event(connection, run.run_id, at, "cap", f"{by} changed {change.event}", new.phase_id)
        if answer.why is not None:
            set_run(connection, mine, at, why=answer.why)
        if answer.resumes:
            move_run(connection, mine, "resume", f"{by} raised the cap that had stopped it", at)
        if fence is None:
            let_go(connection, mine)
    return _answered(connection, request, "done", Obeyed(answer.words), at)


def _steer_phase(
    connection: Connection,
    request: RequestRecord,
    wish: PhaseWish,
    run: RunRecord,
    fence: RunFence | None,
    owner: str,
    at: datetime,
) -> Obeyed | None:
    """Try a phase anew, skip or edit it, and let the run go on when it was this phase that it stopped for."""
    try:
        answer = answer_to_wish(connection, run, wish)
    except (RequestRefused, IllegalTransition) as error:
        return _answered(connection, request, "refused", Obeyed(str(error)), at)
    if answer.is_change:
        mine = fence or claim(connection, run.run_id, owner, at, RUN_LEASE_S)
        if mine is None:
            return None
        _carry_out(connection, mine, run, answer, wish.why(_who(request)), at)
        if fence is None:
            let_go(connection, mine)
    return _answered(connection, request, "done", Obeyed(answer.words, answer.interrupts, answer.phase.phase_id), at)


def _carry_out(
    connection: Connection, fence: RunFence, run: RunRecord, answer: PhaseAnswer, why: str, at: datetime
) -> None:
    phase = answer.phase
    if answer.plan is not None:
        set_run(connection, fence, at, plan_json=plan_to_json(answer.plan), plan_edits=run.plan_edits + 1)
        for change in answer.edits:
            record_event(connection, run.run_id, at, "edit", f"{why}: {change.event}", phase.phase_id)
    if answer.phase_event is not None:
        if phase.state in PHASE_ACTIVE:
            drop_attempt(connection, fence, phase, why, at)
        ended_at = at if answer.phase_event == "skip" else None
        facts = {"finished_at": ended_at, "is_verified": None, "minor_issues": 0}
        move_phase(connection, fence, phase, answer.phase_event, why, at, **facts)
    if answer.run_event is not None:
        move_run(connection, fence, answer.run_event, why, at)


def _answered(
    connection: Connection, request: RequestRecord, state: RequestState, obeyed: Obeyed, at: datetime
) -> Obeyed:
    if not answer_request(connection, request.request_id, state, obeyed.answer, at):
        # Answered in this very moment by another process: all that was done here for it is undone.
        raise LeaseLost(request.run_id)
    return obeyed


def _who(request: RequestRecord) -> str:
    return f"{request.author} through {request.client}"


def _requeue_failed(connection: Connection, fence: RunFence, at: datetime) -> None:
    for phase in phases_of_run(connection, fence.run_id):
        if phase.state == "failed":
            move_phase(connection, fence, phase, "retry", "retried by a person", at, finished_at=None)
