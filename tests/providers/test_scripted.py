"""How a rehearsal's answers look from outside."""

from __future__ import annotations

import pytest

from autopack_mcp.errors import ProviderUnavailable
from autopack_mcp.providers.base import CallObservation, ChatMessage, ProviderCall
from autopack_mcp.providers.scripted import ScriptedProvider, tokens_of
from autopack_mcp.usage.event import TokenCounts

pytestmark = pytest.mark.anyio


def a_call(*contents: str, max_output_tokens: int = 100) -> ProviderCall:
    messages = tuple(ChatMessage("user", content) for content in contents)
    return ProviderCall("model-asked", messages, max_output_tokens, timeout_s=5)


@pytest.mark.parametrize(
    "text, tokens", [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("ü", 1), ("üüü", 2), ("日本", 2)]
)
def test_rehearsal_tokens_are_utf8_bytes_by_four_rounded_up(text: str, tokens: int) -> None:
    assert tokens_of(text) == tokens


async def test_usage_is_counted_per_message_and_marked_as_rehearsal() -> None:
    reply = await ScriptedProvider(lambda _: "12345").complete(a_call("1234", "12345"), CallObservation())

    assert reply.usage is not None
    assert reply.usage.counts == TokenCounts(uncached_input=3, output=2)
    assert reply.usage.service_tier == "rehearsal"


@pytest.mark.parametrize(
    "limit, text, finish",
    [(3, "ünïcode!", "stop"), (2, "ünïcod", "length"), (1, "ün", "length")],
)
async def test_answer_is_cut_at_its_bound_as_a_models_would_be(limit: int, text: str, finish: str) -> None:
    provider = ScriptedProvider(lambda _: "ünïcode!")
    reply = await provider.complete(a_call("?", max_output_tokens=limit), CallObservation())

    assert (reply.text, reply.finish_reason) == (text, finish)
    assert reply.usage is not None
    assert reply.usage.counts.output <= limit


async def test_same_call_has_the_same_answer() -> None:
    provider = ScriptedProvider(lambda call: call.messages[0].content[::-1])
    first, second = [await provider.complete(a_call("abc"), CallObservation()) for _ in range(2)]

    assert first == second


async def test_watcher_may_pause_before_and_after_the_answer() -> None:
    outputs: list[int] = []
    observation = CallObservation()

    async def pause() -> None:
        assert observation.usage is not None
        outputs.append(observation.usage.counts.output)

    await ScriptedProvider(lambda _: "1234", pause=pause).complete(a_call("?"), observation)

    assert outputs == [0, 1]


async def test_script_may_rehearse_a_failure() -> None:
    def script(_: ProviderCall) -> str:
        raise ProviderUnavailable("the rehearsed outage", provider="scripted")

    with pytest.raises(ProviderUnavailable, match="rehearsed outage"):
        await ScriptedProvider(script).complete(a_call("?"), CallObservation())
