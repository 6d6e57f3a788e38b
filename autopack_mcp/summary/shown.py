"""How amounts are written: dollars and tokens for people, plain JSON values for programs.

It owns rounding for programs and knows no run. Inside the product money is exact (Decimal); at an edge it becomes a
number rounded to a millionth of a dollar, for programs, or ``money``'s words, for people. Tools, page and command line
call it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypeAlias

from autopack_mcp.money import dollars_text

Plain: TypeAlias = "dict[str, Plain] | list[Plain] | str | int | float | bool | None"

USD_DECIMALS = 6  # Of a number in JSON: a single cheap call costs some millionths of a dollar.


def usd_number(amount: Decimal | None) -> float | None:
    """Dollars for a JSON answer: rounded to six decimals. A float, because every reader of JSON has numbers."""
    return None if amount is None else round(float(amount), USD_DECIMALS)


def usd_text(amount: Decimal | None, unpriced_calls: int = 0) -> str:
    """Dollars for a person: "$0.42", "$0.0042", "unpriced", "$0.42 + 3 unpriced calls"."""
    if amount is None:
        return "unpriced"
    more = f" + {unpriced_calls} unpriced call{'s' if unpriced_calls > 1 else ''}" if unpriced_calls else ""
    return dollars_text(amount) + more


def tokens_text(tokens: int) -> str:
    """Tokens for a person: "12,345"."""
    return f"{tokens:,}"


def plain(value: object) -> Plain:
    """Any summary as JSON values: dataclasses become objects, Decimals ``usd_number``, times "2026-11-18T12:00:00Z"."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Decimal):
        return usd_number(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    assert isinstance(value, Sequence | Set), f"a summary holds no {type(value).__name__}"
    return [plain(item) for item in value]
