"""Money is integer nano-dollars everywhere; this is the one place that says how many make a dollar and how it is read.

It owns the wording of an amount of dollars, so that a denial, a tool, the page and the command line write it alike. It
knows nothing of caps or calls; whoever shows money calls it.
"""

from __future__ import annotations

from decimal import Decimal

NANO_PER_USD = 1_000_000_000

_LEAST_SHOWN = Decimal("0.0001")  # Less than that is one small call; more zeros would only be miscounted.


def usd(nano: int) -> Decimal:
    """Dollars, exactly."""
    return Decimal(nano) / NANO_PER_USD


def dollars_text(amount: Decimal) -> str:
    """Dollars for a person: cents from a dollar up and where cents say it all, otherwise four decimals.

    "$5.00", "$0.42", "$0.0042", "less than $0.0001".
    """
    if 0 < amount < _LEAST_SHOWN:
        return f"less than ${_LEAST_SHOWN}"
    return f"${amount:,.{_decimals(amount)}f}"


def exact_dollars_text(amount: Decimal) -> str:
    """The same for what a person has set: with as many decimals as it takes, so that nothing is rounded away."""
    if round(amount, _decimals(amount)) == amount:
        return f"${amount:,.{_decimals(amount)}f}"
    return f"${amount.normalize():,f}"


def _decimals(amount: Decimal) -> int:
    return 2 if amount >= 1 or amount == round(amount, 2) else 4
