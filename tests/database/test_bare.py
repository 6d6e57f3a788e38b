"""Statements that the driver runs itself mean the same as when SQLAlchemy runs them."""

from __future__ import annotations

import pytest
from sqlalchemy import bindparam, insert, select, update

from autopack_mcp.database.bare import BareStatement
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import budget_scopes
from autopack_mcp.errors import DatabaseError

INSERT = BareStatement(lambda _: insert(budget_scopes))
SPEND = BareStatement(
    lambda _: (
        update(budget_scopes)
        .where(budget_scopes.c.scope == bindparam("wanted"), budget_scopes.c.reserved_nano == 4)
        .values(settled_tokens=budget_scopes.c.settled_tokens + bindparam("delta"))
    )
)
FIND = BareStatement(lambda _: select(budget_scopes).where(budget_scopes.c.scope == bindparam("wanted")))
ROW = {"scope": "a", "settled_tokens": 1, "reserved_tokens": 2, "settled_nano": 3, "reserved_nano": 4}


def test_rows_come_back_in_the_order_of_the_columns(database: Database) -> None:
    assert database.write_now(INSERT.run, ROW) == 1
    assert database.read_now(FIND.rows, {"wanted": "a"}) == [("a", 1, 2, 3, 4)]
    assert database.read_now(FIND.row, {"wanted": "a"}) == ("a", 1, 2, 3, 4)
    assert database.read_now(FIND.row, {"wanted": "b"}) is None


def test_values_that_stand_in_the_statement_count_beside_those_that_are_given(database: Database) -> None:
    database.write_now(INSERT.run, ROW)
    database.write_now(INSERT.run, {**ROW, "scope": "b", "reserved_nano": 5})
    assert [database.write_now(SPEND.run, {"wanted": name, "delta": 10}) for name in "ab"] == [1, 0]
    assert database.read_now(FIND.row, {"wanted": "a"}) == ("a", 11, 2, 3, 4)


@pytest.mark.anyio
async def test_it_reads_on_an_event_loop_as_well(database: Database) -> None:
    await database.write(INSERT.run, ROW)
    assert await database.read(FIND.row, {"wanted": "a"}) == ("a", 1, 2, 3, 4)


def test_a_refusal_of_the_database_is_one_of_ours_and_writes_nothing(database: Database) -> None:
    database.write_now(INSERT.run, ROW)
    with pytest.raises(DatabaseError):
        database.write_now(INSERT.run, ROW)
    with pytest.raises(DatabaseError):
        database.write_now(INSERT.run, {**ROW, "scope": "b", "settled_tokens": -1})
    assert database.read_now(FIND.row, {"wanted": "b"}) is None


def test_a_name_that_looks_like_sql_is_only_a_name(database: Database) -> None:
    hostile = "'; DROP TABLE budget_scopes; -- %s :x"
    database.write_now(INSERT.run, {**ROW, "scope": hostile})
    assert database.read_now(FIND.row, {"wanted": hostile}) == (hostile, 1, 2, 3, 4)
