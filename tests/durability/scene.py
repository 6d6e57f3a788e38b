"""What tests with real processes share: homes on one database, runs in its queue, and waiting for what is true of rows.

It owns the wiring; nothing here is scripted but what the models say (``benchmarks/billing.py``).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from autopack_mcp import app
from autopack_mcp.app import Autopack
from autopack_mcp.clock import Clock
from autopack_mcp.control.starting import Starting
from benchmarks.billing import BillingUpstream
from benchmarks.crash import ANN, Anybody
from tests.runs.house import House
from tests.runs.programs import ROOT

LIMIT_S = 100  # Real processes start in three seconds; a machine that is busy with something else takes much longer.
LOOK_S = 0.05
PATIENT = pytest.mark.timeout(180)  # For tests in which something is waited for so long.


def home_on(folder: Path, name: str, database_url: str, upstream: BillingUpstream, clock: Clock | None = None) -> House:
    """A home of this name on a database that others may use too; close its database."""
    home = folder / name
    home.mkdir(parents=True)
    (home / "models.yaml").write_text(upstream.models_yaml, encoding="utf-8")
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": ROOT,
        "HOME": str(folder),
        "AUTOPACK_HOME": str(home),
        "AUTOPACK_DATABASE_URL": database_url,
    }
    autopack = app.open_autopack(environ, clock=clock)
    return House(autopack, app.control(autopack), folder)


async def enqueue(autopack: Autopack, file: Path, plan: str) -> str:
    """Put a real run into the queue while nobody supervises; its id."""
    file.write_text(plan, encoding="utf-8")
    starting = Starting(
        home=autopack.home,
        database=autopack.database,
        clock=autopack.clock,
        settings=autopack.settings,
        supervisors=Anybody(autopack),
        snapshots=app.snapshot_reader(autopack),
    )
    return (await starting.start_file(file, ANN)).run_id


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Return when something is true of rows or files: facts of other processes, of which no event can tell."""
    with anyio.fail_after(LIMIT_S):
        while not await is_so():  # noqa: ASYNC110
            await anyio.sleep(LOOK_S)
