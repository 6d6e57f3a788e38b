"""The ledger written out: every row once, exact numbers, harmless texts, and no more memory for more rows."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, insert

from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import usage_events
from autopack_mcp.errors import RequestRefused
from autopack_mcp.text_safety import visible
from autopack_mcp.usage.event import UsageEvent
from autopack_mcp.usage.export import COLUMNS, ROWS, asked_export, export_name, exported, safe_cell
from tests.factories import NOON, call_scope, held_against, token_counts, usage_event

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", '=HYPERLINK("http://evil.example")']


def book(database: Database, *events: UsageEvent) -> None:
    for event in events:
        database.write_now(book_external, event, held_against(), NOON)


def text(database: Database, **asked: Any) -> str:
    return "".join(database.stream_now(exported, asked_export(NOON, **asked)))


def table(database: Database, **asked: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text(database, **asked), newline="")))


def objects(database: Database, **asked: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(text(database, format_="json", **asked))
    return found


def test_a_call_is_written_out_with_everything_that_is_known_of_it(database: Database) -> None:
    counts = token_counts(uncached_input=1, cache_read=20, cache_write_5m=300, output=40, reasoning=4)
    book(database, usage_event("c-1", counts=counts, cost_nano=1_234_567, response_id="resp-1"))
    (row,) = table(database)
    assert row == {
        "occurred_at": "2026-11-18T12:00:00Z", "call_id": "c-1", "provider": "openai", "model": "gpt-4o",
        "role": "builder", "category": "general", "run_id": "R1", "phase_id": "P1", "attempt": "1", "purpose": "run",
        "status": "ok", "usage_source": "provider", "prompt_tokens": "321", "uncached_input": "1", "cache_read": "20",
        "cache_write_5m": "300", "cache_write_1h": "0", "cache_write_other": "0", "completion_tokens": "40",
        "reasoning": "4", "total_tokens": "361", "charged_tokens": "361", "cost_usd": "0.001234567",
        "cost_nano": "1234567", "charged_nano": "1234567", "price_version": "test-prices", "service_tier": "",
        "processing": "sync", "response_id": "resp-1", "request_id": "", "error": "",
    }  # fmt: skip


@pytest.mark.parametrize("rows", ROWS)
def test_csv_and_json_say_the_same_under_the_same_names(database: Database, rows: str) -> None:
    book(database, usage_event(cost_nano=None), usage_event(category=None, cost_nano=7_000_000))
    lines, found = table(database, rows=rows), objects(database, rows=rows)
    assert len(lines) == len(found) == 2
    for line, row in zip(lines, found, strict=True):
        assert tuple(line) == tuple(row) == COLUMNS[rows]  # type: ignore[index]
        assert {name: "" if value is None else str(value) for name, value in row.items()} == line


def test_unknown_is_empty_and_never_zero(database: Database) -> None:
    book(database, usage_event(cost_nano=None, run_id=None, phase_id=None))
    (line,), (row,) = table(database), objects(database)
    assert (line["cost_usd"], line["cost_nano"], line["run_id"]) == ("", "", "")
    assert (row["cost_usd"], row["cost_nano"], row["run_id"]) == (None, None, None)
    (day,) = objects(database, rows="days")
    assert (day["cost_usd"], day["cost_nano"], day["unpriced_calls"]) == (None, None, 1)


def test_hours_and_days_add_up_to_the_calls(database: Database) -> None:
    for hours in (0, 0, 1, 24, 25, 49):
        event = usage_event(occurred_at=NOON - timedelta(hours=hours), counts=token_counts(output=hours))
        book(database, event)
    whole = sum(row["total_tokens"] for row in objects(database))
    for rows, count in (("hours", 5), ("days", 3)):
        sums = objects(database, rows=rows)
        assert (len(sums), sum(row["calls"] for row in sums)) == (count, 6)
        assert sum(row["total_tokens"] for row in sums) == whole


def test_rows_come_oldest_first(database: Database) -> None:
    for minutes in (3, 1, 2):
        book(database, usage_event(f"c-{minutes}", occurred_at=NOON - timedelta(minutes=minutes)))
    assert [row["call_id"] for row in table(database)] == ["c-3", "c-2", "c-1"]


def test_of_a_span_its_calls_are_there_and_no_others(database: Database) -> None:
    for days in (0, 1, 8):
        book(database, usage_event(f"c-{days}", occurred_at=NOON - timedelta(days=days)))
    assert [row["call_id"] for row in table(database, period="day")] == ["c-0"]
    assert [row["call_id"] for row in table(database, from_="2026-11-10", to="2026-11-17")] == ["c-8", "c-1"]


def test_of_a_run_every_call_is_there_and_a_rehearsed_one_says_so(database: Database) -> None:
    book(
        database,
        usage_event("real", occurred_at=NOON - timedelta(days=400)),
        usage_event("rehearsed", scope=call_scope(purpose="rehearsal")),
        usage_event("other", scope=call_scope(run_id="R2")),
    )
    found = {row["call_id"]: row["purpose"] for row in table(database, run_id="R1")}
    assert found == {"real": "run", "rehearsed": "rehearsal"}
    assert [row["call_id"] for row in table(database, run_id="R1", period="week")] == ["rehearsed"]
    assert [row["call_id"] for row in table(database)] == ["other"]


def test_nothing_is_a_header_and_an_empty_array(database: Database) -> None:
    assert text(database) == ",".join(COLUMNS["events"]) + "\r\n"
    assert text(database, format_="json") == "[]\n"


def test_json_is_one_array_with_a_line_per_row(database: Database) -> None:
    book(database, *(usage_event(f"c-{number}", model="m\n\u2028é") for number in range(3)))
    first, *rows, last = text(database, format_="json").splitlines()
    assert (first, last, len(rows)) == ("[", "]", 3)
    assert text(database, format_="json").isascii()
    assert [row["model"] for row in objects(database)] == ["m\n\u2028é"] * 3


@pytest.mark.parametrize("model", FORMULAS, ids=repr)
def test_no_cell_is_a_formula(database: Database, model: str) -> None:
    book(database, usage_event(model=model, category=model))
    for rows in ROWS:
        (row,) = table(database, rows=rows)
        assert row["model"].startswith("'")
        assert row["category"].startswith("'")
    assert objects(database)[0]["model"] == model


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_a_text_stays_one_cell_whose_words_can_be_seen(name: str) -> None:
    cell = safe_cell(name)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert visible(cell, 1_000) == cell
    if name.isprintable() and name.isascii() and not name.startswith(("=", "+", "-", "@")):
        assert cell == name


def test_text_in_cells_cannot_break_out_of_them(database: Database) -> None:
    book(database, usage_event(model='a",=1+1\r\n"b', category="\u202egnp\x1b[2J\x00"[:-1]))
    (row,) = table(database)
    assert (row["model"], row["category"]) == ('a",=1+1\\r\\n"b', "\\u202egnp\\x1b[2J")


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"rows": "bills"}, "There are no rows of 'bills'. There are events, hours, days."),
        ({"format_": "xlsx"}, "Unknown format 'xlsx'. Formats are csv, json."),
        ({"run_id": "R1", "rows": "days"}, "Of one run there are no rows of days. Ask for its events."),
        ({"from_": "2026-11-17T10:00Z", "rows": "days"}, "does not consist of whole days. Ask for its hours."),
        ({"from_": "2026-11-20"}, "begins in the future"),
        ({"period": "day", "from_": "2026-11-17"}, "A period and a stretch"),
        ({"period": "decade"}, "Unknown period 'decade'."),
    ],
    ids=["rows", "format", "days of a run", "cut days", "future", "both", "period"],
)
def test_what_cannot_be_written_out_is_refused_before_anything_is(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestRefused) as refusal:
        asked_export(NOON, **asked)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    "asked, name",
    [
        ({}, "usage-events-2026-W47.csv"),
        ({"rows": "days", "from_": "2026-11-01", "to": "2026-11-15", "format_": "json"},
         "usage-days-2026-11-01-to-2026-11-15.json"),
        ({"rows": "hours", "from_": "2026-11-17T10:00Z", "to": "2026-11-17T12:00Z"},
         "usage-hours-2026-11-17-1000-to-2026-11-17-1200.csv"),
        ({"run_id": '../"; evil'}, "usage-events-run.csv"),
    ],
    ids=["week", "dates", "hours", "run"],
)  # fmt: skip
def test_a_file_is_named_after_what_is_in_it(asked: dict[str, Any], name: str) -> None:
    assert export_name(asked_export(NOON, **asked)) == name


def test_an_export_is_of_one_moment_while_calls_go_on(database: Database) -> None:
    database.write_now(_many, 1_500)
    pieces = database.stream_now(exported, asked_export(NOON))
    first = next(pieces)
    book(database, usage_event(occurred_at=NOON + timedelta(minutes=1)))
    rest = "".join(pieces)
    assert (first + rest).count("\r\n") == 1 + 1_500
    assert len(table(database)) == 1_501


def test_an_export_that_is_not_read_to_the_end_gives_its_connection_back(database: Database) -> None:
    database.write_now(_many, 1_500)
    pieces = database.stream_now(exported, asked_export(NOON))
    next(pieces)
    pieces.close()
    assert list(pieces) == []


@pytest.mark.parametrize("format_", ["csv", "json"])
def test_four_times_the_rows_need_no_more_memory(database: Database, format_: str) -> None:
    database.write_now(_many, 6_000)
    few, many = asked_export(NOON, format_=format_, period="day"), asked_export(NOON, format_=format_, period="month")
    list(database.stream_now(exported, many))  # What is loaded, compiled and kept once is not what is measured.
    small, large = _peak_bytes(database.stream_now(exported, few)), _peak_bytes(database.stream_now(exported, many))
    assert large < small + 250_000
    assert large < 5_000_000


def _peak_bytes(pieces: Iterator[str]) -> int:
    tracemalloc.start()
    try:
        length = sum(map(len, pieces))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert length > 30_000
    return peak


def _many(connection: Connection, count: int) -> None:
    """So many calls, a quarter of them today, the others before that in this month."""
    today = count // 4
    rows = [
        {
            "call_id": f"c-{number}", "provider": "openai", "model": "gpt-4o", "role": "builder", "purpose": "run",
            "status": "ok", "usage_source": "provider", "uncached_input": 60, "cache_read": 0, "cache_write_5m": 0,
            "cache_write_1h": 0, "cache_write_other": 0, "output": 40, "reasoning": 0, "charged_tokens": 100,
            "charged_nano": 0, "processing": "sync", "tool_calls": {}, "recorded_at": NOON,
            "occurred_at": NOON - timedelta(seconds=number if number < today else 172_800 + number),
        }
        for number in range(count)
    ]  # fmt: skip
    connection.execute(insert(usage_events), rows)
