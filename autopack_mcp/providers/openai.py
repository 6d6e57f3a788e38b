"""OpenAI's Chat Completions and Responses, and every server that speaks one of them, through the openai SDK.

It owns what is sent and what the stream means; it does not retry, and it never lets the SDK look for a key or an
address itself: only what models.yaml names is used. ``registry`` opens it for ``llm_service``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from autopack_mcp.clock import Clock, SystemClock
from autopack_mcp.config.settings import ProviderSettings
from autopack_mcp.providers.base import (
    CallObservation,
    FinishReason,
    InputCount,
    ProviderCall,
    ProviderReply,
    format_tokens,
    is_at_vendor,
)
from autopack_mcp.providers.counts import count_in_time, openai_tokens
from autopack_mcp.providers.events import name_in, object_in, objects_in, text_in
from autopack_mcp.providers.failures import Asked, answered, cut, request_id, sdk_timeout, told_in_stream
from autopack_mcp.providers.sse import EventReader
from autopack_mcp.providers.usage_seen import UsageSeen
from autopack_mcp.text_safety import whole
from autopack_mcp.usage.reading import JsonObject

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI
    from openai._types import RequestOptions

_VENDOR_URL = "https://api.openai.com/v1"

_COUNTED_PARTS = ("model", "input", "instructions")  # Of a Responses request, those that its count takes.

DRAIN_LIMIT_S = 0.1  # What is left after the end of a stream is on its way already, or is not worth waiting for.

# Sent where models.yaml names no key variable: local servers want some value, and without one the SDK would take the
# person's real key from the environment and send it there.
_NO_KEY = "no-key"

# "sensitive" is Zhipu's word for a filtered answer.
_CHAT_FINISH: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "refused",
    "sensitive": "refused",
}
_INCOMPLETE_FINISH: Mapping[str, FinishReason] = {"max_output_tokens": "length", "content_filter": "refused"}


class OpenAIProvider:
    """One account, reached with the openai SDK; ``settings.api`` says whether by Chat Completions or by Responses.

    Args:
        settings: of the provider. ``base_url`` None means OpenAI itself, whatever OPENAI_BASE_URL says.
        api_key: None for a server that needs none.
        clock: tells how long until a Retry-After date.
        http_client: instead of the SDK's own, for tests with exact bodies; closed with the provider.
    """

    def __init__(
        self,
        settings: ProviderSettings,
        api_key: str | None,
        *,
        clock: Clock | None = None,
        http_client: httpx2.AsyncClient | None = None,
    ) -> None:
        self._settings = settings
        self._api_key = api_key
        self._clock = clock or SystemClock()
        self._http_client = http_client
        self._client: AsyncOpenAI | None = None
        self._opening = asyncio.Lock()

    async def complete(self, call: ProviderCall, observation: CallObservation) -> ProviderReply:
        """Send ``call`` once and stream the reply together; see ``Provider.complete``."""
        asked = Asked(self._settings, call, self._api_key)
        ask = self._ask_responses if self._settings.api == "responses" else self._ask_chat
        return await answered(asked, observation, self._clock, lambda: ask(asked, observation))

    async def count_input_tokens(self, call: ProviderCall) -> InputCount | None:
        """By the tokenizer of the model where it is known and installed, else by OpenAI itself; see ``InputCounter``.

        Only for OpenAI's own address: what a compatible server splits text by is anybody's guess.
        """
        if not _is_vendor(self._settings.base_url):
            return None
        # In a thread: the first count loads the tokenizer.
        tokens = await asyncio.to_thread(openai_tokens, call.model, [message.content for message in call.messages])
        if tokens is not None:
            return InputCount(tokens + format_tokens(call.messages), "the model's tokenizer")
        asked = Asked(self._settings, call, self._api_key)
        tokens = await count_in_time(asked, self._clock, self._count_at_vendor)
        # Exact by the vendor's guide, but for Responses; how much Chat Completions differ in format, it does not say.
        return None if tokens is None else InputCount(tokens + format_tokens(call.messages), "OpenAI's own count")

    async def close(self) -> None:
        """Give back connections."""
        if self._client is not None:
            await self._client.close()

    async def _count_at_vendor(self, asked: Asked) -> object:
        client = await self._open()
        body = {name: value for name, value in _responses_body(asked.call, None).items() if name in _COUNTED_PARTS}
        options: RequestOptions = {"timeout": sdk_timeout(asked.call), "security": {"bearer_auth": True}}
        return await client.post("/responses/input_tokens", cast_to=object, body=body, options=options)

    async def _ask_chat(self, asked: Asked, observation: CallObservation) -> ProviderReply:
        answer = ChatStream(asked, observation)
        await self._stream("/chat/completions", _chat_body(asked.call, self._settings.base_url), answer)
        return answer.reply()

    async def _ask_responses(self, asked: Asked, observation: CallObservation) -> ProviderReply:
        answer = ResponsesStream(asked, observation)
        await self._stream("/responses", _responses_body(asked.call, self._settings.base_url), answer)
        return answer.reply()

    async def _stream(self, path: str, body: JsonObject, answer: ChatStream | ResponsesStream) -> None:
        """Send ``body`` and feed every event to ``answer`` as plain JSON.

        The SDK's typed methods would build a model for every event: 80 µs of the event loop per token, and 0.5 s at the
        first one, to be taken apart again. Plain JSON also shows usage as the provider wrote it, which the SDK may not
        know yet. Of the SDK's stream only the response is used.
        """
        client = await self._open()
        from openai import AsyncStream  # Lazy: 283 ms, and only the process that calls models needs it.

        answer.observation.sent = True
        stream = await client.post(
            path,
            cast_to=object,
            body=body,
            options={"timeout": sdk_timeout(answer.asked.call), "security": {"bearer_auth": True}},
            stream=True,
            stream_cls=AsyncStream[object],
        )
        async with stream:
            answer.observation.request_id = request_id(stream.response.headers)
            await _feed(answer, stream.response.aiter_bytes())

    async def _open(self) -> AsyncOpenAI:
        async with self._opening:
            if self._client is None:
                # In a thread: importing the SDK must not hold up the heartbeats of this process.
                self._client = await asyncio.to_thread(self._new_client)
            return self._client

    def _new_client(self) -> AsyncOpenAI:
        from openai import AsyncOpenAI  # Lazy, as above.

        return AsyncOpenAI(
            api_key=self._api_key or _NO_KEY,
            base_url=self._settings.base_url or _VENDOR_URL,
            max_retries=0,  # Each try is a reservation and a row of its own, so the loop is ours (pacing).
            http_client=self._http_client,
        )


async def _feed(answer: ChatStream | ResponsesStream, chunks: AsyncIterator[bytes]) -> None:
    """Give ``answer`` every event of a stream.

    Raises:
        ProviderError: an event tells of an error.
    """
    reader = EventReader()
    async for chunk in chunks:
        for event in reader.feed(chunk):
            if isinstance(event, Mapping):
                if event.get("error"):
                    raise told_in_stream(answer.asked, event["error"])
                answer.feed(event)
        if reader.is_done:
            break
    await _drained(chunks)


async def _drained(chunks: AsyncIterator[bytes]) -> None:
    """Take what follows the end, so that the connection can be used again; a server that never ends is left alone."""
    import httpx2  # Lazy: the SDK brings it.

    with suppress(TimeoutError, httpx2.HTTPError):
        async with asyncio.timeout(DRAIN_LIMIT_S):
            async for _ in chunks:
                pass


class ChatStream:
    """Puts the chunks of a Chat Completions stream together and keeps the observation current."""

    def __init__(self, asked: Asked, observation: CallObservation) -> None:
        self.asked = asked
        self.observation = observation
        self._model = asked.call.model
        self._service_tier: object = None
        self._usage = UsageSeen("openai.chat", observation)
        self._texts: list[str] = []
        self._refusals: list[str] = []
        self._finish: str | None = None

    def feed(self, chunk: JsonObject) -> None:
        """Take one chunk. The one with usage comes last, has no choices, and wins over any before it."""
        self.observation.response_id = name_in(chunk, "id") or self.observation.response_id
        self._model = name_in(chunk, "model") or self._model
        self._service_tier = chunk.get("service_tier") or self._service_tier
        for choice in objects_in(chunk, "choices")[:1]:
            delta = object_in(choice, "delta")
            self._texts.append(text_in(delta, "content"))
            self._refusals.append(text_in(delta, "refusal"))
            self._finish = text_in(choice, "finish_reason") or self._finish
            if any(piece for name, piece in delta.items() if name != "role"):
                self._usage.goes_on()
        if chunk.get("usage"):
            self._usage.take({"model": self._model, "service_tier": self._service_tier, "usage": chunk["usage"]})

    def reply(self) -> ProviderReply:
        """The whole answer.

        Raises:
            ProviderUnavailable: the stream ended without a finish reason, so the text is a torso.
        """
        if self._finish is None:
            raise cut(self.asked)
        refusal = "".join(self._refusals)
        reason: FinishReason = "refused" if refusal else _CHAT_FINISH.get(self._finish, "other")
        return _reply("".join(self._texts) or refusal, self._model, reason, self._usage)


class ResponsesStream:
    """Puts the events of a Responses stream together and keeps the observation current."""

    def __init__(self, asked: Asked, observation: CallObservation) -> None:
        self.asked = asked
        self.observation = observation
        self._model = asked.call.model
        self._usage = UsageSeen("openai.responses", observation)
        self._texts: list[str] = []
        self._refusals: list[str] = []
        self._finish: FinishReason | None = None

    def feed(self, event: JsonObject) -> None:
        """Take one event.

        Raises:
            ProviderError: the event says that the answer failed.
        """
        kind = text_in(event, "type")
        if kind == "response.output_text.delta":
            self._texts.append(text_in(event, "delta"))
        elif kind == "response.refusal.delta":
            self._refusals.append(text_in(event, "delta"))
        elif kind == "error":
            raise told_in_stream(self.asked, event)
        elif response := object_in(event, "response"):
            self._take_response(kind, response)

    def _take_response(self, kind: str, response: JsonObject) -> None:
        """Created, in progress, or one of the ends; only an end has usage."""
        self.observation.response_id = name_in(response, "id") or self.observation.response_id
        self._model = name_in(response, "model") or self._model
        if response.get("usage"):
            is_end = kind not in {"response.created", "response.queued", "response.in_progress"}
            self._usage.take({**response, "model": self._model}, is_last_word=is_end)
        if kind == "response.completed":
            self._finish = "stop"
        elif kind == "response.incomplete":
            reason = text_in(object_in(response, "incomplete_details"), "reason")
            self._finish = _INCOMPLETE_FINISH.get(reason, "other")
        elif kind in {"response.failed", "response.cancelled"}:
            raise told_in_stream(self.asked, object_in(response, "error"))

    def reply(self) -> ProviderReply:
        """The whole answer.

        Raises:
            ProviderUnavailable: the stream ended without a terminal event.
        """
        if self._finish is None:
            raise cut(self.asked)
        refusal = "".join(self._refusals)
        reason: FinishReason = "refused" if refusal else self._finish
        return _reply("".join(self._texts) or refusal, self._model, reason, self._usage)


def _reply(text: str, model: str, reason: FinishReason, usage: UsageSeen) -> ProviderReply:
    return ProviderReply(
        text=whole(text),
        model=model,
        finish_reason=reason,
        usage=usage.final(),
        response_id=usage.observation.response_id,
        request_id=usage.observation.request_id,
    )


def _is_vendor(base_url: str | None) -> bool:
    """Whether the requests go to OpenAI itself."""
    return is_at_vendor("openai", base_url)


def _tier(base_url: str | None) -> JsonObject:
    # Left out, the account's own default applies, which may be one that costs more than was reserved. Compatible
    # servers may not know the word.
    return {"service_tier": "default"} if _is_vendor(base_url) else {}


def _chat_body(call: ProviderCall, base_url: str | None) -> JsonObject:
    # OpenAI's newer models refuse max_tokens; compatible servers know only that. The address tells which is which.
    limit = "max_completion_tokens" if _is_vendor(base_url) else "max_tokens"
    return {
        **_tier(base_url),
        "model": call.model,
        "messages": [{"role": message.role, "content": message.content} for message in call.messages],
        limit: call.max_output_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _responses_body(call: ProviderCall, base_url: str | None) -> JsonObject:
    """Responses takes the system's words apart from the conversation."""
    spoken = [message for message in call.messages if message.role != "system"]
    system = "\n\n".join(message.content for message in call.messages if message.role == "system")
    body = {
        **_tier(base_url),
        "model": call.model,
        "input": [{"role": message.role, "content": message.content} for message in spoken],
        "max_output_tokens": call.max_output_tokens,
        "store": False,  # The vendor would keep a copy of the person's code; nothing here ever reads it back.
        "stream": True,
    }
    return {**body, "instructions": system} if system else body
