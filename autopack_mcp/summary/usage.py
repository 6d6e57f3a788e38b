"""What was spent in a span of time, on whom and on what, set against the caps that are configured now.

It owns UsageSummary; percent, level and pace of a cap are ``caps`` and ``pace``. It counts nothing itself: sums come
from the usage rollups, what is used of a cap from the counter that the ledger compares. Rehearsals are never in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection

from autopack_mcp.budgets.breaches import count_breaches
from autopack_mcp.budgets.caps import CallScope, ScopeCap, provider_caps
from autopack_mcp.budgets.counters import ScopeUse, scope_use
from autopack_mcp.budgets.held import held_by_provider
from autopack_mcp.config.settings import ProviderSettings, Settings, Window
from autopack_mcp.runs.overview import plan_names
from autopack_mcp.summary.alerts import AlertView, alerts_in_window
from autopack_mcp.summary.caps import (
    CapView,
    Level,
    RecentCharges,
    cap_views,
    configured_cap,
    percent,
    percent_of,
    usd_or_none,
    worse_level,
)
from autopack_mcp.summary.notices import config_notice
from autopack_mcp.summary.orders import OrderView, order_views
from autopack_mcp.summary.pace import BurnRate, without_pace
from autopack_mcp.text_safety import visible
from autopack_mcp.usage.service import rehearsed_calls, usage_by_day, usage_by_run, usage_sums
from autopack_mcp.usage.spans import DEFAULT_PERIOD, Moment, UsageSpan, asked_span, days_begun
from autopack_mcp.usage.sums import UsageRow, summed
from autopack_mcp.usage.true_sums import pruned_before

RUNS_UP_TO_CALLS = 5_000  # Each is read for it: some five milliseconds. Everything else is read from sums.
NAME_LIMIT = 120  # Characters of a model's, a role's or a category's name.
REHEARSALS_EXCLUDED = "Rehearsals are not in these numbers: they buy no tokens."

_SHOWN_SUMS = (
    "prompt_tokens", "completion_tokens", "total_tokens", "cost_usd", "calls", "failed_calls", "unpriced_calls",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ProviderUsage:
    """One provider in the span. ``prompt_tokens`` is all input, cached included; ``total_tokens`` adds the output.

    ``charged_tokens`` is what weighs against caps: more than ``total_tokens`` where the truth of a call is unknown.
    ``percent_of_cap`` is of ``charged_tokens + reserved_tokens`` against ``cap_tokens`` (the allowance); see CapView.
    ``level`` is the worse of tokens and dollars, None without a cap in this period. ``period`` and ``resets_at`` are
    None of a stretch that somebody chose: no cap applies to it. ``cost_usd`` is the known cost: None when no call has a
    price.
    """

    provider: str
    period: Window | None
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    charged_tokens: int
    reserved_tokens: int
    cap_tokens: int | None
    configured_cap_tokens: int | None
    percent_of_cap: float | None
    resets_at: datetime | None
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
    """One model in the span; most tokens first."""

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
    """One role in the span. ``is_core`` is true of builder and auditor, false of auxiliary agents."""

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
class CategoryUsage:
    """One task category in the span; "" are calls without one."""

    category: str
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cost_usd: Decimal | None
    calls: int
    failed_calls: int
    unpriced_calls: int


@dataclass(frozen=True, slots=True)
class RunShare:
    """What one run spent in the span, which need not be all that it cost.

    ``plan_name`` is None of a run that another program named when it booked its calls.
    """

    run_id: str
    plan_name: str | None
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cost_usd: Decimal | None
    calls: int
    failed_calls: int
    unpriced_calls: int


@dataclass(frozen=True, slots=True)
class DayUsage:
    """One UTC day of the span, ``date`` as 2026-11-18; a day without calls has zeros. For charts."""

    date: str
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

    ``window_label`` is 2026-11-18, 2026-W47 or 2026-11; of a stretch that somebody chose it is "2026-11-01 to
    2026-11-15", and ``period`` is None. Every configured provider has a row, used or not; ``days`` has every day that
    has begun. ``caps`` are all configured caps of every period as they stand now, fullest first, and ``burn`` is the
    present rate; there are none for anything but the present window. ``breaches`` counts how often a cap was found
    exceeded in the span. ``runs`` are those with calls in the span; None where they were not told apart, and then
    ``runs_note`` says why. ``pace_note`` says of how many caps there is no pace. ``note`` says what is not in these
    numbers, ``rehearsed_calls`` how many calls that are, ``notice`` is RunSummary's. ``orders`` are the standing orders
    in force, in the present window only; ``alerts`` the newest ones raised in the span.
    """

    period: Window | None
    offset: int
    window_label: str
    starts_at: datetime
    ends_at: datetime
    providers: tuple[ProviderUsage, ...]
    models: tuple[ModelUsage, ...]
    roles: tuple[RoleUsage, ...]
    categories: tuple[CategoryUsage, ...]
    days: tuple[DayUsage, ...]
    runs: tuple[RunShare, ...] | None
    runs_note: str
    caps: tuple[CapView, ...]
    burn: BurnRate | None
    core_tokens: int
    core_cost_usd: Decimal | None
    auxiliary_tokens: int
    auxiliary_cost_usd: Decimal | None
    total_tokens: int
    cost_usd: Decimal | None
    calls: int
    unpriced_calls: int
    breaches: int
    note: str
    orders: tuple[OrderView, ...] = ()
    alerts: tuple[AlertView, ...] = ()
    pace_note: str = ""
    notice: str = ""
    rehearsed_calls: int = 0


