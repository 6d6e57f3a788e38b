"""When a cap is reached at this pace: measured in whole hours, worked out in integers, and honest when unknown."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.budgets.counters import ScopeUse
from autopack_mcp.config.settings import Window
from autopack_mcp.money import NANO_PER_USD
from autopack_mcp.summary.pace import BurnRate, Charged, Pace, burn_rate, measured_since, pace_of, without_pace
from autopack_mcp.usage.windows import window_at
from tests.factories import NOON, window_cap

HOUR = timedelta(hours=1)
WEEK = window_at("week", NOON)


def charged(hours_ago: float, tokens: int, nano_usd: int = 0) -> Charged:
    """What was charged since the hour that began so long before noon, the first with a call."""
    return Charged(NOON - hours_ago * HOUR, tokens, nano_usd)


def pace(since: Charged | None, *, tokens: int | None = 1_000, nano_usd: int | None = None,
         used: ScopeUse | None = None, now: datetime = NOON) -> Pace:  # fmt: skip
    """The pace of a week's cap of which ``used`` is gone."""
    cap = window_cap(tokens=tokens, nano_usd=nano_usd)
    return pace_of(cap, used or ScopeUse(), burn_rate(since, now), WEEK.end)


def test_what_is_left_goes_at_the_rate_of_the_hours_measured() -> None:
    found = pace(charged(5, 500), used=ScopeUse(settled_tokens=500))
    # 500 tokens in 5 hours, 500 are left: they last 5 hours.
    assert (found.reached_at, found.unit) == (NOON + 5 * HOUR, "tokens")
    assert found.burn == BurnRate(NOON - 5 * HOUR, NOON, 500, Decimal(0), 100, Decimal(0))
    assert found.says == (
        "At this pace it is reached on 2026-11-18 17:00 UTC: 500 tokens since 2026-11-18 07:00 UTC, 100 an hour."
    )


def test_what_calls_in_flight_hold_is_gone_and_is_no_rate() -> None:
    found = pace(charged(5, 500), used=ScopeUse(settled_tokens=500, reserved_tokens=250))
    assert found.reached_at == NOON + 2.5 * HOUR
    assert found.burn is not None
    assert found.burn.tokens == 500


def test_the_moment_is_cut_to_the_minute_and_never_too_late() -> None:
    found = pace(charged(1, 700), used=ScopeUse(settled_tokens=700))
    # 300 of 700 an hour: 25 minutes 42.86 seconds.
    assert found.reached_at == NOON + timedelta(minutes=25)


@pytest.mark.parametrize(
    "settled, reached_at",
    [(999, NOON + timedelta(minutes=3)), (1_000, None), (1_001, None)],
    ids=["one token left", "none left", "exceeded"],
)
def test_a_cap_that_is_reached_is_not_reached_again(settled: int, reached_at: datetime | None) -> None:
    found = pace(charged(1, 20), used=ScopeUse(settled_tokens=settled))
    assert found.reached_at == reached_at
    if reached_at is None:
        assert (found.unit, found.says) == ("tokens", "It is reached.")


def test_a_cap_that_resets_before_is_not_reached_and_says_so() -> None:
    # 108 hours are left of the week. 10 tokens an hour use up 1,080 of them.
    just_before = pace(charged(1, 10), tokens=1_079)
    just_after = pace(charged(1, 10), tokens=1_080)
    assert just_before.reached_at == WEEK.end - timedelta(minutes=6)
    assert (just_after.reached_at, just_after.unit) == (None, None)
    assert just_after.says == (
        "At this pace it is not reached before it resets: 10 tokens since 2026-11-18 11:00 UTC, 10 an hour."
    )


@pytest.mark.parametrize(
    "since", [None, charged(-2, 500)], ids=["nothing", "only in hours to come, by a clock that was set back"]
)
def test_without_any_use_there_is_no_pace_and_the_reason_is_said(since: Charged | None) -> None:
    assert pace(since) == Pace(None, None, None, "")
    assert without_pace([pace(since)]) == "Of 1 cap nothing was used today and yesterday: there is no pace to go by."


def test_that_there_is_no_pace_is_said_once_however_many_caps_there_are() -> None:
    unused, used = pace(None), pace(charged(1, 10))
    assert without_pace([unused, used, unused]).startswith("Of 2 caps nothing was used")
    assert without_pace([used, None]) == without_pace([]) == ""


