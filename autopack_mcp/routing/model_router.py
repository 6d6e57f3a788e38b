"""Chooses the model for a question and says why: one pure function for choosing and for showing.

It owns the precedence of rules (contract 10 to 13) over a snapshot in memory. It spends nothing and reserves nothing; a
choice may still be denied by the ledger, which alone knows the caps to the token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from autopack_mcp.budgets.standings import ProviderStanding
from autopack_mcp.config import ModelSettings
from autopack_mcp.errors import NoRoute
from autopack_mcp.routing.model_map import ModelMap
from autopack_mcp.routing.overrides import Override, overrides_of_context, winning_override

Rule = Literal["run override", "global override", "category", "high risk default", "agent", "complexity", "fallback"]


@dataclass(frozen=True, slots=True)
class UnitPrice:
    """Nano-dollars per million tokens, for comparing two models."""

    input_nano: int
    output_nano: int

    def is_dearer_than(self, other: UnitPrice) -> bool:
        """True when either direction costs more: then some mix of tokens would."""
        return self.input_nano > other.input_nano or self.output_nano > other.output_nano


@dataclass(frozen=True, slots=True)
class RoutingSnapshot:
    """Everything a choice depends on, read at one moment.

    ``unit_price`` answers None for a model whose price is unknown; it is a function because the price list is only
    loaded when a soft limit makes somebody ask. ``denied_models`` are fallbacks whose reservation was just denied.
    """

    at: datetime
    model_map: ModelMap
    models: Mapping[str, ModelSettings]
    standings: Mapping[str, ProviderStanding]
    unit_price: Callable[[str], UnitPrice | None] = lambda model: None
    run_overrides: tuple[Override, ...] = ()
    denied_models: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RouteDecision:
    """The chosen model, the rule that chose it and the reasons in words, in the order they were weighed.

    ``blocked_by`` says why a call would fail right now (no key, nothing left), None when it may be tried.
    ``replaces`` is the model a soft limit took out of the way.
    """

    model: str
    provider: str
    reasons: tuple[str, ...]
    rule: Rule
    blocked_by: str | None = None
    replaces: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One model a person could choose now, and the state of its provider in words."""

    model: str
    provider: str
    state: str


class ModelRouter:
    """Answers from the snapshot that ``snapshot`` gives for a run context (a run's id and overrides)."""

    def __init__(self, snapshot: Callable[[Mapping[str, Any]], RoutingSnapshot]) -> None:
        self._snapshot = snapshot

    def select_model(
        self,
        role: str,
        task_category: str = "general",
        complexity: str = "medium",
        run_context: Mapping[str, Any] | None = None,
    ) -> RouteDecision:
        """The model for a role ("builder", "auditor", "agent:<name>"), a category and a complexity.

        Args:
            run_context: optional ``run_id`` of a run in the database, and ``model_overrides`` as
                ``{"builder": {"core_backend:medium": "gpt-4o"}}``, which win over everything else.

        Raises:
            NoRoute: no rule names a model for this question, or a rule names one that is not in the catalog.
        """
        context = run_context or {}
        return choose(self._snapshot(context), role, task_category, complexity, context)


def choose(
    snapshot: RoutingSnapshot, role: str, category: str, complexity: str, run_context: Mapping[str, Any] | None = None
) -> RouteDecision:
    """See ``ModelRouter.select_model``; the same answer for the same snapshot, always."""
    in_context = overrides_of_context((run_context or {}).get("model_overrides", {}))
    snapshot = replace(snapshot, run_overrides=snapshot.run_overrides + in_context)
    model, rule, reason = _first_rule(snapshot, role, category, complexity)
    if model not in snapshot.models:
        raise NoRoute(role, category, complexity, f"the {rule} rule names {model!r}, which is not in the catalog.")
    decision = RouteDecision(model, snapshot.models[model].provider, (reason,), rule)
    return _with_quota(snapshot, decision, category)


def allowed_choices(snapshot: RoutingSnapshot) -> tuple[Choice, ...]:
    """Every model of the catalog whose provider has a key, with its state (contract 13)."""
    return tuple(
        Choice(model.name, model.provider, _state(snapshot.standings[model.provider]))
        for model in snapshot.models.values()
        if snapshot.standings[model.provider].missing_key_variable is None
    )


def _first_rule(snapshot: RoutingSnapshot, role: str, category: str, complexity: str) -> tuple[str, Rule, str]:
    """The highest rule that names a model: (model, rule, reason in words)."""
    scopes: tuple[tuple[Rule, tuple[Override, ...]], ...] = (
        ("run override", snapshot.run_overrides),
        ("global override", snapshot.model_map.global_overrides),
    )
    for rule, candidates in scopes:
        override = winning_override(candidates, role, category, complexity, snapshot.at)
        if override is not None:
            return override.model, rule, f"{rule} {override.role} {override.pattern} by {override.author}"
    return _baseline(snapshot.model_map, role, category, complexity)


