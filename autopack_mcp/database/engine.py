"""The database as the rest of the program sees it: ``read`` a question, ``write`` an operation.

A question or an operation is a plain function whose first parameter is a SQLAlchemy Connection, so the same function
serves the async server (aiosqlite, psycopg), the command line and the writer. It owns engines, pragmas and the
translation of driver errors; it knows no table.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from autopack_mcp.database.writer import Writer
from autopack_mcp.errors import DatabaseBusy, DatabaseError, DatabaseUnusable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

P = ParamSpec("P")
T = TypeVar("T")

BUSY_TIMEOUT_S = 10.0  # Longer than any transaction of ours; a lock held for longer is somebody's mistake.
WAL_RETRY_S = 0.01  # How often a new file is asked again for its journal mode while another process creates it.
_BUSY = ("database is locked", "database table is locked", "lock timeout")
_MEND_FOLDER = "Nothing was lost; mend the folder that AUTOPACK_HOME names."
_REPLACE_FILE = "Nothing was changed; restore a backup, move the file away, or point AUTOPACK_HOME at another folder."
_UNUSABLE = {
    "readonly database": ("The database is read-only.", _MEND_FOLDER),
    "disk is full": ("The disk is full.", _MEND_FOLDER),
    "disk i/o error": ("The disk reports an error.", _MEND_FOLDER),
    "unable to open database file": ("The database file cannot be opened.", _MEND_FOLDER),
    "file is not a database": ("The file is not a database.", _REPLACE_FILE),
    "disk image is malformed": ("The database file is damaged.", _REPLACE_FILE),
}


class Database:
    """One database, shared by everything in this process. Open it with ``open_database`` and close it once.

    ``busy_timeout_s`` is how long another process's lock is waited for before ``DatabaseBusy``.
    """

    def __init__(self, url: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.url: URL = _checked_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._busy_timeout_s = busy_timeout_s
        self._reader = self._engine(writes=False)
        self._async_reader: AsyncEngine | None = None
        self._writer = Writer(self._engine(writes=True), translate=partial(translated, waited_s=busy_timeout_s))

    async def read(self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Answer a question without blocking the event loop; the connection cannot write."""
        with self._translation():
            async with self._async_engine().connect() as connection:
                return await connection.run_sync(query, *args, **kwargs)

    def read_now(self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Answer a question on this thread, for callers without an event loop."""
        with self._translation(), self._reader.connect() as connection:
            return query(connection, *args, **kwargs)

    async def write(self, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``operation`` in the next transaction and return after its commit.

        The operation may run more than once (a neighbour in the batch failed) and must therefore do nothing but talk to
        the connection. If it raises, nothing of it is written. Cancelling the caller does not stop the write.
        """
        future = self._writer.submit(lambda connection: operation(connection, *args, **kwargs))
        return await asyncio.wrap_future(future)

    def write_now(self, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``write`` for callers without an event loop."""
        return self._writer.submit(lambda connection: operation(connection, *args, **kwargs)).result()

    async def close(self) -> None:
        """Finish what is queued and give every connection back."""
        await asyncio.to_thread(self._writer.close)
        if self._async_reader is not None:
            await self._async_reader.dispose()
        self._reader.dispose()

    def close_now(self) -> None:
        """``close`` for callers that never called ``read``."""
        self._writer.close()
        self._reader.dispose()

    def _engine(self, *, writes: bool) -> Engine:
        engine = create_engine(self.url, poolclass=None if writes else NullPool, connect_args=self._connect_args())
        if self.is_sqlite:
            _set_pragmas(engine, writes=writes, busy_timeout_s=self._busy_timeout_s)
        return engine

    def _async_engine(self) -> AsyncEngine:
        if self._async_reader is None:
            # Only servers read asynchronously; the command line must not pay for this import (docs/architecture.md).
            from sqlalchemy.ext.asyncio import create_async_engine

            url = self.url.set(drivername="sqlite+aiosqlite") if self.is_sqlite else self.url
            self._async_reader = create_async_engine(url, connect_args=self._connect_args())
            if self.is_sqlite:
                _set_pragmas(self._async_reader.sync_engine, writes=False, busy_timeout_s=self._busy_timeout_s)
        return self._async_reader

    def _connect_args(self) -> dict[str, object]:
        return {"timeout": self._busy_timeout_s} if self.is_sqlite else {}

    @contextmanager
    def _translation(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise translated(error, waited_s=self._busy_timeout_s) from error


def _checked_url(url: str) -> URL:
    hint = "Use sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME."
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        # The text may hold a password, so it is not repeated.
        raise DatabaseUnusable("The address of the database cannot be read.", hint=hint) from error
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise DatabaseUnusable(f"Databases of kind {parsed.get_backend_name()!r} are not supported.", hint=hint)
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        # Each connection would see an empty database of its own: what the writer writes, no reader would find.
        raise DatabaseUnusable("The database must be a file; it cannot live in memory.", hint=hint)
    return parsed


def _set_pragmas(engine: Engine, *, writes: bool, busy_timeout_s: float) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, _record: object) -> None:
        # The driver's own implicit BEGIN comes too late for BEGIN IMMEDIATE; from here on we begin ourselves.
        connection.isolation_level = None
        cursor = connection.cursor()
        if writes:
            _use_wal(cursor, busy_timeout_s)
            # FULL, not NORMAL: a reservation must be on disk before the request leaves (docs/accounting.md).
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.execute("PRAGMA foreign_keys = ON")
        else:
            cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        # IMMEDIATE takes the write lock up front, so a read inside the transaction can never be stale at its write.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _use_wal(cursor: sqlite3.Cursor, busy_timeout_s: float) -> None:
    # SQLite does not wait here: of two processes that create one file at once, the second is told "locked" immediately.
    deadline = time.monotonic() + busy_timeout_s
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not _is_busy(str(error)) or time.monotonic() >= deadline:
                raise
            time.sleep(WAL_RETRY_S)
        else:
            return


def translated(error: DBAPIError, *, waited_s: float = BUSY_TIMEOUT_S) -> DatabaseError:
    """The driver's complaint as one of ours, in one clear line; ``waited_s`` is how long a lock was waited for."""
    text = str(error.orig)
    if _is_busy(text):
        return DatabaseBusy(waited_s)
    for sign, (sentence, hint) in _UNUSABLE.items():
        if sign in text.lower():
            return DatabaseUnusable(sentence, hint=hint)
    return DatabaseError(f"The database refused: {text.partition(chr(10))[0]}")


def _is_busy(text: str) -> bool:
    return any(sign in text for sign in _BUSY)