def test_of_tokens_and_dollars_the_earlier_one_counts_and_both_are_said() -> None:
    found = pace(charged(1, 100, 2 * NANO_PER_USD), tokens=1_000, nano_usd=10 * NANO_PER_USD)
    assert (found.reached_at, found.unit) == (NOON + 5 * HOUR, "dollars")
    assert found.says == (
        "At this pace it is reached on 2026-11-18 17:00 UTC: 100 tokens and $2.00 since 2026-11-18 11:00 UTC,"
        " 100 and $2.00 an hour."
    )


def test_a_cap_in_dollars_alone_speaks_of_dollars_alone() -> None:
    found = pace(charged(1, 100, NANO_PER_USD), tokens=None, nano_usd=3 * NANO_PER_USD)
    assert found.says.endswith(": $1.00 since 2026-11-18 11:00 UTC, $1.00 an hour.")


def test_calls_that_cost_nothing_reach_no_cap_in_dollars() -> None:
    assert pace(charged(1, 100), tokens=None, nano_usd=1).reached_at is None


@pytest.mark.parametrize(
    "now, hours_ago, per_hour",
    [(NOON, 3, 100), (NOON, 1, 300), (NOON, 0, 300), (NOON + timedelta(minutes=30), 0, 300),
     (NOON + timedelta(minutes=30), 1, 200)],
    ids=["three hours", "an hour", "this moment", "half an hour", "an hour and a half"],
)  # fmt: skip
def test_less_than_an_hour_counts_as_one(now: datetime, hours_ago: int, per_hour: int) -> None:
    found = burn_rate(charged(hours_ago, 300, 300), now)
    assert found is not None
    assert (found.tokens_per_hour, found.usd_per_hour) == (per_hour, Decimal(per_hour) / NANO_PER_USD)
    assert (found.measured_from, found.measured_until) == (NOON - hours_ago * HOUR, now)


@pytest.mark.parametrize(
    "now, window, since",
    [
        ("2026-11-18T12:00", "month", "2026-11-17"),
        ("2026-11-18T00:00", "week", "2026-11-17"),
        ("2026-11-18T12:00", "day", "2026-11-18"),
        ("2026-11-16T12:00", "week", "2026-11-16"),
        ("2026-11-01T23:59", "month", "2026-11-01"),
        ("2026-11-18T12:00", None, "2026-11-17"),
    ],
    ids=["a month", "midnight", "a day", "a Monday", "the first", "no window"],
)
def test_today_and_yesterday_are_measured_as_far_as_the_window_has_them(
    now: str, window: Window | None, since: str
) -> None:
    moment = datetime.fromisoformat(now).replace(tzinfo=NOON.tzinfo)
    start = None if window is None else window_at(window, moment).start
    assert measured_since(moment, start) == datetime.fromisoformat(since).replace(tzinfo=NOON.tzinfo)


@given(
    hours_ago=st.integers(0, 36),
    minutes=st.integers(0, 59),
    amount=st.integers(0, 10**13),
    tokens=st.integers(0, 10**13),
    used=st.integers(0, 10**13),
)
def test_the_formula_holds_for_any_numbers(hours_ago: int, minutes: int, amount: int, tokens: int, used: int) -> None:
    now = NOON + timedelta(minutes=minutes)
    found = pace(charged(hours_ago, amount), tokens=tokens, used=ScopeUse(used), now=now)
    assert found.says.endswith(".")
    if used >= tokens:
        assert (found.reached_at, found.unit) == (None, "tokens")
        return
    elapsed = max(Fraction(60 * hours_ago + minutes, 60), Fraction(1))
    lasts = (tokens - used) * elapsed / amount if amount else None
    until_reset = Fraction((WEEK.end - now) // timedelta(microseconds=1), 3_600_000_000)
    assert (found.reached_at is not None) == (lasts is not None and lasts < until_reset)
    if found.reached_at is not None and lasts is not None:
        cut = Fraction((found.reached_at - now) // timedelta(microseconds=1), 3_600_000_000)
        assert lasts - Fraction(1, 60) < cut <= lasts + Fraction(1, 3_600_000_000)
