"""What the OpenAI adapter sends, and how it reads the streams that compatible servers make of the two APIs."""

from __future__ import annotations

from typing import Literal

import pytest
from anyio import fail_after

from autopack_mcp.config.settings import ProviderSettings
from autopack_mcp.errors import ProviderUnavailable
from autopack_mcp.providers.base import CallObservation, ChatMessage, ProviderCall
from autopack_mcp.providers.failures import Asked
from autopack_mcp.providers.openai import ChatStream, OpenAIProvider, ResponsesStream, _chat_body, _responses_body
from autopack_mcp.usage.event import TokenCounts
from tests.providers.upstream import Answer, ChatSpeech, Request, ResponsesSpeech, Upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("loaded_sdks")]

CALL = ProviderCall(
    "model-asked",
    (
        ChatMessage("system", "Rules."),
        ChatMessage("user", "Question?"),
        ChatMessage("assistant", "Answer."),
        ChatMessage("user", "Really?"),
    ),
    max_output_tokens=256,
    timeout_s=5,
)


async def sent(api: Literal["chat", "responses"], key: str | None = "sk-test-0123456789") -> Request:
    speech = ChatSpeech() if api == "chat" else ResponsesSpeech()
    async with Upstream(Answer([*speech.begun("words"), *speech.ended()])) as upstream:
        provider = OpenAIProvider(ProviderSettings("acme", "openai", api, base_url=upstream.url), key)
        await provider.complete(CALL, CallObservation())
        await provider.close()
    return upstream.requests[0]


def a_chat_stream(base_url: str | None = None) -> tuple[ChatStream, CallObservation]:
    observation = CallObservation()
    settings = ProviderSettings("acme", "openai", "chat", base_url=base_url)
    return ChatStream(Asked(settings, CALL), observation), observation


async def test_chat_request_asks_for_usage_and_bounds_the_answer() -> None:
    request = await sent("chat")

    assert request.headers["authorization"] == "Bearer sk-test-0123456789"
    assert request.body == {
        "model": "model-asked",
        "messages": [
            {"role": "system", "content": "Rules."},
            {"role": "user", "content": "Question?"},
            {"role": "assistant", "content": "Answer."},
            {"role": "user", "content": "Really?"},
        ],
        "max_tokens": 256,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    "base_url, name",
    [
        (None, "max_completion_tokens"),
        ("https://api.openai.com/v1", "max_completion_tokens"),
        ("https://eu.api.openai.com/v1", "max_completion_tokens"),
        ("https://open.bigmodel.cn/api/paas/v4", "max_tokens"),
        ("http://localhost:11434/v1", "max_tokens"),
        ("https://notopenai.com/v1", "max_tokens"),
    ],
)
def test_bound_of_the_answer_has_the_name_that_the_address_knows(base_url: str | None, name: str) -> None:
    assert _chat_body(CALL, base_url)[name] == 256
    assert len({"max_tokens", "max_completion_tokens"} & _chat_body(CALL, base_url).keys()) == 1


@pytest.mark.parametrize(
    "base_url, tier", [(None, "default"), ("https://eu.api.openai.com/v1", "default"), ("http://localhost/v1", None)]
)
def test_openai_is_asked_for_the_tier_whose_price_is_reserved(base_url: str | None, tier: str | None) -> None:
    assert _chat_body(CALL, base_url).get("service_tier") == tier
    assert _responses_body(CALL, base_url).get("service_tier") == tier