def usage_summary(
    connection: Connection,
    settings: Settings,
    now: datetime,
    period: str = DEFAULT_PERIOD,
    offset: int = 0,
    *,
    from_: Moment | None = None,
    to: Moment | None = None,
    with_runs: bool = False,
) -> UsageSummary:
    """The window of ``period`` that holds ``now`` or lies ``-offset`` before it, or the stretch between two moments.

    A past window is measured against today's caps; nobody writes down what they were. ``with_runs`` tells runs apart
    whatever that takes; without it that is done up to ``RUNS_UP_TO_CALLS``.

    Raises:
        RequestRefused: what is asked for is no span of past or present time; see ``asked_span``.
    """
    span = asked_span(now, period, offset, from_=from_, to=to)
    sums = usage_sums(connection, span)
    models, roles = sums.by("provider", "model"), sums.by("role").rows()
    core = summed(row for row in roles if row.is_core)
    auxiliary = summed(row for row in roles if not row.is_core)
    whole = summed((core, auxiliary))
    return UsageSummary(
        period=span.window,
        offset=span.offset,
        window_label=span.label,
        starts_at=span.start,
        ends_at=span.end,
        providers=_providers(connection, settings, span, models.by("provider").rows()),
        models=tuple(
            ModelUsage(shown_name(row.provider), shown_name(row.model), **shown_sums(row)) for row in models.rows()
        ),
        roles=tuple(RoleUsage(shown_name(row.role), row.is_core, **shown_sums(row)) for row in roles),
        categories=tuple(
            CategoryUsage(shown_name(row.category), **shown_sums(row)) for row in sums.by("category").rows()
        ),
        days=_days(connection, span, now),
        **_runs(connection, span, whole.calls, with_runs=with_runs),
        **_present(connection, settings, span, now),
        core_tokens=core.total_tokens,
        core_cost_usd=core.cost_usd,
        auxiliary_tokens=auxiliary.total_tokens,
        auxiliary_cost_usd=auxiliary.cost_usd,
        total_tokens=whole.total_tokens,
        cost_usd=whole.cost_usd,
        calls=whole.calls,
        unpriced_calls=whole.unpriced_calls,
        breaches=count_breaches(connection, span.start, span.end),
        note=REHEARSALS_EXCLUDED,
        orders=order_views(connection) if span.is_present else (),
        alerts=alerts_in_window(connection, span.start, span.end),
        notice=config_notice(lambda: settings),
        rehearsed_calls=rehearsed_calls(connection, span),
    )


def shown_sums(row: UsageRow) -> dict[str, Any]:
    """The sums that every row of a summary has, by field."""
    return {name: getattr(row, name) for name in _SHOWN_SUMS}


