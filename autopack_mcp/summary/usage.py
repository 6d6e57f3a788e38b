"""What was spent in a window, on whom and on what, set against the caps that are configured now.

It owns UsageSummary and the meaning of percent and level (contract 14); it counts nothing itself: sums come from the
usage rollups, what is used of a cap from the counter that the ledger compares. Rehearsals are never in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, get_args

from sqlalchemy import Connection

from autopack_mcp.budgets.breaches import count_breaches
from autopack_mcp.budgets.caps import CallScope, ScopeCap, provider_caps
from autopack_mcp.budgets.counters import ScopeUse, scope_use
from autopack_mcp.budgets.standings import CapStanding, provider_standings
from autopack_mcp.config.settings import ProviderSettings, Settings, Window, WindowCap
from autopack_mcp.summary.shown import usd
from autopack_mcp.usage.service import (
    UsageRow,
    asked_window,
    summed,
    usage_by_model,
    usage_by_provider,
    usage_by_role,
)
from autopack_mcp.usage.windows import WindowSpan

REHEARSALS_EXCLUDED = "Rehearsals are not in these numbers: they buy no tokens."

Level = Literal["ok", "warn", "critical", "exceeded"]
_SEVERITY: tuple[Level, ...] = get_args(Level)
_SHOWN_SUMS = (
    "prompt_tokens", "completion_tokens", "total_tokens", "cost_usd", "calls", "failed_calls", "unpriced_calls",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CapView:
    """One configured cap of a provider and how far it is used now.

    ``cap_*`` is the allowance (cap times share), ``configured_cap_*`` the number in models.yaml. ``used_*`` is settled
    plus reserved, ``reserved_tokens`` the part that calls in flight still hold. Percents are of the allowance, 0 to 100
    and beyond, cut (not rounded) to one decimal, so that 90.0 is shown only when 90 percent are used. None: not capped
    in that unit. ``label`` names the window: "2026-W47".
    """

    provider: str
    period: Window
    label: str
    used_tokens: int
    reserved_tokens: int
    cap_tokens: int | None
    configured_cap_tokens: int | None
    percent_of_cap: float | None
    used_usd: Decimal
    cap_usd: Decimal | None
    configured_cap_usd: Decimal | None
    percent_of_cap_usd: float | None
    level: Level
    soft_limit_percent: float
    is_over_soft_limit: bool
    resets_at: datetime


@dataclass(frozen=True, slots=True)
class ProviderUsage:
    """One provider in the window. ``prompt_tokens`` is all input, cached included; ``total_tokens`` adds the output.

    ``charged_tokens`` is what weighs against caps: more than ``total_tokens`` where the truth of a call is unknown.
    ``percent_of_cap`` is of ``charged_tokens + reserved_tokens`` against ``cap_tokens`` (the allowance); see CapView.
    ``level`` is the worse of tokens and dollars, None without a cap in this period. ``cost_usd`` is the known cost:
    None when no call has a price.
    """

    provider: str
    period: Window
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    charged_tokens: int
    reserved_tokens: int
    cap_tokens: int | None
    configured_cap_tokens: int | None
    percent_of_cap: float | None
    resets_at: datetime
    level: Level | None
    soft_limit_percent: float | None
    cost_usd: Decimal | None
    cap_usd: Decimal | None
    configured_cap_usd: Decimal | None
    percent_of_cap_usd: float | None
    calls: int
    failed_calls: int
    unpriced_calls: int


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """One model in the window; most tokens first."""

    provider: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cost_usd: Decimal | None
    calls: int
    failed_calls: int
    unpriced_calls: int


@dataclass(frozen=True, slots=True)
class RoleUsage:
    """One role in the window. ``is_core`` is true of builder and auditor, false of auxiliary agents."""

    role: str
    is_core: bool
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cost_usd: Decimal | None
    calls: int
    failed_calls: int
    unpriced_calls: int


@dataclass(frozen=True, slots=True)
class UsageSummary:
    """What was spent in ``starts_at <= call < ends_at``; a call belongs to the window it was reserved in (contract 15).

    ``window_label`` is 2026-11-18, 2026-W47 or 2026-11. Every configured provider has a row, used or not. ``caps`` are
    all configured caps of every period as they stand now, fullest first, and empty for a past window. ``breaches``
    counts how often a cap was found exceeded in the window. ``note`` says what is not in these numbers.
    """

    period: Window
    offset: int
    window_label: str
    starts_at: datetime
    ends_at: datetime
    providers: tuple[ProviderUsage, ...]
    models: tuple[ModelUsage, ...]
    roles: tuple[RoleUsage, ...]
    caps: tuple[CapView, ...]
    core_tokens: int
    auxiliary_tokens: int
    total_tokens: int
    cost_usd: Decimal | None
    unpriced_calls: int
    breaches: int
    note: str


def usage_summary(
    connection: Connection, settings: Settings, now: datetime, period: str = "week", offset: int = 0
) -> UsageSummary:
    """The window of ``period`` (day, week, month) that holds ``now``, or ``-offset`` windows before it.

    A past window is measured against today's caps; nobody writes down what they were.

    Raises:
        RequestRefused: an unknown period, or a window of the future; the hint lists what exists.
    """
    span = asked_window(period, offset, now)
    by_role = usage_by_role(connection, span)
    whole = summed(by_role)
    core = summed(row for row in by_role if row.is_core)
    return UsageSummary(
        period=span.window,
        offset=offset,
        window_label=span.label,
        starts_at=span.start,
        ends_at=span.end,
        providers=_providers(connection, settings, span),
        models=tuple(_model_usage(row) for row in usage_by_model(connection, span)),
        roles=tuple(_role_usage(row) for row in by_role),
        caps=cap_views(connection, settings, now) if offset == 0 else (),
        core_tokens=core.total_tokens,
        auxiliary_tokens=whole.total_tokens - core.total_tokens,
        total_tokens=whole.total_tokens,
        cost_usd=whole.cost_usd,
        unpriced_calls=whole.unpriced_calls,
        breaches=count_breaches(connection, span.start, span.end),
        note=REHEARSALS_EXCLUDED,
    )


def cap_views(connection: Connection, settings: Settings, now: datetime) -> tuple[CapView, ...]:
    """Every configured cap of every provider as it stands now, the fullest first."""
    standings = provider_standings(connection, settings, now, lambda provider: True)
    views = (view for standing in standings.values() for view in views_of_caps(settings, standing.caps))
    return tuple(sorted(views, key=_fullest_first))


def views_of_caps(settings: Settings, standings: Sequence[CapStanding]) -> tuple[CapView, ...]:
    """Caps of configured providers, as people see them, in the order given."""
    return tuple(_cap_view(settings, standing) for standing in standings)


def percent_of(used: int, allowance: int | None) -> float | None:
    """Percent of an allowance, cut to one decimal so that it never shows a level that is not reached; None uncapped.

    An allowance of zero is used up from the start: 100.
    """
    if allowance is None:
        return None
    return used * 1000 // allowance / 10 if allowance else 100.0


def level_of(used: int, allowance: int | None, alert_levels_percent: Sequence[int]) -> Level | None:
    """The level of one cap: warn at the lowest alert level, critical at the highest or when nothing is left.

    ``exceeded`` is more than all of it, which only a recorded breach or a lowered cap explains. None uncapped.
    """
    if allowance is None:
        return None
    if used > allowance:
        return "exceeded"
    levels = sorted(alert_levels_percent)
    critical_from = levels[-1] if len(levels) > 1 else 100
    if used * 100 >= critical_from * allowance:
        return "critical"
    return "warn" if levels and used * 100 >= levels[0] * allowance else "ok"


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _providers(connection: Connection, settings: Settings, span: WindowSpan) -> tuple[ProviderUsage, ...]:
    used = {row.provider or "": row for row in usage_by_provider(connection, span)}
    rows = [
        _provider_usage(connection, settings, name, used.get(name, UsageRow()), span)
        for name in sorted(settings.providers.keys() | used.keys())
    ]
    return tuple(sorted(rows, key=_most_used_first))


def _provider_usage(
    connection: Connection, settings: Settings, name: str, row: UsageRow, span: WindowSpan
) -> ProviderUsage:
    provider = settings.providers.get(name)
    configured = _configured(provider, span.window)
    cap = _cap_of(provider, name, span)
    use = scope_use(connection, CallScope(name, "", "run"), cap, span.start)
    return ProviderUsage(
        provider=name,
        period=span.window,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        total_tokens=row.total_tokens,
        charged_tokens=use.settled_tokens,
        reserved_tokens=use.reserved_tokens,
        cap_tokens=cap.allowance_tokens,
        configured_cap_tokens=configured.tokens,
        percent_of_cap=percent_of(use.used_tokens, cap.allowance_tokens),
        resets_at=span.end,
        level=_worse_level(cap, use, settings.alert_levels_percent),
        soft_limit_percent=None if provider is None else _percent(provider.soft_limit_ratio),
        cost_usd=row.cost_usd,
        cap_usd=_usd_or_none(cap.allowance_nano),
        configured_cap_usd=_usd_or_none(configured.nano_usd),
        percent_of_cap_usd=percent_of(use.used_nano, cap.allowance_nano),
        calls=row.calls,
        failed_calls=row.failed_calls,
        unpriced_calls=row.unpriced_calls,
    )


def _cap_of(provider: ProviderSettings | None, name: str, span: WindowSpan) -> ScopeCap:
    """The provider's cap of this window; without one, a cap of nothing whose counter can be asked all the same."""
    caps = () if provider is None else provider_caps(provider, span.start)
    uncapped = ScopeCap(
        f"provider/{name}/{span.window}/{span.label}", "provider", "", None, None, span.window, name, span.end
    )
    return next((cap for cap in caps if cap.window == span.window), uncapped)


