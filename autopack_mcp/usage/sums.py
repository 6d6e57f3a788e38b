"""Sums over calls as values: what some calls came to, and how such sums are added up under fewer keys.

Pure arithmetic on what ``service`` has read; it asks no database and knows no cap. Unknown prices stay unknown: a sum
over calls none of which has a price is no cost.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from decimal import Decimal
from operator import add, attrgetter
from typing import Any

from autopack_mcp.money import NANO_PER_USD

_CORE_ROLES = frozenset({"builder", "auditor"})


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """Sums over calls, and what they have in common; a key that was not asked for is None.

    ``prompt_tokens`` is all input, cached included; ``reasoning`` is a part of ``completion_tokens``. ``charged_*`` is
    what weighs against caps. ``cost_nano`` is the sum of the known prices: ``unpriced_calls`` are not in it.
    """

    provider: str | None = None
    model: str | None = None
    role: str | None = None
    category: str | None = None
    phase_id: str | None = None
    run_id: str | None = None
    calls: int = 0
    failed_calls: int = 0
    unpriced_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning: int = 0
    charged_tokens: int = 0
    charged_nano: int = 0
    cost_nano: int = 0

    @property
    def total_tokens(self) -> int:
        """Input plus output."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def cost_usd(self) -> Decimal | None:
        """Dollars of the calls that have a price; None when there are calls and none of them has one."""
        return _known_cost(self.calls, self.unpriced_calls, self.cost_nano)

    @property
    def is_core(self) -> bool:
        """True for builder and auditor, false for auxiliary agents."""
        return self.role in _CORE_ROLES


@dataclass(frozen=True, slots=True)
class Spent:
    """What some calls of a run came to: as UsageRow, but only what a status shows of each of its many phases."""

    calls: int = 0
    unpriced_calls: int = 0
    charged_tokens: int = 0
    cost_nano: int = 0

    @property
    def cost_usd(self) -> Decimal | None:
        """As UsageRow."""
        return _known_cost(self.calls, self.unpriced_calls, self.cost_nano)


COUNTS = tuple(field.name for field in fields(UsageRow) if field.type == "int")
"""The names of a UsageRow's sums, in order."""

_counts_of = attrgetter(*COUNTS)


def summed(rows: Iterable[UsageRow]) -> UsageRow:
    """The sum of rows, without their keys."""
    return next(iter(grouped(rows)), UsageRow())


def grouped(rows: Iterable[UsageRow], *keys: str) -> tuple[UsageRow, ...]:
    """One row for every combination of ``keys`` in ``rows``, most tokens first, then by key."""
    found: dict[tuple[Any, ...], tuple[int, ...]] = {}
    key_of = _tuple_of(keys)
    for row in rows:
        key, counts = key_of(row), _counts_of(row)
        before = found.get(key)
        found[key] = counts if before is None else tuple(map(add, before, counts))
    sums = (usage_row((*keys, *COUNTS), (*key, *found[key])) for key in sorted(found))
    return tuple(sorted(sums, key=attrgetter("total_tokens"), reverse=True))


def usage_row(names: Iterable[str], values: Iterable[Any]) -> UsageRow:
    """A row of these values under these names."""
    return UsageRow(**dict(zip(names, values, strict=True)))


def _tuple_of(keys: tuple[str, ...]) -> Any:
    """What gives the values of ``keys`` as a tuple, however many they are."""
    if len(keys) > 1:
        return attrgetter(*keys)
    return (lambda row: (getattr(row, keys[0]),)) if keys else (lambda row: ())


def _known_cost(calls: int, unpriced_calls: int, cost_nano: int) -> Decimal | None:
    return None if calls and unpriced_calls == calls else Decimal(cost_nano) / NANO_PER_USD
