"""Windows of time in which usage counts: the UTC day, the ISO week from Monday 00:00, the calendar month.

Pure date arithmetic (contract 15); usage, caps, the ledger and the summaries ask it where a moment belongs.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from autopack_mcp.config.settings import Window

WINDOWS: tuple[Window, ...] = ("day", "week", "month")


@dataclass(frozen=True, slots=True)
class WindowSpan:
    """One window: ``start <= moment < end``, both aware UTC; ``label`` is 2026-11-18, 2026-W47 or 2026-11."""

    window: Window
    label: str
    start: datetime
    end: datetime


def window_at(window: Window, moment: datetime, *, offset: int = 0) -> WindowSpan:
    """The window that holds ``moment``; ``offset=-1`` is the one before it ("last week" on a Monday)."""
    day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if window == "month":
        start = _month_start(day, offset)
        return WindowSpan(window, f"{start:%Y-%m}", start, _month_start(start, 1))
    if window == "week":
        start = day - timedelta(days=day.weekday()) + timedelta(weeks=offset)
        year, week, _ = start.isocalendar()
        return WindowSpan(window, f"{year}-W{week:02}", start, start + timedelta(weeks=1))
    start = day + timedelta(days=offset)
    return WindowSpan(window, f"{start:%Y-%m-%d}", start, start + timedelta(days=1))


def _month_start(day: datetime, offset: int) -> datetime:
    months = day.year * 12 + day.month - 1 + offset
    return day.replace(year=months // 12, month=months % 12 + 1, day=1)
