"""The database as the rest of the program sees it: ``read`` a question, ``write`` an operation.

A question or an operation is a plain function whose first parameter is a SQLAlchemy Connection, so the same function
serves the async server (aiosqlite, psycopg), the command line and the writer. It owns engines and the translation of
driver errors; what only one engine has stands in ``sqlite`` and ``postgres``; it knows no table.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from autopack_mcp.database import postgres, sqlite
from autopack_mcp.database.batch import foresight_of
from autopack_mcp.database.writer import Writer
from autopack_mcp.errors import DatabaseError, DatabaseUnusable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

P = ParamSpec("P")
T = TypeVar("T")

BUSY_TIMEOUT_S = 10.0  # Longer than any transaction of ours; a lock held for longer is somebody's mistake.


class Database:
    """One database, shared by everything in this process. Open it with ``open_database`` and close it once.

    ``busy_timeout_s`` is how long another process's lock is waited for before ``DatabaseBusy``.
    """

    def __init__(self, url: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.url: URL = _checked_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._busy_timeout_s = busy_timeout_s
        self._reader = self._engine(writes=False)
        self._kept: Connection | None = None
        self._async_reader: AsyncEngine | None = None
        self._writer = Writer(
            self._engine(writes=True),
            translate=partial(translated, waited_s=busy_timeout_s),
            keeps_connection=self.is_sqlite,
        )

    async def read(self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Answer a question without blocking the event loop; the connection cannot write."""
        with self._translation():
            async with self._async_engine().connect() as connection:
                return await connection.run_sync(query, *args, **kwargs)

    def read_now(self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Answer a question on this thread, for callers without an event loop."""
        with self._translation(), self._reader.connect() as connection:
            return query(connection, *args, **kwargs)

    def stream_now(
        self, query: Callable[Concatenate[Connection, P], Iterator[T]], *args: P.args, **kwargs: P.kwargs
    ) -> Generator[T, None, None]:
        """What a question yields, read while it is taken, all of it as of one moment.

        Nothing is read before the first is taken. The connection is given back at the end, or when the iterator is
        closed; the steps may be taken on different threads, one after the other.
        """
        with self._translation(), self._reader.connect() as connection:
            yield from query(connection, *args, **kwargs)

    async def write(self, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``operation`` in the next transaction and return after its commit.

        The operation may run more than once (a neighbour in the batch failed) and must therefore do nothing but talk to
        the connection. If it raises, nothing of it is written. Cancelling the caller does not stop the write.
        """
        foresight = foresight_of(operation)
        return await self._writer.submit_from_loop(
            lambda connection: operation(connection, *args, **kwargs),
            foresee=None if foresight is None else lambda batch: foresight(batch, *args, **kwargs),
        )

    def write_now(self, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``write`` for callers without an event loop."""
        foresight = foresight_of(operation)
        return self._writer.submit(
            lambda connection: operation(connection, *args, **kwargs),
            foresee=None if foresight is None else lambda batch: foresight(batch, *args, **kwargs),
        ).result()

    def read_kept(self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``read_now`` on a connection that is kept, for one thread that asks again and again, such as an event loop's.

        Only for SQLite, whose readers wait for nobody, and for questions that a few rows answer.
        """
        with self._translation():
            if self._kept is None:
                self._kept = self._reader.connect()
            try:
                with self._kept.begin():
                    return query(self._kept, *args, **kwargs)
            except DBAPIError:
                self._drop_kept()  # What failed once is not asked again.
                raise

    async def close(self) -> None:
        """Finish what is queued and give every connection back."""
        await asyncio.to_thread(self._writer.close)
        if self._async_reader is not None:
            await self._async_reader.dispose()
        self._drop_kept()
        self._reader.dispose()

    def close_now(self) -> None:
        """``close`` for callers that never called ``read``."""
        self._writer.close()
        self._drop_kept()
        self._reader.dispose()

    def _drop_kept(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    @property
    def known_fault(self) -> str | None:
        """What a person should know about the engine itself; None when there is nothing."""
        return sqlite.known_fault(sqlite3.sqlite_version_info) if self.is_sqlite else None

    def connect_arguments(self) -> dict[str, Any]:
        """What the driver takes to open a connection of its own; it holds the password."""
        return dict(self._reader.dialect.create_connect_args(self.url)[1])

    def _engine(self, *, writes: bool) -> Engine:
        try:
            engine = create_engine(self.url, **self._engine_options(is_pooled=writes or not self.is_sqlite))
        except ImportError as error:
            raise postgres.no_driver(error) from error
        self._prepare(engine, writes=writes)
        return engine

    def _async_engine(self) -> AsyncEngine:
        if self._async_reader is None:
            # Only servers read asynchronously; the command line must not pay for this import (docs/architecture.md).
            from sqlalchemy.ext.asyncio import create_async_engine

            url = self.url.set(drivername="sqlite+aiosqlite") if self.is_sqlite else self.url
            self._async_reader = create_async_engine(url, **self._engine_options(is_pooled=True))
            self._prepare(self._async_reader.sync_engine, writes=False)
        return self._async_reader

    def _engine_options(self, *, is_pooled: bool) -> dict[str, Any]:
        if self.is_sqlite:
            # Opening a file costs less than keeping its connection and closing it in time.
            return {"connect_args": {"timeout": self._busy_timeout_s}, **({} if is_pooled else {"poolclass": NullPool})}
        # A kept connection is asked for a sign of life first: the server may have been restarted meanwhile.
        return {"pool_pre_ping": True}

    def _prepare(self, engine: Engine, *, writes: bool) -> None:
        kind = sqlite if self.is_sqlite else postgres
        kind.prepare(engine, writes=writes, busy_timeout_s=self._busy_timeout_s)

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
    except (ArgumentError, ValueError):
        # The text may hold a password, so neither we nor a cause that is logged along may repeat it.
        raise DatabaseUnusable("The address of the database cannot be read.", hint=hint) from None
    kind = parsed.get_backend_name()
    if kind == "sqlite":
        return sqlite.checked(parsed, hint)
    if kind in ("postgres", "postgresql"):
        return postgres.checked(parsed, hint)
    raise DatabaseUnusable(f"Databases of kind {kind!r} are not supported.", hint=hint)


def translated(error: DBAPIError, *, waited_s: float = BUSY_TIMEOUT_S) -> DatabaseError:
    """The driver's complaint as one of ours, in one clear line; ``waited_s`` is how long a lock was waited for."""
    reason = error.orig
    text = str(reason)
    if isinstance(reason, sqlite3.Error):
        known = sqlite.complaint(text, waited_s)
    else:
        known = None if reason is None else postgres.complaint(reason, waited_s)
    return known or DatabaseError(f"The database refused: {text.partition(chr(10))[0]}")
