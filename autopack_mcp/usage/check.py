"""Recomputes what the events alone can prove: every derived table, every line, and that each event is possible.

It owns the comparison with ``true_sums`` and the words for a difference; it changes nothing, and knows no reservation
and no cap (``budgets.check`` does, and calls this).
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    Subquery,
    and_,
    case,
    func,
    not_,
    or_,
    select,
)

from autopack_mcp.database.tables import usage_events, usage_lines
from autopack_mcp.usage.true_sums import MEASURES, TrueSums, pruned_before, total, true_sums, within

_EVENT = usage_events.c
_LINE = usage_lines.c
_COUNTS = (
    "uncached_input", "cache_read", "cache_write_5m", "cache_write_1h", "cache_write_other", "output", "reasoning",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that does not add up.

    ``where`` names the row ("usage_days 2026-11-18 run openai …", "event c-1"), ``what`` the number or the rule;
    ``found`` is what stands there, ``expected`` what the ledger proves, both in words.
    """

    where: str
    what: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} is {self.found}, must be {self.expected}"


def differences_of_events(connection: Connection) -> Iterator[Difference]:
    """Every event that cannot be, every line that is not a part of its event, every derived row that is not its sum."""
    yield from _impossible_events(connection)
    yield from _wrong_lines(connection)
    for part in true_sums(pruned_before(connection)):
        yield from _wrong_sums(connection, part)


def wrong_buckets(connection: Connection, part: TrueSums) -> Sequence[Any]:
    """The hours, days or runs of a derived table of which at least one row differs from the truth, in order."""
    wrong, calls_off = set(), 0
    for row in _streamed(connection, _wrong_or_missing(part)):
        wrong.add(row[part.bucket])
        calls_off += (row["found_calls"] or 0) - row["calls"]
    if _has_spare_rows(connection, part, calls_off):
        wrong.update(row[part.bucket] for row in _streamed(connection, _spare(part)))
    return sorted(wrong)


# ── events and lines ─────────────────────────────────────────────────────────────────────────────────────────────────

# What must be true of an event by itself; the table's own CHECKs say most of it, but a file can be edited without them.
_POSSIBLE: Mapping[str, ColumnElement[bool]] = {
    "a count": and_(*(_EVENT[name] >= 0 for name in _COUNTS), _EVENT.reasoning <= _EVENT.output),
    "a charge": and_(_EVENT.charged_tokens >= 0, _EVENT.charged_nano >= 0),
    "a cost": or_(_EVENT.cost_nano.is_(None), _EVENT.cost_nano >= 0),
    "the price of an unpriced call": or_(_EVENT.cost_nano.is_not(None), _EVENT.price_version.is_(None)),
}


def _impossible_events(connection: Connection) -> Iterator[Difference]:
    possible = and_(*_POSSIBLE.values())
    broken = [not_(rule).label(f"broken_{index}") for index, rule in enumerate(_POSSIBLE.values())]
    found = select(usage_events, *broken).where(not_(possible)).order_by(_EVENT.call_id)
    for row in _streamed(connection, found):
        for index, what in enumerate(_POSSIBLE):
            if row[f"broken_{index}"]:
                yield Difference(f"event {row['call_id']}", what, _numbers_of(row), "possible")


def _numbers_of(row: RowMapping) -> str:
    names = (*_COUNTS, "charged_tokens", "charged_nano", "cost_nano", "price_version")
    return ", ".join(f"{name} {row[name]}" for name in names)


def _wrong_lines(connection: Connection) -> Iterator[Difference]:
    """Lines stand for calls that billed several models: at least two, numbered from 0, together what the event says."""
    sums = [total(_LINE[name]).label(name) for name in _COUNTS]
    counted = (func.count().label("lines"), func.min(_LINE.line_index).label("first"))
    last = func.max(_LINE.line_index).label("last")
    lines = select(_LINE.call_id, *counted, last, *sums).group_by(_LINE.call_id).subquery()
    fits = and_(
        lines.c.lines >= 2,
        lines.c.first == 0,
        lines.c.last == lines.c.lines - 1,
        *(lines.c[name] == _EVENT[name] for name in _COUNTS if name != "reasoning"),
        # What only the whole call reports as reasoning is in no line.
        lines.c.reasoning <= _EVENT.reasoning,
    )
    of_event = [_EVENT[name].label(f"event_{name}") for name in _COUNTS]
    both = lines.outerjoin(usage_events, _EVENT.call_id == lines.c.call_id)
    found = select(lines, *of_event).select_from(both).where(or_(_EVENT.call_id.is_(None), not_(fits)))
    for row in _streamed(connection, found.order_by(lines.c.call_id)):
        said = ", ".join(f"{name} {row[name]}" for name in _COUNTS)
        must = ", ".join(f"{name} {row[f'event_{name}']}" for name in _COUNTS)
        yield Difference(f"lines of {row['call_id']}", f"the sum of {row['lines']}", said, must)


