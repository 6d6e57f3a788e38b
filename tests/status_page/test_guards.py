"""Who may ask, what may be done, and what every answer tells a browser."""

from __future__ import annotations

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from autopack_mcp.status_page.guards import SECURITY_HEADERS, HostGuard, guarded, loopback_hosts
from tests.status_page.conftest import Page

pytestmark = pytest.mark.anyio

HOST = ("host", "127.0.0.1:8000")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types autopack"
)
LINK = (("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"))


async def status_of(
    *headers: tuple[str, str], method: str = "GET", path: str = "/", port: int = 8000, scheme: str = "http"
) -> int:
    """What the guards answer to exactly these headers; an application behind them says 200 to everything."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("seen")(scope, receive, send)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "scheme": scheme,
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
    }
    await guarded(answer, allowed_hosts=loopback_hosts(port))(scope, receive, send)
    status: int = sent[0]["status"]
    return status


@pytest.mark.parametrize(
    "hosts, status",
    [
        pytest.param(["127.0.0.1:8000"], 200, id="address"),
        pytest.param(["localhost:8000"], 200, id="name"),
        pytest.param(["LocalHost:8000"], 200, id="names have no case"),
        pytest.param(["[::1]:8000"], 200, id="version 6"),
        pytest.param([], 400, id="missing"),
        pytest.param(["127.0.0.1:8000", "127.0.0.1:8000"], 400, id="twice"),
        pytest.param(["127.0.0.1:8000", "evil.example"], 400, id="two different ones"),
        pytest.param([""], 421, id="empty"),
        pytest.param(["evil.example"], 421, id="another name"),
        pytest.param(["evil.example:8000"], 421, id="another name on our port"),
        pytest.param(["localhost:80@evil.example"], 421, id="our name as a user"),
        pytest.param(["localhost:8000@evil.example"], 421, id="our whole address as a user"),
        pytest.param(["localhost:8000.evil.example"], 421, id="our name as a part"),
        pytest.param(["evil.example#localhost:8000"], 421, id="our name at the end"),
        pytest.param(["localhost"], 421, id="no port"),
        pytest.param(["localhost:8001"], 421, id="another port"),
        pytest.param(["localhost.:8000"], 421, id="trailing dot"),
        pytest.param([" localhost:8000"], 421, id="leading blank"),
        pytest.param(["localhost:8000, evil.example"], 421, id="a list"),
        pytest.param(["0.0.0.0:8000"], 421, id="any address"),
        pytest.param(["127.0.0.2:8000"], 421, id="another loopback address"),
        pytest.param(["locälhost:8000"], 421, id="not ASCII"),
    ],
)
async def test_only_our_own_names_are_answered(hosts: list[str], status: int) -> None:
    assert await status_of(*(("host", host) for host in hosts)) == status


async def test_the_default_port_may_be_left_out_where_browsers_leave_it_out() -> None:
    assert await status_of(("host", "localhost"), port=80) == 200


@pytest.mark.parametrize(
    "headers, path, method, status",
    [
        pytest.param((), "/mcp", "POST", 200, id="a program that is no browser"),
        pytest.param((("origin", "http://127.0.0.1:8000"),), "/mcp", "POST", 200, id="our own page"),
        pytest.param((("sec-fetch-site", "same-origin"),), "/mcp", "POST", 200, id="our own page says so"),
        pytest.param((("sec-fetch-site", "none"),), "/", "GET", 200, id="typed into the address bar"),
        pytest.param(LINK, "/runs/r1", "GET", 200, id="a link in another tab"),
        pytest.param((("origin", "http://localhost:8000"),), "/", "GET", 403, id="our other name"),
        pytest.param((("origin", "https://127.0.0.1:8000"),), "/", "GET", 403, id="another scheme"),
        pytest.param((("origin", "https://evil.example"),), "/mcp", "POST", 403, id="another site calls a tool"),
        pytest.param((("origin", "null"),), "/mcp", "POST", 403, id="a sandboxed frame"),
        pytest.param(
            (("origin", "http://127.0.0.1:8000"), ("origin", "https://evil.example")), "/", "GET", 403, id="two origins"
        ),
        pytest.param((("sec-fetch-site", "cross-site"),), "/", "GET", 403, id="another site reads by script"),
        pytest.param((("sec-fetch-site", "same-site"),), "/usage", "GET", 403, id="another port of this machine"),
        pytest.param(LINK, "/mcp", "GET", 403, id="a link to the tools"),
        pytest.param(LINK, "/health", "GET", 403, id="a link to JSON"),
        pytest.param(LINK, "/", "POST", 403, id="a form of another site"),
        pytest.param((*LINK, ("sec-fetch-dest", "iframe")), "/", "GET", 403, id="a link and a frame at once"),
        pytest.param(
            (LINK[0], LINK[1], ("sec-fetch-dest", "iframe")), "/", "GET", 403, id="a frame in another site"
        ),
        pytest.param(
            (LINK[0], ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")), "/static/favicon.svg", "GET", 403,
            id="a picture in another site",
        ),
    ],
)  # fmt: skip
async def test_other_sites_may_only_link_to_a_page(
    headers: tuple[tuple[str, str], ...], path: str, method: str, status: int
) -> None:
    assert await status_of(HOST, *headers, path=path, method=method) == status


async def test_our_own_page_may_be_served_encrypted() -> None:
    assert await status_of(HOST, ("origin", "https://127.0.0.1:8000"), scheme="https") == 200


@pytest.mark.parametrize("name", ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"])
async def test_what_came_through_a_proxy_is_not_this_machine(name: str) -> None:
    assert await status_of(HOST, (name, "203.0.113.7")) == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "PROPFIND"])
@pytest.mark.parametrize("path", ["/", "/runs/r1", "/nowhere", "/static/style.css", "/mcp/", "/MCP"])
async def test_nothing_but_the_tools_takes_more_than_reading(method: str, path: str) -> None:
    assert await status_of(HOST, method=method, path=path) == 405


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_reading_is_let_through(method: str) -> None:
    assert await status_of(HOST, method=method, path="/usage") == 200


async def test_tools_take_their_own_methods() -> None:
    assert await status_of(HOST, method="POST", path="/mcp") == 200


async def test_a_web_socket_is_closed_before_it_opens() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def unreachable(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("nothing here speaks it")

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    guard = HostGuard(unreachable, allowed_hosts=loopback_hosts(8000))
    await guard({"type": "websocket", "headers": [(b"host", b"127.0.0.1:8000")]}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_the_policy_is_the_one_that_was_decided() -> None:
    assert SECURITY_HEADERS == {
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "x-robots-tag": "noindex",
        "cache-control": "no-store",
    }


@pytest.mark.parametrize(
    "method, path, headers, status",
    [
        ("GET", "/", {}, 200),
        ("HEAD", "/", {}, 200),
        ("GET", "/dashboard", {}, 302),
        ("GET", "/static/style.css", {}, 200),
        ("POST", "/mcp", {}, 200),
        ("GET", "/health", {}, 200),
        ("GET", "/nowhere", {}, 404),
        ("GET", "/static/nothing.css", {}, 404),
        ("GET", "/runs/nobody", {}, 404),
        ("GET", "/usage?period=year", {}, 400),
        ("POST", "/", {}, 405),
        ("GET", "/", {"host": "evil.example"}, 421),
        ("GET", "/", {"origin": "https://evil.example"}, 403),
        ("GET", "/broken", {}, 500),
    ],
)
def test_every_answer_carries_the_security_headers_once(
    page: Page, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = page.client.request(method, path, headers=headers)
    assert answer.status_code == status
    assert {name: answer.headers.get_list(name) for name in SECURITY_HEADERS} == {
        name: [value] for name, value in SECURITY_HEADERS.items()
    }
