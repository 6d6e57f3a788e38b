"""What a question about usage covers: a day, week or month, or any stretch from one date to another.

Pure: it reads the words of a person and refuses what names no time, with what would. Bounds are whole UTC hours,
because sums are kept by the hour; others are widened to the hours that hold them. Usage, summaries and the export ask.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Protocol, TypeAlias

from autopack_mcp.config.settings import Window
from autopack_mcp.errors import RequestRefused
from autopack_mcp.text_safety import visible
from autopack_mcp.usage.windows import WINDOWS, window_at

DEFAULT_PERIOD: Window = "week"
OLDEST_OFFSET = -3_660  # Ten years of days; nobody has usage before that, and the calendar would end.
LONGEST_SPAN = timedelta(days=3_660)  # As far back as an offset reaches.

Moment: TypeAlias = str | date | datetime
"""A date (a whole UTC day) or an aware time; as text in ISO 8601."""

_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
_TEXT_LIMIT = 40  # Characters of a wrong date that are repeated to the person.
_HOW_TO_WRITE = "Write a date, 2026-11-01, or a time with its zone, 2026-11-01T14:00Z or 2026-11-01T15:00+01:00."


class TimeSpan(Protocol):
    """Anything that has a first moment and an end, both aware UTC and whole hours; the end is no part of it."""

    @property
    def start(self) -> datetime:
        """The first moment."""
        ...

    @property
    def end(self) -> datetime:
        """The moment before which it ends."""
        ...


@dataclass(frozen=True, slots=True)
class UsageSpan:
    """Calls with ``start <= reserved < end``, both aware UTC and whole hours.

    ``window`` says which kind of window of the calendar this is, None for a stretch that somebody chose; then no cap
    applies to it. ``offset`` counts windows from the present one, 0 for a stretch. ``label`` is 2026-11-18, 2026-W47,
    2026-11, or "2026-11-01 to 2026-11-15" (both days included).
    """

    window: Window | None
    offset: int
    label: str
    start: datetime
    end: datetime

    @property
    def is_present(self) -> bool:
        """True for the window of the calendar that holds the moment of the question."""
        return self.window is not None and self.offset == 0


def asked_span(
    now: datetime,
    period: str = DEFAULT_PERIOD,
    offset: int = 0,
    *,
    from_: Moment | None = None,
    to: Moment | None = None,
) -> UsageSpan:
    """The window or stretch that a person asks for.

    Args:
        now: aware; ``offset`` 0 is the window that holds it, -1 the one before.
        from_: the first day, or the time from which on; instead of a period.
        to: the last day, which is included, or the time before which; today when left out.

    Raises:
        RequestRefused: an unknown period, a window or stretch of the future, a date that is none, ``from_`` after
            ``to``, more than ``LONGEST_SPAN``, or a period and a stretch at once.
    """
    if from_ is None and to is None:
        return _window(period, offset, now)
    if (period, offset) != (DEFAULT_PERIOD, 0):
        raise RequestRefused(
            "A period and a stretch from one date to another were both asked for.",
            hint="Ask for a period with its offset, or for from and to.",
        )
    if from_ is None:
        raise RequestRefused("The stretch has an end and no beginning.", hint=f"Say from when. {_HOW_TO_WRITE}")
    return _stretch(from_, to, now)


def day_of(moment: datetime) -> datetime:
    """Midnight (UTC) of the day that holds ``moment``."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def hour_of(moment: datetime) -> datetime:
    """The start of the UTC hour that holds ``moment``."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def days_begun(span: TimeSpan, now: datetime) -> tuple[datetime, ...]:
    """Midnight of every day that lies in ``span``, at least in part, and has begun."""
    first = day_of(span.start)
    end = min(span.end, now + timedelta(microseconds=1))
    return tuple(first + number * _DAY for number in range(-((first - end) // _DAY)))


def consists_of_days(start: datetime, end: datetime) -> bool:
    """Whether a stretch holds whole UTC days and nothing else."""
    return start == day_of(start) and end == day_of(end)


def bounds_of(start: datetime, end: datetime) -> tuple[str, str]:
    """The words, from and to, that ask for a stretch of whole hours again."""
    if consists_of_days(start, end):
        return start.date().isoformat(), (end - _HOUR).date().isoformat()
    return f"{start:%Y-%m-%dT%H:%M}Z", f"{end:%Y-%m-%dT%H:%M}Z"


def whole_days(span: TimeSpan) -> tuple[datetime, datetime]:
    """From where to where a span consists of whole days; not before itself when it holds none."""
    first, last = day_of(span.start), day_of(span.end)
    return first if first == span.start else first + _DAY, last


def _window(period: str, offset: int, now: datetime) -> UsageSpan:
    if period not in WINDOWS:
        asked = visible(period, _TEXT_LIMIT)
        raise RequestRefused(f"Unknown period {asked!r}.", hint=f"Periods are {', '.join(WINDOWS)}.")
    if not OLDEST_OFFSET <= offset <= 0:
        raise RequestRefused(
            f"Offset {offset} names no past or present {period}.",
            hint=f"0 is the current {period}, -1 the one before it, down to {OLDEST_OFFSET}.",
        )
    found = window_at(period, now, offset=offset)
    return UsageSpan(found.window, offset, found.label, found.start, found.end)


def _stretch(from_: Moment, to: Moment | None, now: datetime) -> UsageSpan:
    start = _bound(from_, is_end=False)
    if start > now:
        raise RequestRefused(
            f"The stretch begins in the future, on {start:%Y-%m-%d %H:%M} UTC.",
            hint=f"It is {now:%Y-%m-%d %H:%M} UTC; ask for what has been.",
        )
    end = day_of(now) + _DAY if to is None else _bound(to, is_end=True)
    if start >= end:
        asked = (visible(str(moment), _TEXT_LIMIT) for moment in (from_, to or end))
        raise RequestRefused(f"No time lies from {next(asked)!r} to {next(asked)!r}.", hint="To must come after from.")
    start, end = hour_of(start), _whole_hour_after(end)
    if end - start > LONGEST_SPAN:
        raise RequestRefused("The stretch is too long.", hint=f"Ask for {LONGEST_SPAN.days:,} days at most.")
    return UsageSpan(None, 0, _label(start, end), start, end)


def _bound(moment: Moment, *, is_end: bool) -> datetime:
    """A moment as an aware time; a date as the start of its day, or its end where it bounds what comes before."""
    try:
        read = _read(moment)
        if isinstance(read, datetime):
            return read.astimezone(UTC)
        return datetime(read.year, read.month, read.day, tzinfo=UTC) + (_DAY if is_end else timedelta(0))
    except (ValueError, OverflowError):
        asked = visible(str(moment), _TEXT_LIMIT)
        raise RequestRefused(f"{asked!r} is no date that can be asked for.", hint=_HOW_TO_WRITE) from None


def _read(moment: Moment) -> date | datetime:
    asked = visible(str(moment), _TEXT_LIMIT)
    if isinstance(moment, str):
        try:
            return date.fromisoformat(moment)
        except ValueError:
            moment = datetime.fromisoformat(moment)
    if isinstance(moment, datetime) and moment.utcoffset() is None:
        raise RequestRefused(f"The time {asked!r} names no zone.", hint=_HOW_TO_WRITE)
    return moment


def _whole_hour_after(moment: datetime) -> datetime:
    hour = hour_of(moment)
    return hour if hour == moment else hour + _HOUR


def _label(start: datetime, end: datetime) -> str:
    if consists_of_days(start, end):
        first, last = bounds_of(start, end)
        return first if first == last else f"{first} to {last}"
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}"
