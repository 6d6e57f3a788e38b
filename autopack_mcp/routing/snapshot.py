"""Reads everything a choice of model depends on, at one moment, into a RoutingSnapshot.

One read serves the door that spends, the library's router and the tools that explain, so that what is shown is what
would be used. It chooses nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from autopack_mcp.budgets.caps import RunCaps
from autopack_mcp.budgets.standings import provider_standings
from autopack_mcp.config import ProviderSettings, Settings
from autopack_mcp.routing.model_map import ModelMap, current_model_map
from autopack_mcp.routing.model_router import RoutingSnapshot, UnitPrice
from autopack_mcp.routing.overrides import Override, overrides_in_force


@dataclass(frozen=True, slots=True)
class RunRules:
    """What a run of the database adds to a choice: its pinned map, its own overrides, its caps, and whether it is real."""

    run_id: str
    model_map: ModelMap
    overrides: tuple[Override, ...]
    caps: RunCaps
    is_rehearsal: bool


def read_snapshot(
    connection: Connection,
    settings: Settings,
    at: datetime,
    has_key: Callable[[ProviderSettings], bool],
    unit_price: Callable[[str], UnitPrice | None],
    rules: RunRules | None = None,
) -> RoutingSnapshot:
    """The snapshot for a run, or for a call outside any run when ``rules`` is None.

    A rehearsal buys nothing, so it needs no key; its caps are the run's shadow scopes (contract 17).
    """
    is_rehearsal = rules is not None and rules.is_rehearsal
    standings = provider_standings(
        connection,
        settings,
        at,
        (lambda provider: True) if is_rehearsal else has_key,
        purpose="rehearsal" if is_rehearsal else "run",
        run_id=rules.run_id if rules else None,
    )
    model_map = rules.model_map if rules else current_model_map(settings, overrides_in_force(connection, None, at))
    overrides = rules.overrides if rules else ()
    return RoutingSnapshot(at, model_map, settings.models, standings, unit_price, overrides)
