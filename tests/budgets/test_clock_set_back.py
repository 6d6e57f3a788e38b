"""A clock that goes back: a call belongs to the windows of the moment that it showed; nothing is lost or doubled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from autopack_mcp.budgets import ledger
from autopack_mcp.budgets.call_rules import RulesInForce
from autopack_mcp.budgets.check import check_ledger
from autopack_mcp.budgets.ledger import Reservation
from autopack_mcp.config.settings import WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import reservations, usage_events
from autopack_mcp.errors import Denial
from autopack_mcp.usage.event import TokenCounts
from autopack_mcp.usage.service import usage_by_provider
from autopack_mcp.usage.windows import window_at
from tests.factories import NOON, held_against, provider_settings, reservation, settings, truth_of, usage_event

CONFIG = settings(provider_settings(WindowCap("day", tokens=150)))
RULES = RulesInForce(CONFIG)
YESTERDAY = NOON - timedelta(days=1)


def reserved(database: Database, at: datetime) -> Reservation:
    promise = reservation(lease_s=60.0)
    assert database.write_now(ledger.reserve, promise, RULES, None, at) == at
    return promise


def settled(database: Database, promise: Reservation, at: datetime) -> None:
    database.write_now(ledger.settle, truth_of(promise, tokens=70), RULES, at)


def assert_adds_up(database: Database) -> None:
    found = database.read_now(check_ledger, CONFIG, NOON)
    assert (found.differences, found.notes) == ((), ())


def tokens_of_day(database: Database, at: datetime) -> int:
    return sum(row.total_tokens for row in database.read_now(usage_by_provider, window_at("day", at)))


def test_a_call_that_ends_before_it_began_counts_where_it_was_reserved(database: Database) -> None:
    settled(database, reserved(database, NOON), YESTERDAY)

    assert (tokens_of_day(database, NOON), tokens_of_day(database, YESTERDAY)) == (70, 0)
    assert_adds_up(database)


def test_calls_after_the_step_back_count_in_the_day_that_the_clock_shows(database: Database) -> None:
    reserved(database, NOON)
    assert isinstance(database.write_now(ledger.reserve, reservation(), RULES, None, NOON), Denial)

    settled(database, reserved(database, YESTERDAY), YESTERDAY)

    assert tokens_of_day(database, YESTERDAY) == 70
    assert isinstance(database.write_now(ledger.reserve, reservation(), RULES, None, NOON), Denial)
    assert_adds_up(database)


def test_no_lease_ends_while_the_clock_is_back_and_each_ends_once_afterwards(database: Database) -> None:
    lost = reserved(database, NOON)

    assert database.write_now(ledger.expire_overdue, RULES, YESTERDAY) == 0
    assert database.write_now(ledger.expire_overdue, RULES, NOON + timedelta(seconds=61)) == 1
    assert database.write_now(ledger.expire_overdue, RULES, YESTERDAY) == 0
    settled(database, lost, YESTERDAY)

    states = select(reservations.c.state, usage_events.c.status, usage_events.c.charged_tokens)
    both = states.join_from(reservations, usage_events, usage_events.c.call_id == reservations.c.call_id)
    assert database.read_now(lambda connection: connection.execute(both).all()) == [("expired", "ok", 70)]
    assert_adds_up(database)


@pytest.mark.parametrize("at", [datetime(1969, 12, 31, 23, 30, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)])
def test_a_clock_that_lost_all_sense_is_counted_in_the_hour_that_it_shows(database: Database, at: datetime) -> None:
    event = usage_event(status="external", occurred_at=at, counts=TokenCounts(output=5))
    database.write_now(ledger.book_external, event, held_against(), at)

    assert tokens_of_day(database, at) == 5
    assert_adds_up(database)
