"""What a call of our MCP server costs beside a call of nothing, and how fast ``stdio`` is there beside an empty server.

It owns both measurements and their conditions; ``make bench`` and whoever doubts docs/mcp.md run it. Calls pass through
the server as over stdio, JSON in and JSON out, without a client, which would cost more than either. Starts are measured
in turns with a bare SDK server, from the process to its answer to the first request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mcp.shared.memory import create_client_server_memory_streams
from mcp.shared.message import SessionMessage
from mcp.types import jsonrpc_message_adapter
from sqlalchemy import Connection

from autopack_mcp import __version__, app
from autopack_mcp.database.engine import Database
from autopack_mcp.mcp_server.server import create_mcp_server
from tests.factories import insert_phase, insert_run, insert_supervisor

CALLS = 2_000
WARM_UP = 200
STARTS = 11
CHANGES = 100
PHASES = 20

OPENING = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "benchmark", "version": "1"},
    },
}
READY = {"jsonrpc": "2.0", "method": "notifications/initialized"}
BARE = """
from mcp.server.mcpserver import MCPServer
server = MCPServer("bare")
@server.tool()
async def noop() -> str:
    return ""
server.run("stdio")
"""


async def noop() -> str:
    """Nothing."""
    return ""


class RawClient:
    """Speaks JSON text over streams in memory, one request at a time."""

    def __init__(self, read: Any, write: Any) -> None:
        self._read = read
        self._write = write
        self._id = 0

    async def call(self, tool: str) -> str:
        """The answer of a tool that is asked without arguments, as JSON."""
        self._id += 1
        params = {"name": tool, "arguments": {}}
        await self.send({"jsonrpc": "2.0", "id": self._id, "method": "tools/call", "params": params})
        return await self.receive()

    async def send(self, message: dict[str, Any]) -> None:
        """Write one message."""
        parsed = jsonrpc_message_adapter.validate_json(json.dumps(message), by_name=False)
        await self._write.send(SessionMessage(parsed))

    async def receive(self) -> str:
        """The next message as JSON."""
        answer: SessionMessage = await self._read.receive()
        return answer.message.model_dump_json(by_alias=True, exclude_unset=True)


@asynccontextmanager
async def connected(home: Path) -> AsyncIterator[tuple[RawClient, Database]]:
    """A client of a server like the shipped one, with a run to look at and one tool more, which does nothing."""
    autopack = app.open_autopack({"AUTOPACK_HOME": str(home)})
    await autopack.database.write(insert_benchmark_run)
    server = create_mcp_server(
        summaries=autopack.summaries, control=app.control(autopack), read_only=False, version=__version__
    )
    server.add_tool(noop)
    low = server._lowlevel_server
    async with create_client_server_memory_streams() as ((read, write), (server_read, server_write)):
        serving = asyncio.create_task(low.run(server_read, server_write, low.create_initialization_options()))
        client = RawClient(read, write)
        await client.send(OPENING)
        await client.receive()
        await client.send(READY)
        yield client, autopack.database
        await write.aclose()
        await serving
    await autopack.database.close()


def insert_benchmark_run(connection: Connection) -> None:
    """A run under way, half of its phases done."""
    insert_supervisor(connection)
    insert_run(connection)
    for index in range(1, PHASES + 1):
        insert_phase(connection, index, state="succeeded" if index <= PHASES // 2 else "queued")


async def call_costs(home: Path) -> dict[str, float]:
    """Medians over ``CALLS`` calls of each, in turns; then of a status that has changed since it was last asked for."""
    times: dict[str, list[float]] = {"noop": [], "get_run_status": []}
    async with connected(home) as (client, database):
        for _ in range(WARM_UP + CALLS):
            for tool, taken in times.items():
                taken.append(await call_us(client, tool))
        changed = []
        for turn in range(CHANGES):
            await database.write(insert_phase, PHASES + 1 + turn)
            changed.append(await call_us(client, "get_run_status"))
    noop_us, status_us = (statistics.median(taken[WARM_UP:]) for taken in times.values())
    return {
        "noop_us_p50": round(noop_us, 1),
        "status_us_p50": round(status_us, 1),
        "ratio": round(status_us / noop_us, 2),
        "status_after_change_us_p50": round(statistics.median(changed), 1),
    }


async def call_us(client: RawClient, tool: str) -> float:
    """Microseconds of one call."""
    began = time.perf_counter()
    answer = await client.call(tool)
    taken = time.perf_counter() - began
    assert '"isError":false' in answer, answer
    return taken * 1e6


def start_costs(home: Path) -> dict[str, float]:
    """Medians over ``STARTS`` starts of each, in turns; the first of each only fills caches."""
    commands = {
        "cold_start_ms": [sys.executable, "-m", "autopack_mcp", "stdio"],
        "bare_cold_start_ms": [sys.executable, "-c", BARE],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(STARTS + 1):
        for name, command in commands.items():
            times[name].append(start_ms(command, home))
    return {name: round(statistics.median(taken[1:]), 1) for name, taken in times.items()}


def start_ms(command: list[str], home: Path) -> float:
    """Milliseconds from starting a process to its answer to ``initialize``, from compiled files as installed."""
    environ = {**os.environ, "AUTOPACK_HOME": str(home)}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(OPENING) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        taken = (time.perf_counter() - began) * 1000
        process.stdin.close()
    assert '"serverInfo"' in answer, f"{command} answered {answer!r}"
    return taken


def measured() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        return {**asyncio.run(call_costs(home)), **start_costs(home), "machine": machine()}


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    as_json = parser.parse_args().json
    found = measured()
    print(json.dumps(found) if as_json else "\n".join(f"{name:20} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
