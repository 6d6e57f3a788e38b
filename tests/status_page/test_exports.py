"""Downloads: streamed over the port, a few at a time, and to nobody but who asked here."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Message

from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.clock import ManualClock
from autopack_mcp.database.engine import Database
from autopack_mcp.status_page.error_pages import error_handlers
from autopack_mcp.status_page.exports import AT_ONCE, Exports
from autopack_mcp.summary.summaries import Summaries
from tests.factories import NOON, held_against, settings, usage_event
from tests.status_page.conftest import Page
from tests.status_page.html import read_html


@pytest.fixture
def a_call(page: Page) -> None:
    page.database.write_now(book_external, usage_event("c-1", model="=evil()"), held_against(), NOON)


@pytest.mark.usefixtures("a_call")
def test_calls_are_downloaded_as_a_file_named_after_its_time(page: Page) -> None:
    answer = page.client.get("/usage.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="usage-events-2026-W47.csv"'
    (row,) = csv.DictReader(StringIO(answer.text))
    assert (row["call_id"], row["model"]) == ("c-1", "'=evil()")


@pytest.mark.usefixtures("a_call")
@pytest.mark.parametrize(
    "query, calls",
    [("", 1), ("?period=day&offset=-1", 0), ("?from=2026-11-01&to=2026-11-18", 1), ("?run=R1", 1),
     ("?from=2026-11-18T12:00Z", 1), ("?from=2026-11-18T10:00Z&to=2026-11-18T12:00Z", 0)],
)  # fmt: skip
def test_any_time_and_any_run_can_be_downloaded(page: Page, query: str, calls: int) -> None:
    answer = page.client.get(f"/usage.json{query}")
    assert answer.headers["content-type"] == "application/json"
    assert [row["model"] for row in answer.json()] == ["=evil()"] * calls


@pytest.mark.parametrize(
    "query, status, sentence",
    [
        ("?rows=bills", 400, "There are no rows of 'bills'."),
        ("?from=2026-11-18&to=2026-11-01", 400, "To must come after from."),
        ("?offset=x", 400, "is not a number"),
        ("?run=R9", 404, "There is no run R9."),
    ],
)
def test_what_is_not_there_is_refused_in_words(page: Page, query: str, status: int, sentence: str) -> None:
    answer = page.client.get(f"/usage.csv{query}")
    assert (answer.status_code, sentence in answer.text) == (status, True)
    assert "content-disposition" not in answer.headers


@pytest.mark.usefixtures("a_call")
def test_head_says_what_would_come_and_reads_nothing(page: Page) -> None:
    answer = page.client.head("/usage.csv")
    assert (answer.status_code, answer.text) == (200, "")
    assert answer.headers["content-disposition"] == 'attachment; filename="usage-events-2026-W47.csv"'


@pytest.mark.parametrize("path", ["/usage.csv", "/usage.json"])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    ],
    ids=["another origin", "another site", "a link on another site", "a link on another port"],
)
def test_no_other_site_can_start_a_download(page: Page, path: str, headers: dict[str, str]) -> None:
    assert page.client.get(path, headers=headers).status_code == 403


def test_our_own_page_can(page: Page) -> None:
    asked = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert page.client.get("/usage.csv", headers=asked).status_code == 200


@pytest.mark.usefixtures("a_call")
@pytest.mark.parametrize(
    "address, links",
    [("/usage", 6), ("/usage?period=month&offset=-1", 6), ("/usage?from=2026-11-01&to=2026-11-15", 6),
     ("/usage?from=2026-11-17T10:00Z&to=2026-11-17T12:00Z", 4)],
    ids=["week", "last month", "dates", "hours, of which there are no days"],
)  # fmt: skip
def test_the_page_offers_what_it_shows_as_files(page: Page, address: str, links: int) -> None:
    addresses = [link for link in read_html(page.text(address)).values("href") if link.startswith("/usage.")]
    assert len(addresses) == links
    for link in addresses:
        assert page.client.get(link).status_code == 200


@dataclass
class Busy:
    """The downloads, of which some are running, and what asks for one more."""

    exports: Exports
    client: TestClient


@pytest.fixture
def busy(database: Database, clock: ManualClock) -> Iterator[Busy]:
    exports = Exports(
        Summaries(
            database=database,
            settings=settings,
            clock=clock,
            has_key=lambda provider: True,
            unit_price=lambda model: None,
        ),
        clock,
    )

    async def download(request: Request) -> Response:
        return await exports.answer(request, 0)

    app = Starlette(routes=[Route("/usage.csv", download)], exception_handlers=error_handlers())
    with TestClient(app, raise_server_exceptions=False) as client:
        yield Busy(exports, client)


def test_one_more_than_may_run_at_once_is_told_to_come_back(busy: Busy) -> None:
    busy.exports.running = AT_ONCE
    refused = busy.client.get("/usage.csv")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
    busy.exports.running = AT_ONCE - 1
    assert busy.client.get("/usage.csv").status_code == 200
    assert busy.exports.running == AT_ONCE - 1


@pytest.mark.parametrize("engine", ["sqlite"])
def test_a_download_that_fails_in_the_middle_is_counted_off(busy: Busy, database: Database) -> None:
    database.write_now(lambda connection: connection.exec_driver_sql("DROP TABLE usage_events"))
    busy.client.get("/usage.csv")
    assert busy.exports.running == 0


@pytest.mark.anyio
@pytest.mark.parametrize("engine", ["sqlite"])
async def test_a_browser_that_goes_away_gives_its_place_back(busy: Busy, database: Database) -> None:
    await database.write(book_external, usage_event(), held_against(), NOON)
    scope = {"type": "http", "method": "GET", "path": "/usage.csv", "query_string": b"", "headers": []}
    download = await busy.exports.answer(Request(scope), 0)
    assert busy.exports.running == 1

    async def never_ready(message: Message) -> None:
        if message["type"] == "http.response.body":
            await anyio.sleep_forever()

    async def gone() -> Message:
        return {"type": "http.disconnect"}

    with anyio.fail_after(5):
        await download(scope, gone, never_ready)
    assert busy.exports.running == 0
