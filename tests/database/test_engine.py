"""The database as its users see it: reading cannot write, and every complaint of the driver is one clear line."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from sqlalchemy import Connection, insert, text

from autopack_mcp.database.engine import Database
from autopack_mcp.database.migrate import open_database
from autopack_mcp.database.tables import run_events
from autopack_mcp.errors import DatabaseBusy, DatabaseError, DatabaseUnusable
from tests.factories import NOON

pytestmark = pytest.mark.anyio

on_sqlite = pytest.mark.parametrize("engine", ["sqlite"])

NOBODY = 65534  # The user id that owns nothing on Debian, Fedora and Alpine alike.


def note_event(connection: Connection, why: str) -> None:
    connection.execute(insert(run_events).values(run_id="R1", occurred_at=NOON, kind="test", why=why))


def event_count(connection: Connection) -> int:
    return connection.execute(text("SELECT count(*) FROM run_events")).scalar_one()


def pragma(connection: Connection, name: str) -> object:
    return connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """A folder nobody may write to; root, who may write anywhere, becomes nobody for as long as the test runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "there.db").touch(mode=0o444)
        folder.chmod(0o555)
        if os.geteuid() == 0:
            os.seteuid(NOBODY)
            yield folder
            os.seteuid(0)
        else:
            yield folder
            folder.chmod(0o755)


@on_sqlite
def test_a_commit_survives_the_loss_of_power_and_readers_do_not_wait_for_it(database: Database) -> None:
    assert database.write_now(pragma, "synchronous") == 2, "FULL: on disk before the answer"
    assert database.read_now(pragma, "journal_mode") == "wal"
    assert database.write_now(pragma, "foreign_keys") == 1


def test_reading_on_this_thread_cannot_write(database: Database) -> None:
    with pytest.raises(DatabaseUnusable, match="read-only"):
        database.read_now(note_event, "by a reader")
    assert database.read_now(event_count) == 0


async def test_reading_asynchronously_cannot_write(database: Database) -> None:
    with pytest.raises(DatabaseUnusable, match="read-only"):
        await database.read(note_event, "by a reader")
    assert await database.read(event_count) == 0


async def test_a_reader_sees_what_was_committed_before_it_asked(database: Database) -> None:
    with anyio.fail_after(5):
        await database.write(note_event, "first")
        assert await database.read(event_count) == 1
        database.write_now(note_event, "second")
        assert await database.read(event_count) == 2


@on_sqlite
def test_a_kept_connection_sees_the_last_commit_each_time_and_cannot_write(database: Database) -> None:
    seen = [database.read_kept(event_count)]
    for why in ("one", "two"):
        database.write_now(note_event, why)
        seen.append(database.read_kept(event_count))
    assert seen == [0, 1, 2]
    with pytest.raises(DatabaseError, match="read-only"):
        database.read_kept(note_event, "three")
    assert database.read_kept(event_count) == 2


@on_sqlite
def test_a_kept_connection_that_fails_is_opened_anew(database: Database) -> None:
    held: list[Connection] = []
    database.read_kept(held.append)
    with pytest.raises(DatabaseError):
        database.read_kept(lambda connection: connection.exec_driver_sql("SELECT nonsense"))
    assert held[0].closed
    assert database.read_kept(event_count) == 0


@on_sqlite
def test_a_kept_connection_is_in_no_transaction_between_two_questions(database: Database) -> None:
    """Else the log could never be folded into the file while it is open."""
    database.read_kept(event_count)
    database.write_now(note_event, "one")
    assert database.url.database is not None
    other = sqlite3.connect(database.url.database)
    busy, *_ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    other.close()
    assert busy == 0


def test_a_reader_sees_one_moment_while_others_write(database: Database) -> None:
    def count_twice(connection: Connection) -> tuple[int, int]:
        before = event_count(connection)
        database.write_now(note_event, "meanwhile")
        return before, event_count(connection)

    assert database.read_now(count_twice) == (0, 0)
    assert database.read_now(event_count) == 1