async def test_responses_request_puts_the_system_apart_and_keeps_nothing_at_the_vendor() -> None:
    request = await sent("responses")

    assert request.body == {
        "model": "model-asked",
        "instructions": "Rules.",
        "input": [
            {"role": "user", "content": "Question?"},
            {"role": "assistant", "content": "Answer."},
            {"role": "user", "content": "Really?"},
        ],
        "max_output_tokens": 256,
        "store": False,
        "stream": True,
    }


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_server_without_a_key_does_not_get_the_persons_real_one(
    api: Literal["chat", "responses"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-the-persons-real-key")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-the-persons-admin-key")
    request = await sent(api, key=None)

    assert request.headers["authorization"] == "Bearer no-key"
    assert "persons" not in str(request.headers)


async def test_address_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://somewhere.else.example")
    provider = OpenAIProvider(ProviderSettings("openai", "openai", "chat"), "sk-test-0123456789")
    client = await provider._open()

    assert str(client.base_url) == "https://api.openai.com/v1/"
    assert client.max_retries == 0
    await provider.close()


async def test_closing_before_the_first_call_is_fine() -> None:
    await OpenAIProvider(ProviderSettings("openai", "openai", "chat"), "sk-test-0123456789").close()


async def test_a_server_that_never_closes_its_stream_is_not_waited_for_after_the_end() -> None:
    speech = ChatSpeech()
    async with Upstream(Answer([*speech.begun("words"), *speech.ended(), "hang"])) as upstream:
        provider = OpenAIProvider(ProviderSettings("acme", "openai", "chat", base_url=upstream.url), None)
        with fail_after(CALL.timeout_s - 1):
            reply = await provider.complete(CALL, CallObservation())
            await upstream.client_gone.wait()
        await provider.close()
    assert reply.text == "words"


async def test_a_connection_is_used_again_after_a_stream() -> None:
    speech = ChatSpeech()
    async with Upstream(Answer([*speech.begun("words"), *speech.ended()])) as upstream:
        provider = OpenAIProvider(ProviderSettings("acme", "openai", "chat", base_url=upstream.url), None)
        for _ in range(3):
            await provider.complete(CALL, CallObservation())
        assert not upstream.client_gone.is_set()
        assert len(upstream._served) == 1
        await provider.close()


def test_last_readable_usage_of_a_chat_stream_wins() -> None:
    stream, observation = a_chat_stream()
    seen = []
    for prompt, completion in ((0, 0), (9, 1), (9, 5), ("many", 5), (0, 0)):
        stream.feed({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}})
        seen.append(observation.usage.counts.output if observation.usage else None)

    assert seen == [None, 1, 5, 5, 5]


def test_chat_chunks_with_holes_are_no_failure() -> None:
    stream, observation = a_chat_stream()
    for chunk in (
        {},
        {"choices": None},
        {"choices": [None, 3]},
        {"choices": [{"delta": None}]},
        {"choices": [{"delta": {"content": None, "reasoning_content": "hm"}}], "model": None, "id": None},
        {"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]},
        {"choices": [{"index": 0}], "usage": None},
    ):
        stream.feed(chunk)
    reply = stream.reply()

    assert (reply.text, reply.finish_reason, reply.model) == ("yes", "stop", "model-asked")
    assert (reply.usage, observation.usage, reply.response_id) == (None, None, None)


def test_refusal_of_a_chat_is_its_text_when_nothing_else_was_said() -> None:
    stream, _ = a_chat_stream()
    stream.feed({"choices": [{"delta": {"refusal": "I will "}}]})
    stream.feed({"choices": [{"delta": {"refusal": "not."}, "finish_reason": "stop"}]})
    reply = stream.reply()

    assert (reply.text, reply.finish_reason) == ("I will not.", "refused")


def test_refusal_of_a_response_is_its_text() -> None:
    settings = ProviderSettings("acme", "openai", "responses")
    stream = ResponsesStream(Asked(settings, CALL), CallObservation())
    stream.feed({"type": "response.refusal.delta", "delta": "I will not."})
    stream.feed({"type": "response.completed", "response": {"id": "r", "status": "completed"}})
    reply = stream.reply()

    assert (reply.text, reply.finish_reason) == ("I will not.", "refused")


def test_failed_response_still_says_what_it_used() -> None:
    observation = CallObservation()
    stream = ResponsesStream(Asked(ProviderSettings("acme", "openai", "responses"), CALL), observation)
    usage = {"input_tokens": 30, "output_tokens": 12, "total_tokens": 42}
    failed = {"id": "r", "error": {"code": "server_error", "message": "Oops."}, "usage": usage}
    with pytest.raises(ProviderUnavailable, match="Oops"):
        stream.feed({"type": "response.failed", "response": failed})

    assert observation.usage is not None
    assert observation.usage.counts == TokenCounts(uncached_input=30, output=12)


def test_bare_error_event_of_responses_is_raised() -> None:
    stream = ResponsesStream(Asked(ProviderSettings("acme", "openai", "responses"), CALL), CallObservation())
    with pytest.raises(ProviderUnavailable, match="Busy"):
        stream.feed({"type": "error", "code": "server_error", "message": "Busy."})
