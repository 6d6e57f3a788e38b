"""The reading tool about money: ``usage_summary``, what was spent in a span of time or by a run, against the caps.

It owns which numbers a chat is given and under which names; counting is ``usage``'s and comparing ``summary``'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from autopack_mcp.mcp_server.answers import RESULT_BYTES, Answer, how_many_fit, known, numbered, result_bytes, short
from autopack_mcp.mcp_server.orders import alerts_shown, orders_shown
from autopack_mcp.mcp_server.tool import StrictTool, tool_of
from autopack_mcp.summary.shown import plain, tokens_text, usd_text
from autopack_mcp.usage.spans import bounds_of

if TYPE_CHECKING:
    from autopack_mcp.summary.caps import CapView
    from autopack_mcp.summary.run_usage import PhaseUsage, RunUsage, TierUsage
    from autopack_mcp.summary.summaries import Summaries
    from autopack_mcp.summary.usage import ModelUsage, ProviderUsage, RunShare, UsageSummary

NAME_BYTES = 60  # Of a model's or provider's name, which a configuration file gave.
CAP_BYTES = 100  # Of a cap's name, which holds one of these.
SAYS_BYTES = 200  # Of the sentence on a cap's pace.
# Promised by name (docs/mcp.md): always there, null included.
PROVIDER_FIELDS = (
    "period", "prompt_tokens", "completion_tokens", "total_tokens", "cap_tokens", "percent_of_cap", "resets_at",
    "level", "cost_usd",
)  # fmt: skip
PROVIDER_SIBLINGS = (
    "configured_cap_tokens", "reserved_tokens", "cap_usd", "percent_of_cap_usd", "failed_calls", "unpriced_calls",
)  # fmt: skip
MODEL_FIELDS = ("prompt_tokens", "completion_tokens", "total_tokens")
FULL_FROM_PERCENT = 80.0  # A cap of another kind or period is mentioned when it is that full: it may stop a run.


class UsageTools:
    """The one tool."""

    def __init__(self, summaries: Summaries) -> None:
        self._summaries = summaries

    def tools(self) -> list[StrictTool]:
        """It, in a list."""
        return [tool_of(self.usage_summary, title="Usage and caps")]

    async def usage_summary(
        self,
        period: Literal["day", "week", "month"] = "week",
        offset: Annotated[int, Field(description="-1: the one before")] = 0,
        from_: Annotated[str | None, Field(alias="from", description="Date, replaces period")] = None,
        to: str | None = None,
        run_id: str | None = None,
    ) -> Answer:
        """Tokens and dollars of a UTC day, ISO week, month, dates or a run: by provider (against caps), model, role.

        A run's are told apart by tier and phase.
        """
        if run_id is not None:
            return run_usage_answer(await self._summaries.run_usage(run_id))
        return usage_answer(await self._summaries.usage(period, offset, from_=from_, to=to))


def usage_answer(found: UsageSummary) -> Answer:
    """As many rows as fit, the fullest providers and the most used models first; days only when all of it fits."""
    most = max(map(len, _groups(found)))
    whole = _answer(found, most, with_days=True)
    if result_bytes(whole) <= RESULT_BYTES:
        return whole
    return _answer(found, how_many_fit(partial(_answer, found), most))


def run_usage_answer(found: RunUsage) -> Answer:
    """As many phases as fit, the dearest first, and every tier while there is room."""
    rows = how_many_fit(partial(_run_answer, found), max(len(found.tiers), len(found.phases), len(found.models), 1))
    return _run_answer(found, rows)


# ── a span of time ───────────────────────────────────────────────────────────────────────────────────────────────────


def _groups(found: UsageSummary) -> tuple[Sequence[object], ...]:
    return found.providers, found.models, found.roles, found.categories, found.runs or (), found.orders, found.alerts


def _answer(found: UsageSummary, rows: int, *, with_days: bool = False) -> Answer:
    return {
        "headline": _headline(found),
        "period": found.period,
        "window": found.window_label,
        "starts_at": plain(found.starts_at),
        "ends_at": plain(found.ends_at),
        "total_tokens": found.total_tokens,
        "cost_usd": plain(found.cost_usd),
        "providers": [_provider(row, _own_cap(found, row)) for row in found.providers[:rows]],
        "models": [_model(row) for row in found.models[:rows]],
        "roles": {short(row.role, NAME_BYTES): row.total_tokens for row in found.roles[:rows]},
        "core_tokens": found.core_tokens,
        "auxiliary_tokens": found.auxiliary_tokens,
        "note": found.note,
        **known(
            notice=short(found.notice, SAYS_BYTES * 2),
            categories={short(row.category or "none", NAME_BYTES): row.total_tokens for row in found.categories[:rows]},
            runs=[*map(_run, (found.runs or ())[:rows])],
            runs_note=found.runs_note,
            days={day.date: day.total_tokens for day in found.days} if with_days and len(found.days) > 1 else None,
            burn=None if found.burn is None else {
                "tokens_per_hour": found.burn.tokens_per_hour,
                "usd_per_hour": plain(found.burn.usd_per_hour),
                "since": plain(found.burn.measured_from),
            },
            unpriced_calls=found.unpriced_calls,
            breaches=found.breaches,
            other_caps=[*map(_cap, _other_caps(found)[:rows])],
            orders=orders_shown(found.orders, rows, SAYS_BYTES),
            alerts=alerts_shown(found.alerts, rows, SAYS_BYTES),
            truncated=_left_out(found, rows, with_days=with_days),
        ),
    }  # fmt: skip


def _left_out(found: UsageSummary, rows: int, *, with_days: bool) -> str | None:
    """What is not in an answer with so many rows of each kind, and where it stands."""
    total = sum(map(len, _groups(found)))
    shown = sum(min(rows, len(group)) for group in _groups(found))
    if shown == total and (with_days or len(found.days) < 2):
        return None
    left = f"Shown are {shown} of {numbered(total, 'row')}, and no days" if shown < total else "Days are not shown"
    return f"{left}; all are in the resource {usage_address(found)}."


def usage_address(found: UsageSummary) -> str:
    """The resource that holds the same, whole."""
    if found.period is not None:
        return f"autopack://usage/{found.period}{found.offset or ''}"
    return f"autopack://usage/{'..'.join(bounds_of(found.starts_at, found.ends_at))}"


def _headline(found: UsageSummary) -> str:
    capped = [row for row in found.providers if row.percent_of_cap is not None]
    fullest = max(capped, key=lambda row: row.percent_of_cap or 0.0, default=None)
    if fullest is None:
        against = "no cap applies to it" if found.period is None else "no cap is set for this period"
    elif not fullest.percent_of_cap:
        against = "no cap is touched"
    else:
        against = f"{short(fullest.provider, NAME_BYTES)} is at {fullest.percent_of_cap:g} % of its cap"
        cap = _own_cap(found, fullest)
        if cap is not None and cap.pace is not None and cap.pace.reached_at is not None:
            against += f" and reaches it on {cap.pace.reached_at:%Y-%m-%d %H:%M} UTC at this pace"
    spent = f"{tokens_text(found.total_tokens)} tokens, {usd_text(found.cost_usd, found.unpriced_calls)}"
    if not (found.total_tokens or found.cost_usd or found.unpriced_calls):
        spent = "nothing was spent"
    when = f"In {found.period} {found.window_label}" if found.period else f"From {found.window_label}"
    return f"{when}: {spent}; {against}."


def _provider(row: ProviderUsage, cap: CapView | None) -> Answer:
    return {
        "provider": short(row.provider, NAME_BYTES),
        **{name: plain(getattr(row, name)) for name in PROVIDER_FIELDS},
        **known(
            # What weighs against the cap; the same as total_tokens but for calls whose truth is unknown.
            charged_tokens=row.charged_tokens if row.charged_tokens != row.total_tokens else None,
            **{name: plain(getattr(row, name)) for name in PROVIDER_SIBLINGS},
            pace=None if cap is None or cap.pace is None else short(cap.pace.says, SAYS_BYTES) or None,
        ),
    }


def _own_cap(found: UsageSummary, row: ProviderUsage) -> CapView | None:
    """The cap that a provider's row is measured against; None in a past window, whose caps are not paced."""
    own = (cap for cap in found.caps if (cap.kind, cap.provider, cap.period) == ("provider", row.provider, row.period))
    return next(own, None)


