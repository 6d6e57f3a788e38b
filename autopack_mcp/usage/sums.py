"""Sums over calls as values: what some calls came to, and how such sums are added up under fewer keys.

Pure arithmetic on what ``service`` has read; it asks no database and knows no cap. Unknown prices stay unknown: a sum
over calls none of which has a price is no cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from operator import add
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

_INPUT, _OUTPUT = COUNTS.index("prompt_tokens"), COUNTS.index("completion_tokens")


@dataclass(frozen=True, slots=True)
class KeyedSums:
    """Sums over calls under some keys of a UsageRow, to be added up under fewer of them.

    Tuples and no rows, because a summary adds up some hundreds of sums in several ways, and shows a few dozen rows.
    """

    keys: tuple[str, ...]
    sums: Mapping[tuple[str, ...], tuple[int, ...]]

    @classmethod
    def of(cls, keys: tuple[str, ...], found: Iterable[tuple[Any, ...]]) -> KeyedSums:
        """Sums as they were read: the values of ``keys``, then the ``COUNTS``; what has the same keys is added up."""
        count = len(keys)
        return cls(keys, _added((row[:count], row[count:]) for row in found))

    def by(self, *keys: str) -> KeyedSums:
        """The same under ``keys``, which are some of its own."""
        places = [self.keys.index(key) for key in keys]
        return KeyedSums(
            keys, _added((tuple([key[place] for place in places]), sums) for key, sums in self.sums.items())
        )

    def rows(self) -> tuple[UsageRow, ...]:
        """One row per key, most tokens first, then by key."""
        most_first = sorted(self.sums.items(), key=lambda item: (-item[1][_INPUT] - item[1][_OUTPUT], item[0]))
        return tuple(usage_row((*self.keys, *COUNTS), (*key, *sums)) for key, sums in most_first)


def summed(rows: Iterable[UsageRow]) -> UsageRow:
    """The sum of rows, without their keys."""
    return next(iter(grouped(rows)), UsageRow())


def grouped(rows: Iterable[UsageRow], *keys: str) -> tuple[UsageRow, ...]:
    """One row for every combination of ``keys`` in ``rows``, most tokens first, then by key."""
    names = (*keys, *COUNTS)
    return KeyedSums.of(keys, (tuple([getattr(row, name) for name in names]) for row in rows)).rows()


def usage_row(names: Iterable[str], values: Iterable[Any]) -> UsageRow:
    """A row of these values under these names."""
    return UsageRow(**dict(zip(names, values, strict=True)))


def _added(found: Iterable[tuple[tuple[str, ...], tuple[int, ...]]]) -> Mapping[tuple[str, ...], tuple[int, ...]]:
    sums: dict[tuple[str, ...], tuple[int, ...]] = {}
    for key, counts in found:
        before = sums.get(key)
        sums[key] = counts if before is None else tuple(map(add, before, counts))
    return sums


def _known_cost(calls: int, unpriced_calls: int, cost_nano: int) -> Decimal | None:
    return None if calls and unpriced_calls == calls else Decimal(cost_nano) / NANO_PER_USD
