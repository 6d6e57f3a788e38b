"""Token counts: disjoint buckets that add up, and numbers that cannot be are not built."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.errors import ImpossibleTokenCounts
from autopack_mcp.usage.event import ReportedUsage, TokenCounts, UsageLine
from tests.factories import token_counts, usage_event

BUCKETS = [field.name for field in fields(TokenCounts)]


@st.composite
def possible_counts(draw: st.DrawFn) -> TokenCounts:
    tokens = st.integers(0, 10**9)
    inputs = {name: draw(tokens) for name in BUCKETS if name not in ("output", "reasoning")}
    output = draw(tokens)
    return TokenCounts(**inputs, output=output, reasoning=draw(st.integers(0, output)))


def test_input_is_everything_the_model_read_and_reasoning_is_a_part_of_the_output() -> None:
    counts = TokenCounts(
        uncached_input=1, cache_read=10, cache_write_5m=100, cache_write_1h=1_000, cache_write_other=10_000,
        output=100_000, reasoning=70_000,
    )  # fmt: skip
    assert counts.cache_write == 11_100
    assert counts.total_input == 11_111
    assert counts.total == 111_111


@pytest.mark.parametrize("bucket", BUCKETS)
def test_a_negative_count_cannot_be_built(bucket: str) -> None:
    with pytest.raises(ImpossibleTokenCounts) as caught:
        token_counts(**{bucket: -1})
    assert caught.value.child == (bucket, -1)


@pytest.mark.parametrize("reasoning, possible", [(39, True), (40, True), (41, False)], ids=["less", "all", "more"])
def test_reasoning_cannot_exceed_the_output_it_is_a_part_of(reasoning: int, *, possible: bool) -> None:
    if possible:
        assert token_counts(output=40, reasoning=reasoning).total == 100
        return
    with pytest.raises(ImpossibleTokenCounts, match="reasoning = 41 does not fit into output = 40"):
        token_counts(output=40, reasoning=reasoning)


@pytest.mark.parametrize("cost, possible", [(None, True), (0, True), (-1, False)], ids=["unknown", "free", "negative"])
def test_a_cost_is_unknown_or_not_negative(cost: int | None, *, possible: bool) -> None:
    if possible:
        assert usage_event(cost_nano=cost).cost_nano == cost
        return
    with pytest.raises(ImpossibleTokenCounts):
        usage_event(cost_nano=cost)


@given(possible_counts(), possible_counts())
def test_counts_add_up_bucket_by_bucket(one: TokenCounts, other: TokenCounts) -> None:
    both = one + other
    assert both == other + one
    assert both + TokenCounts() == both
    assert (both.total_input, both.total) == (one.total_input + other.total_input, one.total + other.total)
    assert all(getattr(both, name) == getattr(one, name) + getattr(other, name) for name in BUCKETS)


def test_what_a_call_reports_is_the_sum_of_its_lines() -> None:
    usage = ReportedUsage(
        lines=(
            UsageLine("claude-opus", token_counts(uncached_input=220, output=30)),
            UsageLine("claude-haiku", token_counts(uncached_input=55_196, output=4)),
        )
    )
    assert usage.counts == token_counts(uncached_input=55_416, output=34)
