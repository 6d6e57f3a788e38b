"""Anthropic's Messages, and every server that speaks them, through the anthropic SDK.

It owns what is sent and what the stream means; it does not retry, and it never lets the SDK look for a key or an
address itself: only what models.yaml names is used. ``registry`` opens it for ``llm_service``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from autopack_mcp.clock import Clock, SystemClock
from autopack_mcp.config.settings import ProviderSettings
from autopack_mcp.providers.base import (
    CallObservation,
    FinishReason,
    InputCount,
    ProviderCall,
    ProviderReply,
    is_at_vendor,
)
from autopack_mcp.providers.counts import count_in_time, with_margin
from autopack_mcp.providers.events import name_in, object_in, text_in
from autopack_mcp.providers.failures import Asked, answered, cut, request_id, sdk_timeout
from autopack_mcp.providers.usage_seen import UsageSeen
from autopack_mcp.text_safety import whole
from autopack_mcp.usage.reading import JsonObject

if TYPE_CHECKING:
    import httpx2
    from anthropic import AsyncAnthropic
    from anthropic._types import RequestOptions

_VENDOR_URL = "https://api.anthropic.com"

_COUNTED_PARTS = ("model", "messages", "system")  # Of a request, those that its count takes.

# Sent where models.yaml names no key variable; without one the SDK would look for the person's real key, in the
# environment and in its own files, and send it there.
_NO_KEY = "no-key"

_FINISH: Mapping[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refused",
}


class AnthropicProvider:
    """One account, reached with the anthropic SDK.

    Args:
        settings: of the provider. ``base_url`` None means Anthropic itself, whatever ANTHROPIC_BASE_URL says.
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
        self._client: AsyncAnthropic | None = None
        self._opening = asyncio.Lock()

    async def complete(self, call: ProviderCall, observation: CallObservation) -> ProviderReply:
        """Send ``call`` once and stream the reply together; see ``Provider.complete``."""
        asked = Asked(self._settings, call, self._api_key)
        return await answered(asked, observation, self._clock, lambda: self._ask(asked, observation))

    async def count_input_tokens(self, call: ProviderCall) -> InputCount | None:
        """By Anthropic's own count, which is free, and a margin; see ``InputCounter``.

        Only at Anthropic's own address: other servers answer the same question with somebody else's tokenizer.
        """
        if not is_at_vendor("anthropic", self._settings.base_url):
            return None
        tokens = await count_in_time(Asked(self._settings, call, self._api_key), self._clock, self._count)
        return None if tokens is None else InputCount(with_margin(tokens), "Anthropic's own count")

    async def close(self) -> None:
        """Give back connections."""
        if self._client is not None:
            await self._client.close()

    async def _count(self, asked: Asked) -> object:
        client = await self._open()
        body = {name: value for name, value in _body(asked.call).items() if name in _COUNTED_PARTS}
        options: RequestOptions = {"timeout": sdk_timeout(asked.call)}
        return await client.post("/v1/messages/count_tokens", cast_to=object, body=body, options=options)

    async def _ask(self, asked: Asked, observation: CallObservation) -> ProviderReply:
        """Send the call and put its events together, as plain JSON for the reasons that the openai adapter has."""
        client = await self._open()
        from anthropic import AsyncStream  # Lazy: 596 ms, and only the process that calls models needs it.

        observation.sent = True
        stream = await client.post(
            "/v1/messages",
            cast_to=object,
            body=_body(asked.call),
            options={"timeout": sdk_timeout(asked.call)},
            stream=True,
            stream_cls=AsyncStream[object],
        )
        answer = MessagesStream(asked, observation)
        async with stream:
            observation.request_id = request_id(stream.response.headers)
            async for event in stream:
                if isinstance(event, Mapping):
                    answer.feed(event)
        return answer.reply()

    async def _open(self) -> AsyncAnthropic:
        async with self._opening:
            if self._client is None:
                # In a thread: importing the SDK must not hold up the heartbeats of this process.
                self._client = await asyncio.to_thread(self._new_client)
            return self._client

    def _new_client(self) -> AsyncAnthropic:
        from anthropic import AsyncAnthropic  # Lazy, as above.

        return AsyncAnthropic(
            api_key=self._api_key or _NO_KEY,
            base_url=self._settings.base_url or _VENDOR_URL,
            max_retries=0,  # Each try is a reservation and a row of its own, so the loop is ours (pacing).
            http_client=self._http_client,
        )


class MessagesStream:
    """Puts the events of a Messages stream together and keeps the observation current."""

    def __init__(self, asked: Asked, observation: CallObservation) -> None:
        self._asked = asked
        self._observation = observation
        self._model = asked.call.model
        self._usage = UsageSeen("anthropic.messages", observation)
        self._numbers: dict[str, object] = {}
        self._texts: list[str] = []
        self._stop_reason: str | None = None

    def feed(self, event: JsonObject) -> None:
        """Take one event; of the text only what is said counts, not what is thought."""
        kind = event.get("type")
        if kind == "content_block_delta":
            self._texts.append(text_in(object_in(event, "delta"), "text"))
        elif kind == "content_block_start":
            self._texts.append(text_in(object_in(event, "content_block"), "text"))
        elif kind == "message_start":
            message = object_in(event, "message")
            self._observation.response_id = name_in(message, "id") or None
            self._model = name_in(message, "model") or self._model
            self._take_usage(object_in(message, "usage"), is_end=False)
        elif kind == "message_delta":
            self._stop_reason = text_in(object_in(event, "delta"), "stop_reason") or self._stop_reason
            self._take_usage(object_in(event, "usage"), is_end=True)

    def _take_usage(self, usage: JsonObject, *, is_end: bool) -> None:
        """Its numbers are cumulative: what comes later is written over what came before, never added to it.

        A zero is not: what was counted cannot become nothing, and servers that know only the output send one for the
        input. Only an end that tells the output is the last word.
        """
        for name, value in usage.items():
            if value is not None and not (value == 0 and self._numbers.get(name)):
                self._numbers[name] = value
        if usage:
            tells_output = usage.get("output_tokens") is not None or bool(usage.get("iterations"))
            body = {"model": self._model, "usage": self._numbers}
            self._usage.take(body, is_last_word=is_end and tells_output)

    def reply(self) -> ProviderReply:
        """The whole answer.

        Raises:
            ProviderUnavailable: the stream ended without a stop reason, so the text is a torso.
        """
        if self._stop_reason is None:
            raise cut(self._asked)
        return ProviderReply(
            text=whole("".join(self._texts)),
            model=self._model,
            finish_reason=_FINISH.get(self._stop_reason, "other"),
            usage=self._usage.final(),
            response_id=self._observation.response_id,
            request_id=self._observation.request_id,
        )


def _body(call: ProviderCall) -> JsonObject:
    """Messages takes the system's words apart from the conversation, and no temperature: newer models refuse one."""
    spoken = [message for message in call.messages if message.role != "system"]
    system = "\n\n".join(message.content for message in call.messages if message.role == "system")
    body = {
        "model": call.model,
        "messages": [{"role": message.role, "content": message.content} for message in spoken],
        "max_tokens": call.max_output_tokens,
        "stream": True,
    }
    return {**body, "system": system} if system else body
