"""Whether a cap holds when many processes fight over it and some of them are killed in the middle of a call.

It owns the fight: 32 processes that reserve, "send" and settle calls of random size against one cap until each is
refused, a killer that ends random ones with ``kill -9`` and starts others in their place, and a journal outside the
database that says what was really sent. What the ledger says is then compared with the journal, on each engine.
``make bench`` and readers of docs/benchmarks.md run it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from random import Random

from sqlalchemy import Connection, func, select

from autopack_mcp.budgets.call_rules import RulesInForce
from autopack_mcp.budgets.caps import CallScope
from autopack_mcp.budgets.counters import ScopeUse, scope_use
from autopack_mcp.budgets.ledger import Reservation, expire_overdue, reserve, settle
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
from autopack_mcp.database.tables import breaches, reservations, usage_events
from autopack_mcp.errors import Denial
from autopack_mcp.usage.event import TokenCounts, UsageEvent
from benchmarks.machine import machine
from tests.postgres import running_postgres, why_it_cannot_run

PROCESSES = 32
MEAN_CALL = 1_000  # Tokens; sizes are drawn from a tenth of it to nineteen tenths.
LEASE_S = 1.0  # Of a reservation: what a killed process held comes free, charged, after this.
LOOK_AGAIN_S = 0.005
SCOPE = CallScope("openai", "builder", "run", "r-1", "p-1")
PATIENCE_S = 240.0  # For one fight; far more than any took.


def settings_with(cap_tokens: int) -> Settings:
    """One account whose month is capped; a month, so that no fight is cut in two by midnight."""
    account = ProviderSettings("openai", "openai", "chat", caps=(WindowCap("month", tokens=cap_tokens),))
    return Settings({"openai": account}, {}, {}, {}, {}, FallbackStrategy(), QuotaRouting(), RoleModels())


# ── one process of the fight ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Fighter:
    """Calls until it is refused for good; every call it "sends" stands in the journal before anything else happens."""

    database: Database
    rules: RulesInForce
    journal: int
    random: Random
    number: int
    clock: SystemClock = field(default_factory=SystemClock)
    calls: int = 0

    def fight(self) -> None:
        """Returns when a call does not fit although none is in flight."""
        while (promise := self._promised()) is not None:
            spent = self.random.randint(promise.bound_tokens // 2, promise.bound_tokens)
            os.write(self.journal, f"{promise.call_id} {spent}\n".encode())
            self.database.write_now(settle, self._truth(promise, spent), self.rules, self.clock.now())

    def _promised(self) -> Reservation | None:
        self.calls += 1
        size = self.random.randint(MEAN_CALL // 10, MEAN_CALL * 19 // 10)
        promise = Reservation(f"{self.number}-{self.calls}", SCOPE, "gpt-4o", size, 0, None, LEASE_S)
        while True:
            outcome = self.database.write_now(self._reserved, promise)
            if not isinstance(outcome, Denial):
                return promise
            if not outcome.is_due_to_calls_in_flight:
                return None
            time.sleep(LOOK_AGAIN_S)
            self.database.write_now(expire_overdue, self.rules, self.clock.now())

    def _reserved(self, connection: Connection, promise: Reservation) -> object:
        now = self.clock.now()
        outcome = reserve(connection, promise, self.rules, None, now)
        # Looked at inside the transaction, so that no moment is missed at which the cap did not hold.
        (cap,) = self.rules(connection, SCOPE, now).caps
        used = scope_use(connection, SCOPE, cap, now).used_tokens
        if used > (cap.allowance_tokens or 0):
            os.write(self.journal, b"violation 0\n")
        return outcome

    def _truth(self, promise: Reservation, spent: int) -> UsageEvent:
        counts = TokenCounts(uncached_input=spent)
        return UsageEvent(
            promise.call_id, "openai", "gpt-4o", "builder", "run", "ok", "provider", counts, self.clock.now(),
            run_id="r-1", phase_id="p-1",
        )  # fmt: skip


def fighter(url: str, journal: Path, cap: int, number: int) -> None:
    """The body of one process: its database, its journal, the cap and its number."""
    database = open_database(url, busy_timeout_s=60.0)
    descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND)
    Fighter(database, RulesInForce(settings_with(cap)), descriptor, Random(number), number).fight()
    database.close_now()


# ── the fight ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Fight:
    """Many processes at one cap, and somebody who kills them."""

    url: str
    journal: Path
    cap: int
    kills_wanted: int
    random: Random = field(default_factory=lambda: Random(7))
    running: list[ForkProcess] = field(default_factory=list)
    started: int = 0
    kills: int = 0

    def run(self) -> None:
        """Start them, kill some, and wait until every one that is left has been refused."""
        self.journal.touch()
        for _ in range(PROCESSES):
            self._start()
        deadline = time.monotonic() + PATIENCE_S
        while self.running:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.running)} processes are still at it")
            if self.kills < self.kills_wanted and self._has_begun():
                self._kill_one()
            time.sleep(self.random.uniform(0.005, 0.05))
            self.running = [process for process in self.running if not self._has_ended(process)]

    def _start(self) -> None:
        self.started += 1
        # Forked, for starting an interpreter 32 times would take longer than the fight.
        process = get_context("fork").Process(target=fighter, args=(self.url, self.journal, self.cap, self.started))
        process.start()
        self.running.append(process)

    def _has_begun(self) -> bool:
        return self.journal.stat().st_size > 0

    def _kill_one(self) -> None:
        victim = self.random.choice(self.running)
        victim.kill()
        victim.join()
        self.running.remove(victim)
        if victim.exitcode == -signal.SIGKILL:
            self.kills += 1
            self._start()

    def _has_ended(self, process: ForkProcess) -> bool:
        if process.exitcode:
            raise RuntimeError(f"a process ended with {process.exitcode}")
        return process.exitcode == 0

    def result(self, engine: str) -> dict[str, object]:
        """What the journal and the ledger say when the last lease has ended."""
        database = open_database(self.url)
        rules, now = RulesInForce(settings_with(self.cap)), SystemClock().now()
        database.write_now(expire_overdue, rules, now + timedelta(seconds=2 * LEASE_S))
        use, wrong = database.read_now(_checked, rules)
        database.close_now()
        lines = [line.split() for line in self.journal.read_text(encoding="ascii").splitlines()]
        truth = sum(int(spent) for call, spent in lines if call != "violation")
        violations = sum(call == "violation" for call, _ in lines) + wrong
        violations += (truth > use.settled_tokens) + (use.used_tokens > self.cap)
        return {
            "database": engine,
            "processes": PROCESSES,
            "cap": self.cap,
            "mean_call": MEAN_CALL,
            "truth": truth,
            "charged": use.settled_tokens,
            "used_fraction": round(use.settled_tokens / self.cap, 4),
            "violations": violations,
            "kills": self.kills,
        }


def _checked(connection: Connection, rules: RulesInForce) -> tuple[ScopeUse, int]:
    """The counter, and how many invariants it breaks: breaches, promises nobody ended, a sum unlike the events'."""
    now = SystemClock().now()
    (cap,) = rules(connection, SCOPE, now).caps
    use = scope_use(connection, SCOPE, cap, now)
    held = connection.execute(select(func.count()).where(reservations.c.state == "held")).scalar_one()
    found = connection.execute(select(func.count()).select_from(breaches)).scalar_one()
    events = connection.execute(select(func.sum(usage_events.c.charged_tokens))).scalar_one()
    return use, int(held) + int(found) + (int(events or 0) != use.settled_tokens)


