"""Dollars in words: one rule, whoever writes them."""

from __future__ import annotations

import pytest

from autopack_mcp.budgets.measures import amount
from autopack_mcp.money import dollars_text, exact_dollars_text, usd
from autopack_mcp.summary.shown import usd_text


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.00"),
        (1, "less than $0.0001"),
        (99_999, "less than $0.0001"),
        (100_000, "$0.0001"),
        (4_200_000, "$0.0042"),
        (5_000_000, "$0.0050"),
        (50_000_000, "$0.05"),
        (420_000_000, "$0.42"),
        (423_700_000, "$0.4237"),
        (999_940_000, "$0.9999"),
        (1_000_000_000, "$1.00"),
        (5_001_000_000, "$5.00"),
        (1_234_567_890_000, "$1,234.57"),
    ],
)
def test_dollars_are_written_so_that_a_person_sees_a_difference(nano: int, text: str) -> None:
    assert dollars_text(usd(nano)) == text


@pytest.mark.parametrize("nano", [0, 99_999, 4_200_000, 420_000_000, 5_000_000_000])
def test_a_denial_and_a_summary_write_the_same_dollars_alike(nano: int) -> None:
    assert amount("nano_usd", nano) == usd_text(usd(nano)) == dollars_text(usd(nano))


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (25_000, "$0.000025"),
        (2_500_000, "$0.0025"),
        (500_000_000, "$0.50"),
        (5_000_000_000, "$5.00"),
        (5_001_000_000, "$5.001"),
        (1_300_000_000_000, "$1,300.00"),
    ],
)
def test_what_a_person_has_set_is_written_exactly(nano: int, text: str) -> None:
    assert exact_dollars_text(usd(nano)) == text


def test_one_token_is_one_token() -> None:
    assert (amount("tokens", 1), amount("tokens", 1_200)) == ("1 token", "1,200 tokens")
