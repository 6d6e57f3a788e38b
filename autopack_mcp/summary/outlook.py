"""What would come of a call: the router's choice and the ledger's answer to it, now or if a cap stood elsewhere.

It asks the functions that choose and deny for real (``choose``, ``denials``), in the order in which the door asks them,
and spends nothing. ``models`` asks it for every row, ``explanation`` for one question and its ifs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

from sqlalchemy import Connection

from autopack_mcp.budgets.caps import CallScope
from autopack_mcp.budgets.counters import ScopeUse
from autopack_mcp.budgets.denials import Wanted
from autopack_mcp.budgets.standing_orders import StandingOrder
from autopack_mcp.budgets.standings import CallStandings, CapStanding, ProviderStanding, call_standings
from autopack_mcp.config.settings import ProviderSettings, Settings
from autopack_mcp.errors import Denial
from autopack_mcp.llm_service import AUDITOR_OUTPUT_TOKENS, BUILDER_OUTPUT_TOKENS
from autopack_mcp.money import NANO_PER_USD
from autopack_mcp.routing.model_router import Candidate, RouteDecision, RoutingSnapshot, candidates, choose
from autopack_mcp.usage.event import Purpose
from autopack_mcp.usage.prices import UnitPrices

# What every call of a role promises for its answer, whatever its prompt. An agent says itself how much it wants.
_OUTPUT_TOKENS = {"builder": BUILDER_OUTPUT_TOKENS, "auditor": AUDITOR_OUTPUT_TOKENS}
_NANO_PER_TOKEN = NANO_PER_USD // 1_000_000  # Of a price of one dollar per million tokens.


@dataclass(frozen=True, slots=True)
class RoutingSources:
    """What a choice needs beside the database: the settings in force, and answers about keys and prices."""

    settings: Settings
    has_key: Callable[[ProviderSettings], bool]
    unit_price: Callable[[str], UnitPrices | None]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and for which phase of the run; no phase is a call of the run that belongs to none."""

    role: str
    category: str
    complexity: str
    phase_id: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The choice, and what the ledger would say to it: None when a call may leave.

    ``blocked_by`` says why a call would fail: the choice's own reason (no key, a cap that is used up), or the denial.
    """

    decision: RouteDecision
    denial: Denial | None
    blocked_by: str | None


class Outlook:
    """Answers over one snapshot and one moment. What it has read of the counters it keeps; make one per question."""

    def __init__(
        self,
        connection: Connection,
        settings: Settings,
        snapshot: RoutingSnapshot,
        run_id: str | None = None,
        purpose: Purpose = "run",
    ) -> None:
        self.snapshot = snapshot
        self._connection = connection
        self._settings = settings
        self._run_id = run_id
        self._purpose = purpose
        self._standings: dict[CallScope, CallStandings] = {}
        self._uses: dict[str, ScopeUse] = {}

    def standings(self, question: Question, provider: str) -> CallStandings:
        """What such a call must fit on one account."""
        call = CallScope(provider, question.role, self._purpose, self._run_id, question.phase_id)
        if call not in self._standings:
            at = self.snapshot.at
            self._standings[call] = call_standings(self._connection, self._settings, call, at, self._uses)
        return self._standings[call]

    def outcome(self, question: Question, supposed: CapStanding | None = None) -> Outcome:
        """What would come of a call; ``supposed`` is a cap as it might stand, in place of how it does.

        Raises:
            NoRoute: no rule names a model.
        """
        snapshot = self.snapshot if supposed is None else _supposing(self.snapshot, supposed)
        first = found = self._next(question, snapshot, supposed)
        while found.decision.rule == "fallback" and found.denial is not None and found.denial.order_id is None:
            # As the door does: a fallback that the ledger denies is passed over, and the chain goes on.
            snapshot = replace(snapshot, denied_models=snapshot.denied_models | {found.decision.model})
            found = self._next(question, snapshot, supposed)
        return first if self._is_denied_to_all(question, found) else found

    def chain(self, question: Question, original: str, supposed: CapStanding | None) -> tuple[Candidate, ...]:
        """Every candidate to take over from a model, each with what the router or the ledger has against it."""
        snapshot = self.snapshot if supposed is None else _supposing(self.snapshot, supposed)
        return tuple(
            self._weighed(question, one, supposed) for one in candidates(snapshot, question.category, original)
        )

    def least(self, question: Question, model: str, *, in_dollars: bool = False) -> Wanted:
        """The least that a call promises: the longest answer that it allows; its prompt comes on top.

        The dollars are only worked out where they count, for asking for a price loads the price list.
        """
        found = self.snapshot.find_model(model)
        assert found is not None, "the router only names models it has found"
        tokens = min(_OUTPUT_TOKENS.get(question.role, 1), found.max_output_tokens)
        if not in_dollars:
            return Wanted("", model, tokens, 0)
        price = self.snapshot.unit_price(model)
        return Wanted("", model, tokens, None if price is None else ceil(tokens * price.output_usd * _NANO_PER_TOKEN))

    def order(self, question: Question, provider: str, order_id: int) -> StandingOrder:
        """The standing order that a denial names."""
        return next(
            one.found.order for one in self.standings(question, provider).orders if one.found.order.order_id == order_id
        )

    def _next(self, question: Question, snapshot: RoutingSnapshot, supposed: CapStanding | None) -> Outcome:
        decision = choose(snapshot, question.role, question.category, question.complexity)
        denial = self._ledger_says(question, decision.model, decision.provider, supposed)
        return Outcome(decision, denial, _blocked_by(decision, denial, snapshot.standings[decision.provider]))

    def _is_denied_to_all(self, question: Question, found: Outcome) -> bool:
        """Whether a cap denies it that counts every model alike: then the first choice says more than the last."""
        caps = self.standings(question, found.decision.provider).caps
        return found.denial is not None and any(
            not cap.has_soft_limit and cap.cap.scope == found.denial.scope for cap in caps
        )

    def _weighed(self, question: Question, one: Candidate, supposed: CapStanding | None) -> Candidate:
        if one.objection is not None or one.provider is None:
            return one
        denial = self._ledger_says(question, one.model, one.provider, supposed)
        return one if denial is None else replace(one, objection=denial.why)

    def _ledger_says(
        self, question: Question, model: str, provider: str, supposed: CapStanding | None
    ) -> Denial | None:
        standings = self.standings(question, provider)
        if supposed is not None:
            standings = standings.supposing(supposed)
        return standings.denial(self.least(question, model, in_dollars=standings.count_dollars))


def _supposing(snapshot: RoutingSnapshot, supposed: CapStanding) -> RoutingSnapshot:
    standings = {
        name: replace(
            standing, caps=tuple(supposed if cap.cap.scope == supposed.cap.scope else cap for cap in standing.caps)
        )
        for name, standing in snapshot.standings.items()
    }
    return replace(snapshot, standings=standings)


def _blocked_by(decision: RouteDecision, denial: Denial | None, standing: ProviderStanding) -> str | None:
    """In the order of the door: what the choice itself says, but for a cap that is used up; then the ledger's word."""
    if denial is None or (decision.blocked_by is not None and standing.exhausted_cap is None):
        return decision.blocked_by
    return denial.why if denial.order_id is not None else decision.blocked_by or denial.why
