"""What a standing order that fired does to its run: the move, and the mark that it was made, in one transaction.

The ledger writes a firing when it denies a call (contract 18) and moves no run. The driver looks for firings before
each step, the supervisor for those of runs that nobody has in hand; a crash in between leaves them to the next one.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from autopack_mcp.budgets.ledger import RunFence
from autopack_mcp.budgets.standing_orders import Firing, mark_handled, unhandled_firings
from autopack_mcp.runs.progress import is_over
from autopack_mcp.runs.records import RunRecord
from autopack_mcp.runs.states import RUN_ENDED, RunEvent, next_run_state
from autopack_mcp.runs.stops import facts_of_order
from autopack_mcp.runs.store import claim, let_go, move_run, phases_of_run, run_by_id, set_run

PAUSED = "the run was paused"
CANCELLED = "the run was cancelled"
NOTHING_LEFT = "nothing was left to be done"


def run_and_firings(connection: Connection, run_id: str) -> tuple[RunRecord, tuple[Firing, ...]]:
    """A run as it stands, and the firings about it that nobody has acted on, oldest first.

    Raises:
        RunNotFound: there is no such run.
    """
    return run_by_id(connection, run_id), unhandled_firings(connection, run_id)


def heed_firings(connection: Connection, fence: RunFence, at: datetime) -> None:
    """Act on every firing about a run in hand, oldest first; one that comes too late is marked with what it found.

    Raises:
        LeaseLost: the fence is stale; nothing was written.
    """
    for firing in unhandled_firings(connection, fence.run_id):
        mark_handled(connection, firing.firing_id, _heed(connection, fence, firing, at), at)


def heed_unattended(connection: Connection, run_id: str, owner: str, at: datetime, lease_s: float) -> None:
    """The same for a run that nobody has in hand: it is claimed for that moment. Its owner, if there is one, does it.

    Raises:
        RunNotFound: there is no such run.
    """
    if run_by_id(connection, run_id).state in RUN_ENDED:
        for firing in unhandled_firings(connection, run_id):
            mark_handled(connection, firing.firing_id, "the run had ended already", at)
        return
    mine = claim(connection, run_id, owner, at, lease_s)
    if mine is not None:
        heed_firings(connection, mine, at)
        let_go(connection, mine)


def _heed(connection: Connection, fence: RunFence, firing: Firing, at: datetime) -> str:
    """Move the run as one firing wants, and say what came of it."""
    run = run_by_id(connection, fence.run_id)
    event: RunEvent = "cancel" if firing.action == "cancel" else "order_fired"
    if next_run_state(run.state, event) is None:
        return f"it was already {run.state}"
    if is_over(phases_of_run(connection, fence.run_id)):
        return NOTHING_LEFT
    move_run(connection, fence, event, firing.why, at)
    set_run(connection, fence, at, stopped_by=facts_of_order(firing.order_id, run.stopped_by))
    return CANCELLED if event == "cancel" else PAUSED
