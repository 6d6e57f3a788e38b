"""Which caps a call must fit: every scope it touches, with its allowance (contract 14 and 15).

Pure: it turns settings, a run's own caps and a moment into scopes. It knows no counter; the ledger compares, the router
and the summaries ask for the same scopes, so that they all measure against the same allowance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Literal, NamedTuple
from urllib.parse import quote

from autopack_mcp.clock import from_us, to_us
from autopack_mcp.config.settings import ProviderSettings, Settings, Window, WindowCap
from autopack_mcp.usage.event import Purpose
from autopack_mcp.usage.windows import WINDOWS, WindowSpan, window_at

_DAY_US = 86_400_000_000

ScopeKind = Literal["provider", "run", "phase", "role", "global"]


class CallScope(NamedTuple):
    """What a call belongs to: enough to know every scope that counts it.

    A tuple, because every booking makes one and looks its counters and rules up by it.
    """

    provider: str
    role: str
    purpose: Purpose
    run_id: str | None = None
    phase_id: str | None = None


class RunCaps(NamedTuple):
    """A run's own caps and those of its phase in question, in tokens and nano-dollars; None is uncapped."""

    tokens: int | None = None
    nano_usd: int | None = None
    phase_tokens: int | None = None
    phase_nano_usd: int | None = None


@dataclass(frozen=True, slots=True)
class ScopeCap:
    """One counter and what it may reach. ``allowance_*`` are ours (cap x share); at least one of them is set.

    ``label`` names the cap in a sentence: "openai's cap of the week".
    """

    scope: str
    kind: ScopeKind
    label: str
    allowance_tokens: int | None
    allowance_nano: int | None
    window: Window | None = None
    provider: str | None = None
    resets_at: datetime | None = None
    role: str | None = None


def scopes_of_call(call: CallScope, at: datetime) -> tuple[str, ...]:
    """The names of every counter that counts this call when it is reserved ``at``, sorted.

    A rehearsal counts in shadow scopes of its own run and never touches the real ones (contract 17). Sorted, so that
    the same call always moves its counters in the same order.
    """
    return _scopes_on_day(call, day_number(at))


@lru_cache(maxsize=4_096)
def _scopes_on_day(call: CallScope, day: int) -> tuple[str, ...]:
    prefix = shadow_prefix(call)
    provider, role = f"{prefix}provider/{_part(call.provider)}/", f"{prefix}role/{_part(call.role)}/"
    endings = [f"{span.window}/{span.label}" for span in _spans_of_day(day)]
    names = [f"{stem}{ending}" for stem in (provider, role, f"{prefix}global/") for ending in endings]
    if call.run_id is not None:
        names.append(run_scope(prefix, call.run_id))
        if call.phase_id is not None:
            names.append(phase_scope(prefix, call.run_id, call.phase_id))
    return tuple(sorted(names))


def shadow_prefix(call: CallScope) -> str:
    """What a scope's name starts with: nothing for real calls, the rehearsing run for a rehearsal."""
    return f"rehearsal/{_part(call.run_id or 'library')}/" if call.purpose == "rehearsal" else ""


def run_scope(prefix: str, run_id: str) -> str:
    """The name of a run's counter; ``prefix`` as ``shadow_prefix`` says."""
    return f"{prefix}run/{_part(run_id)}"


def phase_scope(prefix: str, run_id: str, phase_id: str) -> str:
    """The name of a phase's counter; ``prefix`` as ``shadow_prefix`` says."""
    return f"{prefix}phase/{_part(run_id)}/{_part(phase_id)}"


def window_scope(prefix: str, kind: ScopeKind, name: str, span: WindowSpan) -> str:
    """The name of a counter that starts anew with each window; ``name`` is the provider or the role, "" for global."""
    stem = f"{kind}/{_part(name)}" if name else kind
    return f"{prefix}{stem}/{span.window}/{span.label}"


def day_number(at: datetime) -> int:
    """UTC days since 1970: what names of counters depend on, and nothing finer does."""
    return to_us(at) // _DAY_US


def start_of_day(number: int) -> datetime:
    """The first moment of the day that ``day_number`` counts."""
    return from_us(number * _DAY_US)


