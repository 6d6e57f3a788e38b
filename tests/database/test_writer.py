"""The writer: order, grouping, what a failing operation undoes, and what a lock does to those who wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Concatenate, NoReturn, ParamSpec, TypeVar

import anyio
import pytest
from sqlalchemy import Connection, event, select, text

from autopack_mcp.database.engine import Database
from autopack_mcp.database.migrate import open_database
from autopack_mcp.database.tables import budget_scopes
from autopack_mcp.database.writer import BATCH_LIMIT
from autopack_mcp.errors import DatabaseBusy, DatabaseError, UnknownCall
from tests.database.strangers import held_write_lock

P = ParamSpec("P")
T = TypeVar("T")

pytestmark = pytest.mark.anyio


def put(connection: Connection, scope: str) -> str:
    connection.execute(
        budget_scopes.insert().values(scope=scope, settled_tokens=0, reserved_tokens=0, settled_nano=0, reserved_nano=0)
    )
    return scope


def scopes(connection: Connection) -> list[str]:
    """In the order in which they were written."""
    written_at = text("rowid" if connection.dialect.name == "sqlite" else "ctid")
    return list(connection.scalars(select(budget_scopes.c.scope).order_by(written_at)))


def put_and_look(connection: Connection, scope: str) -> list[str]:
    put(connection, scope)
    return scopes(connection)


def refuse(connection: Connection) -> NoReturn:
    put(connection, "written before the refusal")
    raise UnknownCall("call-1")


class Gate:
    """Holds the writer inside an operation, so that a test decides what is queued behind it."""

    def __init__(self, database: Database) -> None:
        self._entered, self._opened = threading.Event(), threading.Event()
        self.passed = _submit(database, self._hold)
        assert self._entered.wait(5)

    def _hold(self, connection: Connection) -> None:
        self._entered.set()
        assert self._opened.wait(5)

    def open(self) -> None:
        self._opened.set()


def _submit(
    database: Database, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
) -> Future[T]:
    return database._writer.submit(lambda connection: operation(connection, *args, **kwargs))


def test_what_waits_together_is_written_in_order_by_one_transaction(database: Database) -> None:
    gate = Gate(database)
    transactions = []

    def put_and_remember(connection: Connection, scope: str) -> str:
        transactions.append(connection.get_transaction())
        return put(connection, scope)

    names = [f"scope {number:02}" for number in range(20)]
    answers = [_submit(database, put_and_remember, name) for name in names]
    gate.open()

    assert [answer.result(5) for answer in answers] == names
    assert database.read_now(scopes) == names
    assert len(set(transactions)) == 1


def test_more_than_a_batch_is_written_in_order_by_several_transactions(database: Database) -> None:
    gate = Gate(database)
    names = [f"scope {number:04}" for number in range(2 * BATCH_LIMIT + 3)]
    answers = [_submit(database, put, name) for name in names]
    gate.open()

    assert [answer.result(5) for answer in answers] == names
    assert database.read_now(scopes) == names


def test_an_operation_that_raises_undoes_only_itself(database: Database) -> None:
    gate = Gate(database)
    before = _submit(database, put, "before")
    refused = _submit(database, refuse)
    after = _submit(database, put_and_look, "after")
    gate.open()

    assert before.result(5) == "before"
    with pytest.raises(UnknownCall):
        refused.result(5)
    assert after.result(5) == ["before", "after"]
    assert database.read_now(scopes) == ["before", "after"]


def test_an_operation_that_runs_again_starts_from_what_its_neighbours_left(database: Database) -> None:
    gate = Gate(database)
    runs = []

    def count_up(connection: Connection) -> int:
        runs.append("count_up")
        if not scopes(connection):
            put(connection, "counter")
        connection.execute(budget_scopes.update().values(settled_tokens=budget_scopes.c.settled_tokens + 1))
        return connection.execute(select(budget_scopes.c.settled_tokens)).scalar_one()

    first = _submit(database, count_up)
    refused = _submit(database, refuse)
    second = _submit(database, count_up)
    gate.open()

    assert (first.result(5), second.result(5)) == (1, 2)
    assert refused.exception(5) is not None
    assert len(runs) == 3, "the first ran twice: once with the batch that was undone, once alone"


def test_an_error_that_is_not_an_ordinary_exception_does_not_end_the_writer(database: Database) -> None:
    def leave(connection: Connection) -> NoReturn:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        _submit(database, leave).result(5)
    assert database.write_now(put, "after") == "after"


def test_a_constraint_that_is_broken_is_an_error_in_one_line(database: Database) -> None:
    database.write_now(put, "twice")
    with pytest.raises(DatabaseError, match=r"(?i)unique constraint.*budget_scopes") as caught:
        database.write_now(put, "twice")
    assert "\n" not in str(caught.value)


def test_close_finishes_the_queue(database: Database) -> None:
    gate = Gate(database)
    answers = [_submit(database, put, name) for name in ("one", "two")]
    closing = threading.Thread(target=database.close_now)
    closing.start()
    gate.open()
    closing.join(5)

    assert [answer.result(0) for answer in answers] == ["one", "two"]


def test_writing_after_close_is_refused_in_words(database: Database) -> None:
    database.close_now()
    database.close_now()
    with pytest.raises(DatabaseError, match="The database is closed"):
        database.write_now(put, "too late")


def test_many_threads_write_at_once(database: Database) -> None:
    names = [f"scope {number}" for number in range(200)]
    with ThreadPoolExecutor(16) as threads:
        written = list(threads.map(lambda name: database.write_now(put, name), names))
    assert written == names
    assert sorted(database.read_now(scopes)) == sorted(names)


async def test_a_write_whose_caller_is_cancelled_is_still_written(database: Database) -> None:
    gate = Gate(database)
    with anyio.move_on_after(0):
        await database.write(put, "kept")
    gate.open()
    with anyio.fail_after(5):
        await database.write(put, "next")
    assert await database.read(scopes) == ["kept", "next"]


async def test_a_failed_write_whose_caller_is_gone_troubles_nobody(database: Database) -> None:
    gate = Gate(database)
    caller = asyncio.ensure_future(database.write(refuse))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.open()
    with anyio.fail_after(5):
        assert await database.write(put, "next") == "next"
    assert await database.read(scopes) == ["next"]


def test_a_lock_that_outlasts_the_timeout_refuses_all_that_wait_and_nothing_after(database: Database) -> None:
    impatient = open_database(str(database.url), busy_timeout_s=0.05)
    with held_write_lock(database):
        with pytest.raises(DatabaseBusy) as caught:
            impatient.write_now(put, "refused")
        assert caught.value.waited_s == 0.05
    assert impatient.write_now(put, "written") == "written"
    assert impatient.read_now(scopes) == ["written"]
    impatient.close_now()


def test_a_batch_waits_for_a_lock_once_not_once_for_each(database: Database) -> None:
    impatient = open_database(str(database.url), busy_timeout_s=0.05)
    all_are_queued, begins = threading.Event(), []

    def on_statement(statement: str) -> None:
        begins.append(statement)
        assert all_are_queued.wait(5)

    engine = impatient._writer._engine
    if database.is_sqlite:
        event.listen(engine, "connect", lambda connection, _record: connection.set_trace_callback(on_statement))
    else:
        event.listen(engine, "before_cursor_execute", lambda *arguments: on_statement(arguments[2]))

    with held_write_lock(database):
        answers = [_submit(impatient, put, name) for name in "abcdefgh"]
        all_are_queued.set()
        errors = [answer.exception(5) for answer in answers]
    impatient.close_now()

    assert [type(error) for error in errors] == [DatabaseBusy] * 8
    assert set(begins) == {"BEGIN IMMEDIATE" if database.is_sqlite else "SELECT pg_advisory_xact_lock(%s)"}
    assert len(begins) <= 2, "the one that came first, perhaps alone, and all the others together"
