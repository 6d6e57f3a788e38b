"""Which rule names the model for a question: run override, global override, category, high risk, agent, complexity.

It owns the order of the rules (contract 10) and what each says, also why it says nothing; ``model_router`` asks for the
first that speaks, and for all of them when a person wants to know why. It knows no provider, no cap and no price.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from autopack_mcp.config.settings import RoleModels
from autopack_mcp.errors import NoRoute
from autopack_mcp.routing.model_map import ModelMap
from autopack_mcp.routing.overrides import Override, speaking_overrides, winning_override, wins_by

Rule = Literal["run override", "global override", "category", "high risk default", "agent", "complexity", "fallback"]

CORE_ROLES = ("builder", "auditor")


class RuleBook(Protocol):
    """What the rules are read from: the map, the overrides of the run, and the moment (overrides expire)."""

    @property
    def at(self) -> datetime:
        """The moment of the question."""
        ...

    @property
    def model_map(self) -> ModelMap:
        """Baseline, chains and global overrides."""
        ...

    @property
    def run_overrides(self) -> tuple[Override, ...]:
        """Those of the run alone; none outside a run."""
        ...


@dataclass(frozen=True, slots=True)
class TriedRule:
    """One rule as it stands to a question. ``model`` is what it names, None when it is silent.

    Only one rule decides: the highest that names a model. A lower one that would name one, too, is overruled.
    """

    rule: Rule
    outcome: Literal["decided", "silent", "overruled"]
    model: str | None
    why: str


def first_named(book: RuleBook, role: str, category: str, complexity: str) -> tuple[str, Rule, str]:
    """What the highest rule that names a model says: (model, rule, reason in words).

    Raises:
        NoRoute: every rule is silent.
    """
    for rule, name in _NAMES_FOR_CORE if role in CORE_ROLES else _NAMES_FOR_AGENTS:
        found = name(book, role, category, complexity)
        if found is not None:
            return found[0], rule, found[1]
    why = _steps(role)[-1].why_silent(book, role, category, complexity)
    raise NoRoute(role, category, complexity, f"{why}.")


def rules_tried(book: RuleBook, role: str, category: str, complexity: str) -> tuple[TriedRule, ...]:
    """Every rule that a choice goes through, highest first: which one decides, and why each other does not."""
    told: list[TriedRule] = []
    is_decided = False
    for step in _steps(role):
        found = step.name(book, role, category, complexity)
        if found is None:
            told.append(TriedRule(step.rule, "silent", None, step.why_silent(book, role, category, complexity)))
        elif is_decided:
            why = f"would name {found[0]}, but a higher rule decides"
            told.append(TriedRule(step.rule, "overruled", found[0], why))
        else:
            others = _before_others(step.scope(book), role, category, complexity, book.at)
            told.append(TriedRule(step.rule, "decided", found[0], f"{found[1]}{others}"))
            is_decided = True
    return tuple(told)


# ── the rules: each gives the model that it names and the reason in words, None when it is silent ────────────────────

_Named = tuple[str, str] | None


def _run_override(book: RuleBook, role: str, category: str, complexity: str) -> _Named:
    of_run = book.run_overrides
    return _override(of_run, "run override", role, category, complexity, book.at) if of_run else None


def _global_override(book: RuleBook, role: str, category: str, complexity: str) -> _Named:
    for_all = book.model_map.global_overrides
    return _override(for_all, "global override", role, category, complexity, book.at) if for_all else None


def _override(
    scope: tuple[Override, ...], rule: Rule, role: str, category: str, complexity: str, at: datetime
) -> _Named:
    chosen = winning_override(scope, role, category, complexity, at)
    return None if chosen is None else (chosen.model, f"{rule} {chosen.role} {chosen.pattern} by {chosen.author}")


def _category(book: RuleBook, role: str, category: str, complexity: str) -> _Named:
    model = _of_role(book.model_map.category_models.get(category), role)
    return None if model is None else (model, f"category {category} uses {model} as {role}")


def _high_risk(book: RuleBook, role: str, category: str, complexity: str) -> _Named:
    model_map = book.model_map
    if category not in model_map.quota_routing.never_fallback_categories:
        return None
    model = _of_role(model_map.high_risk, role)
    return None if model is None else (model, f"category {category} is high risk and names no {role} of its own")


def _complexity(book: RuleBook, role: str, category: str, complexity: str) -> _Named:
    model = _of_role(book.model_map.complexity_models.get(complexity), role)
    return None if model is None else (model, f"complexity {complexity} uses {model} as {role}")


def _agent(book: RuleBook, role: str, category: str, complexity: str) -> _Named:
    name = role.removeprefix("agent:")
    model = book.model_map.agent_models.get(name)
    return None if model is None else (model, f"agent_models names {name}")


def _medium_auditor(book: RuleBook, role: str, category: str, complexity: str) -> _Named:
    model = _of_role(book.model_map.complexity_models.get("medium"), "auditor")
    name = role.removeprefix("agent:")
    return None if model is None else (model, f"agent_models has no {name}: the medium auditor answers")


def _of_role(models: RoleModels | None, role: str) -> str | None:
    if models is None:
        return None
    return models.builder if role == "builder" else models.auditor


# ── why a rule is silent ─────────────────────────────────────────────────────────────────────────────────────────────


def _no_run_override(book: RuleBook, role: str, category: str, complexity: str) -> str:
    return _no_override(book.run_overrides, f"{role} {category}:{complexity}", book.at)


def _no_global_override(book: RuleBook, role: str, category: str, complexity: str) -> str:
    return _no_override(book.model_map.global_overrides, f"{role} {category}:{complexity}", book.at)


def _no_override(scope: tuple[Override, ...], asked: str, at: datetime) -> str:
    standing = [one for one in scope if one.expires_at is None or one.expires_at > at]
    expired = f" ({len(scope) - len(standing)} expired)" if len(standing) < len(scope) else ""
    if not standing:
        return f"there is none{expired}"
    return f"none of the {len(standing)} speaks of {asked}{expired}"


def _no_category(book: RuleBook, role: str, category: str, complexity: str) -> str:
    if category in book.model_map.category_models:
        return f"category_models.{category} names no {role}"
    return f"category_models has no {category}"


def _no_high_risk(book: RuleBook, role: str, category: str, complexity: str) -> str:
    if category not in book.model_map.quota_routing.never_fallback_categories:
        return f"{category} is not one of the never_fallback_categories"
    return f"defaults.high_risk_{role} is not set"


def _no_complexity(book: RuleBook, role: str, category: str, complexity: str) -> str:
    return f"complexity_models.{complexity} names no {role}"


def _no_agent(book: RuleBook, role: str, category: str, complexity: str) -> str:
    return f"agent_models has no {role.removeprefix('agent:')!r}"


def _no_medium_auditor(book: RuleBook, role: str, category: str, complexity: str) -> str:
    return f"{_no_agent(book, role, category, complexity)} and there is no medium auditor"


# ── their order ──────────────────────────────────────────────────────────────────────────────────────────────────────

_Rule = Callable[[RuleBook, str, str, str], _Named]


@dataclass(frozen=True, slots=True)
class _Step:
    """One rule: what it names, why it is silent, and of overrides all of its scope."""

    rule: Rule
    name: _Rule
    why_silent: Callable[[RuleBook, str, str, str], str]
    scope: Callable[[RuleBook], tuple[Override, ...]] = lambda book: ()


_OVERRIDES = (
    _Step("run override", _run_override, _no_run_override, lambda book: book.run_overrides),
    _Step("global override", _global_override, _no_global_override, lambda book: book.model_map.global_overrides),
)
_FOR_CORE = (
    *_OVERRIDES,
    _Step("category", _category, _no_category),
    _Step("high risk default", _high_risk, _no_high_risk),
    _Step("complexity", _complexity, _no_complexity),
)
_FOR_AGENTS = (
    *_OVERRIDES,
    _Step("agent", _agent, _no_agent),
    _Step("agent", _medium_auditor, _no_medium_auditor),
)
# What a choice goes through, without what only an explanation needs: it is made some hundred thousand times a second.
_NAMES_FOR_CORE = tuple((step.rule, step.name) for step in _FOR_CORE)
_NAMES_FOR_AGENTS = tuple((step.rule, step.name) for step in _FOR_AGENTS)


def _steps(role: str) -> tuple[_Step, ...]:
    return _FOR_CORE if role in CORE_ROLES else _FOR_AGENTS


def _before_others(scope: tuple[Override, ...], role: str, category: str, complexity: str, at: datetime) -> str:
    """Of several overrides that speak to a question: which is the next best, and why it did not win."""
    speaking = speaking_overrides(scope, role, category, complexity, at)
    if len(speaking) < 2:
        return ""
    winner, second, *rest = speaking
    more = f", and before {len(rest)} more" if rest else ""
    return f"; it goes before {second.role} {second.pattern} → {second.model} because {wins_by(winner, second)}{more}"
