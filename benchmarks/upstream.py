"""A model server that costs next to nothing: the same short answer to every question, at once, in its own process.

It owns a few lines of HTTP/1.1 and two fixed bodies (whole, and as a stream, both with usage), so that what a benchmark
measures is the caller and not the server. Benchmarks open it; it listens on 127.0.0.1 and ends with its caller.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ANSWER = "An answer of a few words."
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
_HEAD = {"id": "answer-1", "created": 1, "model": "bench"}


def _whole() -> bytes:
    message = {"role": "assistant", "content": ANSWER}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    body = json.dumps({**_HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()
    return _response(b"application/json", body)


def _stream() -> bytes:
    """Three chunks, which is the least that a stream with usage has."""
    deltas = [({"role": "assistant", "content": ANSWER}, None), ({}, "stop")]
    choices = [[{"index": 0, "delta": delta, "finish_reason": reason}] for delta, reason in deltas]
    chunks = [{"choices": choice, "usage": None} for choice in choices] + [{"choices": [], "usage": USAGE}]
    lines = [json.dumps({**_HEAD, "object": "chat.completion.chunk", **chunk}) for chunk in chunks]
    return _response(b"text/event-stream", "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode())


def _response(kind: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (kind, len(body), body)


class _Talk(asyncio.Protocol):
    """One connection, kept open; requests come one after another."""

    whole, stream = _whole(), _stream()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head, body = self._received[:end].lower(), self._received[end + 4 :]
            length = int(head.partition(b"content-length:")[2].partition(b"\r")[0] or 0)
            if len(body) < length:
                return
            self._received = body[length:]
            wants_stream = b'"stream":true' in body[:length].replace(b" ", b"")
            self._transport.write(self.stream if wants_stream else self.whole)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Talk, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # Until whoever started it is gone.


@contextmanager
def upstream_url() -> Iterator[str]:
    """The base URL of such a server, which runs for as long as this is open."""
    command = [sys.executable, "-m", "benchmarks.upstream"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        finally:
            process.stdin.close()


if __name__ == "__main__":
    asyncio.run(_serve())
