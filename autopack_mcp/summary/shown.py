"""How amounts are written: dollars and tokens for people, plain JSON values for programs.

It owns rounding and wording and knows no run. Inside the product money is exact (Decimal); at an edge it becomes a
number rounded to a millionth of a dollar, for programs, or "$0.42", for people. Tools, page and command line call it.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TypeAlias

Plain: TypeAlias = "dict[str, Plain] | list[Plain] | str | int | float | bool | None"


def usd_number(usd: Decimal | None) -> float | None:
    """Dollars for a JSON answer: rounded to six decimals. A float, because every reader of JSON has numbers."""
    raise NotImplementedError


def usd_text(usd: Decimal | None, unpriced_calls: int = 0) -> str:
    """Dollars for a person: "$0.42", "$0.0042", "unpriced", "$0.42 + 3 unpriced calls"."""
    raise NotImplementedError


def tokens_text(tokens: int) -> str:
    """Tokens for a person: "12,345"."""
    raise NotImplementedError


def plain(value: object) -> Plain:
    """Any summary as JSON values: dataclasses become objects, Decimals ``usd_number``, times "2026-11-18T12:00:00Z"."""
    raise NotImplementedError
