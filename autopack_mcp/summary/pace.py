"""How fast is it spent, and when is a cap reached at that pace: arithmetic in integers, with its basis in words.

It owns BurnRate and Pace and the rule of which hours they are measured over (docs/summaries.md#pace). It reads nothing:
``caps`` and ``usage`` hand it the hours that ``usage.service`` has counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from autopack_mcp.budgets.caps import ScopeCap
from autopack_mcp.budgets.counters import ScopeUse
from autopack_mcp.money import NANO_PER_USD
from autopack_mcp.summary.shown import tokens_text, usd, usd_text
from autopack_mcp.usage.service import HourCharge
from autopack_mcp.usage.spans import hour_of

# A day is the shortest time in which a night and a working day weigh what they weigh; longer ones notice too late that
# a run has begun.
MEASURED_OVER = timedelta(hours=24)
# The rate of a few minutes would make one large call look like a habit.
MEASURED_AT_LEAST = timedelta(hours=1)

Unit = Literal["tokens", "dollars"]
_MICROSECOND = timedelta(microseconds=1)
_HOUR_US = timedelta(hours=1) // _MICROSECOND


@dataclass(frozen=True, slots=True)
class BurnRate:
    """What was charged from one moment to another, and how much of it an hour (rounded down).

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
    """When a cap is reached if calls go on as they did in the hours measured.

    ``reached_at`` is cut to the minute, and None where there is no such time: the cap is reached already, it resets
    before that, or nothing was used to go by (``burn`` is None then). Of tokens and dollars the earlier one counts, and
    ``unit`` names it. ``says`` is all of this in a sentence or two.
    """

    reached_at: datetime | None
    unit: Unit | None
    burn: BurnRate | None
    says: str


@dataclass(frozen=True, slots=True)
class _Measure:
    """One unit in which a cap is set: what is left of it, and what was charged in the hours measured."""

    unit: Unit
    left: int
    charged: int


def earliest_hour(now: datetime) -> datetime:
    """The first hour that any rate may be measured over."""
    return hour_of(now - MEASURED_OVER)


def burn_rate(charges: Iterable[HourCharge], now: datetime, not_before: datetime | None = None) -> BurnRate | None:
    """The rate from the first hour with a charge until now; None when there is no such hour.

    Args:
        charges: in any order; those before ``earliest_hour`` are not measured.
        not_before: the start of the window in question. Charges before it count only where the measure would be
            shorter than ``MEASURED_AT_LEAST`` without their hour.
    """
    charges = tuple(charges)
    first = max(not_before or earliest_hour(now), earliest_hour(now))
    # A clock that was set back leaves charges in hours that have not come yet: they are no rate.
    used = [charge.hour_start for charge in charges if first <= charge.hour_start <= now]
    if not used:
        return None
    start = min(*used, hour_of(now - MEASURED_AT_LEAST))
    measured = [charge for charge in charges if start <= charge.hour_start <= now]
    tokens, nano = sum(charge.tokens for charge in measured), sum(charge.nano_usd for charge in measured)
    elapsed_us = (now - start) // _MICROSECOND
    per_hour = (tokens * _HOUR_US // elapsed_us, usd(nano * _HOUR_US // elapsed_us))
    return BurnRate(start, now, tokens, usd(nano), *per_hour)


def pace_of(cap: ScopeCap, use: ScopeUse, burn: BurnRate | None, resets_at: datetime) -> Pace:
    """When ``cap`` is reached at the rate ``burn``, measured in the cap's own calls; see Pace.

    ``reached_at = now + left x elapsed / charged``, rounded up to the microsecond before it is cut. What is settled or
    reserved is gone; what is left goes at the rate of the hours measured.
    """
    used_up = next((measure for measure in _measures(cap, use, burn) if measure.left <= 0), None)
    if used_up is not None:
        return Pace(None, used_up.unit, burn, "It is reached.")
    if burn is None:
        hours = MEASURED_OVER // timedelta(hours=1)
        return Pace(None, None, None, f"Nothing was used in its last {hours} hours: there is no pace to go by.")
    ends = [(_lasts_us(measure, burn), measure.unit) for measure in _measures(cap, use, burn) if measure.charged]
    ends = [(lasts, unit) for lasts, unit in ends if lasts < (resets_at - burn.measured_until) // _MICROSECOND]
    if not ends:
        return Pace(None, None, burn, f"At this pace it is not reached before it resets: {_basis(cap, burn)}.")
    lasts_us, unit = min(ends)
    reached_at = (burn.measured_until + lasts_us * _MICROSECOND).replace(second=0, microsecond=0)
    says = f"At this pace it is reached on {reached_at:%Y-%m-%d %H:%M} UTC: {_basis(cap, burn)}."
    return Pace(reached_at, unit, burn, says)


def _measures(cap: ScopeCap, use: ScopeUse, burn: BurnRate | None) -> Iterator[_Measure]:
    if cap.allowance_tokens is not None:
        yield _Measure("tokens", cap.allowance_tokens - use.used_tokens, 0 if burn is None else burn.tokens)
    if cap.allowance_nano is not None:
        charged = 0 if burn is None else int(burn.usd * NANO_PER_USD)
        yield _Measure("dollars", cap.allowance_nano - use.used_nano, charged)


def _lasts_us(measure: _Measure, burn: BurnRate) -> int:
    """How long what is left lasts, in microseconds, rounded up."""
    elapsed_us = (burn.measured_until - burn.measured_from) // _MICROSECOND
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
