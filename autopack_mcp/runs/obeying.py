"""Obeys one request: the move that a person asked for and the answer to it, in one transaction.

It owns what each action means for a run as it stands, and interrupts nothing itself: it says whether the step in hand
must end. The supervisor calls it for every pending request, oldest first.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from autopack_mcp.budgets.ledger import RunFence
from autopack_mcp.errors import IllegalTransition, RequestRefused
from autopack_mcp.runs.cap_changes import answer_to
from autopack_mcp.runs.own_caps import NewCaps, set_caps
from autopack_mcp.runs.records import RunRecord
from autopack_mcp.runs.requests import ALREADY_TRUE, RequestRecord, RequestState, answer_request, event_of
from autopack_mcp.runs.states import next_run_state
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
    """What a request meant for a driver: nothing, or that its step must end now."""

    answer: str
    interrupts: bool = False


def obey(
    connection: Connection, request: RequestRecord, fence: RunFence | None, owner: str, at: datetime
) -> Obeyed | None:
    """Do what a request asks, in one transaction with its answer; None leaves it pending for the run's owner.

    A run that nobody has in hand is claimed for the moment of its move.

    Raises:
        LeaseLost: ``fence`` is stale. RunNotFound: there is no such run.
    """
    run = run_by_id(connection, request.run_id)
    if request.action == "raise_cap":
        return _change_caps(connection, request, run, fence, owner, at)
    wants_now = request.action == "pause" and bool(request.arguments.get("now"))
    if run.state in ALREADY_TRUE[request.action]:
        return _answered(connection, request, "done", Obeyed(f"It was already {run.state}.", wants_now), at)
    event = event_of(request.action, run.state)
    if next_run_state(run.state, event) is None:
        refusal = Obeyed(f"{request.action} is not possible: the run is {run.state}.")
        return _answered(connection, request, "refused", refusal, at)
    mine = fence or claim(connection, request.run_id, owner, at, RUN_LEASE_S)
    if mine is None:
        return None
    move_run(connection, mine, event, f"{request.action} asked by {request.author} through {request.client}", at)
    if event == "retry":
        _requeue_failed(connection, mine, at)
    if fence is None:
        let_go(connection, mine)
    return _answered(connection, request, "done", Obeyed("Done.", wants_now or request.action == "cancel"), at)


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
        by = f"{request.author} through {request.client}"
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


def _answered(
    connection: Connection, request: RequestRecord, state: RequestState, obeyed: Obeyed, at: datetime
) -> Obeyed:
    answer_request(connection, request.request_id, state, obeyed.answer, at)
    return obeyed


def _requeue_failed(connection: Connection, fence: RunFence, at: datetime) -> None:
    for phase in phases_of_run(connection, fence.run_id):
        if phase.state == "failed":
            move_phase(connection, fence, phase, "retry", "retried by a person", at, finished_at=None)
