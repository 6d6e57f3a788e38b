"""Why a run that nobody has in hand waits, and who is named as the one who may advance it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from autopack_mcp.config.settings import RunSettings
from autopack_mcp.database.engine import Database
from autopack_mcp.summary.run import RunSummary, run_summary
from autopack_mcp.summary.run_list import list_runs
from tests.factories import NOON, insert_run, insert_supervisor, settings

URL = "https://example.org/team/project.git"
STORED = "waiting for the supervisor"


def add(database: Database, run_id: str, *, held: bool = False, **facts: Any) -> None:
    lease: dict[str, Any] = {"lease_owner": "desk:1:1" if held else None, "lease_expires_at": NOON if held else None}
    queued = {"state": "running" if held else "queued", "why": STORED, "machine": "desk", "repository": f"/{run_id}"}
    database.write_now(insert_run, run_id=run_id, **{**lease, **queued, **facts})


def shown(database: Database, run_id: str, **limits: int) -> RunSummary:
    found = RunSettings(at_once=limits.get("at_once", 4), per_repository=limits.get("per_repository", 2))
    return database.read_now(run_summary, run_id, NOON, lambda: settings(runs=found))


def test_a_run_says_why_it_waits_and_its_place_without_any_write(database: Database) -> None:
    database.write_now(insert_supervisor)
    add(database, "R1", held=True)
    add(database, "R2")
    add(database, "R3", created_at=NOON + timedelta(seconds=1))

    assert shown(database, "R3", at_once=1).why == "waits, number 2 in line: 1 run is under way (runs.at_once)"
    assert [shown(database, run_id).why for run_id in ("R1", "R2")] == [STORED, STORED]


def test_a_run_of_a_busy_repository_says_so(database: Database) -> None:
    database.write_now(insert_supervisor)
    for run_id in ("R1", "R2"):
        add(database, run_id, held=run_id == "R1", repository="/same")

    why = shown(database, "R2", per_repository=1).why
    assert why == "waits, number 1 in line: 1 run is in its repository already (runs.per_repository)"


def test_a_run_that_nobody_may_advance_says_what_was_written_and_needs_a_person(database: Database) -> None:
    database.write_now(insert_supervisor, "lap")
    add(database, "R1")

    run = shown(database, "R1")
    assert (run.why, run.supervisor) == (STORED, "no supervisor is running on desk")
    assert run.needs_you is not None
    assert database.read_now(list_runs, NOON).runs[0].needs_you


def test_a_run_with_a_url_waits_for_a_worker_and_names_it(database: Database) -> None:
    database.write_now(insert_supervisor)
    add(database, "R1", machine=None, repository=URL)
    assert shown(database, "R1").supervisor == "the supervisor on desk (process 4711, http://127.0.0.1:8000)"

    database.write_now(insert_supervisor, "lap/worker-9", kind="worker", url="")
    run = shown(database, "R1")
    assert run.supervisor == "the worker lap/worker-9 (process 4711)"
    assert run.why == "waits, number 1 in line: for a free one of 1 worker"
    assert run.needs_you is None
