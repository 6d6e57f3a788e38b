"""Where each provider stands (its caps, how far they are used, whether we hold a key), and where a single call does.

One read answers the router ("is its soft limit reached?") and the summaries ("82 % of the week"), so both see the same
numbers. What a call would be told is asked of the ledger's own comparison (``denials``). It decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from math import ceil

from sqlalchemy import Connection, select

from autopack_mcp.budgets.call_rules import caps_of_run
from autopack_mcp.budgets.caps import CallScope, RunCaps, ScopeCap, caps_of_call
from autopack_mcp.budgets.counters import ScopeUse, scope_use
from autopack_mcp.budgets.denials import Wanted, denials_at, denials_of
from autopack_mcp.budgets.standing_orders import OrderCap, has_acted, named, order_caps, orders_about
from autopack_mcp.config.settings import ProviderSettings, Settings
from autopack_mcp.database.tables import phase_caps
from autopack_mcp.errors import Denial
from autopack_mcp.usage.event import Purpose


@dataclass(frozen=True, slots=True)
class CapStanding:
    """One cap and its use. Fractions are of the allowance: 1.0 is all of it, more is a breach.

    ``soft_limit_ratio`` is the provider's; only its own windows heed it (contract 12), no cap of a run, a role or of
    all calls does.
    """

    cap: ScopeCap
    use: ScopeUse
    soft_limit_ratio: Decimal

    @property
    def used_tokens(self) -> int:
        """Settled and reserved: what no other call may have."""
        return self.use.used_tokens

    @property
    def used_nano(self) -> int:
        """Settled and reserved nano-dollars."""
        return self.use.used_nano

    @property
    def used_fraction(self) -> float:
        """The larger of the token and the dollar share; 1.0 for an allowance of zero."""
        measured = ((self.used_tokens, self.cap.allowance_tokens), (self.used_nano, self.cap.allowance_nano))
        return max((used / allowance if allowance else 1.0 for used, allowance in measured if allowance is not None))

    @property
    def has_soft_limit(self) -> bool:
        """Whether reaching ``soft_limit_ratio`` means anything."""
        return self.cap.kind == "provider"

    @property
    def is_over_soft(self) -> bool:
        """``used >= soft_limit_ratio x allowance`` in tokens or dollars (contract 12)."""
        return self.is_over_soft_tokens or self._is_over(self.used_nano, self.cap.allowance_nano)

    @property
    def is_over_soft_tokens(self) -> bool:
        """The same in tokens alone."""
        return self._is_over(self.used_tokens, self.cap.allowance_tokens)

    @property
    def is_exhausted(self) -> bool:
        """Nothing is left, so every call will be denied."""
        measured = ((self.used_tokens, self.cap.allowance_tokens), (self.used_nano, self.cap.allowance_nano))
        return any(allowance is not None and used >= allowance for used, allowance in measured)

    @property
    def used_up(self) -> str:
        """In words: "openai's cap of the week is used up (100%)"."""
        return f"{self.cap.label} is used up ({self.used_fraction:.0%})"

    def filled_to(self, share: Decimal) -> CapStanding:
        """The same cap if exactly this share of it were spent, in tokens and in dollars: 1 is all of it."""
        tokens, nano = (ceil(share * (size or 0)) for size in (self.cap.allowance_tokens, self.cap.allowance_nano))
        return replace(self, use=ScopeUse(settled_tokens=tokens, settled_nano=nano))

    def _is_over(self, used: int, allowance: int | None) -> bool:
        return self.has_soft_limit and allowance is not None and used >= self.soft_limit_ratio * allowance


@dataclass(frozen=True, slots=True)
class ProviderStanding:
    """One provider as the router sees it; ``missing_key_variable`` is None when it can be called.

    ``soft_cap`` is the fullest cap that is over its soft limit, ``exhausted_cap`` the first with nothing left; None
    while there is none. They are worked out once, because a snapshot answers many questions.
    """

    provider: str
    missing_key_variable: str | None
    caps: tuple[CapStanding, ...] = ()
    soft_cap: CapStanding | None = field(init=False, repr=False, compare=False)
    exhausted_cap: CapStanding | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        over = [standing for standing in self.caps if standing.is_over_soft]
        fullest = max(over, key=lambda standing: standing.used_fraction, default=None)
        # The way to set a field of a frozen dataclass while it is being made.
        object.__setattr__(self, "soft_cap", fullest)
        object.__setattr__(self, "exhausted_cap", next((cap for cap in self.caps if cap.is_exhausted), None))


@dataclass(frozen=True, slots=True)
class OrderStanding:
    """A standing order that would stop a call, set against the counter that it measures."""

    found: OrderCap
    use: ScopeUse


@dataclass(frozen=True, slots=True)
class CallStandings:
    """Everything that one call on one account must fit: its caps, and the orders that would stop its run."""

    caps: tuple[CapStanding, ...] = ()
    orders: tuple[OrderStanding, ...] = ()

    @property
    def count_dollars(self) -> bool:
        """Whether any of it is in dollars, so that a call needs a price to be let through."""
        caps = (*(one.cap for one in self.caps), *(one.found.cap for one in self.orders))
        return any(cap.allowance_nano is not None for cap in caps)

    def supposing(self, supposed: CapStanding) -> CallStandings:
        """The same if the counter of one cap stood elsewhere; orders that measure it see that, too."""
        scope, use = supposed.cap.scope, supposed.use
        return CallStandings(
            tuple(supposed if one.cap.scope == scope else one for one in self.caps),
            tuple(replace(one, use=use) if one.found.cap.scope == scope else one for one in self.orders),
        )

    def denial(self, call: Wanted) -> Denial | None:
        """What the ledger would say to such a call, a standing order first; None when it would let it pass."""
        for order in self.orders:
            found = order.found
            for denial in (
                denials_of(found.cap, order.use, call) if found.counts_call else denials_at(found.cap, order.use)
            ):
                return replace(denial, why=f"{named(found.order)}: {denial.why}", order_id=found.order.order_id)
        return next((_shortly(one, denial) for one in self.caps for denial in denials_of(one.cap, one.use, call)), None)


def _shortly(cap: CapStanding, denial: Denial) -> Denial:
    """The same denial; where nothing is left at all, how much the call would need does not matter."""
    return replace(denial, why=cap.used_up) if cap.is_exhausted and not denial.is_unpriced else denial


def call_standings(
    connection: Connection, settings: Settings, call: CallScope, at: datetime, known: dict[str, ScopeUse] | None = None
) -> CallStandings:
    """Where a call that is made now stands: its account's windows, its role, all calls, its run, its phase, and orders.

    Without a run it is a call of a run that starts now: that has no cap of its own yet, and only orders for every run
    would stop it. An order that has acted already is not among them. ``known`` are counters that were read at the same
    moment, by scope; what is read now joins them.
    """
    known = {} if known is None else known

    def use_of(cap: ScopeCap) -> ScopeUse:
        if cap.scope not in known:
            known[cap.scope] = scope_use(connection, call, cap, at)
        return known[cap.scope]

    own = caps_of_run(connection, call.run_id, call.phase_id) or RunCaps()
    ratio = settings.providers[call.provider].soft_limit_ratio
    stops = (
        one
        for one in order_caps(orders_about(connection, call.run_id), settings, call, own, at)
        if one.order.action != "tell" and not has_acted(connection, one, call.run_id or "")
    )
    return CallStandings(
        tuple(CapStanding(cap, use_of(cap), ratio) for cap in caps_of_call(settings, call, own, at)),
        tuple(OrderStanding(one, use_of(one.cap)) for one in stops),
    )


def capped_phases(connection: Connection, run_id: str) -> frozenset[str]:
    """The phases of a run that have a cap of their own."""
    return frozenset(connection.execute(select(phase_caps.c.phase_id).where(phase_caps.c.run_id == run_id)).scalars())


def provider_standings(
    connection: Connection,
    settings: Settings,
    at: datetime,
    has_key: Callable[[ProviderSettings], bool],
    *,
    purpose: Purpose = "run",
    run_id: str | None = None,
) -> Mapping[str, ProviderStanding]:
    """Every configured provider's standing at a moment; ``purpose="rehearsal"`` reads the run's shadow scopes."""
    return {
        name: provider_standing(connection, settings, CallScope(name, "", purpose, run_id), at, has_key)
        for name in settings.providers
    }


def provider_standing(
    connection: Connection,
    settings: Settings,
    call: CallScope,
    at: datetime,
    has_key: Callable[[ProviderSettings], bool],
) -> ProviderStanding:
    """The standing of one: the provider of ``call``, whose purpose and run say which counters are read."""
    provider = settings.providers[call.provider]
    missing = None if has_key(provider) else provider.api_key_env
    return ProviderStanding(provider.provider, missing, _provider_caps(connection, settings, call, at))


def _provider_caps(
    connection: Connection, settings: Settings, call: CallScope, at: datetime
) -> tuple[CapStanding, ...]:
    # Its own windows alone: a cap of all calls is no reason to go to another provider, which counts for it as well.
    caps = (cap for cap in caps_of_call(settings, call, RunCaps(), at) if cap.kind == "provider")
    ratio = settings.providers[call.provider].soft_limit_ratio
    return tuple(CapStanding(cap, scope_use(connection, call, cap, at), ratio) for cap in caps)
