"""Lists of runs, and which run is meant when none is named."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from datetime import timedelta
from decimal import Decimal

import pytest

from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import RequestRefused
from autopack_mcp.summary.run import RunList, RunSummary, run_summary
from autopack_mcp.summary.run_list import RUNS_LIMIT, current_run, current_run_id, list_runs
from tests.factories import NOON, call_scope, held_against, insert_phase, insert_run, insert_supervisor, usage_event


def add_runs(database: Database, **states: str) -> None:
    """Runs named by the keys, each a minute newer than the one before."""
    for minutes, (run_id, state) in enumerate(states.items()):
        database.write_now(insert_run, run_id, state=state, created_at=NOON + timedelta(minutes=minutes))


def test_pages_follow_each_other_without_a_gap_or_a_repeat(database: Database) -> None:
    for number in range(7):  # All of one moment, so that only the id orders them.
        database.write_now(insert_run, f"r-{number}")
    seen, cursor = [], None
    while True:
        page = database.read_now(list_runs, NOON, 3, cursor)
        seen += [line.run_id for line in page.runs]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [f"r-{number}" for number in range(7)]


def test_a_run_started_between_two_pages_moves_nothing(database: Database) -> None:
    add_runs(database, old="running", middle="running", new="running")
    first = database.read_now(list_runs, NOON, 2, None)
    database.write_now(insert_run, "newest", created_at=NOON + timedelta(hours=1))
    second = database.read_now(list_runs, NOON, 2, first.next_cursor)
    assert [line.run_id for line in first.runs + second.runs] == ["new", "middle", "old"]


def test_a_list_says_how_to_get_the_rest(database: Database) -> None:
    add_runs(database, a="running", b="running", c="running")
    page = database.read_now(list_runs, NOON, 2, None)
    assert (page.total, page.hint) == (3, "2 of 3 runs are shown; pass next_cursor as cursor to see older ones.")
    assert database.read_now(list_runs, NOON, 3, None).next_cursor is None


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "é", "====", "bm90IGEgY3Vyc29y", urlsafe_b64encode(b"1 R1; DROP").decode(), "Y" * 4_000],
    ids=["empty", "too short", "not ascii", "padding", "other text", "other signs", "long"],
)
def test_a_cursor_that_is_not_ours_is_refused(database: Database, cursor: str) -> None:
    with pytest.raises(RequestRefused, match="is not a cursor of this list") as refusal:
        database.read_now(list_runs, NOON, 3, cursor)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("limit", [-1, 0, RUNS_LIMIT + 1])
def test_a_limit_out_of_range_is_refused(database: Database, limit: int) -> None:
    with pytest.raises(RequestRefused, match=f"1 to {RUNS_LIMIT}"):
        database.read_now(list_runs, NOON, limit, None)


def test_a_line_agrees_with_the_summary_of_its_run(database: Database) -> None:
    add_runs(database, R1="needs_attention")
    database.write_now(insert_supervisor)
    for index, state in enumerate(("succeeded", "skipped", "failed"), start=1):
        database.write_now(insert_phase, index, state=state)
    database.write_now(book_external, usage_event(cost_nano=None), held_against(), NOON)
    database.write_now(book_external, usage_event(), held_against(), NOON)
    (line,) = database.read_now(list_runs, NOON, 3, None).runs
    whole = database.read_now(run_summary, "R1", NOON)
    assert (line.percent_complete, line.tokens_used, line.cost_usd) == (66.7, 200, Decimal("0.0005"))
    assert line.unpriced_calls == 1
    assert (line.percent_complete, line.tokens_used, line.cost_usd, line.needs_you) == (
        whole.percent_complete, whole.tokens_used, whole.cost_usd, whole.needs_you is not None,
    )  # fmt: skip


def test_a_rehearsal_stands_in_the_list_with_its_own_numbers(database: Database) -> None:
    database.write_now(insert_run, is_rehearsal=True)
    database.write_now(book_external, usage_event(scope=call_scope(purpose="rehearsal")), held_against(), NOON)
    (line,) = database.read_now(list_runs, NOON, 3, None).runs
    assert (line.is_rehearsal, line.tokens_used) == (True, 100)


def test_without_runs_the_list_says_how_to_start_one(database: Database) -> None:
    for answer in (database.read_now(list_runs, NOON, 3, None), database.read_now(current_run, NOON)):
        assert isinstance(answer, RunList)
        assert (answer.runs, answer.total, answer.next_cursor) == ((), 0, None)
        assert "autopack-mcp start" in answer.hint
    assert database.read_now(current_run_id) is None


def test_the_only_unfinished_run_is_the_current_one(database: Database) -> None:
    add_runs(database, older="paused", newer="succeeded")
    assert database.read_now(current_run_id) == "older"


def test_when_all_have_ended_the_newest_is_the_current_one(database: Database) -> None:
    add_runs(database, older="succeeded", newer="failed")
    current = database.read_now(current_run, NOON)
    assert isinstance(current, RunSummary)
    assert current.run_id == "newer"


def test_several_unfinished_runs_are_listed_because_only_a_person_can_say(database: Database) -> None:
    add_runs(database, a="running", b="succeeded", c="needs_attention")
    current = database.read_now(current_run, NOON)
    assert isinstance(current, RunList)
    assert [line.run_id for line in current.runs] == ["c", "a"]
    assert (current.total, current.hint) == (2, "2 runs are unfinished; name the one you mean.")
    assert database.read_now(current_run_id) is None
