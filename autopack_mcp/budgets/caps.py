"""Which caps a call must fit: every scope it touches, with its allowance (contract 14 and 15).

Pure: it turns settings, a run's own caps and a moment into scopes. It knows no counter; the ledger compares, the router
and the summaries ask for the same scopes, so that they all measure against the same allowance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from autopack_mcp.config.settings import ProviderSettings, Settings, Window
from autopack_mcp.usage.event import Purpose
from autopack_mcp.usage.windows import WINDOWS, window_at

ScopeKind = Literal["provider", "run", "phase", "role", "global"]


@dataclass(frozen=True, slots=True)
class CallScope:
    """What a call belongs to: enough to know every scope that counts it."""

    provider: str
    role: str
    purpose: Purpose
    run_id: str | None = None
    phase_id: str | None = None


@dataclass(frozen=True, slots=True)
class RunCaps:
    """A run's own caps, in tokens and nano-dollars; None is uncapped."""

    tokens: int | None = None
    nano_usd: int | None = None


@dataclass(frozen=True, slots=True)
class ScopeCap:
    """One counter and what it may reach. ``allowance_*`` are ours (cap x share); at least one of them is set."""

    scope: str
    kind: ScopeKind
    label: str
    allowance_tokens: int | None
    allowance_nano: int | None
    window: Window | None = None
    provider: str | None = None
    resets_at: datetime | None = None


def scopes_of_call(call: CallScope, at: datetime) -> tuple[str, ...]:
    """The names of every counter that counts this call when it is reserved ``at``, sorted.

    A rehearsal counts in shadow scopes of its own run and never touches the real ones (contract 17). Sorted, because
    PostgreSQL locks rows in this order and must never deadlock.
    """
    names = [f"provider/{call.provider}/{window}/{window_at(window, at).label}" for window in WINDOWS]
    names += [f"role/{call.role}", "global"]
    if call.run_id is not None:
        names.append(f"run/{call.run_id}")
        if call.phase_id is not None:
            names.append(f"phase/{call.run_id}/{call.phase_id}")
    return tuple(sorted(shadow_prefix(call) + name for name in names))


def shadow_prefix(call: CallScope) -> str:
    """What a scope's name starts with: nothing for real calls, the rehearsing run for a rehearsal."""
    return f"rehearsal/{call.run_id or 'library'}/" if call.purpose == "rehearsal" else ""


def caps_of_call(settings: Settings, call: CallScope, run_caps: RunCaps, at: datetime) -> tuple[ScopeCap, ...]:
    """Every configured cap that this call must fit, the provider's windows first."""
    provider = settings.providers[call.provider]
    prefix = shadow_prefix(call)
    caps = list(_provider_caps(provider, prefix, at))
    if call.run_id is not None and (run_caps.tokens is not None or run_caps.nano_usd is not None):
        label = f"the cap of run {call.run_id}"
        caps.append(ScopeCap(f"{prefix}run/{call.run_id}", "run", label, run_caps.tokens, run_caps.nano_usd))
    return tuple(caps)


def provider_caps(provider: ProviderSettings, at: datetime) -> tuple[ScopeCap, ...]:
    """The configured windows of one provider, as real (not rehearsed) calls see them."""
    return tuple(_provider_caps(provider, "", at))


def cap_in_window_of(cap: ScopeCap, moment: datetime) -> ScopeCap:
    """The same cap, counting in the window that holds ``moment``; a cap without a window is the same at any time.

    Callers work out their caps before the ledger reads the clock, and midnight may lie in between. What is compared
    must be the counter that is moved.
    """
    if cap.window is None:
        return cap
    span = window_at(cap.window, moment)
    stem, _, _ = cap.scope.rpartition("/")
    return replace(cap, scope=f"{stem}/{span.label}", resets_at=span.end)


def _provider_caps(provider: ProviderSettings, prefix: str, at: datetime) -> Iterator[ScopeCap]:
    for cap in provider.caps:
        span = window_at(cap.window, at)
        yield ScopeCap(
            scope=f"{prefix}provider/{provider.provider}/{cap.window}/{span.label}",
            kind="provider",
            label=f"{provider.provider}'s cap of the {cap.window}",
            allowance_tokens=None if cap.tokens is None else provider.allowance(cap.tokens),
            allowance_nano=None if cap.nano_usd is None else provider.allowance(cap.nano_usd),
            window=cap.window,
            provider=provider.provider,
            resets_at=span.end,
        )
