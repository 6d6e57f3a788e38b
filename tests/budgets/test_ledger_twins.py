"""An answer that is reported twice: it counts once, as it was last reported, wherever its two reports put it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select

from autopack_mcp.budgets import ledger
from autopack_mcp.budgets.call_rules import RulesInForce
from autopack_mcp.budgets.check import check_ledger
from autopack_mcp.config.settings import WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import breaches, retention, usage_events, usage_lines
from autopack_mcp.errors import UsageConflict, UsageTooOld
from autopack_mcp.usage.event import UsageLine
from tests.factories import (
    NOON,
    call_scope,
    provider_settings,
    reservation,
    settings,
    token_counts,
    truth_of,
    usage_event,
)

CONFIG = settings(provider_settings(WindowCap("day", tokens=150)))
RULES = RulesInForce(CONFIG)


def report(database: Database, call_id: str, output: int = 40, **overrides: Any) -> None:
    counts = token_counts(output=output)
    event = usage_event(call_id, status="external", response_id="resp-1", **{"counts": counts, **overrides})
    database.write_now(ledger.book_external, event, RULES, NOON)


def rows(database: Database) -> list[tuple[Any, ...]]:
    found = select(usage_events.c.call_id, usage_events.c.output, usage_events.c.charged_tokens)
    return [tuple(row) for row in database.read_now(lambda connection: connection.execute(found).all())]


def assert_adds_up(database: Database) -> None:
    assert database.read_now(check_ledger, CONFIG, NOON).differences == ()


def test_the_same_answer_under_two_call_ids_counts_once(database: Database) -> None:
    report(database, "one")
    report(database, "two")

    assert rows(database) == [("one", 40, 100)]
    assert_adds_up(database)


def test_the_last_report_of_an_answer_wins_in_every_sum(database: Database) -> None:
    report(
        database,
        "one",
        lines=(UsageLine("a", token_counts()), UsageLine("b", token_counts(uncached_input=0, output=0))),
    )
    elsewhere = call_scope(role="auditor", run_id="R2", phase_id=None)
    report(database, "two", 50, scope=elsewhere, model="gpt-big", occurred_at=NOON - timedelta(days=1))
    report(database, "two", 50)

    assert rows(database) == [("one", 50, 110)]
    assert database.read_now(lambda connection: connection.execute(select(usage_lines)).all()) == []
    assert_adds_up(database)


def test_what_a_correction_adds_above_a_cap_is_a_breach(database: Database) -> None:
    report(database, "one")
    report(database, "two", 91)

    found = database.read_now(lambda connection: connection.execute(select(breaches)).mappings().all())
    assert [(row["used"], row["allowance"]) for row in found] == [(151, 150)]


@pytest.mark.parametrize("overrides", [{"provider": "anthropic"}, {"response_id": None}, {"response_id": "resp-2"}])
def test_another_answer_is_another_call(database: Database, overrides: dict[str, Any]) -> None:
    report(database, "one")
    event = usage_event("two", **{"status": "external", "response_id": "resp-1", **overrides})
    database.write_now(ledger.book_external, event, RULES, NOON)

    assert len(rows(database)) == 2


def test_an_answer_that_was_asked_for_here_is_known_better(database: Database) -> None:
    promise = reservation()
    database.write_now(ledger.reserve, promise, RULES, None, NOON)
    database.write_now(ledger.settle, truth_of(promise, tokens=100, response_id="resp-1"), RULES, NOON)
    report(database, "again")

    with pytest.raises(UsageConflict, match="made elsewhere"):
        report(database, "other", 41)

    assert len(rows(database)) == 1
    assert_adds_up(database)


@pytest.mark.parametrize("seconds, is_kept", [(-1, False), (0, True)])
def test_what_may_have_been_counted_before_its_events_went_is_refused(
    database: Database, seconds: int, is_kept: bool
) -> None:
    since = NOON - timedelta(days=100)
    note = insert(retention).values(name="usage_events", pruned_before=since, pruned_at=NOON)
    database.write_now(lambda connection: connection.execute(note))
    at = since + timedelta(seconds=seconds)

    if is_kept:
        report(database, "old", occurred_at=at)
    else:
        with pytest.raises(UsageTooOld):
            report(database, "old", occurred_at=at)
    assert len(rows(database)) == is_kept