@on_sqlite
def test_a_full_disk_refuses_the_write_and_keeps_what_was_there(database: Database) -> None:
    database.write_now(note_event, "before")
    pages = database.write_now(pragma, "page_count")
    database.write_now(lambda connection: pragma(connection, f"max_page_count = {pages}"))

    with pytest.raises(DatabaseUnusable, match="The disk is full") as caught:
        database.write_now(note_event, "far too long " * 10_000)
    assert len(str(caught.value).splitlines()) == 1
    assert database.read_now(event_count) == 1
    database.write_now(note_event, "short")
    assert database.read_now(event_count) == 2


@on_sqlite
def test_a_full_disk_refuses_one_of_a_batch_and_keeps_its_neighbours(database: Database) -> None:
    pages = database.write_now(pragma, "page_count")
    database.write_now(lambda connection: pragma(connection, f"max_page_count = {pages}"))

    async def write_three() -> list[object]:
        whys = ("before", "far too long " * 10_000, "after")
        return await asyncio.gather(*(database.write(note_event, why) for why in whys), return_exceptions=True)

    answers = anyio.run(write_three)
    assert [type(answer) for answer in answers] == [type(None), DatabaseUnusable, type(None)]
    assert database.read_now(event_count) == 2


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "letter.db"
    file.write_text("Dear reader, this is a letter and not a database. " * 50)
    before = file.read_bytes()
    with pytest.raises(DatabaseUnusable, match="not a database"):
        open_database(f"sqlite:///{file}")
    assert file.read_bytes() == before


@on_sqlite
def test_a_damaged_file_is_refused(database: Database) -> None:
    file = Path(str(database.url.database))
    database.write_now(note_event, "before")
    database.close_now()
    body = file.read_bytes()
    file.write_bytes(body[:100] + b"\xff" * (len(body) - 100))
    with pytest.raises(DatabaseUnusable, match="damaged"):
        open_database(f"sqlite:///{file}")


def test_a_database_that_cannot_be_created_in_a_read_only_folder_says_so(read_only_folder: Path) -> None:
    with pytest.raises(DatabaseUnusable, match="cannot be opened") as caught:
        open_database(f"sqlite:///{read_only_folder}/new.db")
    assert "AUTOPACK_HOME" in caught.value.hint


def test_a_read_only_file_cannot_be_migrated_and_says_so(read_only_folder: Path) -> None:
    with pytest.raises(DatabaseUnusable, match=r"read-only|cannot be opened"):
        open_database(f"sqlite:///{read_only_folder}/there.db")


def test_a_folder_that_is_missing_is_an_error_that_names_what_to_mend(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnusable, match="cannot be opened"):
        open_database(f"sqlite:///{tmp_path}/nowhere/autopack.db")


def test_a_database_that_is_locked_while_it_should_be_created_is_busy(tmp_path: Path) -> None:
    holder = sqlite3.connect(tmp_path / "new.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(DatabaseBusy):
            open_database(f"sqlite:///{tmp_path}/new.db", busy_timeout_s=0.05)
    finally:
        holder.close()


@pytest.mark.parametrize(
    "url",
    ["sqlite://", "sqlite:///:memory:", "mysql://somebody@somewhere/autopack", "no address at all",
     "postgresql+asyncpg://somebody@somewhere/autopack"],
    ids=["nameless", "in memory", "another engine", "not an address", "another driver"],
)  # fmt: skip
def test_an_address_we_cannot_serve_is_refused_with_the_ones_we_can(url: str) -> None:
    with pytest.raises(DatabaseUnusable) as caught:
        open_database(url)
    assert "sqlite:///FILE" in caught.value.hint


@pytest.mark.parametrize(
    "url",
    ["postgresql//me:secret@host/db", "postgresql://me:secret", "postgresql://me:sec:ret@host:secret/db",
     "postgresql://me:p@secret@host/db"],
    ids=["no scheme", "no host", "no port", "an @ in it"],
)  # fmt: skip
def test_an_address_is_not_repeated_in_the_error_because_it_may_hold_a_password(url: str) -> None:
    with pytest.raises(DatabaseError) as caught:
        open_database(url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))
