"""The upstream does what its README says, asked by the real SDKs: the end-to-end tests stand on this."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anthropic
import anyio
import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam

from tests.upstream.harness import Answer, Asked, Fault, Upstream, running_upstream

pytestmark = pytest.mark.anyio

KEY = "not-a-real-key"


@dataclass(frozen=True, slots=True)
class Heard:
    """What an SDK made of a streamed reply."""

    text: str
    input_tokens: int | None
    output_tokens: int | None


@pytest.fixture
async def openai_client(upstream: Upstream) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key=KEY, base_url=upstream.openai_base_url, max_retries=0, timeout=10) as client:
        yield client


@pytest.fixture
async def anthropic_client(upstream: Upstream) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        api_key=KEY, base_url=upstream.anthropic_base_url, max_retries=0, timeout=10
    ) as client:
        yield client


async def ask_chat(client: openai.AsyncOpenAI, model: str, prompt: str = "Say it.") -> Heard:
    chunks = [
        chunk
        async for chunk in await client.chat.completions.create(
            model=model,
            messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}],
            max_completion_tokens=100,
            stream=True,
            stream_options={"include_usage": True},
        )
    ]
    usage = chunks[-1].usage
    assert usage is not None
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    return Heard(text, usage.prompt_tokens, usage.completion_tokens)


async def ask_responses(client: openai.AsyncOpenAI, model: str, prompt: str = "Say it.") -> Heard:
    stream = await client.responses.create(
        model=model, instructions="Be brief.", input=prompt, max_output_tokens=100, stream=True
    )
    events = [event async for event in stream]
    assert events[-1].type == "response.completed"
    usage = events[-1].response.usage
    assert usage is not None
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    return Heard(text, usage.input_tokens, usage.output_tokens)


async def ask_messages(client: anthropic.AsyncAnthropic, model: str, prompt: str = "Say it.") -> Heard:
    async with client.messages.stream(
        model=model, system="Be brief.", max_tokens=100, messages=[{"role": "user", "content": prompt}]
    ) as stream:
        message = await stream.get_final_message()
    text = "".join(block.text for block in message.content if block.type == "text")
    return Heard(text, message.usage.input_tokens, message.usage.output_tokens)


async def listen(client: openai.AsyncOpenAI, seen: list[str]) -> None:
    """Ask for a stream and note every event's id as it arrives."""
    question: ChatCompletionUserMessageParam = {"role": "user", "content": "Go on."}
    async for chunk in await client.chat.completions.create(model="gpt-4o", messages=[question], stream=True):
        seen.append(chunk.id)  # noqa: PERF401  The stream breaks off, and what came before it must be kept.


async def test_chat_completions_stream_the_scripted_text_and_usage(
    upstream: Upstream, openai_client: openai.AsyncOpenAI
) -> None:
    upstream.always(Asked(model="gpt-4o"), Answer(text="ä long answer " * 9, input_tokens=321, output_tokens=45))
    assert await ask_chat(openai_client, "gpt-4o") == Heard("ä long answer " * 9, 321, 45)


async def test_responses_stream_the_scripted_text_and_usage(
    upstream: Upstream, openai_client: openai.AsyncOpenAI
) -> None:
    upstream.always(Asked(model="gpt-5"), Answer(text="from responses", input_tokens=11, output_tokens=7))
    assert await ask_responses(openai_client, "gpt-5") == Heard("from responses", 11, 7)


async def test_messages_stream_the_scripted_text_and_usage(
    upstream: Upstream, anthropic_client: anthropic.AsyncAnthropic
) -> None:
    upstream.always(Asked(model="claude-opus-4-5"), Answer(text="from messages", input_tokens=12, output_tokens=8))
    assert await ask_messages(anthropic_client, "claude-opus-4-5") == Heard("from messages", 12, 8)


async def test_chat_in_openrouters_dialect_reports_cached_and_reasoning_tokens(upstream: Upstream) -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 80}, "completion_tokens_details": {"reasoning_tokens": 5}}
    upstream.always(Asked(), Answer(text="hi", input_tokens=100, output_tokens=20, usage_details=details))
    async with openai.AsyncOpenAI(api_key=KEY, base_url=upstream.openai_detailed_base_url, max_retries=0) as client:
        reply = await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])
    assert reply.usage is not None
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.completion_tokens_details is not None
    assert reply.usage.prompt_tokens_details.cached_tokens == 80
    assert reply.usage.completion_tokens_details.reasoning_tokens == 5


async def test_journal_says_what_was_asked_and_what_was_served(
    upstream: Upstream, openai_client: openai.AsyncOpenAI, anthropic_client: anthropic.AsyncAnthropic
) -> None:
    upstream.always(Asked(model="gpt-4o"), Answer(text="one", input_tokens=10, output_tokens=1, response_id="chat_1"))
    upstream.always(Asked(model="claude-opus-4-5"), Answer(text="two", input_tokens=20, output_tokens=2))
    await ask_chat(openai_client, "gpt-4o", "Build the parser.")
    await ask_messages(anthropic_client, "claude-opus-4-5", "Review the parser.")
    built, reviewed = upstream.journal()
    assert (built.path, built.model, built.status, built.text) == ("/v1/chat/completions", "gpt-4o", 200, "one")
    assert (built.input_tokens, built.output_tokens, built.response_id) == (10, 1, "chat_1")
    assert built.messages == (("system", "Be brief."), ("user", "Build the parser."))
    assert (reviewed.path, reviewed.text, reviewed.input_tokens) == ("/v1/messages", "two", 20)
    assert "Review the parser." in reviewed.prompt


