"""What a run did and how long it took, as rows in OpenTelemetry's words, each written with the move that it tells of.

It owns the ids by which spans of one run find each other, and opening and closing them; it decides nothing about runs
and knows no provider. Moves of runs and bookings of calls write spans, in their own transaction, so that a crash leaves
both or none; ``export`` sends them.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from typing import Any, Literal

from sqlalchemy import BindParameter, Connection, Dialect, bindparam, cast, delete, func, select, update
from sqlalchemy.sql import ColumnElement

from autopack_mcp.clock import to_us
from autopack_mcp.database.bare import BareStatement
from autopack_mcp.database.tables import runs, spans

SpanKind = Literal["run", "phase", "attempt", "llm_call", "verification", "git", "setup"]
SpanStatus = Literal["unset", "ok", "error"]

NAME_CHARS = 120  # Of a span's name: what a waterfall has room for.
SPANS_PER_COMMIT = 1_000
_TRACE_BYTES, _SPAN_BYTES = 16, 8  # W3C Trace Context.
TRACEPARENT_VARIABLE = "TRACEPARENT"  # What programs that are traced look for in their environment.


@dataclass(frozen=True, slots=True)
class Span:
    """One thing that took time. ``ended_at`` is None while it goes on; ids are hexadecimal, as W3C writes them.

    ``trace_id`` is empty until it is written: a span belongs to the trace of its run.
    """

    span_id: str
    run_id: str
    kind: SpanKind
    name: str
    started_at: datetime
    ended_at: datetime | None = None
    parent_id: str | None = None
    status: SpanStatus = "unset"
    phase_id: str | None = None
    attempt: int | None = None
    call_id: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    trace_id: str = ""


# ── ids ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def new_trace_id() -> str:
    """The trace of a run that is just being started."""
    return secrets.token_hex(_TRACE_BYTES)


def trace_id_of(run_id: str, stored: str | None) -> str:
    """The trace of a run: the stored one, or for a run from before there were traces one made from its id."""
    return stored or _hashed(_TRACE_BYTES, "trace", run_id)


def span_id_of(run_id: str, *parts: object) -> str:
    """The id of a span that anybody can work out who knows what it is of; the same parts make the same id."""
    return _hashed(_SPAN_BYTES, run_id, *parts)


def run_span_id(run_id: str) -> str:
    """The span of a run, the root of its trace."""
    return span_id_of(run_id, "run")


def attempt_span_id(run_id: str, phase_id: str, attempt: int) -> str:
    """The span of an attempt at a phase."""
    return span_id_of(run_id, "attempt", phase_id, attempt)


def step_span_id(run_id: str, phase_id: str, attempt: int, step: str, started_at: datetime) -> str:
    """The span of one step of an attempt; a step that is done again, after a crash or a pause, is another one."""
    return span_id_of(run_id, step, phase_id, attempt, to_us(started_at))


def owner_span_id(run_id: str, phase_id: str | None, attempt: int | None) -> str:
    """The span that a call belongs to: its attempt's where it has one, else its run's."""
    if phase_id is None or attempt is None:
        return run_span_id(run_id)
    return attempt_span_id(run_id, phase_id, attempt)


def traceparent(trace_id: str, span_id: str) -> str:
    """What tells a program that it is a part of this trace, below this span (W3C Trace Context, sampled)."""
    return f"00-{trace_id}-{span_id}-01"


def _hashed(size_bytes: int, *parts: object) -> str:
    # Behind a character that stands in no id, so that no two lists of parts read alike.
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[: 2 * size_bytes]


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_REPLACED = ("name", "status", "attributes", "started_at", "ended_at")


def _upsert(dialect: Dialect) -> Any:
    """Insert a span of a run that exists, in the run's trace; the id of anything else than a run inserts nothing."""
    fields = [column for column in spans.c if column.name not in ("trace_id", "exported_at")]

    def value(column: Any) -> ColumnElement[Any]:
        parameter: BindParameter[Any] = bindparam(column.name, type_=column.type)
        # PostgreSQL must be told what a parameter of a SELECT is; SQLite would read a JSON text as a number.
        return cast(parameter, column.type) if dialect.name == "postgresql" else parameter

    derived: BindParameter[Any] = bindparam("derived_trace", type_=spans.c.trace_id.type)
    row = select(func.coalesce(runs.c.trace_id, derived), *map(value, fields)).where(
        runs.c.run_id == bindparam("of_run", type_=runs.c.run_id.type)
    )
    inserted = import_module(f"sqlalchemy.dialects.{dialect.name}").insert(spans)
    inserted = inserted.from_select(["trace_id", *(column.name for column in fields)], row)
    changed = {name: inserted.excluded[name] for name in _REPLACED}
    return inserted.on_conflict_do_update(index_elements=[spans.c.span_id], set_=changed)


