"""A provider for rehearsals: no network, no key, no tokens bought, the same answer for the same call.

It owns only how a scripted answer looks from outside (text, finish reason, rehearsal usage); what is answered comes
from a function it is given, and it books nothing. Rehearsals and tests use it in place of a vendor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from autopack_mcp.errors import ProviderUnavailable
from autopack_mcp.providers.base import CallObservation, FinishReason, ProviderCall, ProviderReply
from autopack_mcp.usage.event import ReportedUsage, TokenCounts, UsageLine

BYTES_PER_TOKEN = 4  # A usual figure for English and code; rehearsal numbers are estimates, and every place says so.


class ScriptedProvider:
    """Answers every call with what ``script`` says.

    Args:
        script: the whole answer for a call. It may raise a ProviderError to rehearse a failure.
        pause: awaited once before and once after the answer is "generated", so that a person can watch; a test can hold
            a call in the middle with it. None goes straight through.
        name: whose answers these pretend to be, in errors.
    """

    def __init__(
        self,
        script: Callable[[ProviderCall], str],
        *,
        pause: Callable[[], Awaitable[object]] | None = None,
        name: str = "scripted",
    ) -> None:
        self._script = script
        self._pause = pause
        self._name = name

    async def complete(self, call: ProviderCall, observation: CallObservation) -> ProviderReply:
        """The scripted reply; an answer longer than ``max_output_tokens`` is cut there, as a model's would be.

        Raises:
            ProviderUnavailable: the pauses took longer than the call's deadline.
        """
        try:
            async with asyncio.timeout(call.timeout_s):
                return await self._answer(call, observation)
        except TimeoutError:
            pass
        raise ProviderUnavailable(
            f"{self._name} gave no complete answer of {call.model!r} within {call.timeout_s:g} s.",
            provider=self._name,
            model=call.model,
        )

    async def close(self) -> None:
        """Nothing to give back."""

    async def _answer(self, call: ProviderCall, observation: CallObservation) -> ProviderReply:
        observation.sent = True
        read = sum(tokens_of(message.content) for message in call.messages)
        observation.usage = _usage(call.model, read, 0)
        await self._paused()
        text, finish = _within(self._script(call), call.max_output_tokens)
        observation.usage = _usage(call.model, read, tokens_of(text))
        await self._paused()
        return ProviderReply(text=text, model=call.model, finish_reason=finish, usage=observation.usage)

    async def _paused(self) -> None:
        if self._pause is not None:
            await self._pause()


def tokens_of(text: str) -> int:
    """Rehearsal figure for the tokens of ``text``: its UTF-8 bytes / 4, rounded up. No tokenizer said so."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def _within(text: str, max_output_tokens: int) -> tuple[str, FinishReason]:
    if tokens_of(text) <= max_output_tokens:
        return text, "stop"
    # A character that the cut goes through is dropped whole.
    return text.encode()[: max_output_tokens * BYTES_PER_TOKEN].decode(errors="ignore"), "length"


def _usage(model: str, input_tokens: int, output_tokens: int) -> ReportedUsage:
    counts = TokenCounts(uncached_input=input_tokens, output=output_tokens)
    return ReportedUsage((UsageLine(model, counts),), service_tier="rehearsal")
