"""Sums under keys: added up under fewer of them they stay the same, and what has no price has no cost."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.usage.sums import COUNTS, KeyedSums, Spent, UsageRow, grouped, summed

keys = st.tuples(*(st.sampled_from(["a", "b", ""]) for _ in range(3)))
counts = st.tuples(*(st.integers(0, 10**12) for _ in COUNTS))
found = st.lists(st.builds(lambda key, sums: (*key, *sums), keys, counts), max_size=20)


@given(found, st.sampled_from([(), ("role",), ("provider", "role"), ("role", "provider", "model")]))
def test_nothing_is_lost_under_fewer_keys(rows: list[tuple[str | int, ...]], fewer: tuple[str, ...]) -> None:
    sums = KeyedSums.of(("provider", "model", "role"), rows)
    whole = summed(sums.rows())
    some = sums.by(*fewer).rows()
    assert summed(some) == whole
    assert [getattr(whole, name) for name in COUNTS] == [
        sum(int(row[3 + place]) for row in rows) for place in range(len(COUNTS))
    ]
    assert len({tuple(getattr(row, key) for key in fewer) for row in some}) == len(some)
    assert grouped(sums.rows(), *fewer) == some


@given(found)
def test_rows_come_most_tokens_first_then_by_key(rows: list[tuple[str | int, ...]]) -> None:
    shown = KeyedSums.of(("provider", "model", "role"), rows).rows()
    order = [(-row.total_tokens, row.provider, row.model, row.role) for row in shown]
    assert order == sorted(order)


def test_a_sum_of_nothing_is_nothing() -> None:
    assert summed(()) == UsageRow()
    assert UsageRow().cost_usd == Decimal(0)


@pytest.mark.parametrize(
    "calls, unpriced_calls, cost_usd",
    [(2, 0, Decimal(3)), (2, 1, Decimal(3)), (2, 2, None), (0, 0, Decimal(3))],
    ids=["all priced", "some priced", "none priced", "no call"],
)
def test_a_cost_is_that_of_the_priced_calls_or_unknown(
    calls: int, unpriced_calls: int, cost_usd: Decimal | None
) -> None:
    assert UsageRow(calls=calls, unpriced_calls=unpriced_calls, cost_nano=3 * 10**9).cost_usd == cost_usd
    assert Spent(calls, unpriced_calls, 0, 3 * 10**9).cost_usd == cost_usd
