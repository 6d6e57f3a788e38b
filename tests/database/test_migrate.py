"""The schema: what migrations make is what the tables say, and no database is ever left between two versions."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Connection, MetaData, Table, create_engine, insert, inspect, text

from autopack_mcp.database.engine import Database
from autopack_mcp.database.migrate import HEAD, MIGRATIONS, open_database, schema_version, upgrade
from autopack_mcp.database.tables import metadata
from autopack_mcp.errors import SchemaTooNew

VERSIONS = sorted(file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


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
        allowed = re.match(rf"{column.name} IN \('(\w+)'", str(getattr(check, "sqltext", "")))
        if allowed:
            return allowed[1]
    return {int: 1, bool: True, str: "x", object: {"some": "json"}}[kind]


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


def test_migrations_make_exactly_the_check_constraints(database: Database, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/from_tables.db")
    with engine.begin() as connection:
        metadata.create_all(connection)
        expected = checks(connection)
    engine.dispose()
    assert database.read_now(checks) == expected
    assert sum(map(len, expected.values())) >= 15


def test_opening_a_current_database_again_changes_nothing(database: Database) -> None:
    file = Path(str(database.url.database))
    database.close_now()
    before = file.read_bytes()
    open_database(str(database.url)).close_now()
    assert file.read_bytes() == before


@pytest.mark.parametrize("version", VERSIONS)
def test_an_upgrade_from_any_version_keeps_every_row(tmp_path: Path, version: str) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    old = Database(url)
    old.write_now(upgrade, version)
    before = old.write_now(one_row_in_every_table)
    old.close_now()

    current = open_database(url)
    assert current.read_now(schema_version) == HEAD
    for table, row in before.items():
        assert row.items() <= current.read_now(only_row, table).items(), table
    current.close_now()


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def migrate_and_fail(connection: Connection) -> None:
        upgrade(connection, HEAD)
        raise RuntimeError("the machine stops here")

    fresh = Database(f"sqlite:///{tmp_path}/new.db")
    with pytest.raises(RuntimeError):
        fresh.write_now(migrate_and_fail)
    assert fresh.read_now(lambda connection: inspect(connection).get_table_names()) == []
    fresh.close_now()
    open_database(f"sqlite:///{tmp_path}/new.db").close_now()


def test_a_database_of_a_newer_program_is_refused_and_left_alone(database: Database) -> None:
    database.write_now(lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    file = Path(str(database.url.database))
    database.close_now()
    before = file.read_bytes()

    with pytest.raises(SchemaTooNew) as caught:
        open_database(str(database.url))
    assert (caught.value.found, caught.value.supported) == ("9999", HEAD)
    assert len(str(caught.value).splitlines()) == 1
    assert file.read_bytes() == before


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


def test_two_processes_may_open_the_same_new_database_at_once(tmp_path: Path) -> None:
    processes = [OtherProcess(), OtherProcess()]
    assert [process.said() for process in processes] == ["ready", "ready"]
    for number in range(8):
        for process in processes:
            process.open(f"sqlite:///{tmp_path}/new-{number}.db")
        assert [process.said() for process in processes] == ["opened", "opened"]
    assert [process.end() for process in processes] == [0, 0]
