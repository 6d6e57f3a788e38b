"""What the port answers when there is no page to show: the friendly side of every error, leaking nothing.

It owns which error becomes which status and what a person is told; only what the person asked for themselves (a run id,
a period) is repeated. ``app`` hands ``error_handlers()`` to Starlette; guards refuse by themselves before this.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ExceptionHandler

from autopack_mcp.errors import AutopackError, DatabaseError, RequestRefused, RunNotFound
from autopack_mcp.status_page.rendering import error_page
from autopack_mcp.text_safety import visible

log = logging.getLogger(__name__)

RETRY_AFTER_S = 5  # A busy database is usually free again at the next look.
_SENTENCE_LIMIT = 300


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    title: str
    sentences: Sequence[str]
    known_runs: Sequence[str] = ()
    headers: Mapping[str, str] | None = None


def error_handlers() -> dict[int | type[Exception], ExceptionHandler]:
    """Handlers for ``Starlette(exception_handlers=...)``: unknown paths, wrong methods, our errors, and bugs."""
    return {HTTPException: _on_http_exception, AutopackError: _on_autopack_error, Exception: _on_bug}


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for nothing else"
    if error.status_code == 404:
        answer = _Answer(404, "Nothing here", ("There is no page under this address.",))
    elif error.status_code == 405:
        answer = _Answer(405, "This page only shows", ("Nothing can be changed here.",), (), error.headers)
    else:
        answer = _Answer(
            error.status_code, "That did not work", ("The request cannot be answered.",), (), error.headers
        )
    return _response(request, answer)


async def _on_autopack_error(request: Request, error: Exception) -> Response:
    if isinstance(error, RunNotFound):
        asked = _shown(error.run_id)
        return _response(request, _Answer(404, "No such run", (f"There is no run {asked}.",), error.known))
    if isinstance(error, RequestRefused):
        return _response(request, _Answer(400, "That cannot be shown", (_shown(error.message), _shown(error.hint))))
    # The message may name files of this machine: it belongs into the log, not onto a page.
    log.error("The page %s cannot be shown: %s", request.url.path, error)
    if isinstance(error, DatabaseError):
        retry = {"retry-after": str(RETRY_AFTER_S)}
        sentence = "The database does not answer now. Reload in a moment; the log of the server says more."
        return _response(request, _Answer(503, "Not available now", (sentence,), (), retry))
    return await _on_bug(request, error)


async def _on_bug(request: Request, error: Exception) -> Response:
    # Starlette raises the error again behind this answer, so the server's log has it whole.
    sentence = "Something is wrong with this page, not with your runs. The log of the server says what."
    return _response(request, _Answer(500, "This page failed", (sentence,)))


def _response(request: Request, answer: _Answer) -> Response:
    if "text/html" in request.headers.get("accept", ""):
        html = error_page(answer.status, answer.title, [text for text in answer.sentences if text], answer.known_runs)
        return HTMLResponse(html, answer.status, answer.headers)
    words = " ".join((f"{answer.title}.", *answer.sentences))
    return PlainTextResponse(f"{words.strip()}\n", answer.status, answer.headers)


def _shown(text: str) -> str:
    return visible(text, _SENTENCE_LIMIT)
