"""What history would cost by the prices known today, held against what was written down when it was spent.

It owns the comparison, changes no row, and streams over the events. Each call is priced at its own date: a price that
was wrong or missing is corrected, a price that has changed since is not. The command line asks it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, RowMapping, select

from autopack_mcp.database.tables import usage_events, usage_lines
from autopack_mcp.money import NANO_PER_USD
from autopack_mcp.usage.event import ReportedUsage, TokenCounts, UsageLine
from autopack_mcp.usage.prices import PriceBook
from autopack_mcp.usage.reading import read_inference_geo
from autopack_mcp.usage.true_sums import pruned_before, within

CALLS_AT_ONCE = 500  # Events in memory at a time.
VERSIONS_SHOWN = 10  # Of one model: each change of a price or of the list makes one more.

# As ``prices`` writes them: "genai-prices 0.2.3 openai/gpt-5.6-luna from 2026-07-30 (flex)".
_LISTED = re.compile(r"genai-prices \S+ [^/ ]+/(?P<model>\S+)( from \S+)?( \([^()]*\))?")

_COUNTS = tuple(TokenCounts.__dataclass_fields__)
_EVENT = usage_events.c
_NEEDED = (
    "call_id", "provider", "model", "status", "usage_source", *_COUNTS, "cost_nano", "price_version", "service_tier",
    "processing", "tool_calls", "raw_usage", "occurred_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelRepricing:
    """One model of one provider: what its calls cost as recorded, and by today's prices.

    Sums are over calls that have a price, None when none has one; ``difference_usd`` is today's less the recorded sum.
    ``recorded_versions`` and ``versions`` name the prices that were and would be used, ``VERSIONS_SHOWN`` at most.
    """

    provider: str
    model: str
    calls: int
    recorded_usd: Decimal | None
    repriced_usd: Decimal | None
    difference_usd: Decimal | None
    recorded_unpriced_calls: int
    unpriced_calls: int
    recorded_versions: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Repricing:
    """All calls that were bought in ``starts_at <= reserved < ends_at`` (None is no bound), dearest model first.

    ``total`` sums up all models. ``events_from`` is when the events begin, None where none was ever deleted by age.
    """

    starts_at: datetime | None
    ends_at: datetime | None
    events_from: datetime | None
    total: ModelRepricing
    models: tuple[ModelRepricing, ...]


def reprice(
    connection: Connection, book: PriceBook, since: datetime | None = None, before: datetime | None = None
) -> Repricing:
    """Price every call again by ``book``, at the date on which it was reserved; rehearsals bought nothing.

    A call whose usage nobody knows was written down as its whole reservation, which stands; where that had no price, it
    is an upper bound by today's.
    """
    sums: dict[tuple[str, str], _Sum] = {}
    for rows in _batches(connection, since, before):
        lines = _lines_of(connection, [row["call_id"] for row in rows])
        for row in rows:
            found = sums.setdefault((row["provider"], row["model"]), _Sum())
            found.add(row, *_cost_now(book, row, lines.get(row["call_id"], ())))
    models = (found.shown(provider, model) for (provider, model), found in sums.items())
    whole = _Sum()
    for found in sums.values():
        whole.add_all(found)
    return Repricing(
        starts_at=since,
        ends_at=before,
        events_from=pruned_before(connection),
        total=whole.shown("", ""),
        models=tuple(sorted(models, key=_dearest_first)),
    )


@dataclass(slots=True)
class _Sum:
    """A growing sum over calls."""

    calls: int = 0
    recorded_nano: int = 0
    repriced_nano: int = 0
    recorded_unpriced: int = 0
    unpriced: int = 0
    recorded_versions: dict[str, None] = field(default_factory=dict)
    versions: dict[str, None] = field(default_factory=dict)

    def add(self, row: RowMapping, cost_nano: int | None, version: str | None) -> None:
        self.calls += 1
        self.recorded_nano += row["cost_nano"] or 0
        self.repriced_nano += cost_nano or 0
        self.recorded_unpriced += row["cost_nano"] is None
        self.unpriced += cost_nano is None
        _remember(self.recorded_versions, row["price_version"])
        _remember(self.versions, version)

    def add_all(self, other: _Sum) -> None:
        self.calls += other.calls
        self.recorded_nano += other.recorded_nano
        self.repriced_nano += other.repriced_nano
        self.recorded_unpriced += other.recorded_unpriced
        self.unpriced += other.unpriced

    def shown(self, provider: str, model: str) -> ModelRepricing:
        recorded = _usd(self.recorded_nano, self.calls - self.recorded_unpriced)
        repriced = _usd(self.repriced_nano, self.calls - self.unpriced)
        return ModelRepricing(
            provider=provider,
            model=model,
            calls=self.calls,
            recorded_usd=recorded,
            repriced_usd=repriced,
            difference_usd=None if repriced is None else repriced - (recorded or 0),
            recorded_unpriced_calls=self.recorded_unpriced,
            unpriced_calls=self.unpriced,
            recorded_versions=tuple(self.recorded_versions),
            versions=tuple(self.versions),
        )


def _remember(versions: dict[str, None], version: str | None) -> None:
    if version is not None and len(versions) < VERSIONS_SHOWN:
        versions[version] = None


def _usd(nano: int, priced_calls: int) -> Decimal | None:
    return Decimal(nano) / NANO_PER_USD if priced_calls else None


def _dearest_first(found: ModelRepricing) -> tuple[Decimal, str, str]:
    return -(found.repriced_usd or Decimal(0)), found.provider, found.model


def _batches(connection: Connection, since: datetime | None, before: datetime | None) -> Iterator[Sequence[RowMapping]]:
    bought = (_EVENT.purpose != "rehearsal", *within(_EVENT.occurred_at, since, before))
    events = select(*(_EVENT[name] for name in _NEEDED)).where(*bought).order_by(_EVENT.occurred_at)
    found = connection.execute(events.execution_options(yield_per=CALLS_AT_ONCE))
    yield from found.mappings().partitions()


def _lines_of(connection: Connection, calls: Sequence[str]) -> Mapping[str, Sequence[UsageLine]]:
    of_calls = select(usage_lines).where(usage_lines.c.call_id.in_(calls))
    found: dict[str, list[UsageLine]] = {}
    for row in connection.execute(of_calls.order_by(usage_lines.c.call_id, usage_lines.c.line_index)).mappings():
        found.setdefault(row["call_id"], []).append(UsageLine(row["model"], _counts_of(row)))
    return found


def _counts_of(row: Mapping[Any, Any]) -> TokenCounts:
    return TokenCounts(*(row[name] for name in _COUNTS))


def _cost_now(book: PriceBook, row: RowMapping, lines: Sequence[UsageLine]) -> tuple[int | None, str | None]:
    """(cost, price version) of a call by today's prices; the version is None where it is an upper bound, or nothing."""
    provider, model, at, counts = row["provider"], row["model"], row["occurred_at"], _counts_of(row)
    if row["status"] == "failed" and not counts.total:
        return 0, None  # Refused before anything was billed.
    if row["usage_source"] in ("estimated", "expired") and row["status"] != "external":
        # A promise, not a price: how its input may be billed was known when it was made, and is written nowhere.
        recorded: int | None = row["cost_nano"]
        bound = book.upper_bound_nano(provider, model, counts.total_input, counts.output, at)
        return bound if recorded is None else recorded, None
    usage = ReportedUsage(
        lines=tuple(lines) or (UsageLine(_listed_model(row["price_version"]), counts),),
        service_tier=row["service_tier"],
        inference_geo=read_inference_geo(row["raw_usage"] or {}),
        tool_calls=row["tool_calls"],
    )
    price = book.price_usage(provider, model, usage, at, row["processing"])
    return (None, None) if price is None else (price.cost_nano, price.version)


def _listed_model(version: str | None) -> str:
    """The model in the list whose price was recorded, "" if none: the name that came back is kept nowhere else."""
    found = _LISTED.fullmatch(version or "")
    return found["model"] if found else ""
