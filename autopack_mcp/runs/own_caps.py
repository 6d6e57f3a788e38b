"""The caps of a run itself and of its phases: rows that a plan makes and a person changes.

It owns ``phase_caps`` and the two caps in a run's row; it compares nothing with what was spent. The store writes those
of a new run, a request of a person changes them; the ledger reads them anew inside each reservation (``caps_of_run``).
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, insert

from autopack_mcp.database.tables import phase_caps
from autopack_mcp.plans.plan import PhaseSpec


def insert_phase_caps(connection: Connection, run_id: str, phases: Sequence[PhaseSpec]) -> None:
    """Write down the caps of a new run's phases; one without a cap has no row."""
    rows = [
        {
            "run_id": run_id,
            "phase_id": phase.phase_id,
            "token_cap": phase.token_cap,
            "cost_cap_nano": phase.cost_cap_nano,
        }
        for phase in phases
        if phase.token_cap is not None or phase.cost_cap_nano is not None
    ]
    if rows:
        connection.execute(insert(phase_caps), rows)