async def test_answers_come_one_after_the_other_for_each_kind_of_request(
    upstream: Upstream, anthropic_client: anthropic.AsyncAnthropic
) -> None:
    upstream.script(Asked(user_has="parser"), Answer(text="rejected"), Answer(text="approved"))
    upstream.script(Asked(user_has="writer"), Answer(text="approved at once"))
    prompts = ["the parser", "the writer", "the parser again"]
    heard = [(await ask_messages(anthropic_client, "claude-opus-4-5", prompt)).text for prompt in prompts]
    assert heard == ["rejected", "approved at once", "approved"]


async def test_answers_are_told_apart_by_model_and_by_system_message(
    upstream: Upstream, openai_client: openai.AsyncOpenAI
) -> None:
    upstream.always(Asked(system_has=("verbose",)), Answer(text="never, the system message is another"))
    upstream.always(Asked(model="gpt-4o-mini"), Answer(text="small"))
    upstream.always(Asked(model="gpt-4o", system_has=("Be", "brief")), Answer(text="large"))
    assert [(await ask_chat(openai_client, model)).text for model in ("gpt-4o", "gpt-4o-mini")] == ["large", "small"]


async def test_rate_limit_carries_retry_after_and_the_next_try_is_answered(
    upstream: Upstream, openai_client: openai.AsyncOpenAI, anthropic_client: anthropic.AsyncAnthropic
) -> None:
    upstream.script(Asked(model="gpt-4o"), Fault(status=429, retry_after_s=7), Answer(text="now"))
    upstream.script(Asked(model="claude-opus-4-5"), Fault(status=429, kind="rate_limit_error"), Answer(text="now too"))
    with pytest.raises(openai.RateLimitError) as refused:
        await ask_chat(openai_client, "gpt-4o")
    assert refused.value.response.headers["retry-after"] == "7"
    with pytest.raises(anthropic.RateLimitError, match="rate_limit_error"):
        await ask_messages(anthropic_client, "claude-opus-4-5")
    assert (await ask_chat(openai_client, "gpt-4o")).text == "now"
    assert (await ask_messages(anthropic_client, "claude-opus-4-5")).text == "now too"
    assert [served.status for served in upstream.journal()] == [429, 429, 200, 200]


@pytest.mark.parametrize("status", [400, 401, 500, 503])
async def test_any_status_reaches_the_client(
    upstream: Upstream, openai_client: openai.AsyncOpenAI, status: int
) -> None:
    upstream.script(Asked(), Fault(status=status, message="as scripted"))
    with pytest.raises(openai.APIStatusError, match="as scripted") as refused:
        await ask_chat(openai_client, "gpt-4o")
    assert refused.value.status_code == status


@pytest.mark.parametrize("pieces", [0, 1, 4])
async def test_stream_is_cut_after_exactly_so_many_events(
    upstream: Upstream, openai_client: openai.AsyncOpenAI, pieces: int
) -> None:
    upstream.script(Asked(), Answer(text="x" * 1000, cut_after_pieces=pieces))
    seen: list[str] = []
    with pytest.raises(openai.APIConnectionError):
        await listen(openai_client, seen)
    assert len(seen) == pieces
    assert [served.cut for served in upstream.journal()] == [True]


async def test_reply_that_never_starts_is_journaled_and_keeps_nobody_else_waiting(
    upstream: Upstream, openai_client: openai.AsyncOpenAI
) -> None:
    upstream.script(Asked(user_has="slow"), Answer(text="too late", starts_after_ms=3_600_000))
    upstream.script(Asked(user_has="quick"), Answer(text="at once"))
    with pytest.raises(openai.APITimeoutError):
        await ask_chat(openai_client.with_options(timeout=0.5), "gpt-4o", "slow")
    with anyio.fail_after(10):
        assert (await ask_chat(openai_client, "gpt-4o", "quick")).text == "at once"
    assert [served.text for served in upstream.journal()] == ["too late", "at once"]


async def test_request_without_an_answer_is_named(upstream: Upstream, openai_client: openai.AsyncOpenAI) -> None:
    upstream.script(Asked(model="gpt-4o"), Answer(text="once"))
    await ask_chat(openai_client, "gpt-4o")
    with pytest.raises(openai.NotFoundError):
        await ask_chat(openai_client, "gpt-4o", "a second time")
    assert [served.messages[-1][1] for served in upstream.unanswered() if served.messages] == ["a second time"]
    upstream.forget()
    assert upstream.journal() == ()


def test_script_that_aimock_cannot_read_is_refused_at_once(upstream: Upstream) -> None:
    with pytest.raises(AssertionError, match="truncateAfterChunks"):
        upstream.script(Asked(), Answer(text="x", cut_after_pieces=-7))


def test_nothing_is_left_when_the_upstream_stops_with_a_request_still_open(upstream: Upstream, tmp_path: Path) -> None:
    with running_upstream(tmp_path / "log") as second:
        assert second.url != upstream.url
        second.always(Asked(), Answer(text="never", starts_after_ms=3_600_000))
        client = openai.OpenAI(api_key=KEY, base_url=second.openai_base_url, max_retries=0, timeout=0.5)
        with client, pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Wait."}], stream=True)
    with pytest.raises(ProcessLookupError):
        os.kill(second.pid, 0)
