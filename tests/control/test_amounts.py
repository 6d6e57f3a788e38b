"""Amounts as people write them: exact, or refused with what would be understood."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.control.amounts import LARGEST, Amount, read_amount, read_tokens
from autopack_mcp.errors import RequestRefused

DOLLAR = 1_000_000_000


@pytest.mark.parametrize(
    "text, unit, count",
    [
        ("80%", "percent", 80),
        (" 80 % ", "percent", 80),
        ("80 Percent", "percent", 80),
        ("1%", "percent", 1),
        ("100%", "percent", 100),
        ("90.0%", "percent", 90),
        ("$5", "nano_usd", 5 * DOLLAR),
        ("$ 5.50", "nano_usd", 5_500_000_000),
        ("5 USD", "nano_usd", 5 * DOLLAR),
        ("usd 5", "nano_usd", 5 * DOLLAR),
        ("5$", "nano_usd", 5 * DOLLAR),
        ("1 dollar", "nano_usd", DOLLAR),
        ("$1,250.75", "nano_usd", 1_250_750_000_000),
        ("$0.000000001", "nano_usd", 1),
        ("200000 tokens", "tokens", 200_000),
        ("200,000 tokens", "tokens", 200_000),
        ("200k", "tokens", 200_000),
        ("200 K tokens", "tokens", 200_000),
        ("1.5M", "tokens", 1_500_000),
        ("1 token", "tokens", 1),
    ],
)
def test_an_amount_is_read_exactly(text: str, unit: str, count: int) -> None:
    found = read_amount(text)
    assert (found.unit, found.count) == (unit, count)


@pytest.mark.parametrize(
    "text, said",
    [
        ("200000", "'200000' of what? It has no unit."),
        ("1,000", "It has no unit."),
        ("", "The amount '' cannot be read."),
        ("a lot", "The amount 'a lot' cannot be read."),
        ("20,00 USD", "cannot be read"),
        ("0,5 USD", "cannot be read"),
        ("-5 USD", "cannot be read"),
        ("5 EUR", "cannot be read"),
        ("80%%", "cannot be read"),
        ("$5 tokens", "cannot be read"),
        ("1e6 tokens", "cannot be read"),
        ("٥ tokens", "cannot be read"),
        ("nan%", "cannot be read"),
        ("0%", "'0%' is not between 1 % and 100 % of a cap."),
        ("101%", "is not between 1 % and 100 %"),
        ("79.5%", "is finer than what is counted"),
        ("0.5 tokens", "is finer than what is counted"),
        ("0.0000000001 USD", "is finer than what is counted"),
        ("$0", "'$0' would stop everything."),
        ("0 tokens", "would stop everything"),
        (f"{LARGEST + 1} tokens", "would never be reached"),
        ("$1,000,001", "would never be reached"),
        ("\u202e80%", "'\\\\u202e80%' cannot be read"),
        ("9" * 500 + "k", "would never be reached"),
    ],
)  # fmt: skip
def test_an_amount_that_is_none_is_refused_with_the_ways_to_write_one(text: str, said: str) -> None:
    with pytest.raises(RequestRefused) as caught:
        read_amount(text)
    assert said in caught.value.message
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("text", "tokens"), [("18000", 18_000), ("18,000", 18_000), (" 18k ", 18_000), ("1.5M", 1_500_000), ("7 tokens", 7)]
)
def test_where_only_tokens_are_counted_a_bare_number_is_one(text: str, tokens: int) -> None:
    assert read_tokens(text) == tokens


@pytest.mark.parametrize("text", ["80%", "$5", "1.5", "many", "-5", ""])
def test_what_is_no_amount_of_tokens_is_refused_there(text: str) -> None:
    with pytest.raises(RequestRefused):
        read_tokens(text)


@given(st.text(max_size=30))
def test_any_text_is_an_amount_or_refused(text: str) -> None:
    try:
        found = read_amount(text)
    except RequestRefused:
        return
    assert isinstance(found, Amount)
    assert 0 < found.count <= LARGEST


@given(st.integers(1, LARGEST))
def test_every_count_of_tokens_comes_back_as_it_was_written(tokens: int) -> None:
    assert read_amount(f"{tokens:,} tokens") == read_amount(f"{tokens} tokens") == Amount("tokens", tokens)
