"""Whose turn it is: limits per machine and repository, fairness between people, and who reaches which disk."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from autopack_mcp.config.settings import RunSettings
from autopack_mcp.database.engine import Database
from autopack_mcp.runs.queue import Line, Reach, line_at, reach_of_run, runs_in_hand, turns
from autopack_mcp.runs.records import RunRecord
from autopack_mcp.runs.store import run_by_id
from tests.factories import NOON, insert_run, insert_supervisor

DESK = Reach("serve", "desk")
WORKER = Reach("worker", "lap/worker-1")
URL = "https://example.org/team/project.git"


def run(run_id: str, author: str = "ann", repository: str = "", **overrides: Any) -> RunRecord:
    """A run in the queue, in a repository of its own unless one is given."""
    values: dict[str, Any] = dict.fromkeys(RunRecord.__dataclass_fields__)
    values |= {"run_id": run_id, "author": author, "state": "queued", "repository": repository or f"/{run_id}"}
    return RunRecord(**{**values, **overrides})


def order(
    *waiting: RunRecord,
    in_hand: tuple[RunRecord, ...] = (),
    others: str = "",
    at_once: int = 4,
    per_repository: int = 2,
) -> list[str]:
    """The runs in the order of their turn; behind those that wait, their place and the last word of the reason."""
    authors = frozenset({one.author for one in (*waiting, *in_hand)} | set(others.split()))
    limits = RunSettings(at_once=at_once, per_repository=per_repository)
    found = turns(Line(waiting, authors), in_hand, limits)
    return [f"{turn.run.run_id} {turn.place} {turn.why.split()[-1]}" if turn.why else turn.run.run_id for turn in found]


def test_the_oldest_go_first_until_every_place_is_taken() -> None:
    waiting = [run(f"R{number}") for number in range(4)]

    assert order(*waiting, at_once=2) == ["R0", "R1", "R2 1 (runs.at_once)", "R3 2 (runs.at_once)"]


def test_one_repository_takes_its_own_places_and_leaves_the_others_free() -> None:
    waiting = [run("R0", repository="/a"), run("R1", repository="/a"), run("R2", repository="/b")]

    assert order(*waiting, per_repository=1) == ["R0", "R1 1 (runs.per_repository)", "R2"]


def test_everybody_gets_a_run_before_anybody_gets_the_next() -> None:
    waiting = [run("A0"), run("A1"), run("B0", "bob"), run("B1", "bob")]

    assert order(*waiting, at_once=3)[:3] == ["A0", "B0", "A1"]


def test_who_has_runs_in_hand_goes_behind_who_has_none() -> None:
    assert order(run("A1"), run("B0", "bob"), in_hand=(run("A0"),), at_once=2)[0] == "B0"


@pytest.mark.parametrize(
    "others, last",
    [
        pytest.param("bob", "R2 1 ann", id="somebody else has an unfinished run"),
        pytest.param("", "R2", id="nobody else has one"),
    ],
)
def test_the_last_place_is_kept_for_somebody_else(others: str, last: str) -> None:
    assert order(run("R0"), run("R1"), run("R2"), others=others, at_once=3) == ["R0", "R1", last]


def test_a_single_place_is_everybodys() -> None:
    assert order(run("R0"), run("R1", "bob"), at_once=1)[0] == "R0"


def test_what_is_to_be_stopped_needs_no_place() -> None:
    stopping = run("R1", state="cancelling")

    assert order(run("R0"), stopping, in_hand=(run("R9"),), at_once=1)[0] == "R1"


def test_the_reason_shows_no_hidden_character() -> None:
    hostile = run("R1", author="ann\u202e")

    (turn,) = turns(Line((hostile,), frozenset({"ann\u202e", "bob"})), (hostile,), RunSettings(at_once=2))

    assert turn.why.startswith("the last place is kept for others than ann")
    assert "\u202e" not in turn.why


# ── whose disk ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def everywhere(database: Database) -> Database:
    """A run of this machine, one of another, one from before machines were told apart, and one with a URL."""
    for run_id, facts in {
        "mine": {"machine": "desk"},
        "other": {"machine": "lap"},
        "old": {},
        "url": {"repository": URL},
    }.items():
        database.write_now(insert_run, run_id=run_id, lease_owner=None, lease_expires_at=None, **facts)
    return database


def waiting(database: Database, reach: Reach) -> set[str]:
    return {one.run_id for one in database.read_now(line_at, reach, NOON).waiting}


def test_a_serve_takes_what_stands_on_its_machine_and_urls_while_no_worker_lives(everywhere: Database) -> None:
    assert waiting(everywhere, DESK) == {"mine", "old", "url"}

    everywhere.write_now(insert_supervisor, "lap/worker-1", kind="worker")
    assert waiting(everywhere, DESK) == {"mine", "old"}

    everywhere.write_now(insert_supervisor, "lap/worker-0", kind="worker", lease_expires_at=NOON - timedelta(hours=1))
    assert waiting(everywhere, Reach("serve", "lap")) == {"other", "old"}


def test_a_worker_takes_what_every_machine_reaches(everywhere: Database) -> None:
    assert waiting(everywhere, WORKER) == {"url"}


def test_a_run_waits_for_those_that_reach_it(everywhere: Database) -> None:
    found = {run_id: reach_of_run(everywhere.read_now(run_by_id, run_id)) for run_id in ("mine", "old", "url")}

    assert found == {"mine": DESK, "old": Reach("serve", ""), "url": Reach("worker", "")}


def test_a_run_is_in_hand_while_its_lease_runs(everywhere: Database) -> None:
    lease = {"lease_owner": "x", "repository": URL}
    everywhere.write_now(insert_run, run_id="held", lease_expires_at=NOON, **lease)
    everywhere.write_now(insert_run, run_id="lost", lease_expires_at=NOON - timedelta(seconds=1), **lease)

    assert [one.run_id for one in everywhere.read_now(runs_in_hand, WORKER, NOON)] == ["held"]
    assert waiting(everywhere, WORKER) == {"url", "lost"}
