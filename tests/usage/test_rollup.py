"""Booking: the event, its lines, and sums that equal GROUP BY over the events after every booking."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, select

from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import usage_events, usage_lines
from autopack_mcp.errors import DatabaseError
from autopack_mcp.usage.event import UsageEvent, UsageLine
from autopack_mcp.usage.rollup import Charge, book, booked_event, rebook
from tests.factories import NOON, call_scope, token_counts, usage_event
from tests.ledger_truth import rollups, true_rollups

KOLKATA = timezone(timedelta(hours=5, minutes=30))
CHARGE = Charge(100, 500_000)


def lines_of(connection: Connection, call_id: str) -> list[tuple[Any, ...]]:
    columns = (usage_lines.c.line_index, usage_lines.c.model, usage_lines.c.uncached_input, usage_lines.c.output)
    return [tuple(row) for row in connection.execute(select(*columns).where(usage_lines.c.call_id == call_id))]


def hours(connection: Connection) -> list[datetime]:
    return [datetime.fromtimestamp(row[0] / 1_000_000, UTC) for row in rollups(connection)["usage_hours"]]


def booked(connection: Connection, event: UsageEvent, charge: Charge = CHARGE) -> None:
    book(connection, event, charge, NOON)


def full_event() -> UsageEvent:
    return usage_event(
        "call-full", response_id="resp_1", request_id="req_1", cost_nano=None, price_version=None, category=None,
        service_tier="priority", processing="batch", tool_calls={"web_search": 2}, raw_usage={"input_tokens": 60},
        error="cut", status="cut", usage_source="partial", started_at=NOON - timedelta(seconds=3), attempt=None,
    )  # fmt: skip


def test_a_booked_event_reads_back_as_it_was(database: Database) -> None:
    event = full_event()
    database.write_now(booked, event, Charge(7, 8))
    assert database.read_now(booked_event, event.call_id) == (event, Charge(7, 8))
    assert database.read_now(booked_event, "another") is None


def test_lines_are_kept_only_where_a_call_billed_several_models(database: Database) -> None:
    one = UsageLine("gpt-4o", token_counts())
    other = UsageLine("gpt-4o-mini", token_counts(uncached_input=5, output=6))
    database.write_now(booked, usage_event("single", lines=(one,)))
    database.write_now(booked, usage_event("double", lines=(one, other), counts=one.counts + other.counts))
    assert database.read_now(lines_of, "single") == []
    assert database.read_now(lines_of, "double") == [(0, "gpt-4o", 60, 40), (1, "gpt-4o-mini", 5, 6)]


def test_a_later_truth_replaces_the_event_its_lines_and_its_share_of_the_sums(database: Database) -> None:
    line = UsageLine("gpt-4o", token_counts())
    old = usage_event("again", lines=(line, line, line), counts=token_counts(uncached_input=180, output=120))
    new = usage_event("again", lines=(line, line), counts=token_counts(uncached_input=120, output=80), model="gpt-5")
    database.write_now(booked, old)
    database.write_now(booked, usage_event("another"))
    database.write_now(rebook, old, CHARGE, new, Charge(200, 9), NOON)

    assert len(database.read_now(lines_of, "again")) == 2
    assert database.read_now(rollups) == database.read_now(true_rollups)
    assert {row[4] for row in database.read_now(rollups)["usage_phases"]} == {"gpt-4o", "gpt-5"}


def test_a_sum_that_counts_nothing_any_more_is_gone(database: Database) -> None:
    old, new = usage_event("again"), usage_event("again", model="gpt-5")
    database.write_now(booked, old)
    database.write_now(rebook, old, CHARGE, new, CHARGE, NOON)
    assert database.read_now(rollups) == database.read_now(true_rollups)
    assert [row[3] for row in database.read_now(rollups)["usage_hours"]] == ["gpt-5"]


@pytest.mark.parametrize(
    "occurred_at, hour",
    [
        (datetime(2026, 11, 18, 12, 0, tzinfo=UTC), 12),
        (datetime(2026, 11, 18, 12, 59, 59, 999_999, tzinfo=UTC), 12),
        (datetime(2026, 11, 18, 17, 40, tzinfo=KOLKATA), 12),
        (datetime(2026, 11, 18, 18, 20, tzinfo=KOLKATA), 12),
    ],
    ids=["on the hour", "just before the next", "Kolkata 17:40", "Kolkata 18:20"],
)
def test_an_event_belongs_to_its_utc_hour(database: Database, occurred_at: datetime, hour: int) -> None:
    database.write_now(booked, usage_event(occurred_at=occurred_at))
    assert database.read_now(hours) == [datetime(2026, 11, 18, hour, tzinfo=UTC)]


def test_a_call_without_a_run_is_in_no_phase(database: Database) -> None:
    database.write_now(booked, usage_event(scope=call_scope(run_id=None, phase_id=None)))
    assert database.read_now(rollups)["usage_phases"] == []
    assert len(database.read_now(rollups)["usage_hours"]) == 1


def test_the_same_call_cannot_be_booked_twice(database: Database) -> None:
    database.write_now(booked, usage_event("once"))
    before = database.read_now(rollups)
    with pytest.raises(DatabaseError, match=r"usage_events\.call_id|pk_usage_events"):
        database.write_now(booked, usage_event("once"))
    assert database.read_now(rollups) == before


@pytest.mark.parametrize(
    "column, value",
    [("reasoning", 41), ("output", -1), ("cost_nano", -1), ("charged_tokens", -1), ("charged_nano", -1),
     ("status", "fine"), ("usage_source", "guess")],
)  # fmt: skip
def test_the_table_itself_refuses_what_cannot_be(database: Database, column: str, value: object) -> None:
    database.write_now(booked, usage_event("once"))
    with pytest.raises(DatabaseError, match=r"(?i)check constraint"):
        database.write_now(lambda connection: connection.execute(usage_events.update().values({column: value})))


scopes = st.builds(
    call_scope,
    provider=st.sampled_from(["openai", "anthropic"]),
    role=st.sampled_from(["builder", "agent:planner"]),
    purpose=st.sampled_from(["run", "rehearsal"]),
    run_id=st.sampled_from([None, "R1", "R2"]),
    phase_id=st.sampled_from([None, "P1"]),
)
events = st.builds(
    usage_event,
    st.sampled_from(["a", "b", "c", "d"]),
    scope=scopes,
    model=st.sampled_from(["gpt-4o", "gpt-5"]),
    status=st.sampled_from(["ok", "failed", "cut", "expired", "external"]),
    counts=st.builds(token_counts, uncached_input=st.integers(0, 9), cache_read=st.integers(0, 9)),
    occurred_at=st.sampled_from([NOON, NOON + timedelta(minutes=59), NOON + timedelta(hours=1)]),
    category=st.sampled_from([None, "tests"]),
    cost_nano=st.sampled_from([None, 0, 5]),
)
charges = st.builds(Charge, st.integers(0, 9), st.integers(0, 9))


@settings(max_examples=40, deadline=None)
@given(bookings=st.lists(st.tuples(events, charges), max_size=12))
def test_the_sums_equal_the_events_after_every_booking(
    ledger_in_memory: Engine, bookings: list[tuple[UsageEvent, Charge]]
) -> None:
    with ledger_in_memory.connect() as connection:
        for event, charge in bookings:
            before = booked_event(connection, event.call_id)
            if before is None:
                book(connection, event, charge, NOON)
            else:
                rebook(connection, *before, event, charge, NOON)
            assert rollups(connection) == true_rollups(connection)
        connection.rollback()