def _baseline(model_map: ModelMap, role: str, category: str, complexity: str) -> tuple[str, Rule, str]:
    if role.startswith("agent:"):
        return _agent_baseline(model_map, role, category, complexity)
    column: Literal["builder", "auditor"] = "auditor" if role == "auditor" else "builder"
    if role not in ("builder", "auditor"):
        raise NoRoute(role, category, complexity, "the role is not builder, auditor or agent:<name>.")
    named = model_map.category_models.get(category)
    model = getattr(named, column) if named else None
    if model is not None:
        return model, "category", f"category {category} uses {model} as {role}"
    high_risk = getattr(model_map.high_risk, column)
    if category in model_map.quota_routing.never_fallback_categories and high_risk is not None:
        return high_risk, "high risk default", f"category {category} is high risk and names no {role} of its own"
    by_complexity = model_map.complexity_models.get(complexity)
    model = getattr(by_complexity, column) if by_complexity else None
    if model is None:
        raise NoRoute(role, category, complexity, f"complexity_models.{complexity} names no {role}.")
    return model, "complexity", f"complexity {complexity} uses {model} as {role}"


def _agent_baseline(model_map: ModelMap, role: str, category: str, complexity: str) -> tuple[str, Rule, str]:
    name = role.removeprefix("agent:")
    if name in model_map.agent_models:
        return model_map.agent_models[name], "agent", f"agent_models names {name}"
    medium = model_map.complexity_models.get("medium")
    if medium is None or medium.auditor is None:
        raise NoRoute(role, category, complexity, f"agent_models has no {name!r} and there is no medium auditor.")
    return medium.auditor, "agent", f"agent_models has no {name}: the medium auditor answers"


def _with_quota(snapshot: RoutingSnapshot, decision: RouteDecision, category: str) -> RouteDecision:
    """The decision after keys and caps of its own provider had their say."""
    standing = snapshot.standings[decision.provider]
    soft = standing.soft_cap
    if soft is not None and snapshot.model_map.quota_routing.enabled:
        decision = _past_soft_limit(snapshot, decision, category, _soft_reason(standing))
        standing = snapshot.standings[decision.provider]
    return replace(decision, blocked_by=decision.blocked_by or _block(standing))


def _past_soft_limit(
    snapshot: RoutingSnapshot, decision: RouteDecision, category: str, soft_reason: str
) -> RouteDecision:
    quota = snapshot.model_map.quota_routing
    if decision.rule in ("run override", "global override"):
        return _adding(decision, f"{soft_reason}; a person chose this model, so it stays until the hard cap")
    if category in quota.never_fallback_categories:
        kept = _adding(decision, f"{soft_reason}; category {category} never falls back")
        return replace(kept, blocked_by=kept.reasons[-1]) if quota.critical_on_soft_limit == "fail" else kept
    return _first_fallback(snapshot, _adding(decision, soft_reason), category)


def _first_fallback(snapshot: RoutingSnapshot, decision: RouteDecision, category: str) -> RouteDecision:
    for name in snapshot.model_map.fallback_strategy.chain(category):
        if name == decision.model:
            continue
        objection = _objection(snapshot, name, decision.model)
        if objection is None:
            provider = snapshot.models[name].provider
            reasons = (*decision.reasons, f"{name} takes over from {decision.model}")
            return RouteDecision(name, provider, reasons, "fallback", replaces=decision.model)
        decision = _adding(decision, f"not {name}: {objection}")
    return _adding(decision, f"no fallback is left, so {decision.model} stays until the hard cap")


def _objection(snapshot: RoutingSnapshot, candidate: str, original: str) -> str | None:
    """Why a candidate may not replace the original: each is weighed against its own provider (contract 12)."""
    model = snapshot.models.get(candidate)
    if model is None:
        return "it is not in the catalog"
    if candidate in snapshot.denied_models:
        return "its own cap denied the call"
    standing = snapshot.standings[model.provider]
    if standing.missing_key_variable is not None:
        return f"{standing.missing_key_variable} is not set"
    if standing.soft_cap is not None:
        return _soft_reason(standing)
    price, original_price = snapshot.unit_price(candidate), snapshot.unit_price(original)
    if price is None or original_price is None:
        return f"the price of {candidate if price is None else original} is unknown, so it may be dearer"
    return f"it is dearer than {original}" if price.is_dearer_than(original_price) else None


def _adding(decision: RouteDecision, reason: str) -> RouteDecision:
    return replace(decision, reasons=(*decision.reasons, reason))


def _soft_reason(standing: ProviderStanding) -> str:
    soft = standing.soft_cap
    assert soft is not None, "only asked when a soft limit is reached"
    return f"{soft.cap.label} is {soft.used_fraction:.0%} used (soft limit {soft.soft_limit_ratio:.0%})"


def _block(standing: ProviderStanding) -> str | None:
    if standing.missing_key_variable is not None:
        return f"no API key: {standing.missing_key_variable} is not set"
    exhausted = standing.exhausted_cap
    return f"{exhausted.cap.label} is used up ({exhausted.used_fraction:.0%})" if exhausted else None


def _state(standing: ProviderStanding) -> str:
    if standing.exhausted_cap is not None:
        return "cap reached"
    return "over its soft limit" if standing.soft_cap is not None else "ok"