# ── derived tables ───────────────────────────────────────────────────────────────────────────────────────────────────


def _wrong_sums(connection: Connection, part: TrueSums) -> Iterator[Difference]:
    """Every row that is wrong or missing; then, when the calls still do not come out, every row that should not be."""
    calls_off = 0
    for row in _streamed(connection, _wrong_or_missing(part)):
        where = _row_in_words(part, row)
        if row["found_calls"] is None:
            yield Difference(where, "the row", "missing", _sums_in_words(row, ""))
        else:
            yield from _wrong_measures(where, row, is_least=part.is_least)
        calls_off += (row["found_calls"] or 0) - row["calls"]
    if _has_spare_rows(connection, part, calls_off):
        for row in _streamed(connection, _spare(part)):
            yield Difference(_row_in_words(part, row), "the row", _sums_in_words(row, "found_"), "absent")


def _wrong_measures(where: str, row: RowMapping, *, is_least: bool) -> Iterator[Difference]:
    for name in MEASURES:
        found, true = row[f"found_{name}"], row[name]
        if found < true or (found > true and not is_least):
            yield Difference(where, name, f"{found:,}", f"{'at least ' if is_least else ''}{true:,}")


def _wrong_or_missing(part: TrueSums) -> Select[Any]:
    """Rows of the truth to which the table says something else or nothing: keys, measures, and ``found_…`` of each."""
    truth, table = part.rows.subquery(), part.table
    differs = operator.gt if part.is_least else operator.ne
    wrong = [differs(truth.c[name], table.c[name]) for name in MEASURES]
    found = [table.c[name].label(f"found_{name}") for name in MEASURES]
    both = truth.outerjoin(table, _same_key(part, truth))
    return select(truth, *found).select_from(both).where(or_(table.c.calls.is_(None), *wrong))


def _spare(part: TrueSums) -> Select[Any]:
    """Rows of the table that no event stands behind: keys, and ``found_…`` of every measure."""
    truth, table = part.rows.subquery(), part.table
    keys = [table.c[name] for name in part.keys]
    found = [table.c[name].label(f"found_{name}") for name in MEASURES]
    both = table.outerjoin(truth, _same_key(part, truth))
    return select(*keys, *found).select_from(both).where(truth.c.calls.is_(None), *_in_part(part))


def _has_spare_rows(connection: Connection, part: TrueSums, calls_off: int) -> bool:
    """Whether the table counts more than the truth, but for rows that are known to be ``calls_off``.

    Looking for spare rows means joining the other way round, which takes as long again; counting calls does not.
    """
    if part.is_least:
        return False
    calls = part.table.c.calls
    counted = select(total(calls), total(case((calls < 1, 1), else_=0)))
    found, empty = connection.execute(counted.where(*_in_part(part))).one()
    return bool(empty) or found != connection.execute(part.calls).scalar_one() + calls_off


def _same_key(part: TrueSums, truth: Subquery) -> ColumnElement[bool]:
    return and_(*(part.table.c[name] == truth.c[name] for name in part.keys))


def _in_part(part: TrueSums) -> Sequence[ColumnElement[bool]]:
    return () if part.since is part.before is None else within(part.table.c[part.bucket], part.since, part.before)


def _row_in_words(part: TrueSums, row: RowMapping) -> str:
    return " ".join((part.table.name, *(_shown(row[name]) for name in part.keys)))


def _sums_in_words(row: RowMapping, prefix: str) -> str:
    return ", ".join(f"{name} {row[prefix + name]:,}" for name in MEASURES if row[prefix + name])


def _shown(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%MZ}"
    return str(value) or "–"


def _streamed(connection: Connection, found: Select[Any]) -> Iterator[RowMapping]:
    # A damaged file may differ in every row; none of them needs to be in memory at once.
    yield from connection.execute(found.execution_options(yield_per=500)).mappings()
