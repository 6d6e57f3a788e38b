"""Our own program as tests start it for real: ``serve`` and ``stdio`` in processes of their own, spoken to by line.

It owns starting, talking and ending; what is said is the test's business. ``ROOT`` goes into PYTHONPATH, so that they
run the code beside the tests.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

ROOT = str(Path(__file__).parents[2])
LINE_BYTES = 100_000
SERVE = ("serve", "--port", "auto")
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}


class Running:
    """One of our own processes, spoken to line by line."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._input = process.stdin
        self._output = BufferedByteReceiveStream(process.stdout)

    async def line(self) -> str:
        """The next line it says."""
        return (await self._output.receive_until(b"\n", LINE_BYTES)).decode()

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The result of one MCP request over stdio."""
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        await self._input.send(json.dumps(message).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await self.line())["result"]
        return answer

    async def end(self, signal_number: signal.Signals) -> int:
        """Send a signal and wait; the exit code."""
        self.process.send_signal(signal_number)
        return await self.process.wait()


@asynccontextmanager
async def running(environ: Mapping[str, str], *words: str) -> AsyncIterator[Running]:
    """``autopack-mcp`` with these words, in a process of its own; killed if it still lives at the end."""
    command = [sys.executable, "-m", "autopack_mcp", *words]
    async with await anyio.open_process(command, env=dict(environ), stderr=None) as process:
        try:
            yield Running(process)
        finally:
            if process.returncode is None:
                process.kill()
