"""Brings a database to the schema this program speaks, and refuses one that is newer.

It owns the question "is this database ours, and how old"; the steps are Alembic's and stand in ``migrations``. Alembic
costs 0.15 s to import, so it is only loaded when there is something to do. ``open_database`` is the only door.
"""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from autopack_mcp.database.engine import BUSY_TIMEOUT_S, Database
from autopack_mcp.errors import SchemaTooNew

HEAD = "0003"  # The newest migration; a test compares it with the folder.
MIGRATIONS = Path(__file__).parent / "migrations"


def open_database(url: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Database:
    """A database with the current schema, created or migrated when needed; close it once.

    Raises:
        SchemaTooNew: a newer program wrote it; nothing was changed.
        DatabaseError: it cannot be opened, is locked, read-only, full, or not a database.
    """
    database = Database(url, busy_timeout_s=busy_timeout_s)
    try:
        if not _file_is_missing(database) and database.read_now(schema_version) == HEAD:
            return database
        database.write_now(_migrate)
    except BaseException:
        database.close_now()
        raise
    return database


def schema_version(connection: Connection) -> str | None:
    """The migration a database stands at; None when it has no schema of ours yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _file_is_missing(database: Database) -> bool:
    # Not Path.exists, which raises where a folder above may not be entered; opening the file says that in our words.
    return database.is_sqlite and not os.path.exists(str(database.url.database))  # noqa: PTH110


def _migrate(connection: Connection) -> None:
    # Runs inside the writer's transaction: two processes that start at once migrate one after the other, not both.
    found = schema_version(connection)
    if found == HEAD:
        return
    if found is not None and not list((MIGRATIONS / "versions").glob(f"{found}_*.py")):
        raise SchemaTooNew(found, HEAD)
    upgrade(connection, HEAD)


def upgrade(connection: Connection, version: str) -> None:
    """Run the steps up to ``version`` on this connection, inside its transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, version)
