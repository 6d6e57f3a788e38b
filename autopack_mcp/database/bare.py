"""Statements that SQLAlchemy compiles once and the driver then runs itself, for the few paths where that matters.

Executing through SQLAlchemy costs ten times what SQLite needs for the row (benchmarks/ledger.py), and every call
passes the ledger twice. It owns the compiled texts and the way back of a driver's error; parameters and results are
plain driver values: times are integer microseconds, JSON is text. The ledger, its counters and its rollups use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ClauseElement, Connection, Dialect
from sqlalchemy.exc import DBAPIError


class BareStatement:
    """One statement for every engine; ``build`` makes it for a dialect. Build it once, at the top of a module.

    ``columns`` are those that an INSERT fills, all of the table's when None.
    """

    def __init__(self, build: Callable[[Dialect], ClauseElement], columns: Sequence[str] | None = None) -> None:
        self._build = build
        self._columns = columns
        self._texts: dict[str, tuple[str, Mapping[str, Any]]] = {}

    def run(self, connection: Connection, parameters: Mapping[str, Any]) -> int:
        """Run it; the number of rows it changed."""
        changed: int = self._executed(connection, parameters).rowcount
        return changed

    def run_many(self, connection: Connection, parameters: Sequence[Mapping[str, Any]]) -> None:
        """Run it once for each mapping."""
        if not parameters:
            return
        dialect = connection.dialect
        text, constants = self._texts.get(dialect.driver) or self._compiled(dialect)
        raw: Any = connection.connection.dbapi_connection
        try:
            raw.cursor().executemany(text, [{**constants, **one} for one in parameters] if constants else parameters)
        except dialect.loaded_dbapi.Error as error:
            raise DBAPIError(text, None, error) from error

    def rows(self, connection: Connection, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run it; every row that it returns, in the order of its columns."""
        found: list[tuple[Any, ...]] = self._executed(connection, parameters).fetchall()
        return found

    def row(self, connection: Connection, parameters: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """Run it; the only row that it returns, or None."""
        found = self._executed(connection, parameters).fetchall()
        return found[0] if found else None

    def _executed(self, connection: Connection, parameters: Mapping[str, Any]) -> Any:
        """The driver's cursor; it is closed when it is dropped, and read to its end before that."""
        dialect = connection.dialect
        text, constants = self._texts.get(dialect.driver) or self._compiled(dialect)
        # The pool's connection and not the driver's own: under an async engine that one is the adapter we may call.
        raw: Any = connection.connection.dbapi_connection
        try:
            return raw.execute(text, {**constants, **parameters} if constants else parameters)
        except dialect.loaded_dbapi.Error as error:
            # In the shape in which SQLAlchemy itself raises it, so that there is one way to translate a refusal.
            raise DBAPIError(text, None, error) from error

    def _compiled(self, dialect: Dialect) -> tuple[str, Mapping[str, Any]]:
        """The text, and the values that stand in the statement itself (``state == "held"``)."""
        # With parameters by name on every driver, so that one mapping serves them all.
        style: Any = {"paramstyle": "named" if dialect.name == "sqlite" else "pyformat"}
        compiled = self._build(dialect).compile(dialect=type(dialect)(**style), column_keys=self._columns)
        constants = {name: value for name, value in compiled.params.items() if value is not None}
        self._texts[dialect.driver] = str(compiled), constants
        return self._texts[dialect.driver]
