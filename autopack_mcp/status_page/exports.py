"""The page's downloads: the ledger's rows as CSV or JSON, streamed piece by piece, a few at a time.

It owns how many may run at once and that each gives its connection back, whatever becomes of the browser. What is in
them is ``usage.export``'s; ``pages`` has the addresses, ``guards`` says who may ask.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from autopack_mcp.clock import Clock
from autopack_mcp.summary.summaries import Summaries
from autopack_mcp.usage.export import MEDIA_TYPES, Export, asked_export, export_name

AT_ONCE = 2  # Each holds a connection and a thread, and keeps the database from tidying up behind it while it reads.
RETRY_AFTER_S = 10
LONGEST_S = 600  # A million rows take half a minute; a browser that stopped reading must not hold its place for ever.


class Exports:
    """Answers requests for a download; one for all of them, because it counts them."""

    def __init__(self, summaries: Summaries, clock: Clock) -> None:
        self._summaries = summaries
        self._clock = clock
        self.running = 0

    async def answer(self, request: Request, offset: int) -> Response:
        """The download that a request asks for; its format is the ending of the address.

        Raises:
            RequestRefused, RunNotFound: there is nothing of that kind. HTTPException: 503 while others are running.
        """
        asked = request.query_params
        export = asked_export(
            self._clock.now(),
            rows=asked.get("rows", "events"),
            format_=request.url.path.rpartition(".")[2],
            period=asked.get("period"),
            offset=offset,
            from_=asked.get("from"),
            to=asked.get("to"),
            run_id=asked.get("run"),
        )
        if export.run_id is not None:
            await self._summaries.check_run(export.run_id)
        headers = {"content-disposition": f'attachment; filename="{export_name(export)}"'}
        if request.method == "HEAD":
            return Response(headers=headers, media_type=MEDIA_TYPES[export.format])
        if self.running >= AT_ONCE:
            raise HTTPException(503, headers={"retry-after": str(RETRY_AFTER_S)})
        self.running += 1  # Nothing is awaited between the question and this, so no third one slips in.
        return _Download(self, export, headers)

    def pieces(self, export: Export) -> Generator[str, None, None]:
        """The text of one download."""
        return self._summaries.export_now(export)


class _Download(StreamingResponse):
    """One download. Starlette takes the pieces on its threads, one after the other, as fast as the browser reads."""

    def __init__(self, exports: Exports, export: Export, headers: Mapping[str, str]) -> None:
        self._exports = exports
        self._pieces = exports.pieces(export)
        super().__init__(self._pieces, headers=headers, media_type=MEDIA_TYPES[export.format])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            # Cut off without its last piece, so that nobody takes what came for all there is.
            with anyio.move_on_after(LONGEST_S):
                await super().__call__(scope, receive, send)
        finally:
            # A browser that goes away ends the sending, not the reading: that ends here.
            self._pieces.close()
            self._exports.running -= 1
