"""Noticing commits: by this process or another one, soon, and never without one."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from sqlalchemy import Connection, insert

from autopack_mcp.database.changes import ChangeWatch
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import run_events
from tests.factories import NOON

pytestmark = pytest.mark.anyio


def note_event(connection: Connection) -> None:
    connection.execute(insert(run_events).values(run_id="R1", occurred_at=NOON, kind="test", why="because"))


@pytest.fixture
def watch(database: Database) -> Iterator[ChangeWatch]:
    opened = ChangeWatch(database)
    yield opened
    opened.close()


def test_the_version_moves_with_every_commit_and_only_then(database: Database, watch: ChangeWatch) -> None:
    before = watch.version()
    assert watch.version() == before
    database.write_now(note_event)
    after = watch.version()
    assert after != before
    assert watch.version() == after


def test_the_version_moves_when_another_program_commits(tmp_path: Path, watch: ChangeWatch) -> None:
    before = watch.version()
    stranger = sqlite3.connect(tmp_path / "autopack.db")
    stranger.execute("CREATE TABLE a_strangers_table (id INTEGER)")
    stranger.commit()
    stranger.close()
    assert watch.version() != before


def test_the_version_stays_when_a_write_is_undone(database: Database, watch: ChangeWatch) -> None:
    def write_and_fail(connection: Connection) -> None:
        note_event(connection)
        raise RuntimeError

    before = watch.version()
    with pytest.raises(RuntimeError):
        database.write_now(write_and_fail)
    assert watch.version() == before


async def test_waiting_ends_with_the_next_commit(database: Database, watch: ChangeWatch) -> None:
    seen = watch.version()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(database.write, note_event)
            noticed = await watch.wait(seen, timeout_s=60)
    assert noticed == watch.version() != seen


async def test_waiting_for_what_already_happened_returns_at_once(database: Database, watch: ChangeWatch) -> None:
    seen = watch.version()
    database.write_now(note_event)
    with anyio.fail_after(5):
        assert await watch.wait(seen, timeout_s=60) != seen


async def test_waiting_ends_when_somebody_says_stop(watch: ChangeWatch) -> None:
    seen, stop = watch.version(), asyncio.Event()
    stop.set()
    with anyio.fail_after(5):
        assert await watch.wait(seen, 60, stop) == seen


async def test_waiting_ends_at_its_timeout_when_nothing_happens(watch: ChangeWatch) -> None:
    seen = watch.version()
    with anyio.fail_after(5):
        assert await watch.wait(seen, timeout_s=0) == seen
