"""The only place that asks what time it is.

Everything else receives a Clock, so tests own time. Times are aware UTC everywhere; the database stores them as integer
microseconds since 1970 (see ``to_us``/``from_us``), which both SQLite and PostgreSQL compare exactly.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Clock(Protocol):
    """Answers with the current time."""

    def now(self) -> datetime:
        """The current moment, aware, in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The current moment, aware, in UTC."""
        return datetime.now(UTC)


class ManualClock:
    """A clock that stands still until a test moves it; it may also be set back, as real ones are."""

    def __init__(self, start: datetime) -> None:
        self._now = start.astimezone(UTC)

    def now(self) -> datetime:
        """The moment it was last set to."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move by ``seconds``; negative goes back."""
        self._now += timedelta(seconds=seconds)

    def set(self, moment: datetime) -> None:
        """Jump to ``moment`` (aware)."""
        self._now = moment.astimezone(UTC)


def to_us(moment: datetime) -> int:
    """Microseconds since 1970 of an aware time; exact, no floats."""
    return (moment - _EPOCH) // _MICROSECOND


def from_us(microseconds: int) -> datetime:
    """The aware UTC time of ``to_us``."""
    return _EPOCH + timedelta(microseconds=microseconds)
