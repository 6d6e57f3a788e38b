"""What the derived tables must say: GROUP BY over the events, and over what was kept of events that went by age.

It owns that truth as SQL, written apart from the arithmetic of ``rollup`` so that one can be held against the other. It
changes nothing; ``check`` compares the tables with it, ``rebuild`` copies it into them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Select,
    String,
    Table,
    case,
    cast,
    func,
    literal_column,
    select,
    type_coerce,
    union_all,
)

from autopack_mcp.database.tables import (
    UtcTime,
    pruned_phases,
    retention,
    usage_days,
    usage_events,
    usage_hours,
    usage_phases,
)

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)

# Constants stand in the text: PostgreSQL takes an expression with a parameter for another one each time it is bound,
# and would not find what is selected among what is grouped by.
_NONE = literal_column("''", String)
_EVENT = usage_events.c
# Every measure of a derived row, and what one event adds to it.
_OF_ONE_EVENT: Mapping[str, ColumnElement[int]] = {
    "calls": literal_column("1", BigInteger),
    "failed_calls": case((_EVENT.status.in_(("ok", "external")), 0), else_=1),
    "unpriced_calls": case((_EVENT.cost_nano.is_(None), 1), else_=0),
    "uncached_input": _EVENT.uncached_input,
    "cache_read": _EVENT.cache_read,
    "cache_write": _EVENT.cache_write_5m + _EVENT.cache_write_1h + _EVENT.cache_write_other,
    "output": _EVENT.output,
    "reasoning": _EVENT.reasoning,
    "charged_tokens": _EVENT.charged_tokens,
    "charged_nano": _EVENT.charged_nano,
    "cost_nano": func.coalesce(_EVENT.cost_nano, 0),
}
MEASURES = tuple(_OF_ONE_EVENT)


@dataclass(frozen=True, slots=True)
class TrueSums:
    """What one derived table must say, or a part of it.

    ``rows`` yields every key column and every measure under its own name; ``calls`` is the sum of its calls, found
    faster. ``bucket`` is the key column that tells apart what can be rebuilt by itself (an hour, a day, a run), and
    ``of_bucket`` yields the rows of one. ``since`` and ``before`` bound the part (None where there is no bound).
    ``is_least`` says that a row may also count more, because events under it are gone.
    """

    table: Table
    bucket: str
    rows: Select[Any]
    calls: Select[int]
    of_bucket: Callable[[Any], Select[Any]]
    since: datetime | None = None
    before: datetime | None = None
    is_least: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the table's key columns."""
        return tuple(column.name for column in self.table.primary_key)


def pruned_before(connection: Connection) -> datetime | None:
    """From when on all events are still there; None when none was ever deleted by age."""
    kept = select(retention.c.pruned_before).where(retention.c.name == "usage_events")
    found: datetime | None = connection.execute(kept).scalar_one_or_none()
    return found


def true_sums(since: datetime | None) -> tuple[TrueSums, ...]:
    """Every derived table, part by part; ``since`` as ``pruned_before`` says.

    Of a time whose events went by age the hours stand as they are, but for being no less than the events that came
    after all; days are the sum of their hours. Runs are complete at any age (``pruned_phases``).
    """
    parts = [_true_hours(since=since), _true_days(since=since), _true_phases(has_pruned=since is not None)]
    return tuple(parts if since is None else [_true_hours(before=since), *parts, _true_days_of_hours(before=since)])


def phase_sums_of_events(*where: ColumnElement[bool]) -> Select[Any]:
    """One row per key of ``usage_phases``, over those of the events that belong to a run."""
    return _sums_of_events(_PHASE_KEYS, _EVENT.run_id.is_not(None), *where)


def within(
    column: ColumnElement[datetime], since: datetime | None, before: datetime | None
) -> Sequence[ColumnElement[bool]]:
    """``since <= column < before``, as far as there are bounds."""
    bounds = [] if since is None else [column >= since]
    return bounds if before is None else [*bounds, column < before]


def start_of(column: ColumnElement[datetime], span_us: int) -> ColumnElement[datetime]:
    """The start of the hour or day (UTC) that holds a time."""
    us, span = type_coerce(column, BigInteger), literal_column(str(span_us), BigInteger)
    # Twice, because SQL's remainder of a time before 1970 is negative.
    return type_coerce(us - (us % span + span) % span, UtcTime())


