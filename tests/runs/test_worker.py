"""Workers as real processes on one PostgreSQL: they share runs, obey, and one that is killed is taken over.

What a single supervisor does with a run is in test_supervisor; here is what changes when jobs say who claims it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from sqlalchemy import Connection, func, select, text

from autopack_mcp import app
from autopack_mcp.cli.main import main
from autopack_mcp.database.tables import usage_events
from autopack_mcp.runs.requests import Action, add_request, request_by_id
from autopack_mcp.runs.store import run_by_id
from autopack_mcp.runs.supervision import live_workers
from tests.projects import a_phase, a_plan, git, make_repository
from tests.runs.house import ANN, House, open_house
from tests.runs.programs import ROOT, SERVE, Running, running

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("engine", ["postgresql"])]

LIMIT_S = 50
TAKE_OVER_LIMIT_S = 10
SLOW = ("--rehearsal-pause", "0.3")
NEVER = ("--rehearsal-pause", "3600")


@pytest.fixture
async def house(tmp_path: Path, empty_database: str) -> AsyncIterator[House]:
    async with open_house(tmp_path, empty_database, environ={"PYTHONPATH": ROOT}) as opened:
        yield opened


@pytest.fixture
def server(tmp_path: Path) -> Path:
    make_repository(tmp_path / "project")
    git(tmp_path, "clone", "--quiet", "--bare", "project", "server.git")
    return tmp_path / "server.git"


@asynccontextmanager
async def working(house: House, name: str, *words: str) -> AsyncIterator[Running]:
    """A worker on a machine of its own, which is ready when this yields."""
    home = house.folder / name
    environ = {**house.autopack.environ, "AUTOPACK_HOME": str(home), "AUTOPACK_MACHINE": name}
    async with running(environ, "worker", *words) as process:
        assert (await process.line()).startswith(f"Working as {name}/worker-")
        yield process


def plan_for(server: Path, *phases: str) -> str:
    return a_plan(f"file://{server}", [a_phase(phase) for phase in phases or ("a", "b")])


def calls_of(connection: Connection, run_id: str) -> int:
    found = select(func.count()).select_from(usage_events).where(usage_events.c.run_id == run_id)
    return int(connection.execute(found).scalar_one())


def left_jobs(connection: Connection) -> int:
    return int(connection.execute(text("SELECT count(*) FROM procrastinate_jobs")).scalar_one())


async def test_two_workers_share_runs_and_no_step_is_done_twice(house: House, server: Path) -> None:
    with anyio.fail_after(LIMIT_S):
        async with (
            working(house, "desk", "--concurrency", "1", *SLOW),
            working(house, "lap", "--concurrency", "1", *SLOW),
        ):
            run_ids = [await house.start(plan_for(server)) for _ in range(2)]
            owners = set()
            for run_id in run_ids:
                held = await house.until(run_id, lambda run: run.state == "running")
                assert "worker" in held.supervisor
            finished = [await house.stopped(run_id) for run_id in run_ids]
            for run in finished:
                owners.add(Path(run.workspace).parents[2].name)

    assert [run.state for run in finished] == ["succeeded", "succeeded"], [run.why for run in finished]
    assert owners == {"desk", "lap"}
    for run in finished:
        assert git(server, "log", "--format=%s", f"main..{run.branch}").splitlines() == ["Phase b", "Phase a"]
        assert await house.autopack.database.read(calls_of, run.run_id) == 4
        assert [phase.attempt for phase in run.phases] == [1, 1]


async def test_a_run_of_a_killed_worker_is_taken_over_within_ten_seconds(house: House, server: Path) -> None:
    with anyio.fail_after(LIMIT_S):
        async with working(house, "desk", *NEVER) as first:
            run_id = await house.start(plan_for(server))
            await house.until(run_id, lambda run: run.current_phase_state == "building" and run.tokens_reserved > 0)
            owner = (await house.autopack.database.read(run_by_id, run_id)).lease_owner
            async with working(house, "lap"):
                killed_at = time.monotonic()
                await first.end(signal.SIGKILL)

                async def has_another_owner() -> bool:
                    now = await house.autopack.database.read(run_by_id, run_id)
                    return now.lease_owner not in (owner, None)

                await house._until(has_another_owner)
                took_s = time.monotonic() - killed_at
                run = await house.stopped(run_id)

    assert run.state == "succeeded", run.why
    assert took_s < TAKE_OVER_LIMIT_S
    assert git(server, "log", "--format=%s", f"main..{run.branch}").splitlines() == ["Phase b", "Phase a"]
    assert await house.autopack.database.read(calls_of, run_id) == 4


async def test_what_a_person_asks_reaches_the_worker_that_holds_the_run(house: House, server: Path) -> None:
    with anyio.fail_after(LIMIT_S):
        async with working(house, "desk", *NEVER), working(house, "lap", *NEVER):
            run_id = await house.start(plan_for(server))
            await house.until(run_id, lambda run: run.current_phase_state == "building" and run.tokens_reserved > 0)
            paused = await house.control.request(run_id, "pause", ANN, now=True)
            resumed = await house.control.request(run_id, "resume", ANN)
            await house.until(run_id, lambda run: run.tokens_reserved > 0)
            cancelled = await house.control.request(run_id, "cancel", ANN)

    assert (paused.state, resumed.state, cancelled.state) == ("paused", "running", "cancelled")
    assert not any(outcome.is_pending for outcome in (paused, resumed, cancelled))


async def test_a_worker_that_is_told_to_end_leaves_its_run_to_the_next_one_and_no_job(
    house: House, server: Path
) -> None:
    with anyio.fail_after(LIMIT_S):
        async with working(house, "desk", *NEVER) as first:
            run_id = await house.start(plan_for(server))
            await house.until(run_id, lambda run: run.tokens_reserved > 0)
            assert await first.end(signal.SIGTERM) == 0
        assert await house.autopack.database.read(live_workers, house.autopack.clock.now()) == ()
        assert await house.autopack.database.read(left_jobs) == 0
        async with working(house, "desk"):
            run = await house.stopped(run_id)

    assert run.state == "succeeded", run.why


async def test_a_serve_leaves_urls_to_workers_and_a_worker_leaves_paths_to_serves(
    house: House, server: Path, tmp_path: Path
) -> None:
    with anyio.fail_after(LIMIT_S):
        async with working(house, "lap"), house.supervising():
            by_url = await house.stopped(await house.start(plan_for(server)))
            by_path = await house.stopped(await house.start(a_plan(tmp_path / "project")))

    assert (by_url.state, by_path.state) == ("succeeded", "succeeded")
    assert (house.folder / "lap") in Path(by_url.workspace).parents
    assert (house.folder / "home") in Path(by_path.workspace).parents
    machines = [(await house.autopack.database.read(run_by_id, one.run_id)).machine for one in (by_url, by_path)]
    assert machines == [None, app.machine_name()]


async def test_two_machines_on_one_database_do_not_take_each_others_runs(
    house: House, tmp_path: Path, server: Path
) -> None:
    environ = {**house.autopack.environ, "AUTOPACK_HOME": str(tmp_path / "lap"), "AUTOPACK_MACHINE": "lap"}
    database = house.autopack.database

    async def asked_of_the_other(run_id: str, action: Action) -> None:
        """What is asked is answered by whoever is alive, so the other machine has looked at the run."""
        asked = await database.write(add_request, run_id, action, "ann", "a test", house.autopack.clock.now())

        async def is_answered() -> bool:
            return (await database.read(request_by_id, asked)).state == "done"

        await house._until(is_answered)

    with anyio.fail_after(LIMIT_S):
        async with running(environ, *SERVE) as other:
            await other.line()
            run_id = await house.start_unattended(a_plan(tmp_path / "project"))
            await asked_of_the_other(run_id, "pause")
            await asked_of_the_other(run_id, "resume")
            left = await house.run(run_id)
            async with house.supervising():
                run = await house.stopped(run_id)
            assert await other.end(signal.SIGTERM) == 0

    assert (left.state, left.current_phase_state) == ("running", "queued")
    assert run.state == "succeeded", run.why
    assert (tmp_path / "home") in Path(run.workspace).parents
    assert not list((tmp_path / "lap").glob("workspaces/*"))


def test_on_sqlite_there_is_no_worker_and_the_error_says_what_to_do(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AUTOPACK_HOME", str(tmp_path))
    monkeypatch.delenv("AUTOPACK_DATABASE_URL", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["worker"])

    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert "A worker needs PostgreSQL" in said
    assert "AUTOPACK_DATABASE_URL" in said
    assert not list(tmp_path.glob("worker-*"))
