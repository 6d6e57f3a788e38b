"""What was used, counted: by provider, model, role and category in a window, and by phase of a run.

It owns the questions asked of the derived tables ``usage_hours`` and ``usage_phases``, and ``UsageService`` for library
users. It knows no cap and no level (``summary`` sets counts against caps), and never mixes rehearsed with real calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Label, Table, and_, cast, func, select

from autopack_mcp.clock import Clock
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import usage_hours, usage_phases
from autopack_mcp.errors import RequestRefused
from autopack_mcp.money import NANO_PER_USD
from autopack_mcp.usage.windows import WINDOWS, WindowSpan, window_at

OLDEST_OFFSET = -3_660  # Ten years of days; nobody has usage before that, and the calendar would end.
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


def _known_cost(calls: int, unpriced_calls: int, cost_nano: int) -> Decimal | None:
    return None if calls and unpriced_calls == calls else Decimal(cost_nano) / NANO_PER_USD


_COUNTS = tuple(field.name for field in fields(UsageRow) if field.type == "int")


def summed(rows: Iterable[UsageRow]) -> UsageRow:
    """The sum of rows, without their keys."""
    rows = tuple(rows)
    return UsageRow(**{name: sum(getattr(row, name) for row in rows) for name in _COUNTS})


def usage_by_provider(connection: Connection, span: WindowSpan) -> tuple[UsageRow, ...]:
    """One row per provider in a window, most tokens first."""
    return _in_window(connection, span, "provider")


def usage_by_model(connection: Connection, span: WindowSpan) -> tuple[UsageRow, ...]:
    """One row per provider and model in a window, most tokens first."""
    return _in_window(connection, span, "provider", "model")


def usage_by_role(connection: Connection, span: WindowSpan) -> tuple[UsageRow, ...]:
    """One row per role in a window, most tokens first."""
    return _in_window(connection, span, "role")


def usage_by_category(connection: Connection, span: WindowSpan) -> tuple[UsageRow, ...]:
    """One row per task category in a window, most tokens first; "" are calls without one."""
    return _in_window(connection, span, "category")


def usage_of_run(connection: Connection, run_id: str, *, is_rehearsal: bool = False) -> tuple[UsageRow, ...]:
    """One row per phase, role, provider and model of a run, its real or its rehearsed calls; see ``spent_by_phase``."""
    mine = _calls_of_run(run_id, is_rehearsal=is_rehearsal)
    return _grouped(connection, usage_phases, ("phase_id", "role", "provider", "model"), mine)


def spent_by_phase(connection: Connection, run_id: str, *, is_rehearsal: bool = False) -> Mapping[str, Spent]:
    """What a run spent, by phase id, in its real or its rehearsed calls; "" are calls outside any phase."""
    columns = usage_phases.c
    sums = [_sum(columns[field.name]) for field in fields(Spent)]
    mine = _calls_of_run(run_id, is_rehearsal=is_rehearsal)
    found = select(columns.phase_id, *sums).where(mine).group_by(columns.phase_id)
    return {phase_id: Spent(*row) for phase_id, *row in connection.execute(found).all()}


def spent_by_run(connection: Connection, rehearsed: Mapping[str, bool]) -> Mapping[str, Spent]:
    """What several runs spent; ``rehearsed`` says of each run whether it is its rehearsed calls that count."""
    columns = usage_phases.c
    is_rehearsed = (columns.purpose == "rehearsal").label("is_rehearsed")
    sums = [_sum(columns[field.name]) for field in fields(Spent)]
    found = select(columns.run_id, is_rehearsed, *sums).where(columns.run_id.in_(rehearsed))
    rows = connection.execute(found.group_by(columns.run_id, is_rehearsed)).all()
    return {run_id: Spent(*row) for run_id, kind, *row in rows if bool(kind) == rehearsed[run_id]}


def asked_window(period: str, offset: int, now: datetime) -> WindowSpan:
    """The window that a person asks for: ``offset`` 0 holds ``now``, -1 is the one before it.

    Raises:
        RequestRefused: an unknown period, or an offset that is not between ``OLDEST_OFFSET`` and 0.
    """
    if period not in WINDOWS:
        raise RequestRefused(f"Unknown period {period!r}.", hint=f"Periods are {', '.join(WINDOWS)}.")
    if not OLDEST_OFFSET <= offset <= 0:
        raise RequestRefused(
            f"Offset {offset} names no past or present {period}.",
            hint=f"0 is the current {period}, -1 the one before it, down to {OLDEST_OFFSET}.",
        )
    return window_at(period, now, offset=offset)


class UsageService:
    """Usage by provider and by model, for library users; caps are set against it by ``usage_summary``."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def get_provider_usage_summary(self, period: str = "week", offset: int = 0) -> tuple[UsageRow, ...]:
        """One row per provider with calls in the window, most tokens first; rehearsals are not in it.

        Raises:
            RequestRefused: an unknown period, or a window of the future.
        """
        return self._database.read_now(usage_by_provider, asked_window(period, offset, self._clock.now()))

    def get_model_usage_summary(self, period: str = "week", offset: int = 0) -> tuple[UsageRow, ...]:
        """One row per provider and model with calls in the window, most tokens first; rehearsals are not in it.

        Raises:
            RequestRefused: an unknown period, or a window of the future.
        """
        return self._database.read_now(usage_by_model, asked_window(period, offset, self._clock.now()))


def _calls_of_run(run_id: str, *, is_rehearsal: bool) -> ColumnElement[bool]:
    is_rehearsed = usage_phases.c.purpose == "rehearsal"
    return and_(usage_phases.c.run_id == run_id, is_rehearsed if is_rehearsal else ~is_rehearsed)


def _in_window(connection: Connection, span: WindowSpan, *keys: str) -> tuple[UsageRow, ...]:
    hours = usage_hours.c
    within = and_(hours.hour_start >= span.start, hours.hour_start < span.end, hours.purpose != "rehearsal")
    return _grouped(connection, usage_hours, keys, within)


def _grouped(
    connection: Connection, table: Table, keys: Sequence[str], where: ColumnElement[bool]
) -> tuple[UsageRow, ...]:
    columns = [table.c[key] for key in keys]
    found = select(*columns, *_sums(table)).where(where).group_by(*columns).order_by(*columns)
    rows = [_row(row, keys) for row in connection.execute(found).all()]
    return tuple(sorted(rows, key=lambda row: row.total_tokens, reverse=True))


def _sums(table: Table) -> list[Label[int]]:
    columns = table.c
    measures: dict[str, ColumnElement[int]] = {
        **dict(columns.items()),
        "prompt_tokens": columns.uncached_input + columns.cache_read + columns.cache_write,
        "completion_tokens": columns.output,
    }
    return [_sum(measures[name]).label(name) for name in _COUNTS]


def _sum(column: ColumnElement[int]) -> ColumnElement[int]:
    # PostgreSQL sums BIGINT to NUMERIC, which would arrive as Decimal.
    return cast(func.sum(column), BigInteger)


def _row(row: Sequence[Any], keys: Sequence[str]) -> UsageRow:
    """Keys and sums in the order in which they were asked for."""
    return UsageRow(**dict(zip((*keys, *_COUNTS), row, strict=True)))
