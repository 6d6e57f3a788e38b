"""The door to paid tokens: one row per try, whatever becomes of it, and nothing sent that was not reserved."""

from __future__ import annotations

import socket
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from autopack_mcp.budgets.ledger import RunFence
from autopack_mcp.clock import ManualClock
from autopack_mcp.config.settings import FallbackStrategy, QuotaRouting, WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import (
    Denial,
    LeaseLost,
    MissingKey,
    NoRoute,
    ProviderRefused,
    ProviderUnavailable,
    QuotaExhausted,
)
from autopack_mcp.providers.base import ProviderCall
from autopack_mcp.providers.scripted import ScriptedProvider
from tests.doors import (
    KEYS,
    PRICES,
    PROMPT,
    Held,
    a_map,
    at,
    bound_of,
    capped,
    open_scene,
    question,
    says,
    spend,
    upstream_scene,
)
from tests.factories import NOON, call_scope, insert_run, provider_settings, settings
from tests.ledger_truth import assert_ledger_adds_up, everything
from tests.providers.upstream import Answer, ChatSpeech, MessagesSpeech, error

pytestmark = pytest.mark.anyio

CHAT, MESSAGES = ChatSpeech(), MessagesSpeech()
WELL = Answer([*CHAT.begun("An answer."), *CHAT.ended()])  # 11 tokens in, of them 4 cached; 7 out.
BUSY = error(429, {"error": {"message": "Slow down.", "type": "rate_limit_error"}}, retry_after="2")
BROKEN = error(500, {"error": {"message": "Oops.", "type": "server_error"}})
BOUND = bound_of(question())


# --- what is booked


async def test_a_call_that_goes_well_is_one_row_with_what_the_provider_said(
    database: Database, clock: ManualClock
) -> None:
    async with upstream_scene(database, clock, replace(WELL, headers={"x-request-id": "request-1"})) as (scene, _):
        answer = await scene.ask(run_id="label", phase_id="P7", attempt=2, category="ui")
    (row,) = scene.events()
    assert (answer.text, answer.finish_reason, answer.decision.model) == ("An answer.", "stop", "gpt-big")
    assert (answer.prompt_tokens, answer.completion_tokens, answer.cost_nano) == (11, 7, row["cost_nano"])
    assert row["cost_nano"] == 11 * 4_000 + 7 * 16_000
    assert scene.facts("status", "usage_source", "uncached_input", "cache_read", "output", "reasoning") == [
        ("ok", "provider", 7, 4, 7, 2)
    ]
    assert scene.facts("provider", "model", "role", "purpose", "run_id", "phase_id", "attempt", "category") == [
        ("openai", "gpt-big", "builder", "run", "label", "P7", 2, "ui")
    ]
    assert scene.facts("response_id", "request_id", "service_tier", "error", "occurred_at") == [
        ("answer-1", "request-1", "default", None, NOON)
    ]
    assert row["charged_tokens"] == 18
    assert row["price_version"].startswith("models.yaml:")
    assert scene.reservations() == ["settled"]


async def test_429_and_then_an_answer_are_two_rows_and_the_first_weighs_nothing(
    database: Database, clock: ManualClock
) -> None:
    async with upstream_scene(database, clock, BUSY, WELL) as (scene, upstream):
        answer = await scene.ask()
    assert scene.facts("status", "charged_tokens", "cost_nano") == [("failed", 0, 0), ("ok", 18, 156_000)]
    assert "429" in str(scene.events()[0]["error"])
    assert len(upstream.requests) == 2
    assert [wait >= 2 for wait in scene.waits] == [True]
    assert (answer.prompt_tokens, answer.cost_nano, len(answer.booked)) == (11, 156_000, 2)


async def test_500_is_charged_as_estimated_because_it_may_have_been_billed(
    database: Database, clock: ManualClock
) -> None:
    async with upstream_scene(database, clock, BROKEN, WELL) as (scene, _):
        answer = await scene.ask()
    bound_nano = (BOUND - 100) * 4_000 + 100 * 16_000
    assert scene.facts("status", "usage_source", "charged_tokens", "charged_nano", "cost_nano") == [
        ("failed", "estimated", BOUND, bound_nano, bound_nano),
        ("ok", "provider", 18, 156_000, 156_000),
    ]
    assert answer.prompt_tokens + answer.completion_tokens == BOUND + 18


