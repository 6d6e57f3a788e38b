"""The addresses of the status page: which summary each one reads, and which page shows it.

It owns the routes and the reading of their parameters; it draws nothing (``rendering``), counts nothing (``summary``)
and changes nothing. ``app`` puts the routes beside ``/mcp`` and ``/health`` and everything behind ``guards.guarded``.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from autopack_mcp.clock import Clock
from autopack_mcp.errors import RequestRefused
from autopack_mcp.runs.states import RUN_ENDED
from autopack_mcp.status_page import rendering
from autopack_mcp.status_page.exports import Exports
from autopack_mcp.status_page.guards import EXPORT_PATHS
from autopack_mcp.summary.context_block import context_block
from autopack_mcp.summary.run import RunSummary
from autopack_mcp.summary.scorecard import ScorecardWish
from autopack_mcp.summary.summaries import Summaries
from autopack_mcp.text_safety import visible

RUNS_PER_PAGE = 20
UNFINISHED_SHOWN = 5  # With everything about them; more than that are lines of the list below.
_OFFSET_LIMIT = 40  # Characters of a wrong one that are repeated to the person.


def status_page_routes(*, summaries: Summaries, clock: Clock) -> list[BaseRoute]:
    """Every address of the page. GET and HEAD only; errors are raised for ``error_pages`` to answer."""
    pages = _Pages(summaries, clock)
    return [
        Route("/", pages.runs),
        Route("/dashboard", pages.home),
        Route("/runs", pages.home),
        Route("/runs/{run_id}", pages.run),
        Route("/runs/{run_id}/phases", pages.phases),
        Route("/runs/{run_id}/context", pages.context),
        Route("/usage", pages.usage),
        *(Route(path, pages.export) for path in EXPORT_PATHS),
        Route("/models", pages.models),
        Route("/favicon.ico", pages.favicon),
        Mount("/static", StaticFiles(directory=rendering.STATIC_FOLDER)),
    ]


class _Pages:
    """One method per address. ``as_of`` is read before the data, so that a page never claims to be newer than it is."""

    def __init__(self, summaries: Summaries, clock: Clock) -> None:
        self._summaries = summaries
        self._clock = clock
        self._exports = Exports(summaries, clock)

    async def runs(self, request: Request) -> Response:
        as_of = self._clock.now()
        cursor = request.query_params.get("cursor")
        runs = await self._summaries.runs(RUNS_PER_PAGE, cursor)
        unfinished = () if cursor else await self._unfinished()
        usage = await self._summaries.usage("week")
        return HTMLResponse(rendering.runs_page(runs, unfinished, usage, as_of, is_first=cursor is None))

    async def run(self, request: Request) -> Response:
        as_of = self._clock.now()
        run = await self._run(request)
        models = await self._summaries.models(run.run_id)
        costs = await self._summaries.run_usage(run.run_id)
        usage = await self._summaries.usage("week")
        return HTMLResponse(rendering.run_page(run, models, costs, usage, as_of))

    async def phases(self, request: Request) -> Response:
        as_of = self._clock.now()
        return HTMLResponse(rendering.phases_page(await self._run(request), as_of))

    async def context(self, request: Request) -> Response:
        return Response(context_block(await self._run(request)), media_type="text/markdown")

    async def usage(self, request: Request) -> Response:
        as_of = self._clock.now()
        asked = request.query_params
        usage = await self._summaries.usage(
            asked.get("period", "week"), _offset(request), from_=asked.get("from"), to=asked.get("to")
        )
        return HTMLResponse(rendering.usage_page(usage, as_of))

    async def export(self, request: Request) -> Response:
        return await self._exports.answer(request, _offset(request))

    async def models(self, request: Request) -> Response:
        as_of = self._clock.now()
        scores = await self._summaries.scorecard(ScorecardWish(days=rendering.SCORECARD_DAYS))
        return HTMLResponse(rendering.models_page(await self._summaries.models(), scores, as_of))

    async def home(self, request: Request) -> Response:
        return RedirectResponse("/", status_code=302)

    async def favicon(self, request: Request) -> Response:
        return FileResponse(rendering.STATIC_FOLDER / "favicon.svg")

    async def _run(self, request: Request) -> RunSummary:
        return await self._summaries.run(request.path_params["run_id"])

    async def _unfinished(self) -> tuple[RunSummary, ...]:
        """The unfinished runs, those that wait for a person first; also those too old for the first page."""
        current = await self._summaries.current()
        if isinstance(current, RunSummary):
            return () if current.state in RUN_ENDED else (current,)
        found = [await self._summaries.run(line.run_id) for line in current.runs[:UNFINISHED_SHOWN]]
        return tuple(sorted(found, key=lambda run: run.needs_you is None))


def _offset(request: Request) -> int:
    text = request.query_params.get("offset", "0")
    try:
        return int(text)
    except ValueError:
        raise RequestRefused(
            f"The offset {visible(text, _OFFSET_LIMIT)!r} is not a number.",
            hint="0 is the present window, -1 the one before it.",
        ) from None
