"""The last word of a stream on its usage: what came before the end, or before nonsense, is only a lower bound."""

from __future__ import annotations

from typing import Any

import pytest

from autopack_mcp.config.settings import ProviderSettings
from autopack_mcp.providers.anthropic import MessagesStream
from autopack_mcp.providers.base import CallObservation, ChatMessage, ProviderCall
from autopack_mcp.providers.failures import Asked
from autopack_mcp.providers.openai import ChatStream, ResponsesStream
from autopack_mcp.usage.event import TokenCounts

CALL = ProviderCall("model-asked", (ChatMessage("user", "?"),), 100, 60.0)
GOOD = {"prompt_tokens": 9, "completion_tokens": 5}
BROKEN = {"prompt_tokens": "9", "completion_tokens": 7}
ZEROS = {"prompt_tokens": 0, "completion_tokens": 0}
PIECE: dict[str, Any] = {"choices": [{"delta": {"content": "piece"}}]}
THOUGHT: dict[str, Any] = {"choices": [{"delta": {"reasoning_content": "hm"}}]}
END: dict[str, Any] = {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": "stop"}]}


def told(usage: Any) -> dict[str, Any]:
    return {"choices": [], "usage": usage}


@pytest.mark.parametrize(
    "chunks, is_final, seen",
    [
        ([PIECE, END, told(GOOD)], True, 5),
        ([PIECE, {**END, "usage": GOOD}], True, 5),
        ([{**PIECE, "usage": {**GOOD, "completion_tokens": 1}}, {**PIECE, "usage": GOOD}, END], True, 5),
        ([PIECE, END, told(GOOD), told(ZEROS), told({}), told(None)], True, 5),
        ([told(GOOD), PIECE, END], False, 5),
        ([told(GOOD), THOUGHT, END], False, 5),
        ([PIECE, END, told(GOOD), told(BROKEN)], False, 5),
        ([PIECE, END, told(BROKEN)], False, None),
        ([PIECE, END, told(BROKEN), told(GOOD)], True, 5),
        ([PIECE, END], False, None),
    ],
    ids=[
        "after the end", "with the end", "with every piece", "then nothing", "before a piece", "before a thought",
        "then nonsense", "nonsense alone", "after nonsense", "never",
    ],
)  # fmt: skip
def test_last_word_of_a_chat_is_what_came_after_its_answer(
    chunks: list[dict[str, Any]], is_final: bool, seen: int | None
) -> None:
    observation = CallObservation()
    stream = ChatStream(Asked(ProviderSettings("acme", "openai", "chat"), CALL), observation)
    for chunk in chunks:
        stream.feed(chunk)

    assert (stream.reply().usage is not None) is is_final
    assert (observation.usage.counts.output if observation.usage else None) == seen


@pytest.mark.parametrize(
    "kind, is_final", [("response.completed", True), ("response.incomplete", True), ("response.in_progress", False)]
)
def test_last_word_of_a_response_is_that_of_its_end(kind: str, is_final: bool) -> None:
    observation = CallObservation()
    stream = ResponsesStream(Asked(ProviderSettings("acme", "openai", "responses"), CALL), observation)
    stream.feed({"type": kind, "response": {"usage": {"input_tokens": 9, "output_tokens": 5}}})
    stream.feed({"type": "response.completed", "response": {"id": "r"}})

    assert (stream.reply().usage is not None) is is_final
    assert observation.usage is not None


def test_nonsense_at_the_end_of_a_response_takes_the_last_word() -> None:
    observation = CallObservation()
    stream = ResponsesStream(Asked(ProviderSettings("acme", "openai", "responses"), CALL), observation)
    stream.feed({"type": "response.completed", "response": {"usage": {"input_tokens": "9", "output_tokens": 5}}})

    assert stream.reply().usage is observation.usage is None


START = {"input_tokens": 50, "output_tokens": 1}


@pytest.mark.parametrize(
    "deltas, is_final, counts",
    [
        ([{"output_tokens": 20}], True, (50, 20)),
        ([{"output_tokens": 3}, {"output_tokens": 20}], True, (50, 20)),
        ([{"output_tokens": 20}, {"output_tokens": "many"}], False, (50, 20)),
        ([{"output_tokens": "many"}, {"output_tokens": 20}], True, (50, 20)),
        ([{"output_tokens": 20, "input_tokens": 0}], True, (50, 20)),
        ([{"output_tokens": 20, "input_tokens": 55}], True, (55, 20)),
        ([{"iterations": [{"input_tokens": 7, "output_tokens": 2}]}], True, (7, 2)),
        ([{"server_tool_use": {"web_search_requests": 1}}], False, (50, 1)),
        ([{"output_tokens": None}], False, (50, 1)),
        ([{"output_tokens": 0}], True, (50, 1)),
        ([{}], False, (50, 1)),
        ([None], False, (50, 1)),
    ],
    ids=[
        "its output", "growing", "then nonsense", "after nonsense", "an input of zero", "a larger input", "iterations",
        "searches alone", "null", "an output of zero", "empty", "none",
    ],
)  # fmt: skip
def test_last_word_of_a_message_tells_its_output(
    deltas: list[dict[str, Any] | None], is_final: bool, counts: tuple[int, int]
) -> None:
    observation = CallObservation()
    stream = MessagesStream(Asked(ProviderSettings("acme", "anthropic", "messages"), CALL), observation)
    stream.feed({"type": "message_start", "message": {"usage": START}})
    for usage in deltas:
        stream.feed({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage})

    assert (stream.reply().usage is not None) is is_final
    assert observation.usage is not None
    assert observation.usage.counts == TokenCounts(uncached_input=counts[0], output=counts[1])


def test_a_message_that_is_cut_after_its_start_knows_its_input_and_no_more() -> None:
    observation = CallObservation()
    stream = MessagesStream(Asked(ProviderSettings("acme", "anthropic", "messages"), CALL), observation)
    stream.feed({"type": "message_start", "message": {"usage": {**START, "cache_read_input_tokens": 4}}})

    assert observation.usage is not None
    assert observation.usage.counts == TokenCounts(uncached_input=50, cache_read=4, output=1)


def test_names_and_texts_of_an_answer_are_whole_and_bounded() -> None:
    observation = CallObservation()
    stream = ChatStream(Asked(ProviderSettings("acme", "openai", "chat"), CALL), observation)
    stream.feed({"id": "a\ud800", "model": "m" * 10_000, **PIECE})
    for half in ("\ud83d", "\ude00"):
        stream.feed({"choices": [{"delta": {"content": half}, "finish_reason": "stop"}]})
    reply = stream.reply()

    assert (reply.text, reply.response_id) == ("piece😀", "a\ufffd")
    assert len(reply.model) == 512
