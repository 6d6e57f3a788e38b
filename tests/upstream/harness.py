"""A real HTTP upstream for tests: aimock, scripted from Python, and its journal of what it served.

It owns the process (started on a free loopback port, gone when the test process is) and the words of a script; it knows
nothing of our adapters, so that what they say can be compared with what was really served. Tests get it as the fixture
``upstream``; what aimock can and cannot script is written down in ``tests/upstream/README.md``.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

FOLDER = Path(__file__).resolve().parent
NODE_NEEDED = (20, 15)  # What aimock's package.json asks for.
START_TIMEOUT_S = 20  # A cold start takes 0.2 s; the rest is for a machine that is busy with something else.
STOP_TIMEOUT_S = 5
ANSWER_TIMEOUT_S = 10
CUT_PACE_MS = 5  # One turn of Node's loop is enough to flush an event; more would only slow the tests down.


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which requests an answer is for; what is left out matches anything.

    ``model`` is the exact name (a dated suffix such as ``-20261118`` still matches). ``user_has`` is a part of the last
    user message that has text; ``system_has`` are parts which must all be in the system messages together.
    """

    model: str | None = None
    user_has: str | None = None
    system_has: tuple[str, ...] = ()

    def to_match(self) -> dict[str, Any]:
        """The same in aimock's words."""
        match: dict[str, Any] = {"model": self.model, "userMessage": self.user_has}
        if self.system_has:
            match["systemMessage"] = list(self.system_has)
        return {key: value for key, value in match.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A reply, and the usage its provider will report: ``input_tokens`` and ``output_tokens`` as that API counts them.

    ``finish_reason`` is in OpenAI's words (``stop``, ``length``, ``content_filter``); aimock translates it for others.
    ``starts_after_ms`` and ``piece_every_ms`` pace a stream (a plain, unstreamed reply is never delayed), which is sent
    in pieces of ``piece_chars`` characters. ``cut_after_pieces`` drops the connection when so many events of the stream
    have arrived, counting the ones without text; 0 drops it before anything has.
    ``usage_details`` are further fields of the usage; only ``openai_detailed_base_url`` sends them.
    """

    text: str
    input_tokens: int = 100
    output_tokens: int = 20
    finish_reason: str | None = None
    response_id: str | None = None
    model: str | None = None
    starts_after_ms: int = 0
    piece_every_ms: int = 0
    piece_chars: int = 40
    cut_after_pieces: int | None = None
    usage_details: Mapping[str, Any] = field(default_factory=dict)

    def to_fixture(self) -> dict[str, Any]:
        """The same in aimock's words."""
        response = {
            "content": self.text,
            "usage": {"input_tokens": self.input_tokens, "output_tokens": self.output_tokens, **self.usage_details},
            "finishReason": self.finish_reason,
            "id": self.response_id,
            "model": self.model,
        }
        fixture: dict[str, Any] = {
            "response": {key: value for key, value in response.items() if value is not None},
            "chunkSize": self.piece_chars,
            "latency": self.piece_every_ms,
        }
        if self.starts_after_ms:
            fixture["streamingProfile"] = {"ttft": self.starts_after_ms}
        if self.cut_after_pieces is not None:
            # Node drops the event it wrote last when it destroys the connection in the same tick, hence one more of
            # them, and a pace that lets the others out.
            fixture |= {"truncateAfterChunks": self.cut_after_pieces + 1, "latency": self.piece_every_ms or CUT_PACE_MS}
        return fixture


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An HTTP error in the shape of the API that was asked. ``retry_after_s`` is sent with 429 only, 1 unless given."""

    status: int
    message: str = "scripted fault"
    kind: str | None = None
    retry_after_s: int | None = None

    def to_fixture(self) -> dict[str, Any]:
        """The same in aimock's words."""
        error = {"message": self.message, **({"type": self.kind} if self.kind else {})}
        response: dict[str, Any] = {"error": error, "status": self.status}
        if self.retry_after_s is not None:
            response["retryAfter"] = self.retry_after_s
        return {"response": response}


@dataclass(frozen=True, slots=True)
class Served:
    """One line of the upstream's journal: what was asked and what it sent back.

    ``text``, ``input_tokens`` and ``output_tokens`` are what it was told to send, None for an error; ``cut`` says that
    the script dropped the connection, so that the client saw less. ``messages`` are (role, text) with system messages
    first, None when the prompt was larger than the 64 KB the journal keeps. ``response_id`` is the scripted one.
    """

    path: str
    model: str
    messages: tuple[tuple[str, str], ...] | None
    status: int
    text: str | None
    input_tokens: int | None
    output_tokens: int | None
    cut: bool
    request_id: str
    response_id: str | None

    @property
    def prompt(self) -> str:
        """All messages as one text, for looking something up in it."""
        assert self.messages is not None, "the journal keeps no prompt above 64 KB"
        return "\n".join(text for _, text in self.messages)


class Upstream:
    """A running aimock. ``openai_base_url`` and ``anthropic_base_url`` are what the SDKs take as ``base_url``."""

    def __init__(self, url: str, pid: int) -> None:
        self.url = url
        self.pid = pid

    @property
    def openai_base_url(self) -> str:
        """For the openai SDK: Chat Completions and Responses."""
        return f"{self.url}/v1"

    @property
    def openai_detailed_base_url(self) -> str:
        """For the openai SDK, Chat Completions only: in OpenRouter's dialect, whose usage carries ``usage_details``."""
        return f"{self.url}/api/v1"

    @property
    def anthropic_base_url(self) -> str:
        """For the anthropic SDK: Messages."""
        return self.url

    def script(self, asked: Asked, *answers: Answer | Fault) -> None:
        """Answer requests like ``asked`` with these, one after the other; a further request finds no answer.

        Of several scripts that fit one request, the earliest wins while it has answers left. A retry is a request too.
        """
        fixtures = [
            {**answer.to_fixture(), "match": {**asked.to_match(), "sequenceIndex": index}}
            for index, answer in enumerate(answers)
        ]
        self._post("/__aimock/fixtures", {"fixtures": fixtures})

    def always(self, asked: Asked, answer: Answer | Fault) -> None:
        """Answer every request like ``asked`` with this, however many there are."""
        self._post("/__aimock/fixtures", {"fixtures": [{**answer.to_fixture(), "match": asked.to_match()}]})

    def journal(self) -> tuple[Served, ...]:
        """Every request so far, in the order of arrival."""
        return tuple(_served(entry) for entry in self._get("/__aimock/journal"))

    def unanswered(self) -> tuple[Served, ...]:
        """Requests for which the script had no answer; they got a 404."""
        return tuple(_served(entry) for entry in self._get("/__aimock/journal") if _answer_of(entry) is None)

    def forget(self) -> None:
        """Empty the script and the journal."""
        self._post("/__aimock/reset", {})

    def is_healthy(self) -> bool:
        """Whether it answers its health check."""
        return bool(self._get("/health") == {"status": "ok"})

    def _get(self, path: str) -> Any:
        return self._send(Request(self.url + path))

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._send(Request(self.url + path, data=json.dumps(body).encode(), method="POST"))

    def _send(self, request: Request) -> Any:
        try:
            with urlopen(request, timeout=ANSWER_TIMEOUT_S) as response:
                return json.load(response)
        except HTTPError as error:
            with error:
                raise AssertionError(f"aimock refused {request.selector}: {error.read().decode()}") from None


def why_it_cannot_run() -> str | None:
    """The reason why there can be no upstream on this machine, None when there can."""
    node = shutil.which("node")
    if node is None:
        return "Node is not installed"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    if tuple(map(int, version.lstrip("v").split(".")[:2])) < NODE_NEEDED:
        return f"Node {'.'.join(map(str, NODE_NEEDED))} or newer is needed, found {version}"
    if not (FOLDER / "node_modules" / "@copilotkit" / "aimock").is_dir():
        return "aimock is not installed (npm ci --prefix tests/upstream)"
    return None


@contextmanager
def running_upstream(log: Path) -> Iterator[Upstream]:
    """An upstream with an empty script; its stderr goes to ``log``. It has ended when this returns.

    Raises:
        AssertionError: it did not say where it listens within ``START_TIMEOUT_S``.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIMOCK_")}
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            ["node", "serve.mjs"],
            cwd=FOLDER,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
        try:
            upstream = _when_ready(process, log)
            assert upstream.is_healthy()
            yield upstream
        finally:
            _stop(process)


def _when_ready(process: subprocess.Popen[bytes], log: Path) -> Upstream:
    assert process.stdout is not None
    line = _first_line(process.stdout)
    if not line:
        raise AssertionError(f"aimock did not start within {START_TIMEOUT_S} s: {log.read_text()}")
    return Upstream(**json.loads(line))


def _first_line(stream: IO[bytes]) -> bytes:
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        return stream.readline() if selector.select(START_TIMEOUT_S) else b""


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process by closing its stdin, and by force if it does not listen."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def _answer_of(entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
    fixture = entry["response"]["fixture"]
    return None if fixture is None else fixture["response"]


def _served(entry: Mapping[str, Any]) -> Served:
    body = entry["body"] or {}
    answer = _answer_of(entry) or {}
    usage = answer.get("usage") or {}
    return Served(
        path=entry["path"],
        model=body.get("model", ""),
        messages=_messages(body),
        status=entry["response"]["status"],
        text=answer.get("content"),
        input_tokens=usage.get("input_tokens"),
        output_tokens=usage.get("output_tokens"),
        cut=bool(entry["response"].get("interrupted")),
        request_id=entry["headers"]["x-request-id"],
        response_id=answer.get("id"),
    )


def _messages(body: Mapping[str, Any]) -> tuple[tuple[str, str], ...] | None:
    if "messages" not in body:
        return None
    return tuple((message["role"], _text(message["content"])) for message in body["messages"])


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return "" if content is None else str(content)
