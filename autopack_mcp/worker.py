"""A process that advances runs on any machine: those whose repository has a URL, as jobs on PostgreSQL tell it.

It owns the order of starting and stopping, and this process's place among the workers of its home; it answers no
requests and shows nothing. The command line runs it, beside any number of others and of ``serve``.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from autopack_mcp import app
from autopack_mcp.app import Autopack
from autopack_mcp.errors import AutopackError, SupervisorUnavailable
from autopack_mcp.home import Home
from autopack_mcp.runs.supervision import SupervisorRecord, forget_gone_workers
from autopack_mcp.runs.supervisor import Supervisor, locked
from autopack_mcp.sandbox import detect_sandbox

if TYPE_CHECKING:
    from autopack_mcp.runs.jobs import JobQueue

PLACES_LIMIT = 256  # Workers of one home; each has a folder for its clones.
_SQLITE_HINT = (
    "On one machine `autopack-mcp serve` does it all; for several set AUTOPACK_DATABASE_URL (docs/postgres.md)."
)
_INSTALL = 'Install it: pip install "autopack-mcp[postgres]".'


class WorkerUnavailable(AutopackError):
    """Here no worker can work; the hint says what is missing."""

    code = "worker_unavailable"


async def work(
    autopack: Autopack, *, concurrency: int, on_working: Callable[[SupervisorRecord], None], pause_s: float = 0.0
) -> None:
    """Advance up to ``concurrency`` runs at the same time until SIGTERM or Ctrl-C; they wait where they are for others.

    ``pause_s`` is how long a scripted reply takes, as with ``serve``.

    Raises:
        WorkerUnavailable: the database is SQLite, or the package for jobs is missing.
    """
    jobs = _job_queue(autopack, concurrency)
    door = app.call_door(autopack, rehearsal_pause=(lambda: asyncio.sleep(pause_s)) if pause_s > 0 else None)
    sandbox = await asyncio.to_thread(detect_sandbox, autopack.environ)
    try:
        with _place_of(autopack.home) as workspaces:
            await jobs.open()
            boss = app.worker_supervisor(autopack, door, sandbox, jobs=jobs, workspaces=workspaces)
            await _run(boss, jobs, on_working)
    finally:
        await jobs.close()
        await door.close()


async def _run(boss: Supervisor, jobs: JobQueue, on_working: Callable[[SupervisorRecord], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, boss.stop)
    taking = asyncio.create_task(jobs.run(boss.advance))
    # A queue that ends by itself has met a bug: better to be started again than to wait without jobs.
    taking.add_done_callback(lambda _task: boss.stop())
    try:
        await boss.run(on_working)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        taking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await taking


def _job_queue(autopack: Autopack, concurrency: int) -> JobQueue:
    if autopack.database.is_sqlite:
        raise WorkerUnavailable("A worker needs PostgreSQL, and this database is SQLite.", hint=_SQLITE_HINT)
    try:
        # Lazy: an extra that only workers need.
        from autopack_mcp.runs.jobs import JobQueue, prepare_schema
    except ImportError as error:
        raise WorkerUnavailable("Workers need the package procrastinate, which is not there.", hint=_INSTALL) from error
    autopack.database.write_now(prepare_schema)
    autopack.database.write_now(forget_gone_workers, autopack.clock.now())
    return JobQueue(autopack.database.connect_arguments(), app.worker_name(autopack.environ), concurrency)


@contextlib.contextmanager
def _place_of(home: Home) -> Iterator[Path]:
    """The folder for this worker's clones: the first that no living worker of this home has.

    So a worker that is started again finds the clones of the one before it, and never shares them with one that only
    stood still.
    """
    for number in range(PLACES_LIMIT):
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(home.path / f"worker-{number}.lock"))
            except SupervisorUnavailable:
                continue
            yield home.workspaces / f".worker-{number}"
            return
    raise WorkerUnavailable(
        f"{PLACES_LIMIT} workers use this AUTOPACK_HOME already.", hint="Give some of them a home of their own."
    )
