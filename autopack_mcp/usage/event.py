"""One usage fact: the canonical token buckets of a call, and the event that is booked for it.

It owns the arithmetic of tokens (docs/accounting.md) and makes impossible counts unbuildable; it reads no provider's
body (``reading``) and knows no price (``prices``). The provider adapters, the ledger and the summaries use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from autopack_mcp.errors import ImpossibleTokenCounts

Status = Literal["ok", "failed", "cut", "expired", "external"]
UsageSource = Literal["provider", "partial", "estimated", "expired"]
Purpose = Literal["run", "rehearsal", "experiment"]
Processing = Literal["sync", "batch"]


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of one call in disjoint buckets; only ``reasoning`` is a part of another one (``output``).

    Raises:
        ImpossibleTokenCounts: a count is negative, or ``reasoning`` exceeds ``output``.
    """

    uncached_input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    cache_write_other: int = 0
    output: int = 0
    reasoning: int = 0

    def __post_init__(self) -> None:
        for name in (
            "uncached_input",
            "cache_read",
            "cache_write_5m",
            "cache_write_1h",
            "cache_write_other",
            "output",
            "reasoning",
        ):
            if getattr(self, name) < 0:
                raise ImpossibleTokenCounts(("zero or more", 0), (name, getattr(self, name)))
        if self.reasoning > self.output:
            raise ImpossibleTokenCounts(("output", self.output), ("reasoning", self.reasoning))

    @property
    def cache_write(self) -> int:
        """Tokens written to any cache."""
        return self.cache_write_5m + self.cache_write_1h + self.cache_write_other

    @property
    def total_input(self) -> int:
        """Everything the model read, cached or not: what tools call ``prompt_tokens``."""
        return self.uncached_input + self.cache_read + self.cache_write

    @property
    def total(self) -> int:
        """Input plus output: what every token cap counts."""
        return self.total_input + self.output

    def __add__(self, other: TokenCounts) -> TokenCounts:
        return TokenCounts(
            self.uncached_input + other.uncached_input,
            self.cache_read + other.cache_read,
            self.cache_write_5m + other.cache_write_5m,
            self.cache_write_1h + other.cache_write_1h,
            self.cache_write_other + other.cache_write_other,
            self.output + other.output,
            self.reasoning + other.reasoning,
        )


@dataclass(frozen=True, slots=True)
class UsageLine:
    """The part of a call that one model billed; most calls have exactly one."""

    model: str
    counts: TokenCounts


@dataclass(frozen=True, slots=True)
class ReportedUsage:
    """What a provider said about one call: at least one line, and the raw body it was read from.

    ``inference_geo`` is where it was computed, as far as that has a price of its own ("us").
    """

    lines: tuple[UsageLine, ...]
    service_tier: str | None = None
    inference_geo: str | None = None
    tool_calls: Mapping[str, int] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> TokenCounts:
        """The sum over all lines."""
        return sum((line.counts for line in self.lines), TokenCounts())


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """One row of the ledger: one attempt at a provider call, whatever became of it.

    ``cost_nano`` is integer nano-dollars and None when no price is known (shown as "unpriced", never as 0).
    ``lines`` has more than one entry only when one call billed several models.

    Raises:
        ImpossibleTokenCounts: the cost is negative.
    """

    call_id: str
    provider: str
    model: str
    role: str
    purpose: Purpose
    status: Status
    usage_source: UsageSource
    counts: TokenCounts
    occurred_at: datetime
    run_id: str | None = None
    phase_id: str | None = None
    attempt: int | None = None
    category: str | None = None
    response_id: str | None = None
    request_id: str | None = None
    cost_nano: int | None = None
    price_version: str | None = None
    service_tier: str | None = None
    processing: Processing = "sync"
    tool_calls: Mapping[str, int] = field(default_factory=dict)
    raw_usage: Mapping[str, Any] | None = None
    lines: tuple[UsageLine, ...] = ()
    error: str | None = None
    started_at: datetime | None = None

    def __post_init__(self) -> None:
        if self.cost_nano is not None and self.cost_nano < 0:
            raise ImpossibleTokenCounts(("zero or more", 0), ("cost_nano", self.cost_nano))
