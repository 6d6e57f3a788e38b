"""Statements that SQLAlchemy compiles once and the driver then runs itself, for the few paths where that matters.

Executing through SQLAlchemy costs ten times what SQLite needs for the row (benchmarks/ledger.py), and every call
passes the ledger twice. It owns the compiled texts and the way back of a driver's error; parameters and results are
plain driver values: times are integer microseconds, JSON is text. The ledger, its counters and its rollups use it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any

from sqlalchemy import ClauseElement, ColumnElement, Connection, Dialect, bindparam, select
from sqlalchemy.exc import DBAPIError

_LOOKUP_LIMIT = 256  # Values in one question: beyond that the statement itself gets long.


class BareStatement:
    """One statement for every engine; ``build`` makes it for a dialect. Build it once, at the top of a module.

    ``columns`` are those that an INSERT fills, all of the table's when None.
    """

    def __init__(self, build: Callable[[Dialect], ClauseElement], columns: Sequence[str] | None = None) -> None:
        self._build = build
        self._columns = columns
        self._forms: dict[str, _Form] = {}

    def run(self, connection: Connection, parameters: Mapping[str, Any]) -> int:
        """Run it; the number of rows it changed."""
        changed: int = self._executed(connection, parameters).rowcount
        return changed

    def run_many(self, connection: Connection, parameters: Sequence[Mapping[str, Any]]) -> int:
        """Run it once for each mapping; the number of rows it changed in all."""
        if not parameters:
            return 0
        dialect = connection.dialect
        form = self._form(dialect)
        cursor = _driver(connection).cursor()
        try:
            cursor.executemany(form.text, [form.values(one) for one in parameters])
        except dialect.loaded_dbapi.Error as error:
            raise DBAPIError(form.text, None, error) from error
        changed: int = cursor.rowcount
        return changed

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
        form = self._form(dialect)
        try:
            return _driver(connection).execute(form.text, form.values(parameters))
        except dialect.loaded_dbapi.Error as error:
            # In the shape in which SQLAlchemy itself raises it, so that there is one way to translate a refusal.
            raise DBAPIError(form.text, None, error) from error

    def _form(self, dialect: Dialect) -> _Form:
        return self._forms.get(dialect.driver) or self._forms.setdefault(dialect.driver, self._compiled(dialect))

    def _compiled(self, dialect: Dialect) -> _Form:
        # By position: a driver looks every name up anew in every row.
        style: Any = {"paramstyle": "qmark" if dialect.name == "sqlite" else "format"}
        compiled: Any = self._build(dialect).compile(dialect=type(dialect)(**style), column_keys=self._columns)
        # What stands in the statement itself (``state == "held"``) nobody passes.
        constants = {name: value for name, value in compiled.params.items() if value is not None}
        return _Form(str(compiled), tuple(compiled.positiontup or ()), constants)


class _Form:
    """A statement as one driver takes it: its text, and how a mapping becomes the values of its places."""

    def __init__(self, text: str, names: tuple[str, ...], constants: Mapping[str, Any]) -> None:
        self.text = text
        self._names = names
        self._constants = constants
        self._pick = itemgetter(*names) if len(names) > 1 else None

    def values(self, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """The values in their order."""
        given = {**self._constants, **parameters} if self._constants else parameters
        if self._pick is None:
            return [given[name] for name in self._names]
        values: tuple[Any, ...] = self._pick(given)
        return values


def _driver(connection: Connection) -> Any:
    # The pool's connection and not the driver's own: under an async engine that one is the adapter we may call.
    return connection.connection.dbapi_connection


class BareLookup:
    """Rows by one of their columns, for any number of its values at once. Build it once, at the top of a module.

    ``where`` is what holds for all of them besides; its parameters are given with each question.
    """

    def __init__(
        self, shown: Sequence[ColumnElement[Any]], key: ColumnElement[Any], where: Sequence[ColumnElement[bool]] = ()
    ) -> None:
        self._shown = shown
        self._key = key
        self._where = where
        self._statements: dict[int, BareStatement] = {}

    def rows(self, connection: Connection, values: Collection[str], **parameters: Any) -> list[tuple[Any, ...]]:
        """Every row whose key is one of ``values``, in no order."""
        wanted = list(values)
        chunks = (wanted[start : start + _LOOKUP_LIMIT] for start in range(0, len(wanted), _LOOKUP_LIMIT))
        return [row for chunk in chunks for row in self._some(connection, chunk, parameters)]

    def _some(self, connection: Connection, wanted: list[str], parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        # Filled up to a power of two, so that a handful of statements serves every number.
        size = 1 << (len(wanted) - 1).bit_length()
        wanted += wanted[-1:] * (size - len(wanted))
        statement = self._statements.get(size)
        if statement is None:
            statement = self._statements[size] = self._statement(size)
        return statement.rows(connection, {**parameters, **dict(zip(_names(size), wanted, strict=True))})

    def _statement(self, size: int) -> BareStatement:
        wanted = self._key.in_([bindparam(name) for name in _names(size)])
        return BareStatement(lambda _: select(*self._shown).where(*self._where, wanted))


@cache
def _names(count: int) -> tuple[str, ...]:
    return tuple(f"wanted{index}" for index in range(count))