_UPSERT = BareStatement(_upsert)


def write_span(connection: Connection, span: Span) -> None:
    """Write a span, or over the one with its id; nothing happens when its run is only a library caller's label."""
    _UPSERT.run(
        connection,
        {
            "span_id": span.span_id,
            "parent_id": span.parent_id,
            "run_id": span.run_id,
            "phase_id": span.phase_id,
            "attempt": span.attempt,
            "call_id": span.call_id,
            "kind": span.kind,
            "name": span.name[:NAME_CHARS],
            "status": span.status,
            "attributes": json.dumps(dict(span.attributes)),
            "started_at": to_us(span.started_at),
            "ended_at": None if span.ended_at is None else to_us(span.ended_at),
            "derived_trace": trace_id_of(span.run_id, None),
            "of_run": span.run_id,
        },
    )


def open_span_of(connection: Connection, run_id: str, kind: SpanKind, phase_id: str | None = None) -> str | None:
    """The id of the span of this kind that goes on; None when there is none."""
    found: str | None = connection.execute(select(spans.c.span_id).where(*_open(run_id, kind, phase_id))).scalar()
    return found


def close_spans(
    connection: Connection,
    run_id: str,
    kind: SpanKind | None,
    phase_id: str | None,
    status: SpanStatus,
    at: datetime,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """End what goes on of a run: of one kind, of one phase, or all of it; what has ended stays as it is."""
    found = connection.execute(select(spans.c.span_id, spans.c.attributes).where(*_open(run_id, kind, phase_id)))
    for span_id, known in found.all():
        ended = {"status": status, "ended_at": at, "attributes": {**known, **(attributes or {})}}
        connection.execute(update(spans).where(spans.c.span_id == span_id).values(**ended))


def _open(run_id: str, kind: SpanKind | None, phase_id: str | None) -> list[ColumnElement[bool]]:
    wanted = [spans.c.run_id == run_id, spans.c.ended_at.is_(None)]
    if kind is not None:
        wanted.append(spans.c.kind == kind)
    if phase_id is not None:
        wanted.append(spans.c.phase_id == phase_id)
    return wanted


# ── reading, and letting go ──────────────────────────────────────────────────────────────────────────────────────────

_FIELDS = tuple(Span.__dataclass_fields__)
_OUTSIDE_IN: tuple[SpanKind, ...] = ("run", "setup", "phase", "attempt", "llm_call", "git", "verification")


def spans_of_run(connection: Connection, run_id: str) -> tuple[Span, ...]:
    """Everything that a run did, in the order in which it began; what began in one moment from the outside in."""
    found = select(*(spans.c[name] for name in _FIELDS)).where(spans.c.run_id == run_id)
    rows = [Span(**row) for row in connection.execute(found).mappings()]
    return tuple(sorted(rows, key=lambda span: (span.started_at, _OUTSIDE_IN.index(span.kind), span.span_id)))


def unexported_spans(connection: Connection, limit: int) -> tuple[Span, ...]:
    """Spans that have ended and that no collector has taken yet, the oldest first."""
    wanted = (spans.c.exported_at.is_(None), spans.c.ended_at.is_not(None))
    found = select(*(spans.c[name] for name in _FIELDS)).where(*wanted).order_by(spans.c.ended_at).limit(limit)
    return tuple(Span(**row) for row in connection.execute(found).mappings())


def mark_exported(connection: Connection, span_ids: Sequence[str], at: datetime) -> None:
    """Note that a collector has taken these."""
    connection.execute(update(spans).where(spans.c.span_id.in_(span_ids)).values(exported_at=at))


def spans_before(connection: Connection, before: datetime) -> int:
    """How many spans ended before this moment."""
    old = select(func.count()).select_from(spans).where(spans.c.ended_at < before)
    return int(connection.execute(old).scalar_one())


def forget_some_spans(connection: Connection, before: datetime) -> int:
    """Delete spans that ended before this moment, ``SPANS_PER_COMMIT`` at most; returns how many."""
    old = select(spans.c.span_id).where(spans.c.ended_at < before).limit(SPANS_PER_COMMIT)
    ids: Sequence[str] = connection.execute(old).scalars().all()
    return connection.execute(delete(spans).where(spans.c.span_id.in_(ids))).rowcount if ids else 0