def shown_name(name: str | None) -> str:
    """A name that others gave, fit to be shown; "" for none."""
    return visible(name or "", NAME_LIMIT)


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _providers(
    connection: Connection, settings: Settings, span: UsageSpan, rows: Iterable[UsageRow]
) -> tuple[ProviderUsage, ...]:
    used = {row.provider or "": row for row in rows}
    held = held_by_provider(connection, span.start, span.end)
    found = []
    for name in settings.providers.keys() | used.keys() | held.keys():
        row = used.get(name, UsageRow())
        provider = settings.providers.get(name)
        cap = _cap_of(provider, span)
        if cap is None:
            use = ScopeUse(row.charged_tokens, held.get(name, 0))
        else:
            use = scope_use(connection, CallScope(name, "", "run"), cap, span.start)
        found.append(_provider_usage(settings, span, name, row, cap, use))
    return tuple(sorted(found, key=_most_used_first))


def _provider_usage(
    settings: Settings, span: UsageSpan, name: str, row: UsageRow, cap: ScopeCap | None, use: ScopeUse
) -> ProviderUsage:
    provider = settings.providers.get(name)
    configured = None if provider is None else configured_cap(provider.caps, span.window)
    allowance_tokens, allowance_nano = (None, None) if cap is None else (cap.allowance_tokens, cap.allowance_nano)
    return ProviderUsage(
        provider=shown_name(name),
        period=span.window,
        charged_tokens=use.settled_tokens,
        reserved_tokens=use.reserved_tokens,
        cap_tokens=allowance_tokens,
        configured_cap_tokens=None if configured is None else configured.tokens,
        percent_of_cap=percent_of(use.used_tokens, allowance_tokens),
        resets_at=None if span.window is None else span.end,
        level=None if cap is None else worse_level(cap, use, settings.alert_levels_percent),
        soft_limit_percent=None if provider is None else percent(provider.soft_limit_ratio),
        cap_usd=usd_or_none(allowance_nano),
        configured_cap_usd=None if configured is None else usd_or_none(configured.nano_usd),
        percent_of_cap_usd=percent_of(use.used_nano, allowance_nano),
        **shown_sums(row),
    )


def _cap_of(provider: ProviderSettings | None, span: UsageSpan) -> ScopeCap | None:
    """The provider's cap of this window, None where it has none or the span is no window."""
    caps = () if provider is None else provider_caps(provider, span.start)
    return next((cap for cap in caps if cap.window == span.window), None)


def _days(connection: Connection, span: UsageSpan, now: datetime) -> tuple[DayUsage, ...]:
    used = usage_by_day(connection, span)
    nothing = UsageRow()
    return tuple(
        DayUsage(day.date().isoformat(), **shown_sums(used.get(day, nothing)))
        # A clock that was set back leaves calls on days that have not come yet; they are in the sums and so here.
        for day in sorted({*days_begun(span, now), *used})
    )


def _runs(connection: Connection, span: UsageSpan, calls: int, *, with_runs: bool) -> dict[str, Any]:
    kept_since = pruned_before(connection)
    if kept_since is not None and span.start < kept_since:
        return {"runs": None, "runs_note": f"Calls before {kept_since:%Y-%m-%d} went by age; runs are not told apart."}
    if calls > RUNS_UP_TO_CALLS and not with_runs:
        return {"runs": None, "runs_note": f"More than {RUNS_UP_TO_CALLS:,} calls: runs are told apart for less time."}
    rows = usage_by_run(connection, span)
    names = plan_names(connection, [row.run_id for row in rows if row.run_id is not None]) if rows else {}
    runs = (
        RunShare(shown_name(row.run_id), _plan_name(names.get(row.run_id or "")), **shown_sums(row)) for row in rows
    )
    return {"runs": tuple(runs), "runs_note": ""}


def _plan_name(name: str | None) -> str | None:
    return None if name is None else shown_name(name)


def _present(connection: Connection, settings: Settings, span: UsageSpan, now: datetime) -> dict[str, Any]:
    """What is said of the present only: every cap as it stands, and the rate of the last hours."""
    if not span.is_present:
        return {"caps": (), "burn": None}
    charges = RecentCharges(connection, now)
    caps = cap_views(connection, settings, now, charges)
    pace_note = without_pace(cap.pace for cap in caps)
    return {"caps": caps, "burn": charges.burn_rate(), "pace_note": pace_note}


def _most_used_first(row: ProviderUsage) -> tuple[float, int, str]:
    fullness = max(row.percent_of_cap or 0.0, row.percent_of_cap_usd or 0.0)
    return -fullness, -row.total_tokens, row.provider
