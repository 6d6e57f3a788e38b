"""One cap as people see it: whose it is, how far it is used, its level, and when it is reached at the present pace.

It owns CapView and the meaning of percent and level (contract 14). It counts nothing itself: what is used comes from
the counter that the ledger compares. ``usage`` and ``models`` show these views.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal, get_args

from sqlalchemy import Connection

from autopack_mcp.budgets.caps import CallScope, ScopeCap, ScopeKind, provider_caps, shared_caps
from autopack_mcp.budgets.counters import ScopeUse, scope_use
from autopack_mcp.budgets.standings import CapStanding
from autopack_mcp.config.settings import ProviderSettings, Settings, Window, WindowCap
from autopack_mcp.money import usd
from autopack_mcp.summary.pace import BurnRate, Charged, Pace, burn_rate, measured_since, pace_of
from autopack_mcp.text_safety import visible
from autopack_mcp.usage.service import charges_by_day, first_hour
from autopack_mcp.usage.windows import window_at

Level = Literal["ok", "warn", "critical", "exceeded"]
_SEVERITY: tuple[Level, ...] = get_args(Level)
_LABEL_LIMIT = 200  # Characters of a cap's name, which holds names of a configuration file and of runs.


@dataclass(frozen=True, slots=True)
class CapView:
    """One configured cap and how far it is used now.

    ``kind`` says whose it is: a provider's, a role's, that of all calls together (``global``), a run's or a phase's;
    ``label`` says it in words ("openai's cap of the week"). ``provider``, ``role``, ``period``, ``window_label``
    ("2026-W47") and ``resets_at`` are None where the cap has none.

    ``cap_*`` is the allowance (a provider's cap times its share), ``configured_cap_*`` the number in models.yaml.
    ``used_*`` is settled plus reserved, ``reserved_tokens`` the part that calls in flight still hold. Percents are of
    the allowance, 0 to 100 and beyond, cut (not rounded) to one decimal, so that 90.0 is shown only when 90 percent are
    used. None: not capped in that unit. ``soft_limit_percent`` is None for caps that no soft limit guards: only a
    provider's reroute. ``pace`` is None where nobody asked for it.
    """

    kind: ScopeKind
    label: str
    provider: str | None
    role: str | None
    period: Window | None
    window_label: str | None
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
    soft_limit_percent: float | None
    is_over_soft_limit: bool
    resets_at: datetime | None
    pace: Pace | None = None


class RecentCharges:
    """What was charged today and yesterday, read once and added up for each cap and for all calls."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now
        self._days = charges_by_day(connection, measured_since(now))
        self._hours: dict[tuple[datetime, str | None, str | None], datetime | None] = {}

    def burn_rate(self, cap: ScopeCap | None = None, window_start: datetime | None = None) -> BurnRate | None:
        """The rate of the calls that a cap counts, in its window; without a cap that of all calls."""
        provider, role = (None, None) if cap is None else (cap.provider, cap.role)
        since = measured_since(self._now, window_start)
        charges = [
            charge
            for charge in self._days
            if since <= charge.day_start <= self._now and provider in (None, charge.provider)
            and role in (None, charge.role)
        ]  # fmt: skip
        if not charges:
            return None
        first = self._first_hour(min(charge.day_start for charge in charges), provider, role)
        tokens, nano = sum(charge.tokens for charge in charges), sum(charge.nano_usd for charge in charges)
        return None if first is None else burn_rate(Charged(first, tokens, nano), self._now)

    def _first_hour(self, day: datetime, provider: str | None, role: str | None) -> datetime | None:
        key = (day, provider, role)
        if key not in self._hours:
            self._hours[key] = first_hour(self._connection, day, provider=provider, role=role)
        return self._hours[key]


def cap_views(connection: Connection, settings: Settings, now: datetime, charges: RecentCharges) -> tuple[CapView, ...]:
    """Every cap of models.yaml as it stands now, the fullest first, each with its pace."""
    caps = [cap for provider in settings.providers.values() for cap in provider_caps(provider, now)]
    views = []
    for cap in (*caps, *shared_caps(settings, now)):
        use = scope_use(connection, CallScope(cap.provider or "", cap.role or "", "run"), cap, now)
        ratio = settings.providers[cap.provider].soft_limit_ratio if cap.provider is not None else None
        views.append(_view(settings, cap, use, ratio, _pace(cap, use, charges, now)))
    return tuple(sorted(views, key=_fullest_first))


def views_of_caps(settings: Settings, standings: Sequence[CapStanding]) -> tuple[CapView, ...]:
    """Caps as people see them, in the order given, without a pace."""
    return tuple(_view(settings, standing.cap, standing.use, standing.soft_limit_ratio, None) for standing in standings)


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


def worse_level(cap: ScopeCap, use: ScopeUse, alert_levels_percent: Sequence[int]) -> Level | None:
    """The level of a cap in tokens or in dollars, whichever is worse; None when it is set in neither."""
    levels = (
        level_of(use.used_tokens, cap.allowance_tokens, alert_levels_percent),
        level_of(use.used_nano, cap.allowance_nano, alert_levels_percent),
    )
    return max((level for level in levels if level is not None), key=_SEVERITY.index, default=None)


def usd_or_none(nano: int | None) -> Decimal | None:
    """Dollars, exactly; None for none."""
    return None if nano is None else usd(nano)


def percent(ratio: Decimal) -> float:
    """A ratio as percent: 0.8 is 80.0."""
    return float(ratio * 100)


def configured_cap(caps: Iterable[WindowCap], window: Window | None) -> WindowCap | None:
    """What models.yaml says for a window; None when it says nothing."""
    return next((cap for cap in caps if cap.window == window), None)


def _view(settings: Settings, cap: ScopeCap, use: ScopeUse, soft_ratio: Decimal | None, pace: Pace | None) -> CapView:
    level = worse_level(cap, use, settings.alert_levels_percent)
    assert level is not None, "a cap is set in tokens or in dollars"
    configured = _configured(settings, cap)
    soft_ratio = soft_ratio if cap.kind == "provider" else None
    return CapView(
        kind=cap.kind,
        label=visible(cap.label, _LABEL_LIMIT),
        provider=cap.provider,
        role=cap.role,
        period=cap.window,
        window_label=None if cap.window is None else cap.scope.rpartition("/")[2],
        used_tokens=use.used_tokens,
        reserved_tokens=use.reserved_tokens,
        cap_tokens=cap.allowance_tokens,
        configured_cap_tokens=configured.tokens,
        percent_of_cap=percent_of(use.used_tokens, cap.allowance_tokens),
        used_usd=usd(use.used_nano),
        cap_usd=usd_or_none(cap.allowance_nano),
        configured_cap_usd=usd_or_none(configured.nano_usd),
        percent_of_cap_usd=percent_of(use.used_nano, cap.allowance_nano),
        level=level,
        soft_limit_percent=None if soft_ratio is None else percent(soft_ratio),
        is_over_soft_limit=soft_ratio is not None and CapStanding(cap, use, soft_ratio).is_over_soft,
        resets_at=cap.resets_at,
        pace=pace,
    )


def _configured(settings: Settings, cap: ScopeCap) -> WindowCap:
    """What a person wrote: for all but providers, which have a share, it is the allowance."""
    provider: ProviderSettings | None = settings.providers.get(cap.provider or "")
    found = configured_cap(provider.caps, cap.window) if cap.kind == "provider" and provider is not None else None
    return found or WindowCap(cap.window or "day", cap.allowance_tokens, cap.allowance_nano)


def _pace(cap: ScopeCap, use: ScopeUse, charges: RecentCharges, now: datetime) -> Pace:
    assert cap.window is not None, "the caps of models.yaml have windows"
    window = window_at(cap.window, now)
    return pace_of(cap, use, charges.burn_rate(cap, window.start), window.end)


def _fullest_first(cap: CapView) -> tuple[float, str, str]:
    return -max(cap.percent_of_cap or 0.0, cap.percent_of_cap_usd or 0.0), cap.label, cap.period or ""
