"""The door near a cap: a prompt that its bytes would keep out is counted first, by whoever can, and once."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from autopack_mcp.budgets.standing_orders import StandingOrder, add_order, firings_of_run
from autopack_mcp.clock import ManualClock
from autopack_mcp.config.settings import FallbackStrategy, ModelPrice, Settings, WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import NoRoute, ProviderUnavailable, QuotaExhausted, RequestRefused, StandingOrderFired
from autopack_mcp.providers.base import ChatMessage, InputCount, ProviderCall
from autopack_mcp.providers.scripted import ScriptedProvider
from tests.doors import PRICES, a_map, bound_of, capped, open_scene, question, says, spend
from tests.factories import NOON, insert_run, provider_settings, settings
from tests.ledger_truth import assert_ledger_adds_up

pytestmark = pytest.mark.anyio

LONG = (ChatMessage("user", "word " * 1_000),)
BY_BYTES = bound_of(question(messages=LONG))  # 5,000 for the prompt, 80 for its format, 100 for the answer.
COUNT = 1_080


class Counting(ScriptedProvider):
    """Answers, and says of every prompt that it weighs so much; None when it cannot say."""

    def __init__(self, tokens: int | None = COUNT) -> None:
        super().__init__(lambda call: "An answer.")
        self.tokens = tokens
        self.counted: list[ProviderCall] = []

    async def count_input_tokens(self, call: ProviderCall) -> InputCount | None:
        """What a test says."""
        self.counted.append(call)
        return None if self.tokens is None else InputCount(self.tokens, "the test's own count")


def dollars(nano: int) -> Settings:
    """The usual accounts, openai's with so many nano-dollars a week."""
    return settings(provider_settings(WindowCap("week", nano_usd=nano)))


# --- when


async def test_far_from_a_cap_nothing_is_counted(database: Database, clock: ManualClock) -> None:
    provider = Counting()
    async with open_scene(database, clock, provider, config=capped(BY_BYTES)) as scene:
        await scene.ask(messages=LONG)
    assert provider.counted == []


@pytest.mark.parametrize("room, fits", [(COUNT + 100 - 1, False), (COUNT + 100, True), (BY_BYTES - 1, True)])
async def test_a_prompt_that_its_bytes_keep_out_is_let_in_by_its_count(
    database: Database, clock: ManualClock, room: int, fits: bool
) -> None:
    provider = Counting()
    spend(database, 1_000)
    async with open_scene(database, clock, provider, config=capped(1_000 + room)) as scene:
        if fits:
            await scene.ask(messages=LONG)
            assert scene.reservations() == ["settled"]
        else:
            with pytest.raises(QuotaExhausted) as caught:
                await scene.ask(messages=LONG)
            assert caught.value.denial.wanted == COUNT + 100
            assert (
                "100 tokens are for the longest answer and 1,080 tokens for the prompt, by the test's own count"
                in str(caught.value)
            )
            assert scene.reservations() == []
    assert [(call.model, call.messages) for call in provider.counted] == [("gpt-big", LONG)]


async def test_what_is_reserved_is_the_count(database: Database, clock: ManualClock) -> None:
    """Seen at a call without a usage report, which is charged its whole reservation."""

    class Silent(Counting):
        async def complete(self, call: ProviderCall, observation: Any) -> Any:
            observation.sent = True
            raise ProviderUnavailable("down", provider="openai")

    async with open_scene(database, clock, Silent(), config=capped(BY_BYTES - 1), tries=1) as scene:
        with pytest.raises(ProviderUnavailable):
            await scene.ask(messages=LONG)
    assert scene.facts("uncached_input", "output", "charged_tokens") == [(COUNT, 100, COUNT + 100)]


