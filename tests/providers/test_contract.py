"""What every adapter promises, whichever SDK it uses: one suite, real SDKs, a real HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Literal

import anyio
import pytest

from autopack_mcp.clock import ManualClock
from autopack_mcp.config.settings import ProviderSettings
from autopack_mcp.errors import ProviderError, ProviderRateLimited, ProviderRefused, ProviderUnavailable
from autopack_mcp.providers.base import CallObservation, ChatMessage, FinishReason, Provider, ProviderCall
from autopack_mcp.providers.registry import open_provider
from autopack_mcp.providers.scripted import ScriptedProvider
from autopack_mcp.usage.event import TokenCounts
from tests.providers.upstream import Answer, ChatSpeech, MessagesSpeech, ResponsesSpeech, Speech, Upstream, error

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("loaded_sdks")]

KEY = "sk-test-4fJ9qLw2Zx7Vb1Nm8Kd3"
PROMPT = "Please add a function that computes the sum of two unusual numbers."
ANSWER = "Of course: prose, not edits — with “ünïcode” and\nlines."
SPEECHES = [ChatSpeech(), ResponsesSpeech(), MessagesSpeech()]
WHOLE_USAGE = TokenCounts(uncached_input=7, cache_read=4, output=7, reasoning=2)

every_adapter = pytest.mark.parametrize("speech", SPEECHES, ids=lambda speech: speech.api)


@contextlib.asynccontextmanager
async def opened(speech: Speech, *answers: Answer, url: str | None = None) -> AsyncIterator[tuple[Provider, Upstream]]:
    async with Upstream(*answers) as upstream:
        provider = open_provider(
            settings(speech, url or upstream.url),
            KEY,
            clock=ManualClock(datetime(2026, 11, 18, 12, 0, tzinfo=UTC)),
        )
        try:
            yield provider, upstream
        finally:
            await provider.close()


def settings(speech: Speech, base_url: str) -> ProviderSettings:
    sdk: Literal["openai", "anthropic"] = "anthropic" if speech.api == "messages" else "openai"
    api: Literal["chat", "responses", "messages"] = speech.api  # type: ignore[assignment]  # three literals of three classes
    return ProviderSettings("acme", sdk, api, base_url=base_url, api_key_env="ACME_API_KEY")


def a_call(prompt: str = PROMPT, timeout_s: float = 5.0) -> ProviderCall:
    messages = (ChatMessage("system", "Answer briefly, as told."), ChatMessage("user", prompt))
    return ProviderCall("model-asked", messages, max_output_tokens=256, timeout_s=timeout_s)


def warm_up(speech: Speech) -> Answer:
    """A first answer, so that a short deadline afterwards measures the silence and not the opening of a client."""
    return Answer([*speech.begun("warm"), *speech.ended()])


class Watched(CallObservation):
    """Tells a test the moment the adapter knows who answers."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        super().__init__()

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "response_id" and value:
            self.begun.set()


async def failure(provider: Provider, observation: CallObservation, call: ProviderCall | None = None) -> ProviderError:
    with pytest.raises(ProviderError) as caught, anyio.fail_after(5):
        await provider.complete(call or a_call(), observation)
    assert_hides(caught.value, KEY)
    return caught.value


