"""What a run adds to a choice of model: the map it pinned, its own overrides, its caps, and whether it is real.

It reads and decides nothing; the door that spends and the summaries that explain ask it, so that both see one truth.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from autopack_mcp.budgets.call_rules import caps_of_run
from autopack_mcp.budgets.caps import RunCaps
from autopack_mcp.errors import RunNotFound
from autopack_mcp.routing.model_map import model_map_from_json
from autopack_mcp.routing.overrides import overrides_in_force
from autopack_mcp.routing.snapshot import RunRules
from autopack_mcp.runs.store import chosen_at, model_map_of_run, run_by_id


def run_rules(
    connection: Connection, run_id: str, now: datetime, phase_id: str | None = None, attempt: int | None = None
) -> RunRules | None:
    """The rules of a run of the database at a moment; None for an id that is only a library caller's label.

    For an attempt at a phase, the overrides are those of the moment that ``chosen_at`` names. ``phase_id`` also says
    whose own caps stand beside the run's.
    """
    try:
        run = run_by_id(connection, run_id)
    except RunNotFound:
        return None
    return RunRules(
        run_id=run_id,
        model_map=model_map_from_json(model_map_of_run(connection, run_id)),
        overrides=overrides_in_force(connection, run_id, chosen_at(connection, run_id, phase_id, attempt) or now),
        caps=caps_of_run(connection, run_id, phase_id) or RunCaps(),
        is_rehearsal=run.is_rehearsal,
    )
