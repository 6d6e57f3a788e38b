"""MCP over HTTP: a real port on loopback, with the token, without it and with a wrong one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
import uvicorn
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from starlette.applications import Starlette
from starlette.routing import Route

from autopack_mcp.clock import ManualClock
from autopack_mcp.control.control import Control
from autopack_mcp.database.changes import ChangeWatch
from autopack_mcp.database.engine import Database
from autopack_mcp.home import Home
from autopack_mcp.mcp_server.http import McpEndpoint
from autopack_mcp.mcp_server.server import create_mcp_server
from autopack_mcp.routing.snapshot import SnapshotReader
from autopack_mcp.runs.requests import RequestRecord, answer_request, pending_requests
from autopack_mcp.runs.supervision import SupervisorRecord
from autopack_mcp.summary.summaries import Summaries
from tests.factories import NOON, insert_run, settings

pytestmark = pytest.mark.anyio

TOKEN = "a-long-random-token"
LIMIT_S = 10
HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
BEARER = {"authorization": f"Bearer {TOKEN}"}


class HeldSupervisor:
    """Answers that somebody supervises as soon as it is let go."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.let_go = asyncio.Event()

    async def ensure(self, *, here: bool = True) -> SupervisorRecord:
        self.asked.set()
        await self.let_go.wait()
        return SupervisorRecord("desk", 1, 4711, "http://127.0.0.1:8000", "0", (), "", NOON, NOON)


@dataclass(slots=True)
class Served:
    """A server on a port of its own."""

    url: str
    supervisor: HeldSupervisor
    digest: list[str | None] = field(default_factory=lambda: [hashlib.sha256(TOKEN.encode()).hexdigest()])


