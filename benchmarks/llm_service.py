"""What a call through AsyncLlmService costs over the same call through the bare openai SDK.

It owns the conditions: one local server in its own process that answers at once (``upstream``), one kept client each,
no retries, SQLite on disk with ``synchronous=FULL``, a cap in tokens and one in dollars, and both durable commits (the
reservation before the request, the booking after it). The two take turns in short rounds of one run, so that whatever
else the machine does falls on both. ``make bench`` and readers of docs/benchmarks.md run it.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from openai import AsyncOpenAI

from autopack_mcp import AsyncLlmService
from benchmarks.machine import machine
from benchmarks.upstream import upstream_url

CALLERS = 32
ROUNDS = 40
QUICK_S = 30.0  # With --quick no round begins after so long; the first three always do.
CALLS_OF_ONE = 50  # Per round and kind, one after another.
CALLS_OF_MANY = 640  # Per round and kind, by all callers together.
WARM_UP = 64
MESSAGES = [
    {"role": "system", "content": "You answer in one sentence."},
    {"role": "user", "content": "What does the next phase of this plan need? " * 20},
]
MAX_OUTPUT_TOKENS = 256
CONFIG = """
providers:
  local:
    sdk: openai
    base_url: {url}
    weekly_cap_tokens: 1_000_000_000_000
    monthly_cap_usd: 1_000_000
models:
  bench: {{provider: local, max_output_tokens: 4096, context_window: 128_000, price: {{input: 1, output: 4}}}}
complexity_models:
  low: {{builder: bench, auditor: bench}}
  medium: {{builder: bench, auditor: bench}}
  high: {{builder: bench, auditor: bench}}
"""

Call = Callable[[], Awaitable[object]]


@dataclass
class Times:
    """Of one kind of caller: milliseconds per call alone, and per call when all callers are busy, by round."""

    call: Call
    alone_ms: list[float] = field(default_factory=list)
    together_ms: list[float] = field(default_factory=list)

    async def one_caller(self, calls: int) -> None:
        """One call after another; each is timed."""
        for _ in range(calls):
            start = time.perf_counter()
            await self.call()
            self.alone_ms.append((time.perf_counter() - start) * 1_000)

    async def many_callers(self, calls: int) -> None:
        """All callers at once; the time of a call is its share of the whole."""

        async def worker() -> None:
            for _ in range(calls // CALLERS):
                await self.call()

        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(worker())
        self.together_ms.append((time.perf_counter() - start) * 1_000 / calls)


def bare_sdk(client: AsyncOpenAI) -> Call:
    """The call as the vendor's README makes it."""

    async def call() -> None:
        reply = await client.chat.completions.create(
            model="bench",
            messages=MESSAGES,  # type: ignore[arg-type]  # As everybody writes them.
            max_tokens=MAX_OUTPUT_TOKENS,
        )
        assert reply.usage is not None

    return call


def our_service(service: AsyncLlmService) -> Call:
    async def call() -> None:
        reply = await service.complete("agent:bench", MESSAGES, max_output_tokens=MAX_OUTPUT_TOKENS)
        assert reply.prompt_tokens == 11

    return call


def litellm_call(url: str) -> Call | None:
    """LiteLLM, which writes nothing durable; None where it is not installed (it is no dependency of ours)."""
    if importlib.util.find_spec("litellm") is None:
        return None
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # Else it fetches one.
    litellm = importlib.import_module("litellm")

    async def call() -> None:
        await litellm.acompletion(
            model="openai/bench", messages=MESSAGES, max_tokens=MAX_OUTPUT_TOKENS, api_base=url, api_key="none"
        )

    return call


class Disk:
    """One row in one transaction of plain sqlite3, on disk when it returns: what each of our two commits needs."""

    def __init__(self, folder: Path) -> None:
        self.commit_ms: list[float] = []
        self._connection = sqlite3.connect(folder / "floor.db", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("CREATE TABLE rows (row TEXT)")

    def commit(self, times: int) -> None:
        """So often, one after the other."""
        for _ in range(times):
            start = time.perf_counter()
            self._connection.execute("INSERT INTO rows VALUES ('a reservation or an event')")
            self.commit_ms.append((time.perf_counter() - start) * 1_000)

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()


async def _measure(url: str, folder: Path, limit_s: float, disk: Disk) -> dict[str, Times]:
    config = folder / "models.yaml"
    config.write_text(CONFIG.format(url=url))
    client = AsyncOpenAI(api_key="none", base_url=url, max_retries=0)
    async with client, AsyncLlmService(f"sqlite:///{folder / 'autopack.db'}", config) as service:
        kinds = {"bare_sdk": bare_sdk(client), "llm_service": our_service(service), "litellm": litellm_call(url)}
        times = {name: Times(call) for name, call in kinds.items() if call is not None}
        for kind in times.values():
            await Times(kind.call).many_callers(WARM_UP)
        ends_at = time.monotonic() + limit_s
        for number in range(ROUNDS):
            if number >= 3 and time.monotonic() > ends_at:
                break
            for kind in times.values():
                await kind.one_caller(CALLS_OF_ONE)
            for kind in times.values():
                await kind.many_callers(CALLS_OF_MANY)
            disk.commit(CALLS_OF_ONE)
        return times


def measure(limit_s: float, folder: Path) -> dict[str, object]:
    """The numbers; each ratio is over the bare SDK in the same run, None where LiteLLM is missing."""
    os.environ["AUTOPACK_HOME"] = str(folder)
    with upstream_url() as url, closing(Disk(folder)) as disk:
        times = asyncio.run(_measure(url, folder, limit_s, disk))
    found: dict[str, object] = {"commit_ms_p50": round(statistics.median(disk.commit_ms), 3)}
    for name in ("bare_sdk", "llm_service", "litellm"):
        kind = times.get(name)
        found[f"{name}_ms_p50"] = None if kind is None else round(statistics.median(kind.alone_ms), 3)
        found[f"{name}_ms_at_{CALLERS}"] = None if kind is None else round(statistics.median(kind.together_ms), 3)
    for name, prefix in (("llm_service", ""), ("litellm", "litellm_")):
        found |= _ratios(times["bare_sdk"], times.get(name), prefix)
    return {**found, "machine": machine()}


def _ratios(bare: Times, kind: Times | None, prefix: str) -> dict[str, object]:
    """Of the medians for one caller; the median of the rounds' ratios for many, whose rounds lie side by side."""
    if kind is None:
        return {f"{prefix}ratio_1": None, f"{prefix}ratio_{CALLERS}": None}
    alone = statistics.median(kind.alone_ms) / statistics.median(bare.alone_ms)
    together = statistics.median(ours / theirs for ours, theirs in zip(kind.together_ms, bare.together_ms, strict=True))
    return {f"{prefix}ratio_1": round(alone, 2), f"{prefix}ratio_{CALLERS}": round(together, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under 50 s")
    parser.add_argument("--folder", type=Path, help="where the database lies; a temporary folder if not given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(QUICK_S if options.quick else float("inf"), Path(folder))
    print(json.dumps(found) if options.json else "\n".join(f"{name:22} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
