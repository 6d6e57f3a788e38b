"""Hears commits on PostgreSQL: one kept connection that listens for the notice every writer sends.

It owns that connection, its loss and its return; it does not say what was committed. ``ChangeWatch`` is its only
caller, and only on PostgreSQL, so psycopg is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any

from psycopg import AsyncConnection, Error, OperationalError

from autopack_mcp.database.postgres import CHANNEL

log = logging.getLogger(__name__)


class Listener:
    """Listens from its first ``heard`` on. One event loop at a time uses it; ``close`` needs none.

    ``arguments`` are the driver's own, see ``Database.connect_arguments``. Without a connection it asks for one at
    every call, and lets ``look_every_s`` seconds pass before it says that somebody should look.
    """

    def __init__(self, arguments: Mapping[str, Any], look_every_s: float) -> None:
        self._arguments = arguments
        self._look_every_s = look_every_s
        self._connection: AsyncConnection | None = None
        self._is_lost = False

    async def heard(self, timeout_s: float, stop: asyncio.Event | None) -> None:
        """Return when somebody committed or may have, when ``stop`` is set, or after ``timeout_s`` seconds.

        It returns at once when it has just begun to listen: what was committed before that, nobody has heard.
        """
        try:
            if self._connection is None:
                await _first(self._connect(), timeout_s, stop)
            elif not self._take(self._connection):
                await _first(_readable(self._connection.fileno()), timeout_s, stop)
                self._take(self._connection)
        except Error as error:
            self._lose(error)
            await _first(asyncio.sleep(self._look_every_s), timeout_s, stop)

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            # Not AsyncConnection.close, for which a caller would need a loop: this is all that it does.
            self._connection.pgconn.finish()
            self._connection = None

    async def _connect(self) -> None:
        connection = await AsyncConnection.connect(**self._arguments, autocommit=True)
        try:
            await connection.execute(f"LISTEN {CHANNEL}")
        except BaseException:
            connection.pgconn.finish()
            raise
        self._connection = connection
        if self._is_lost:
            log.info("changes of the database are heard again")
        self._is_lost = False

    def _take(self, connection: AsyncConnection) -> bool:
        """Whether notices have arrived since the last time.

        Raises:
            psycopg.OperationalError: the connection is lost.
        """
        connection.pgconn.consume_input()
        has_any = False
        while connection.pgconn.notifies() is not None:
            has_any = True
        return has_any

    def _lose(self, error: Error) -> None:
        if not self._is_lost:
            # Said once: the questions that are now asked instead say more, if they fail as well.
            why = "the server cannot be reached" if isinstance(error, OperationalError) else type(error).__name__
            log.warning("changes of the database are not heard (%s); looking every %s s", why, self._look_every_s)
        self._is_lost = True
        self.close()


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_reader(descriptor, arrived.set)
    try:
        await arrived.wait()
    finally:
        loop.remove_reader(descriptor)


async def _first(work: Coroutine[Any, Any, None], timeout_s: float, stop: asyncio.Event | None) -> None:
    """Do ``work`` until it is done, ``stop`` is set or the time is over; what it raises is raised."""
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(work)]
    if stop is not None:
        tasks.append(asyncio.create_task(stop.wait()))
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
