"""Alerts as people see them: sentences with numbers and a time, of a window or of what a run counts on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from autopack_mcp.budgets.alerts import raise_alerts
from autopack_mcp.budgets.caps import CallScope, ScopeCap, phase_scope, run_scope, shadow_prefix
from autopack_mcp.budgets.counters import ScopeUse
from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.database.engine import Database
from autopack_mcp.runs.store import run_by_id
from autopack_mcp.summary.alerts import ALERTS_SHOWN, AlertView, alerts_in_window, alerts_of_run
from autopack_mcp.summary.run import run_summary
from autopack_mcp.summary.usage import usage_summary
from tests.factories import NOON, call_scope, held_against, insert_run, settings, usage_event, window_cap

WEEK = timedelta(days=7)
THIS_WEEK = (NOON - timedelta(days=2, hours=12), NOON + timedelta(days=4, hours=12))


def reach(database: Database, cap: ScopeCap, spent: int = 812_000, at: Any = NOON, level: int = 80) -> None:
    """So much of a cap is spent, in the unit in which it is set."""
    use = ScopeUse(settled_tokens=spent, settled_nano=spent)
    database.write_now(raise_alerts, [cap], {cap.scope: use}, (level,), "c1", at)


def asked(database: Database, **scope: Any) -> None:
    """A run has asked somebody."""
    owner = call_scope(**scope)
    database.write_now(book_external, usage_event(scope=owner), held_against(), NOON)


@pytest.fixture
def runs(database: Database) -> Database:
    """R1 has asked openai's builder; R2 rehearses and has asked the same."""
    database.write_now(insert_run, "R1")
    database.write_now(lambda connection: insert_run(connection, "R2", is_rehearsal=True))
    asked(database)
    asked(database, run_id="R2", purpose="rehearsal")
    return database


def of_run(database: Database, run_id: str, at: Any = NOON) -> tuple[AlertView, ...]:
    return database.read_now(lambda connection: alerts_of_run(connection, run_by_id(connection, run_id), at))


def test_an_alert_is_a_sentence_with_its_numbers_and_its_time(database: Database) -> None:
    reach(database, window_cap(tokens=1_000_000), at=NOON + timedelta(minutes=3))
    reach(database, window_cap("day", nano_usd=5_000_000_000), 4_500_000_000, level=90)
    dollars, tokens = database.read_now(alerts_in_window, *THIS_WEEK)

    assert tokens.sentence == (
        "80 % of openai's cap of the week was reached at 2026-11-18 12:03 UTC: 812,000 of 1,000,000 tokens."
    )
    assert (tokens.level_percent, tokens.cap, tokens.occurred_at) == (
        80, "openai's cap of the week", NOON + timedelta(minutes=3)
    )  # fmt: skip
    assert dollars.sentence == "90 % of openai's cap of the day was reached at 2026-11-18 12:00 UTC: $4.50 of $5.00."


def test_a_window_shows_its_newest_alerts_and_none_of_a_rehearsal(database: Database) -> None:
    for number in range(ALERTS_SHOWN + 2):
        reach(database, window_cap(tokens=1_000 + number))
    reach(database, window_cap(tokens=5_000), at=THIS_WEEK[1])
    shadow = shadow_prefix(CallScope("openai", "builder", "rehearsal", "R2"))
    reach(database, ScopeCap(f"{shadow}run/R2", "run", "the cap of run R2", 1_000, None))

    found = database.read_now(alerts_in_window, *THIS_WEEK)
    allowances = [alert.sentence.rpartition(" of ")[2] for alert in found]
    assert allowances == [f"{1_000 + number:,} tokens." for number in range(ALERTS_SHOWN + 1, 1, -1)]


def test_hidden_characters_of_a_name_are_shown(database: Database) -> None:
    reach(database, ScopeCap("provider/x/week/2026-W47", "provider", "x\u202e's cap of the week", 1_000, None))
    (alert,) = database.read_now(alerts_in_window, *THIS_WEEK)
    assert "x\\u202e's cap of the week was reached" in alert.sentence


def test_a_run_shows_alerts_of_itself_its_phases_and_the_open_windows_it_counts_on(runs: Database) -> None:
    for scope, label in (
        (run_scope("", "R1"), "run"),
        (phase_scope("", "R1", "P1"), "phase"),
        (phase_scope("", "R1", "100%_done"), "odd phase"),
        ("global/day/2026-11-18", "all calls"),
        ("role/builder/month/2026-11", "role"),
        (run_scope("", "R10"), "another run"),
        (phase_scope("", "R10", "P1"), "another run's phase"),
        ("role/auditor/month/2026-11", "another role"),
        ("provider/openai/week/2026-W46", "last week"),
        ("rehearsal/R1/run/R1", "a rehearsal"),
    ):
        reach(runs, ScopeCap(scope, "run", label, 1_000, None))
    reach(runs, window_cap(tokens=1_000))
    reach(runs, window_cap(tokens=1_000, provider="anthropic"))

    caps = [alert.cap for alert in of_run(runs, "R1")]
    assert caps == ["openai's cap of the week", "role", "all calls", "odd phase", "phase", "run"]
    assert [alert.cap for alert in of_run(runs, "R1", NOON + WEEK)] == ["role", "odd phase", "phase", "run"]


def test_a_rehearsal_shows_alerts_of_its_own_counters_alone(runs: Database) -> None:
    call = CallScope("openai", "builder", "rehearsal", "R2")
    reach(runs, ScopeCap(run_scope(shadow_prefix(call), "R2"), "run", "its own", 1_000, None))
    reach(runs, window_cap(tokens=1_000))
    assert [alert.cap for alert in of_run(runs, "R2")] == ["its own"]


def test_the_summaries_of_a_run_and_of_usage_hold_them(runs: Database) -> None:
    reach(runs, window_cap(tokens=1_000))
    of_usage = runs.read_now(usage_summary, settings(), NOON).alerts
    assert [alert.cap for alert in of_usage] == ["openai's cap of the week"]
    assert runs.read_now(run_summary, "R1", NOON).alerts == of_usage
    assert runs.read_now(usage_summary, settings(), NOON, "week", -1).alerts == ()


def test_a_run_that_has_asked_nobody_shows_no_alert(runs: Database) -> None:
    runs.write_now(insert_run, "R3")
    reach(runs, window_cap(tokens=1_000))
    assert of_run(runs, "R3") == ()
