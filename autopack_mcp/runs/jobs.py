"""The queue through which workers agree who advances a run: Procrastinate's tables beside ours, on PostgreSQL.

It owns jobs, which hold a run's id and nothing else: what is to be done stands in our own tables, so a job that is lost
or made twice changes nothing but who looks next. ``worker`` runs it; nobody else needs the package.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.jobs import Status
from procrastinate.schema import SchemaManager
from sqlalchemy import Connection, inspect

log = logging.getLogger(__name__)

QUEUE = "autopack"
TASK = "autopack.advance"
HEARTBEAT_S = 2.0
STALLED_S = 20.0  # Ten heartbeats and ten sweeps: a worker that is only slow must not be taken for a dead one.
SWEEP_S = 2.0  # How often the jobs of dead workers are looked for; their runs do not wait for it, their leases end.
POLL_S = 2.0  # A notice that was missed, while the connection was lost, costs at most this.
AGAIN_S = 1.0  # Between tries while the database server is away.
# When the queue begins anew after its connection broke: the runs in hand go on, their leases say whose they are.
LET_GO_S = 5.0
CONNECTIONS_MOST = 4  # One for each of fetch, finish, heartbeat and offer; more runs need no more.

Advance = Callable[[str], Awaitable[None]]


def prepare_schema(connection: Connection) -> None:
    """Make Procrastinate's tables unless they are there; it runs as a write of ours, so two workers do not collide."""
    if inspect(connection).has_table("procrastinate_jobs"):
        return
    driver: Any = connection.connection.driver_connection
    # Without parameters, for the text has several statements and percent signs of its own.
    driver.execute(SchemaManager.get_schema())


class JobQueue:
    """One worker's end of the queue. Open it in the loop that uses it, offer, ``run`` until cancelled, and close it.

    ``arguments`` are the driver's own (``Database.connect_arguments``).
    """

    def __init__(self, arguments: Mapping[str, Any], name: str, concurrency: int) -> None:
        connector = PsycopgConnector(kwargs=dict(arguments), min_size=1, max_size=CONNECTIONS_MOST)
        self._app = App(connector=connector)
        self._task = self._app.task(name=TASK, queue=QUEUE)(self._advance)
        self._name = name
        self._concurrency = concurrency
        self._advance_run: Advance | None = None

    async def open(self) -> None:
        """Connect.

        Raises:
            procrastinate.exceptions.ConnectorException: the server cannot be reached.
        """
        await self._app.open_async()

    async def close(self) -> None:
        """Give the connections back."""
        await self._app.close_async()

    async def offer(self, run_ids: Sequence[str]) -> None:
        """One job for each of these runs that has none waiting; the order is the order in which they are taken."""
        if not run_ids:
            return
        try:
            waiting = await self._app.job_manager.list_jobs_async(queue=QUEUE, status="todo")
            offered = {job.queueing_lock for job in waiting}
            for run_id in run_ids:
                if run_id not in offered:
                    await self._offer(run_id)
        except ConnectorException:
            log.warning("the queue of jobs cannot be reached; trying again", exc_info=True)

    async def _offer(self, run_id: str) -> None:
        try:
            await self._task.configure(queueing_lock=run_id).defer_async(run_id=run_id)
        except AlreadyEnqueued:
            # Another worker has seen the same run in the same moment.
            log.debug("run %s is offered already", run_id)

    async def run(self, advance: Advance) -> None:
        """Take jobs and give each run to ``advance``, until cancelled; a server that is away is waited for."""
        self._advance_run = advance
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sweep_for_ever())
            while True:
                try:
                    await self._app.run_worker_async(
                        queues=[QUEUE],
                        name=self._name,
                        concurrency=self._concurrency,
                        install_signal_handlers=False,
                        fetch_job_polling_interval=POLL_S,
                        update_heartbeat_interval=HEARTBEAT_S,
                        stalled_worker_timeout=STALLED_S,
                        delete_jobs="always",
                        shutdown_graceful_timeout=LET_GO_S,
                    )
                except ConnectorException:
                    log.warning("the queue of jobs cannot be reached; trying again", exc_info=True)
                await asyncio.sleep(AGAIN_S)

    async def _advance(self, run_id: str) -> None:
        assert self._advance_run is not None, "jobs are taken by run alone"
        await self._advance_run(run_id)

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await self._sweep()
            except ConnectorException:
                log.debug("the queue of jobs cannot be swept", exc_info=True)

    async def _sweep(self) -> None:
        """Remove the jobs of workers that are gone: each of their runs gets a new one when its lease has ended."""
        manager = self._app.job_manager
        for job in await manager.get_stalled_jobs(queue=QUEUE, seconds_since_heartbeat=STALLED_S):
            log.warning("the worker that had run %s is gone", job.task_kwargs.get("run_id"))
            await manager.finish_job(job, Status.FAILED, delete_job=True)
        await manager.prune_stalled_workers(STALLED_S)
