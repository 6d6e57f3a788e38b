"""Usage that cannot be believed, through the door and over real HTTP: the call is booked with its reservation."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from autopack_mcp.budgets.check import check_ledger
from autopack_mcp.clock import ManualClock
from autopack_mcp.config.settings import ModelPrice, WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import breaches
from tests.doors import Scene, at, bound_of, open_scene, question
from tests.factories import NOON, model_settings, settings
from tests.providers.upstream import Answer, ChatSpeech, MessagesSpeech, ResponsesSpeech, Upstream, sse

pytestmark = pytest.mark.anyio

BOUND = bound_of(question())
ESTIMATED = ("ok", "estimated", BOUND - 100, 100, BOUND)


def chat(usage: object, **head: object) -> Answer:
    last = {"id": "answer-1", "model": "m", "choices": [], "usage": usage, **head}
    return Answer([*ChatSpeech().begun("An answer."), *ChatSpeech().ended(usage=False)[:1], sse(last)])


def responses(usage: object) -> Answer:
    response = {"id": "answer-1", "object": "response", "status": "completed", "output": [], "usage": usage}
    end = sse({"type": "response.completed", "sequence_number": 9, "response": response}, "response.completed")
    return Answer([*ResponsesSpeech().begun("An answer."), end])


def messages(usage: object, start: object = None) -> Answer:
    first = {"type": "message_start", "message": {"id": "answer-1", "model": "m", "content": [], "usage": start}}
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
    spoken = MessagesSpeech().begun_without_usage("An answer.")[1:]
    return Answer([sse(first, "message_start"), *spoken, sse(delta, "message_delta")])


ANSWERS = {"chat": chat, "responses": responses, "messages": messages}
NAMES = {
    "chat": ("prompt_tokens", "completion_tokens"),
    "responses": ("input_tokens", "output_tokens"),
    "messages": ("input_tokens", "output_tokens"),
}


async def booked(database: Database, clock: ManualClock, api: str, answer: Answer, **overrides: Any) -> Scene:
    """One question, answered so by a server that speaks ``api``; the ledger adds up afterwards."""
    async with Upstream(answer) as upstream:
        accounts = at(upstream.url)
        accounts["openai"] = replace(accounts["openai"], api="responses" if api == "responses" else "chat")
        config = settings(providers=accounts, **overrides.pop("settings", {}))
        async with open_scene(database, clock, config=config, **overrides) as scene:
            said = await scene.ask(role="auditor" if api == "messages" else "builder")
    assert said.text == "An answer."
    assert scene.reservations() == ["settled"]
    assert database.read_now(check_ledger, config, NOON).differences == ()
    return scene


def facts(scene: Scene) -> tuple[object, ...]:
    (row,) = scene.facts("status", "usage_source", "uncached_input", "output", "charged_tokens")
    return row


@pytest.mark.parametrize("api", ANSWERS)
@pytest.mark.parametrize(
    "tokens",
    [None, (), ("11", "7"), (-11, 7), (11, -7), (11.5, 7), (10**13, 7), (True, 7), (11, None), (None, 7), (0, 0),
     ([11], 7), ({}, {})],
    ids=["null", "empty", "texts", "negative input", "negative output", "half a token", "absurd", "true", "no output",
         "no input", "zeros", "a list", "objects"],
)  # fmt: skip
async def test_a_call_whose_usage_cannot_be_read_is_booked_with_its_reservation(
    database: Database, clock: ManualClock, api: str, tokens: tuple[object, ...] | None
) -> None:
    usage = None if tokens is None else dict(zip(NAMES[api], tokens, strict=False))

    scene = await booked(database, clock, api, ANSWERS[api](usage))

    assert facts(scene) == ESTIMATED
    assert scene.facts("error") == [("the provider reported no usage",)]


@pytest.mark.parametrize(
    "api, usage",
    [
        ("chat", {"prompt_tokens": 11, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 12}}),
        ("chat", {"prompt_tokens": 11, "completion_tokens": 7, "completion_tokens_details": {"reasoning_tokens": 8}}),
        ("responses", {"input_tokens": 11, "output_tokens": 7, "input_tokens_details": {"cached_tokens": 12}}),
        ("messages", {"input_tokens": 11, "output_tokens": 7, "cache_creation_input_tokens": 1,
                      "cache_creation": {"ephemeral_1h_input_tokens": 2}}),
    ],
    ids=["more cached than read", "more thought than said", "more cached in a response", "more split than written"],
)  # fmt: skip
async def test_a_part_above_its_whole_makes_the_whole_unknown(
    database: Database, clock: ManualClock, api: str, usage: dict[str, object]
) -> None:
    assert facts(await booked(database, clock, api, ANSWERS[api](usage))) == ESTIMATED


@pytest.mark.parametrize(
    "api, usage",
    [
        ("chat", {"prompt_tokens": 11.0, "completion_tokens": 7, "prompt_tokens_details": None}),
        ("chat", {"prompt_tokens": 11, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": None}}),
        ("responses", {"input_tokens": 11, "output_tokens": 7, "input_tokens_details": {}}),
        ("messages", {"input_tokens": 11, "output_tokens": 7, "cache_creation": {"ephemeral_5m_input_tokens": None}}),
    ],
    ids=["a whole number with a point", "null parts", "no parts", "null split"],
)  # fmt: skip
async def test_what_is_only_left_out_is_nothing(
    database: Database, clock: ManualClock, api: str, usage: dict[str, object]
) -> None:
    assert facts(await booked(database, clock, api, ANSWERS[api](usage))) == ("ok", "provider", 11, 7, 18)


@pytest.mark.parametrize("usage", [None, {}, {"output_tokens": "7"}], ids=["null", "empty", "text"])
async def test_an_answer_that_only_told_its_beginning_shows_that_and_weighs_its_reservation(
    database: Database, clock: ManualClock, usage: object
) -> None:
    start = {"input_tokens": 11, "output_tokens": 1}

    scene = await booked(database, clock, "messages", messages(usage, start))

    assert facts(scene) == ("ok", "partial", 11, 1, BOUND)
    assert scene.facts("error", "response_id") == [("the provider reported only a part of its usage", "answer-1")]


async def test_a_server_that_repeats_usage_in_every_chunk_is_believed_at_the_end(
    database: Database, clock: ManualClock
) -> None:
    chunks = [
        {"id": "answer-1", "model": "m", "usage": {"prompt_tokens": 11, "completion_tokens": tokens},
         "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}
        for tokens, text, reason in ((1, "An ", None), (5, "answer.", None), (7, "", "stop"))
    ]  # fmt: skip

    assert facts(await booked(database, clock, "chat", Answer([sse(chunk) for chunk in chunks]))) == (
        ("ok", "provider", 11, 7, 18)
    )


async def test_compaction_and_advice_are_charged_with_the_models_that_did_them(
    database: Database, clock: ManualClock
) -> None:
    iterations = [
        {"type": "compaction", "input_tokens": 50, "output_tokens": 3},
        {"type": "advisor_message", "model": "gpt-big", "input_tokens": 20, "output_tokens": 2},
        {"type": "message", "model": "claude", "input_tokens": 11, "output_tokens": 7},
    ]
    usage = {"input_tokens": 11, "output_tokens": 7, "iterations": iterations}
    # An iteration without a model is the answering one's.
    answer = messages(usage, {"input_tokens": 11, "output_tokens": 1})
    named = Answer([step.replace(b'"model": "m"', b'"model": "claude"') for step in answer.steps
                    if isinstance(step, bytes)])  # fmt: skip

    scene = await booked(database, clock, "messages", named)

    assert facts(scene) == ("ok", "provider", 81, 12, 93)
    assert scene.facts("cost_nano") == [((50 + 11) * 3_000 + (3 + 7) * 15_000 + 20 * 4_000 + 2 * 16_000,)]


@pytest.mark.parametrize(
    "api, answer",
    [
        ("chat", chat({"prompt_tokens": 11, "completion_tokens": 7, "note": "\ud800\0", "odd": float("nan")},
                      id="a\ud800\0b", service_tier="\udfff")),
        ("messages", messages({"input_tokens": 11, "output_tokens": 7, "service_tier": "\ud800",
                               "server_tool_use": {"\ud800": 1}})),
        ("chat", chat({"prompt_tokens": 11, "completion_tokens": 7, "long": "x" * 1_000_000})),
    ],
    ids=["halves of characters and no number", "in names of tools", "a million characters"],
)  # fmt: skip
async def test_no_text_of_a_provider_keeps_a_call_from_being_booked(
    database: Database, clock: ManualClock, api: str, answer: Answer
) -> None:
    scene = await booked(database, clock, api, answer)

    assert facts(scene) == ("ok", "provider", 11, 7, 18)
    assert len(str(scene.events()[0]["raw_usage"])) < 2_000


async def test_a_dearer_tier_than_was_asked_for_is_booked_as_it_is_and_breaks_the_cap(
    database: Database, clock: ManualClock
) -> None:
    """Nobody asks for priority processing, so its price is in no reservation; a provider may answer with it."""
    usage = {"prompt_tokens": BOUND - 100, "completion_tokens": 100}
    promise = (BOUND - 100) * 1_250 + 100 * 10_000
    capped = replace(settings().providers["openai"], caps=(WindowCap("day", nano_usd=promise),))
    async with Upstream(chat(usage, service_tier="priority", model="gpt-5")) as upstream:
        config = settings(
            providers={**at(upstream.url), "openai": replace(capped, base_url=upstream.url)},
            models={"gpt-big": model_settings("gpt-5"), "gpt-5": model_settings("gpt-5")},
            agent_models={"planner": "gpt-5"},
        )
        async with open_scene(database, clock, config=config, prices={}) as scene:
            await scene.ask(role="agent:planner")

    assert scene.facts("service_tier", "cost_nano", "charged_nano") == [("priority", 2 * promise, 2 * promise)]
    (found,) = database.read_now(lambda connection: connection.execute(select(breaches)).mappings().all())
    assert (found["unit"], found["used"], found["allowance"]) == ("nano_usd", 2 * promise, promise)
    note = database.read_now(check_ledger, config, NOON).notes[0]
    assert "from calls that cost more than was promised for them (breaches on record: 1)" in note


async def test_a_call_computed_in_the_us_costs_what_was_reserved_for_it(database: Database, clock: ManualClock) -> None:
    usage = {"input_tokens": 0, "output_tokens": 100, "inference_geo": "us",
             "cache_creation_input_tokens": BOUND - 100,
             "cache_creation": {"ephemeral_1h_input_tokens": BOUND - 100}}  # fmt: skip
    models = {"claude": model_settings("claude-opus-5", "anthropic"),
              "claude-opus-5": model_settings("claude-opus-5", "anthropic")}  # fmt: skip
    async with Upstream(messages(usage)) as upstream:
        config = settings(providers=at(upstream.url), models=models, agent_models={"planner": "claude-opus-5"})
        async with open_scene(database, clock, config=config, prices={}) as scene:
            await scene.ask(role="agent:planner")

    cost = ((BOUND - 100) * 10_000 + 100 * 25_000) * 11 // 10
    assert scene.facts("usage_source", "cost_nano", "charged_nano") == [("provider", cost, cost)]
    assert str(scene.facts("price_version")[0][0]).endswith("(computed in us)")


async def test_a_price_of_ones_own_wins_over_a_tier(database: Database, clock: ManualClock) -> None:
    answer = chat({"prompt_tokens": 11, "completion_tokens": 7}, service_tier="priority")
    prices = {"gpt-big": ModelPrice(Decimal(1), Decimal(2))}

    scene = await booked(database, clock, "chat", answer, prices=prices)

    assert scene.facts("cost_nano", "service_tier") == [(11 * 1_000 + 7 * 2_000, "priority")]
