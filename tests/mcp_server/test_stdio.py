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
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "autopack_mcp", "stdio"]
# A server of the SDK's on our transport, with a tool that prints as a bug might.
CHATTER = """
import asyncio
from mcp.server.mcpserver import MCPServer
from autopack_mcp.mcp_server.stdio import run_stdio

server = MCPServer("chatter")

@server.tool()
async def chat() -> str:
    print("a stray print", flush=True)
    return "ok"

asyncio.run(run_stdio(server))
"""
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


async def test_both_eras_are_answered(environ: dict[str, str], era: str) -> None:
    parameters = StdioServerParameters(command=COMMAND[0], args=COMMAND[1:], env=environ)
    with anyio.fail_after(LIMIT_S):
        async with Client(stdio_client(parameters), mode=era) as client:
            assert client.protocol_version == ("2025-11-25" if era == "legacy" else "2026-07-28")
            assert len((await client.list_tools()).tools) == 10
            result = await client.call_tool("get_run_status", {})
    assert result.structured_content["total"] == 0


async def test_read_only_lists_no_acting_tool(environ: dict[str, str]) -> None:
    parameters = StdioServerParameters(command=COMMAND[0], args=[*COMMAND[1:], "--read-only"], env=environ)
    with anyio.fail_after(LIMIT_S):
        async with Client(stdio_client(parameters)) as client:
            assert len((await client.list_tools()).tools) == 6


async def test_nothing_but_the_protocol_is_on_standard_output(environ: dict[str, str]) -> None:
    messages = (INITIALIZE, call(2, "chat"), call(3, "chat"))
    with anyio.fail_after(LIMIT_S):
        async with await anyio.open_process([sys.executable, "-c", CHATTER], env=environ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            lines = BufferedByteReceiveStream(process.stdout)
            answers = []
            for message in messages:
                await process.stdin.send(json.dumps(message).encode() + b"\n")
                answers.append(json.loads(await lines.receive_until(b"\n", 100_000)))
            await process.stdin.aclose()
            errors = b"".join([chunk async for chunk in process.stderr])
            assert await process.wait() == 0
    assert [answer["id"] for answer in answers] == [1, 2, 3]
    assert errors.count(b"a stray print") == 2


def test_client_is_greeted_before_anything_heavy_is_loaded(environ: dict[str, str]) -> None:
    command = [COMMAND[0], "-X", "importtime", *COMMAND[1:]]
    asked = json.dumps(INITIALIZE) + "\n"
    done = subprocess.run(
        command, input=asked, capture_output=True, text=True, env=environ, timeout=LIMIT_S, check=True
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "mcp" in loaded
    assert loaded & {"sqlalchemy", "alembic", "openai", "anthropic", "genai_prices", "yaml"} == set()


def test_server_ends_when_its_client_is_gone(environ: dict[str, str]) -> None:
    done = subprocess.run(COMMAND, input="", capture_output=True, text=True, env=environ, timeout=LIMIT_S, check=True)
    assert done.stdout == ""
