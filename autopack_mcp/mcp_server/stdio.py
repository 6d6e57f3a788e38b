"""MCP over standard input and output, as chat clients start it: nothing but the protocol is written there.

It owns the transport of one client and the order of things: the client is answered first, database and settings are
opened with its first question. It ends when the client closes its end; logs go to standard error.
"""

from __future__ import annotations

from collections.abc import Callable

from mcp.server.mcpserver import MCPServer

from autopack_mcp.mcp_server.late import LateParts, Parts
from autopack_mcp.mcp_server.server import create_mcp_server


async def serve_stdio(open_parts: Callable[[], Parts], *, read_only: bool, version: str) -> None:
    """Serve one client; what ``open_parts`` opened is closed at the end."""
    late = LateParts(open_parts)
    server = create_mcp_server(summaries=late.summaries, control=late.control, read_only=read_only, version=version)
    try:
        await run_stdio(server)
    finally:
        await late.close()


async def run_stdio(server: MCPServer) -> None:
    """Serve one client until it closes its end.

    The transport takes standard output for itself and points the descriptor at standard error meanwhile, so that a
    stray print of anybody cannot break the protocol.
    """
    await server.run_stdio_async()
