"""What a person may ask about: windows of the calendar and stretches of whole hours; anything else is refused."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.errors import RequestRefused
from autopack_mcp.usage.spans import (
    LONGEST_SPAN,
    OLDEST_OFFSET,
    Moment,
    UsageSpan,
    asked_span,
    bounds_of,
    days_begun,
    whole_days,
)
from tests.factories import NOON

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
moments = st.datetimes(datetime(2020, 1, 1), datetime(2026, 11, 18, 11), timezones=st.just(UTC))  # noqa: DTZ001


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "period, offset, label, is_present",
    [
        ("week", 0, "2026-W47", True),
        ("week", -1, "2026-W46", False),
        ("day", 0, "2026-11-18", True),
        ("month", -11, "2025-12", False),
    ],
)
def test_a_window_of_the_calendar_is_named_by_period_and_offset(
    period: str, offset: int, label: str, is_present: bool
) -> None:
    span = asked_span(NOON, period, offset)
    assert (span.window, span.offset, span.label, span.is_present) == (period, offset, label, is_present)


@pytest.mark.parametrize(
    "from_, to, start, end, label",
    [
        ("2026-11-01", "2026-11-15", "2026-11-01", "2026-11-16", "2026-11-01 to 2026-11-15"),
        ("2026-11-03", "2026-11-03", "2026-11-03", "2026-11-04", "2026-11-03"),
        (date(2026, 11, 1), date(2026, 11, 2), "2026-11-01", "2026-11-03", "2026-11-01 to 2026-11-02"),
        ("2026-11-17", None, "2026-11-17", "2026-11-19", "2026-11-17 to 2026-11-18"),
        ("2026-11-17", "2026-12-24", "2026-11-17", "2026-12-25", "2026-11-17 to 2026-12-24"),
        ("2026-11-18T08:00Z", "2026-11-18T10:00Z", "2026-11-18T08", "2026-11-18T10",
         "2026-11-18 08:00 to 2026-11-18 10:00"),
        ("2026-11-18T00:00Z", "2026-11-19T00:00Z", "2026-11-18", "2026-11-19", "2026-11-18"),
        (utc("2026-11-18T08:59:59"), utc("2026-11-18T09:00:01"), "2026-11-18T08", "2026-11-18T10",
         "2026-11-18 08:00 to 2026-11-18 10:00"),
        ("2026-11-18T05:30+05:30", "2026-11-18T06:00+05:30", "2026-11-18T00", "2026-11-18T01",
         "2026-11-18 00:00 to 2026-11-18 01:00"),
    ],
    ids=["dates include the last day", "one day", "as dates", "until today", "into the future", "hours",
         "a day as hours", "others are widened", "of another zone"],
)  # fmt: skip
def test_a_stretch_goes_from_one_moment_to_another(
    from_: Moment, to: Moment | None, start: str, end: str, label: str
) -> None:
    assert asked_span(NOON, from_=from_, to=to) == UsageSpan(None, 0, label, utc(start), utc(end))


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"period": "year"}, "Unknown period 'year'. Periods are day, week, month."),
        ({"period": "\x1b[31m"}, "Unknown period '\\\\x1b[31m'."),
        ({"offset": 1}, "Offset 1 names no past or present week. 0 is the current week"),
        ({"period": "day", "offset": OLDEST_OFFSET - 1}, f"down to {OLDEST_OFFSET}"),
        ({"from_": "2026-11-15", "to": "2026-11-01"}, "No time lies from '2026-11-15' to '2026-11-01'. To must come"),
        ({"from_": "2026-11-18T08:50Z", "to": "2026-11-18T08:10Z"}, "No time lies from"),
        ({"from_": "2026-11-18T08:00Z", "to": "2026-11-18T08:00Z"}, "No time lies from"),
        ({"from_": "2026-11-19"}, "begins in the future, on 2026-11-19 00:00 UTC. It is 2026-11-18 12:00 UTC"),
        ({"from_": "2026-11-18T12:00:01Z"}, "begins in the future"),
        ({"from_": "yesterday"}, "'yesterday' is no date that can be asked for. Write a date, 2026-11-01, or a time"),
        ({"from_": "2026-02-30"}, "'2026-02-30' is no date"),
        ({"from_": ""}, "'' is no date"),
        ({"from_": "2026-11-18T08:00"}, "'2026-11-18T08:00' names no zone"),
        ({"from_": datetime(2026, 11, 18)}, "names no zone"),  # noqa: DTZ001  That is what is refused.
        ({"from_": "2026-11-01", "to": "soon"}, "'soon' is no date"),
        ({"from_": "2026-11-01", "to": "9999-12-31"}, "'9999-12-31' is no date that can be asked for"),
        ({"from_": "0001-01-01T00:00+14:00"}, "is no date that can be asked for"),
        ({"from_": "2016-01-01"}, "too long. Ask for 3,660 days at most"),
        ({"to": "2026-11-15"}, "an end and no beginning"),
        ({"period": "day", "from_": "2026-11-15"}, "A period and a stretch"),
        ({"offset": -1, "from_": "2026-11-15"}, "A period and a stretch"),
    ],
    ids=lambda value: " ".join(f"{name}={part}" for name, part in value.items()) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_names_no_past_or_present_time_is_refused_with_what_would(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestRefused) as refusal:
        asked_span(NOON, **asked)
    assert message in str(refusal.value)


def test_the_longest_stretch_and_the_oldest_window_can_be_asked_for() -> None:
    start = NOON.replace(hour=0) - LONGEST_SPAN + DAY
    assert asked_span(NOON, from_=start.date()).end - start == LONGEST_SPAN
    for period in ("day", "week", "month"):
        assert asked_span(datetime(2026, 1, 1, tzinfo=UTC), period, OLDEST_OFFSET).start.year > 1


@given(moments, moments, st.sampled_from([UTC, timezone(timedelta(hours=-9, minutes=-30))]))
def test_a_stretch_holds_what_was_asked_for_and_less_than_an_hour_more(
    one: datetime, other: datetime, zone: timezone
) -> None:
    from_, to = sorted((one, other))
    if from_ == to:
        return
    span = asked_span(NOON, from_=from_.astimezone(zone), to=to.astimezone(zone))
    assert from_ - HOUR < span.start <= from_ < to <= span.end < to + HOUR
    assert all(edge.minute == edge.second == edge.microsecond == 0 for edge in (span.start, span.end))


@given(moments, st.integers(1, 2_000))
def test_the_whole_days_of_a_stretch_lie_in_it_and_leave_less_than_two_days(start: datetime, hours: int) -> None:
    span = asked_span(NOON, from_=start, to=start + hours * HOUR)
    first, last = whole_days(span)
    assert span.start <= first < span.start + DAY
    assert span.end - DAY < last <= span.end
    assert first.hour == last.hour == 0


@given(moments, st.integers(1, 2_000))
def test_the_bounds_of_a_stretch_ask_for_it_again(start: datetime, hours: int) -> None:
    span = asked_span(NOON, from_=start, to=start + hours * HOUR)
    from_, to = bounds_of(span.start, span.end)
    assert asked_span(NOON, from_=from_, to=to) == span


@pytest.mark.parametrize(
    "asked, days",
    [
        ({}, ["2026-11-16", "2026-11-17", "2026-11-18"]),
        ({"offset": -1, "period": "day"}, ["2026-11-17"]),
        ({"from_": "2026-11-16T23:00Z", "to": "2026-11-18T01:00Z"}, ["2026-11-16", "2026-11-17", "2026-11-18"]),
        ({"from_": "2026-11-17", "to": "2026-12-24"}, ["2026-11-17", "2026-11-18"]),
    ],
    ids=["present week", "yesterday", "days it only touches", "not those to come"],
)
def test_days_are_those_that_have_begun(asked: dict[str, Any], days: list[str]) -> None:
    assert [day.date().isoformat() for day in days_begun(asked_span(NOON, **asked), NOON)] == days


def test_a_day_begins_at_its_midnight() -> None:
    midnight = utc("2026-11-18")
    assert days_begun(asked_span(midnight, "day"), midnight) == (midnight,)
