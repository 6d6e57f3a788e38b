"""The caps of a run itself and of its phases: rows that a plan makes and a person changes.

It owns ``phase_caps`` and the two caps in a run's row; it compares nothing with what was spent. The store writes those
of a new run, a request of a person changes them; the ledger reads them anew inside each reservation (``caps_of_run``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from autopack_mcp.budgets.ledger import RunFence
from autopack_mcp.database.tables import phase_caps, runs
from autopack_mcp.errors import LeaseLost
from autopack_mcp.plans.plan import PhaseSpec


@dataclass(frozen=True, slots=True)
class NewCaps:
    """The caps that a run, or one of its phases, is to have from now on: whole amounts, None where nothing changes."""

    tokens: int | None = None
    nano_usd: int | None = None
    phase_id: str | None = None


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


@dataclass(frozen=True, slots=True)
class PhaseCaps:
    """The caps of one phase as they stand, in tokens and nano-dollars; None is uncapped."""

    tokens: int | None = None
    nano_usd: int | None = None


def caps_of_phases(connection: Connection, run_id: str) -> Mapping[str, PhaseCaps]:
    """The caps of a run's phases by phase id; a phase without one may be missing."""
    columns = phase_caps.c
    found = select(columns.phase_id, columns.token_cap, columns.cost_cap_nano).where(columns.run_id == run_id)
    return {phase_id: PhaseCaps(tokens, nano) for phase_id, tokens, nano in connection.execute(found)}


def set_caps(connection: Connection, fence: RunFence, new: NewCaps, at: datetime) -> None:
    """Give a run in hand, or a phase of it, other caps; they hold for the very next reservation.

    Raises:
        LeaseLost: the fence is stale.
    """
    named = {"token_cap": new.tokens, "cost_cap_nano": new.nano_usd}
    values = {name: value for name, value in named.items() if value is not None}
    mine = (runs.c.run_id == fence.run_id, runs.c.lease_token == fence.lease_token)
    of_run: dict[str, Any] = {} if new.phase_id is not None else values
    if connection.execute(update(runs).where(*mine).values(updated_at=at, **of_run)).rowcount == 0:
        raise LeaseLost(fence.run_id)
    if new.phase_id is not None:
        _set_phase_caps(connection, fence.run_id, new.phase_id, values)


def _set_phase_caps(connection: Connection, run_id: str, phase_id: str, values: dict[str, int]) -> None:
    # The run's row, which was just updated, is locked: nobody else can write the first row of this phase meanwhile.
    here = (phase_caps.c.run_id == run_id, phase_caps.c.phase_id == phase_id)
    if connection.execute(update(phase_caps).where(*here).values(**values)).rowcount == 0:
        connection.execute(insert(phase_caps).values(run_id=run_id, phase_id=phase_id, **values))
