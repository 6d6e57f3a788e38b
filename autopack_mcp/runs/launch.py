"""Finds the supervisor of this machine, or starts one that outlives the chat window that asked (contract 29).

It owns the detached start of ``serve`` and the wait for its lease; it supervises nothing itself.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from autopack_mcp.clock import Clock
from autopack_mcp.database.changes import ChangeWatch
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import SupervisorUnavailable
from autopack_mcp.home import Home
from autopack_mcp.runs.supervision import SupervisorRecord, live_workers, supervisor_of

START_LIMIT_S = 20.0  # A cold start takes about 1.5 s; a loaded laptop gets more than ten times that.


class SupervisorLauncher(Protocol):
    """Makes sure that somebody will act on what is asked."""

    async def ensure(self, *, here: bool = True) -> SupervisorRecord:
        """The supervisor of this machine, started if need be; without ``here`` a worker anywhere will do as well.

        Of workers only those keys are said that all of them have, for any of them may take a run up.

        Raises:
            SupervisorUnavailable: none is alive and none came up.
        """
        ...


class DetachedLauncher:
    """Starts ``autopack-mcp serve`` in a session of its own when nobody supervises this machine."""

    def __init__(
        self, *, home: Home, machine: str, database: Database, clock: Clock, environ: Mapping[str, str]
    ) -> None:
        self._home = home
        self._machine = machine
        self._database = database
        self._clock = clock
        self._environ = environ

    async def ensure(self, *, here: bool = True) -> SupervisorRecord:
        """See ``SupervisorLauncher.ensure``."""
        found = None if here else await self._working()
        return found or await self._alive() or await self._started()

    async def _working(self) -> SupervisorRecord | None:
        workers = await self._database.read(live_workers, self._clock.now())
        if not workers:
            return None
        keys = frozenset.intersection(*(frozenset(one.key_variables) for one in workers))
        return replace(workers[0], key_variables=sorted(keys))

    async def _alive(self) -> SupervisorRecord | None:
        known = await self._database.read(supervisor_of, self._machine)
        if known is None or not known.is_alive(self._clock.now()) or not _exists(known.pid):
            return None
        return known

    async def _started(self) -> SupervisorRecord:
        process = await asyncio.to_thread(self._spawn)
        changes = ChangeWatch(self._database)
        try:
            async with asyncio.timeout(START_LIMIT_S):
                while True:
                    seen = changes.version()
                    alive = await self._alive()
                    if alive is not None:
                        if alive.pid != process.pid:
                            # Another client started one in the same moment; ours would stay for good, only reading.
                            process.terminate()
                        return alive
                    if process.poll() is not None:
                        raise SupervisorUnavailable(
                            f"The supervisor ended at once with exit code {process.returncode}.",
                            hint=f"Its log is {self._home.log_file}.",
                        )
                    await changes.wait(seen, 0.2)
        except TimeoutError as error:
            raise SupervisorUnavailable(
                f"No supervisor came up within {START_LIMIT_S:.0f} s.", hint=f"Its log is {self._home.log_file}."
            ) from error
        finally:
            changes.close()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._home.log_file.open("ab") as log:
            self._home.log_file.chmod(0o600)
            return subprocess.Popen(
                [sys.executable, "-m", "autopack_mcp", "serve", "--port", "auto"],
                cwd=self._home.path,
                env={**self._environ, "AUTOPACK_HOME": str(self._home.path)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Its own session: closing the chat window must not take the run along.
                start_new_session=True,
            )


def _exists(pid: int) -> bool:
    """Whether a process of this machine is there: one that was killed holds its lease for some seconds more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
