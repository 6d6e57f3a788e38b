"""The server as clients meet it: over a real database, through the official in-memory client, in both protocol eras."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from mcp.client import Client
from mcp.server.mcpserver import MCPServer

from autopack_mcp.clock import ManualClock
from autopack_mcp.control.control import Control
from autopack_mcp.database.engine import Database
from autopack_mcp.home import Home
from autopack_mcp.mcp_server.server import create_mcp_server
from autopack_mcp.routing.snapshot import SnapshotReader
from autopack_mcp.runs.supervision import SupervisorRecord
from autopack_mcp.summary.summaries import Summaries
from tests.factories import NOON, settings

Connect = Callable[[MCPServer], AbstractAsyncContextManager[Client]]


@pytest.fixture
def engine() -> str:
    """Tools word what summaries and control say, and those are tried on both engines beside their module."""
    return "sqlite"


class AliveSupervisor:
    """Says that somebody supervises, and nothing else; a request stays pending."""

    async def ensure(self, *, here: bool = True) -> SupervisorRecord:
        return SupervisorRecord("desk", 1, 4711, "http://127.0.0.1:8000", "0", (), "", NOON, NOON)


@pytest.fixture(params=["legacy", "auto"], ids=["2025-11-25", "2026-07-28"])
def era(request: pytest.FixtureRequest) -> str:
    """How a client opens: by the handshake, or the modern way."""
    return str(request.param)


@pytest.fixture
def connect(era: str) -> Connect:
    """Connects a client of each era to a server."""

    @asynccontextmanager
    async def connected(server: MCPServer) -> AsyncIterator[Client]:
        async with Client(server, mode=era) as client:
            yield client

    return connected


@pytest.fixture
def summaries(database: Database, clock: ManualClock) -> Summaries:
    return Summaries(
        database=database, settings=settings, clock=clock, has_key=lambda provider: True, unit_price=lambda model: None
    )


@pytest.fixture
def control(database: Database, clock: ManualClock, tmp_path: Path) -> Control:
    """Control over the test's database, with somebody to act on nothing."""
    snapshots = SnapshotReader(
        settings=settings, clock=clock, has_key=lambda provider: True, unit_price=lambda model: None
    )
    return Control(
        home=Home(tmp_path),
        database=database,
        clock=clock,
        settings=settings,
        supervisors=AliveSupervisor(),
        snapshots=snapshots,
    )


@pytest.fixture
def server(summaries: Summaries, control: Control) -> MCPServer:
    """The server that acts."""
    return create_mcp_server(summaries=summaries, control=control, version="1.2.3")
