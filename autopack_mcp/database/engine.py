"""The database as the rest of the program sees it: ``read`` a question, ``write`` an operation.

A question or an operation is a plain function whose first parameter is a SQLAlchemy Connection, so the same function
serves the async server (aiosqlite, psycopg), the command line and the writer. It owns engines, pragmas and the
translation of driver errors; it knows no table.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError

from autopack_mcp.database.writer import Writer
from autopack_mcp.errors import DatabaseBusy, DatabaseError, DatabaseUnusable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

P = ParamSpec("P")
T = TypeVar("T")

BUSY_TIMEOUT_S = 10.0  # Longer than any transaction of ours; a lock held for longer is somebody's mistake.
_UNUSABLE = {
    "readonly database": "The database is read-only.",
    "disk is full": "The disk is full.",
    "disk i/o error": "The disk reports an error.",
    "unable to open database file": "The database file cannot be opened.",
    "file is not a database": "The file is not a database.",
}


class Database:
    """One database, shared by everything in this process. Open it with ``open_database`` and close it once."""

    def __init__(self, url: str) -> None:
        self.url: URL = _checked_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._reader = self._engine(writes=False)
        self._async_reader: AsyncEngine | None = None
        self._writer = Writer(self._engine(writes=True), translate=translated)

    async def read(self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Answer a question without blocking the event loop; the connection cannot write."""
        with _translation():
            async with self._async_engine().connect() as connection:
                return await connection.run_sync(query, *args, **kwargs)

    def read_now(self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Answer a question on this thread, for callers without an event loop."""
        with _translation(), self._reader.connect() as connection:
            return query(connection, *args, **kwargs)

    async def write(self, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``operation`` in the next transaction and return after its commit.

        The operation may run more than once (a neighbour in the batch failed) and must therefore do nothing but talk to
        the connection. If it raises, nothing of it is written. Cancelling the caller does not stop the write.
        """
        future = self._writer.submit(lambda connection: operation(connection, *args, **kwargs))
        return await asyncio.shield(asyncio.wrap_future(future))

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
            _set_pragmas(engine, writes=writes)
        return engine

    def _async_engine(self) -> AsyncEngine:
        if self._async_reader is None:
            # Only servers read asynchronously; the command line must not pay for this import (docs/architecture.md).
            from sqlalchemy.ext.asyncio import create_async_engine

            url = self.url.set(drivername="sqlite+aiosqlite") if self.is_sqlite else self.url
            self._async_reader = create_async_engine(url, connect_args=self._connect_args())
            if self.is_sqlite:
                _set_pragmas(self._async_reader.sync_engine, writes=False)
        return self._async_reader

    def _connect_args(self) -> dict[str, object]:
        return {"timeout": BUSY_TIMEOUT_S} if self.is_sqlite else {}


def _checked_url(url: str) -> URL:
    parsed = make_url(url)
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise DatabaseUnusable(
            f"Databases of kind {parsed.get_backend_name()!r} are not supported.",
            hint="Use sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME.",
        )
    return parsed


def _set_pragmas(engine: Engine, *, writes: bool) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, _record: object) -> None:
        # The driver's own implicit BEGIN comes too late for BEGIN IMMEDIATE; from here on we begin ourselves.
        connection.isolation_level = None
        cursor = connection.cursor()
        if writes:
            cursor.execute("PRAGMA journal_mode = WAL")
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


@contextmanager
def _translation() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise translated(error) from error


def translated(error: DBAPIError) -> DatabaseError:
    """The driver's complaint as one of ours, in one clear line."""
    text = str(error.orig)
    if "database is locked" in text or "lock timeout" in text:
        return DatabaseBusy(BUSY_TIMEOUT_S)
    for sign, sentence in _UNUSABLE.items():
        if sign in text.lower():
            return DatabaseUnusable(sentence, hint="Nothing was lost; mend the folder that AUTOPACK_HOME names.")
    return DatabaseError(f"The database refused: {text.splitlines()[0]}")
