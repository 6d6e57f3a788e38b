"""Notices that somebody committed: this process or another one.

It owns one kept connection; it does not say what changed. On SQLite it asks for ``data_version``, which costs
microseconds; on PostgreSQL it is told (``listening``). The supervisor waits on it for requests, and cached answers use
the version as their key.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from typing import TYPE_CHECKING

from autopack_mcp.database.engine import Database

if TYPE_CHECKING:
    from autopack_mcp.database.listening import Listener

LOOK_EVERY_S = 0.02  # Commit to notice in 10 ms on average, at 0.2 % of a core (measured, docs/architecture.md).
LOOK_EVERY_ELSEWHERE_S = 0.25  # Where nobody can tell us of a commit, each look is a real query by the waiter.


class ChangeWatch:
    """Wakes whoever waits for a commit. ``version`` moves with every commit, and is None where the engine has none."""

    def __init__(self, database: Database) -> None:
        self._connection: sqlite3.Connection | None = None
        self._listener: Listener | None = None
        if not database.is_sqlite:
            # Lazy: the driver is there only where PostgreSQL is used.
            from autopack_mcp.database.listening import Listener

            self._listener = Listener(database.connect_arguments(), LOOK_EVERY_ELSEWHERE_S)
        elif database.url.database:
            self._connection = sqlite3.connect(database.url.database, check_same_thread=False, isolation_level=None)

    def version(self) -> int | None:
        """A number that differs whenever a commit happened in between."""
        if self._connection is None:
            return None
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    async def wait(self, seen: int | None, timeout_s: float, stop: asyncio.Event | None = None) -> int | None:
        """Return as soon as the version is not ``seen``, when ``stop`` is set, or after ``timeout_s`` seconds.

        Where there are no versions it returns after a commit that came since the last call, and may return without
        one: whoever waits looks again in any case.
        """
        if self._listener is not None:
            await self._listener.heard(timeout_s, stop)
            return None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while (now := self.version()) == seen and loop.time() < deadline:
            if stop is not None and stop.is_set():
                break
            await asyncio.sleep(LOOK_EVERY_S)
        return now

    def wait_now(self, seen: int | None, timeout_s: float) -> bool:
        """Wait on this thread; whether the version is known not to be ``seen``. Look again whatever it answers."""
        if self._connection is None:
            time.sleep(min(timeout_s, LOOK_EVERY_ELSEWHERE_S))
            return False
        deadline = time.monotonic() + timeout_s
        while self.version() == seen:
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_EVERY_S)
        return True

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()
        if self._listener is not None:
            self._listener.close()
