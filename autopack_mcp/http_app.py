"""Everything that one port answers, as an ASGI application: the page, ``/mcp``, ``/health``, behind one guard.

It owns the order of routes and the lifespan of the MCP sessions; page and tools are made elsewhere. ``serve`` runs it,
and tests call it without a port.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from autopack_mcp import __version__, app
from autopack_mcp.app import Autopack
from autopack_mcp.mcp_server.http import McpEndpoint
from autopack_mcp.mcp_server.server import create_mcp_server
from autopack_mcp.status_page.error_pages import error_handlers
from autopack_mcp.status_page.guards import guarded, loopback_hosts
from autopack_mcp.status_page.pages import status_page_routes
from autopack_mcp.tokens import token_digest


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """Where a process answers."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """The page's address; MCP is ``/mcp`` under it."""
        return f"http://{self.host}:{self.port}"


def http_app(autopack: Autopack, address: HttpAddress, *, reading_only_because: str | None = None) -> ASGIApp:
    """The application for one address.

    Args:
        reading_only_because: why this process lists no acting tool, whatever token a client sends; None when it does.
    """
    reading = create_mcp_server(
        summaries=autopack.summaries, control=None, version=__version__, how_to_act=reading_only_because
    )
    full = None
    if reading_only_because is None:
        full = create_mcp_server(summaries=autopack.summaries, control=app.control(autopack), version=__version__)
    endpoint = McpEndpoint(full, reading, token_digest=lambda: token_digest(autopack.home), port=address.port)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with endpoint.run():
            yield

    routes = [
        Route("/health", _health),
        Route("/mcp", endpoint),
        *status_page_routes(summaries=autopack.summaries, clock=autopack.clock),
    ]
    inner = Starlette(routes=routes, lifespan=lifespan, exception_handlers=error_handlers())
    return guarded(inner, allowed_hosts=loopback_hosts(address.port))


async def _health(_request: Request) -> JSONResponse:
    return JSONResponse({"status": "ok", "version": __version__})
