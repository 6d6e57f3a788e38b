"""Where each provider stands: its caps, how far they are used, and whether we hold a key.

One read answers the router ("is its soft limit reached?") and the summaries ("82 % of the week"), so both see the same
numbers. It decides nothing; the ledger alone denies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Connection

from autopack_mcp.budgets.caps import CallScope, RunCaps, ScopeCap, caps_of_call
from autopack_mcp.budgets.ledger import ScopeUse, scope_use
from autopack_mcp.config.settings import ProviderSettings, Settings
from autopack_mcp.usage.event import Purpose


@dataclass(frozen=True, slots=True)
class CapStanding:
    """One cap and its use. Fractions are of the allowance: 1.0 is all of it, more is a breach."""

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

    def _is_over(self, used: int, allowance: int | None) -> bool:
        return allowance is not None and used >= self.soft_limit_ratio * allowance


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
        provider.provider: ProviderStanding(
            provider.provider,
            None if has_key(provider) else provider.api_key_env,
            _cap_standings(connection, settings, provider, CallScope(provider.provider, "", purpose, run_id), at),
        )
        for provider in settings.providers.values()
    }


def _cap_standings(
    connection: Connection, settings: Settings, provider: ProviderSettings, scope: CallScope, at: datetime
) -> tuple[CapStanding, ...]:
    caps = caps_of_call(settings, scope, RunCaps(), at)
    return tuple(CapStanding(cap, scope_use(connection, scope, cap, at), provider.soft_limit_ratio) for cap in caps)
