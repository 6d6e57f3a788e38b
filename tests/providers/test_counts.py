"""Counting a prompt before it is sent: by the model's own tokenizer or not at all, and never an error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import httpx2
import pytest

from autopack_mcp.config.settings import ProviderSettings
from autopack_mcp.providers import counts
from autopack_mcp.providers.anthropic import AnthropicProvider
from autopack_mcp.providers.base import ChatMessage, InputCount, InputCounter, ProviderCall, format_tokens
from autopack_mcp.providers.counts import openai_tokens, ranks_of, tokenizer, with_margin
from autopack_mcp.providers.openai import OpenAIProvider
from autopack_mcp.providers.scripted import ScriptedProvider
from tests.conftest import require_in_ci

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("loaded_sdks")]

MESSAGES = (ChatMessage("system", "Rules."), ChatMessage("user", "How many?"))
CALL = ProviderCall("model-nobody-knows", MESSAGES, max_output_tokens=256, timeout_s=5)
FORMAT = format_tokens(MESSAGES)
Answer = Callable[[httpx2.Request], httpx2.Response]


class Vendor:
    """Stands where the vendor's address leads, and answers every request so."""

    def __init__(self, answer: Answer = lambda _: httpx2.Response(200, json={"input_tokens": 1_000})) -> None:
        self.requests: list[httpx2.Request] = []
        self._answer = answer

    def client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.MockTransport(self._said))

    def _said(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self._answer(request)


async def counted(
    sdk: Literal["openai", "anthropic"], vendor: Vendor, call: ProviderCall = CALL, base_url: str | None = None
) -> InputCount | None:
    api: Literal["chat", "messages"] = "chat" if sdk == "openai" else "messages"
    settings = ProviderSettings(sdk, sdk, api, base_url, "KEY")
    open_it = OpenAIProvider if sdk == "openai" else AnthropicProvider
    provider = open_it(settings, "sk-test-0123456789", http_client=vendor.client())
    try:
        return await provider.count_input_tokens(call)
    finally:
        await provider.close()


# --- at the vendor


async def test_anthropic_is_asked_with_what_would_be_sent_and_its_estimate_gets_a_margin() -> None:
    vendor = Vendor()
    assert await counted("anthropic", vendor) == InputCount(1_000 + 50 + 64, "Anthropic's own count")
    (request,) = vendor.requests
    assert str(request.url) == "https://api.anthropic.com/v1/messages/count_tokens"
    assert request.headers["authorization"] == "Bearer sk-test-0123456789"
    assert json.loads(request.content) == {
        "model": "model-nobody-knows",
        "messages": [{"role": "user", "content": "How many?"}],
        "system": "Rules.",
    }


async def test_openai_is_asked_about_a_model_whose_tokenizer_is_not_known() -> None:
    vendor = Vendor()
    assert await counted("openai", vendor) == InputCount(1_000 + FORMAT, "OpenAI's own count")
    (request,) = vendor.requests
    assert str(request.url) == "https://api.openai.com/v1/responses/input_tokens"
    assert request.headers["authorization"] == "Bearer sk-test-0123456789"
    assert json.loads(request.content) == {
        "model": "model-nobody-knows",
        "input": [{"role": "user", "content": "How many?"}],
        "instructions": "Rules.",
    }


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
@pytest.mark.parametrize(
    "base_url", ["http://127.0.0.1:1/v1", "https://api.anthropic.com.example/", "https://notopenai.com/v1"]
)
async def test_another_server_is_not_asked_because_its_tokenizer_is_anybodys_guess(
    sdk: Literal["openai", "anthropic"], base_url: str
) -> None:
    vendor = Vendor()
    assert await counted(sdk, vendor, replace(CALL, model="gpt-5"), base_url) is None
    assert vendor.requests == []


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(httpx2.Response(404, json={"error": {"message": "no such path"}}), id="404"),
        pytest.param(httpx2.Response(429, json={"error": {"message": "slow down"}}), id="429"),
        pytest.param(httpx2.Response(500), id="500"),
        pytest.param(httpx2.Response(200, json={"input_tokens": None}), id="null"),
        pytest.param(httpx2.Response(200, json={"input_tokens": "12"}), id="text"),
        pytest.param(httpx2.Response(200, json={"input_tokens": True}), id="boolean"),
        pytest.param(httpx2.Response(200, json={"input_tokens": 0}), id="nothing"),
        pytest.param(httpx2.Response(200, json=[1]), id="a list"),
        pytest.param(httpx2.Response(200, text="<html>"), id="a page"),
        pytest.param(httpx2.Response(200, content=b"{", headers={"content-type": "application/json"}), id="half"),
    ],
)
async def test_what_is_no_count_is_none_and_asked_for_once(
    sdk: Literal["openai", "anthropic"], answer: httpx2.Response
) -> None:
    vendor = Vendor(lambda _: answer)
    assert await counted(sdk, vendor) is None
    assert len(vendor.requests) == 1


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
async def test_a_broken_connection_is_none(sdk: Literal["openai", "anthropic"]) -> None:
    def broken(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadError("gone", request=request)

    assert await counted(sdk, Vendor(broken)) is None


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
async def test_a_count_that_does_not_come_is_not_waited_for(
    sdk: Literal["openai", "anthropic"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "COUNT_TIMEOUT_S", 0.05)

    class Silent(Vendor):
        def client(self) -> httpx2.AsyncClient:
            async def never(request: httpx2.Request) -> httpx2.Response:
                self.requests.append(request)
                await asyncio.Event().wait()
                raise AssertionError("it is never said")

            return httpx2.AsyncClient(transport=httpx2.MockTransport(never))

    vendor = Silent()
    assert await counted(sdk, vendor) is None
    assert len(vendor.requests) == 1


def test_a_count_is_only_asked_of_who_can_give_one() -> None:
    assert not isinstance(ScriptedProvider(lambda call: ""), InputCounter)
    for provider in (OpenAIProvider, AnthropicProvider):
        settings = ProviderSettings("a", "openai", "chat")
        assert isinstance(provider(settings, None), InputCounter)


@pytest.mark.parametrize("tokens, bound", [(1, 66), (20, 85), (21, 87), (100_000, 105_064)])
def test_the_margin_of_an_estimate_is_rounded_up(tokens: int, bound: int) -> None:
    assert with_margin(tokens) == bound


# --- by the model's own tokenizer, on this machine


@pytest.mark.parametrize(
    "model, ranks",
    [
        ("gpt-5", "o200k_base"),
        ("gpt-5.6-luna", "o200k_base"),
        ("gpt-4o", "o200k_base"),
        ("gpt-4o-mini-2024-07-18", "o200k_base"),
        ("gpt-4.1-nano", "o200k_base"),
        ("o1", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("o4-mini", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("gpt-6.1-sol", None),
        ("gpt-oss-20b", None),
        ("o10", None),
        ("claude-opus-5-5", None),
        ("glm-5.3", None),
        ("gemini-3.8-flash", None),
        ("", None),
    ],
)
def test_a_model_has_the_ranks_that_its_vendor_names_or_none(model: str, ranks: str | None) -> None:
    assert ranks_of(model) == ranks


async def test_a_known_model_is_counted_here_and_nobody_is_asked() -> None:
    if tokenizer("o200k_base") is None:
        require_in_ci("the extra 'tokens' is not installed")
    vendor = Vendor()
    found = await counted("openai", vendor, replace(CALL, model="gpt-5"))
    assert found == InputCount(2 + 3 + FORMAT, "the model's tokenizer")
    assert vendor.requests == []


def test_the_tokenizer_counts_what_looks_special_as_text_and_any_length() -> None:
    if tokenizer("o200k_base") is None:
        require_in_ci("the extra 'tokens' is not installed")
    assert openai_tokens("gpt-5", ["<|endoftext|>"]) == 7
    assert openai_tokens("gpt-5", ["word " * 300_000]) == 300_001


async def test_without_the_extra_openai_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "tokenizer", lambda ranks: None)
    vendor = Vendor()
    found = await counted("openai", vendor, replace(CALL, model="gpt-5"))
    assert found == InputCount(1_000 + FORMAT, "OpenAI's own count")
