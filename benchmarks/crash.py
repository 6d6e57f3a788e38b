"""What random ``kill -9`` of real servers costs, over SQLite and PostgreSQL, while an upstream bills on arrival.

It owns the fight: on each database several homes with runs in them, in each home one ``autopack-mcp serve`` after
another, killed at a random moment of its work, and the reckoning: what the upstream billed beside what the ledger has,
what the plans ask for beside what stands on the branches. ``make bench`` and readers of docs/benchmarks.md run it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random

from sqlalchemy import Connection, select

from autopack_mcp import app
from autopack_mcp.app import Autopack
from autopack_mcp.budgets.ledger import expire_overdue
from autopack_mcp.control.person import Person
from autopack_mcp.control.starting import Starting
from autopack_mcp.database.tables import usage_events
from autopack_mcp.runs.states import RUN_ACTIVE
from autopack_mcp.runs.store import phases_of_run, run_by_id
from autopack_mcp.runs.supervision import SupervisorRecord, supervisor_of
from benchmarks.billing import Billed, BillingUpstream, billing_upstream
from benchmarks.machine import machine
from tests.ledger_truth import assert_ledger_adds_up
from tests.postgres import running_postgres, why_it_cannot_run
from tests.projects import a_phase, a_plan, git, make_repository

HOMES, QUICK_HOMES = 4, 2  # On each database, side by side: a successor waits 6 s for the lease of the dead.
RUNS = 2  # At a time in each home.
PHASES = 4  # Of each run.
ANSWER_S = 0.15  # From the bill to the answer.
CALLS_OF_A_LIFE = 8  # At most, until a server is killed,
AFTER_CALL_S = 0.4  # at most so long after its last one was billed: in the call, or in what follows it.
PATIENCE_S = 120.0  # For a server to supervise, and for the last one to finish what is left.
LOOK_S = 0.05
AFTER_EVERY_LEASE = timedelta(hours=1)
KILLS, QUICK_KILLS = 26, 3  # In each home, unless time is up.
QUICK_S = 14.0  # With --quick no further life begins after so long.
ANN = Person("ann", "a benchmark")


class Anybody:
    """Stands for a supervisor: a plan may be started while there is none, for the next one takes it up."""

    def __init__(self, autopack: Autopack) -> None:
        self._autopack = autopack

    async def ensure(self, *, here: bool = True) -> SupervisorRecord:
        """See ``SupervisorLauncher.ensure``."""
        now = self._autopack.clock.now()
        return SupervisorRecord(app.machine_name(), 0, 1, "http://127.0.0.1:1", "0", (), "", now, now)


@dataclass(slots=True)
class Home:
    """One AUTOPACK_HOME with a database of its own, and the servers that live and die in it."""

    name: str
    folder: Path
    environ: dict[str, str]
    autopack: Autopack
    repository: Path
    random: Random
    upstream: BillingUpstream
    last_life_at: float
    kills: int = 0
    run_ids: list[str] = field(default_factory=list)

    async def fight(self, kills_wanted: int) -> None:
        """Kill one server after another, each while it works; then let the last one finish everything."""
        while self.kills < kills_wanted and (self.kills == 0 or time.perf_counter() < self.last_life_at):
            await self._refill()
            async with self._serving() as process:
                await self._until_billed(self.random.randint(1, CALLS_OF_A_LIFE))
                await asyncio.sleep(self.random.uniform(0.0, AFTER_CALL_S))
                os.kill(process.pid, signal.SIGKILL)
                self.kills += await process.wait() == -signal.SIGKILL
        async with self._serving() as process:
            await self._until_all_stopped()
            process.terminate()
            await process.wait()

    async def _refill(self) -> None:
        """Keep as many runs going as there should be."""
        going = [run_id for run_id in self.run_ids if await self._is_going(run_id)]
        for _ in range(RUNS - len(going)):
            run_name = f"{self.name}-r{len(self.run_ids)}"
            plan = self.folder / f"{run_name}.yaml"
            phases = [a_phase(f"{run_name}-p{number}") for number in range(PHASES)]
            plan.write_text(a_plan(self.repository, phases[: PHASES // 2], phases[PHASES // 2 :]), encoding="utf-8")
            self.run_ids.append((await self._starting().start_file(plan, ANN)).run_id)

    def _starting(self) -> Starting:
        autopack = self.autopack
        return Starting(
            home=autopack.home,
            database=autopack.database,
            clock=autopack.clock,
            settings=autopack.settings,
            supervisors=Anybody(autopack),
            snapshots=app.snapshot_reader(autopack),
        )

    async def _is_working(self) -> bool:
        return any([await self._is_going(run_id) for run_id in self.run_ids])

    async def _is_going(self, run_id: str) -> bool:
        return (await self.autopack.database.read(run_by_id, run_id)).state in RUN_ACTIVE

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """A real server that has become the supervisor of this home."""
        command = [sys.executable, "-m", "autopack_mcp", "serve", "--port", "auto"]
        with (self.folder / "serve.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(*command, env=self.environ, stdout=log, stderr=log)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not await self._is_supervisor(process.pid):
                    if process.returncode is not None:
                        raise RuntimeError(f"a server ended by itself, see {self.folder / 'serve.log'}")
                    await asyncio.sleep(LOOK_S)
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _is_supervisor(self, pid: int) -> bool:
        found = await self.autopack.database.read(supervisor_of, app.machine_name())
        return found is not None and found.pid == pid

    def _billed(self) -> list[Billed]:
        return [call for call in self.upstream.billed() if call.phase_id.startswith(f"{self.name}-")]

    async def _until_billed(self, more: int) -> None:
        """Return when so many more calls have been billed, or nothing is left to be asked."""
        goal = len(self._billed()) + more
        async with asyncio.timeout(PATIENCE_S):
            while len(self._billed()) < goal and await self._is_working():  # noqa: ASYNC110  As below.
                await asyncio.sleep(LOOK_S)

    async def _until_all_stopped(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            # A fact of another process, of which no event can tell.
            while await self._is_working():  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)

    async def reckoning(self) -> Counter[str]:
        """What the upstream billed and the ledger lacks, what stands twice on a branch, and what is missing there."""
        later = self.autopack.clock.now() + AFTER_EVERY_LEASE
        database, books = self.autopack.database, app.ledger(self.autopack)
        await database.write(expire_overdue, books.rules(), later)
        await database.read(assert_ledger_adds_up)
        mine = self._billed()
        counted = Counter(kills=self.kills, billed=len(mine))
        counted["unrecorded"] = (await database.read(_lacking, mine)).total()
        counted["redone"] = len(mine) - len({(call.role, call.phase_id) for call in mine})
        for run_id in self.run_ids:
            counted += await self._on_branch(run_id)
        return counted

    async def _on_branch(self, run_id: str) -> Counter[str]:
        wanted = {phase.phase_id for phase in await self.autopack.database.read(phases_of_run, run_id)}
        trailer = "--format=%(trailers:key=Autopack-Phase,valueonly,separator=%x2C)"
        commits = Counter(git(self.repository, "log", trailer, f"main..autopack/{run_id}").split())
        double = sum(count - 1 for count in commits.values())
        return Counter(double_commits=double, skipped=len(wanted - set(commits)), phases=len(wanted))


def _lacking(connection: Connection, billed: Sequence[Billed]) -> Counter[tuple[str, str]]:
    """Billed requests that have no row of their own, by role and phase.

    An answer that was read is known by its id. One that nobody read has a row without an id, charged in full.
    """
    rows = connection.execute(select(usage_events.c.response_id, usage_events.c.role, usage_events.c.phase_id)).all()
    known = {row.response_id for row in rows}
    unread = Counter((row.role, row.phase_id) for row in rows if row.response_id is None)
    return Counter((call.role, call.phase_id) for call in billed if call.answer_id not in known) - unread


async def _fight(homes: Sequence[Home], kills: int) -> Counter[str]:
    async with asyncio.TaskGroup() as tasks:
        for home in homes:
            tasks.create_task(home.fight(kills))
    total = Counter[str]()
    for home in homes:
        total.update(await home.reckoning())
        await home.autopack.database.close()
    return total


def _home(name: str, folder: Path, database_url: str, upstream: BillingUpstream, last_life_at: float) -> Home:
    folder.mkdir()
    (folder / "home").mkdir()
    (folder / "home" / "models.yaml").write_text(upstream.models_yaml, encoding="utf-8")
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "HOME": str(folder),
        "AUTOPACK_HOME": str(folder / "home"),
        "AUTOPACK_DATABASE_URL": database_url,
    }
    repository = make_repository(folder / "project")
    return Home(name, folder, environ, app.open_autopack(environ), repository, Random(name), upstream, last_life_at)


def _databases(stack: ExitStack, folder: Path, homes: int) -> Iterator[tuple[str, list[str]]]:
    """An engine's name, and the address of one database for each home."""
    yield "sqlite", [f"sqlite:///{folder}/{number}.db" for number in range(homes)]
    if why_it_cannot_run() is None:
        server = stack.enter_context(running_postgres(is_durable=True))
        yield "postgresql", [server.url(server.create()) for _ in range(homes)]


