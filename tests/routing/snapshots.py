"""Snapshots to choose from: the two accounts of ``tests.factories.settings``, unused and with keys unless told.

It owns how a test words the state of an account; the router's tests and its benchmark ask it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from autopack_mcp.budgets.counters import ScopeUse
from autopack_mcp.budgets.standings import CapStanding, ProviderStanding
from autopack_mcp.config.settings import Settings
from autopack_mcp.routing.model_map import current_model_map
from autopack_mcp.routing.model_router import RoutingSnapshot
from autopack_mcp.routing.overrides import Override
from autopack_mcp.usage.prices import UnitPrices
from tests.factories import NOON, settings, window_cap

ALLOWANCE = 1_000
SOFT_LIMIT = 800
# Dollars per million tokens, in and out.
PRICES = {"gpt-big": (4, 16), "gpt-small": (1, 4), "claude": (4, 16)}


def used(
    tokens: int, provider: str = "openai", *, allowance: int = ALLOWANCE, missing_key: str | None = None
) -> ProviderStanding:
    """An account with one weekly cap, of which so many tokens are used."""
    cap = window_cap(tokens=allowance, provider=provider)
    return ProviderStanding(provider, missing_key, (CapStanding(cap, ScopeUse(tokens), Decimal("0.8")),))


def keyless(provider: str = "openai") -> ProviderStanding:
    """An account nobody has a key for."""
    return ProviderStanding(provider, f"{provider.upper()}_API_KEY")


def snapshot(
    *standings: ProviderStanding,
    config: Settings | None = None,
    run_overrides: Sequence[Override] = (),
    global_overrides: Sequence[Override] = (),
    prices: Mapping[str, tuple[int, int]] = PRICES,
    **overrides: Any,
) -> RoutingSnapshot:
    """What a choice at noon depends on."""
    config = config or settings()
    units = {name: UnitPrices(Decimal(price[0]), Decimal(price[1])) for name, price in prices.items()}
    accounts = {name: ProviderStanding(name, None) for name in config.providers}
    values: dict[str, Any] = {
        "model_map": current_model_map(config, tuple(global_overrides)),
        "models": config.models,
        "standings": {**accounts, **{standing.provider: standing for standing in standings}},
        "unit_price": units.get,
        "run_overrides": tuple(run_overrides),
    }
    return RoutingSnapshot(**{"at": NOON, **values, **overrides})


def override(model: str, pattern: str = "*:*", role: str = "*", **overrides: Any) -> Override:
    """A person's choice for one run; newer than those made before it."""
    category, _, complexity = pattern.partition(":")
    values: dict[str, Any] = {"override_id": 1, "scope": "run", "author": "ada", "created_at": NOON}
    return Override(role=role, category=category, complexity=complexity, model=model, **{**values, **overrides})
