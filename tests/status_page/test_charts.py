"""History as bars: each as high as its day, none outside the picture, none where there is nothing to compare."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.status_page import rendering
from autopack_mcp.status_page.charts import BARS_LIMIT, amount_words, day_chart
from autopack_mcp.summary.usage import DayUsage
from tests.factories import NOON
from tests.status_page.html import read_html
from tests.status_page.samples import day_usage, usage_summary


def days(*tokens: int, **overrides: Any) -> tuple[DayUsage, ...]:
    """Days that follow each other, each with so many tokens at a thousandth of a dollar."""
    first = date(2026, 11, 1)
    return tuple(
        day_usage(
            (first + timedelta(days=number)).isoformat(),
            **{"total_tokens": used, "cost_usd": Decimal(used) / 1000, "calls": used, "unpriced_calls": 0, **overrides},
        )
        for number, used in enumerate(tokens)
    )


def test_a_bar_is_as_high_as_its_day() -> None:
    chart = day_chart(days(100, 0, 50, 25))
    assert chart is not None
    assert [(bar.label, bar.tokens, bar.tokens_share, bar.cost_share) for bar in chart.bars] == [
        ("2026-11-01", 100, 100.0, 100.0),
        ("2026-11-02", 0, 0.0, 0.0),
        ("2026-11-03", 50, 50.0, 50.0),
        ("2026-11-04", 25, 25.0, 25.0),
    ]
    assert [bar.x_share for bar in chart.bars] == [0, 25, 50, 75]
    assert (amount_words(chart, "tokens"), amount_words(chart, "cost")) == ("100 tokens", "$0.10")


def test_days_that_do_not_fit_share_a_bar_and_nothing_is_lost() -> None:
    chart = day_chart(days(*range(1, 2 * BARS_LIMIT + 2)))
    assert chart is not None
    assert (chart.days_per_bar, len(chart.bars)) == (3, 42)
    assert (chart.bars[0].label, chart.bars[0].tokens) == ("2026-11-01 to 2026-11-03", 6)
    assert sum(bar.tokens for bar in chart.bars) == sum(range(1, 2 * BARS_LIMIT + 2))


def test_unknown_prices_are_no_bar_and_no_zero() -> None:
    chart = day_chart(days(10, 20, cost_usd=None, unpriced_calls=3))
    assert chart is not None
    assert [(bar.cost, bar.cost_share) for bar in chart.bars] == [("unpriced", 0.0)] * 2
    assert chart.cost_most is None


def test_a_bar_of_several_days_keeps_what_is_known_of_their_cost() -> None:
    known = days(*([0] * BARS_LIMIT), 5)
    chart = day_chart((day_usage("2026-10-31", cost_usd=None, unpriced_calls=2), *known))
    assert chart is not None
    assert chart.bars[0].cost == "unpriced"
    assert chart.bars[-1].cost == "$0.0050"


@pytest.mark.parametrize("few", [(), (5,), (0, 0, 0)], ids=["no day", "one day", "no call"])
def test_nothing_is_drawn_where_nothing_can_be_compared(few: tuple[int, ...]) -> None:
    assert day_chart(days(*few)) is None


@given(st.lists(st.integers(0, 10**12), min_size=2, max_size=400))
def test_no_bar_leaves_the_picture(tokens: list[int]) -> None:
    chart = day_chart(days(*tokens))
    if chart is None:
        assert not any(tokens)
        return
    assert len(chart.bars) <= BARS_LIMIT
    for bar in chart.bars:
        assert 0 <= bar.tokens_share <= 100
        assert 0 <= bar.cost_share <= 100
        assert 0 <= bar.x_share < bar.x_share + bar.width_share <= 100.0001


def test_the_page_has_the_bars_and_their_numbers_as_a_table() -> None:
    document = read_html(rendering.usage_page(usage_summary(days=days(100, 0, 50)), NOON))
    assert [element.tag for element in document.elements].count("rect") >= 6
    assert "As a table Day Tokens Cost 2026-11-01 100 $0.10 2026-11-02 0 $0.00 2026-11-03 50 $0.05" in document.words()
    assert "Tokens, at most 100 tokens a day" in document.words()
