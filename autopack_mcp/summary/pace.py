"""How fast is it spent, and when is a cap reached at that pace: arithmetic in integers, with its basis in words.

It owns BurnRate and Pace and the rule of what time they are measured over (docs/summaries.md#pace). It reads nothing:
``caps`` and ``usage`` hand it what ``usage.service`` has counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from autopack_mcp.budgets.caps import ScopeCap
from autopack_mcp.budgets.counters import ScopeUse
from autopack_mcp.money import NANO_PER_USD, usd
from autopack_mcp.summary.shown import tokens_text, usd_text
from autopack_mcp.usage.spans import day_of

# Today and yesterday hold a night and a working day, whatever the time is; more would notice too late that a run has
# begun, and whole days are sums that stand ready.
MEASURED_BACK = timedelta(days=1)
# The rate of a few minutes would make one large call look like a habit.
MEASURED_AT_LEAST = timedelta(hours=1)

Unit = Literal["tokens", "dollars"]
_MICROSECOND = timedelta(microseconds=1)
_HOUR_US = timedelta(hours=1) // _MICROSECOND


@dataclass(frozen=True, slots=True)
class BurnRate:
    """What was charged from one moment to another, and how much of it an hour (rounded down; less than an hour is one).

    Amounts are those that weigh against caps; what calls in flight hold is not in them.
    """

    measured_from: datetime
    measured_until: datetime
    tokens: int
    usd: Decimal
    tokens_per_hour: int
    usd_per_hour: Decimal


@dataclass(frozen=True, slots=True)
class Pace:
    """When a cap is reached if calls go on as they did in the time measured.

    ``reached_at`` is cut to the minute, and None where there is no such time: the cap is reached already, it resets
    before that, or nothing was used to go by (``burn`` is None then). Of tokens and dollars the earlier one counts, and
    ``unit`` names it. ``says`` is all of this in a sentence or two, "" where nothing was used to go by: whoever lists
    caps says that once, as ``without_pace`` has it.
    """

    reached_at: datetime | None
    unit: Unit | None
    burn: BurnRate | None
    says: str


@dataclass(frozen=True, slots=True)
class Charged:
    """What was charged since a moment: tokens and nano-dollars, and the first hour in which a call was."""

    first_hour: datetime
    tokens: int
    nano_usd: int


@dataclass(frozen=True, slots=True)
class _Measure:
    """One unit in which a cap is set: what is left of it, and what was charged in the time measured."""

    unit: Unit
    left: int
    charged: int


def measured_since(now: datetime, window_start: datetime | None = None) -> datetime:
    """The midnight from which on charges are measured: yesterday's, or that at which the window began."""
    yesterday = day_of(now) - MEASURED_BACK
    return yesterday if window_start is None else max(yesterday, window_start)


def burn_rate(charged: Charged | None, now: datetime) -> BurnRate | None:
    """The rate from the first hour with a call until now; None when there is no such hour.

    ``charged`` is what was charged from ``measured_since`` on. Less than ``MEASURED_AT_LEAST`` counts as that long.
    """
    # A clock that was set back leaves charges in hours that have not come yet: they are no rate.
    if charged is None or charged.first_hour > now:
        return None
    elapsed_us = max(now - charged.first_hour, MEASURED_AT_LEAST) // _MICROSECOND
    return BurnRate(
        measured_from=charged.first_hour,
        measured_until=now,
        tokens=charged.tokens,
        usd=usd(charged.nano_usd),
        tokens_per_hour=charged.tokens * _HOUR_US // elapsed_us,
        usd_per_hour=usd(charged.nano_usd * _HOUR_US // elapsed_us),
    )


def pace_of(cap: ScopeCap, use: ScopeUse, burn: BurnRate | None, resets_at: datetime) -> Pace:
    """When ``cap`` is reached at the rate ``burn``, measured in the cap's own calls; see Pace.

    ``reached_at = now + left x elapsed / charged``, rounded up to the microsecond before it is cut. What is settled or
    reserved is gone; what is left goes at the rate measured.
    """
    used_up = next((measure for measure in _measures(cap, use, burn) if measure.left <= 0), None)
    if used_up is not None:
        return Pace(None, used_up.unit, burn, "It is reached.")
    if burn is None:
        return Pace(None, None, None, "")
    ends = [(_lasts_us(measure, burn), measure.unit) for measure in _measures(cap, use, burn) if measure.charged]
    ends = [(lasts, unit) for lasts, unit in ends if lasts < (resets_at - burn.measured_until) // _MICROSECOND]
    if not ends:
        return Pace(None, None, burn, f"At this pace it is not reached before it resets: {_basis(cap, burn)}.")
    lasts_us, unit = min(ends)
    reached_at = (burn.measured_until + lasts_us * _MICROSECOND).replace(second=0, microsecond=0)
    says = f"At this pace it is reached on {reached_at:%Y-%m-%d %H:%M} UTC: {_basis(cap, burn)}."
    return Pace(reached_at, unit, burn, says)


def without_pace(paces: Iterable[Pace | None]) -> str:
    """Of how many caps nothing was used to go by, as a sentence; "" when there is none."""
    count = sum(pace is not None and not pace.says for pace in paces)
    caps = "1 cap" if count == 1 else f"{count:,} caps"
    return f"Of {caps} nothing was used today and yesterday: there is no pace to go by." if count else ""


def _measures(cap: ScopeCap, use: ScopeUse, burn: BurnRate | None) -> Iterator[_Measure]:
    if cap.allowance_tokens is not None:
        yield _Measure("tokens", cap.allowance_tokens - use.used_tokens, 0 if burn is None else burn.tokens)
    if cap.allowance_nano is not None:
        charged = 0 if burn is None else int(burn.usd * NANO_PER_USD)
        yield _Measure("dollars", cap.allowance_nano - use.used_nano, charged)


def _lasts_us(measure: _Measure, burn: BurnRate) -> int:
    """How long what is left lasts, in microseconds, rounded up."""
    elapsed_us = max(burn.measured_until - burn.measured_from, MEASURED_AT_LEAST) // _MICROSECOND
    return -(-measure.left * elapsed_us // measure.charged)


def _basis(cap: ScopeCap, burn: BurnRate) -> str:
    """What was measured, in the units of the cap."""
    words: Sequence[tuple[object, str, str]] = (
        (cap.allowance_tokens, f"{tokens_text(burn.tokens)} tokens", tokens_text(burn.tokens_per_hour)),
        (cap.allowance_nano, usd_text(burn.usd), usd_text(burn.usd_per_hour)),
    )
    shown = [(amount, rate) for allowance, amount, rate in words if allowance is not None]
    amounts, rates = (" and ".join(part) for part in zip(*shown, strict=True))
    return f"{amounts} since {burn.measured_from:%Y-%m-%d %H:%M} UTC, {rates} an hour"
