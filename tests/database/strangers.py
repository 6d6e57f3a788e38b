"""Other programs at the same database: what a person's own tools do to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg

from autopack_mcp.database.engine import Database
from autopack_mcp.database.postgres import WRITE_LOCK_KEY


@contextmanager
def held_write_lock(database: Database) -> Iterator[None]:
    """Somebody else writes, or is about to, for as long as the block lasts."""
    if database.is_sqlite:
        with closing(sqlite3.connect(str(database.url.database), isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            yield
        return
    with closing(psycopg.connect(**database.connect_arguments())) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(%s)", (WRITE_LOCK_KEY,))
        yield


def commit_something(database: Database) -> None:
    """A commit by a program that is not ours."""
    if database.is_sqlite:
        with closing(sqlite3.connect(str(database.url.database))) as stranger:
            stranger.execute("CREATE TABLE a_strangers_table (id INTEGER)")
            stranger.commit()
        return
    with closing(psycopg.connect(**database.connect_arguments(), autocommit=True)) as stranger:
        stranger.execute("NOTIFY autopack")
