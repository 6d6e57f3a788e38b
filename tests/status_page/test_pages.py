"""The addresses of the page, over a real database."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import urljoin, urlsplit

import pytest
from sqlalchemy import Connection

from autopack_mcp.budgets.ledger import book_external, reserve
from autopack_mcp.notes import add_note, mark_delivered
from autopack_mcp.routing.model_map import current_model_map, model_map_to_json
from autopack_mcp.runs.store import record_event
from autopack_mcp.status_page.pages import RUNS_PER_PAGE
from tests.factories import (
    NOON,
    call_scope,
    held_against,
    insert_attempt,
    insert_phase,
    insert_run,
    insert_supervisor,
    reservation,
    run_cap,
    settings,
    usage_event,
)
from tests.status_page.conftest import BROWSER, Page
from tests.status_page.html import read_html

MODEL_MAP = model_map_to_json(current_model_map(settings(), ()))


def a_run(connection: Connection, /, run_id: str = "R1", **overrides: object) -> None:
    """A run of two phases, the first of them done and paid for."""
    insert_supervisor(connection, run_id)
    insert_run(connection, run_id, plan_name="Lending library", model_map=MODEL_MAP, token_cap=1_000, **overrides)
    insert_phase(connection, 1, run_id, state="succeeded", attempt=1, is_verified=True, commit_sha="4be1d0c2" * 5)
    insert_phase(connection, 2, run_id, name="Show overdue loans", state="verifying", attempt=1)


def busy_run(connection: Connection) -> None:
    """R1 with calls, a call in flight, a note and an event."""
    a_run(connection)
    insert_attempt(connection, "P1", builder_model="gpt-big", auditor_model="claude")
    book_external(connection, usage_event(cost_nano=420_000_000), held_against(run_cap(tokens=1_000)), NOON)
    reserve(connection, reservation(bound_input=200, bound_output=50), held_against(run_cap(tokens=1_000)), None, NOON)
    note = add_note(connection, "R1", "Skip the <UI> tests.", "tool", "ann", NOON)
    mark_delivered(connection, [note], "P1", NOON)
    record_event(connection, "R1", NOON, "phase", "3 files changed", "P2", 1, "applying", "verifying")


def test_one_run_is_shown_as_the_database_has_it(page: Page) -> None:
    page.database.write_now(busy_run)
    words = read_html(page.text("/runs/R1")).words()
    for said in (
        "Lending library",
        "50 %",
        "Show overdue loans verifying attempt 1 phase 2 of 2",
        "Tokens 100 of 1,000 35 % of the run's cap and 250 reserved for calls in flight",
        "Cost $0.42 no cap",
        "built by gpt-big audited by claude",
        "Skip the <UI> tests. first in phase P1, 1 prompt so far",
        "P2 attempt 1 applying → verifying 3 files changed",
        "complexity medium uses gpt-big as builder",
    ):
        assert said in words


def test_calls_without_a_price_are_said_of_a_run_in_the_list_and_of_its_phase(page: Page) -> None:
    page.database.write_now(busy_run)
    page.database.write_now(book_external, usage_event(cost_nano=None), held_against(), NOON)

    # On top, in the list, and of the week.
    assert page.text("/").count("$0.42 + 1 unpriced call") == 3
    assert page.text("/runs/R1").count("$0.42 + 1 unpriced call") >= 2


def test_the_list_shows_the_unfinished_above_all_runs(page: Page) -> None:
    page.database.write_now(a_run, "R1", created_at=NOON - timedelta(days=9))
    page.database.write_now(a_run, "R2", state="succeeded", finished_at=NOON)
    document = read_html(page.text("/"))
    words = document.words()
    assert words.index("Unfinished") < words.index("R1") < words.index("All runs 2") < words.index("R2")
    assert document.values("href").count("/runs/R2") == 1


def test_an_unfinished_run_is_on_top_however_old_it_is(page: Page) -> None:
    page.database.write_now(a_run, "old", created_at=NOON - timedelta(days=90))
    for number in range(RUNS_PER_PAGE):
        page.database.write_now(a_run, f"R{number}", state="cancelled")
    assert read_html(page.text("/")).values("href").count("/runs/old") == 1


def test_what_waits_for_a_person_comes_before_what_runs_by_itself(page: Page) -> None:
    page.database.write_now(a_run, "running", created_at=NOON + timedelta(seconds=1))
    page.database.write_now(a_run, "waiting", state="paused", why="ann asked for it")
    document = read_html(page.text("/"))
    unfinished = [address for address in document.values("href") if address.startswith("/runs/")][:2]
    assert unfinished == ["/runs/waiting", "/runs/running"]
    says = "ann asked for it It is paused, and goes on when it is resumed. Say in chat: resume run waiting"
    assert says in document.words()


def test_older_runs_are_reached_page_by_page(page: Page) -> None:
    for number in range(2 * RUNS_PER_PAGE):
        created_at = NOON - timedelta(minutes=number)
        page.database.write_now(a_run, f"R{number}", state="cancelled", created_at=created_at)
    first = read_html(page.text("/")).values("href")
    (older,) = (address for address in first if "cursor=" in address)
    second = read_html(page.text(older)).values("href")
    shown = [address for address in (*first, *second) if address.startswith("/runs/")]
    assert shown == [f"/runs/R{number}" for number in range(2 * RUNS_PER_PAGE)]


def test_without_any_run_every_page_still_answers(page: Page) -> None:
    assert "There are no runs yet." in read_html(page.text("/")).words()
    assert "Usage 2026-W47" in read_html(page.text("/usage")).words()
    assert "gpt-big" in read_html(page.text("/models")).words()


@pytest.mark.parametrize(
    "address, label",
    [
        ("/usage", "2026-W47"),
        ("/usage?period=day", "2026-11-18"),
        ("/usage?period=week&offset=-1", "2026-W46"),
        ("/usage?period=month&offset=-11", "2025-12"),
    ],
)
def test_usage_is_shown_for_any_window_up_to_now(page: Page, address: str, label: str) -> None:
    assert f"Usage {label}" in read_html(page.text(address)).words()


def test_usage_names_the_runs_that_spent_it_and_leads_to_those_that_are_ours(page: Page) -> None:
    page.database.write_now(busy_run)
    foreign = usage_event(scope=call_scope(run_id="theirs"), cost_nano=None)
    page.database.write_now(book_external, foreign, held_against(), NOON)
    document = read_html(page.text("/usage"))
    runs = "Runs Run Input Output Tokens Cost Calls Lending library R1 60 40 100 $0.42 1 theirs 60 40 100 unpriced 1"
    assert runs in " ".join(document.words().split())
    assert [link for link in document.values("href") if link.startswith("/runs/")] == ["/runs/R1"]


def test_the_context_block_comes_as_plain_text(page: Page) -> None:
    page.database.write_now(busy_run)
    answer = page.client.get("/runs/R1/context")
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    assert answer.text.startswith("# Run `R1`: running, 50 %\n")
    assert answer.text.rstrip() in read_html(page.text("/runs/R1")).text


@pytest.mark.parametrize("address", ["/dashboard", "/runs"])
def test_the_addresses_people_know_lead_to_the_list(page: Page, address: str) -> None:
    answer = page.client.get(address)
    assert (answer.status_code, answer.headers["location"]) == (302, "/")


def test_every_address_on_every_page_leads_somewhere(page: Page) -> None:
    page.database.write_now(busy_run)
    page.database.write_now(a_run, "R2", state="needs_attention", why="P2 has used up its attempts")
    waiting, seen = ["/", "/runs/nobody"], set[str]()
    while waiting:
        here = waiting.pop()
        seen.add(here)
        answer = page.client.get(here, headers=BROWSER)
        assert answer.status_code == (404 if here == "/runs/nobody" else 200), here
        if not answer.headers["content-type"].startswith("text/html"):
            continue
        document = read_html(answer.text)
        for address in document.values("href") + document.values("src"):
            target = urlsplit(urljoin(here, address))
            assert not target.netloc, "nothing leads away from here"
            place = target.path + (f"?{target.query}" if target.query else "")
            # Windows go back for ever; one step is enough.
            if place not in seen and place not in waiting and "offset=-2" not in place:
                waiting.append(place)
    assert {"/usage?period=month", "/runs/R1/context", "/runs/R2/phases", "/static/copy.js", "/models"} <= seen


@pytest.mark.parametrize("address", ["/", "/usage", "/models", "/static/style.css", "/favicon.ico"])
def test_head_answers_like_get_without_a_body(page: Page, address: str) -> None:
    got, head = page.client.get(address), page.client.head(address)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize(
    "address, kind",
    [
        ("/static/style.css", "text/css; charset=utf-8"),
        ("/static/copy.js", "text/javascript; charset=utf-8"),
        ("/static/favicon.svg", "image/svg+xml"),
        ("/favicon.ico", "image/svg+xml"),
    ],
)
def test_files_have_the_type_that_nosniff_insists_on(page: Page, address: str, kind: str) -> None:
    assert page.client.get(address).headers["content-type"] == kind


@pytest.mark.parametrize("address", ["/static/../pages.py", "/static/%2e%2e/pages.py", "/static/..%2f..%2ferrors.py"])
def test_files_outside_the_folder_are_not_served(page: Page, address: str) -> None:
    assert page.client.get(address).status_code == 404
