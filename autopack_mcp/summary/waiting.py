"""Who may advance a run, and why one that nobody has in hand yet still waits.

It owns the words and reads the queue as the supervisors do (``runs.queue``), so that both agree; it writes nothing. The
summary of a run is its caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection

from autopack_mcp.config.settings import RunSettings
from autopack_mcp.runs.queue import STOPPING, Turn, line_at, reach_of_run, runs_in_hand, turns
from autopack_mcp.runs.records import RunRecord
from autopack_mcp.runs.states import RUN_ACTIVE
from autopack_mcp.runs.supervision import SupervisorRecord

Limits = Callable[[], RunSettings]


def advancers(run: RunRecord, known: Sequence[SupervisorRecord], now: datetime) -> tuple[SupervisorRecord, ...]:
    """Those of the supervisors that may take a run up, in the order given; a URL is a serve's only without workers."""
    reach = reach_of_run(run)
    if reach.kind == "worker":
        workers = tuple(one for one in known if one.kind == "worker" and one.is_alive(now))
        return workers or tuple(one for one in known if one.kind == "serve")
    return tuple(one for one in known if one.kind == "serve" and run.machine in (None, one.machine))


def why_it_waits(
    connection: Connection, run: RunRecord, alive: Sequence[SupervisorRecord], limits: Limits, now: datetime
) -> str | None:
    """Why a run is not advanced although somebody could, and its place; None when it is its turn or in hand."""
    is_held = run.lease_owner is not None and run.lease_expires_at is not None and run.lease_expires_at >= now
    if run.state not in RUN_ACTIVE or run.state in STOPPING or is_held or not alive:
        return None
    reach, own = reach_of_run(run), limits()
    if alive[0].kind == "serve":
        reach = replace(reach, kind="serve", machine=alive[0].machine)
    line, in_hand = line_at(connection, reach, now), runs_in_hand(connection, reach, now)
    if reach.kind == "worker":
        own = replace(own, at_once=len(in_hand) + len(line.waiting) + 1, per_repository=own.per_repository * len(alive))
    found = turns(line, in_hand, own)
    mine = next((turn for turn in found if turn.run.run_id == run.run_id), None)
    if mine is None or (reach.kind == "serve" and not mine.why):
        return None
    if mine.why:
        return f"waits, number {mine.place} in line: {mine.why}"
    return f"waits, number {_place(mine, found)} in line: for a free one of {_workers(len(alive))}"


def _place(mine: Turn, found: Sequence[Turn]) -> int:
    return 1 + [turn for turn in found if turn.run.state not in STOPPING].index(mine)


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