def caps_of_call(settings: Settings, call: CallScope, run_caps: RunCaps, at: datetime) -> tuple[ScopeCap, ...]:
    """Every configured cap that this call must fit, the provider's windows first."""
    return (*window_caps_of_call(settings, call, at), *own_caps_of_call(call, run_caps))


def window_caps_of_call(settings: Settings, call: CallScope, at: datetime) -> tuple[ScopeCap, ...]:
    """Those of its provider, its role and of all calls; the same for every call of a day that shares these."""
    prefix = shadow_prefix(call)
    provider = settings.providers.get(call.provider)
    caps = [] if provider is None else list(_provider_caps(provider, prefix, at))
    caps += _role_caps(call.role, settings.role_caps.get(call.role, ()), prefix, at)
    caps += _global_caps(settings.global_caps, prefix, at)
    return tuple(caps)


def provider_caps(provider: ProviderSettings, at: datetime) -> tuple[ScopeCap, ...]:
    """The configured windows of one provider, as real (not rehearsed) calls see them."""
    return tuple(_provider_caps(provider, "", at))


def shared_caps(settings: Settings, at: datetime) -> tuple[ScopeCap, ...]:
    """The configured caps of no single provider: every role's and the global ones, as real calls see them."""
    roles = [cap for role, caps in settings.role_caps.items() for cap in _role_caps(role, caps, "", at)]
    return (*roles, *_global_caps(settings.global_caps, "", at))


def _provider_caps(provider: ProviderSettings, prefix: str, at: datetime) -> Iterator[ScopeCap]:
    for cap in provider.caps:
        span = window_at(cap.window, at)
        yield ScopeCap(
            scope=window_scope(prefix, "provider", provider.provider, span),
            kind="provider",
            label=f"{provider.provider}'s cap of the {cap.window}",
            allowance_tokens=None if cap.tokens is None else provider.allowance(cap.tokens),
            allowance_nano=None if cap.nano_usd is None else provider.allowance(cap.nano_usd),
            window=cap.window,
            provider=provider.provider,
            resets_at=span.end,
        )


def _role_caps(role: str, caps: Sequence[WindowCap], prefix: str, at: datetime) -> list[ScopeCap]:
    return [_window_cap("role", role, f"the {role}'s cap of the {cap.window}", cap, prefix, at) for cap in caps]


def _global_caps(caps: Sequence[WindowCap], prefix: str, at: datetime) -> list[ScopeCap]:
    return [_window_cap("global", "", f"the cap of all calls of the {cap.window}", cap, prefix, at) for cap in caps]


def _window_cap(kind: ScopeKind, name: str, label: str, cap: WindowCap, prefix: str, at: datetime) -> ScopeCap:
    span = window_at(cap.window, at)
    scope = window_scope(prefix, kind, name, span)
    return ScopeCap(scope, kind, label, cap.tokens, cap.nano_usd, cap.window, None, span.end, name or None)


def own_caps_of_call(call: CallScope, caps: RunCaps) -> Iterator[ScopeCap]:
    """Those of its run and of its phase."""
    if call.run_id is None:
        return
    prefix = shadow_prefix(call)
    if caps.tokens is not None or caps.nano_usd is not None:
        label = f"the cap of run {call.run_id}"
        yield ScopeCap(run_scope(prefix, call.run_id), "run", label, caps.tokens, caps.nano_usd)
    if call.phase_id is not None and (caps.phase_tokens is not None or caps.phase_nano_usd is not None):
        label = f"the cap of phase {call.phase_id} of run {call.run_id}"
        scope = phase_scope(prefix, call.run_id, call.phase_id)
        yield ScopeCap(scope, "phase", label, caps.phase_tokens, caps.phase_nano_usd)


@lru_cache(maxsize=64)
def _spans_of_day(day: int) -> tuple[WindowSpan, ...]:
    return tuple(window_at(window, start_of_day(day)) for window in WINDOWS)


def _part(name: str) -> str:
    # A slash in a name must not make it look like a longer path: run "a/b" is not phase "b" of run "a".
    return quote(name, safe=":") if "/" in name or "%" in name else name
