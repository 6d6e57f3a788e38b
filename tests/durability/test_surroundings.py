"""What happens around a run: repositories that change, disks that are full, databases that are busy or gone.

The run goes on by itself, or stops where a person finds out what to do; then it goes on.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from sqlalchemy import Engine, event

from autopack_mcp import app
from autopack_mcp.clock import ManualClock
from autopack_mcp.database.postgres import WRITE_LOCK_KEY
from autopack_mcp.providers.pacing import RetryPolicy
from autopack_mcp.runs.store import RUN_LEASE_S
from autopack_mcp.summary.run import RunSummary
from benchmarks.billing import billing_upstream
from tests.conftest import require_in_ci
from tests.durability.picture import booked_calls
from tests.durability.scene import LIMIT_S, PATIENT, enqueue, home_on
from tests.factories import NOON
from tests.ledger_truth import assert_ledger_adds_up
from tests.postgres import PostgresServer, running_postgres, why_it_cannot_run
from tests.projects import a_phase, a_plan, git, make_repository
from tests.runs.house import ANN, House, open_house
from tests.runs.watched import Moment, Operation, WatchedDatabase, name_of, watching

pytestmark = [pytest.mark.anyio, PATIENT]

BUSY_S = 0.2  # How long a lock is waited for here.


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "project")


@pytest.fixture
async def house(tmp_path: Path, empty_database: Path | str) -> AsyncIterator[House]:
    async with open_house(tmp_path, empty_database, clock=ManualClock(NOON)) as opened:
        yield opened


@pytest.fixture
async def run_id(house: House, repository: Path) -> str:
    """A run of two phases in the queue."""
    return await house.start_unattended(a_plan(repository, [a_phase("a")], [a_phase("b")]))


def _url(house: House) -> str:
    return house.autopack.database.url.render_as_string(hide_password=False)


def once_after(at: str, act: Callable[[], object]) -> Moment:
    """What is to happen once, right after a write of this name."""
    left = [act]

    async def after(operation: Operation, arguments: tuple[Any, ...]) -> None:
        if left and name_of(operation, arguments) == at:
            left.pop()()

    return after


@asynccontextmanager
async def stepping_in(house: House, at: str, act: Callable[[], object]) -> AsyncIterator[None]:
    """A supervisor; ``act`` happens once, right after a write of this name."""
    async with watching(_url(house), after=once_after(at, act)) as watched, house.supervising(database=watched):
        yield


def assert_succeeded(run: RunSummary, repository: Path) -> None:
    """Both phases at the first attempt, one commit each on the run's branch."""
    assert run.state == "succeeded"
    assert [(phase.state, phase.attempt) for phase in run.phases] == [("succeeded", 1)] * 2
    assert git(repository, "log", "--format=%s", f"main..{run.branch}").splitlines() == ["Phase b", "Phase a"]


# ── the person's repository ──────────────────────────────────────────────────────────────────────────────────────────


async def test_a_run_waits_for_a_repository_that_was_moved_away_and_goes_on_when_it_is_back(
    house: House, run_id: str, repository: Path, tmp_path: Path
) -> None:
    async with stepping_in(house, "b approved", lambda: repository.rename(tmp_path / "elsewhere")):
        stopped = await house.stopped(run_id)
        (tmp_path / "elsewhere").rename(repository)
        await house.control.request(run_id, "resume", ANN)
        run = await house.stopped(run_id)

    assert stopped.state == "needs_attention"
    assert f"The repository {str(repository)!r} is not there" in stopped.why
    assert_succeeded(run, repository)


async def test_a_run_goes_on_when_the_branch_it_began_from_is_rewritten_and_swept(
    house: House, run_id: str, repository: Path
) -> None:
    def force_push() -> None:
        git(repository, "commit", "--quiet", "--amend", "--message=another start")
        git(repository, "reflog", "expire", "--expire=now", "--all")
        git(repository, "gc", "--quiet", "--prune=now")

    base = git(repository, "rev-parse", "main")
    async with stepping_in(house, "b begun", force_push):
        run = await house.stopped(run_id)

    assert run.state == "succeeded"
    assert git(repository, "log", "--format=%s", f"{base}..{run.branch}").splitlines() == ["Phase b", "Phase a"]


async def test_a_branch_that_was_deleted_comes_back_whole_with_the_next_commit(
    house: House, run_id: str, repository: Path
) -> None:
    async with stepping_in(house, "b begun", lambda: git(repository, "branch", "-D", f"autopack/{run_id}")):
        run = await house.stopped(run_id)

    assert_succeeded(run, repository)


async def test_a_workspace_that_was_deleted_is_made_again(house: House, run_id: str, repository: Path) -> None:
    workspace = house.autopack.home.workspaces / run_id
    async with stepping_in(house, "b begun", lambda: shutil.rmtree(workspace)):
        stopped = await house.stopped(run_id)
        await house.control.request(run_id, "resume", ANN)
        run = await house.stopped(run_id)

    assert stopped.state == "needs_attention"
    assert f"The workspace {str(workspace)!r} is gone" in stopped.why
    assert_succeeded(run, repository)


# ── disks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def git_that_writes_little(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """While this is open, git can write no file of more than a few kilobytes, as on a disk that is nearly full."""
    real = shutil.which("git")
    script = folder / "git"
    script.write_text(f"#!/bin/sh\ntrap '' XFSZ\nulimit -f 8\nexec '{real}' \"$@\"\n")
    script.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        yield


