"""Deleting by age: the events go, what they came to stays, and at every commit in between the ledger adds up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import Connection, delete, insert, select, update

from autopack_mcp.budgets import ledger
from autopack_mcp.budgets.check import check_ledger
from autopack_mcp.budgets.rebuild import rebuild_ledger
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import reservations, retention, usage_days, usage_events, usage_hours, usage_phases
from autopack_mcp.errors import RequestRefused, UnknownCall
from autopack_mcp.usage import pruning
from autopack_mcp.usage.pruning import Pruned, kept_days, prunable, prune, prune_cutoff
from autopack_mcp.usage.service import spent_by_phase
from tests.budgets.lively import SCOPES, capped_everywhere, live
from tests.factories import NOON, held_against, reservation, truth_of, usage_event
from tests.ledger_truth import counters, everything, rollups

CUTOFF = prune_cutoff(NOON, 90)


@pytest.fixture
def lively(database: Database) -> Database:
    """A ledger that has seen everything: today, a week ago, and 100 and 400 days ago."""
    live(database, days_ago=(0, 8, 100, 400))
    return database


def pruned(database: Database, before: datetime = CUTOFF) -> Pruned:
    return prune(database, before, NOON, pause=lambda _: None)


def assert_adds_up(database: Database) -> None:
    found = database.read_now(check_ledger, capped_everywhere(), NOON)
    assert found.differences == ()


def rows(database: Database, query: Any) -> list[Any]:
    return sorted(database.read_now(lambda connection: list(connection.execute(query).all())))


# How old


@pytest.mark.parametrize("text, days", [("400d", 400), ("62d", 62), (" 90D ", 90)])
def test_days_are_written_with_a_d(text: str, days: int) -> None:
    assert kept_days(text) == days


@pytest.mark.parametrize("text", ["", "d", "400", "400 d", "-400d", "4e2d", "12m", "400d!", "٤٠٠d", "1000000d"])
def test_anything_else_is_refused_with_how_to_write_it(text: str) -> None:
    with pytest.raises(RequestRefused, match="is no number of days") as refused:
        kept_days(text)

    assert "400d" in str(refused.value.hint)


@pytest.mark.parametrize("text", ["61d", "0d"])
def test_windows_that_are_in_use_are_never_touched(text: str) -> None:
    with pytest.raises(RequestRefused, match="windows that are in use"):
        kept_days(text)


def test_days_are_whole_utc_days() -> None:
    assert prune_cutoff(NOON, 62) == datetime(2026, 9, 17, tzinfo=UTC)


# What goes, and what stays


def test_what_would_go_is_what_goes(lively: Database) -> None:
    expected = lively.read_now(prunable, CUTOFF)
    before = lively.read_now(everything)

    assert lively.read_now(everything) == before
    assert pruned(lively) == expected
    assert expected == Pruned(
        before=CUTOFF,
        events=2 * (11 * len(SCOPES) + 1),
        lines=2 * 2 * len(SCOPES),
        promises=2 * (11 * len(SCOPES) + 1),
        first=NOON - timedelta(days=400),
        last=NOON - timedelta(days=100),
    )


def test_what_they_came_to_stays(lively: Database) -> None:
    sums, counted = lively.read_now(rollups), lively.read_now(counters)
    of_run = lively.read_now(spent_by_phase, "R1")

    pruned(lively)

    assert lively.read_now(rollups) == sums
    assert lively.read_now(counters) == counted
    assert lively.read_now(spent_by_phase, "R1") == of_run
    assert_adds_up(lively)


def test_calls_that_are_younger_or_in_flight_stay(lively: Database) -> None:
    is_young = usage_events.c.occurred_at >= CUTOFF
    young = rows(lively, select(usage_events.c.call_id).where(is_young))
    is_held = reservations.c.state == "held"
    held = rows(lively, select(reservations.c.call_id).where(is_held))

    pruned(lively)

    assert rows(lively, select(usage_events.c.call_id)) == young
    assert rows(lively, select(reservations.c.call_id).where(is_held)) == held
    assert rows(lively, select(retention)) == [("usage_events", CUTOFF, NOON)]


def test_a_call_of_the_first_moment_of_the_kept_days_is_kept(database: Database) -> None:
    moments = (CUTOFF - timedelta(microseconds=1), CUTOFF)

    def spend(connection: Connection) -> None:
        for moment in moments:
            event = usage_event(status="external", occurred_at=moment)
            ledger.book_external(connection, event, held_against(), NOON)

    database.write_now(spend)

    assert pruned(database) == Pruned(CUTOFF, events=1, first=moments[0], last=moments[0])
    assert rows(database, select(usage_events.c.occurred_at)) == [(CUTOFF,)]


def test_where_nothing_is_old_nothing_is_noted(lively: Database) -> None:
    before = lively.read_now(everything)
    longest_ago = NOON - timedelta(days=500)

    assert pruned(lively, longest_ago) == Pruned(longest_ago)
    assert lively.read_now(everything) == before


def test_doing_it_again_finds_nothing_more(lively: Database) -> None:
    pruned(lively)
    before = lively.read_now(everything)

    assert pruned(lively) == Pruned(CUTOFF)
    assert lively.read_now(everything) == before


# While others work


def test_the_ledger_adds_up_at_every_commit_and_each_is_small(
    lively: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "CALLS_PER_COMMIT", 20)
    left = [len(rows(lively, select(usage_events.c.call_id)))]

    def look(_seconds: float) -> None:
        assert_adds_up(lively)
        left.append(len(rows(lively, select(usage_events.c.call_id))))

    prune(lively, CUTOFF, NOON, pause=look)

    assert len(left) > 5
    assert all(before - after <= 20 for before, after in pairwise(left))


def test_when_it_is_killed_in_between_it_goes_on_later(lively: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "CALLS_PER_COMMIT", 20)
    whole = lively.read_now(prunable, CUTOFF)

    def die(_seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(lively, CUTOFF, NOON, pause=die)
    assert_adds_up(lively)

    assert pruned(lively).events == whole.events - 20
    assert_adds_up(lively)


# Afterwards


def test_a_truth_that_comes_after_its_call_went_is_refused(database: Database) -> None:
    promise = reservation(lease_s=1.0)
    long_ago = NOON - timedelta(days=100)

    def lose(connection: Connection) -> None:
        ledger.reserve(connection, promise, held_against(), None, long_ago)
        ledger.expire_overdue(connection, held_against(), NOON)

    database.write_now(lose)
    pruned(database)

    with pytest.raises(UnknownCall):
        database.write_now(ledger.settle, truth_of(promise, tokens=1), held_against(), NOON)
    assert_adds_up(database)


def test_a_call_that_was_in_flight_when_its_day_went_is_charged_and_goes_the_next_time(lively: Database) -> None:
    pruned(lively)
    everything_ends = update(reservations).values(lease_expires_at=NOON - timedelta(days=1))
    lively.write_now(lambda connection: connection.execute(everything_ends.where(reservations.c.state == "held")))
    lively.write_now(ledger.expire_overdue, held_against(), NOON)
    assert_adds_up(lively)

    assert pruned(lively).events == 2 * (len(SCOPES) + 1)
    assert_adds_up(lively)


def test_deleting_farther_back_does_not_forget_how_far_it_went(lively: Database) -> None:
    longest_ago = NOON - timedelta(days=450)
    lively.write_now(ledger.reserve, reservation(), held_against(), None, longest_ago)
    pruned(lively)
    lively.write_now(ledger.expire_overdue, held_against(), longest_ago + timedelta(days=1))

    assert pruned(lively, NOON - timedelta(days=420)).events == 1
    assert rows(lively, select(retention.c.pruned_before)) == [(CUTOFF,)]
    assert_adds_up(lively)


def test_sums_over_what_went_are_checked_and_made_anew(lively: Database) -> None:
    pruned(lively)
    before = lively.read_now(everything)

    def damage(connection: Connection) -> None:
        connection.execute(delete(usage_phases))
        connection.execute(update(usage_days).where(usage_days.c.day_start < CUTOFF).values(calls=1))
        connection.execute(delete(usage_days).where(usage_days.c.day_start >= CUTOFF))

    lively.write_now(damage)
    assert [found.table for found in rebuild_ledger(lively, NOON)] == ["usage_days", "usage_phases", "usage_days"]
    assert lively.read_now(everything) == before


def test_rebuilding_stops_when_events_go_meanwhile(lively: Database) -> None:
    lively.write_now(lambda connection: connection.execute(update(usage_days).values(calls=1)))
    lively.write_now(lambda connection: connection.execute(update(usage_phases).values(calls=1)))
    made = rebuild_ledger(lively, NOON)
    next(made)
    pruned(lively)

    with pytest.raises(RequestRefused, match="deleted by age just now"):
        next(made)

    assert len(list(rebuild_ledger(lively, NOON))) == 1
    assert_adds_up(lively)


def test_an_hour_that_counts_less_than_the_calls_left_of_it_is_found(lively: Database) -> None:
    """Of an hour whose events went nobody knows more than that it cannot be less than what is still there."""
    row = {"name": "usage_events", "pruned_before": CUTOFF, "pruned_at": NOON}
    lively.write_now(lambda connection: connection.execute(insert(retention).values(**row)))
    assert_adds_up(lively)
    lively.write_now(lambda connection: connection.execute(update(usage_hours).values(calls=0)))

    found = lively.read_now(check_ledger, capped_everywhere(), NOON)

    assert any("calls is 0, must be at least 1" in str(difference) for difference in found.differences)
