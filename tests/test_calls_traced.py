"""What a call leaves beside its row: its words without secrets, and one span in the trace of its run."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import anyio
import pytest

from autopack_mcp.budgets.ledger import expire_overdue, reserve
from autopack_mcp.clock import ManualClock
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import ProviderUnavailable
from autopack_mcp.traces.spans import Span, attempt_span_id, run_span_id, spans_of_run
from autopack_mcp.traces.texts import KeptCall, WordKeeper, Words, kept_call
from tests.doors import PROMPT, Held, a_map, at, open_scene, says, upstream_scene
from tests.factories import NOON, held_against, insert_run, reservation, settings
from tests.providers.upstream import Answer, ChatSpeech, Upstream, error

pytestmark = pytest.mark.anyio

CHAT = ChatSpeech()
WELL = Answer([*CHAT.begun("An answer."), *CHAT.ended()])  # 11 tokens in, of them 4 cached; 7 out.
BROKEN = error(500, {"error": {"message": "Oops.", "type": "server_error"}})
OF_RUN: dict[str, Any] = {"run_id": "R1", "phase_id": "P1", "attempt": 2}
PATIENCE_S = 20.0  # Of a test, on a machine with other work.
KEEPS = WordKeeper(lambda: True, lambda: {"OPENAI_API_KEY": "sk-test-1b4fJ9qLw2Zx7V"})
KEEPS_NOTHING = WordKeeper(lambda: False, dict)


def words_of(database: Database, call_id: str) -> KeptCall:
    found = database.read_now(kept_call, call_id)
    assert found is not None
    return found


def spans(database: Database, run_id: str = "R1") -> tuple[Span, ...]:
    return database.read_now(spans_of_run, run_id)


async def test_prompt_and_reply_are_kept_with_the_booking(database: Database, clock: ManualClock) -> None:
    async with open_scene(database, clock, says(), words=KEEPS) as scene:
        await scene.ask(run_id="a label", phase_id="P7")
        (row,) = scene.events()
    kept = words_of(database, row["call_id"])
    assert kept.words == Words((("user", PROMPT),), 100, "An answer.", "stop")
    assert (kept.run_id, kept.phase_id, kept.role, kept.model) == ("a label", "P7", "builder", "gpt-big")


async def test_no_key_of_ours_is_kept_in_a_prompt_or_a_reply(database: Database, clock: ManualClock) -> None:
    async with open_scene(database, clock, says("It is sk-test-1b4fJ9qLw2Zx7V."), words=KEEPS) as scene:
        await scene.ask()
        (row,) = scene.events()
    kept = words_of(database, row["call_id"])
    assert kept.words.reply == "It is ‹redacted: OPENAI_API_KEY›."
    assert kept.redactions == 1


async def test_numbers_are_booked_and_no_words_kept_when_a_person_does_not_want_it(
    database: Database, clock: ManualClock
) -> None:
    async with open_scene(database, clock, says(), words=KEEPS_NOTHING) as scene:
        await scene.ask()
        (row,) = scene.events()
    assert row["status"] == "ok"
    assert database.read_now(kept_call, row["call_id"]) is None


async def test_every_try_keeps_its_prompt_and_only_an_answer_its_reply(database: Database, clock: ManualClock) -> None:
    async with Upstream(BROKEN, WELL) as upstream:
        config = settings(providers=at(upstream.url))
        async with open_scene(database, clock, config=config, words=KEEPS) as scene:
            await scene.ask()
            rows = scene.events()
    assert [words_of(database, row["call_id"]).words.reply for row in rows] == [None, "An answer."]


async def test_a_call_that_is_cut_keeps_its_prompt_and_has_its_span(database: Database, clock: ManualClock) -> None:
    database.write_now(insert_run, model_map=a_map())
    held = Held()
    async with open_scene(database, clock, held, words=KEEPS) as scene:
        asking = asyncio.create_task(scene.ask(**OF_RUN))
        with anyio.fail_after(PATIENCE_S):
            await held.begun.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        (row,) = scene.events()
    (span,) = spans(database)
    assert words_of(database, row["call_id"]).words == Words((("user", PROMPT),), 100)
    assert (span.status, span.attributes["error.type"]) == ("error", "cut")


async def test_a_call_of_a_run_is_a_span_below_its_attempt(database: Database, clock: ManualClock) -> None:
    database.write_now(insert_run, model_map=a_map(), trace_id="ab" * 16)
    async with upstream_scene(database, clock, WELL) as (scene, _):
        await scene.ask(**OF_RUN)
        (row,) = scene.events()
    (span,) = spans(database)
    assert (span.kind, span.name, span.status) == ("llm_call", "chat gpt-big", "ok")
    assert (span.trace_id, span.parent_id) == ("ab" * 16, attempt_span_id("R1", "P1", 2))
    assert (span.call_id, span.phase_id, span.attempt) == (row["call_id"], "P1", 2)
    assert (span.started_at, span.ended_at) == (NOON, NOON)
    assert span.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-big",
        "gen_ai.request.max_tokens": 100,
        "gen_ai.response.model": "model-that-answered",
        "gen_ai.response.id": "answer-1",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.cache_write.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "autopack.call_id": row["call_id"],
        "autopack.role": "builder",
        "autopack.purpose": "run",
    }


async def test_a_call_of_no_attempt_belongs_to_its_run(database: Database, clock: ManualClock) -> None:
    database.write_now(insert_run, model_map=a_map())
    async with open_scene(database, clock, says()) as scene:
        await scene.ask(role="agent:planner", run_id="R1")
    (span,) = spans(database)
    assert span.parent_id == run_span_id("R1")


async def test_a_label_that_is_no_run_has_no_trace(database: Database, clock: ManualClock) -> None:
    async with open_scene(database, clock, says()) as scene:
        await scene.ask(run_id="nightly")
        await scene.ask()
    assert spans(database, "nightly") == ()


async def test_a_try_that_may_have_been_billed_claims_no_usage(database: Database, clock: ManualClock) -> None:
    database.write_now(insert_run, model_map=a_map())
    async with upstream_scene(database, clock, BROKEN) as (scene, _):
        with pytest.raises(ProviderUnavailable):
            await scene.ask(**OF_RUN)
    found = spans(database)
    assert [(span.status, span.attributes["error.type"]) for span in found] == [("error", "failed")] * 3
    assert not [name for span in found for name in span.attributes if name.startswith("gen_ai.usage")]


def test_a_lost_call_has_its_span_and_a_late_truth_mends_it(database: Database) -> None:
    database.write_now(insert_run, model_map=a_map())
    promise = reservation(lease_s=1.0, attempt=1)
    rules = held_against()
    database.write_now(reserve, promise, rules, None, NOON)
    late = NOON + timedelta(seconds=2)
    assert database.write_now(expire_overdue, rules, late) == 1
    assert database.write_now(expire_overdue, rules, late) == 0
    (span,) = spans(database)
    assert (span.call_id, span.status, span.ended_at) == (promise.call_id, "error", late)
    assert span.attributes["error.type"] == "expired"


async def test_a_truth_that_comes_late_is_the_same_span(database: Database, clock: ManualClock) -> None:
    database.write_now(insert_run, model_map=a_map())
    held = Held()
    async with open_scene(database, clock, held) as scene:
        asking = asyncio.create_task(scene.ask(timeout_s=1.0, **OF_RUN))
        with anyio.fail_after(PATIENCE_S):
            await held.begun.wait()
        clock.advance(3_600)
        await scene.ledger.expire_overdue()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    (span,) = spans(database)
    assert span.attributes["error.type"] == "cut"