def measure(*, quick: bool) -> list[dict[str, object]]:
    """One row for each engine and cap."""
    rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for engine, url_of in _engines(stack, folder):
            large = 500 if quick and engine == "postgresql" else 2_000  # A server takes its time with 32 processes.
            for mean_calls, kills in ((200, 16), (large, 24 if quick else 120)):
                fight = Fight(url_of(mean_calls), folder / f"{engine}-{mean_calls}.txt", MEAN_CALL * mean_calls, kills)
                started = time.perf_counter()
                fight.run()
                seconds = round(time.perf_counter() - started, 1)
                rows.append({**fight.result(engine), "seconds": seconds, "machine": machine()})
    return rows


def _engines(stack: ExitStack, folder: Path) -> Iterator[tuple[str, Callable[[int], str]]]:
    """An engine's name, and how to make an empty database of it."""
    yield "sqlite", lambda number: f"sqlite:///{folder}/{number}.db"
    if why_it_cannot_run() is None:
        server = stack.enter_context(running_postgres(is_durable=True))
        yield "postgresql", lambda _: server.url(server.create())


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line of JSON for each row instead of a table")
    parser.add_argument("--quick", action="store_true", help="fewer kills, in under 50 s")
    arguments = parser.parse_args()
    rows = measure(quick=arguments.quick)
    if arguments.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
