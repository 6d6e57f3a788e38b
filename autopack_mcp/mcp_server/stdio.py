"""MCP over standard input and output, as chat clients start it: nothing but the protocol is written there.

It owns the transport of one client and ends when that client closes its end; logs go to standard error. The command
line runs it, with parts that are opened late.
"""

from __future__ import annotations

from mcp.server.mcpserver import MCPServer


async def run_stdio(server: MCPServer) -> None:
    """Serve one client until it closes its end.

    The transport takes standard output for itself and points the descriptor at standard error meanwhile, so that a
    stray print of anybody cannot break the protocol.
    """
    await server.run_stdio_async()
