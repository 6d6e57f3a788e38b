"""Stands before everything on the port: who may ask at all, what may be done, and what every answer tells a browser.

It owns the Host, Origin and Sec-Fetch checks, the GET-only rule of the page and the security headers; it checks no
credential (``/mcp`` does) and draws nothing. ``app`` wraps its whole application with ``guarded``, once.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MCP_PATH = "/mcp"  # The only path that takes anything but GET and HEAD; it has its own credential.
HEALTH_PATH = "/health"
EXPORT_PATHS = ("/usage.csv", "/usage.json")  # Downloads: not even a link from elsewhere may start one.
HTTP_PORT = 80  # Browsers leave the default port out of the Host header.

# Docs: docs/page.md. Scripts and styles are files of ours; nothing inline, nothing from elsewhere, nothing framed.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types autopack",
    )
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-robots-tag": "noindex",
    "cache-control": "no-store",
}

_READING = ("GET", "HEAD")
_FORWARDED = ("forwarded", "via", "x-real-ip", "true-client-ip", "cf-connecting-ip")


def loopback_hosts(port: int) -> frozenset[str]:
    """Every Host that means this machine on ``port``: 127.0.0.1, localhost and [::1]."""
    names = ("127.0.0.1", "localhost", "[::1]")
    hosts = frozenset(f"{name}:{port}" for name in names)
    return hosts | frozenset(names) if port == HTTP_PORT else hosts


def guarded(app: ASGIApp, *, allowed_hosts: Iterable[str]) -> ASGIApp:
    """``app`` behind every guard, in the only order that works: the headers outermost, so that refusals carry them."""
    return SecurityHeaders(HostGuard(ReadingOnly(app), allowed_hosts=allowed_hosts))


class SecurityHeaders:
    """Puts the security headers on every HTTP answer of ``app``, whoever made it; what was set before is replaced."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, send_with_headers)


class ReadingOnly:
    """Lets only GET and HEAD through to ``app``, but for ``/mcp``; that nothing here acts is a property of the port."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["method"] not in _READING and scope["path"] != MCP_PATH:
            refusal = PlainTextResponse(
                "This page only shows; nothing can be changed here. Use the chat or the command line.\n",
                status_code=405,
                headers={"allow": ", ".join(_READING)},
            )
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class HostGuard:
    """Refuses whoever did not ask for this server by its own name, and whatever another site makes a browser send.

    ``allowed_hosts`` are whole Host values such as ``127.0.0.1:8000``. Without it any web page could read this one, by
    letting its own name resolve to 127.0.0.1.
    """

    def __init__(self, app: ASGIApp, *, allowed_hosts: Iterable[str]) -> None:
        self._app = app
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            # Nothing here speaks it, and browsers send it to any site without asking first.
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
        elif (refusal := self._refusal(scope)) is not None:
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1:
            return _refused(400, "A request must carry exactly one Host header.")
        host = hosts[0].lower()
        if host not in self._allowed_hosts:
            return _refused(421, "This server does not answer under that name. Open the address it printed at start.")
        if _is_forwarded(headers):
            return _refused(403, "This page is open on this machine only, and the request came through a proxy.")
        if not _comes_from_here(scope, headers, host):
            return _refused(403, "Another site asked for this. Open the page's address yourself.")
        return None


def _refused(status: int, sentence: str) -> PlainTextResponse:
    return PlainTextResponse(f"{sentence}\n", status_code=status)


def _is_forwarded(headers: Headers) -> bool:
    # A tunnel agent connects from 127.0.0.1 and may rewrite Host: the whole world would count as this machine.
    return any(name in _FORWARDED or name.startswith("x-forwarded-") for name in headers)


def _comes_from_here(scope: Scope, headers: Headers, host: str) -> bool:
    """Whether the request was typed, came from our own page, or from a program that is no browser."""
    origins = headers.getlist("origin")
    if any(origin.lower() != f"{scope['scheme']}://{host}" for origin in origins):
        return False
    sites = headers.getlist("sec-fetch-site")
    return all(site in ("same-origin", "none") for site in sites) or _is_link_to_a_page(scope, headers)


def _is_link_to_a_page(scope: Scope, headers: Headers) -> bool:
    """Whether a person followed a link to the page, as from a chat in another tab; that site sees nothing of it."""
    return (
        scope["method"] in _READING
        and scope["path"] not in (MCP_PATH, HEALTH_PATH, *EXPORT_PATHS)
        and headers.getlist("sec-fetch-mode") == ["navigate"]
        and headers.getlist("sec-fetch-dest") == ["document"]
    )
