"""How many durable bookings a second the ledger takes from 32 callers, beside plain sqlite3 writing the same rows.

It owns the load and the floor: the same rows into the same schema with ``synchronous=FULL``, one transaction per 32,
by nothing but the sqlite3 module. Ours and the floor alternate in one run, because only their ratio survives a noisy
machine. ``make bench`` and readers of docs/benchmarks.md run it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path

from autopack_mcp.budgets.caps import CallScope
from autopack_mcp.budgets.ledger import Ledger, Reservation, book_external
from autopack_mcp.clock import SystemClock
from autopack_mcp.config.settings import (
    FallbackStrategy,
    ProviderSettings,
    QuotaRouting,
    RoleModels,
    Settings,
    WindowCap,
)
from autopack_mcp.database.engine import Database
from autopack_mcp.database.migrate import open_database
from autopack_mcp.usage.event import TokenCounts, UsageEvent
from benchmarks.machine import machine

CALLERS = 32
ROUNDS = 5
_numbers = count()
SETTINGS = Settings(
    providers={"openai": ProviderSettings("openai", "openai", "chat", caps=(WindowCap("week", tokens=10**15),))},
    models={},
    complexity_models={},
    category_models={},
    agent_models={},
    fallback_strategy=FallbackStrategy(),
    quota_routing=QuotaRouting(),
    high_risk=RoleModels(),
)


def usage_event(at: datetime) -> UsageEvent:
    """One call of one of forty phases in ten runs, six models, as a provider reports it."""
    number = next(_numbers)
    return UsageEvent(
        call_id=f"c-{number}",
        provider="openai",
        model=f"model-{number % 6}",
        role=("builder", "auditor")[number % 2],
        purpose="run",
        status="ok",
        usage_source="provider",
        counts=TokenCounts(uncached_input=1_000 + number % 997, cache_read=200, output=400, reasoning=100),
        occurred_at=at,
        run_id=f"r-{number % 10}",
        phase_id=f"p-{number % 40}",
        attempt=1,
        category="general",
        response_id=f"resp-{number}",
        cost_nano=4_200_000,
        price_version="benchmark",
        raw_usage={"prompt_tokens": 1_200, "completion_tokens": 400, "total_tokens": 1_600},
        started_at=at,
    )


@dataclass
class Tally:
    """Seconds and latencies of one kind of work over all rounds."""

    done: int = 0
    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """How many a second, waiting included."""
        return self.done / self.seconds

    def p99_ms(self) -> float:
        """The latency that one in a hundred exceeds."""
        return statistics.quantiles(self.latencies_s, n=100)[98] * 1_000


async def by_callers(work: Callable[[Tally], Awaitable[None]], times: int, tally: Tally) -> None:
    """Do ``work`` so many times, shared among the callers; each begins anew as soon as it was answered."""

    async def caller() -> None:
        for _ in range(times // CALLERS):
            await work(tally)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as callers:
        for _ in range(CALLERS):
            callers.create_task(caller())
    tally.seconds += time.perf_counter() - started
    tally.done += times // CALLERS * CALLERS


class Ours:
    """The ledger over a database of its own, as the door uses it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "ours.db"
        self.database: Database = open_database(f"sqlite:///{self.file}")
        self.clock = SystemClock()
        self.ledger = Ledger(self.database, self.clock, lambda: SETTINGS)
        self._rules = self.ledger.rules()
        self._events: list[UsageEvent] = []

    def prepare(self, times: int) -> None:
        """Have so many events at hand, as the floor has its rows."""
        self._events = [usage_event(self.clock.now()) for _ in range(times)]

    async def book(self, tally: Tally) -> None:
        """One event of a call made elsewhere: the row, its three sums and its counters, and back after the commit."""
        event = self._events.pop()
        await self._timed(tally, self.database.write(book_external, event, self._rules, event.occurred_at))

    async def call(self, tally: Tally) -> None:
        """One whole pair, as a call leaves it behind: reserved, then settled."""
        event = self._events.pop()
        scope = CallScope(event.provider, event.role, event.purpose, event.run_id, event.phase_id)
        promise = Reservation(event.call_id, scope, event.model, 4_000, 4_096, 80_000_000, 660.0, 1, event.category)
        await self._timed(tally, self.ledger.reserve(promise))
        await self._timed(tally, self.ledger.settle(event))

    async def _timed(self, tally: Tally, work: Awaitable[object]) -> None:
        started = time.perf_counter()
        await work
        tally.latencies_s.append(time.perf_counter() - started)