def assert_hides(error: BaseException, secret: str) -> None:
    shown = [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
    assert all(secret not in text for text in shown)
    assert error.__cause__ is None
    assert error.__context__ is None


# --- answers


@every_adapter
async def test_reply_is_put_together_and_its_usage_is_read(speech: Speech) -> None:
    steps = [*speech.begun(ANSWER[:9], ANSWER[9:]), *speech.ended()]
    async with opened(speech, Answer(steps, headers={"x-request-id": "request-1"})) as (provider, upstream):
        observation = CallObservation()
        reply = await provider.complete(a_call(), observation)

    assert reply.text == ANSWER
    assert reply.finish_reason == "stop"
    assert reply.model == "model-that-answered"
    assert (reply.response_id, reply.request_id) == ("answer-1", "request-1")
    assert reply.usage is not None
    assert reply.usage.counts == WHOLE_USAGE
    assert reply.usage.service_tier == "default"
    assert [line.model for line in reply.usage.lines] == ["model-that-answered"]
    assert observation == CallObservation(True, "answer-1", "request-1", reply.usage)
    assert [request.path for request in upstream.requests] == [speech.path]


@every_adapter
@pytest.mark.parametrize("reason", ["stop", "length", "refused", "other"])
async def test_finish_reason_is_ours(speech: Speech, reason: FinishReason) -> None:
    steps = [*speech.begun("words"), *speech.ended(speech.reasons[reason])]
    async with opened(speech, Answer(steps)) as (provider, _):
        reply = await provider.complete(a_call(), CallObservation())

    assert reply.finish_reason == reason


@every_adapter
async def test_missing_usage_is_unknown_and_not_zero(speech: Speech) -> None:
    begun = speech.begun_without_usage("words") if isinstance(speech, MessagesSpeech) else speech.begun("words")
    async with opened(speech, Answer([*begun, *speech.ended(usage=False)])) as (provider, _):
        observation = CallObservation()
        reply = await provider.complete(a_call(), observation)

    assert reply.text == "words"
    assert reply.usage is None
    assert observation.usage is None


@every_adapter
async def test_two_calls_at_once_do_not_mix(speech: Speech) -> None:
    answers = [Answer([*speech.begun(text), *speech.ended()]) for text in ("first", "second")]
    async with opened(speech, *answers) as (provider, _):
        replies = await asyncio.gather(*(provider.complete(a_call(), CallObservation()) for _ in range(2)))

    assert sorted(reply.text for reply in replies) == ["first", "second"]


@every_adapter
async def test_a_second_call_reuses_what_the_first_opened(speech: Speech) -> None:
    answer = Answer([*speech.begun("again"), *speech.ended()])
    async with opened(speech, answer) as (provider, upstream):
        texts = [(await provider.complete(a_call(), CallObservation())).text for _ in range(2)]

    assert texts == ["again", "again"]
    assert len(upstream.requests) == 2


# --- definite refusals


@every_adapter
async def test_401_names_the_variable_and_never_the_key(speech: Speech) -> None:
    body = {"error": {"message": f"Incorrect API key provided: {KEY}.", "type": "authentication_error"}}
    async with opened(speech, error(401, body, request_id="request-9")) as (provider, upstream):
        observation = CallObservation()
        refused = await failure(provider, observation)

    assert isinstance(refused, ProviderRefused)
    assert (refused.status, refused.billed, refused.retryable) == (401, "no", False)
    assert "ACME_API_KEY" in refused.hint
    assert refused.request_id == observation.request_id == "request-9"
    assert len(upstream.requests) == 1


@every_adapter
@pytest.mark.parametrize(
    "status, hint",
    [
        (400, "max_output_tokens"),
        (402, "no credit"),
        (403, "may not use 'model-asked'"),
        (404, "base_url"),
        (413, "too large"),
        (422, "max_output_tokens"),
    ],
)
async def test_definite_refusal_costs_nothing_and_says_what_to_do(speech: Speech, status: int, hint: str) -> None:
    body = {"error": {"message": "That cannot be done.", "type": "some_error"}}
    async with opened(speech, error(status, body)) as (provider, upstream):
        refused = await failure(provider, CallObservation())

    assert isinstance(refused, ProviderRefused)
    assert (refused.status, refused.billed, refused.retryable) == (status, "no", False)
    assert "That cannot be done." in refused.message
    assert hint in refused.hint
    assert len(upstream.requests) == 1


@every_adapter
async def test_refusal_that_quotes_the_prompt_does_not_pass_it_on(speech: Speech) -> None:
    body = {"error": {"message": f"Invalid message: {PROMPT!r}", "type": "invalid_request_error"}}
    async with opened(speech, error(400, body)) as (provider, _):
        refused = await failure(provider, CallObservation())

    assert "unusual numbers" not in str(refused)
    assert_hides(refused, PROMPT)


# --- come back later


@every_adapter
@pytest.mark.parametrize(
    "headers, wish",
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "7", "retry_after_ms": "250"}, 0.25),
        ({"retry_after": "Wed, 18 Nov 2026 12:00:30 GMT"}, 30.0),
        ({}, None),
    ],
    ids=["seconds", "milliseconds", "date", "unsaid"],
)
async def test_429_carries_the_wish_of_the_provider(speech: Speech, headers: dict[str, str], wish: float) -> None:
    body = {"error": {"message": "Slow down.", "type": "rate_limit_error"}}
    async with opened(speech, error(429, body, **headers)) as (provider, upstream):
        limited = await failure(provider, CallObservation())

    assert isinstance(limited, ProviderRateLimited)
    assert (limited.retry_after_s, limited.billed) == (wish, "no")
    assert len(upstream.requests) == 1


