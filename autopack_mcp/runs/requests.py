"""What people ask of a run: rows with an author, a client and a time, answered by the supervisor alone.

Tools and the command line record an intention here and wait briefly for its answer; they never move a run themselves.
Repeating a request that is already true changes nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, insert, select, update

from autopack_mcp.database.tables import requests
from autopack_mcp.runs.states import RUN_ENDED, RunEvent, RunState, next_run_state

Action = Literal["pause", "resume", "cancel", "give_up"]  # What moves a run, or is refused because of where it stands.
PhaseAction = Literal["retry", "skip", "edit"]  # What is asked about one phase.
RequestAction = Action | PhaseAction | Literal["raise_cap"]
RequestState = Literal["pending", "done", "refused"]

# What a request already is when the run stands there: asking again answers, and changes nothing.
ALREADY_TRUE: Mapping[Action, frozenset[RunState]] = {
    "pause": frozenset({"pausing", "paused", "budget_paused"}),
    "resume": frozenset({"queued", "running"}),
    "cancel": frozenset({"cancelling", "cancelled"}),
    "give_up": frozenset({"failed"}),
}
_UNTIL_THE_END: tuple[RequestAction, ...] = ("retry", "skip", "edit", "raise_cap")
_TICK = timedelta(microseconds=1)  # The smallest step between two times that the database can tell apart.


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request. ``answer`` says in words what was done or why not, empty while it is pending."""

    request_id: str
    run_id: str
    action: RequestAction
    author: str
    client: str
    state: RequestState
    answer: str
    created_at: datetime
    arguments: Mapping[str, Any] = field(default_factory=dict)
    handled_at: datetime | None = None


def event_of(action: Action, state: RunState) -> RunEvent:
    """The run event that an action means in a state: "resume" retries a phase that needs attention."""
    return "retry" if action == "resume" and state == "needs_attention" else action


def allowed_actions(state: RunState) -> tuple[RequestAction, ...]:
    """What can be asked of a run in this state; whether one of its phases can be, is for that phase to say."""
    moves: tuple[RequestAction, ...] = tuple(
        action for action in ALREADY_TRUE if next_run_state(state, event_of(action, state)) is not None
    )
    return moves if state in RUN_ENDED or state == "cancelling" else (*moves, *_UNTIL_THE_END)


def add_request(
    connection: Connection,
    run_id: str,
    action: RequestAction,
    author: str,
    client: str,
    at: datetime,
    arguments: Mapping[str, Any] | None = None,
) -> str:
    """Write a request down, unless it repeats the newest one that is still pending; returns the id of either."""
    wanted = dict(arguments or {})
    # Only the newest: behind a "resume" another "pause" is a new wish.
    for newest in pending_requests(connection, (run_id,))[-1:]:
        if (newest.action, newest.arguments) == (action, wanted):
            return newest.request_id
        # They are obeyed in this order, whatever the clocks of two machines say.
        at = max(at, newest.created_at + _TICK)
    request_id = f"q-{secrets.token_hex(4)}"
    row = {"request_id": request_id, "run_id": run_id, "action": action, "author": author, "client": client}
    connection.execute(insert(requests).values(**row, arguments=wanted, state="pending", answer="", created_at=at))
    return request_id


def answer_request(connection: Connection, request_id: str, state: RequestState, answer: str, at: datetime) -> bool:
    """Close a request with what came of it; False when somebody has answered it already."""
    mine = update(requests).where(requests.c.request_id == request_id, requests.c.state == "pending")
    return connection.execute(mine.values(state=state, answer=answer, handled_at=at)).rowcount == 1


def request_by_id(connection: Connection, request_id: str) -> RequestRecord:
    """One request as it stands."""
    row = connection.execute(select(requests).where(requests.c.request_id == request_id)).mappings().one()
    return RequestRecord(**row)


def pending_requests(connection: Connection, run_ids: Sequence[str] | None = None) -> tuple[RequestRecord, ...]:
    """Requests that nobody has answered, oldest first; of some runs, or of all."""
    found = select(requests).where(requests.c.state == "pending").order_by(requests.c.created_at)
    if run_ids is not None:
        found = found.where(requests.c.run_id.in_(run_ids))
    return tuple(RequestRecord(**row) for row in connection.execute(found).mappings())
