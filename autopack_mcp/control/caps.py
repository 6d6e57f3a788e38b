"""The caps that a person wants for a run or a phase, checked before anything is written down.

It owns what an amount may be; what a cap comes to is ``runs.cap_changes``'s to say. ``requests`` takes the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from autopack_mcp.errors import RequestRefused
from autopack_mcp.money import NANO_PER_USD
from autopack_mcp.runs.own_caps import NewCaps

_HINT = "It is the new total, not what is added. To spend nothing more, pause the run."
LARGEST = 2**63 - 1  # Tokens or nano-dollars: what a database column of ours can hold.


@dataclass(frozen=True, slots=True)
class CapWish:
    """New totals for the caps of a run, or of one of its phases; None leaves that cap as it is."""

    tokens: int | None = None
    usd: Decimal | None = None
    phase_id: str | None = None


def checked_caps(wish: CapWish) -> NewCaps:
    """The wish in whole tokens and nano-dollars; smaller parts of a dollar are cut off.

    Raises:
        RequestRefused: no amount is given, or one is 0, negative, no number or larger than can be counted.
    """
    if wish.tokens is None and wish.usd is None:
        raise RequestRefused("No cap is given.", hint="Say the new total: tokens, dollars or both.")
    if wish.tokens is not None and not 0 < wish.tokens <= LARGEST:
        raise RequestRefused(f"A cap is from 1 to {LARGEST:,} tokens, not {wish.tokens:,}.", hint=_HINT)
    return NewCaps(wish.tokens, None if wish.usd is None else _nano(wish.usd), wish.phase_id)


def _nano(usd: Decimal) -> int:
    # Compared before it is multiplied: NaN and infinity compare as too small or too large, and 1e999999 is no sum.
    if not usd.is_finite() or not 0 < usd <= LARGEST // NANO_PER_USD or usd * NANO_PER_USD < 1:
        raise RequestRefused(f"A cap is above $0 and at most ${LARGEST // NANO_PER_USD:,}, not {usd}.", hint=_HINT)
    return int(usd * NANO_PER_USD)
