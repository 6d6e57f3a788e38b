"""A run that nothing disturbed, with a copy of its whole world aside at every point, to be put back and gone on from.

It owns the copying (database, workspace, repository) on both engines; which points there are and what must come of each
is a test's.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from psycopg import Connection
from psycopg.sql import SQL, Identifier

from tests.postgres import PostgresServer

DATABASE_FILE = "autopack.db"


class Rows(Protocol):
    """All rows of a database, to be kept aside and put back."""

    def fingerprint(self) -> str:
        """The same as long as no row changes."""
        ...

    def keep(self, point: str) -> None:
        """Keep all rows aside under this name."""
        ...

    def put_back(self, point: str) -> None:
        """Make the rows what they were; nobody may be writing."""
        ...


class SqliteRows:
    """The rows of a file; each copy is a file again."""

    def __init__(self, file: Path, copies: Path) -> None:
        self._file = file
        self._copies = copies

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        with closing(sqlite3.connect(self._file)) as connection:
            for line in connection.iterdump():
                digest.update(line.encode())
        return digest.hexdigest()

    def keep(self, point: str) -> None:
        # The log beside the file belongs to it; a copy made through SQLite has everything in one.
        with closing(sqlite3.connect(self._file)) as read, closing(sqlite3.connect(self._kept(point))) as write:
            read.backup(write)

    def put_back(self, point: str) -> None:
        for suffix in ("-wal", "-shm"):
            Path(f"{self._file}{suffix}").unlink(missing_ok=True)
        shutil.copy(self._kept(point), self._file)

    def _kept(self, point: str) -> Path:
        return self._copies / f"{point}.db"


class PostgresRows:
    """The rows of a database on a server; each copy is what COPY says of every table, and each sequence."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self._server = server
        self._name = name
        self._kept: dict[str, dict[str, bytes]] = {}
        self._sequences: dict[str, list[tuple[str, int, bool]]] = {}

    def fingerprint(self) -> str:
        with self._server.connect(self._name) as connection:
            return hashlib.sha256(repr(_copied_out(connection)).encode()).hexdigest()

    def keep(self, point: str) -> None:
        with self._server.connect(self._name) as connection:
            self._kept[point] = _copied_out(connection)
            self._sequences[point] = _sequences(connection)

    def put_back(self, point: str) -> None:
        with self._server.connect(self._name) as connection, connection.transaction():
            connection.execute("SET LOCAL session_replication_role = replica")  # In no order that foreign keys ask for.
            for table, rows in self._kept[point].items():
                connection.execute(SQL("DELETE FROM {}").format(Identifier(table)))
                if rows:
                    with connection.cursor().copy(SQL("COPY {} FROM STDIN").format(Identifier(table))) as copy:
                        copy.write(rows)
            for name, last, is_called in self._sequences[point]:
                connection.execute("SELECT setval(%s::regclass, %s, %s)", (name, last, is_called))


def _copied_out(connection: Connection) -> dict[str, bytes]:
    rows = {}
    for table in _names(connection, "r"):
        with connection.cursor().copy(SQL("COPY {} TO STDOUT").format(Identifier(table))) as copy:
            rows[table] = b"".join(bytes(piece) for piece in copy)
    return rows


def _sequences(connection: Connection) -> list[tuple[str, int, bool]]:
    found = []
    for name in _names(connection, "S"):
        row = connection.execute(SQL("SELECT last_value, is_called FROM {}").format(Identifier(name))).fetchone()
        assert row is not None
        found.append((name, int(row[0]), bool(row[1])))
    return found


def _names(connection: Connection, kind: str) -> Iterator[str]:
    """The tables ("r") or sequences ("S") of ours."""
    query = (
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = %s"
        " AND relname <> 'alembic_version' ORDER BY relname"
    )
    return (str(name) for (name,) in connection.execute(query, (kind,)).fetchall())


@dataclass(slots=True)
class Recording:
    """A run that nothing disturbed, and a copy of its world at every point.

    ``rows`` are those of its database; left out, it is the file in the home.
    """

    folder: Path
    copies: Path
    rows: Rows | None = None
    run_id: str = ""
    points: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    tree: str = ""
    _last: str = ""
    _rows: Rows = field(init=False)
    _last_rows: str = ""
    _rows_kept_at: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rows = self.rows or SqliteRows(self.folder / "home" / DATABASE_FILE, self.copies)

    def take(self, point: str, *, has_written: bool = True) -> None:
        """Copy the world aside, unless it is still as it was at the point before.

        ``has_written`` False says that no row can have changed since then, which spares looking at them all.
        """
        rows = self._rows.fingerprint() if has_written else self._last_rows
        world = self._fingerprint() + rows
        if world == self._last:
            self.left_out.append(point)
            return
        self._keep_rows(point, is_as_before=rows == self._last_rows)
        self._last, self._last_rows = world, rows
        self.points.append(point)
        ignored = shutil.ignore_patterns(f"{DATABASE_FILE}*")
        shutil.copytree(self.folder, self.copies / point, symlinks=True, ignore=ignored)

    def put_back(self, point: str) -> None:
        """The world as it was at a point, where it was."""
        shutil.rmtree(self.folder)
        shutil.copytree(self.copies / point, self.folder, symlinks=True)
        self._rows.put_back(self._rows_kept_at[point])

    def _keep_rows(self, point: str, *, is_as_before: bool) -> None:
        if is_as_before and self.points:
            self._rows_kept_at[point] = self._rows_kept_at[self.points[-1]]
            return
        self._rows.keep(point)
        self._rows_kept_at[point] = point

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for file in sorted(self.folder.rglob("*")):
            # The index holds times of files besides their names, and the databases are compared by what is in them.
            if file.is_file() and not file.is_symlink() and file.name != "index" and DATABASE_FILE not in file.name:
                digest.update(f"{file.relative_to(self.folder)}\0".encode() + file.read_bytes())
        return digest.hexdigest()
