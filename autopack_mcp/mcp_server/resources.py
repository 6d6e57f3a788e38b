"""The same answers whole, as resources: a run, its notes, its context block and models, usage, and the model map.

It owns their addresses and media types. What a tool had to leave out stands here; what is not there is said with what
is. Clients that cannot read resources have the command line.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError

from autopack_mcp.errors import AutopackError, RequestRefused, RunNotFound
from autopack_mcp.mcp_server.refusals import refused
from autopack_mcp.summary.shown import plain

if TYPE_CHECKING:
    from autopack_mcp.summary.summaries import Summaries

JSON = "application/json"
MARKDOWN = "text/markdown"
_WINDOW = re.compile(r"([a-z]+)(-\d{1,6})")
RUNS_SHOWN = 100  # The newest; list_runs pages through the rest.


def add_resources(server: MCPServer, summaries: Summaries) -> None:
    """Give a server every resource, read from ``summaries``."""
    read = ResourceReader(summaries)
    for uri, reader, title, media_type in (
        ("autopack://runs", read.runs, f"The newest {RUNS_SHOWN} runs", JSON),
        ("autopack://runs/{run_id}", read.run, "A run with all its phases", JSON),
        ("autopack://runs/{run_id}/context", read.context, "A run as Markdown to paste into a chat", MARKDOWN),
        ("autopack://runs/{run_id}/notes", read.notes, "A run's notes and their delivery", JSON),
        ("autopack://runs/{run_id}/models", read.models_of_run, "Which model a run's phases will be given", JSON),
        ("autopack://runs/{run_id}/usage", read.usage_of_run, "What a run cost, by tier, phase, role and model", JSON),
        ("autopack://usage/{period}", read.usage, "Usage of a day, week, month or stretch of time", JSON),
        ("autopack://models", read.models, "Which model is used for what", JSON),
    ):
        server.resource(uri, name=reader.__name__, title=title, description=title, mime_type=media_type)(reader)


class ResourceReader:
    """One method per address."""

    def __init__(self, summaries: Summaries) -> None:
        self._summaries = summaries

    async def runs(self) -> str:
        """Runs, newest first."""
        return await _json(self._summaries.runs(RUNS_SHOWN))

    async def run(self, run_id: str) -> str:
        """Everything about a run."""
        return await _json(self._summaries.run(run_id))

    async def context(self, run_id: str) -> str:
        """The context block."""
        async with _errors():
            return await self._summaries.context_block(run_id)

    async def notes(self, run_id: str) -> str:
        """All notes, withdrawn ones too."""
        async with _errors():
            return _dumped((await self._summaries.run(run_id)).notes)

    async def models_of_run(self, run_id: str) -> str:
        """The models of a run's unfinished phases."""
        return await _json(self._summaries.models(run_id))

    async def usage_of_run(self, run_id: str) -> str:
        """What a run cost, taken apart."""
        return await _json(self._summaries.run_usage(run_id))

    async def usage(self, period: str) -> str:
        """A window by its name and offset (``week``, ``week-1``), or a stretch of time (``2026-11-01..2026-11-15``)."""
        from_, dots, to = period.partition("..")
        if dots:
            return await _json(self._summaries.usage(from_=from_, to=to))
        named = _WINDOW.fullmatch(period)
        window, offset = (period, 0) if named is None else (named[1], int(named[2]))
        return await _json(self._summaries.usage(window, offset))

    async def models(self) -> str:
        """The models of a run that would start now."""
        return await _json(self._summaries.models())


async def _json(answer: Awaitable[object]) -> str:
    async with _errors():
        return _dumped(await answer)


def _dumped(value: object) -> str:
    return json.dumps(plain(value), ensure_ascii=False)


@asynccontextmanager
async def _errors() -> AsyncIterator[None]:
    try:
        yield
    except (RunNotFound, RequestRefused) as error:
        raise ResourceNotFoundError(refused(error)) from error
    except AutopackError as error:
        raise ResourceError(refused(error)) from error