def _cap_view(settings: Settings, standing: CapStanding) -> CapView:
    cap, use = standing.cap, standing.use
    assert cap.provider is not None, "only caps of providers are shown"
    assert cap.window is not None, "providers are capped by window"
    assert cap.resets_at is not None, "windows end"
    configured = _configured(settings.providers[cap.provider], cap.window)
    level = _worse_level(cap, use, settings.alert_levels_percent)
    assert level is not None, "a standing has a cap"
    return CapView(
        provider=cap.provider,
        period=cap.window,
        label=cap.scope.rpartition("/")[2],
        used_tokens=use.used_tokens,
        reserved_tokens=use.reserved_tokens,
        cap_tokens=cap.allowance_tokens,
        configured_cap_tokens=configured.tokens,
        percent_of_cap=percent_of(use.used_tokens, cap.allowance_tokens),
        used_usd=usd(use.used_nano),
        cap_usd=_usd_or_none(cap.allowance_nano),
        configured_cap_usd=_usd_or_none(configured.nano_usd),
        percent_of_cap_usd=percent_of(use.used_nano, cap.allowance_nano),
        level=level,
        soft_limit_percent=_percent(standing.soft_limit_ratio),
        is_over_soft_limit=standing.is_over_soft,
        resets_at=cap.resets_at,
    )