class SayingServer(uvicorn.Server):
    """Says when it answers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.answers = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.answers.set()


@contextlib.asynccontextmanager
async def listening(application: Starlette, port_socket: socket.socket) -> AsyncIterator[None]:
    server = SayingServer(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=2))
    task = asyncio.create_task(server.serve(sockets=[port_socket]))
    try:
        async with asyncio.timeout(LIMIT_S):
            await server.answers.wait()
        yield
    finally:
        server.should_exit = True
        await task


@pytest.fixture
async def served(database: Database, clock: ManualClock, summaries: Summaries, tmp_path: Path) -> AsyncIterator[Served]:
    """The endpoint as ``serve`` mounts it."""
    port_socket = socket.socket()
    port_socket.bind(("127.0.0.1", 0))
    port = port_socket.getsockname()[1]
    supervisor = HeldSupervisor()
    snapshots = SnapshotReader(settings=settings, clock=clock, has_key=lambda p: True, unit_price=lambda model: None)
    control = Control(
        home=Home(tmp_path),
        database=database,
        clock=clock,
        settings=settings,
        supervisors=supervisor,
        snapshots=snapshots,
    )
    served = Served(f"http://127.0.0.1:{port}/mcp", supervisor)
    endpoint = McpEndpoint(
        create_mcp_server(summaries=summaries, control=control, version="1"),
        create_mcp_server(summaries=summaries, control=None, version="1"),
        token_digest=lambda: served.digest[0],
        port=port,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with endpoint.run():
            yield

    application = Starlette(routes=[Route("/mcp", endpoint)], lifespan=lifespan)
    async with listening(application, port_socket):
        yield served


@contextlib.asynccontextmanager
async def client_of(served: Served, era: str, headers: dict[str, str] | None = None) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers=headers) as http,
        Client(streamable_http_client(served.url, http_client=http), mode=era) as client,
    ):
        yield client


async def post(served: Served, message: dict[str, Any], **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient() as http:
        return await http.post(served.url, json=message, headers={**HEADERS, **headers})


async def answered_request(database: Database) -> RequestRecord:
    """The request that is written down next, as soon as it has been answered."""
    changes = ChangeWatch(database)
    try:
        seen = changes.version()
        while not (pending := await database.read(pending_requests)):
            seen = await changes.wait(seen, LIMIT_S)
        await database.write(answer_request, pending[0].request_id, "done", "Done.", NOON)
        return pending[0]
    finally:
        changes.close()


def call(tool: str, **arguments: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}


async def test_token_makes_the_difference_between_reading_and_acting(served: Served, era: str) -> None:
    with anyio.fail_after(LIMIT_S):
        async with client_of(served, era) as client:
            assert len((await client.list_tools()).tools) == 6
            assert "`autopack-mcp token` makes a token" in (client.instructions or "")
            refused = await client.call_tool("control_run", {"action": "cancel"})
            assert refused.is_error
            assert "Authorization: Bearer TOKEN" in refused.content[0].text  # type: ignore[union-attr]
            assert not (await client.call_tool("get_run_status", {})).is_error
        async with client_of(served, era, BEARER) as client:
            assert len((await client.list_tools()).tools) == 10
            unknown = await client.call_tool("control_run", {"action": "pause", "run_id": "r-9"})
            assert "No run 'r-9'." in unknown.content[0].text  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "said",
    ["Bearer wrong", "Bearer", "Basic YTpi", TOKEN, f"Bearer {TOKEN}x"],
    ids=["wrong", "no token", "another scheme", "no scheme", "longer"],
)
async def test_wrong_token_is_refused_in_words(served: Served, said: str) -> None:
    answer = await post(served, call("get_run_status"), authorization=said)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith('Bearer realm="autopack-mcp", error="invalid_token"')
    assert answer.json()["error"]["message"].startswith("This token is not in force. `autopack-mcp token` makes one")


async def test_token_is_asked_at_every_request(served: Served) -> None:
    assert (await post(served, call("get_run_status"), **BEARER)).status_code == 200
    served.digest[0] = hashlib.sha256(b"a newer one").hexdigest()
    assert (await post(served, call("get_run_status"), **BEARER)).status_code == 401
    served.digest[0] = None
    refused = await post(served, call("get_run_status"), **BEARER)
    assert refused.json()["error"]["message"].startswith("No token has been made yet.")
    assert (await post(served, call("get_run_status"))).status_code == 200


@pytest.mark.parametrize(
    "headers, status",
    [({"host": "evil.example"}, 421), ({"origin": "http://evil.example"}, 403)],
    ids=["name of another", "page of another"],
)
async def test_browser_led_here_by_another_site_is_turned_away(
    served: Served, headers: dict[str, str], status: int
) -> None:
    assert (await post(served, call("get_run_status"), **headers)).status_code == status


async def test_client_without_a_name_is_known_by_its_user_agent(served: Served, database: Database) -> None:
    await database.write(insert_run)
    served.supervisor.let_go.set()
    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as group:
            message = call("control_run", action="pause")
            group.start_soon(lambda: post(served, message, **BEARER, **{"user-agent": "chat/7"}))
            request = await answered_request(database)
    assert request.client == "chat/7"


async def test_client_that_hangs_up_loses_its_answer_and_not_its_request(served: Served, database: Database) -> None:
    await database.write(insert_run)
    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as group:
            message = call("control_run", action="cancel")
            group.start_soon(lambda: post(served, message, **BEARER))
            await served.supervisor.asked.wait()
            group.cancel_scope.cancel()
        await post(served, call("get_run_status"))  # The connection that was closed before this one has been noticed.
        served.supervisor.let_go.set()
        request = await answered_request(database)
    assert request.action == "cancel"


async def test_answer_comes_as_an_event_stream(served: Served) -> None:
    answer = await post(served, call("get_run_status"))
    assert answer.headers["content-type"].startswith("text/event-stream")
    data = next(line for line in answer.text.splitlines() if line.startswith("data: {"))
    assert json.loads(data.removeprefix("data: "))["result"]["structuredContent"]["total"] == 0
