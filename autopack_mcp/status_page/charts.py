"""History drawn as bars: days of a usage summary as the shares of a small picture, with the words beside them.

Pure: it adds up days where there are more than bars fit, and divides; what a day cost is the summary's. ``rendering``
is its caller; the templates draw shares with attributes, because the page's policy forbids style attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from autopack_mcp.summary.shown import tokens_text, usd_text
from autopack_mcp.summary.usage import DayUsage

BARS_LIMIT = 62  # Two months: more bars than that are thinner than a finger and a screen reader's patience.
_GAP_SHARE = 0.2  # Of a bar's place, left free beside it.


@dataclass(frozen=True, slots=True)
class DayBar:
    """One day, or several that follow each other; shares are percent of the picture's width and height."""

    label: str
    tokens: int
    cost: str
    x_share: float
    width_share: float
    tokens_share: float
    cost_share: float


@dataclass(frozen=True, slots=True)
class DayChart:
    """Bars from the oldest on. ``tokens_most`` and ``cost_most`` are what a bar of full height stands for."""

    bars: tuple[DayBar, ...]
    days_per_bar: int
    tokens_most: int
    cost_most: str | None


def day_chart(days: Sequence[DayUsage]) -> DayChart | None:
    """The days as bars; None where there is nothing to compare: less than two days, or no call on any."""
    if len(days) < 2 or not any(day.calls for day in days):
        return None
    per_bar = -(-len(days) // BARS_LIMIT)
    groups = [days[first : first + per_bar] for first in range(0, len(days), per_bar)]
    tokens = [sum(day.total_tokens for day in group) for group in groups]
    costs = [_cost(group) for group in groups]
    most_tokens, most_cost = max(tokens), max((cost for cost in costs if cost is not None), default=Decimal(0))
    place = 100 / len(groups)
    bars = tuple(
        DayBar(
            label=_label(group),
            tokens=used,
            cost=usd_text(cost, sum(day.unpriced_calls for day in group)),
            x_share=number * place,
            width_share=place * (1 - _GAP_SHARE),
            tokens_share=_share(used, most_tokens),
            cost_share=_share(cost or 0, most_cost),
        )
        for number, (group, used, cost) in enumerate(zip(groups, tokens, costs, strict=True))
    )
    return DayChart(bars, per_bar, most_tokens, usd_text(most_cost) if most_cost else None)


def amount_words(chart: DayChart, of: Literal["tokens", "cost"]) -> str:
    """What a bar of full height stands for: "12,345 tokens", "$0.42"."""
    return f"{tokens_text(chart.tokens_most)} tokens" if of == "tokens" else chart.cost_most or ""


def _cost(days: Sequence[DayUsage]) -> Decimal | None:
    """The known cost of several days; None when none of their calls has a price."""
    known = [day.cost_usd for day in days if day.cost_usd is not None and day.calls]
    return sum(known, Decimal(0)) if known or not any(day.calls for day in days) else None


def _label(days: Sequence[DayUsage]) -> str:
    first, last = days[0].date, days[-1].date
    return first if first == last else f"{first} to {last}"


def _share(part: int | Decimal, most: int | Decimal) -> float:
    return float(100 * part / most) if most else 0.0
