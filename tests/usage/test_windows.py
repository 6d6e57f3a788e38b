"""Windows are UTC, fixed, and without gaps: every moment lies in exactly one day, one ISO week and one month."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.config.settings import Window
from autopack_mcp.usage.windows import WINDOWS, window_at

MICROSECOND = timedelta(microseconds=1)
KOLKATA = timezone(timedelta(hours=5, minutes=30))

moments = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
offsets = st.integers(-30, 30)
windows = st.sampled_from(WINDOWS)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "window, moment, label, start, end",
    [
        ("day", "2026-11-18T12:00", "2026-11-18", "2026-11-18", "2026-11-19"),
        ("day", "2026-11-18T00:00", "2026-11-18", "2026-11-18", "2026-11-19"),
        ("day", "2026-11-18T23:59:59.999999", "2026-11-18", "2026-11-18", "2026-11-19"),
        ("day", "2026-12-31T23:59", "2026-12-31", "2026-12-31", "2027-01-01"),
        ("day", "2028-02-29T08:00", "2028-02-29", "2028-02-29", "2028-03-01"),
        ("week", "2026-11-16T00:00", "2026-W47", "2026-11-16", "2026-11-23"),
        ("week", "2026-11-15T23:59:59.999999", "2026-W46", "2026-11-09", "2026-11-16"),
        ("week", "2026-12-31T23:59", "2026-W53", "2026-12-28", "2027-01-04"),
        ("week", "2027-01-01T00:00", "2026-W53", "2026-12-28", "2027-01-04"),
        ("week", "2027-01-04T00:00", "2027-W01", "2027-01-04", "2027-01-11"),
        ("week", "2024-12-30T10:00", "2025-W01", "2024-12-30", "2025-01-06"),
        ("month", "2026-11-30T23:59", "2026-11", "2026-11-01", "2026-12-01"),
        ("month", "2026-12-31T23:59", "2026-12", "2026-12-01", "2027-01-01"),
        ("month", "2027-01-01T00:00", "2027-01", "2027-01-01", "2027-02-01"),
        ("month", "2028-02-29T08:00", "2028-02", "2028-02-01", "2028-03-01"),
    ],
)
def test_a_moment_lies_in_this_window(window: Window, moment: str, label: str, start: str, end: str) -> None:
    span = window_at(window, utc(moment))
    assert (span.window, span.label, span.start, span.end) == (window, label, utc(start), utc(end))


@pytest.mark.parametrize(
    "window, moment, offset, label",
    [
        ("day", "2027-01-01T05:00", -1, "2026-12-31"),
        ("day", "2028-02-28T05:00", 1, "2028-02-29"),
        ("week", "2026-11-16T09:00", -1, "2026-W46"),
        ("week", "2027-01-04T00:00", -1, "2026-W53"),
        ("week", "2026-12-31T00:00", 1, "2027-W01"),
        ("month", "2027-01-31T09:00", -1, "2026-12"),
        ("month", "2026-12-31T09:00", 1, "2027-01"),
        ("month", "2026-03-31T09:00", -1, "2026-02"),
        ("month", "2026-01-15T09:00", -13, "2024-12"),
    ],
)
def test_an_offset_counts_windows_from_the_one_that_holds_the_moment(
    window: Window, moment: str, offset: int, label: str
) -> None:
    assert window_at(window, utc(moment), offset=offset).label == label


def test_a_moment_of_another_zone_lies_in_the_window_of_its_utc_time() -> None:
    just_after_midnight_in_kolkata = datetime(2026, 11, 1, 0, 30, tzinfo=KOLKATA)
    assert window_at("day", just_after_midnight_in_kolkata).label == "2026-10-31"
    assert window_at("month", just_after_midnight_in_kolkata).label == "2026-10"


@given(windows, moments, offsets)
def test_every_moment_lies_in_exactly_one_window(window: Window, moment: datetime, offset: int) -> None:
    span = window_at(window, moment)
    assert span.start <= moment < span.end
    assert window_at(window, span.start) == window_at(window, span.end - MICROSECOND) == span
    other = window_at(window, moment, offset=offset)
    assert (other.start <= moment < other.end) == (offset == 0)


@given(windows, moments, offsets)
def test_windows_follow_each_other_without_a_gap(window: Window, moment: datetime, offset: int) -> None:
    span = window_at(window, moment, offset=offset)
    following = window_at(window, moment, offset=offset + 1)
    assert following.start == span.end
    assert window_at(window, span.start, offset=1) == following
    assert window_at(window, following.start, offset=-1) == span
    assert window_at(window, span.start, offset=-offset) == window_at(window, moment)
