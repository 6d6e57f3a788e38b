"""The schema: what migrations make is what the tables say, and no database is ever left between two versions."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Connection, MetaData, Table, insert, inspect, text

from autopack_mcp.database.engine import Database
from autopack_mcp.database.migrate import HEAD, MIGRATIONS, open_database, schema_version, upgrade
from autopack_mcp.database.tables import metadata
from autopack_mcp.errors import SchemaTooNew
from tests.postgres import PostgresServer

VERSIONS = sorted(file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


@pytest.fixture
def new_url(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a database that nobody has opened yet."""
    if engine == "sqlite":
        yield f"sqlite:///{tmp_path}/new.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = server.create()
    yield server.url(name)
    server.drop(name)


def checks(connection: Connection) -> dict[str, dict[str, str]]:
    """SQL of every CHECK constraint by table and name; Alembic does not compare them."""
    found = inspect(connection)
    return {
        table: {str(check["name"]): " ".join(check["sqltext"].split()) for check in found.get_check_constraints(table)}
        for table in found.get_table_names()
        if table != "alembic_version"
    }


def one_row_in_every_table(connection: Connection) -> dict[str, dict[str, Any]]:
    """Fill a database of any version with one row per table that its constraints accept; answers with the rows."""
    reflected = MetaData()
    reflected.reflect(connection)
    rows = {}
    for table in reflected.sorted_tables:
        if table.name != "alembic_version":
            connection.execute(insert(table).values({column.name: _value(table, column) for column in table.columns}))
            rows[table.name] = only_row(connection, table.name)
    return rows


def only_row(connection: Connection, table: str) -> dict[str, Any]:
    return dict(connection.execute(text(f"SELECT * FROM {table}")).mappings().one())


def _value(table: Table, column: Column[Any]) -> object:
    kind = column.type.python_type
    for check in table.constraints:
        # PostgreSQL spells "IN ('a', 'b')" in its own way: name::text = ANY (ARRAY['a'::character varying, …
        allowed = re.match(rf"\(*{column.name}\b.*?'(\w+)'", str(getattr(check, "sqltext", "")))
        if allowed:
            return allowed[1]
    return {int: 1, bool: True, str: "x", bytes: b"x", object: {"some": "json"}}[kind]


def test_the_newest_migration_is_the_one_the_program_asks_for() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]
    assert VERSIONS[-1] == HEAD


def test_migrations_make_exactly_the_tables(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, metadata))

    assert database.read_now(differences) == []


def test_migrations_make_exactly_the_check_constraints(database: Database, new_url: str) -> None:
    made_from_tables = Database(new_url)
    made_from_tables.write_now(metadata.create_all)
    expected = made_from_tables.read_now(checks)
    made_from_tables.close_now()
    assert database.read_now(checks) == expected
    assert sum(map(len, expected.values())) >= 15


def closed_state(database: Database) -> object:
    """Everything that stands in it; on SQLite to the byte."""
    database.close_now()
    if database.is_sqlite:
        return Path(str(database.url.database)).read_bytes()
    again = Database(str(database.url))
    found = again.read_now(rows_of_all_tables)
    again.close_now()
    return found


def rows_of_all_tables(connection: Connection) -> dict[str, list[str]]:
    tables = inspect(connection).get_table_names()
    return {name: sorted(map(str, connection.execute(text(f"SELECT * FROM {name}")))) for name in tables}


def test_opening_a_current_database_again_changes_nothing(database: Database) -> None:
    before = closed_state(database)
    assert closed_state(open_database(str(database.url))) == before


@pytest.mark.parametrize("version", VERSIONS)
def test_an_upgrade_from_any_version_keeps_every_row(new_url: str, version: str) -> None:
    old = Database(new_url)
    old.write_now(upgrade, version)
    before = old.write_now(one_row_in_every_table)
    old.close_now()

    current = open_database(new_url)
    assert current.read_now(schema_version) == HEAD
    for table, row in before.items():
        assert row.items() <= current.read_now(only_row, table).items(), table
    current.close_now()


def test_a_migration_that_fails_leaves_nothing_behind(new_url: str) -> None:
    def migrate_and_fail(connection: Connection) -> None:
        upgrade(connection, HEAD)
        raise RuntimeError("the machine stops here")

    fresh = Database(new_url)
    with pytest.raises(RuntimeError):
        fresh.write_now(migrate_and_fail)
    assert fresh.read_now(lambda connection: inspect(connection).get_table_names()) == []
    fresh.close_now()
    open_database(new_url).close_now()


def test_a_database_of_a_newer_program_is_refused_and_left_alone(database: Database) -> None:
    database.write_now(lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    before = closed_state(database)

    with pytest.raises(SchemaTooNew) as caught:
        open_database(str(database.url))
    assert (caught.value.found, caught.value.supported) == ("9999", HEAD)
    assert len(str(caught.value).splitlines()) == 1
    assert closed_state(database) == before


OPEN_ONE_AFTER_ANOTHER = """
import sys
from autopack_mcp.database.migrate import open_database
import alembic.command
print("ready", flush=True)
for line in sys.stdin:
    open_database(line.strip()).close_now()
    print("opened", flush=True)
"""


class OtherProcess:
    """Opens the databases it is told to, as fast as it can."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", OPEN_ONE_AFTER_ANOTHER]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def open(self, url: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{url}\n")
        self._process.stdin.flush()

    def end(self) -> int:
        self._process.communicate(timeout=10)
        return self._process.returncode


def test_two_processes_may_open_the_same_new_database_at_once(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    urls = [f"sqlite:///{tmp_path}/new-{number}.db" for number in range(8)]
    if engine == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        urls = [server.url(server.create()) for _ in range(3)]
    processes = [OtherProcess(), OtherProcess()]
    assert [process.said() for process in processes] == ["ready", "ready"]
    for url in urls:
        for process in processes:
            process.open(url)
        assert [process.said() for process in processes] == ["opened", "opened"]
    assert [process.end() for process in processes] == [0, 0]
