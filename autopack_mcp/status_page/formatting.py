"""How the page writes numbers, times and states: pure functions from a value to words, shapes and tones.

It owns the wording of single values; amounts of money and tokens come from ``summary.shown``, so that page and tools
write them alike. It knows no template and no request; ``rendering`` offers these to the templates as filters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from autopack_mcp.runs.states import PhaseState, RunState
from autopack_mcp.summary.caps import Level

Tone = Literal["calm", "active", "good", "warn", "bad"]

_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Sign:
    """A state as it is seen: a word, the name of a shape, and a tone. Never a colour alone."""

    word: str
    shape: str
    tone: Tone


_RUN_SIGNS: Mapping[RunState, Sign] = {
    "queued": Sign("queued", "ring", "calm"),
    "running": Sign("running", "play", "active"),
    "pausing": Sign("pausing", "pause", "active"),
    "paused": Sign("paused", "pause", "warn"),
    "budget_paused": Sign("paused by a cap", "gauge", "warn"),
    "needs_attention": Sign("needs attention", "alert", "bad"),
    "cancelling": Sign("cancelling", "stop", "active"),
    "succeeded": Sign("succeeded", "check", "good"),
    "failed": Sign("failed", "cross", "bad"),
    "cancelled": Sign("cancelled", "stop", "calm"),
}
_PHASE_SIGNS: Mapping[PhaseState, Sign] = {
    "queued": Sign("queued", "ring", "calm"),
    "building": Sign("building", "play", "active"),
    "applying": Sign("applying", "play", "active"),
    "verifying": Sign("verifying", "play", "active"),
    "auditing": Sign("auditing", "play", "active"),
    "committing": Sign("committing", "play", "active"),
    "succeeded": Sign("succeeded", "check", "good"),
    "failed": Sign("failed", "cross", "bad"),
    "skipped": Sign("skipped", "skip", "calm"),
    "cancelled": Sign("cancelled", "stop", "calm"),
}
_LEVEL_SIGNS: Mapping[Level, Sign] = {
    "ok": Sign("ok", "check", "good"),
    "warn": Sign("warning", "alert", "warn"),
    "critical": Sign("critical", "alert", "bad"),
    "exceeded": Sign("exceeded", "cross", "bad"),
}
_STANDING_SIGNS: Mapping[str, Sign] = {
    "ok": Sign("ok", "check", "good"),
    "over its soft limit": Sign("over its soft limit", "alert", "warn"),
    "cap reached": Sign("cap reached", "cross", "bad"),
    "no key": Sign("no key", "key", "calm"),
}


def run_sign(state: RunState) -> Sign:
    """How a run's state is shown."""
    return _RUN_SIGNS[state]


def phase_sign(state: PhaseState, is_waiting: bool = False) -> Sign:  # noqa: FBT001, FBT002  A template's filter.
    """How a phase's state is shown; one in hand whose run stands still ``is_waiting``."""
    sign = _PHASE_SIGNS[state]
    return Sign(f"{sign.word} (paused)", "pause", "warn") if is_waiting else sign


def level_sign(level: Level) -> Sign:
    """How the level of a cap is shown; the server's word is the only authority for it."""
    return _LEVEL_SIGNS[level]


def standing_sign(state: str) -> Sign:
    """How a provider's standing is shown."""
    return _STANDING_SIGNS.get(state, Sign(state, "ring", "calm"))


def percent_text(percent: float) -> str:
    """As "62 %", "62.5 %", "112 %"; summaries cut to one decimal, so no level is shown before it is reached."""
    whole = int(percent)
    return f"{whole:,} %" if percent == whole else f"{percent:,.1f} %"


def moment_text(moment: datetime) -> str:
    """A moment as "2026-11-18 14:03 UTC"."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def clock_text(moment: datetime, now: datetime) -> str:
    """The time of day to the second; with the date, and to the minute, when it was another day."""
    return f"{moment:%H:%M:%S}" if moment.date() == now.date() else f"{moment:%m-%d %H:%M}"


def iso_text(moment: datetime) -> str:
    """A moment for the ``datetime`` attribute: "2026-11-18T14:03:12Z"."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def age_text(moment: datetime, now: datetime) -> str:
    """How far a moment is from now, roughly: "just now", "3 min ago", "in 2 days"."""
    distance = abs(now - moment)
    if distance < timedelta(seconds=1):
        return "just now"
    return f"{span_text(distance)} ago" if moment <= now else f"in {span_text(distance)}"


def span_text(span: timedelta) -> str:
    """A length of time, roughly and never rounded up: "42 s", "3 min", "2 h 5 min", "4 days"."""
    if span < _MINUTE:
        return f"{int(span.total_seconds())} s"
    if span < _HOUR:
        return f"{span // _MINUTE} min"
    if span < _DAY:
        hours, minutes = span // _HOUR, span % _HOUR // _MINUTE
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days = span // _DAY
    return "1 day" if days == 1 else f"{days} days"


def counted(count: int, one: str, many: str = "") -> str:
    """How many of what: "1 phase", "1,000 phases"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
