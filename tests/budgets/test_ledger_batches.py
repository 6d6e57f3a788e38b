"""Many bookings in one transaction leave the rows that the same ones leave one by one, whoever is among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

import pytest
from sqlalchemy import Connection, select

from autopack_mcp.budgets import ledger
from autopack_mcp.budgets.call_rules import RulesInForce
from autopack_mcp.config.settings import WindowCap
from autopack_mcp.database.batch import Batch, foresight_of
from autopack_mcp.database.engine import Database
from autopack_mcp.database.migrate import open_database
from autopack_mcp.database.tables import budget_scopes, usage_days
from autopack_mcp.errors import AutopackError, Denial
from tests.factories import (
    NOON,
    call_scope,
    insert_run,
    provider_settings,
    reservation,
    settings,
    truth_of,
    usage_event,
)
from tests.ledger_truth import assert_ledger_adds_up, everything

Step = tuple[Callable[..., Any], tuple[Any, ...]]
CONFIG = settings(
    provider_settings(WindowCap("day", 1_500), WindowCap("week", 9_000)),
    role_caps={"auditor": (WindowCap("month", 700),)},
)
RULES = RulesInForce(CONFIG)
LATER = NOON + timedelta(minutes=2)
PATIENCE_S = 20.0


def rounds(seed: int) -> list[list[Step]]:
    """Three transactions' worth of steps; each round is about what the one before has left."""
    random = Random(seed)
    roles = [call_scope(role=random.choice(["builder", "auditor"]), phase_id=f"P{number % 3}") for number in range(24)]
    asked = [reservation(f"c-{number}", scope=scope, bound_input=random.randint(0, 200)) for number, scope in
             enumerate(roles)]  # fmt: skip
    promised: list[Step] = [(ledger.reserve, (one, RULES, None, NOON)) for one in asked]
    truths: list[Step] = [
        (ledger.settle, (truth_of(one, tokens=random.randint(0, 300)), RULES, NOON)) for one in asked[:8]
    ]
    foreign: list[Step] = [(ledger.book_external, (usage_event(f"x-{number}"), RULES, NOON)) for number in range(8)]
    late: list[Step] = [(ledger.settle, (truth_of(one, tokens=10), RULES, LATER)) for one in asked[8:14]]
    second: list[Step] = [*truths, *foreign, (read_a_counter, ()), (ledger.expire_overdue, (RULES, LATER))]
    random.shuffle(second)
    return [promised, second, [*late, (ledger.book_external, (usage_event("x-0"), RULES, NOON))]]


def read_a_counter(connection: Connection) -> int:
    """An operation that takes no part and looks at the rows themselves."""
    counted = connection.execute(select(budget_scopes.c.settled_tokens)).scalars().all()
    summed = connection.execute(select(usage_days.c.charged_tokens)).scalars().all()
    return sum(counted) + sum(summed)


def one_by_one(database: Database, steps: Sequence[Step]) -> list[str]:
    return [said(partial(database.write_now, operation, *arguments)) for operation, arguments in steps]


def foreseeing(operation: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[[Batch], None] | None:
    foresight = foresight_of(operation)
    return None if foresight is None else lambda batch: foresight(batch, *arguments)


def all_at_once(database: Database, steps: Sequence[Step]) -> list[str]:
    """The writer is held until every step waits for it, so that one transaction takes them all."""
    with writer_held(database):
        answers: list[Future[Any]] = [
            database._writer.submit(partial(done, operation, arguments), foresee=foreseeing(operation, arguments))
            for operation, arguments in steps
        ]
    return [said(partial(answer.result, PATIENCE_S)) for answer in answers]


def done(operation: Callable[..., Any], arguments: tuple[Any, ...], connection: Connection) -> Any:
    return operation(connection, *arguments)


@contextmanager
def writer_held(database: Database) -> Iterator[None]:
    is_held, go_on = Event(), Event()

    def hold(_connection: Connection) -> None:
        is_held.set()
        go_on.wait(PATIENCE_S)

    held = database._writer.submit(hold)
    assert is_held.wait(PATIENCE_S)
    yield
    go_on.set()
    held.result(PATIENCE_S)


def said(answer: Callable[[], Any]) -> str:
    try:
        found = answer()
    except AutopackError as error:
        return str(error)
    return found.why if isinstance(found, Denial) else str(found)


@pytest.mark.parametrize("seed", range(12))
def test_a_batch_leaves_what_its_operations_leave_one_by_one(database: Database, tmp_path: Path, seed: int) -> None:
    other = open_database(f"sqlite:///{tmp_path}/other.db")
    for opened in (database, other):
        opened.write_now(insert_run, token_cap=3_000)
    for steps in rounds(seed):
        assert all_at_once(database, steps) == one_by_one(other, steps)
        database.read_now(assert_ledger_adds_up)
    together, apart = database.read_now(everything), other.read_now(everything)
    other.close_now()
    if database.is_sqlite:
        assert together == apart
    assert {name: len(rows) for name, rows in together.items()} == {name: len(rows) for name, rows in apart.items()}


def test_an_operation_that_fails_takes_nobody_along(database: Database) -> None:
    steps: list[Step] = [
        (ledger.reserve, (reservation("c-1"), RULES, None, NOON)),
        (ledger.settle, (usage_event("never reserved"), RULES, NOON)),
        (ledger.reserve, (reservation("c-2"), RULES, None, NOON)),
    ]
    first, refused, second = all_at_once(database, steps)
    assert (first, second) == (str(NOON), str(NOON))
    assert "never reserved" in refused
    database.read_now(assert_ledger_adds_up)


def test_a_cap_holds_inside_one_transaction(database: Database) -> None:
    rules = RulesInForce(settings(provider_settings(WindowCap("week", 1_050))))
    steps: list[Step] = [(ledger.reserve, (reservation(f"c-{number}"), rules, None, NOON)) for number in range(40)]
    answers = all_at_once(database, steps)
    assert answers.count(str(NOON)) == 10
    database.read_now(assert_ledger_adds_up)
