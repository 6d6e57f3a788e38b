"""What more workers bring: phases per second and their cost, how soon a killed one is replaced, what is done twice.

It owns the race: real ``autopack-mcp worker`` processes, each on a machine of its own by name and home, on one durable
PostgreSQL, against an upstream that answers after 300 ms; runs in one repository behind a file URL. ``make bench`` and
readers of docs/benchmarks.md run it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from autopack_mcp import app
from autopack_mcp.app import Autopack
from autopack_mcp.control.starting import Starting
from autopack_mcp.runs.states import RUN_ACTIVE
from autopack_mcp.runs.store import run_by_id
from benchmarks.billing import BillingUpstream, billing_upstream
from benchmarks.crash import ANN, Anybody
from benchmarks.machine import machine
from tests.postgres import PostgresServer, running_postgres
from tests.projects import a_phase, a_plan, git, make_repository

ANSWER_S = 0.3
PHASES = 5  # Of each run.
RUNS_EACH = 2  # For each worker that has one place, so that it has to find a second run; crowded places get one each.
ALONE = ((1, 1), (2, 1), (4, 1), (8, 1))  # Workers, and runs of each at the same time.
CROWDED = ((1, 16), (2, 16))
QUICK = ((1, 1), (4, 1))
PATIENCE_S = 240.0
LOOK_S = 0.05
BUSY = 0.85  # Of all processors, at which they are what limits: the rest is lost to waiting in between.
FREE_OF_QUEUES = 0.75  # Of what as many places would reach that never waited for each other.
SHARING = "\nruns:\n  at_once: 64\n  per_repository: 64\n"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Race:
    """One database, one repository, some workers; and what they have done."""

    autopack: Autopack
    folder: Path
    server: Path
    upstream: BillingUpstream
    workers: Sequence[asyncio.subprocess.Process]

    async def start(self, name: str, phases: int) -> str:
        """Put a run into the queue."""
        plan = self.folder / f"{name}.yaml"
        listed = [a_phase(f"{name}-p{number}") for number in range(phases)]
        plan.write_text(a_plan(f"file://{self.server}", listed), encoding="utf-8")
        autopack = self.autopack
        starting = Starting(
            home=autopack.home,
            database=autopack.database,
            clock=autopack.clock,
            settings=autopack.settings,
            supervisors=Anybody(autopack),
            snapshots=app.snapshot_reader(autopack),
        )
        return (await starting.start_file(plan, ANN)).run_id

    async def until_stopped(self, run_ids: Sequence[str]) -> None:
        """Return when nobody advances any of them.

        Raises:
            RuntimeError: one did not succeed; says why.
        """
        async with asyncio.timeout(PATIENCE_S):
            for run_id in run_ids:
                # A fact of another process, of which no event can tell.
                while (run := await self.autopack.database.read(run_by_id, run_id)).state in RUN_ACTIVE:  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_S)
                if run.state != "succeeded":
                    raise RuntimeError(f"run {run_id} is {run.state}: {run.why}")

    def done_twice(self, run_ids: Sequence[str]) -> int:
        """Calls that were billed again for the same phase and role, and commits of a phase beyond its first."""
        billed = self.upstream.billed()
        calls = len(billed) - len({(call.role, call.phase_id) for call in billed})
        trailer = "--format=%(trailers:key=Autopack-Phase,valueonly,separator=%x2C)"
        commits = Counter(
            phase
            for run_id in run_ids
            for phase in git(self.server, "log", trailer, f"main..autopack/{run_id}").split()
        )
        return calls + sum(count - 1 for count in commits.values())

    async def takeover_s(self, name: str) -> float | None:
        """Seconds from the death of the worker that holds a run until another one has it; None for one alone."""
        if len(self.workers) < 2:
            return None
        run_id = await self.start(name, PHASES)
        by_pid = {worker.pid: worker for worker in self.workers}
        async with asyncio.timeout(PATIENCE_S):
            # Facts of other processes, of which no event can tell.
            while (owner := await self._owner(run_id)) is None:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)
            await asyncio.sleep(ANSWER_S)  # In the middle of its work.
            by_pid[int(owner.rsplit("-", 1)[1].partition(":")[0])].send_signal(signal.SIGKILL)
            killed = time.perf_counter()
            while await self._owner(run_id) in (owner, None):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)
            taken_s = time.perf_counter() - killed
        await self.until_stopped([run_id])
        return round(taken_s, 1)

    async def _owner(self, run_id: str) -> str | None:
        return (await self.autopack.database.read(run_by_id, run_id)).lease_owner


@asynccontextmanager
async def _race(
    folder: Path, address: str, server: Path, upstream: BillingUpstream, workers: int, concurrency: int
) -> AsyncIterator[Race]:
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "HOME": str(folder),
        "AUTOPACK_DATABASE_URL": address,
    }
    async with AsyncExitStack() as stack:
        for home in ["home", *(f"m{number}" for number in range(workers))]:
            (folder / home).mkdir(parents=True)
            (folder / home / "models.yaml").write_text(upstream.models_yaml + SHARING, encoding="utf-8")
        autopack = app.open_autopack({**environ, "AUTOPACK_HOME": str(folder / "home")})
        stack.push_async_callback(autopack.database.close)
        started = await asyncio.gather(
            *(
                stack.enter_async_context(_worker(folder / f"m{number}", environ, concurrency))
                for number in range(workers)
            )
        )
        yield Race(autopack, folder, server, upstream, started)


@asynccontextmanager
async def _worker(home: Path, environ: dict[str, str], concurrency: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker that is ready."""
    command = [sys.executable, "-m", "autopack_mcp", "worker", "--concurrency", str(concurrency)]
    seen = {**environ, "AUTOPACK_HOME": str(home), "AUTOPACK_MACHINE": home.name}
    with (home / "worker.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *command, env=seen, stdout=asyncio.subprocess.PIPE, stderr=log, cwd=home
        )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            if not (await process.stdout.readline()).startswith(b"Working as"):
                raise RuntimeError(f"a worker did not begin: {(home / 'worker.log').read_text()[-2000:]}")
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def _row(race: Race, workers: int, concurrency: int, *, with_takeover: bool) -> dict[str, object]:
    # Each worker loads its SDKs and makes its mirror with its first run, which is no phase's cost.
    warm = [await race.start(f"w{workers}c{concurrency}warm{number}", 1) for number in range(workers)]
    await race.until_stopped(warm)
    before, busy_before = sum(map(_cpu_s, race.workers)), _machine_cpu_s()
    started = time.perf_counter()
    wanted = workers * (concurrency if concurrency > 1 else RUNS_EACH)
    run_ids = [await race.start(f"w{workers}c{concurrency}r{number}", PHASES) for number in range(wanted)]
    await race.until_stopped(run_ids)
    took_s = time.perf_counter() - started
    phases = wanted * PHASES
    cpu_s, busy_s = sum(map(_cpu_s, race.workers)) - before, _machine_cpu_s() - busy_before
    doubles = race.done_twice([*warm, *run_ids])
    return {
        "workers": workers,
        "concurrency": concurrency,
        "phases_per_s": round(phases / took_s, 2),
        "cpu_ms_per_phase": round(1000 * cpu_s / phases),
        "machine_busy_percent": round(100 * busy_s / took_s / (os.cpu_count() or 1)),
        "takeover_s": await race.takeover_s(f"w{workers}c{concurrency}t") if with_takeover else None,
        "double_executions": doubles,
    }


