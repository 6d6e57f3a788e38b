"""A line between the product and the upstream that a test can hold: a call in flight then stays in flight.

It passes bytes on and knows nothing of HTTP; nothing of the product is patched, and nobody has to sleep.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from tests.runs.house import Gate

PIECE_BYTES = 65_536


@asynccontextmanager
async def held_line(upstream_url: str, gate: Gate) -> AsyncIterator[str]:
    """The address of a line to the upstream; while the gate is closed, what a client sends waits in front of it."""
    target = urlsplit(upstream_url)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, questions = await asyncio.open_connection(target.hostname, target.port)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_pass_on(reader, questions, gate))
            tasks.create_task(_pass_on(answers, writer, None))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: Gate | None) -> None:
    """Copy until one side has enough; either side may go away at any moment."""
    try:
        while data := await reader.read(PIECE_BYTES):
            if gate is not None:
                await gate()
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
