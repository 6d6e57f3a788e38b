"""A small real HTTP server that speaks the three APIs' streams, and can hang, cut, fail and echo on command.

It owns the bytes on the wire, so that the adapters are tested with the real SDKs over real sockets; it knows nothing of
our types. The contract suite and the adapters' own tests drive it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Step = bytes | Literal["hang", "cut"]


@dataclass(frozen=True)
class Request:
    """What arrived: the path, the headers in lower case, and the JSON."""

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, object]


@dataclass(frozen=True)
class Answer:
    """What to send back: each step is one chunk, or "hang" until the client is gone, or "cut" the connection."""

    steps: Sequence[Step] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "text/event-stream"


def error(status: int, body: object, **headers: str) -> Answer:
    """An error answer in JSON; header names with _ for -."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer([json.dumps(body).encode()], status, named, "application/json")


class Upstream:
    """Answers requests in the order given; the last answer repeats. Use as an async context manager."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []
        self.was_asked = asyncio.Event()
        self.client_gone = asyncio.Event()
        self._served: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Upstream:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._served:
            task.cancel()
        await asyncio.gather(*self._served, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._served.add(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await _read_request(reader):
                self.requests.append(request)
                self.was_asked.set()
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                await self._send(answer, reader, writer)
        except ConnectionError:
            pass
        finally:
            self.client_gone.set()
            writer.close()

    async def _send(self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        headers = {"content-type": answer.content_type, "transfer-encoding": "chunked", **answer.headers}
        lines = [f"HTTP/1.1 {answer.status} Said", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        writer.write("\r\n".join(lines).encode())
        for step in answer.steps:
            if step == "cut":
                await writer.drain()
                writer.transport.abort()
                raise ConnectionError
            if step == "hang":
                await reader.read()
                raise ConnectionError
            writer.write(f"{len(step):x}\r\n".encode() + step + b"\r\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(head[0].split()[1], headers, json.loads(body or b"{}"))


def sse(data: object, event: str | None = None) -> bytes:
    """One server-sent event."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(data)}\n\n".encode()


class ChatSpeech:
    """Streams as /chat/completions sends them. Usage: 11 in, of them 4 cached; 7 out, of them 2 reasoning."""

    api = "chat"
    path = "/chat/completions"
    input_is_known_early = False

    def begun(self, *texts: str) -> list[bytes]:
        role = self._chunk({"role": "assistant", "content": ""})
        return [role, *(self._chunk({"content": text}) for text in texts)]

    def ended(self, reason: str = "stop", *, usage: bool = True) -> list[bytes]:
        numbers = {
            "prompt_tokens": 11,
            "completion_tokens": 7,
            "total_tokens": 18,
            "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": None},
            "completion_tokens_details": {"reasoning_tokens": 2},
        }
        last = {**self._head(), "choices": [], "usage": numbers, "service_tier": "default"}
        return [self._chunk({}, reason), *([sse(last)] if usage else []), b"data: [DONE]\n\n"]

    def failed(self, kind: str, message: str) -> bytes:
        return sse({"error": {"message": message, "type": kind, "code": None}})

    reasons: Mapping[str, str] = {
        "stop": "stop",
        "length": "length",
        "refused": "content_filter",
        "other": "tool_calls",
    }

    def _head(self) -> dict[str, object]:
        return {"id": "answer-1", "object": "chat.completion.chunk", "created": 1, "model": "model-that-answered"}

    def _chunk(self, delta: Mapping[str, object], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return sse({**self._head(), "choices": [choice], "usage": None})


class ResponsesSpeech:
    """Streams as /responses sends them; same usage as chat."""

    api = "responses"
    path = "/responses"
    input_is_known_early = False
    reasons: Mapping[str, str] = {
        "stop": "completed",
        "length": "max_output_tokens",
        "refused": "content_filter",
        "other": "a reason nobody knows yet",
    }

    def begun(self, *texts: str) -> list[bytes]:
        created = {"type": "response.created", "sequence_number": 0, "response": self._response("in_progress")}
        deltas = [
            {
                "type": "response.output_text.delta",
                "sequence_number": number,
                "item_id": "item-1",
                "output_index": 0,
                "content_index": 0,
                "delta": text,
                "logprobs": [],
            }
            for number, text in enumerate(texts, 1)
        ]
        return [sse(created, "response.created"), *(sse(delta, "response.output_text.delta") for delta in deltas)]

    def ended(self, reason: str = "completed", *, usage: bool = True) -> list[bytes]:
        status = "completed" if reason == "completed" else "incomplete"
        response = self._response(status) | {"service_tier": "default"}
        if status == "incomplete":
            response["incomplete_details"] = {"reason": reason}
        if usage:
            response["usage"] = {
                "input_tokens": 11,
                "input_tokens_details": {"cached_tokens": 4},
                "output_tokens": 7,
                "output_tokens_details": {"reasoning_tokens": 2},
                "total_tokens": 18,
            }
        return [sse({"type": f"response.{status}", "sequence_number": 99, "response": response}, f"response.{status}")]

    def failed(self, kind: str, message: str) -> bytes:
        response = self._response("failed") | {"error": {"code": kind, "message": message}}
        return sse({"type": "response.failed", "sequence_number": 50, "response": response}, "response.failed")

    def _response(self, status: str) -> dict[str, object]:
        return {
            "id": "answer-1",
            "object": "response",
            "created_at": 1,
            "model": "model-that-answered",
            "status": status,
            "output": [],
            "usage": None,
        }


class MessagesSpeech:
    """Streams as /v1/messages sends them; same usage, told in two parts: input first, output cumulative."""

    api = "messages"
    path = "/v1/messages"
    input_is_known_early = True
    reasons: Mapping[str, str] = {
        "stop": "end_turn",
        "length": "max_tokens",
        "refused": "refusal",
        "other": "pause_turn",
    }

    def begun(self, *texts: str) -> list[bytes]:
        return [self._start(usage=True), *self._spoken(texts)]

    def begun_without_usage(self, *texts: str) -> list[bytes]:
        return [self._start(usage=False), *self._spoken(texts)]

    def ended(self, reason: str = "end_turn", *, usage: bool = True) -> list[bytes]:
        delta: dict[str, object] = {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}}
        if usage:
            delta["usage"] = {"output_tokens": 7, "output_tokens_details": {"thinking_tokens": 2}, "input_tokens": None}
        stop = {"type": "content_block_stop", "index": 0}
        return [
            sse(stop, "content_block_stop"),
            sse(delta, "message_delta"),
            sse({"type": "message_stop"}, "message_stop"),
        ]

    def failed(self, kind: str, message: str) -> bytes:
        return sse({"type": "error", "error": {"type": kind, "message": message}}, "error")

    def _start(self, *, usage: bool) -> bytes:
        message: dict[str, object] = {
            "id": "answer-1",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": "model-that-answered",
            "stop_reason": None,
        }
        if usage:
            message["usage"] = {
                "input_tokens": 7,
                "cache_read_input_tokens": 4,
                "cache_creation_input_tokens": 0,
                "output_tokens": 1,
                "service_tier": "default",
            }
        return sse({"type": "message_start", "message": message}, "message_start")

    def _spoken(self, texts: Sequence[str]) -> list[bytes]:
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        deltas = [
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}} for text in texts
        ]
        ping = sse({"type": "ping"}, "ping")
        return [sse(block, "content_block_start"), ping, *(sse(delta, "content_block_delta") for delta in deltas)]


Speech = ChatSpeech | ResponsesSpeech | MessagesSpeech