async def test_a_provider_that_never_answers_leaves_a_row_for_every_try(database: Database, clock: ManualClock) -> None:
    async with upstream_scene(database, clock, BROKEN) as (scene, upstream):
        with pytest.raises(ProviderUnavailable, match="answered 500"):
            await scene.ask()
    assert len(scene.events()) == len(upstream.requests) == 3
    assert scene.reservations() == ["settled"] * 3


async def test_a_definite_refusal_is_one_row_that_weighs_nothing(database: Database, clock: ManualClock) -> None:
    async with upstream_scene(database, clock, error(400, {"error": {"message": "No."}})) as (scene, upstream):
        with pytest.raises(ProviderRefused):
            await scene.ask()
    assert scene.facts("status", "charged_tokens", "cost_nano") == [("failed", 0, 0)]
    assert len(upstream.requests) == 1


async def test_an_answer_without_usage_is_charged_its_whole_reservation(database: Database, clock: ManualClock) -> None:
    silent = Answer([*CHAT.begun("An answer."), *CHAT.ended(usage=False)])
    async with upstream_scene(database, clock, silent) as (scene, _):
        assert (await scene.ask()).text == "An answer."
    assert scene.facts("status", "usage_source", "charged_tokens", "error") == [
        ("ok", "estimated", BOUND, "the provider reported no usage")
    ]


async def test_a_cut_stream_shows_what_was_seen_and_is_charged_its_reservation(
    database: Database, clock: ManualClock
) -> None:
    cut = Answer([*MESSAGES.begun("half"), "cut"])
    async with upstream_scene(database, clock, cut) as (scene, _):
        with pytest.raises(ProviderUnavailable):
            await scene.ask(role="auditor")
    assert (
        scene.facts("status", "usage_source", "uncached_input", "cache_read", "output", "charged_tokens")
        == [("cut", "partial", 7, 4, 1, BOUND)] * 3
    )
    assert scene.facts("response_id", "cost_nano")[0] == ("answer-1", 11 * 3_000 + 15_000)


async def test_a_cut_stream_that_told_no_usage_is_estimated(database: Database, clock: ManualClock) -> None:
    async with upstream_scene(database, clock, Answer([*CHAT.begun("half"), "cut"]), WELL) as (scene, _):
        await scene.ask()
    assert scene.facts("status", "usage_source", "charged_tokens")[0] == ("cut", "estimated", BOUND)


async def test_a_refused_connection_books_nothing_but_the_try(database: Database, clock: ManualClock) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        config = settings(providers=at(f"http://127.0.0.1:{nobody.getsockname()[1]}"))
        async with open_scene(database, clock, config=config, tries=1) as scene:
            with pytest.raises(ProviderUnavailable, match="could not be reached"):
                await scene.ask()
    assert scene.facts("status", "charged_tokens", "charged_nano", "cost_nano") == [("failed", 0, 0, 0)]
    assert scene.reservations() == ["settled"]


async def test_each_try_chooses_anew(database: Database, clock: ManualClock) -> None:
    """The first try, charged in full, passes the soft limit; the second goes to the fallback."""
    config = capped(2 * BOUND, fallback_strategy=FallbackStrategy(default=("claude",)))
    config = replace(config, providers={**config.providers, "openai": replace(config.providers["openai"],
                     soft_limit_ratio=config.providers["openai"].soft_limit_ratio / 2)})  # fmt: skip
    calls: list[str] = []

    def script(call: ProviderCall) -> str:
        calls.append(call.model)
        if len(calls) == 1:
            raise ProviderUnavailable("down", provider="openai")
        return "An answer."

    async with open_scene(database, clock, ScriptedProvider(script), config=config) as scene:
        answer = await scene.ask()
    assert calls == ["gpt-big", "claude"]
    assert (answer.decision.rule, answer.decision.replaces) == ("fallback", "gpt-big")


async def test_an_unexpected_error_is_booked_by_name_alone_and_comes_through(
    database: Database, clock: ManualClock
) -> None:
    def script(_call: ProviderCall) -> str:
        raise ValueError(KEYS["OPENAI_API_KEY"])

    async with open_scene(database, clock, ScriptedProvider(script)) as scene:
        with pytest.raises(ValueError, match="sk-test"):
            await scene.ask()
    assert scene.facts("status", "charged_tokens", "error") == [("cut", BOUND, "internal error: ValueError")]


