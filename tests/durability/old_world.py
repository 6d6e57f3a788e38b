"""A run in progress as an earlier release left it: its rows at that release's schema, and its repository.

It brings such a world back on either engine; it asserts nothing. ``old_worlds/`` has one for each schema that people
may still have in the middle of a run: rows as JSON by table, and what ``git fast-export --all`` said. FOLDER and
MACHINE stand for where it was. Each was made by that release from a rehearsal whose process was gone in a call.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, MetaData, insert, text

from autopack_mcp.app import machine_name
from autopack_mcp.database.engine import Database
from autopack_mcp.database.migrate import upgrade

WORLDS = Path(__file__).parent / "old_worlds"


def bring_back(version: str, url: str, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Fill an empty database and an empty folder with the world of that schema; its rows, by table."""
    text_of_rows = (WORLDS / f"{version}.json").read_text(encoding="utf-8")
    rows: dict[str, list[dict[str, Any]]] = json.loads(
        text_of_rows.replace("FOLDER", str(folder)).replace("MACHINE", machine_name())
    )
    database = Database(url)
    database.write_now(_fill, version, rows)
    database.close_now()
    _import(WORLDS / f"{version}.export", folder / "project")
    return rows


def _fill(connection: Connection, version: str, rows: dict[str, list[dict[str, Any]]]) -> None:
    upgrade(connection, version)
    schema = MetaData()
    schema.reflect(connection)
    for table in schema.sorted_tables:
        if found := rows.get(table.name):
            connection.execute(insert(table), found)
    if connection.dialect.name == "postgresql":
        _count_on(connection, schema)


def _count_on(connection: Connection, schema: MetaData) -> None:
    """Rows that bring their own numbers leave the sequence of the column behind."""
    for table in schema.sorted_tables:
        for column in table.primary_key:
            place = {"table": table.name, "column": column.name}
            sequence = connection.execute(text("SELECT pg_get_serial_sequence(:table, :column)"), place).scalar()
            if sequence is not None:
                highest = f"SELECT setval('{sequence}', (SELECT max({column.name}) FROM {table.name}))"
                connection.execute(text(highest))


def _import(export: Path, repository: Path) -> None:
    def git(*words: str, stdin: bytes = b"") -> None:
        subprocess.run(["git", *words], cwd=repository, input=stdin, check=True, capture_output=True)

    repository.mkdir()
    git("init", "--quiet", "--initial-branch=main")
    git("fast-import", "--quiet", stdin=export.read_bytes())
    git("reset", "--quiet", "--hard", "main")