def total(measure: ColumnElement[int]) -> ColumnElement[int]:
    """The sum of a measure, 0 over no row; PostgreSQL sums BIGINT to NUMERIC, which would arrive as Decimal."""
    return cast(func.coalesce(func.sum(measure), literal_column("0")), BigInteger)


_COMMON_KEYS: Mapping[str, ColumnElement[Any]] = {
    name: _EVENT[name] for name in ("purpose", "provider", "model", "role")
}
_PHASE_KEYS: Mapping[str, ColumnElement[Any]] = {
    "run_id": _EVENT.run_id,
    "phase_id": func.coalesce(_EVENT.phase_id, _NONE),
    **_COMMON_KEYS,
}
_WINDOW_KEYS: Mapping[str, ColumnElement[Any]] = {**_COMMON_KEYS, "category": func.coalesce(_EVENT.category, _NONE)}


def _true_hours(since: datetime | None = None, before: datetime | None = None) -> TrueSums:
    keys = {"hour_start": start_of(_EVENT.occurred_at, HOUR_US), **_WINDOW_KEYS}
    bounds = within(_EVENT.occurred_at, since, before)
    return TrueSums(
        table=usage_hours,
        bucket="hour_start",
        rows=_sums_of_events(keys, *bounds),
        calls=_count_events(*bounds),
        of_bucket=lambda hour: _sums_of_events(keys, *within(_EVENT.occurred_at, hour, hour + _HOUR)),
        since=since,
        before=before,
        is_least=before is not None,
    )


def _true_days(since: datetime | None) -> TrueSums:
    keys = {"day_start": start_of(_EVENT.occurred_at, DAY_US), **_WINDOW_KEYS}
    bounds = within(_EVENT.occurred_at, since, None)
    return TrueSums(
        table=usage_days,
        bucket="day_start",
        rows=_sums_of_events(keys, *bounds),
        calls=_count_events(*bounds),
        of_bucket=lambda day: _sums_of_events(keys, *within(_EVENT.occurred_at, day, day + _DAY)),
        since=since,
    )


def _true_days_of_hours(before: datetime) -> TrueSums:
    hour = usage_hours.c.hour_start
    keys = {"day_start": start_of(hour, DAY_US), **{name: usage_hours.c[name] for name in _WINDOW_KEYS}}
    return TrueSums(
        table=usage_days,
        bucket="day_start",
        rows=_summed(usage_hours, keys).where(hour < before),
        calls=select(total(usage_hours.c.calls)).where(hour < before),
        of_bucket=lambda day: _summed(usage_hours, keys).where(*within(hour, day, day + _DAY)),
        before=before,
    )


def _true_phases(*, has_pruned: bool) -> TrueSums:
    """Of the events alone while all are there, because summing up the union again takes half as long again."""

    def rows(*run_id: str) -> Select[Any]:
        of_events = phase_sums_of_events(*(_EVENT.run_id == one for one in run_id))
        if not has_pruned:
            return of_events
        pruned = select(*(pruned_phases.c[name] for name in (*_PHASE_KEYS, *MEASURES)))
        both = union_all(of_events, pruned.where(*(pruned_phases.c.run_id == one for one in run_id))).subquery()
        return _summed(both, {name: both.c[name] for name in _PHASE_KEYS})

    calls = _count_events(_EVENT.run_id.is_not(None)).scalar_subquery()
    of_pruned = select(total(pruned_phases.c.calls)).scalar_subquery()
    return TrueSums(usage_phases, "run_id", rows(), select(calls + of_pruned if has_pruned else calls), rows)


def _sums_of_events(keys: Mapping[str, ColumnElement[Any]], *where: ColumnElement[bool]) -> Select[Any]:
    named = [key.label(name) for name, key in keys.items()]
    sums = [total(of_one).label(name) for name, of_one in _OF_ONE_EVENT.items()]
    return select(*named, *sums).where(*where).group_by(*keys.values())


def _summed(table: FromClause, keys: Mapping[str, ColumnElement[Any]]) -> Select[Any]:
    named = [key.label(name) for name, key in keys.items()]
    return select(*named, *(total(table.c[name]).label(name) for name in MEASURES)).group_by(*keys.values())


def _count_events(*where: ColumnElement[bool]) -> Select[int]:
    return select(func.count()).select_from(usage_events).where(*where)