def _model(row: ModelUsage) -> Answer:
    return {
        "provider": short(row.provider, NAME_BYTES),
        "model": short(row.model, NAME_BYTES),
        **{name: plain(getattr(row, name)) for name in MODEL_FIELDS},
        "cost": plain(row.cost_usd),
    }


def _run(row: RunShare) -> Answer:
    return {
        "run_id": short(row.run_id, NAME_BYTES),
        "total_tokens": row.total_tokens,
        "cost_usd": plain(row.cost_usd),
    }


def _cap(cap: CapView) -> Answer:
    return known(
        cap=short(cap.label, CAP_BYTES),
        percent_of_cap=cap.percent_of_cap,
        percent_of_cap_usd=cap.percent_of_cap_usd,
        level=cap.level,
        resets_at=plain(cap.resets_at),
    )


def _other_caps(found: UsageSummary) -> list[CapView]:
    return [cap for cap in found.caps if (cap.kind, cap.period) != ("provider", found.period) and _is_full(cap)]


def _is_full(cap: CapView) -> bool:
    return max(cap.percent_of_cap or 0.0, cap.percent_of_cap_usd or 0.0) >= FULL_FROM_PERCENT


# ── one run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _run_answer(found: RunUsage, rows: int) -> Answer:
    used = sorted((phase for phase in found.phases if phase.calls), key=lambda phase: -phase.total_tokens)
    total = len(found.tiers) + len(used) + len(found.models)
    shown = min(rows, len(found.tiers)) + min(rows, len(used)) + min(rows, len(found.models))
    left_out = f"Shown are {shown} of {numbered(total, 'row')}; all are in the resource autopack://runs/{{}}/usage."
    spent = f"{tokens_text(found.total_tokens)} tokens, {usd_text(found.cost_usd, found.unpriced_calls)}"
    return {
        "headline": f"Run {short(found.run_id, NAME_BYTES)}: {spent}.",
        "run_id": short(found.run_id, NAME_BYTES),
        "total_tokens": found.total_tokens,
        "charged_tokens": found.charged_tokens,
        "cost_usd": plain(found.cost_usd),
        "tiers": [_tier(tier) for tier in found.tiers[:rows]],
        "phases": [_phase(phase) for phase in used[:rows]],
        "models": [_model(row) for row in found.models[:rows]],
        "roles": {short(row.role, NAME_BYTES): row.total_tokens for row in found.roles[:rows]},
        **known(
            unpriced_calls=found.unpriced_calls,
            note=found.note,
            truncated=left_out.format(short(found.run_id, NAME_BYTES)) if shown < total else None,
        ),
    }


def _tier(tier: TierUsage) -> Answer:
    name = tier.tier_name or ("" if tier.tier_index else "outside any tier")
    return {"tier": tier.tier_index, "name": short(name, NAME_BYTES), **_spent(tier)}


def _phase(phase: PhaseUsage) -> Answer:
    return {
        "phase_id": short(phase.phase_id or "none", NAME_BYTES),
        **known(name=short(phase.name, NAME_BYTES), tier=phase.tier_index),
        **_spent(phase),
    }


def _spent(row: TierUsage | PhaseUsage) -> Answer:
    return {"total_tokens": row.total_tokens, "cost_usd": plain(row.cost_usd), "calls": row.calls}
