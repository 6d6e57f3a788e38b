"""Why one question is answered by this model: every rule, every cap, the whole chain, and what would happen if.

It owns ModelExplanation. It chooses nothing and denies nothing: rules come from ``routing.precedence``, candidates from
the router, outcomes from ``outlook``, so what is explained is what would be done. ``models`` shows many questions.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Literal

from sqlalchemy import Connection

from autopack_mcp.budgets.measures import measures
from autopack_mcp.budgets.standing_orders import in_words
from autopack_mcp.budgets.standings import CapStanding, OrderStanding
from autopack_mcp.routing.model_router import Candidate, Choice, RouteDecision, RoutingSnapshot, allowed_choices
from autopack_mcp.routing.precedence import CORE_ROLES, TriedRule, rules_tried
from autopack_mcp.summary.caps import CapView, percent, percent_of, views_of_caps
from autopack_mcp.summary.models import (
    REASON_LIMIT,
    ModelRow,
    RoutingView,
    StandingView,
    check_known,
    look,
    row_of,
    standing_view,
)
from autopack_mcp.summary.outlook import Outcome, Outlook, Question, RoutingSources
from autopack_mcp.text_safety import visible

WhatHappens = Literal["kept", "rerouted", "denied", "fails", "paused", "cancelled"]
_BY_ACTION: dict[str, WhatHappens] = {"pause": "paused", "cancel": "cancelled"}
_ALL = Decimal(1)


@dataclass(frozen=True, slots=True)
class WaitingOrder:
    """A standing order that would stop the run, and how much of what it waits for is reached, in percent."""

    order_id: int
    action: str
    says: str
    percent_reached: float | None


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What would happen if any one of ``caps`` stood at ``percent`` of its allowance, and everything else as it does.

    ``happens`` is "kept" (the model that the rules name answers), "rerouted" (another does), "denied" (nobody may),
    "fails" (nobody can: there is no key), or what a standing order does to the run. ``model`` answers then, None when
    nobody does. ``is_reached``: one of these caps stands there already.
    """

    percent: float
    caps: tuple[str, ...]
    happens: WhatHappens
    model: str | None
    why: str
    is_reached: bool


@dataclass(frozen=True, slots=True)
class ModelExplanation:
    """Why a question is answered by this model: the decision, what a call must fit, and what else may be chosen.

    ``row`` is the answer, ``phase_id`` the unfinished phase of the run that would be the next to ask (None: no phase
    asks this). ``rules`` are all rules, highest first. ``standing`` is the account of the answer; ``caps`` are all that
    such a call must fit there, after those of the account that was wanted first. ``least_tokens`` is what a call
    promises at least: its longest answer, without its prompt (None: agents choose that themselves). ``chain`` is
    weighed as it would be at the soft limit; where it is never asked, ``chain_note`` says why. ``when_denied`` says
    what a denial does to the run.
    """

    run_id: str | None
    phase_id: str | None
    row: ModelRow
    rules: tuple[TriedRule, ...]
    choices: tuple[Choice, ...]
    standing: StandingView | None = None
    caps: tuple[CapView, ...] = ()
    orders: tuple[WaitingOrder, ...] = ()
    least_tokens: int | None = None
    what_ifs: tuple[WhatIf, ...] = ()
    when_denied: str | None = None
    chain: tuple[Candidate, ...] = ()
    chain_note: str | None = None


def explain_model(
    connection: Connection,
    sources: RoutingSources,
    now: datetime,
    role: str,
    category: str,
    complexity: str,
    run_id: str | None = None,
) -> ModelExplanation:
    """Which model would answer this question, and why. No model at all is an answer: ``row.error`` says why.

    Raises:
        RunNotFound: no such run.
        RequestRefused: an unknown role, category or complexity; the hint lists those that exist.
    """
    view = look(connection, sources, now, run_id)
    check_known(view, role, category, complexity)
    question = Question(role, category, complexity, _next_phase(view, category, complexity))
    row = row_of(view.outlook, question)
    rules = tuple(replace(rule, why=visible(rule.why, REASON_LIMIT)) for rule in _rules(view.snapshot, question))
    bare = ModelExplanation(run_id, question.phase_id, row, rules, allowed_choices(view.snapshot))
    return bare if row.provider is None else _in_full(bare, view, sources, question, row.provider)


def _in_full(
    bare: ModelExplanation, view: RoutingView, sources: RoutingSources, question: Question, provider: str
) -> ModelExplanation:
    """The same with everything that only a question with an answer has."""
    settings, outlook = sources.settings, view.outlook
    wanted, account = _wanted(view.snapshot, bare.row)
    standings = [outlook.standings(question, name) for name in dict.fromkeys((account, provider))]
    caps = tuple({cap.cap.scope: cap for one in standings for cap in one.caps}.values())
    orders = {one.found.order.order_id: one for standing in standings for one in standing.orders}
    note = _why_no_chain(view.snapshot, bare, account)
    return replace(
        bare,
        standing=standing_view(settings, view.snapshot.standings[provider]),
        caps=views_of_caps(settings, caps),
        orders=tuple(map(_order, orders.values())),
        least_tokens=outlook.least(question, wanted).tokens if question.role in CORE_ROLES else None,
        what_ifs=_what_ifs(outlook, question, caps),
        when_denied=_when_denied(question.role),
        chain=() if note is not None else outlook.chain(question, wanted, _at_soft_limit(view.snapshot, account)),
        chain_note=note,
    )


