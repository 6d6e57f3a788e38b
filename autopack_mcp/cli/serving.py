"""The verbs that stay: serve, stdio and demo, and the token that HTTP clients need.

Servers are imported when they run, so that no other verb pays for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from autopack_mcp.mcp_server.late import Parts

PORT_LIMIT = 65_535  # Ports have 16 bits.


class _Port(click.ParamType):  # type: ignore[type-arg]  # Generic only for type checkers; None is one of our values.
    """A port number, or "auto" for the usual one or any free one (None)."""

    name = "port"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value == "auto" or value is None:
            return None
        if str(value).isdigit() and int(str(value)) <= PORT_LIMIT:
            return int(str(value))
        return self.fail(f"{value!r} is neither a port number nor auto.", param, ctx)


@click.command()
@click.option("--port", type=_Port(), default="8000", show_default=True, help="A port on 127.0.0.1, or auto.")
@click.option("--read-only", is_flag=True, help="List no acting tool and supervise nothing.")
@click.option("--rehearsal-pause", default=0.0, help="Seconds that a scripted reply takes, to watch a rehearsal.")
def serve(port: int | None, read_only: bool, rehearsal_pause: float) -> None:
    """Advance runs, and answer on one loopback port: the page at /, MCP at /mcp."""
    # Lazy: the HTTP server is no other verb's business.
    from autopack_mcp.app import open_checked
    from autopack_mcp.serve import PortTaken, Serving, bound_socket
    from autopack_mcp.serve import serve as serve_until_stopped

    log_to_stderr()
    try:
        listening = bound_socket(port)
    except PortTaken as error:
        raise PortTaken(error.message, hint=_who_serves(port) or error.hint) from error

    def say(serving: Serving) -> None:
        click.echo(f"Serving {serving.url} (page), {serving.url}/mcp (MCP).")
        if serving.reading_only_because is not None:
            click.echo(f"Reading only: {serving.reading_only_because}")

    async def main() -> None:
        autopack = open_checked()
        try:
            await serve_until_stopped(
                autopack, listening, read_only=read_only, on_serving=say, rehearsal_pause_s=rehearsal_pause
            )
        finally:
            await autopack.database.close()

    asyncio.run(main())


@click.command()
@click.option("--read-only", is_flag=True, help="List no acting tool.")
def stdio(read_only: bool) -> None:
    """Speak MCP on standard input and output, as chat clients start it."""
    # Lazy: only this verb and serve pay for the MCP SDK.
    from autopack_mcp import __version__
    from autopack_mcp.mcp_server.late import LateParts
    from autopack_mcp.mcp_server.server import create_mcp_server
    from autopack_mcp.mcp_server.stdio import run_stdio

    log_to_stderr()
    late = LateParts(_open_parts)
    server = create_mcp_server(summaries=late.summaries, control=late.control, read_only=read_only, version=__version__)

    async def main() -> None:
        try:
            await run_stdio(server)
        finally:
            await late.close()

    asyncio.run(main())


def _who_serves(port: int | None) -> str | None:
    """A sentence about our own server on that port; None when it is somebody else's."""
    # Lazy: only asked when a port is taken.
    from autopack_mcp.app import machine_name, open_autopack
    from autopack_mcp.runs.supervision import supervisor_of
    from autopack_mcp.runs.supervisor import described

    autopack = open_autopack()
    holder = autopack.database.read_now(supervisor_of, machine_name())
    is_ours = holder is not None and holder.is_alive(autopack.clock.now()) and holder.url.endswith(f":{port}")
    autopack.database.close_now()
    return f"It is autopack-mcp itself: {described(holder)}" if is_ours else None


def _open_parts() -> Parts:
    # Lazy: a client is greeted first; home, config and database are opened with its first question.
    from autopack_mcp.app import control, open_autopack
    from autopack_mcp.mcp_server.late import Parts

    autopack = open_autopack()
    return Parts(autopack.summaries, control(autopack), autopack.database.close)


@click.command()
def stop() -> None:
    """End the server of this AUTOPACK_HOME; runs in progress wait where they are for the next one."""
    # Lazy: no other verb needs these.
    from autopack_mcp.app import machine_name
    from autopack_mcp.cli.opening import opened
    from autopack_mcp.runs.supervision import supervisor_of

    with opened() as autopack:
        holder = autopack.database.read_now(supervisor_of, machine_name())
        is_alive = holder is not None and holder.is_alive(autopack.clock.now())
    if holder is None or not is_alive:
        click.echo("No server is running.")
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(holder.pid, signal.SIGTERM)
    click.echo(f"Told process {holder.pid} ({holder.url}) to end. Runs in progress wait where they are.")


@click.command()
def token() -> None:
    """Make a new token for HTTP clients that may act; it is shown once, and every earlier one stops working."""
    # Lazy: see above.
    from autopack_mcp.home import find_home
    from autopack_mcp.tokens import new_token

    click.echo(new_token(find_home(os.environ)))
    click.echo("Send it as the header  Authorization: Bearer <token>", err=True)


@click.command()
@click.option(
    "--once", is_flag=True, help="End by itself when the run has ended; the exit code says whether all went well."
)
def demo(once: bool) -> None:
    """Watch a whole run happen on this machine: no model is called, no tokens are bought."""
    # Lazy: the demo needs everything.
    from autopack_mcp.cli.demo import run_demo

    sys.exit(run_demo(once=once))


def log_to_stderr() -> None:
    """Say what a long-lived process has to say where its starter looks for it."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # Each request would otherwise fill the log of a detached process with its address.
    for chatty in ("httpx", "httpx2", "mcp", "alembic", "procrastinate"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
