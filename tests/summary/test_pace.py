"""When a cap is reached at this pace: measured in whole hours, worked out in integers, and honest when unknown."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.budgets.counters import ScopeUse
from autopack_mcp.money import NANO_PER_USD
from autopack_mcp.summary.pace import BurnRate, Pace, burn_rate, pace_of
from autopack_mcp.usage.service import HourCharge
from autopack_mcp.usage.windows import window_at
from tests.factories import NOON, window_cap

HOUR = timedelta(hours=1)
WEEK = window_at("week", NOON)
DAY = window_at("day", NOON)


def charge(hours_ago: float, tokens: int, nano_usd: int = 0) -> HourCharge:
    """What was charged in the hour that began so many hours before noon."""
    return HourCharge(NOON - hours_ago * HOUR, "openai", tokens, nano_usd)


def pace(*charges: HourCharge, tokens: int | None = 1_000, nano_usd: int | None = None, used: ScopeUse | None = None,
         now: datetime = NOON) -> Pace:  # fmt: skip
    """The pace of a week's cap of which ``used`` is gone."""
    cap = window_cap(tokens=tokens, nano_usd=nano_usd)
    return pace_of(cap, used or ScopeUse(), burn_rate(charges, now, WEEK.start), WEEK.end)


def test_what_is_left_goes_at_the_rate_of_the_hours_measured() -> None:
    found = pace(charge(5, 100), charge(2, 400), used=ScopeUse(settled_tokens=500))
    # 500 tokens in 5 hours, 500 are left: they last 5 hours.
    assert (found.reached_at, found.unit) == (NOON + 5 * HOUR, "tokens")
    assert found.burn == BurnRate(NOON - 5 * HOUR, NOON, 500, Decimal(0), 100, Decimal(0))
    assert found.says == (
        "At this pace it is reached on 2026-11-18 17:00 UTC: 500 tokens since 2026-11-18 07:00 UTC, 100 an hour."
    )


def test_what_calls_in_flight_hold_is_gone_and_is_no_rate() -> None:
    found = pace(charge(5, 500), used=ScopeUse(settled_tokens=500, reserved_tokens=250))
    assert found.reached_at == NOON + 2.5 * HOUR
    assert found.burn is not None
    assert found.burn.tokens == 500


def test_the_moment_is_cut_to_the_minute_and_never_too_late() -> None:
    found = pace(charge(1, 700), used=ScopeUse(settled_tokens=700))
    # 300 of 700 an hour: 25 minutes 42.86 seconds.
    assert found.reached_at == NOON + timedelta(minutes=25)


@pytest.mark.parametrize(
    "settled, reached_at",
    [(999, NOON + timedelta(minutes=3)), (1_000, None), (1_001, None)],
    ids=["one token left", "none left", "exceeded"],
)
def test_a_cap_that_is_reached_is_not_reached_again(settled: int, reached_at: datetime | None) -> None:
    found = pace(charge(1, 20), used=ScopeUse(settled_tokens=settled))
    assert found.reached_at == reached_at
    if reached_at is None:
        assert (found.unit, found.says) == ("tokens", "It is reached.")


def test_a_cap_that_resets_before_is_not_reached_and_says_so() -> None:
    # 108 hours are left of the week. 10 tokens an hour use up 1,080 of them.
    just_before = pace(charge(1, 10), tokens=1_079)
    just_after = pace(charge(1, 10), tokens=1_080)
    assert just_before.reached_at == WEEK.end - timedelta(minutes=6)
    assert (just_after.reached_at, just_after.unit) == (None, None)
    assert just_after.says == (
        "At this pace it is not reached before it resets: 10 tokens since 2026-11-18 11:00 UTC, 10 an hour."
    )


@pytest.mark.parametrize(
    "charges", [(), (charge(-2, 500),)], ids=["nothing", "only in hours to come, by a clock that was set back"]
)
def test_without_any_use_there_is_no_pace_and_the_reason_is_said(charges: tuple[HourCharge, ...]) -> None:
    assert pace(*charges) == Pace(
        None, None, None, "Nothing was used in its last 24 hours: there is no pace to go by."
    )  # fmt: skip