@every_adapter
async def test_429_without_credit_is_not_worth_waiting_for(speech: Speech) -> None:
    body = {
        "error": {"message": "You exceeded your quota.", "type": "insufficient_quota", "code": "insufficient_quota"}
    }
    async with opened(speech, error(429, body)) as (provider, _):
        refused = await failure(provider, CallObservation())

    assert isinstance(refused, ProviderRefused)
    assert "no credit" in refused.hint


@every_adapter
@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 529])
async def test_passing_failure_may_be_retried_and_may_have_cost(speech: Speech, status: int) -> None:
    body = {"error": {"message": "Oops.", "type": "api_error"}}
    async with opened(speech, error(status, body, retry_after="3")) as (provider, upstream):
        unavailable = await failure(provider, CallObservation())

    assert isinstance(unavailable, ProviderUnavailable)
    assert (unavailable.retryable, unavailable.billed, unavailable.retry_after_s) == (True, "unknown", 3.0)
    assert len(upstream.requests) == 1


@every_adapter
async def test_error_page_of_a_proxy_is_not_repeated(speech: Speech) -> None:
    page = Answer([b"<html><body><h1>502 Bad Gateway</h1></body></html>"], status=502, content_type="text/html")
    async with opened(speech, page) as (provider, _):
        unavailable = await failure(provider, CallObservation())

    assert isinstance(unavailable, ProviderUnavailable)
    assert "<" not in str(unavailable)


# --- broken connections


@every_adapter
async def test_refused_connection_provably_cost_nothing(speech: Speech) -> None:
    async with Upstream(Answer()) as closed:
        url = closed.url
    async with opened(speech, Answer(), url=url) as (provider, _):
        unavailable = await failure(provider, CallObservation())

    assert isinstance(unavailable, ProviderUnavailable)
    assert unavailable.billed == "no"
    assert url.removeprefix("http://") in unavailable.message
    assert "base_url" in unavailable.hint


@every_adapter
async def test_silence_ends_at_the_deadline(speech: Speech) -> None:
    async with opened(speech, warm_up(speech), Answer(["hang"])) as (provider, _):
        await provider.complete(a_call(), CallObservation())
        observation = CallObservation()
        late = await failure(provider, observation, a_call(timeout_s=0.05))

    assert isinstance(late, ProviderUnavailable)
    assert "within 0.05 s" in late.message
    assert late.billed == "unknown"
    assert observation.sent


@every_adapter
async def test_stream_that_stalls_in_the_middle_ends_at_the_deadline(speech: Speech) -> None:
    async with opened(speech, warm_up(speech), Answer([*speech.begun("half"), "hang"])) as (provider, upstream):
        await provider.complete(a_call(), CallObservation())
        late = await failure(provider, CallObservation(), a_call(timeout_s=0.1))
        with anyio.fail_after(5):
            await upstream.client_gone.wait()

    assert isinstance(late, ProviderUnavailable)


@every_adapter
@pytest.mark.parametrize("end", [["cut"], []], ids=["cut", "closed in good order"])
async def test_half_an_answer_is_no_answer(speech: Speech, end: list[Literal["cut"]]) -> None:
    answer = Answer([*speech.begun("half"), *end], headers={"x-request-id": "request-7"})
    async with opened(speech, answer) as (provider, _):
        observation = CallObservation()
        unavailable = await failure(provider, observation)

    assert isinstance(unavailable, ProviderUnavailable)
    assert (unavailable.billed, unavailable.request_id) == ("unknown", "request-7")
    assert observation.response_id == "answer-1"
    if speech.input_is_known_early:
        assert observation.usage is not None
        assert observation.usage.counts == TokenCounts(uncached_input=7, cache_read=4, output=1)
    else:
        assert observation.usage is None