async def measure(*, homes: int, kills: int, lives_s: float = math.inf) -> list[dict[str, object]]:
    """One row for each database; all homes fight at the same time.

    Args:
        homes: on each database.
        kills: in each home.
        lives_s: after so many seconds no further server is started to be killed.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(billing_upstream(folder / "billed.txt", ANSWER_S))
        started = time.perf_counter()
        sides = {
            engine: [
                _home(f"{engine}{number}", folder / f"{engine}{number}", url, upstream, started + lives_s)
                for number, url in enumerate(urls)
            ]
            for engine, urls in _databases(stack, folder, homes)
        }
        totals = await asyncio.gather(*(_fight(homes, kills) for homes in sides.values()))
        seconds = round(time.perf_counter() - started, 1)
        return [_row(engine, total, seconds) for engine, total in zip(sides, totals, strict=True)]


def _row(engine: str, total: Counter[str], seconds: float) -> dict[str, object]:
    numbers = {name: total[name] for name in ("kills", "billed", "unrecorded", "double_commits", "skipped")}
    per_kill = round(total["redone"] / total["kills"], 2)
    return {
        "database": engine,
        **numbers,
        "redone_per_kill": per_kill,
        "phases": total["phases"],
        "seconds": seconds,
        "machine": machine(),
    }


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="fewer kills, in under 50 s")
    arguments = parser.parse_args()
    if arguments.quick:
        rows = asyncio.run(measure(homes=QUICK_HOMES, kills=QUICK_KILLS, lives_s=QUICK_S))
    else:
        rows = asyncio.run(measure(homes=HOMES, kills=KILLS))
    if arguments.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