@pytest.mark.parametrize("engine", ["sqlite"])
async def test_a_run_waits_for_room_on_the_disk_of_its_workspace_and_goes_on(
    house: House, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing that could be packed small.
    noise = os.urandom(12_000).hex()
    phase = a_phase("a", rehearsal={"files": {"a.txt": noise}})
    run_id = await house.start_unattended(a_plan(repository, [phase]))
    (tmp_path / "tools").mkdir()
    async with house.supervising():
        with git_that_writes_little(tmp_path / "tools", monkeypatch):
            stopped = await house.stopped(run_id)
        await house.control.request(run_id, "resume", ANN)
        run = await house.stopped(run_id)

    assert stopped.state == "needs_attention"
    assert "File too large" in stopped.why
    assert (run.state, run.phases[0].attempt) == ("succeeded", 1)
    assert git(repository, "show", f"{run.branch}:a.txt") == noise


class SmallDatabase(WatchedDatabase):
    """A SQLite database whose file may not grow by more than so many pages, until it is ``relieved``."""

    def relieve(self) -> None:
        """There is room again."""
        self._may_grow = True

    def _engine(self, *, writes: bool) -> Engine:
        engine = super()._engine(writes=writes)
        if writes:
            self._may_grow = False

            @event.listens_for(engine, "begin")
            def on_begin(connection: Any) -> None:
                pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
                limit = 1_000_000 if self._may_grow else pages
                connection.exec_driver_sql(f"PRAGMA max_page_count = {limit}").close()

        return engine


@pytest.mark.parametrize("engine", ["sqlite"])
async def test_a_run_goes_on_by_itself_when_the_disk_of_its_database_has_room_again(
    house: House, run_id: str, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = SmallDatabase(_url(house))
    async with house.supervising(database=small):
        await _until(lambda: "The disk is full" in caplog.text)
        stood = await house.run(run_id)
        small.relieve()
        _let_the_leases_end(house)
        run = await house.stopped(run_id)
    await small.close()

    assert stood.state == "running"
    assert_succeeded(run, repository)
    house.autopack.database.read_now(assert_ledger_adds_up)


# ── databases ────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def write_lock_of_somebody_else(house: House) -> Iterator[None]:
    """Another program holds the lock that every writer needs."""
    database = house.autopack.database
    with ExitStack() as stack:
        if database.is_sqlite:
            holder = stack.enter_context(closing(sqlite3.connect(str(database.url.database), isolation_level=None)))
            holder.execute("BEGIN IMMEDIATE")
        else:
            arguments = database.connect_arguments()
            other = stack.enter_context(psycopg.connect(**arguments, autocommit=True))
            other.execute("SELECT pg_advisory_lock(%s)", (WRITE_LOCK_KEY,))
        yield


async def test_a_run_goes_on_by_itself_when_somebody_gives_the_lock_of_its_database_back(
    house: House, run_id: str, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    locked = ExitStack()
    lock = once_after("b begun", lambda: locked.enter_context(write_lock_of_somebody_else(house)))
    watched = WatchedDatabase(_url(house), busy_timeout_s=BUSY_S, after=lock)
    async with house.supervising(database=watched):
        await _until(lambda: f"run {run_id} lost its database" in caplog.text)
        stood = await house.run(run_id)
        locked.close()
        _let_the_leases_end(house)
        run = await house.stopped(run_id)
    await watched.close()

    assert (stood.state, stood.phases[1].state) == ("running", "building")
    assert_succeeded(run, repository)
    house.autopack.database.read_now(assert_ledger_adds_up)


def _let_the_leases_end(house: House) -> None:
    clock = house.autopack.clock
    assert isinstance(clock, ManualClock)
    clock.advance(RUN_LEASE_S + 1)


async def _until(is_so: Callable[[], bool]) -> None:
    """Return when something was logged: nothing else tells of it."""
    with anyio.fail_after(LIMIT_S):
        while not is_so():  # noqa: ASYNC110
            await anyio.sleep(0.01)


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server that a test may stop."""
    if reason := why_it_cannot_run():
        require_in_ci(reason)
    with running_postgres() as server:
        yield server


async def test_a_run_goes_on_by_itself_when_the_database_server_comes_back(
    own_server: PostgresServer, tmp_path: Path, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = own_server.url(own_server.create())
    async with open_house(tmp_path, url, clock=ManualClock(NOON)) as house:
        run_id = await house.start_unattended(a_plan(repository, [a_phase("a")], [a_phase("b")]))
        async with stepping_in(house, "b begun", own_server.stop):
            await _until(lambda: f"run {run_id} lost its database" in caplog.text)
            own_server.start()
            _let_the_leases_end(house)
            run = await house.stopped(run_id)
        house.autopack.database.read_now(assert_ledger_adds_up)

    assert_succeeded(run, repository)


# ── a provider that hangs ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("engine", ["sqlite"])
async def test_a_provider_that_never_answers_costs_attempts_and_then_a_person_is_asked(
    database_url: str, tmp_path: Path, repository: Path
) -> None:
    with billing_upstream(tmp_path / "billed.txt", delay_s=3600.0) as upstream:
        house = home_on(tmp_path, "home", database_url, upstream)
        run_id = await enqueue(house.autopack, tmp_path / "plan.yaml", a_plan(repository, [a_phase("a")]))
        once = RetryPolicy(tries_limit=1, first_delay_s=0.01, delay_limit_s=0.01)
        async with house.supervising(app.call_door(house.autopack, retry=once, call_timeout_s=0.5)):
            run = await house.stopped(run_id)
        calls = house.autopack.database.read_now(booked_calls)
        await house.autopack.database.close()
        billed = upstream.billed()

    assert (run.state, run.phases[0].state, run.phases[0].attempt) == ("needs_attention", "failed", 3)
    assert "0.5 s" in run.why
    # Each of them may have been paid for, so each is charged; a busy machine may give one up before it has arrived.
    assert len(billed) <= calls.total() == 3
    assert all(call.charged_tokens > 0 for call in calls)
