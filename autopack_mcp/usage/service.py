"""What was used, counted: by provider, model, role, category and day of a span of time, and by run and phase.

It owns the questions asked of the derived tables ``usage_days``, ``usage_hours`` and ``usage_phases``, and
``UsageService`` for library users. It knows no cap and no level (``summary`` sets counts against caps), and never mixes
rehearsed with real calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache

from sqlalchemy import BigInteger, ColumnElement, Connection, Label, Table, bindparam, cast, func, select

from autopack_mcp.clock import Clock, from_us, to_us
from autopack_mcp.database.bare import BareStatement
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import usage_days, usage_events, usage_hours, usage_phases
from autopack_mcp.usage.spans import DEFAULT_PERIOD, Moment, TimeSpan, asked_span, day_of, whole_days
from autopack_mcp.usage.sums import COUNTS, KeyedSums, Spent, UsageRow, summed, usage_row
from autopack_mcp.usage.true_sums import MEASURES, phase_sums_of_events

_KINDS = ("provider", "model", "role", "category")
_TIMES: Mapping[Table, str] = {usage_hours: "hour_start", usage_days: "day_start"}


@dataclass(frozen=True, slots=True)
class DayCharge:
    """What weighed against caps on one UTC day, of one provider and role."""

    day_start: datetime
    provider: str
    role: str
    tokens: int
    nano_usd: int


def usage_sums(connection: Connection, span: TimeSpan) -> KeyedSums:
    """The sums of a span by provider, model, role and category ("" are calls without one).

    One pass over the days of a span, so that a month costs as much at ten million events as at one million.
    """
    found = (
        row
        for table, start, end in _parts(span)
        for row in _sums_by(table, *_KINDS).rows(connection, _between(start, end))
    )
    return KeyedSums.of(_KINDS, found)


def usage_by_provider(connection: Connection, span: TimeSpan) -> tuple[UsageRow, ...]:
    """One row per provider in a span, most tokens first."""
    return usage_sums(connection, span).by("provider").rows()


def usage_by_model(connection: Connection, span: TimeSpan) -> tuple[UsageRow, ...]:
    """One row per provider and model in a span, most tokens first."""
    return usage_sums(connection, span).by("provider", "model").rows()


def usage_by_role(connection: Connection, span: TimeSpan) -> tuple[UsageRow, ...]:
    """One row per role in a span, most tokens first."""
    return usage_sums(connection, span).by("role").rows()


def usage_by_category(connection: Connection, span: TimeSpan) -> tuple[UsageRow, ...]:
    """One row per task category in a span, most tokens first; "" are calls without one."""
    return usage_sums(connection, span).by("category").rows()


def usage_by_day(connection: Connection, span: TimeSpan) -> Mapping[datetime, UsageRow]:
    """The sums of every day with calls in a span, by the day's first moment."""
    days: dict[datetime, list[UsageRow]] = {}
    for table, start, end in _parts(span):
        for at, *counts in _sums_by(table, _TIMES[table]).rows(connection, _between(start, end)):
            days.setdefault(day_of(from_us(at)), []).append(usage_row(COUNTS, counts))
    return {day: summed(rows) if len(rows) > 1 else rows[0] for day, rows in days.items()}


def rehearsed_calls(connection: Connection, span: TimeSpan) -> int:
    """How many calls were rehearsed in a span; they are in none of the other answers about it."""
    return sum(
        _rehearsed(table, _TIMES[table]).rows(connection, _between(start, end))[0][0] or 0
        for table, start, end in _parts(span)
    )


def usage_by_run(connection: Connection, span: TimeSpan) -> tuple[UsageRow, ...]:
    """One row per run with calls in a span, most tokens first; calls of no run are in no row.

    Read from the events themselves, a microsecond for each, because no derived table knows both run and time; so there
    is nothing of what went by age.
    """
    rows = connection.execute(_RUNS_OF_EVENTS, {"start": span.start, "end": span.end})
    return KeyedSums.of(("run_id",), ((row[0], *_counts(row[_RUN_KEYS:])) for row in rows)).rows()


