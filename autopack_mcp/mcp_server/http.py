"""MCP over streamable HTTP at exactly one path: with the token a server that acts, without one a server that reads.

It owns the credential of the loopback endpoint and the life of its sessions; the port, the Host guard around everything
and the route belong to whoever mounts it. Both protocol eras are answered, statelessly (docs/mcp.md).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import INVALID_REQUEST
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost", "[::1]")


class McpEndpoint:
    """An ASGI application for one path; its sessions live as long as ``run``, which belongs in our lifespan.

    Mount it with ``Route("/mcp", endpoint)``: a Mount would redirect to ``/mcp/``.
    """

    def __init__(
        self, full: MCPServer | None, reading: MCPServer, *, token_digest: Callable[[], str | None], port: int
    ) -> None:
        """
        Args:
            full: answers whoever sends the token; None when nobody may act, and then ``reading`` answers them, too.
            token_digest: the SHA-256 (hex) of the token in force, asked at every request; None when there is none.
            port: the loopback port that a Host header must name.
        """
        self._token_digest = token_digest
        self._servers = [reading] if full is None else [reading, full]
        applications = [_application(server, port) for server in self._servers]
        self._reading, self._full = applications[0], applications[-1]

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Requests are served inside; only once, and around everything that calls the endpoint."""
        async with AsyncExitStack() as stack:
            for server in self._servers:
                await stack.enter_async_context(server.session_manager.run())
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: acting with the right token, reading without any, 401 with a wrong one."""
        said = Headers(scope=scope).get("authorization")
        if said is None:
            await self._reading(scope, receive, send)
        elif self._is_ours(said):
            await self._full(scope, receive, send)
        else:
            why = "No token has been made yet." if self._token_digest() is None else "This token is not in force."
            await _unauthorized(why)(scope, receive, send)

    def _is_ours(self, said: str) -> bool:
        scheme, _, token = said.partition(" ")
        digest = self._token_digest()
        if scheme.lower() != "bearer" or digest is None:
            return False
        # Compared as hashes in constant time: neither the file nor the time it takes says anything about the token.
        return hmac.compare_digest(hashlib.sha256(token.strip().encode()).hexdigest(), digest)


def _application(server: MCPServer, port: int) -> ASGIApp:
    hosts = [f"{host}:{port}" for host in HOSTS]
    security = TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=[f"http://{host}" for host in hosts])
    # In SSE mode progress and cancel-on-disconnect work; json_response=True would lose both.
    server.streamable_http_app(stateless_http=True, json_response=False, transport_security=security)
    # Only the manager behind that application: its own route and lifespan would be inside ours.
    return server.session_manager.handle_request


def _unauthorized(why: str) -> Response:
    said = f"{why} `autopack-mcp token` makes one; without the Authorization header this endpoint reads only."
    body = {"jsonrpc": "2.0", "id": None, "error": {"code": INVALID_REQUEST, "message": said}}
    challenge = f'Bearer realm="autopack-mcp", error="invalid_token", error_description="{why}"'
    return JSONResponse(body, status_code=401, headers={"www-authenticate": challenge})
