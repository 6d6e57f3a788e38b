"""Chooses the model for a question and says why: one pure function for choosing and for showing.

It owns what quota does to a choice (contract 11 to 13), over a snapshot in memory; ``precedence`` says which rule names
the model first. It spends nothing and reserves nothing; a choice may still be denied by the ledger, which alone knows
the caps to the token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from autopack_mcp.budgets.standings import CapStanding, ProviderStanding
from autopack_mcp.config.settings import ModelSettings, family_model
from autopack_mcp.errors import NoRoute
from autopack_mcp.routing.model_map import ModelMap
from autopack_mcp.routing.overrides import Override, overrides_of_context
from autopack_mcp.routing.precedence import CORE_ROLES, Rule, first_named
from autopack_mcp.usage.prices import UnitPrices

_AGENT = re.compile(r"agent:.+")


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
    unit_price: Callable[[str], UnitPrices | None] = lambda model: None
    run_overrides: tuple[Override, ...] = ()
    denied_models: frozenset[str] = frozenset()

    def find_model(self, name: str) -> ModelSettings | None:
        """A model of the catalog or of a known family; None when it is neither, or its provider is not configured."""
        return self.models.get(name) or family_model(name, self.standings)


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


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model of a fallback chain; without an ``objection`` it may take over. No provider: it is in no catalog."""

    model: str
    provider: str | None
    objection: str | None


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
            OverrideRefused: ``model_overrides`` has another shape.
        """
        context = run_context or {}
        return choose(self._snapshot(context), role, task_category, complexity, context)


def choose(
    snapshot: RoutingSnapshot, role: str, category: str, complexity: str, run_context: Mapping[str, Any] | None = None
) -> RouteDecision:
    """See ``ModelRouter.select_model``; the same answer for the same snapshot, always."""
    if role not in CORE_ROLES and not _AGENT.fullmatch(role):
        raise NoRoute(role, category, complexity, "the role is not builder, auditor or agent:<name>.")
    if run_context and (brought := overrides_of_context(run_context)):
        snapshot = replace(snapshot, run_overrides=snapshot.run_overrides + brought)
    model, rule, reason = first_named(snapshot, role, category, complexity)
    found = snapshot.find_model(model)
    if found is None:
        raise NoRoute(role, category, complexity, f"the {rule} rule names {model!r}, which is not in the catalog.")
    standing = snapshot.standings[found.provider]
    decision = RouteDecision(model, found.provider, (reason,), rule, _block(standing))
    if standing.soft_cap is None or not snapshot.model_map.quota_routing.enabled:
        return decision
    return _past_soft_limit(snapshot, _adding(decision, _soft_reason(standing.soft_cap)), category)


def candidates(snapshot: RoutingSnapshot, category: str, original: str) -> Iterator[Candidate]:
    """The chain of a category as ``choose`` goes down it; the first without an objection takes over."""
    for name in snapshot.model_map.fallback_strategy.chain(category):
        if name != original:
            found = snapshot.find_model(name)
            yield Candidate(name, None if found is None else found.provider, _objection(snapshot, found, original))


def allowed_choices(snapshot: RoutingSnapshot) -> tuple[Choice, ...]:
    """Every model of the catalog whose provider has a key, with its state (contract 13)."""
    return tuple(
        Choice(model.name, model.provider, _state(snapshot.standings[model.provider]))
        for model in snapshot.models.values()
        if snapshot.standings[model.provider].missing_key_variable is None
    )


def _past_soft_limit(snapshot: RoutingSnapshot, decision: RouteDecision, category: str) -> RouteDecision:
    quota = snapshot.model_map.quota_routing
    if decision.rule in ("run override", "global override"):
        return _adding(decision, "a person chose this model, so it stays until the hard cap")
    if category in quota.never_fallback_categories:
        return _without_fallback(decision, category, stops=quota.critical_on_soft_limit == "fail")
    return _first_fallback(snapshot, decision, category)


def _without_fallback(decision: RouteDecision, category: str, *, stops: bool) -> RouteDecision:
    why = f"category {category} never falls back"
    if not stops:
        return _adding(decision, f"{why}, so {decision.model} stays until the hard cap")
    kept = _adding(decision, f"{why} and stops at the soft limit (critical_on_soft_limit: fail)")
    return kept if kept.blocked_by else replace(kept, blocked_by="; ".join(kept.reasons[-2:]))


def _first_fallback(snapshot: RoutingSnapshot, decision: RouteDecision, category: str) -> RouteDecision:
    original = decision.model
    for candidate in candidates(snapshot, category, original):
        name = candidate.model
        if candidate.objection is None:
            assert candidate.provider is not None, "a model that is not in the catalog is objected to"
            reasons = (*decision.reasons, f"{name} takes over from {original}")
            return RouteDecision(name, candidate.provider, reasons, "fallback", replaces=original)
        decision = _adding(decision, f"not {name}: {candidate.objection}")
    return _adding(decision, f"no fallback is left, so {original} stays until the hard cap")


def _objection(snapshot: RoutingSnapshot, model: ModelSettings | None, original: str) -> str | None:
    """Why a candidate may not replace the original: each is weighed against its own provider (contract 12)."""
    if model is None:
        return "it is not in the catalog"
    candidate = model.name
    if candidate in snapshot.denied_models:
        return "its own cap denied the call"
    standing = snapshot.standings[model.provider]
    if standing.missing_key_variable is not None:
        return f"{standing.missing_key_variable} is not set"
    if standing.soft_cap is not None:
        return _soft_reason(standing.soft_cap)
    price, original_price = snapshot.unit_price(candidate), snapshot.unit_price(original)
    if price is None or original_price is None:
        return f"the price of {candidate if price is None else original} is unknown, so it may be dearer"
    return f"it is dearer than {original}" if _is_dearer(price, original_price) else None


def _is_dearer(price: UnitPrices, than: UnitPrices) -> bool:
    # Either direction suffices: then some mix of tokens would cost more.
    return price.input_usd > than.input_usd or price.output_usd > than.output_usd


def _adding(decision: RouteDecision, reason: str) -> RouteDecision:
    return replace(decision, reasons=(*decision.reasons, reason))


def _soft_reason(soft: CapStanding) -> str:
    return f"{soft.cap.label} is {soft.used_fraction:.0%} used (soft limit {soft.soft_limit_ratio:.0%})"


def _block(standing: ProviderStanding) -> str | None:
    if standing.missing_key_variable is not None:
        return f"no API key: {standing.missing_key_variable} is not set"
    return standing.exhausted_cap.used_up if standing.exhausted_cap is not None else None


def _state(standing: ProviderStanding) -> str:
    if standing.exhausted_cap is not None:
        return "cap reached"
    return "over its soft limit" if standing.soft_cap is not None else "ok"