# ── the question ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _next_phase(view: RoutingView, category: str, complexity: str) -> str | None:
    kind = (category, complexity)
    return next((one.phase_id for one in view.unfinished if (one.task_category, one.complexity) == kind), None)


def _rules(snapshot: RoutingSnapshot, question: Question) -> tuple[TriedRule, ...]:
    return rules_tried(snapshot, question.role, question.category, question.complexity)


def _wanted(snapshot: RoutingSnapshot, row: ModelRow) -> tuple[str, str]:
    """(model, provider) that the rules named, also where a soft limit took it out of the way."""
    name = row.replaces or row.model
    found = None if name is None else snapshot.find_model(name)
    assert found is not None, "a row with a provider has a model, and what it replaces was found, too"
    return found.name, found.provider


def _order(one: OrderStanding) -> WaitingOrder:
    order = one.found.order
    reached = [percent_of(measure.used, measure.allowance) or 0.0 for measure in measures(one.found.cap, one.use)]
    return WaitingOrder(order.order_id, order.action, visible(in_words(order), REASON_LIMIT), max(reached, default=0.0))


def _when_denied(role: str) -> str:
    if role not in CORE_ROLES:
        return "Who asked gets QuotaExhausted."
    return (
        "The run becomes budget_paused: resume it when the window has reset or a cap has been raised, or with another"
        " model. A library caller gets QuotaExhausted."
    )


# ── the chain ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _why_no_chain(snapshot: RoutingSnapshot, bare: ModelExplanation, account: str) -> str | None:
    """Why no soft limit ever sends this question to a fallback; None when one does."""
    quota, category = snapshot.model_map.quota_routing, bare.row.category
    decided = next(rule.rule for rule in bare.rules if rule.outcome == "decided")
    if not quota.enabled:
        return "quota_routing is off."
    if decided in ("run override", "global override"):
        return "A person chose this model, so no soft limit takes it away."
    if category in quota.never_fallback_categories:
        return f"Category {category} never falls back."
    if not snapshot.standings[account].caps:
        return f"{account} has no cap, so no soft limit is ever reached."
    return None if snapshot.model_map.fallback_strategy.chain(category) else f"Category {category} has no fallbacks."


def _at_soft_limit(snapshot: RoutingSnapshot, account: str) -> CapStanding | None:
    """The cap of an account to suppose at its soft limit; None where one is over it as things are."""
    standing = snapshot.standings[account]
    if standing.soft_cap is not None:
        return None
    fullest = max(standing.caps, key=lambda cap: cap.used_fraction)
    return fullest.filled_to(fullest.soft_limit_ratio)


# ── the ifs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _what_ifs(outlook: Outlook, question: Question, caps: Sequence[CapStanding]) -> tuple[WhatIf, ...]:
    """Each cap at its soft limit, where it has one, and used up; caps with the same consequence stand together."""
    groups: dict[Hashable, WhatIf] = {}
    for one in (_what_if(outlook, question, cap, share) for share, cap in _levels(caps)):
        key = (one.percent, one.happens, one.model, one.why)
        before = groups.get(key)
        groups[key] = one if before is None else _together(before, one)
    return tuple(groups.values())


def _levels(caps: Sequence[CapStanding]) -> Iterator[tuple[Decimal, CapStanding]]:
    yield from ((cap.soft_limit_ratio, cap) for cap in caps if cap.has_soft_limit)
    yield from ((_ALL, cap) for cap in caps)


def _together(first: WhatIf, second: WhatIf) -> WhatIf:
    return replace(first, caps=(*first.caps, *second.caps), is_reached=first.is_reached or second.is_reached)


def _what_if(outlook: Outlook, question: Question, cap: CapStanding, share: Decimal) -> WhatIf:
    outcome = outlook.outcome(question, cap.filled_to(share))
    return WhatIf(
        percent=percent(share),
        caps=(visible(cap.cap.label, REASON_LIMIT),),
        happens=_happens(outlook, question, outcome),
        model=None if outcome.blocked_by is not None else outcome.decision.model,
        why=visible(_why(outcome, cap, outlook.snapshot), REASON_LIMIT),
        is_reached=cap.used_fraction >= share,
    )


def _happens(outlook: Outlook, question: Question, outcome: Outcome) -> WhatHappens:
    decision, denial = outcome.decision, outcome.denial
    if outcome.blocked_by is None:
        return "rerouted" if decision.rule == "fallback" else "kept"
    if _lacks_key(outlook.snapshot, decision):
        return "fails"
    if denial is None or denial.order_id is None:
        return "denied"
    if denial.is_unpriced:
        return "paused"  # Also by an order to cancel: nothing was spent, it only cannot be kept without a price.
    return _BY_ACTION[outlook.order(question, decision.provider, denial.order_id).action]


def _lacks_key(snapshot: RoutingSnapshot, decision: RouteDecision) -> bool:
    return snapshot.standings[decision.provider].missing_key_variable is not None


def _why(outcome: Outcome, cap: CapStanding, snapshot: RoutingSnapshot) -> str:
    """What it came to in words; that this cap is used so far goes without saying."""
    decision, denial = outcome.decision, outcome.denial
    if outcome.blocked_by is not None and _lacks_key(snapshot, decision):
        return outcome.blocked_by
    if denial is not None and (denial.order_id is not None or denial.scope != cap.cap.scope):
        return denial.why
    if not cap.has_soft_limit:
        return "it counts every model alike, so no fallback helps"
    if not snapshot.model_map.quota_routing.enabled:
        return f"quota_routing is off, so nothing takes over from {decision.model}"
    return decision.reasons[-1]