def charges_by_day(connection: Connection, since: datetime) -> tuple[DayCharge, ...]:
    """What weighed against caps on every day from ``since`` on."""
    rows = _CHARGES.rows(connection, {"start": to_us(since)})
    return tuple(DayCharge(from_us(at), *row) for at, *row in rows)


def first_hour(
    connection: Connection, since: datetime, *, provider: str | None = None, role: str | None = None
) -> datetime | None:
    """The first hour from ``since`` on with a call, of a provider or a role where one is named; None without any."""
    named = {name: value for name, value in (("provider", provider), ("role", role)) if value is not None}
    row = _first_hour(*named).row(connection, {"start": to_us(since), **named})
    return None if row is None else from_us(row[0])


def usage_of_run(connection: Connection, run_id: str, *, is_rehearsal: bool = False) -> tuple[UsageRow, ...]:
    """One row per phase, role, provider and model of a run, its real or its rehearsed calls; see ``spent_by_phase``."""
    rows = _sums_of_run(is_rehearsal).rows(connection, {"run_id": run_id})
    return KeyedSums.of(("phase_id", "role", "provider", "model"), rows).rows()


def spent_by_phase(connection: Connection, run_id: str, *, is_rehearsal: bool = False) -> Mapping[str, Spent]:
    """What a run spent, by phase id, in its real or its rehearsed calls; "" are calls outside any phase."""
    columns = usage_phases.c
    sums = [_sum(columns[field.name]) for field in fields(Spent)]
    mine = (columns.run_id == run_id, _is_kind(is_rehearsal=is_rehearsal))
    found = select(columns.phase_id, *sums).where(*mine).group_by(columns.phase_id)
    return {phase_id: Spent(*row) for phase_id, *row in connection.execute(found).all()}


def spent_by_run(connection: Connection, rehearsed: Mapping[str, bool]) -> Mapping[str, Spent]:
    """What several runs spent; ``rehearsed`` says of each run whether it is its rehearsed calls that count."""
    columns = usage_phases.c
    is_rehearsed = (columns.purpose == "rehearsal").label("is_rehearsed")
    sums = [_sum(columns[field.name]) for field in fields(Spent)]
    found = select(columns.run_id, is_rehearsed, *sums).where(columns.run_id.in_(rehearsed))
    rows = connection.execute(found.group_by(columns.run_id, is_rehearsed)).all()
    return {run_id: Spent(*row) for run_id, kind, *row in rows if bool(kind) == rehearsed[run_id]}


