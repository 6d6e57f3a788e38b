"""The rules that a run keeps for life: baseline, chains and global overrides as they stood at its start (contract 9).

Pure data with a JSON form. Caps, keys and prices are not in it, because those apply to running runs at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from autopack_mcp.clock import from_us, to_us
from autopack_mcp.config.settings import FallbackStrategy, QuotaRouting, RoleModels, Settings
from autopack_mcp.routing.overrides import Override


@dataclass(frozen=True, slots=True)
class ModelMap:
    """Everything that chooses a model, but for per-run overrides and the state of providers."""

    complexity_models: Mapping[str, RoleModels]
    category_models: Mapping[str, RoleModels]
    agent_models: Mapping[str, str]
    high_risk: RoleModels
    fallback_strategy: FallbackStrategy
    quota_routing: QuotaRouting
    global_overrides: tuple[Override, ...] = ()


def current_model_map(settings: Settings, global_overrides: tuple[Override, ...]) -> ModelMap:
    """The map that a run starting now would pin."""
    return ModelMap(
        settings.complexity_models,
        settings.category_models,
        settings.agent_models,
        settings.high_risk,
        settings.fallback_strategy,
        settings.quota_routing,
        global_overrides,
    )


def model_map_to_json(model_map: ModelMap) -> dict[str, Any]:
    """A JSON value from which ``model_map_from_json`` makes an equal map."""
    return {
        "complexity_models": _pairs_to_json(model_map.complexity_models),
        "category_models": _pairs_to_json(model_map.category_models),
        "agent_models": dict(model_map.agent_models),
        "high_risk": asdict(model_map.high_risk),
        "fallback_default": list(model_map.fallback_strategy.default),
        "fallback_by_category": {k: list(v) for k, v in model_map.fallback_strategy.by_category.items()},
        "quota_enabled": model_map.quota_routing.enabled,
        "never_fallback": sorted(model_map.quota_routing.never_fallback_categories),
        "critical_on_soft_limit": model_map.quota_routing.critical_on_soft_limit,
        "global_overrides": [_override_to_json(override) for override in model_map.global_overrides],
    }


def model_map_from_json(data: Mapping[str, Any]) -> ModelMap:
    """The map that ``model_map_to_json`` wrote."""
    return ModelMap(
        _pairs_from_json(data["complexity_models"]),
        _pairs_from_json(data["category_models"]),
        data["agent_models"],
        RoleModels(**data["high_risk"]),
        FallbackStrategy(
            tuple(data["fallback_default"]), {k: tuple(v) for k, v in data["fallback_by_category"].items()}
        ),
        QuotaRouting(data["quota_enabled"], frozenset(data["never_fallback"]), data["critical_on_soft_limit"]),
        tuple(_override_from_json(override) for override in data["global_overrides"]),
    )


def _pairs_to_json(pairs: Mapping[str, RoleModels]) -> dict[str, dict[str, str | None]]:
    return {name: asdict(pair) for name, pair in pairs.items()}


def _pairs_from_json(data: Mapping[str, Mapping[str, str | None]]) -> dict[str, RoleModels]:
    return {name: RoleModels(**pair) for name, pair in data.items()}


def _override_to_json(override: Override) -> dict[str, Any]:
    row = asdict(override)
    return {key: to_us(value) if isinstance(value, datetime) else value for key, value in row.items()}


def _override_from_json(data: Mapping[str, Any]) -> Override:
    times = {key: None if data[key] is None else from_us(data[key]) for key in ("created_at", "expires_at")}
    return Override(**{**data, **times})
