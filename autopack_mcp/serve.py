"""The long-lived process: one loopback port for the page, ``/mcp`` and ``/health``, and the supervisor behind it.

It owns the order of starting and stopping, and the port; what is served is wired in ``http_app``. A second ``serve`` on
one database finds the supervisor's place taken, says by whom, and serves reading only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

import uvicorn

from autopack_mcp import app
from autopack_mcp.app import Autopack
from autopack_mcp.errors import AutopackError, SupervisorUnavailable
from autopack_mcp.http_app import HttpAddress, http_app
from autopack_mcp.runs.supervision import supervisor_of
from autopack_mcp.runs.supervisor import described
from autopack_mcp.sandbox import detect_sandbox

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
PORT = 8000  # Contract 32.
SHUTDOWN_S = 5  # An open stream must not hold up Ctrl-C for longer than this.


class PortTaken(AutopackError):
    """Another program listens on the port."""

    code = "port_taken"


@dataclass(frozen=True, slots=True)
class Serving:
    """What ``serve`` says once it answers: where, and whether it supervises; if not, ``reading_only_because`` why."""

    url: str
    reading_only_because: str | None


def bound_socket(port: int | None) -> socket.socket:
    """A listening socket on loopback; ``port`` None is the usual one or, when that is taken, any free one.

    Raises:
        PortTaken: a named port is in use.
    """
    candidates = [PORT, 0] if port is None else [port]
    for candidate in candidates:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, candidate))
            # At once: two programs may be bound to one port, and only the one that listens first has it.
            listening.listen()
        except OSError:
            listening.close()
            continue
        return listening
    raise PortTaken(
        f"Port {port} on {HOST} is taken by another program.", hint="Choose another one with --port, or --port auto."
    )


async def serve(
    autopack: Autopack,
    listening: socket.socket,
    *,
    read_only: bool,
    on_serving: Callable[[Serving], None],
    rehearsal_pause_s: float = 0.0,
) -> None:
    """Serve until SIGTERM or Ctrl-C; runs in progress wait where they are for the next ``serve``.

    Args:
        read_only: no acting tool is listed, and nothing is supervised (contract 31).
        on_serving: is told the address as soon as requests are answered.
        rehearsal_pause_s: how long a scripted reply takes, so that a person can watch a rehearsal.
    A process that has lost its place as the supervisor stops rather than pretend.
    """
    if fault := autopack.database.known_fault:
        log.warning(fault)
    address = HttpAddress(HOST, listening.getsockname()[1])
    if read_only:
        await _answer(autopack, listening, address, "it was started with --read-only", on_serving)
        return
    door = app.call_door(autopack, rehearsal_pause=_pause(rehearsal_pause_s))
    boss = app.supervisor(autopack, door, await asyncio.to_thread(detect_sandbox, autopack.environ), address.url)
    ready = asyncio.Event()
    supervising = asyncio.create_task(boss.run(lambda _record: ready.set()))
    try:
        await _either(supervising, ready)
        holder = None if ready.is_set() else await _refusal(autopack, supervising)
        if holder is not None:
            await _answer(autopack, listening, address, holder, on_serving)
            return
        async with _traces_kept(autopack):
            await _answer(autopack, listening, address, None, on_serving, supervising)
    finally:
        boss.stop()
        with contextlib.suppress(SupervisorUnavailable):
            await supervising
        await door.close()


@contextlib.asynccontextmanager
async def _traces_kept(autopack: Autopack) -> AsyncIterator[None]:
    """Look after traces meanwhile: one process of a machine is enough, the one that supervises."""
    upkeep = asyncio.create_task(app.trace_upkeep(autopack).run())
    try:
        yield
    finally:
        upkeep.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await upkeep


async def _answer(
    autopack: Autopack,
    listening: socket.socket,
    address: HttpAddress,
    reading_only_because: str | None,
    on_serving: Callable[[Serving], None],
    supervising: asyncio.Task[None] | None = None,
) -> None:
    """Answer requests until a signal ends it, or the supervisor behind it has ended by itself."""
    application = http_app(autopack, address, reading_only_because=reading_only_because)
    config = uvicorn.Config(
        application,
        log_level="warning",
        timeout_graceful_shutdown=SHUTDOWN_S,
        server_header=False,
        # A forwarded address is nobody's word for who asks, and there is no web socket here.
        proxy_headers=False,
        ws="none",
    )
    server = _Server(config, lambda: on_serving(Serving(address.url, reading_only_because)))
    if supervising is not None:
        supervising.add_done_callback(lambda _task: server.stop())
    await server.serve(sockets=[listening])
    if supervising is not None and supervising.done():
        log.error("the supervisor of this process has ended; start autopack-mcp serve again")


class _Server(uvicorn.Server):
    """A uvicorn server that says when it answers, and can be told to stop."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    def stop(self) -> None:
        """End as after SIGTERM."""
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End on a signal, without raising it again: the supervisor behind us still has its leases to give back."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to answer, then say so."""
        await super().startup(sockets=sockets)
        if not self.should_exit:
            self._on_started()


async def _either(task: asyncio.Task[None], event: asyncio.Event) -> None:
    """Wait until the event is set or the task has ended."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


async def _refusal(autopack: Autopack, supervising: asyncio.Task[None]) -> str:
    """Who holds the supervisor's place."""
    with contextlib.suppress(SupervisorUnavailable):
        await supervising
    return described(await autopack.database.read(supervisor_of, app.machine_name(autopack.environ)))


def _pause(seconds: float) -> Callable[[], Awaitable[None]] | None:
    return (lambda: asyncio.sleep(seconds)) if seconds > 0 else None
