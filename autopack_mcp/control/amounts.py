"""How much a person means: "80%", "$5", "200k tokens" as an exact amount, or a clear no.

Pure and strict: it never guesses what a number without a unit counts, and rounds nothing away. ``orders`` calls it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from autopack_mcp.budgets.standing_orders import OrderUnit
from autopack_mcp.errors import RequestRefused
from autopack_mcp.money import NANO_PER_USD
from autopack_mcp.text_safety import visible

WAYS = "Write it like 80%, $5, 0.50 USD, 200,000 tokens or 200k."
SHOWN_CHARS = 40  # Of what cannot be read, when it is repeated.
LARGEST = 10**15  # Tokens or nano-dollars (a million dollars): beyond it a slip of the hand is more likely than a wish.

# So many decimals are exact in every calculation below; the digits are ASCII's, for \d would take those of any script.
_NUMBER = r"(?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]{1,12})?)"
_PERCENT = re.compile(rf"{_NUMBER} ?(?:%|percent)")
_DOLLARS = re.compile(rf"(?:\$ ?|usd ){_NUMBER}|{_NUMBER.replace('number', 'behind')} ?(?:usd|dollars?|\$)")
_TOKENS = re.compile(rf"{_NUMBER} ?(?:(?P<times>[km])(?: ?tokens?)?|tokens?)")
_TIMES = {None: 1, "k": 1_000, "m": 1_000_000}


@dataclass(frozen=True, slots=True)
class Amount:
    """A whole count of percent (1 to 100), tokens or nano-dollars."""

    unit: OrderUnit
    count: int


def read_amount(text: str) -> Amount:
    """The amount that a person wrote.

    Raises:
        RequestRefused: it cannot be read, is nothing, is more than all, or is finer than what is counted.
    """
    words = " ".join(text.lower().split())
    if found := _PERCENT.fullmatch(words):
        return _percent(_decimal(found["number"]), text)
    if found := _DOLLARS.fullmatch(words):
        return Amount("nano_usd", _whole(_decimal(found["number"] or found["behind"]) * NANO_PER_USD, text))
    if found := _TOKENS.fullmatch(words):
        return Amount("tokens", _whole(_decimal(found["number"]) * _TIMES[found["times"]], text))
    if re.fullmatch(_NUMBER, words):
        raise RequestRefused(f"{_shown(text)} of what? It has no unit.", hint=WAYS)
    raise RequestRefused(f"The amount {_shown(text)} cannot be read.", hint=WAYS)


def read_tokens(text: str) -> int:
    """The tokens that a person wrote where nothing else is counted: "18000", "18k", "1.5M", "200,000 tokens".

    Raises:
        RequestRefused: as ``read_amount``, or it is an amount of something else.
    """
    is_bare = re.fullmatch(_NUMBER, " ".join(text.split())) is not None
    found = read_amount(f"{text} tokens" if is_bare else text)
    if found.unit != "tokens":
        raise RequestRefused(f"{_shown(text)} is no amount of tokens.", hint="Write it like 18000, 18k or 1.5M.")
    return found.count


def _percent(percent: Decimal, text: str) -> Amount:
    if not 0 < percent <= 100:
        raise RequestRefused(f"{_shown(text)} is not between 1 % and 100 % of a cap.", hint=WAYS)
    return Amount("percent", _whole(percent, text))


def _whole(count: Decimal, text: str) -> int:
    if count != count.to_integral_value():
        raise RequestRefused(
            f"{_shown(text)} is finer than what is counted: whole percents, whole tokens, billionths of a dollar."
        )
    if not 0 < count <= LARGEST:
        raise RequestRefused(
            f"{_shown(text)} would {'stop everything' if not count else 'never be reached'}.", hint=WAYS
        )
    return int(count)


def _decimal(number: str) -> Decimal:
    return Decimal(number.replace(",", ""))


def _shown(text: str) -> str:
    return repr(visible(text, SHOWN_CHARS))
