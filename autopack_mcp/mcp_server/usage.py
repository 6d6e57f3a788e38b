"""The reading tool about money: ``usage_summary``, what was spent in a window against the caps.

It owns which numbers a chat is given and under which names; counting is ``usage``'s and comparing ``summary``'s.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from autopack_mcp.mcp_server.answers import Answer, how_many_fit, known, numbered, short
from autopack_mcp.mcp_server.tool import StrictTool, tool_of
from autopack_mcp.summary.shown import plain, tokens_text, usd_text

if TYPE_CHECKING:
    from autopack_mcp.summary.caps import CapView
    from autopack_mcp.summary.summaries import Summaries
    from autopack_mcp.summary.usage import ModelUsage, ProviderUsage, UsageSummary

NAME_BYTES = 60  # Of a model's or provider's name, which a configuration file gave.
CAP_BYTES = 100  # Of a cap's name, which holds one of these.
# Promised by name (docs/mcp.md): always there, null included.
PROVIDER_FIELDS = (
    "period", "prompt_tokens", "completion_tokens", "total_tokens", "cap_tokens", "percent_of_cap", "resets_at",
    "level", "cost_usd",
)  # fmt: skip
PROVIDER_SIBLINGS = (
    "configured_cap_tokens", "reserved_tokens", "cap_usd", "percent_of_cap_usd", "failed_calls", "unpriced_calls",
)  # fmt: skip
MODEL_FIELDS = ("prompt_tokens", "completion_tokens", "total_tokens")
FULL_FROM_PERCENT = 80.0  # A cap of another period is mentioned when it is that full: it may be what stops a run.


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
    ) -> Answer:
        """Tokens and dollars spent in a UTC day, ISO week or month, by provider (against its cap) and by model."""
        return usage_answer(await self._summaries.usage(period, offset))


def usage_answer(found: UsageSummary) -> Answer:
    """As many rows as fit, the fullest providers and the most used models first."""
    rows = how_many_fit(partial(_answer, found), max(len(found.providers), len(found.models)))
    return _answer(found, rows)


def _answer(found: UsageSummary, rows: int) -> Answer:
    total = len(found.providers) + len(found.models)
    shown = min(rows, len(found.providers)) + min(rows, len(found.models))
    left_out = (
        f"Shown are {shown} of {numbered(total, 'row')}; all are in the resource autopack://usage/{found.period}."
        if shown < total
        else None
    )
    return {
        "headline": _headline(found),
        "period": found.period,
        "window": found.window_label,
        "starts_at": plain(found.starts_at),
        "ends_at": plain(found.ends_at),
        "total_tokens": found.total_tokens,
        "cost_usd": plain(found.cost_usd),
        "providers": [_provider(row) for row in found.providers[:rows]],
        "models": [_model(row) for row in found.models[:rows]],
        "roles": {short(row.role, NAME_BYTES): row.total_tokens for row in found.roles[:rows]},
        "core_tokens": found.core_tokens,
        "auxiliary_tokens": found.auxiliary_tokens,
        "note": found.note,
        **known(
            unpriced_calls=found.unpriced_calls,
            breaches=found.breaches,
            other_caps=[*map(_cap, _other_caps(found)[:rows])],
            truncated=left_out,
        ),
    }


def _headline(found: UsageSummary) -> str:
    capped = [row for row in found.providers if row.percent_of_cap is not None]
    fullest = max(capped, key=lambda row: row.percent_of_cap or 0.0, default=None)
    if fullest is None:
        against = "no cap is set for this period"
    elif not fullest.percent_of_cap:
        against = "no cap is touched"
    else:
        against = f"{short(fullest.provider, NAME_BYTES)} is at {fullest.percent_of_cap:g} % of its cap"
    spent = f"{tokens_text(found.total_tokens)} tokens, {usd_text(found.cost_usd, found.unpriced_calls)}"
    if not (found.total_tokens or found.cost_usd or found.unpriced_calls):
        spent = "nothing was spent"
    return f"In {found.period} {found.window_label}: {spent}; {against}."


def _provider(row: ProviderUsage) -> Answer:
    return {
        "provider": short(row.provider, NAME_BYTES),
        **{name: plain(getattr(row, name)) for name in PROVIDER_FIELDS},
        **known(
            # What weighs against the cap; the same as total_tokens but for calls whose truth is unknown.
            charged_tokens=row.charged_tokens if row.charged_tokens != row.total_tokens else None,
            **{name: plain(getattr(row, name)) for name in PROVIDER_SIBLINGS},
        ),
    }


def _model(row: ModelUsage) -> Answer:
    return {
        "provider": short(row.provider, NAME_BYTES),
        "model": short(row.model, NAME_BYTES),
        **{name: plain(getattr(row, name)) for name in MODEL_FIELDS},
        "cost": plain(row.cost_usd),
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