def _model_usage(row: UsageRow) -> ModelUsage:
    return ModelUsage(provider=row.provider or "", model=row.model or "", **_sums(row))


def _role_usage(row: UsageRow) -> RoleUsage:
    return RoleUsage(role=row.role or "", is_core=row.is_core, **_sums(row))


def _sums(row: UsageRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _SHOWN_SUMS}


def _configured(provider: ProviderSettings | None, window: Window) -> WindowCap:
    caps = () if provider is None else provider.caps
    return next((cap for cap in caps if cap.window == window), WindowCap(window))


def _worse_level(cap: ScopeCap, use: ScopeUse, alert_levels_percent: Sequence[int]) -> Level | None:
    levels = (
        level_of(use.used_tokens, cap.allowance_tokens, alert_levels_percent),
        level_of(use.used_nano, cap.allowance_nano, alert_levels_percent),
    )
    return max((level for level in levels if level is not None), key=_SEVERITY.index, default=None)


def _fullest_first(row: CapView | ProviderUsage) -> tuple[float, str, str]:
    return -max(row.percent_of_cap or 0.0, row.percent_of_cap_usd or 0.0), row.provider, row.period


def _most_used_first(row: ProviderUsage) -> tuple[float, int, str]:
    fullness, provider, _ = _fullest_first(row)
    return fullness, -row.total_tokens, provider


def _percent(ratio: Decimal) -> float:
    return float(ratio * 100)


def _usd_or_none(nano: int | None) -> Decimal | None:
    return None if nano is None else usd(nano)