@pytest.mark.parametrize("missing", [0, 1])
async def test_a_count_helps_under_a_cap_in_dollars_as_well(
    database: Database, clock: ManualClock, missing: int
) -> None:
    provider = Counting()
    config = dollars(COUNT * 4_000 + 100 * 16_000 - missing)
    async with open_scene(database, clock, provider, config=config) as scene:
        if not missing:
            await scene.ask(messages=LONG)
            return
        with pytest.raises(QuotaExhausted, match=r"\$0.0016 are for the longest answer and \$0.0043 for the prompt"):
            await scene.ask(messages=LONG)
    assert len(provider.counted) == 1


async def test_a_count_that_is_no_tighter_than_the_bytes_changes_nothing(
    database: Database, clock: ManualClock
) -> None:
    async with open_scene(database, clock, Counting(10**6), config=capped(BY_BYTES - 1)) as scene:
        with pytest.raises(QuotaExhausted) as caught:
            await scene.ask(messages=LONG)
    assert caught.value.denial.wanted == BY_BYTES


async def test_nobody_to_count_leaves_the_bytes(database: Database, clock: ManualClock) -> None:
    for provider in (Counting(None), says()):
        async with open_scene(database, clock, provider, config=capped(BY_BYTES - 1)) as scene:
            with pytest.raises(QuotaExhausted, match="by its bytes") as caught:
                await scene.ask(messages=LONG)
        assert caught.value.denial.wanted == BY_BYTES


async def test_an_answer_that_does_not_fit_alone_is_not_counted_for(database: Database, clock: ManualClock) -> None:
    provider = Counting()
    async with open_scene(database, clock, provider, config=capped(99)) as scene:
        with pytest.raises(QuotaExhausted, match=r"The answer alone does not fit: ask for a shorter one"):
            await scene.ask(messages=LONG)
    assert provider.counted == []


async def test_an_unknown_price_is_not_counted_for(database: Database, clock: ManualClock) -> None:
    provider = Counting()
    async with open_scene(database, clock, provider, config=dollars(10**12), prices={}) as scene:
        with pytest.raises(QuotaExhausted, match="price of 'gpt-big' is unknown"):
            await scene.ask(messages=LONG)
    assert provider.counted == []


async def test_a_rehearsal_is_never_counted(database: Database, clock: ManualClock) -> None:
    """It has no key and asks no vendor; its bytes are the more careful bound."""
    database.write_now(insert_run, is_rehearsal=True, model_map=a_map(), token_cap=BY_BYTES - 1)
    provider = Counting()
    async with open_scene(database, clock, provider) as scene:
        with pytest.raises(QuotaExhausted):
            await scene.ask(messages=LONG, run_id="R1", rehearsed_reply="Rehearsed.")
    assert provider.counted == []


# --- how often


async def test_a_prompt_is_counted_once_however_long_its_caller_waits(database: Database, clock: ManualClock) -> None:
    provider = Counting()
    async with open_scene(database, clock, provider, config=capped(2_000)) as scene:
        other = await scene.hold(2_000)

        async def fifth_look() -> None:
            if len(scene.waits) == 5:
                await scene.ledger.release(other)

        scene.while_waiting = fifth_look
        await scene.ask(messages=LONG)
    assert (len(scene.waits), len(provider.counted)) == (5, 1)


async def test_a_caller_whose_bytes_would_never_fit_waits_for_calls_in_flight_when_its_count_would(
    database: Database, clock: ManualClock
) -> None:
    provider = Counting()
    async with open_scene(database, clock, provider, config=capped(COUNT + 100)) as scene:
        other = await scene.hold(1)
        scene.while_waiting = lambda: scene.ledger.release(other)
        await scene.ask(messages=LONG)
    assert len(scene.waits) == 1


async def test_a_retry_reserves_what_was_counted_before(database: Database, clock: ManualClock) -> None:
    class Busy(Counting):
        async def complete(self, call: ProviderCall, observation: Any) -> Any:
            if self.tokens == COUNT:
                self.tokens = 0
                raise ProviderUnavailable("down", provider="openai", billed="no")
            return await super().complete(call, observation)

    provider = Busy()
    async with open_scene(database, clock, provider, config=capped(BY_BYTES - 1)) as scene:
        await scene.ask(messages=LONG)
    assert len(provider.counted) == 1