class Floor:
    """The same rows by plain sqlite3, FULL, one transaction per 32 and nothing else."""

    def __init__(self, folder: Path) -> None:
        file = folder / "floor.db"
        open_database(f"sqlite:///{file}").close_now()
        self.connection = sqlite3.connect(file, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = FULL")
        self.connection.execute("INSERT INTO budget_scopes VALUES ('the week', 0, 0, 0, 0)")

    def write(self, rows: list[dict[str, object]], tally: Tally) -> None:
        """Insert the events, add each to its hour, day and phase and to a counter."""
        statements = [_insert_sql(rows[0]), *map(_upsert_sql, _SUM_TABLES.items()), _COUNTER_SQL]
        started = time.perf_counter()
        for batch in _batches(rows):
            self.connection.execute("BEGIN IMMEDIATE")
            for row in batch:
                for statement in statements:
                    self.connection.execute(statement, row)
            self.connection.execute("COMMIT")
        tally.seconds += time.perf_counter() - started
        tally.done += len(rows)


_HOUR_US = 3_600_000_000
_KEYS = "purpose, provider, model, role"
_SUM_TABLES = {
    "usage_hours": (f"hour_start, {_KEYS}, category", f":occurred_at - :occurred_at % {_HOUR_US}"),
    "usage_days": (f"day_start, {_KEYS}, category", f":occurred_at - :occurred_at % {24 * _HOUR_US}"),
    "usage_phases": (f"run_id, phase_id, {_KEYS}", ":run_id, :phase_id"),
}
_SUMS = {
    "calls": "1",
    "failed_calls": "0",
    "unpriced_calls": "0",
    "uncached_input": ":uncached_input",
    "cache_read": ":cache_read",
    "cache_write": ":cache_write_5m",
    "output": ":output",
    "reasoning": ":reasoning",
    "charged_tokens": ":charged_tokens",
    "charged_nano": ":charged_nano",
    "cost_nano": ":cost_nano",
}
_COUNTER_SQL = """
    UPDATE budget_scopes SET settled_tokens = settled_tokens + :charged_tokens,
    settled_nano = settled_nano + :charged_nano WHERE scope = 'the week'
"""


def _insert_sql(row: dict[str, object]) -> str:
    return f"INSERT INTO usage_events ({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})"


def _upsert_sql(table: tuple[str, tuple[str, str]]) -> str:
    name, (keys, first_values) = table
    shared = [f":{key}" for key in ("purpose", "provider", "model", "role")]
    values = [first_values, *shared, *([":category"] if "category" in keys else []), *_SUMS.values()]
    added = ", ".join(f"{column} = {column} + excluded.{column}" for column in _SUMS)
    return (
        f"INSERT INTO {name} ({keys}, {', '.join(_SUMS)}) VALUES ({', '.join(values)})"
        f" ON CONFLICT ({keys}) DO UPDATE SET {added}"
    )


def _batches(rows: list[dict[str, object]]) -> Iterator[list[dict[str, object]]]:
    for start in range(0, len(rows), CALLERS):
        yield rows[start : start + CALLERS]


def newest_rows(file: Path, limit: int) -> list[dict[str, object]]:
    """What ours has just written, to be written again by the floor."""
    connection = sqlite3.connect(file)
    connection.row_factory = sqlite3.Row
    found = connection.execute("SELECT * FROM usage_events ORDER BY rowid DESC LIMIT ?", (limit,)).fetchall()
    connection.close()
    return [dict(row) for row in found]


def commit_each(ours: Ours, times: int, tally: Tally) -> None:
    """The same booking by one caller that waits for each commit."""
    started = time.perf_counter()
    for _ in range(times):
        ours.ledger.book_external(usage_event(ours.clock.now()))
    tally.seconds += time.perf_counter() - started
    tally.done += times


async def measured(folder: Path, times: int) -> dict[str, object]:
    """Ours and the floor in turn, ``ROUNDS`` times."""
    ours, floor = Ours(folder), Floor(folder)
    events, each, calls, plain = Tally(), Tally(), Tally(), Tally()
    ours.prepare(CALLERS * 10)
    await by_callers(ours.book, CALLERS * 10, Tally())  # The first of everything is slower.
    for _ in range(ROUNDS):
        ours.prepare(2 * times)
        await by_callers(ours.book, times, events)
        floor.write(newest_rows(ours.file, times), plain)
        await by_callers(ours.call, times, calls)
        await asyncio.to_thread(commit_each, ours, times // 8, each)
    await ours.database.close()
    return {
        "events_per_s": round(events.per_s),
        "commit_each_per_s": round(each.per_s),
        "floor_per_s": round(plain.per_s),
        "floor_ratio": round(events.per_s / plain.per_s, 2),
        "calls_per_s": round(calls.per_s),
        "p99_ms": round(max(events.p99_ms(), calls.p99_ms()), 2),
        "callers": CALLERS,
        "machine": machine(),
    }


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="fewer rounds of everything, in under 50 s")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measured(Path(folder), CALLERS * (50 if arguments.quick else 400)))
    if arguments.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:<20} {value}")


if __name__ == "__main__":
    main()
