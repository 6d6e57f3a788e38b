"""A model server that bills a request when it arrives, whatever becomes of the caller: it builds and approves anything.

It owns a few lines of HTTP/1.1 and the journal of what it billed, one line per request, written before anything is
answered; the answer comes some time later, so that callers can be killed in between. It runs in a process of its own,
listens on 127.0.0.1 and ends with its caller. The benchmark of crashes and the tests of durability open it.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

BUILDER, AUDITOR = "bench-builder", "bench-auditor"
USAGE = {"prompt_tokens": 400, "completion_tokens": 40, "total_tokens": 440}
_PHASE = re.compile(r"## Phase ([\w-]+)")
_APPROVAL = json.dumps({"approved": True, "summary": "It does what the phase asks.", "issues": []})
CONFIG = """
providers:
  local: {{sdk: openai, base_url: {url}}}
models:
  bench-builder: {{provider: local, max_output_tokens: 2048, context_window: 128_000, price: {{input: 1, output: 4}}}}
  bench-auditor: {{provider: local, max_output_tokens: 2048, context_window: 128_000, price: {{input: 1, output: 4}}}}
complexity_models:
  low: {{builder: bench-builder, auditor: bench-auditor}}
  medium: {{builder: bench-builder, auditor: bench-auditor}}
  high: {{builder: bench-builder, auditor: bench-auditor}}
"""


@dataclass(frozen=True, slots=True)
class Billed:
    """One request that was paid for: the id of its answer, who asked, and about which phase."""

    answer_id: str
    role: str
    phase_id: str


@dataclass(frozen=True, slots=True)
class BillingUpstream:
    """A running server: where it answers, and its journal."""

    url: str
    journal: Path

    @property
    def models_yaml(self) -> str:
        """A config whose only account is this server."""
        return CONFIG.format(url=self.url)

    def billed(self) -> list[Billed]:
        """Every request so far, in the order of arrival."""
        lines = self.journal.read_text(encoding="utf-8").splitlines() if self.journal.exists() else []
        return [Billed(*line.split()) for line in lines]


class _Talk(asyncio.Protocol):
    """One connection; its requests come one after another."""

    numbers = count(1)

    def __init__(self, journal: Path, delay_s: float) -> None:
        self._journal = journal
        self._delay_s = delay_s
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head, body = self._received[:end].lower(), self._received[end + 4 :]
            length = int(head.partition(b"content-length:")[2].partition(b"\r")[0] or 0)
            if len(body) < length:
                return
            self._received = body[length:]
            self._bill(json.loads(body[:length]))

    def _bill(self, request: dict[str, object]) -> None:
        role = "builder" if request["model"] == BUILDER else "auditor"
        found = _PHASE.search(json.dumps(request["messages"]))
        assert found is not None
        billed = Billed(f"answer-{next(self.numbers)}", role, found[1])
        with self._journal.open("a", encoding="utf-8") as journal:
            journal.write(f"{billed.answer_id} {billed.role} {billed.phase_id}\n")
        asyncio.get_running_loop().call_later(self._delay_s, self._answer, billed)

    def _answer(self, billed: Billed) -> None:
        written = f"*** SUMMARY Done as asked.\n\n*** WRITE {billed.phase_id}.txt\n{billed.phase_id}\n*** END\n"
        self._transport.write(_stream(billed.answer_id, written if billed.role == "builder" else _APPROVAL))


def _stream(answer_id: str, text: str) -> bytes:
    head = {"id": answer_id, "object": "chat.completion.chunk", "created": 1, "model": "bench"}
    delta = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    stop = {"index": 0, "delta": {}, "finish_reason": "stop"}
    chunks = [{**head, "choices": [delta]}, {**head, "choices": [stop]}, {**head, "choices": [], "usage": USAGE}]
    lines = [*map(json.dumps, chunks), "[DONE]"]
    body = "".join(f"data: {line}\n\n" for line in lines).encode()
    kind = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n%s"
    return kind % (len(body), body)


async def _serve(journal: Path, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Talk(journal, delay_s), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # Until whoever started it is gone.


@contextmanager
def billing_upstream(journal: Path, delay_s: float) -> Iterator[BillingUpstream]:
    """Such a server while this is open; it answers ``delay_s`` seconds after it has billed."""
    command = [sys.executable, "-m", "benchmarks.billing", str(journal), str(delay_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield BillingUpstream(f"http://127.0.0.1:{process.stdout.readline().strip()}/v1", journal)
        finally:
            process.stdin.close()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), float(sys.argv[2])))
