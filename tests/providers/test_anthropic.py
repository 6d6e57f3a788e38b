"""What the Anthropic adapter sends, and how it reads the streams that servers make of Messages."""

from __future__ import annotations

import pytest

from autopack_mcp.config.settings import ProviderSettings
from autopack_mcp.providers.anthropic import AnthropicProvider, MessagesStream
from autopack_mcp.providers.base import CallObservation, ChatMessage, ProviderCall
from autopack_mcp.providers.failures import Asked
from autopack_mcp.usage.event import TokenCounts, UsageLine
from tests.providers.upstream import Answer, MessagesSpeech, Request, Upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("loaded_sdks")]

CALL = ProviderCall(
    "model-asked",
    (ChatMessage("system", "Rules."), ChatMessage("system", "More rules."), ChatMessage("user", "Question?")),
    max_output_tokens=64_000,
    timeout_s=5,
)


async def sent(key: str | None = "sk-ant-test-0123456789") -> Request:
    speech = MessagesSpeech()
    async with Upstream(Answer([*speech.begun("words"), *speech.ended()])) as upstream:
        provider = AnthropicProvider(ProviderSettings("acme", "anthropic", "messages", base_url=upstream.url), key)
        await provider.complete(CALL, CallObservation())
        await provider.close()
    return upstream.requests[0]


def a_stream() -> tuple[MessagesStream, CallObservation]:
    observation = CallObservation()
    return MessagesStream(Asked(ProviderSettings("acme", "anthropic", "messages"), CALL), observation), observation


async def test_request_puts_the_system_apart_and_has_no_temperature() -> None:
    request = await sent()

    assert request.headers["authorization"] == "Bearer sk-ant-test-0123456789"
    assert request.headers["anthropic-version"]
    assert request.body == {
        "model": "model-asked",
        "system": "Rules.\n\nMore rules.",
        "messages": [{"role": "user", "content": "Question?"}],
        "max_tokens": 64_000,
        "stream": True,
    }


async def test_server_without_a_key_does_not_get_the_persons_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-the-persons-real-key")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "the-persons-token")
    request = await sent(key=None)

    assert request.headers["authorization"] == "Bearer no-key"
    assert "persons" not in str(request.headers)


async def test_address_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://somewhere.else.example")
    provider = AnthropicProvider(ProviderSettings("anthropic", "anthropic", "messages"), "sk-ant-test-0123456789")
    client = await provider._open()

    assert str(client.base_url).rstrip("/") == "https://api.anthropic.com"
    assert client.max_retries == 0
    await provider.close()


def test_later_usage_is_written_over_earlier_and_never_added() -> None:
    stream, observation = a_stream()
    stream.feed({"type": "message_start", "message": {"usage": {"input_tokens": 50, "output_tokens": 1}}})
    stream.feed({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 20}})
    stream.feed({"type": "message_delta", "delta": {}, "usage": {"input_tokens": 55, "output_tokens": 30}})

    assert observation.usage is not None
    assert observation.usage.counts == TokenCounts(uncached_input=55, output=30)


def test_zeros_at_the_start_of_a_stream_are_not_taken_for_the_truth() -> None:
    stream, observation = a_stream()
    seen = []
    for kind, usage in (("message_start", (0, 0)), ("message_delta", (41, 3))):
        numbers = {"input_tokens": usage[0], "output_tokens": usage[1]}
        stream.feed({"type": kind, "message": {"usage": numbers}, "usage": numbers})
        seen.append(observation.usage.counts if observation.usage else None)

    assert seen == [None, TokenCounts(uncached_input=41, output=3)]


def test_iterations_at_the_end_of_a_stream_become_lines() -> None:
    stream, observation = a_stream()
    start = {"model": "claude-a", "usage": {"input_tokens": 220, "output_tokens": 1}}
    iterations = [
        {"type": "compaction", "input_tokens": 9_000, "output_tokens": 40},
        {"type": "advisor_message", "input_tokens": 300, "output_tokens": 5, "model": "claude-b"},
        {"type": "message", "input_tokens": 220, "output_tokens": 8},
    ]
    stream.feed({"type": "message_start", "message": start})
    stream.feed({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 8, "iterations": iterations}})

    assert observation.usage is not None
    assert observation.usage.lines == (
        UsageLine("claude-a", TokenCounts(uncached_input=9_000, output=40)),
        UsageLine("claude-b", TokenCounts(uncached_input=300, output=5)),
        UsageLine("claude-a", TokenCounts(uncached_input=220, output=8)),
    )


def test_only_what_is_said_is_text_and_holes_are_no_failure() -> None:
    stream, _ = a_stream()
    for event in (
        {},
        {"type": "message_start", "message": None},
        {"type": "content_block_start", "content_block": {"type": "thinking", "thinking": "hm"}},
        {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm"}},
        {"type": "content_block_start", "content_block": {"type": "text", "text": "A"}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "B"}},
        {"type": "content_block_delta", "delta": None},
        {"type": "message_delta", "delta": {"stop_reason": "stop_sequence"}, "usage": None},
        {"type": "an_event_from_the_future"},
    ):
        stream.feed(event)
    reply = stream.reply()

    assert (reply.text, reply.finish_reason, reply.usage, reply.model) == ("AB", "stop", None, "model-asked")