async def test_a_fallback_is_counted_for_its_own_account(database: Database, clock: ManualClock) -> None:
    provider = Counting()
    caps = WindowCap("week", tokens=BY_BYTES - 1)
    accounts = [provider_settings(caps), provider_settings(caps, provider="anthropic", api_key_env="ANTHROPIC_API_KEY")]
    config = settings(*accounts, fallback_strategy=FallbackStrategy(default=("gpt-small", "claude")))
    spend(database, BY_BYTES - 1)  # Of openai's, all.
    async with open_scene(database, clock, provider, config=config) as scene:
        answer = await scene.ask(messages=LONG)
    assert (answer.decision.model, answer.decision.rule) == ("claude", "fallback")
    assert [call.model for call in provider.counted] == ["claude"]


# --- and meanwhile


async def test_a_standing_order_does_not_fire_for_bytes_that_a_count_puts_right(
    database: Database, clock: ManualClock
) -> None:
    database.write_now(insert_run, model_map=a_map())
    order = StandingOrder(0, "pause", "run", "tokens", BY_BYTES - 1, "R1", "ada", "test", NOON)
    database.write_now(add_order, order)
    provider = Counting()
    async with open_scene(database, clock, provider) as scene:
        await scene.ask(messages=LONG, run_id="R1")
        assert database.read_now(firings_of_run, "R1", 10) == ()
        provider.tokens = BY_BYTES
        with pytest.raises(StandingOrderFired, match="for the prompt"):
            await scene.ask(messages=LONG, run_id="R1")
    assert len(database.read_now(firings_of_run, "R1", 10)) == 1


async def test_a_standing_order_that_no_count_could_put_right_fires_at_once(
    database: Database, clock: ManualClock
) -> None:
    database.write_now(insert_run, model_map=a_map())
    database.write_now(add_order, StandingOrder(0, "pause", "run", "tokens", 50, "R1", "ada", "test", NOON))
    provider = Counting()
    async with open_scene(database, clock, provider) as scene:
        with pytest.raises(StandingOrderFired):
            await scene.ask(messages=LONG, run_id="R1")
    assert len(database.read_now(firings_of_run, "R1", 10)) == 1
    assert provider.counted == []


async def test_a_caller_cancelled_while_its_prompt_is_counted_leaves_nothing(
    database: Database, clock: ManualClock
) -> None:
    begun = asyncio.Event()

    class Slow(Counting):
        async def count_input_tokens(self, call: ProviderCall) -> InputCount | None:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError("it is never said")

    async with open_scene(database, clock, Slow(), config=capped(BY_BYTES - 1)) as scene:
        task = asyncio.create_task(scene.ask(messages=LONG))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (scene.reservations(), scene.events()) == ([], [])
    database.read_now(assert_ledger_adds_up)


# --- what no count would bound


async def test_a_model_that_does_more_than_write_is_refused_before_anything_is_reserved(
    database: Database, clock: ManualClock
) -> None:
    provider = Counting()
    context = {"model_overrides": {"builder": {"*": "gpt-4o-search-preview"}}}
    async with open_scene(database, clock, provider) as scene:
        with pytest.raises(NoRoute, match="searches the web by itself"):
            await scene.ask(run_context=context)
    assert (scene.reservations(), scene.events()) == ([], [])


async def test_half_a_character_is_refused_before_anything_is_reserved(database: Database, clock: ManualClock) -> None:
    async with open_scene(database, clock, says()) as scene:
        with pytest.raises(RequestRefused, match="half a character"):
            await scene.ask(messages=(ChatMessage("user", "\ud83d"),))
    assert (scene.reservations(), scene.events()) == ([], [])


def test_prices_of_the_scene_are_those_this_file_reckons_with() -> None:
    assert PRICES["gpt-big"] == ModelPrice(Decimal(4), Decimal(16))
