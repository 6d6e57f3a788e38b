"""One cap in one of its units, set against its counter, and the words for it.

Pure arithmetic over what ``caps`` and ``counters`` say; the ledger denies by it, alerts and breaches are found by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from autopack_mcp.budgets.caps import ScopeCap
from autopack_mcp.budgets.counters import ScopeUse
from autopack_mcp.money import dollars_text, exact_dollars_text, usd

Unit = Literal["tokens", "nano_usd"]


@dataclass(frozen=True, slots=True)
class Measure:
    """What a counter has used of an allowance: ``settled`` for good, ``in_flight`` promised to calls under way."""

    unit: Unit
    allowance: int
    settled: int
    in_flight: int

    @property
    def used(self) -> int:
        """What no other call may have."""
        return self.settled + self.in_flight


def measures(cap: ScopeCap, use: ScopeUse) -> Iterator[Measure]:
    """A cap in tokens, in dollars, or in both."""
    if cap.allowance_tokens is not None:
        yield Measure("tokens", cap.allowance_tokens, use.settled_tokens, use.reserved_tokens)
    if cap.allowance_nano is not None:
        yield Measure("nano_usd", cap.allowance_nano, use.settled_nano, use.reserved_nano)


def amount(unit: Unit, count: int) -> str:
    """A count in words: "1,200 tokens" or "$0.0050"."""
    return _tokens(count) if unit == "tokens" else dollars_text(usd(count))


def exact_amount(unit: Unit, count: int) -> str:
    """The same for what a person has set or is asked to set: nothing of it is rounded away."""
    return _tokens(count) if unit == "tokens" else exact_dollars_text(usd(count))


def in_words(cap: ScopeCap, measure: Measure) -> str:
    """ "Openai's cap of the week is 1,000 tokens"."""
    return f"{cap.label[:1].upper()}{cap.label[1:]} is {amount(measure.unit, measure.allowance)}"


def _tokens(count: int) -> str:
    return f"{count:,} token" if count == 1 else f"{count:,} tokens"