def _cpu_s(process: asyncio.subprocess.Process) -> float:
    """Processor seconds of a worker and of the commands that it has waited for (proc(5), fields 14 to 17)."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / TICKS_PER_S


def _machine_cpu_s() -> float:
    """Processor seconds in which any processor of this machine was not idle (proc(5), /proc/stat)."""
    user, nice, system, _idle, _iowait, *rest = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(rest)) / TICKS_PER_S


def limit_of(row: dict[str, object], one_place: float) -> str:
    """What keeps a row from more phases per second, where ``one_place`` is what one run alone reaches."""
    places = int(str(row["workers"])) * int(str(row["concurrency"]))
    if float(str(row["machine_busy_percent"])) >= 100 * BUSY:
        return "the processors"
    if float(str(row["phases_per_s"])) >= FREE_OF_QUEUES * places * one_place:
        return "the upstream's answers"
    return "one writer at a time in the database"


async def measure(
    shapes: Sequence[tuple[int, int]], *, takeover_for: Sequence[tuple[int, int]]
) -> list[dict[str, object]]:
    """One row for each number of workers and of runs at the same time in each."""
    rows = []
    with tempfile.TemporaryDirectory() as name, running_postgres(is_durable=True) as server:
        for workers, concurrency in shapes:
            folder = Path(name) / f"{workers}-{concurrency}"
            folder.mkdir()
            rows.append(
                await _measured(
                    folder, server, workers, concurrency, with_takeover=(workers, concurrency) in takeover_for
                )
            )
    one_place = float(str(rows[0]["phases_per_s"]))
    return [{**row, "limited_by": limit_of(row, one_place), "machine": machine()} for row in rows]


async def _measured(
    folder: Path, server: PostgresServer, workers: int, concurrency: int, *, with_takeover: bool
) -> dict[str, object]:
    make_repository(folder / "project")
    git(folder, "clone", "--quiet", "--bare", "project", "server.git")
    address = server.url(server.create())
    with billing_upstream(folder / "billed.txt", ANSWER_S) as upstream:
        async with _race(folder, address, folder / "server.git", upstream, workers, concurrency) as race:
            return await _row(race, workers, concurrency, with_takeover=with_takeover)


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="two rows, in under 50 s")
    arguments = parser.parse_args()
    if arguments.quick:
        rows = asyncio.run(measure(QUICK, takeover_for=QUICK[-1:]))
    else:
        shapes = (*ALONE, *CROWDED)
        rows = asyncio.run(measure(shapes, takeover_for=shapes))
    if arguments.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
