"""The page as a browser on this machine meets it: behind its guards, over a real database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from autopack_mcp.clock import ManualClock
from autopack_mcp.database.engine import Database
from autopack_mcp.status_page.error_pages import error_handlers
from autopack_mcp.status_page.guards import guarded, loopback_hosts
from autopack_mcp.status_page.pages import status_page_routes
from autopack_mcp.summary.summaries import Summaries
from tests.factories import settings

PORT = 8000
BROWSER = {"accept": "text/html,application/xhtml+xml"}


@pytest.fixture
def engine() -> str:
    """Pages render summaries, and those are tried on both engines beside their module."""
    return "sqlite"


@dataclass(frozen=True, slots=True)
class Page:
    """What asks for a page, and the database behind it."""

    client: TestClient
    database: Database

    def text(self, path: str) -> str:
        """The HTML of a page that must be there."""
        answer = self.client.get(path, headers=BROWSER)
        assert answer.status_code == 200, answer.text
        return answer.text


async def _broken(request: Request) -> Response:
    raise ValueError("/home/someone/secret")


async def _echo(request: Request) -> Response:
    return Response(request.method, headers={"cache-control": "public"})


@pytest.fixture
def page(database: Database, clock: ManualClock) -> Iterator[Page]:
    """The whole port, with a page that fails and a stand-in for ``/mcp``; every test has its own rows."""
    summaries = Summaries(
        database=database,
        settings=settings,
        clock=clock,
        has_key=lambda provider: True,
        unit_price=lambda model: None,
    )
    routes = [
        Route("/mcp", _echo, methods=["GET", "POST", "DELETE"]),
        Route("/health", _echo),
        Route("/broken", _broken),
        *status_page_routes(summaries=summaries, clock=clock),
    ]
    app = guarded(Starlette(routes=routes, exception_handlers=error_handlers()), allowed_hosts=loopback_hosts(PORT))
    with TestClient(
        app, base_url=f"http://127.0.0.1:{PORT}", raise_server_exceptions=False, follow_redirects=False
    ) as client:
        yield Page(client, database)
