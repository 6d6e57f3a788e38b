"""Two servers on one database behind a plain load balancer: requests go to them in turn, and nobody notices.

The balancer here is a transport that does what such a program does: it passes each request to the next server.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import anyio
import httpx2
import pytest
import uvicorn
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import TextContent

from autopack_mcp import app
from autopack_mcp.app import Autopack
from autopack_mcp.database.engine import Database
from autopack_mcp.home import Home
from autopack_mcp.http_app import HttpAddress, http_app
from autopack_mcp.routing.model_map import current_model_map, model_map_to_json
from autopack_mcp.tokens import new_token
from tests.factories import insert_phase, insert_run, settings

pytestmark = pytest.mark.anyio

LIMIT_S = 20


class Balancer(httpx2.AsyncBaseTransport):
    """Passes each request to the next server, under that server's own name."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._inner = httpx2.AsyncHTTPTransport()
        self.served: list[int] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        port = self._ports[len(self.served) % len(self._ports)]
        self.served.append(port)
        request.url = request.url.copy_with(port=port)
        request.headers["host"] = f"127.0.0.1:{port}"
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


@contextlib.asynccontextmanager
async def serving(autopack: Autopack) -> AsyncIterator[int]:
    """A real server over one home, which nobody supervises; its port."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    port: int = listening.getsockname()[1]
    application = http_app(autopack, HttpAddress("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=1))
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        while not server.started:  # noqa: ASYNC110  It offers no event.
            await asyncio.sleep(0.01)
        yield port
    finally:
        server.should_exit = True
        await task
        await autopack.database.close()


@pytest.fixture
async def balanced(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[Balancer, str]]:
    """Two servers with homes of their own and one token, and what stands before them."""
    homes = [tmp_path / "one", tmp_path / "two"]
    for home in homes:
        home.mkdir()
    token = new_token(Home(homes[0]))
    shutil.copy(Home(homes[0]).token_file, Home(homes[1]).token_file)
    async with contextlib.AsyncExitStack() as stack:
        opened = [app.open_autopack({"AUTOPACK_HOME": str(home)}, db_url=database_url) for home in homes]
        ports = [await stack.enter_async_context(serving(autopack)) for autopack in opened]
        yield Balancer(ports), token


@pytest.mark.parametrize("era", ["2026-07-28", "legacy"])
async def test_requests_that_alternate_between_two_servers_are_one_conversation(
    balanced: tuple[Balancer, str], database: Database, era: str
) -> None:
    balancer, token = balanced
    await database.write(insert_run)
    await database.write(insert_phase)
    headers = {"authorization": f"Bearer {token}"}
    with anyio.fail_after(LIMIT_S):
        async with (
            httpx2.AsyncClient(transport=balancer, headers=headers) as http,
            Client(streamable_http_client("http://127.0.0.1:1/mcp", http_client=http), mode=era) as client,
        ):
            tools = [[tool.name for tool in (await client.list_tools()).tools] for _ in range(2)]
            noted = await client.call_tool("add_human_note", {"run_id": "R1", "note": "be quick"})
            seen = [await client.call_tool("get_run_status", {"run_id": "R1"}) for _ in range(2)]

    assert tools[0] == tools[1]
    assert "control_run" in tools[0]
    assert not noted.is_error
    for answer in seen:
        assert isinstance(answer.content[0], TextContent)
        assert "be quick" in answer.content[0].text
    assert len(set(balancer.served)) == 2


async def test_the_page_is_the_same_whoever_shows_it(balanced: tuple[Balancer, str], database: Database) -> None:
    balancer, _ = balanced
    pinned = model_map_to_json(current_model_map(settings(), ()))
    await database.write(partial(insert_run, model_map=pinned))
    await database.write(insert_phase)
    async with httpx2.AsyncClient(transport=balancer) as http:
        pages = [await http.get("http://127.0.0.1:1/runs/R1") for _ in range(2)]
        healths = [await http.get("http://127.0.0.1:1/health") for _ in range(2)]

    assert [page.status_code for page in (*pages, *healths)] == [200] * 4
    assert all("R1" in page.text for page in pages)
    assert balancer.served == [*balancer.served[:2]] * 2