def test_of_tokens_and_dollars_the_earlier_one_counts_and_both_are_said() -> None:
    found = pace(charge(1, 100, 2 * NANO_PER_USD), tokens=1_000, nano_usd=10 * NANO_PER_USD)
    assert (found.reached_at, found.unit) == (NOON + 5 * HOUR, "dollars")
    assert found.says == (
        "At this pace it is reached on 2026-11-18 17:00 UTC: 100 tokens and $2.00 since 2026-11-18 11:00 UTC,"
        " 100 and $2.00 an hour."
    )


def test_a_cap_in_dollars_alone_speaks_of_dollars_alone() -> None:
    found = pace(charge(1, 100, NANO_PER_USD), tokens=None, nano_usd=3 * NANO_PER_USD)
    assert found.says.endswith(": $1.00 since 2026-11-18 11:00 UTC, $1.00 an hour.")


def test_calls_that_cost_nothing_reach_no_cap_in_dollars() -> None:
    assert pace(charge(1, 100), tokens=None, nano_usd=1).reached_at is None


@pytest.mark.parametrize(
    "now, charges, measured_from, tokens",
    [
        (NOON, (charge(30, 7), charge(24, 1), charge(3, 2)), NOON - 24 * HOUR, 3),
        (NOON, (charge(3, 2), charge(1, 1)), NOON - 3 * HOUR, 3),
        (NOON, (charge(0, 5),), NOON - HOUR, 5),
        (NOON + timedelta(minutes=30), (charge(0, 5),), NOON - HOUR, 5),
        (NOON + timedelta(minutes=30), (charge(1, 4), charge(0, 5)), NOON - HOUR, 9),
    ],
    ids=["not further back than a day", "from the first hour with a call", "but over an hour", "over a whole one",
         "the hour that is running counts"],
)  # fmt: skip
def test_hours_that_are_measured(
    now: datetime, charges: tuple[HourCharge, ...], measured_from: datetime, tokens: int
) -> None:
    found = burn_rate(charges, now)
    assert found is not None
    assert (found.measured_from, found.measured_until, found.tokens) == (measured_from, now, tokens)


def test_the_window_before_counts_only_where_an_hour_would_not_be_full() -> None:
    half_past = DAY.start + timedelta(minutes=30)
    before, after = (HourCharge(DAY.start + hours * HOUR, "openai", 10, 0) for hours in (-1, 0))
    earlier = HourCharge(DAY.start - 2 * HOUR, "openai", 90, 0)
    found = burn_rate((earlier, before, after), half_past, DAY.start)
    assert found is not None
    assert (found.measured_from, found.tokens) == (DAY.start - HOUR, 20)
    assert burn_rate((earlier, before), half_past, DAY.start) is None
    later = burn_rate((earlier, before, after), DAY.start + 3 * HOUR, DAY.start)
    assert later is not None
    assert (later.measured_from, later.tokens) == (DAY.start, 10)


@given(
    charges=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10**12)), max_size=30),
    minutes=st.integers(0, 59),
    tokens=st.integers(0, 10**13),
    used=st.integers(0, 10**13),
)
def test_the_formula_holds_for_any_hours(charges: list[tuple[int, int]], minutes: int, tokens: int, used: int) -> None:
    now = NOON + timedelta(minutes=minutes)
    found = pace(*(charge(*one) for one in charges), tokens=tokens, used=ScopeUse(used), now=now)
    assert found.says.endswith(".")
    hours = [ago for ago, _ in charges if ago <= 24]
    if used >= tokens or not hours:
        assert (found.reached_at, found.unit) == (None, "tokens" if used >= tokens else None)
        return
    elapsed = Fraction(60 * max(1, *hours) + minutes, 60)
    charged = sum(part for ago, part in charges if ago <= max(1, *hours))
    lasts = (tokens - used) * elapsed / charged if charged else None
    is_reached = lasts is not None and lasts < Fraction((WEEK.end - now) // timedelta(microseconds=1), 3_600_000_000)
    assert (found.reached_at is not None) == is_reached
    if found.reached_at is not None and lasts is not None:
        cut = Fraction((found.reached_at - now) // timedelta(microseconds=1), 3_600_000_000)
        assert lasts - Fraction(1, 60) < cut <= lasts + Fraction(1, 3_600_000_000)
