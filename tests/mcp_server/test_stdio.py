"""stdio: a child process that speaks the protocol and nothing else, and is there as fast as an empty server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
SERVER = [str(Path(__file__).parent / "stdio_server.py")]
LIMIT_S = 30  # A start takes about a second; a machine with other work gets more.
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}


def call(number: int, tool: str, **arguments: Any) -> dict[str, Any]:
    params = {"name": tool, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


@pytest.fixture
def environ(tmp_path: Path, empty_database_file: Path) -> dict[str, str]:
    shutil.copy(empty_database_file, tmp_path / "autopack.db")
    return {"PATH": os.environ["PATH"], "AUTOPACK_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}


def said(environ: dict[str, str], messages: list[dict[str, Any]], *words: str) -> subprocess.CompletedProcess[str]:
    """Everything a server says to these messages until it has seen the end of them and ended."""
    text = "".join(json.dumps(message) + "\n" for message in messages)
    command = [sys.executable, *SERVER, *words]
    return subprocess.run(command, input=text, capture_output=True, text=True, env=environ, timeout=LIMIT_S, check=True)


async def test_both_eras_are_answered(environ: dict[str, str], era: str) -> None:
    parameters = StdioServerParameters(command=sys.executable, args=SERVER, env=environ)
    with anyio.fail_after(LIMIT_S):
        async with Client(stdio_client(parameters), mode=era) as client:
            assert client.protocol_version == ("2025-11-25" if era == "legacy" else "2026-07-28")
            assert len((await client.list_tools()).tools) == 7
            result = await client.call_tool("get_run_status", {})
    assert result.structured_content["total"] == 0


async def test_nothing_but_the_protocol_is_on_standard_output(environ: dict[str, str]) -> None:
    """The end of input may outrun an answer, so this client waits for each of them."""
    command = [sys.executable, *SERVER, "chatter"]
    with anyio.fail_after(LIMIT_S):
        async with await anyio.open_process(command, env=environ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            lines: list[Any] = []
            buffer = b""
            for message in (INITIALIZE, call(2, "get_run_status"), call(3, "nothing")):
                await process.stdin.send(json.dumps(message).encode() + b"\n")
                while b"\n" not in buffer:
                    buffer += await process.stdout.receive()
                line, _, buffer = buffer.partition(b"\n")
                lines.append(json.loads(line))
            await process.stdin.aclose()
            errors = b"".join([chunk async for chunk in process.stderr])
            assert await process.wait() == 0
    assert [line["id"] for line in lines] == [1, 2, 3]
    assert lines[1]["result"]["structuredContent"]["total"] == 0
    assert lines[2]["error"]["code"] == -32602
    assert b"a stray print" in errors


def test_client_is_greeted_before_anything_heavy_is_loaded(environ: dict[str, str]) -> None:
    done = said(environ, [INITIALIZE])
    assert done.stderr.splitlines()[0] == "loaded before the first question:"


def test_server_ends_when_its_client_is_gone(environ: dict[str, str]) -> None:
    done = said(environ, [])
    assert (done.returncode, done.stdout) == (0, "")
