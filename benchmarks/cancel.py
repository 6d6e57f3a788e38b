"""How long a person waits until a cancelled run is cancelled and nothing of it lives, in bubblewrap and without.

It owns a command that resists (children that ignore SIGTERM, leave their group, wipe their environment, lose their
parent and hold the output) and looks at /proc from outside; the runs go through a real ``autopack-mcp serve``, in
rehearsal. Linux only. ``make bench`` and readers of docs/benchmarks.md run it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from autopack_mcp.sandbox import detect_sandbox
from benchmarks.machine import machine
from tests.projects import a_phase, a_plan, make_repository
from tests.runs.house import ANN, House, reopen_house
from tests.runs.programs import ROOT, SERVE, running

CANCELS, QUICK_CANCELS = 100, 12  # Of each kind, one after another.
QUICK_S = 16.0  # With --quick no further run of a kind begins after so long.
PATIENCE_S = 30.0  # For a command to have started all its children.
ORPHAN_S = 2.0  # What lives so long after its run was cancelled will live on.
LOOK_S = 0.002

# Three processes that nothing but SIGKILL ends and that hold the command's output: in a session of its own with our
# mark in its environment; without mark, group and parent; and the command itself. Their argument tells whose they are.
STUBBORN = """
trap '' TERM INT HUP
setsid sleep {token} &
(env -i PATH="$PATH" setsid sleep {token} &)
sleep {token}
"""
STUBBORN_PROCESSES = 3
FIRST_TOKEN = 1_000_000_000  # Seconds to sleep; no other program sleeps for exactly so many, nor another of these.

Kind = Literal["bubblewrap", "plain"]


@dataclass(slots=True)
class Tally:
    """What one kind of confinement came to: milliseconds of each cancel, and processes that were left by all."""

    kind: Kind
    waited_ms: list[float] = field(default_factory=list)
    orphans: int = 0

    def row(self) -> dict[str, object]:
        """The numbers that are promised, and what they were measured on."""
        percentiles = statistics.quantiles(self.waited_ms, n=100, method="inclusive")
        return {
            "sandbox": self.kind,
            "cancels": len(self.waited_ms),
            "p50_ms": round(percentiles[49]),
            "p99_ms": round(percentiles[98]),
            "orphans": self.orphans,
            "machine": machine(),
        }


async def measure(*, cancels: int, seconds: float = math.inf) -> list[dict[str, object]]:
    """One row for bubblewrap where it works, and one for commands without it.

    Args:
        cancels: of each kind, at least 2.
        seconds: after so many no further run of a kind begins.
    """
    tokens = itertools.count(FIRST_TOKEN + 1_000 * os.getpid())
    kinds: list[Kind] = ["plain"] if detect_sandbox(os.environ).kind == "plain" else ["bubblewrap", "plain"]
    return [(await _cancelled(kind, itertools.islice(tokens, cancels), seconds)).row() for kind in kinds]


async def _cancelled(kind: Kind, tokens: Iterable[int], seconds: float) -> Tally:
    tally = Tally(kind)
    last_start = time.perf_counter() + seconds
    with tempfile.TemporaryDirectory() as folder:
        repository = make_repository(Path(folder) / "project")
        async with _served(Path(folder), kind) as house:
            for token in tokens:
                if len(tally.waited_ms) < 2 or time.perf_counter() < last_start:
                    await _cancel_one(house, repository, str(token), tally)
    return tally


@asynccontextmanager
async def _served(folder: Path, kind: Kind) -> AsyncIterator[House]:
    """A house whose runs a process of its own advances."""
    (folder / "home").mkdir()
    path = os.environ["PATH"] if kind == "bubblewrap" else str(_programs_without("bwrap", folder / "programs"))
    environ = {"PATH": path, "PYTHONPATH": ROOT}
    async with reopen_house(folder, environ) as house, running(house.autopack.environ, *SERVE) as server:
        await server.line()  # It says where it answers, and that is after it has become the supervisor.
        yield house


def _programs_without(name: str, folder: Path) -> Path:
    """A folder with everything that PATH has but for one program."""
    folder.mkdir()
    for place in reversed(os.environ["PATH"].split(os.pathsep)):
        for program in Path(place).glob("*"):
            (folder / program.name).unlink(missing_ok=True)
            (folder / program.name).symlink_to(program)
    (folder / name).unlink(missing_ok=True)
    return folder


async def _cancel_one(house: House, repository: Path, token: str, tally: Tally) -> None:
    """Cancel a run in the middle of its verification, and wait until it is over in every sense."""
    run_id = await house.start(a_plan(repository, [a_phase("a", verify=STUBBORN.format(token=token))]))
    async with asyncio.timeout(PATIENCE_S):
        while len(_living(token)) < STUBBORN_PROCESSES:  # noqa: ASYNC110  # No event tells of foreign processes.
            await asyncio.sleep(10 * LOOK_S)
    run = await house.run(run_id)
    assert run.sandbox is not None
    assert ("in bubblewrap" in run.sandbox) is (tally.kind == "bubblewrap"), run.sandbox

    asked_s = time.perf_counter()
    outcome = await house.control.request(run_id, "cancel", ANN)
    assert (outcome.state, outcome.is_pending) == ("cancelled", False), outcome
    while (left := _living(token, run_id)) and time.perf_counter() < asked_s + ORPHAN_S:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)
    tally.waited_ms.append((time.perf_counter() - asked_s) * 1_000)
    tally.orphans += len(left)
    for orphan in left:
        os.kill(orphan, signal.SIGKILL)


def _living(token: str, run_id: str | None = None) -> list[int]:
    """Processes that sleep for so many seconds, and those with the mark of a run; zombies are nobody any more."""
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if _is_of(folder, token, run_id)]


def _is_of(process: Path, token: str, run_id: str | None) -> bool:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        is_marked = run_id is not None and f":{run_id}/".encode() in (process / "environ").read_bytes()
    except OSError:  # It ended while we looked, or is somebody else's.
        return False
    return is_marked or words[:2] == [b"sleep", token.encode()]


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="fewer cancels, in under 50 s")
    arguments = parser.parse_args()
    if sys.platform != "linux":
        parser.error("it looks for what is left in /proc, which only Linux has")
    if arguments.quick:
        rows = asyncio.run(measure(cancels=QUICK_CANCELS, seconds=QUICK_S))
    else:
        rows = asyncio.run(measure(cancels=CANCELS))
    if arguments.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
