"""The same operations end in the same rows on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import Table

from autopack_mcp.budgets import ledger
from autopack_mcp.budgets.call_rules import RulesInForce
from autopack_mcp.budgets.ledger import Reservation
from autopack_mcp.budgets.standing_orders import StandingOrder, add_order, withdraw_order
from autopack_mcp.config.settings import Settings, WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.database.migrate import open_database
from autopack_mcp.database.tables import metadata
from autopack_mcp.errors import Denial, UsageConflict
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
from tests.ledger_truth import everything, rollups, true_rollups
from tests.postgres import PostgresServer

SEEDS = range(6)
STEPS = 60
COUNTED_BY_ENGINE = {"alert_id", "breach_id", "firing_id", "message_id", "subject_id"}


class Play:
    """A random life of the ledger; two of the same seed do the same, whatever they are told."""

    def __init__(self, database: Database, seed: int) -> None:
        self.database = database
        self.random = Random(seed)
        self.now = NOON
        self.asked: list[Reservation] = []
        self.orders: list[int] = []
        self.config = self.capped()
        self.answers: list[str] = []

    def run(self) -> None:
        for run_id in ("R1", "R2"):
            self.database.write_now(insert_run, run_id, token_cap=self.random.randint(500, 3_000))
        steps = (self.reserve, self.reserve, self.settle, self.settle, self.release, self.expire, self.external,
                 self.jump, self.configure, self.order)  # fmt: skip
        for number in range(STEPS):
            self.random.choice(steps)(number)

    def capped(self) -> Settings:
        week = WindowCap("week", self.random.randint(500, 4_000), self.random.choice([None, 50_000_000]))
        return settings(
            provider_settings(WindowCap("day", 2_000), week, share="0.9"),
            role_caps={"auditor": (WindowCap("month", self.random.randint(200, 2_000)),)},
            global_caps=(WindowCap("week", self.random.randint(1_000, 5_000)),),
        )

    def write(self, operation: Any, *arguments: Any) -> Any:
        try:
            answer = self.database.write_now(operation, *arguments)
        except UsageConflict as error:
            answer = error
        self.answers.append(answer.why if isinstance(answer, Denial) else str(answer))
        return answer

    def rules(self) -> RulesInForce:
        return RulesInForce(self.config)

    def reserve(self, number: int) -> None:
        run_id = self.random.choice(["R1", "R2", "a label", None])
        scope = call_scope(run_id=run_id, phase_id=self.random.choice(["P1", "P/2"]) if run_id else None,
                           role=self.random.choice(["builder", "auditor"]),
                           purpose=self.random.choice(["run", "run", "rehearsal"]))  # fmt: skip
        nano = self.random.choice([None, 1_000_000])
        asked = reservation(f"c-{number}", scope=scope, bound_input=self.random.randint(0, 300), bound_nano=nano)
        if isinstance(self.write(ledger.reserve, asked, self.rules(), None, self.now), datetime):
            self.asked.append(asked)

    def settle(self, number: int) -> None:
        if self.asked:
            asked = self.random.choice(self.asked)
            source = self.random.choice(["provider", "partial"])
            event = truth_of(asked, tokens=self.random.randint(0, 400), usage_source=source, raw_usage={"n": number})
            self.write(ledger.settle, event, self.rules(), self.now)

    def release(self, number: int) -> None:
        if self.asked:
            self.write(ledger.release, self.random.choice(self.asked).call_id, self.now)

    def expire(self, number: int) -> None:
        self.write(ledger.expire_overdue, self.rules(), self.now)

    def external(self, number: int) -> None:
        event = usage_event(f"x-{number}", scope=call_scope(run_id="R1"), cost_nano=self.random.choice([None, 700]),
                            tool_calls={"search": number}, occurred_at=self.now)  # fmt: skip
        self.write(ledger.book_external, event, self.rules(), self.now)

    def jump(self, number: int) -> None:
        self.now += timedelta(seconds=self.random.choice([1, 61, 3_600, 86_400, -61]))

    def configure(self, number: int) -> None:
        self.config = self.capped()

    def order(self, number: int) -> None:
        if self.orders and self.random.random() < 0.5:
            self.write(withdraw_order, self.orders.pop(), self.now)
            return
        order = StandingOrder(0, self.random.choice(["pause", "cancel", "tell"]), "provider", "percent",
                              self.random.randint(10, 100), self.random.choice([None, "R1"]), "ann", "a test", self.now,
                              "openai", "week")  # fmt: skip
        self.orders.append(self.write(add_order, order))


@contextmanager
def opened(url: str) -> Iterator[Database]:
    database = open_database(url)
    try:
        yield database
    finally:
        database.close_now()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_operations_leave_the_same_rows_on_both_engines(
    seed: int, tmp_path: Path, postgres: PostgresServer, empty_postgres: str
) -> None:
    name = postgres.create(empty_postgres)
    with opened(f"sqlite:///{tmp_path}/ours.db") as one, opened(postgres.url(name)) as other:
        plays = [Play(one, seed), Play(other, seed)]
        for play in plays:
            play.run()
            assert play.database.read_now(rollups) == play.database.read_now(true_rollups)
        assert plays[0].answers == plays[1].answers
        first, second = (play.database.read_now(everything) for play in plays)
    postgres.drop(name)
    assert first.keys() == second.keys()
    for table in metadata.sorted_tables:
        assert _plain(table, first[table.name]) == _plain(table, second[table.name])


def _plain(table: Table, rows: Sequence[tuple[Any, ...]]) -> list[str]:
    """Rows as texts, without the numbers that an engine counts by itself and how it hands out JSON and truth."""
    kept = [index for index, column in enumerate(table.columns) if column.name not in COUNTED_BY_ENGINE]
    return sorted(repr([_text(row[index]) for index in kept]) for row in rows)


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value).replace("'", '"')
