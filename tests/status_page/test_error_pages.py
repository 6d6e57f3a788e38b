"""Errors as people meet them: what happened, where to go, and nothing about this machine."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

import pytest

from tests.factories import NOON, insert_run
from tests.status_page.conftest import BROWSER, Page
from tests.status_page.html import read_html


def test_an_unknown_run_is_answered_with_the_runs_that_exist(page: Page) -> None:
    page.database.write_now(insert_run, "R1")
    page.database.write_now(insert_run, "R2", created_at=NOON + timedelta(seconds=1))
    answer = page.client.get("/runs/<script>", headers=BROWSER)
    document = read_html(answer.text)
    assert answer.status_code == 404
    assert "No such run There is no run <script>. Newest runs R2 R1" in document.words()
    assert {"/runs/R1", "/runs/R2"} <= set(document.values("href"))


@pytest.mark.parametrize(
    "address, status, said",
    [
        ("/nowhere", 404, "There is no page under this address."),
        ("/runs/R1/secrets", 404, "There is no page under this address."),
        ("/usage?period=year", 400, "period"),
        ("/usage?offset=1", 400, "Offset 1"),
        ("/usage?offset=soon", 400, "The offset 'soon' is not a number."),
        ("/usage?offset=-99999999", 400, "Offset -99999999"),
        pytest.param("/usage?offset=-" + "9" * 5_000, 400, "is not a number", id="a very long offset"),
        ("/?cursor=%00", 400, "cursor"),
        ("/broken", 500, "Something is wrong with this page, not with your runs."),
    ],
)
def test_what_cannot_be_shown_is_explained_in_a_sentence(page: Page, address: str, status: int, said: str) -> None:
    answer = page.client.get(address, headers=BROWSER)
    assert answer.status_code == status
    assert said in read_html(answer.text).words()
    assert len(answer.text) < 4_000


def test_a_failing_page_tells_nothing_about_the_machine(page: Page) -> None:
    for headers in (BROWSER, {}):
        answer = page.client.get("/broken", headers=headers)
        assert "secret" not in answer.text
        assert "ValueError" not in answer.text


def test_a_program_gets_the_same_sentence_without_markup(page: Page) -> None:
    answer = page.client.get("/runs/nobody")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text == "No such run. There is no run nobody.\n"


def test_a_database_that_cannot_answer_is_logged_and_asked_again_later(
    page: Page, caplog: pytest.LogCaptureFixture
) -> None:
    assert page.database.url.database is not None
    Path(page.database.url.database).write_bytes(b"something else" * 1_000)
    with caplog.at_level(logging.ERROR):
        answer = page.client.get("/", headers=BROWSER)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "The database does not answer now." in read_html(answer.text).words()
    assert "not a database" in caplog.text
    assert "not a database" not in answer.text
