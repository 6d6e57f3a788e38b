"""SQLite's log: folded before it is long, only while nobody can commit, and never at a reader's cost."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, text

from autopack_mcp.database import sqlite
from autopack_mcp.database.engine import Database
from autopack_mcp.database.migrate import open_database
from autopack_mcp.database.sqlite import LOG_LIMIT_BYTES
from autopack_mcp.database.tables import run_events
from autopack_mcp.errors import DatabaseBusy
from tests.database.strangers import held_write_lock
from tests.factories import NOON

MEGABYTE = 1024 * 1024
LIMIT_MB = LOG_LIMIT_BYTES // MEGABYTE


@pytest.fixture
def engine() -> str:
    """Everything here is about this one."""
    return "sqlite"


def write_megabyte(connection: Connection) -> None:
    connection.execute(insert(run_events).values(run_id="R1", occurred_at=NOON, kind="test", why="x" * MEGABYTE))


def log_mb(database: Database) -> float:
    return Path(f"{database.url.database}-wal").stat().st_size / MEGABYTE


def rows_in_file(database: Database) -> int:
    """How many rows stand in the file itself, its log left out."""
    copy = Path(f"{database.url.database}.copy")
    copy.write_bytes(Path(str(database.url.database)).read_bytes())
    with closing(sqlite3.connect(f"file:{copy}?immutable=1", uri=True)) as reader:
        return int(reader.execute("SELECT count(*) FROM run_events").fetchone()[0])


def test_the_log_does_not_grow_however_much_is_written(database: Database) -> None:
    sizes = []
    for _ in range(4 * LIMIT_MB):
        database.write_now(write_megabyte)
        sizes.append(log_mb(database))
    assert max(sizes) < LIMIT_MB + 3, "at most one transaction more, and what it touches besides"
    assert rows_in_file(database) >= 3 * LIMIT_MB


def test_the_log_does_not_grow_when_processes_take_turns(database: Database) -> None:
    other = open_database(str(database.url))
    sizes = []
    for number in range(4 * LIMIT_MB):
        (database, other)[number % 2].write_now(write_megabyte)
        sizes.append(log_mb(database))
    other.close_now()
    assert max(sizes) < LIMIT_MB + 3


def test_nothing_is_folded_before_the_log_is_long(database: Database) -> None:
    for _ in range(LIMIT_MB - 1):
        database.write_now(write_megabyte)
    assert rows_in_file(database) == 0


def test_sqlite_itself_folds_nothing(database: Database) -> None:
    def pages(connection: Connection) -> object:
        return connection.exec_driver_sql("PRAGMA wal_autocheckpoint").scalar_one()

    assert database.write_now(pages) == 0


def test_the_log_is_folded_only_while_nobody_else_can_commit(database: Database) -> None:
    for _ in range(LIMIT_MB):
        database.write_now(write_megabyte)
    impatient = open_database(str(database.url), busy_timeout_s=0.0)
    with held_write_lock(database), pytest.raises(DatabaseBusy):
        impatient.write_now(write_megabyte)
    assert rows_in_file(database) == 0
    impatient.write_now(write_megabyte)
    assert rows_in_file(database) == LIMIT_MB
    impatient.close_now()


def test_a_reader_keeps_what_it_sees_and_the_log_is_folded_after_it(database: Database) -> None:
    count = text("SELECT count(*) FROM run_events")

    def count_before_and_after(connection: Connection) -> tuple[int, int]:
        before = connection.execute(count).scalar_one()
        for _ in range(2 * LIMIT_MB):
            database.write_now(write_megabyte)
        return before, connection.execute(count).scalar_one()

    assert database.read_now(count_before_and_after) == (0, 0)
    for _ in range(2 * LIMIT_MB):
        database.write_now(write_megabyte)
    assert log_mb(database) < LIMIT_MB + 3


def test_the_last_to_close_leaves_no_log(database: Database) -> None:
    database.write_now(write_megabyte)
    database.close_now()
    assert not Path(f"{database.url.database}-wal").exists()
    assert rows_in_file(database) == 1


@pytest.mark.parametrize(
    "version, is_mended",
    [((3, 40, 1), False), ((3, 44, 5), False), ((3, 44, 6), True), ((3, 45, 0), False), ((3, 50, 6), False),
     ((3, 50, 7), True), ((3, 51, 2), False), ((3, 51, 3), True), ((3, 52, 0), True), ((4, 0, 0), True)],
)  # fmt: skip
def test_releases_of_sqlite_with_a_known_fault_are_named(
    engine: str, version: tuple[int, ...], is_mended: bool
) -> None:
    said = sqlite.known_fault(version)
    if is_mended:
        assert said is None
    else:
        assert said is not None
        assert said.startswith(f"SQLite {'.'.join(map(str, version))} can")


def test_a_database_says_what_is_wrong_with_its_engine(database: Database) -> None:
    assert database.known_fault == sqlite.known_fault(sqlite3.sqlite_version_info)