async def test_an_unpriced_call_costs_unknown_and_never_nothing(database: Database, clock: ManualClock) -> None:
    async with open_scene(database, clock, says(), prices={}) as scene:
        answer = await scene.ask()
    assert answer.cost_nano is None
    assert scene.facts("cost_nano", "price_version") == [(None, None)]


async def test_no_key_and_no_prompt_is_ever_in_the_database(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    echo = {"error": {"message": f"Bad key {KEYS['OPENAI_API_KEY']} for {PROMPT}", "type": "authentication_error"}}
    async with upstream_scene(database, clock, error(401, echo), WELL) as (scene, _):
        with pytest.raises(ProviderRefused) as caught:
            await scene.ask(run_id="label")
        await scene.ask(run_id="label")
    rows = repr(database.read_now(everything))
    await database.close()
    stored = rows.encode() + b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"OPENAI_API_KEY" in stored  # What to do about it is there.
    for secret in (KEYS["OPENAI_API_KEY"], PROMPT):
        assert secret.encode() not in stored
        assert secret not in str(caught.value)


# --- what is never sent


async def test_without_a_key_nothing_is_written_and_the_variable_is_named(
    database: Database, clock: ManualClock
) -> None:
    async with open_scene(database, clock, says()) as scene:
        scene.keys.clear()
        before = database.read_now(everything)
        with pytest.raises(MissingKey, match="OPENAI_API_KEY is not set"):
            await scene.ask()
    assert database.read_now(everything) == before


async def test_a_question_that_nobody_answers_writes_nothing(database: Database, clock: ManualClock) -> None:
    async with open_scene(database, clock, says()) as scene:
        before = database.read_now(everything)
        with pytest.raises(NoRoute):
            await scene.ask(complexity="huge")
    assert database.read_now(everything) == before


@pytest.mark.parametrize("room, fits", [(BOUND - 1, False), (BOUND, True), (BOUND + 1, True)])
async def test_a_cap_denies_from_the_token_that_would_pass_it(
    database: Database, clock: ManualClock, room: int, fits: bool
) -> None:
    spend(database, 1_000)
    async with open_scene(database, clock, says(), config=capped(1_000 + room)) as scene:
        if fits:
            await scene.ask()
            return
        with pytest.raises(QuotaExhausted) as caught:
            await scene.ask()
        before = database.read_now(everything)
        with pytest.raises(QuotaExhausted):
            await scene.ask()
    denial = caught.value.denial
    assert (denial.used, denial.wanted, denial.allowance, denial.in_flight) == (1_000, BOUND, 1_000 + room, 0)
    assert database.read_now(everything) == before
    assert (scene.reservations(), len(scene.events()), scene.waits) == ([], 1, [])


async def test_an_unknown_price_under_a_cap_in_dollars_is_denied(database: Database, clock: ManualClock) -> None:
    config = settings(provider_settings(WindowCap("week", nano_usd=10**12)))
    async with open_scene(database, clock, says(), config=config, prices={}) as scene:
        with pytest.raises(QuotaExhausted, match="the price of 'gpt-big' is unknown"):
            await scene.ask()
    assert (scene.reservations(), scene.waits) == ([], [])


async def test_a_category_that_stops_at_the_soft_limit_is_denied_there_in_numbers(
    database: Database, clock: ManualClock
) -> None:
    quota = QuotaRouting(never_fallback_categories=frozenset({"security"}), critical_on_soft_limit="fail")
    anthropic = provider_settings(
        WindowCap("week", tokens=10_000), provider="anthropic", api_key_env="ANTHROPIC_API_KEY"
    )
    config = settings(anthropic, quota_routing=quota)
    spend(database, 8_000, "anthropic")
    async with open_scene(database, clock, says(), config=config) as scene:
        with pytest.raises(QuotaExhausted, match="category security never falls back") as caught:
            await scene.ask(category="security")
    assert (caught.value.denial.used, caught.value.denial.allowance) == (8_000, 7_999)
    assert (scene.reservations(), scene.waits) == ([], [])


async def test_a_runs_own_cap_denies(database: Database, clock: ManualClock) -> None:
    database.write_now(insert_run, token_cap=BOUND - 1, model_map=a_map())
    async with open_scene(database, clock, says()) as scene:
        with pytest.raises(QuotaExhausted, match="cap of run R1"):
            await scene.ask(run_id="R1")


async def test_a_stale_fence_stops_the_asker_before_anything_is_sent(database: Database, clock: ManualClock) -> None:
    database.write_now(insert_run, model_map=a_map(), lease_token=2)
    async with open_scene(database, clock, says()) as scene:
        with pytest.raises(LeaseLost):
            await scene.ask(run_id="R1", fence=RunFence("R1", 1))
        assert scene.reservations() == []
        await scene.ask(run_id="R1", fence=RunFence("R1", 2))
    assert scene.reservations() == ["settled"]


# --- rehearsals (contract 17)


async def test_a_rehearsal_buys_nothing_needs_no_key_and_stays_in_its_shadow(
    database: Database, clock: ManualClock
) -> None:
    database.write_now(insert_run, is_rehearsal=True, model_map=a_map(), token_cap=BOUND)
    pauses: list[int] = []

    async def pause() -> None:
        pauses.append(1)

    provider = Held()
    config = capped(BOUND)
    async with open_scene(database, clock, provider, config=config, rehearsal_pause=pause) as scene:
        scene.keys.clear()
        answer = await scene.ask(run_id="R1", rehearsed_reply="Rehearsed.")
        scene.keys.update(KEYS)
        await scene.hold(BOUND, scope=call_scope(run_id="R2"))  # The real week is still untouched.
    assert (answer.text, answer.decision.model, provider.calls, len(pauses)) == ("Rehearsed.", "gpt-big", 0, 2)
    assert scene.facts("purpose", "status", "service_tier") == [("rehearsal", "ok", "rehearsal")]
    assert answer.cost_nano is not None  # What the real run would cost, as an estimate.
    database.read_now(assert_ledger_adds_up)


async def test_a_rehearsal_keeps_the_runs_cap(database: Database, clock: ManualClock) -> None:
    database.write_now(insert_run, is_rehearsal=True, model_map=a_map(), token_cap=BOUND - 1)
    async with open_scene(database, clock, Held()) as scene:
        with pytest.raises(QuotaExhausted, match="cap of run R1"):
            await scene.ask(run_id="R1", rehearsed_reply="Rehearsed.")


# --- settings in force


async def test_caps_and_prices_apply_at_once(database: Database, clock: ManualClock) -> None:
    async with open_scene(database, clock, says()) as scene:
        await scene.ask()
        scene.prices = {"gpt-big": PRICES["gpt-small"]}
        await scene.ask()
        scene.config = capped(1)
        with pytest.raises(QuotaExhausted):
            await scene.ask()
    first, second = (row["cost_nano"] for row in scene.events())
    assert first == 4 * second


async def test_an_account_is_opened_once_whatever_becomes_of_its_caps_and_anew_for_another_key(
    database: Database, clock: ManualClock
) -> None:
    answers = [WELL] * 3
    async with upstream_scene(database, clock, *answers) as (scene, upstream):
        await scene.ask()
        capped_now = replace(scene.config.providers["openai"], caps=(WindowCap("week", tokens=10**6),))
        scene.config = replace(scene.config, providers={**scene.config.providers, "openai": capped_now})
        await scene.ask()
        assert len(scene.door._providers) == 1
        scene.keys["OPENAI_API_KEY"] = "sk-another-key-000"
        await scene.ask()
    keys = [request.headers["authorization"] for request in upstream.requests]
    assert keys == [f"Bearer {KEYS['OPENAI_API_KEY']}"] * 2 + ["Bearer sk-another-key-000"]


async def test_settings_that_change_between_choice_and_call_do_not_strand_a_reservation(
    database: Database, clock: ManualClock
) -> None:
    async with open_scene(database, clock, says()) as scene:
        reserve = scene.ledger.reserve

        async def and_lose_the_account(*arguments: Any, **options: Any) -> datetime | Denial:
            scene.config = replace(scene.config, providers={}, models={})
            return await reserve(*arguments, **options)

        scene.ledger.reserve = and_lose_the_account  # type: ignore[method-assign]  # at a known moment
        await scene.ask()
    assert scene.reservations() == ["settled"]


async def test_a_longer_answer_than_the_model_can_give_is_not_reserved(database: Database, clock: ManualClock) -> None:
    asked: list[int] = []

    def script(call: ProviderCall) -> str:
        asked.append(call.max_output_tokens)
        return "An answer."

    async with open_scene(database, clock, ScriptedProvider(script)) as scene:
        await scene.ask(max_output_tokens=10**6)
    assert asked == [settings().models["gpt-big"].max_output_tokens]