@every_adapter
@pytest.mark.parametrize(
    "steps",
    [[b"event: message_start\ndata: {not json\n\n"], [b"data: \xff\xfe\n\n"], [b"Hello, this is no stream."], []],
    ids=["broken JSON", "broken UTF-8", "no events", "nothing"],
)
async def test_nonsense_with_a_status_of_200_is_unavailable(speech: Speech, steps: list[bytes]) -> None:
    async with opened(speech, Answer(steps)) as (provider, _):
        unavailable = await failure(provider, CallObservation())

    assert isinstance(unavailable, ProviderUnavailable)
    assert unavailable.billed == "unknown"


@every_adapter
@pytest.mark.parametrize(
    "kind, expected",
    [
        ("overloaded_error", ProviderUnavailable),
        ("server_error", ProviderUnavailable),
        ("rate_limit_error", ProviderRateLimited),
        ("rate_limit_exceeded", ProviderRateLimited),
        ("invalid_prompt", ProviderRefused),
        ("a_kind_from_the_future", ProviderUnavailable),
    ],
)
async def test_error_inside_a_stream_may_have_cost(speech: Speech, kind: str, expected: type[ProviderError]) -> None:
    async with opened(speech, Answer([*speech.begun("half"), speech.failed(kind, f"No, {KEY}!")])) as (provider, _):
        broken = await failure(provider, CallObservation())

    assert type(broken) is expected
    assert broken.billed == "unknown"


# --- cancelling


@every_adapter
async def test_cancelling_ends_the_request_at_once_and_keeps_what_was_seen(speech: Speech) -> None:
    async with opened(speech, Answer([*speech.begun("half"), "hang"])) as (provider, upstream):
        observation = Watched()
        task = asyncio.create_task(provider.complete(a_call(), observation))
        with anyio.fail_after(5):
            await observation.begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await upstream.client_gone.wait()

    assert observation.sent
    assert (observation.usage is not None) == speech.input_is_known_early


@every_adapter
async def test_cancelling_before_any_answer_ends_the_request_at_once(speech: Speech) -> None:
    async with opened(speech, Answer(["hang"])) as (provider, upstream):
        task = asyncio.create_task(provider.complete(a_call(), CallObservation()))
        with anyio.fail_after(5):
            await upstream.was_asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await upstream.client_gone.wait()


# --- the scripted provider keeps the same promises


async def test_scripted_reply_has_usage_like_any_other() -> None:
    provider = ScriptedProvider(lambda call: f"answer to {call.messages[-1].content}")
    observation = CallObservation()
    reply = await provider.complete(a_call("a question"), observation)
    await provider.close()

    assert reply.text == "answer to a question"
    assert (reply.model, reply.finish_reason) == ("model-asked", "stop")
    assert reply.usage is not None
    assert reply.usage.counts.total_input > 0
    assert observation == CallObservation(True, None, None, reply.usage)


async def test_scripted_call_can_be_held_and_cancelled() -> None:
    held = asyncio.Event()
    provider = ScriptedProvider(lambda _: "never said", pause=held.wait)
    observation = CallObservation()
    task = asyncio.create_task(provider.complete(a_call(), observation))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert observation.usage is not None
    assert observation.usage.counts.output == 0


async def test_scripted_call_ends_at_its_deadline() -> None:
    provider = ScriptedProvider(lambda _: "never said", pause=asyncio.Event().wait)
    late = await failure(provider, CallObservation(), a_call(timeout_s=0.01))

    assert isinstance(late, ProviderUnavailable)
    assert "within 0.01 s" in late.message


async def test_scripted_calls_at_once_do_not_mix() -> None:
    provider = ScriptedProvider(lambda call: call.messages[-1].content)
    replies = await asyncio.gather(*(provider.complete(a_call(text), CallObservation()) for text in ("one", "two")))

    assert [reply.text for reply in replies] == ["one", "two"]
