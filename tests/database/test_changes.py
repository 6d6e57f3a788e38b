"""Noticing commits: by this process or another one, soon, and never without one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import anyio
import psycopg
import pytest
from sqlalchemy import Connection, insert

from autopack_mcp.database.changes import LOOK_EVERY_ELSEWHERE_S, ChangeWatch
from autopack_mcp.database.engine import Database
from autopack_mcp.database.postgres import CHANNEL
from autopack_mcp.database.tables import run_events
from tests.database.strangers import commit_something
from tests.factories import NOON
from tests.postgres import PostgresServer

pytestmark = pytest.mark.anyio

on_sqlite = pytest.mark.parametrize("engine", ["sqlite"])
on_postgres = pytest.mark.parametrize("engine", ["postgresql"])

LONG_S = 60  # Nobody waits for so long here: a test that does has failed long before.


def note_event(connection: Connection) -> None:
    connection.execute(insert(run_events).values(run_id="R1", occurred_at=NOON, kind="test", why="because"))


def write_and_fail(connection: Connection) -> None:
    note_event(connection)
    raise RuntimeError


@pytest.fixture
def watch(database: Database) -> Iterator[ChangeWatch]:
    opened = ChangeWatch(database)
    yield opened
    opened.close()


async def seen_so_far(watch: ChangeWatch) -> int | None:
    """The version now; where there are none, the watch listens from here on."""
    version = watch.version()
    if version is None:
        await watch.wait(None, LONG_S)
    return version


@on_sqlite
def test_the_version_moves_with_every_commit_and_only_then(database: Database, watch: ChangeWatch) -> None:
    before = watch.version()
    assert watch.version() == before
    database.write_now(note_event)
    after = watch.version()
    assert after != before
    assert watch.version() == after


@on_sqlite
def test_the_version_moves_when_another_program_commits(database: Database, watch: ChangeWatch) -> None:
    before = watch.version()
    commit_something(database)
    assert watch.version() != before


def test_the_version_stays_when_a_write_is_undone(database: Database, watch: ChangeWatch) -> None:
    before = watch.version()
    with pytest.raises(RuntimeError):
        database.write_now(write_and_fail)
    assert watch.version() == before


@on_postgres
def test_where_commits_have_no_number_nobody_is_given_one(database: Database, watch: ChangeWatch) -> None:
    database.write_now(note_event)
    assert watch.version() is None


async def test_waiting_ends_with_the_next_commit(database: Database, watch: ChangeWatch) -> None:
    with anyio.fail_after(5):
        seen = await seen_so_far(watch)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(database.write, note_event)
            assert await watch.wait(seen, LONG_S) == watch.version()


async def test_waiting_ends_when_another_program_commits(database: Database, watch: ChangeWatch) -> None:
    with anyio.fail_after(5):
        seen = await seen_so_far(watch)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(asyncio.to_thread, commit_something, database)
            await watch.wait(seen, LONG_S)


async def test_waiting_for_what_already_happened_returns_at_once(database: Database, watch: ChangeWatch) -> None:
    with anyio.fail_after(5):
        seen = await seen_so_far(watch)
        database.write_now(note_event)
        await watch.wait(seen, LONG_S)


async def test_a_commit_before_the_first_wait_is_not_slept_through(database: Database, watch: ChangeWatch) -> None:
    with anyio.fail_after(5):
        seen = watch.version()
        database.write_now(note_event)
        await watch.wait(seen, LONG_S)


async def test_waiting_ends_when_somebody_says_stop(watch: ChangeWatch) -> None:
    with anyio.fail_after(5):
        seen, stop = await seen_so_far(watch), asyncio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch.wait, seen, LONG_S, stop)
            stop.set()
        assert await watch.wait(seen, LONG_S, stop) == seen, "and does not begin again"


async def test_waiting_ends_at_its_timeout_when_nothing_happens(watch: ChangeWatch) -> None:
    with anyio.fail_after(5):
        seen = await seen_so_far(watch)
        assert await watch.wait(seen, timeout_s=0.01) == seen


def test_a_thread_may_wait_as_well(database: Database, watch: ChangeWatch) -> None:
    seen = watch.version()
    assert not watch.wait_now(seen, timeout_s=0.01)
    database.write_now(note_event)
    assert watch.wait_now(seen, timeout_s=0.01) is database.is_sqlite


@on_postgres
def test_a_write_that_changed_nothing_or_was_undone_wakes_nobody(database: Database) -> None:
    with psycopg.connect(**database.connect_arguments(), autocommit=True) as stranger:
        stranger.execute(f"LISTEN {CHANNEL}")
        database.write_now(lambda connection: None)
        with pytest.raises(RuntimeError):
            database.write_now(write_and_fail)
        database.write_now(note_event)
        stranger.execute(f"NOTIFY {CHANNEL}, 'the end'")
        told = [notice.payload for notice in stranger.notifies(timeout=5, stop_after=2)]
    assert told == ["", "the end"]


@on_postgres
async def test_a_server_that_was_restarted_is_heard_again(
    database: Database, watch: ChangeWatch, postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with anyio.fail_after(20):
        await seen_so_far(watch)
        await asyncio.to_thread(postgres.stop)
        try:
            await watch.wait(None, LONG_S)
            await watch.wait(None, LONG_S)  # It only looks now, as often as one does without notices.
        finally:
            await asyncio.to_thread(postgres.start)
        await seen_so_far(watch)
        await database.write(note_event)
        await watch.wait(None, LONG_S)
    said = [record.getMessage() for record in caplog.records if record.name.endswith("listening")]
    lost = f"are not heard (the server cannot be reached); looking every {LOOK_EVERY_ELSEWHERE_S} s"
    assert said == [f"changes of the database {lost}", "changes of the database are heard again"]


@on_postgres
async def test_a_watch_that_cannot_listen_stops_when_it_is_told(
    database: Database, watch: ChangeWatch, postgres: PostgresServer
) -> None:
    stop = asyncio.Event()
    postgres.stop()
    try:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch.wait, None, LONG_S, stop)
                stop.set()
    finally:
        postgres.start()
