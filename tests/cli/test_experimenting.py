"""``retry-prompt`` as a person types it, against a server that really answers, and the method of the library."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from autopack_mcp.errors import AutopackError
from autopack_mcp.library import AsyncLlmService, LlmService
from autopack_mcp.traces.texts import newest_kept
from tests.cli.test_acting import typed
from tests.providers.upstream import Answer, ChatSpeech, Upstream
from tests.runs.house import House, open_house

pytestmark = pytest.mark.anyio

CHAT = ChatSpeech()
FIRST = Answer([*CHAT.begun("one\ntwo"), *CHAT.ended()])
AGAIN = Answer([*CHAT.begun("one\n\x1b[31mthree"), *CHAT.ended()])
PRICE = {"input": 4, "output": 16}


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream(FIRST, AGAIN) as running:
        yield running


@pytest.fixture
async def house(
    tmp_path: Path, empty_database_file: Path, monkeypatch: pytest.MonkeyPatch, upstream: Upstream
) -> AsyncIterator[House]:
    """A product in the AUTOPACK_HOME of this process, whose only account is answered by the upstream."""
    config = {
        "providers": {"openai": {"base_url": upstream.url}},
        "models": {"gpt-big": {"provider": "openai", "price": PRICE}, "gpt-small": {"provider": "openai"}},
        "complexity_models": {"medium": {"builder": "gpt-big", "auditor": "gpt-big"}},
    }
    for variable, value in (("AUTOPACK_CONFIG", ""), ("AUTOPACK_HOME", str(tmp_path / "home"))):
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv("AUTOPACK_DATABASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-1b4fJ9qLw2Zx7V")
    async with open_house(tmp_path, empty_database_file, yaml.safe_dump(config)) as opened:
        yield opened


async def asked(house: House) -> str:
    """The id of a call that an agent made through the library."""
    async with AsyncLlmService() as service:
        await service.complete("agent:planner", [{"role": "user", "content": "Count. Use sk-test-1b4fJ9qLw2Zx7V."}])
    (call_id,) = house.autopack.database.read_now(newest_kept)
    return call_id


async def test_a_prompt_is_shown_and_tried_again_with_both_costs_and_a_diff(house: House, upstream: Upstream) -> None:
    call_id = await asked(house)
    shown = (await typed("retry-prompt", call_id, "--show")).output
    assert "── user\nCount. Use ‹redacted: OPENAI_API_KEY›.\n\n── reply\none\ntwo\n" in shown
    assert "agent:planner, gpt-big" in shown
    assert len(upstream.requests) == 1

    told = await typed("retry-prompt", call_id, "--replace", "Count", "Count on", "--append", "Slowly.")
    assert told.exit_code == 0, told.output
    lines = told.output.splitlines()
    assert lines[0] == f"first: {call_id} gpt-big, 11 tokens in, 7 out, $0.0002"
    assert lines[1].endswith("gpt-big, 11 tokens in, 7 out, $0.0002")
    assert lines[2] == "The prompt was sent without 1 secret that had been taken out."
    assert lines[-3:] == [" one", "-two", "+\\x1b[31mthree"]
    messages: Any = upstream.requests[1].body["messages"]
    assert messages[0]["content"] == "Count on. Use ‹redacted: OPENAI_API_KEY›.\n\nSlowly."


async def test_a_program_gets_both_answers_as_json(house: House) -> None:
    call_id = await asked(house)
    found: dict[str, Any] = json.loads((await typed("retry-prompt", call_id, "--model", "gpt-small", "--json")).output)
    assert (found["first"]["reply"], found["first"]["cost_usd"]) == ("one\ntwo", 0.000156)
    assert (found["second"]["model"], found["second"]["cost_usd"]) == ("gpt-small", None)
    assert found["redactions"] == 1


async def test_the_library_retries_prompts_too(house: House) -> None:
    call_id = await asked(house)
    async with AsyncLlmService() as service:
        found = await service.retry_prompt(call_id, model="gpt-small", replace=[("Count", "Add")])
    assert (found.first.call_id, found.second.model) == (call_id, "gpt-small")


def test_the_synchronous_twin_has_the_same_method() -> None:
    assert list(LlmService.retry_prompt.__annotations__) == list(AsyncLlmService.retry_prompt.__annotations__)


@pytest.mark.parametrize(
    "words, said",
    [
        (("c-x",), "There is no call 'c-x'. "),
        (("c-x", "--show"), "There is no call 'c-x'. "),
        (("c-x", "--max-output-tokens", "0"), "An answer of 0 tokens says nothing."),
    ],
)
async def test_what_cannot_be_is_one_clear_line(house: House, words: tuple[str, ...], said: str) -> None:
    error = (await typed("retry-prompt", *words)).exception
    assert isinstance(error, AutopackError)
    assert said in str(error)


async def test_words_that_nobody_wants_are_not_kept(house: House) -> None:
    file = house.autopack.home.models_file
    file.write_text(file.read_text() + "runs: {store_prompts: false}\n", encoding="utf-8")
    async with AsyncLlmService() as service:
        await service.complete("agent:planner", [{"role": "user", "content": "Count."}])
    assert house.autopack.database.read_now(newest_kept) == ()
