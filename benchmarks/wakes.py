"""How soon another process notices a commit, on SQLite and on PostgreSQL.

It owns a writer (this process) and a waiter (another one, as the supervisor waits); both read the same monotonic
clock. Readers of docs/postgres.md run it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import Connection, insert

from autopack_mcp.clock import SystemClock
from autopack_mcp.database.changes import ChangeWatch
from autopack_mcp.database.migrate import open_database
from autopack_mcp.database.tables import run_events
from benchmarks.machine import machine
from tests.postgres import running_postgres, why_it_cannot_run

PAUSE_S = 0.013  # Between two commits; no fraction of the 20 ms at which SQLite is looked at, so all phases occur.


def note_event(connection: Connection) -> None:
    """The smallest commit there is."""
    row = {"run_id": "R1", "occurred_at": SystemClock().now(), "kind": "benchmark", "why": "measured"}
    connection.execute(insert(run_events).values(row))


async def wait_for_commits(url: str) -> None:
    """Print the time of every wake, as a supervisor would act on it; ends with its standard output."""
    database = open_database(url)
    changes = ChangeWatch(database)
    seen = await changes.wait(changes.version(), 1.0)
    print("ready", flush=True)
    while True:
        seen = await changes.wait(seen, 60.0)
        print(time.monotonic(), flush=True)


def measured(url: str, commits: int) -> dict[str, object]:
    """Milliseconds from asking for a write until it is answered here, and until the other process is awake."""
    database = open_database(url)
    database.write_now(note_event)
    written, woken = [], []
    command = [sys.executable, "-m", "benchmarks.wakes", "--wait", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiter:
        assert waiter.stdout is not None
        waiter.stdout.readline()
        for _ in range(commits):
            time.sleep(PAUSE_S)
            asked_s = time.monotonic()
            database.write_now(note_event)
            written.append((time.monotonic() - asked_s) * 1_000)
            woken.append((float(waiter.stdout.readline()) - asked_s) * 1_000)
        waiter.kill()
    database.close_now()
    return {
        "commits": commits,
        "written_ms_p50": round(statistics.median(written), 2),
        "woken_ms_p50": round(statistics.median(woken), 2),
        "woken_ms_p95": round(statistics.quantiles(woken, n=20)[18], 2),
    }


def databases(stack: ExitStack, folder: Path) -> Iterator[tuple[str, str]]:
    """Every engine that there is here, with the address of a new database."""
    yield "sqlite", f"sqlite:///{folder}/wakes.db"
    if reason := why_it_cannot_run():
        print(f"PostgreSQL is left out: {reason}", file=sys.stderr)
        return
    server = stack.enter_context(running_postgres(is_durable=True))
    yield "postgresql", server.url(server.create())


def main() -> None:
    """Print one JSON object per engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="200 commits instead of 2,000")
    parser.add_argument("--wait", metavar="URL", help="be the process that waits")
    arguments = parser.parse_args()
    if arguments.wait:
        asyncio.run(wait_for_commits(arguments.wait))
        return
    commits = 200 if arguments.quick else 2_000
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        found = databases(stack, Path(folder))
        rows = [{"database": name, **measured(url, commits), "machine": machine()} for name, url in found]
    if arguments.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
