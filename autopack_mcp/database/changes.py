"""Notices that somebody committed: this process or another one.

It owns one kept connection and asks SQLite's ``data_version`` on it, which costs microseconds; it does not say what
changed. The supervisor waits on it for requests, and cached answers use the version as their key.
"""

from __future__ import annotations

import asyncio
import sqlite3

from autopack_mcp.database.engine import Database

LOOK_EVERY_S = 0.02  # Commit to notice in 10 ms on average, at 0.2 % of a core (measured, docs/architecture.md).
LOOK_EVERY_ELSEWHERE_S = 0.25  # Without data_version each look is a real query by the waiter.


class ChangeWatch:
    """A version number that moves with every commit; ``version`` is None where the engine has none."""

    def __init__(self, database: Database) -> None:
        self._connection: sqlite3.Connection | None = None
        if database.is_sqlite and database.url.database:
            self._connection = sqlite3.connect(database.url.database, check_same_thread=False, isolation_level=None)

    def version(self) -> int | None:
        """A number that differs whenever a commit happened in between."""
        if self._connection is None:
            return None
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    async def wait(self, seen: int | None, timeout_s: float, stop: asyncio.Event | None = None) -> int | None:
        """Return as soon as the version is not ``seen``, when ``stop`` is set, or after ``timeout_s`` seconds."""
        if self._connection is None:
            await asyncio.sleep(min(timeout_s, LOOK_EVERY_ELSEWHERE_S))
            return None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while (now := self.version()) == seen and loop.time() < deadline:
            if stop is not None and stop.is_set():
                break
            await asyncio.sleep(LOOK_EVERY_S)
        return now

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()