class UsageService:
    """Usage by provider and by model, for library users; caps are set against it by ``usage_summary``."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def get_provider_usage_summary(
        self,
        period: str = DEFAULT_PERIOD,
        offset: int = 0,
        *,
        from_: Moment | None = None,
        to: Moment | None = None,
    ) -> tuple[UsageRow, ...]:
        """One row per provider with calls in the span, most tokens first; rehearsals are not in it.

        Raises:
            RequestRefused: what is asked for is no span of past or present time; see ``asked_span``.
        """
        span = asked_span(self._clock.now(), period, offset, from_=from_, to=to)
        return self._database.read_now(usage_by_provider, span)

    def get_model_usage_summary(
        self,
        period: str = DEFAULT_PERIOD,
        offset: int = 0,
        *,
        from_: Moment | None = None,
        to: Moment | None = None,
    ) -> tuple[UsageRow, ...]:
        """One row per provider and model with calls in the span, most tokens first; rehearsals are not in it.

        Raises:
            RequestRefused: what is asked for is no span of past or present time; see ``asked_span``.
        """
        span = asked_span(self._clock.now(), period, offset, from_=from_, to=to)
        return self._database.read_now(usage_by_model, span)


def _parts(span: TimeSpan) -> Iterator[tuple[Table, datetime, datetime]]:
    """Where the sums of a span stand: its whole days among the days, what is left at its ends among the hours."""
    first, last = whole_days(span)
    if first >= last:
        yield usage_hours, span.start, span.end
        return
    for table, start, end in (usage_hours, span.start, first), (usage_days, first, last), (usage_hours, last, span.end):
        if start < end:
            yield table, start, end


def _between(start: datetime, end: datetime) -> Mapping[str, int]:
    return {"start": to_us(start), "end": to_us(end)}


@cache
def _sums_by(table: Table, *keys: str) -> BareStatement:
    at, columns = table.c[_TIMES[table]], [table.c[key] for key in keys]
    real = table.c.purpose != "rehearsal"
    within = (at >= bindparam("start"), at < bindparam("end"), real)
    return BareStatement(lambda _: select(*columns, *_sums(table)).where(*within).group_by(*columns))


@cache
def _rehearsed(table: Table, time: str) -> BareStatement:
    at = table.c[time]
    within = (at >= bindparam("start"), at < bindparam("end"), table.c.purpose == "rehearsal")
    return BareStatement(lambda _: select(_sum(table.c.calls)).where(*within))


@cache
def _first_hour(*named: str) -> BareStatement:
    hours = usage_hours.c
    since = (hours.hour_start >= bindparam("start"), hours.purpose != "rehearsal")
    mine = [hours[name] == bindparam(name) for name in named]
    # The first of a sorted index, not the least of all: it is found after a few rows.
    return BareStatement(lambda _: select(hours.hour_start).where(*since, *mine).order_by(hours.hour_start).limit(1))


@cache
def _sums_of_run(is_rehearsal: bool) -> BareStatement:  # noqa: FBT001  Kept by its value.
    phases = usage_phases.c
    keys = (phases.phase_id, phases.role, phases.provider, phases.model)
    mine = (phases.run_id == bindparam("run_id"), _is_kind(is_rehearsal=is_rehearsal))
    return BareStatement(lambda _: select(*keys, *_sums(usage_phases)).where(*mine).group_by(*keys))


def _is_kind(*, is_rehearsal: bool) -> ColumnElement[bool]:
    is_rehearsed = usage_phases.c.purpose == "rehearsal"
    return is_rehearsed if is_rehearsal else ~is_rehearsed


def _sums(table: Table) -> list[Label[int]]:
    """A UsageRow's counts, in its order, over the rows of a derived table."""
    columns = table.c
    measures: dict[str, ColumnElement[int]] = {
        **dict(columns.items()),
        "prompt_tokens": columns.uncached_input + columns.cache_read + columns.cache_write,
        "completion_tokens": columns.output,
    }
    return [_sum(measures[name]).label(name) for name in COUNTS]


def _sum(column: ColumnElement[int]) -> ColumnElement[int]:
    # PostgreSQL sums BIGINT to NUMERIC, which would arrive as Decimal.
    return cast(func.sum(column), BigInteger)


def _counts(measures: Sequence[int]) -> tuple[int, ...]:
    """A UsageRow's counts from the measures of the derived tables."""
    known = dict(zip(MEASURES, measures, strict=True))
    known["prompt_tokens"] = known["uncached_input"] + known["cache_read"] + known["cache_write"]
    known["completion_tokens"] = known["output"]
    return tuple(known[name] for name in COUNTS)


_EVENTS = usage_events.c
_RUN_KEYS = 6  # Columns before the measures: those of usage_phases, the run first.
_RUNS_OF_EVENTS = phase_sums_of_events(
    _EVENTS.occurred_at >= bindparam("start"),
    _EVENTS.occurred_at < bindparam("end"),
    _EVENTS.purpose != "rehearsal",
)
_DAYS = usage_days.c
_CHARGES = BareStatement(
    lambda _: (
        select(_DAYS.day_start, _DAYS.provider, _DAYS.role, _sum(_DAYS.charged_tokens), _sum(_DAYS.charged_nano))
        .where(_DAYS.day_start >= bindparam("start"), _DAYS.purpose != "rehearsal")
        .group_by(_DAYS.day_start, _DAYS.provider, _DAYS.role)
    )
)
