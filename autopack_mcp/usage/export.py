"""The ledger's rows written out as CSV or JSON, piece by piece, so that a million of them need no more memory than ten.

It owns which columns an export has, their order, and what keeps foreign text harmless in a spreadsheet: hidden
characters are shown, and a cell that would be a formula begins with a quote. It adds nothing up; ``service`` does. The
command line and the page hand the pieces on.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from io import StringIO
from typing import Any, Literal, TypeAlias, get_args

from sqlalchemy import ColumnElement, Connection, Select, select

from autopack_mcp.database.tables import usage_days, usage_events, usage_hours
from autopack_mcp.errors import RequestRefused
from autopack_mcp.money import NANO_PER_USD
from autopack_mcp.text_safety import visible
from autopack_mcp.usage.spans import UsageSpan, asked_span, consists_of_days

ExportRows = Literal["events", "hours", "days"]
ExportFormat = Literal["csv", "json"]
Cell: TypeAlias = str | int | float | None

ROWS: tuple[ExportRows, ...] = get_args(ExportRows)
FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
MEDIA_TYPES: Mapping[ExportFormat, str] = {"csv": "text/csv", "json": "application/json"}

_ROWS_AT_ONCE = 500  # Read, and written as one piece: some 100 kB.
_CELL_LIMIT = 1_000  # Characters of a text in CSV; the longest we keep is an error's.
# What makes a spreadsheet read a cell as a formula (owasp.org/www-community/attacks/CSV_Injection), and the full-width
# forms that some of them take for the same.
_FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")

_EVENT_COLUMNS = (
    "occurred_at", "call_id", "provider", "model", "role", "category", "run_id", "phase_id", "attempt", "purpose",
    "status", "usage_source", "prompt_tokens", "uncached_input", "cache_read", "cache_write_5m", "cache_write_1h",
    "cache_write_other", "completion_tokens", "reasoning", "total_tokens", "charged_tokens", "cost_usd", "cost_nano",
    "charged_nano", "price_version", "service_tier", "processing", "response_id", "request_id", "error",
)  # fmt: skip
_SUM_COLUMNS = (
    "purpose", "provider", "model", "role", "category", "calls", "failed_calls", "unpriced_calls", "prompt_tokens",
    "uncached_input", "cache_read", "cache_write", "completion_tokens", "reasoning", "total_tokens", "charged_tokens",
    "cost_usd", "cost_nano", "charged_nano",
)  # fmt: skip
COLUMNS: Mapping[ExportRows, tuple[str, ...]] = {
    "events": _EVENT_COLUMNS,
    "hours": ("hour_start", *_SUM_COLUMNS),
    "days": ("day_start", *_SUM_COLUMNS),
}


@dataclass(frozen=True, slots=True)
class Export:
    """What is to be written out. ``span`` None is any time, which only the calls of one run have.

    Rehearsed calls are left out, as of every summary, unless a run is named: then its calls are there, and their
    ``purpose`` says what they were.

    Raises:
        RequestRefused: hours or days of a run, which no table tells apart, or days of a span that cuts days.
    """

    rows: ExportRows
    format: ExportFormat
    span: UsageSpan | None
    run_id: str | None = None

    def __post_init__(self) -> None:
        if self.run_id is not None and self.rows != "events":
            raise RequestRefused(f"Of one run there are no rows of {self.rows}.", hint="Ask for its events.")
        if self.rows == "days" and self.span is not None and not consists_of_days(self.span.start, self.span.end):
            raise RequestRefused(f"{self.span.label} does not consist of whole days.", hint="Ask for its hours.")


def asked_export(
    now: datetime,
    *,
    rows: str = "events",
    format_: str = "csv",
    period: str | None = None,
    offset: int = 0,
    from_: str | None = None,
    to: str | None = None,
    run_id: str | None = None,
) -> Export:
    """What a person asks to have written out: of a run all of it, else of the week, unless a time is named.

    Raises:
        RequestRefused: rows, a format or a time that does not exist; see ``asked_span``.
    """
    known_rows = next((known for known in ROWS if known == rows), None)
    known_format = next((known for known in FORMATS if known == format_), None)
    if known_rows is None:
        raise RequestRefused(f"There are no rows of {visible(rows, 40)!r}.", hint=f"There are {', '.join(ROWS)}.")
    if known_format is None:
        raise RequestRefused(f"Unknown format {visible(format_, 40)!r}.", hint=f"Formats are {', '.join(FORMATS)}.")
    is_any_time = run_id is not None and period is None and from_ is None and to is None and offset == 0
    span = None if is_any_time else asked_span(now, period or "week", offset, from_=from_, to=to)
    return Export(known_rows, known_format, span, run_id)


def export_name(export: Export) -> str:
    """A name for a file of it: "usage-events-2026-W47.csv"."""
    parts = ("usage", export.rows, *(["run"] if export.run_id else []), *([export.span.label] if export.span else []))
    return f"{'-'.join(parts).replace(' ', '-').replace(':', '')}.{export.format}"


def exported(connection: Connection, export: Export) -> Iterator[str]:
    """The whole text, in pieces of some hundred rows, oldest first.

    CSV has a header and ends its lines with CRLF (RFC 4180). JSON is one array with a line per row, nothing but ASCII.
    """
    write = _csv_pieces if export.format == "csv" else _json_pieces
    # Closed also when nobody reads to the end: on PostgreSQL it is a cursor of the server's.
    with connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(_selected(export)) as found:
        pieces = (map(_VALUES[export.rows], piece) for piece in found.partitions())
        yield from write(COLUMNS[export.rows], pieces)


# ── what is read ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _selected(export: Export) -> Select[Any]:
    if export.rows == "events":
        return _events(export)
    table = usage_hours if export.rows == "hours" else usage_days
    at = table.c["hour_start" if export.rows == "hours" else "day_start"]
    assert export.span is not None, "only the calls of a run have no span"
    within = (at >= export.span.start, at < export.span.end, table.c.purpose != "rehearsal")
    return select(table).where(*within).order_by(*table.primary_key)


def _events(export: Export) -> Select[Any]:
    columns = usage_events.c
    wanted: list[ColumnElement[bool]] = []
    if export.span is not None:
        wanted += [columns.occurred_at >= export.span.start, columns.occurred_at < export.span.end]
    if export.run_id is None:
        wanted.append(columns.purpose != "rehearsal")
    else:
        wanted.append(columns.run_id == export.run_id)
    # The raw usage is the largest thing in a row, and nobody's table.
    read = [column for column in columns if column.name not in ("raw_usage", "tool_calls", "recorded_at", "started_at")]
    return select(*read).where(*wanted).order_by(columns.occurred_at, columns.call_id)


def _event_values(row: Any) -> list[Cell]:
    prompt = row.uncached_input + row.cache_read + row.cache_write_5m + row.cache_write_1h + row.cache_write_other
    return [
        _time(row.occurred_at), row.call_id, row.provider, row.model, row.role, row.category, row.run_id, row.phase_id,
        row.attempt, row.purpose, row.status, row.usage_source, prompt, row.uncached_input, row.cache_read,
        row.cache_write_5m, row.cache_write_1h, row.cache_write_other, row.output, row.reasoning, prompt + row.output,
        row.charged_tokens, _usd(row.cost_nano), row.cost_nano, row.charged_nano, row.price_version, row.service_tier,
        row.processing, row.response_id, row.request_id, row.error,
    ]  # fmt: skip


def _sum_values(row: Any) -> list[Cell]:
    prompt = row.uncached_input + row.cache_read + row.cache_write
    # Where nothing has a price, the sum of the prices is not zero but unknown.
    cost_nano = None if row.calls and row.unpriced_calls == row.calls else row.cost_nano
    return [
        _time(row[0]), row.purpose, row.provider, row.model, row.role, row.category, row.calls, row.failed_calls,
        row.unpriced_calls, prompt, row.uncached_input, row.cache_read, row.cache_write, row.output, row.reasoning,
        prompt + row.output, row.charged_tokens, _usd(cost_nano), cost_nano, row.charged_nano,
    ]  # fmt: skip


_VALUES: Mapping[ExportRows, Callable[[Any], list[Cell]]] = {
    "events": _event_values,
    "hours": _sum_values,
    "days": _sum_values,
}


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}".rstrip("0").rstrip(".") + "Z"


def _usd(nano: int | None) -> float | None:
    # Fifteen digits of a float hold any sum of dollars to the nano-dollar up to a million of them; beside it stands the
    # exact number.
    return None if nano is None else nano / NANO_PER_USD


# ── how it is written ────────────────────────────────────────────────────────────────────────────────────────────────


def _csv_pieces(columns: Sequence[str], pieces: Iterator[Iterator[list[Cell]]]) -> Iterator[str]:
    written = StringIO()
    writer = csv.writer(written)
    writer.writerow(columns)
    for piece in pieces:
        writer.writerows([_csv_cell(cell) if isinstance(cell, str | float) else cell for cell in row] for row in piece)
        yield written.getvalue()
        written.seek(0)
        written.truncate()
    yield written.getvalue()


def _csv_cell(cell: str | float) -> str:
    if isinstance(cell, str):
        return safe_cell(cell)
    return f"{cell:.9f}".rstrip("0").rstrip(".")  # Not in powers of ten, which some spreadsheets take for text.


@lru_cache(maxsize=1_000)  # Most texts are names, and stand in thousands of rows.
def safe_cell(text: str) -> str:
    """A text that a spreadsheet shows and does not compute, with hidden characters as escapes."""
    shown = visible(text, _CELL_LIMIT)
    return f"'{shown}" if text.startswith(_FORMULA_STARTS) else shown


def _json_pieces(columns: Sequence[str], pieces: Iterator[Iterator[list[Cell]]]) -> Iterator[str]:
    before = "[\n"
    for piece in pieces:
        yield before + ",\n".join(json.dumps(dict(zip(columns, row, strict=True))) for row in piece)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"
