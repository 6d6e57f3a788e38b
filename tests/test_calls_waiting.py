"""The door at a full cap: who waits for calls in flight, for how long, and who takes over meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from autopack_mcp.calls import LOOK_AGAIN_S, LOOKS_LIMIT, WAIT_FOR_FLIGHT_S
from autopack_mcp.clock import ManualClock
from autopack_mcp.config.settings import FallbackStrategy, Settings, WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import QuotaExhausted
from autopack_mcp.routing.overrides import add_override
from tests.doors import PRICES, a_map, bound_of, capped, open_scene, question, says, spend
from tests.factories import call_scope, insert_run, model_settings, provider_settings, settings
from tests.ledger_truth import assert_ledger_adds_up
from tests.routing.snapshots import override

pytestmark = pytest.mark.anyio

BOUND = bound_of(question())


# --- calls in flight (contract 16)


async def test_a_caller_waits_for_calls_in_flight_and_then_goes_on(database: Database, clock: ManualClock) -> None:
    async with open_scene(database, clock, says(), config=capped(BOUND)) as scene:
        other = await scene.hold(BOUND)

        async def third_look() -> None:
            if len(scene.waits) == 3:
                await scene.ledger.release(other)

        scene.while_waiting = third_look
        assert (await scene.ask()).text == "An answer."
    assert scene.waits == [LOOK_AGAIN_S] * 3
    assert scene.reservations() == ["released", "settled"]


async def test_a_caller_waits_for_calls_in_flight_only_so_long(database: Database, clock: ManualClock) -> None:
    async with open_scene(database, clock, says(), config=capped(BOUND)) as scene:
        await scene.hold(BOUND)
        with pytest.raises(QuotaExhausted) as caught:
            await scene.ask()
    assert caught.value.denial.in_flight == BOUND
    assert len(scene.waits) == LOOKS_LIMIT - 1
    assert sum(scene.waits) == pytest.approx(WAIT_FOR_FLIGHT_S)


async def test_nobody_waits_when_the_call_would_not_fit_without_those_in_flight(
    database: Database, clock: ManualClock
) -> None:
    spend(database, 1)
    async with open_scene(database, clock, says(), config=capped(BOUND)) as scene:
        await scene.hold(BOUND - 1)
        with pytest.raises(QuotaExhausted):
            await scene.ask()
    assert scene.waits == []


async def test_calls_of_a_lost_process_are_charged_and_not_waited_for(database: Database, clock: ManualClock) -> None:
    async with open_scene(database, clock, says(), config=capped(BOUND)) as scene:
        await scene.hold(BOUND, lease_s=60.0)
        clock.advance(61)
        with pytest.raises(QuotaExhausted):
            await scene.ask()
    assert len(scene.waits) == 1
    assert scene.facts("status", "charged_tokens") == [("expired", BOUND)]


async def test_after_waiting_the_choice_is_made_anew(database: Database, clock: ManualClock) -> None:
    async with open_scene(database, clock, says(), config=capped(BOUND)) as scene:
        await scene.hold(BOUND)

        async def raise_the_cap() -> None:
            scene.config = capped(3 * BOUND)

        scene.while_waiting = raise_the_cap
        await scene.ask()
    assert len(scene.waits) == 1


async def test_however_many_ask_at_once_the_cap_holds_and_nothing_is_lost(
    database: Database, clock: ManualClock
) -> None:
    callers, fitting = 24, 5
    async with open_scene(database, clock, says("x" * 400), config=capped(fitting * BOUND)) as scene:
        outcomes = await asyncio.gather(*(scene.ask() for _ in range(callers)), return_exceptions=True)
    answered = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert all(isinstance(outcome, QuotaExhausted) for outcome in outcomes if isinstance(outcome, BaseException))
    assert len(answered) >= fitting
    assert len(scene.events()) == len(answered)
    assert sum(row["charged_tokens"] for row in scene.events()) <= fitting * BOUND
    database.read_now(assert_ledger_adds_up)


# --- fallbacks


def chained(*chain: str) -> Settings:
    """Openai over its soft limit of 8,000 tokens, these candidates, and glm with room for less than one call."""
    glm = provider_settings(WindowCap("week", tokens=BOUND - 1), provider="glm", api_key_env=None)
    base = settings(provider_settings(WindowCap("week", tokens=10_000)), glm)
    models = (*base.models.values(), model_settings("glm-cheap", "glm"))
    return replace(
        base, models={model.name: model for model in models}, fallback_strategy=FallbackStrategy(default=chain)
    )


WITH_GLM = {**PRICES, "glm-cheap": PRICES["gpt-small"]}


async def test_a_fallback_that_its_own_cap_denies_gives_way_to_the_next(database: Database, clock: ManualClock) -> None:
    spend(database, 9_000)
    config = chained("glm-cheap", "claude")
    async with open_scene(database, clock, says(), config=config, prices=WITH_GLM) as scene:
        answer = await scene.ask()
    assert (answer.decision.model, answer.decision.replaces) == ("claude", "gpt-big")
    assert "not glm-cheap: its own cap denied the call" in answer.decision.reasons
    assert (scene.reservations(), scene.waits) == (["settled"], [])


async def test_when_every_fallback_is_denied_the_wanted_model_answers(database: Database, clock: ManualClock) -> None:
    spend(database, 9_000)
    config = chained("glm-cheap")
    async with open_scene(database, clock, says(), config=config, prices=WITH_GLM) as scene:
        answer = await scene.ask()
    assert (answer.decision.model, answer.decision.rule) == ("gpt-big", "complexity")


async def test_when_everything_is_denied_the_numbers_are_those_of_the_wanted_model(
    database: Database, clock: ManualClock
) -> None:
    spend(database, 10_000)
    config = chained("glm-cheap")
    async with open_scene(database, clock, says(), config=config, prices=WITH_GLM) as scene:
        with pytest.raises(QuotaExhausted, match="Openai's cap of the week") as caught:
            await scene.ask()
    assert (caught.value.denial.used, caught.value.denial.allowance) == (10_000, 10_000)


async def test_a_caller_waits_for_a_fallback_too(database: Database, clock: ManualClock) -> None:
    spend(database, 10_000)
    glm = provider_settings(WindowCap("week", tokens=2 * BOUND), provider="glm", api_key_env=None)
    base = chained("glm-cheap")
    config = replace(base, providers={**base.providers, "glm": glm})
    async with open_scene(database, clock, says(), config=config, prices=WITH_GLM) as scene:
        other = await scene.hold(BOUND + 1, scope=call_scope(provider="glm"))

        async def free() -> None:
            await scene.ledger.release(other)

        scene.while_waiting = free
        assert (await scene.ask()).decision.model == "glm-cheap"
    assert len(scene.waits) == 1


async def test_an_override_written_between_two_questions_holds_for_the_second(
    database: Database, clock: ManualClock
) -> None:
    database.write_now(insert_run, model_map=a_map())
    async with open_scene(database, clock, says()) as scene:
        before = await scene.ask(run_id="R1", category="ui", complexity="low")
        database.write_now(add_override, override("claude", "ui*:low", "builder", run_id="R1"), "test")
        after = await scene.ask(run_id="R1", category="ui", complexity="low")
        elsewhere = await scene.ask(run_id="label", category="ui", complexity="low")
    assert [answer.decision.model for answer in (before, after, elsewhere)] == ["gpt-small", "claude", "gpt-small"]
