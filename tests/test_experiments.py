"""A recorded prompt, sent again: with edits or as it was, through the same door, both answers side by side."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.clock import ManualClock
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import budget_scopes, call_texts, experiments
from autopack_mcp.errors import NoRoute, ProviderRefused, QuotaExhausted, RequestRefused
from autopack_mcp.experiments import Experiments, PromptEdits, edited
from autopack_mcp.providers.base import CallObservation, ChatMessage, ProviderCall, ProviderReply
from autopack_mcp.traces.experiments import experiments_with
from autopack_mcp.traces.texts import WordKeeper, kept_call
from tests.doors import PROMPT, Scene, a_map, capped, open_scene, spend
from tests.factories import NOON, held_against, insert_run, usage_event
from tests.ledger_truth import assert_ledger_adds_up

pytestmark = pytest.mark.anyio

KEEPS = WordKeeper(lambda: True, dict)
MESSAGES = (("system", "Be brief."), ("user", "Say hello."))


class Echo:
    """Answers with the model that was asked and what it was asked last; a call can be refused."""

    def __init__(self) -> None:
        self.calls: list[ProviderCall] = []
        self.error: ProviderRefused | None = None

    async def complete(self, call: ProviderCall, observation: CallObservation) -> ProviderReply:
        self.calls.append(call)
        observation.sent = True
        if self.error is not None:
            raise self.error
        return ProviderReply(f"{call.model}:\n{call.messages[-1].content}", call.model, "stop", None)

    async def close(self) -> None:
        """Nothing to give back."""


def lab(scene: Scene) -> Experiments:
    return Experiments(door=scene.door, database=scene.database, clean=lambda text: text.replace("topsecret1", "…"))


async def retried(scene: Scene, call_id: str, edits: PromptEdits | None = None) -> Any:
    return await lab(scene).retry_prompt(call_id, edits or PromptEdits(), author="ann", client="a test")


async def test_a_prompt_is_asked_again_and_both_answers_stand_side_by_side(
    database: Database, clock: ManualClock
) -> None:
    echo = Echo()
    async with open_scene(database, clock, echo, words=KEEPS) as scene:
        await scene.ask(category="ui")
        first = scene.events()[0]["call_id"]
        edits = PromptEdits("claude", (("unusual", "usual"),), "Mind overflow.", 50)
        found = await retried(scene, first, edits)
        _, second = scene.events()

    changed = PROMPT.replace("unusual", "usual") + "\n\nMind overflow."
    assert (echo.calls[1].model, echo.calls[1].max_output_tokens) == ("claude", 50)
    assert echo.calls[1].messages == (ChatMessage("user", changed),)
    assert (found.first.call_id, found.first.model, found.first.reply) == (first, "gpt-big", f"gpt-big:\n{PROMPT}")
    assert (found.second.call_id, found.second.model, found.second.reply) == (
        second["call_id"], "claude", f"claude:\n{changed}",
    )  # fmt: skip
    assert found.diff.splitlines()[:5] == [
        f"--- {first} gpt-big", f"+++ {second['call_id']} claude", "@@ -1,2 +1,4 @@", "-gpt-big:", f"-{PROMPT}",
    ]  # fmt: skip
    assert isinstance(found.first.cost_usd, Decimal)
    assert isinstance(found.second.cost_usd, Decimal)
    assert found.second.prompt_tokens > 0
    assert (second["purpose"], second["role"], second["category"], second["run_id"]) == (
        "experiment", "builder", "ui", None,
    )  # fmt: skip
    database.read_now(assert_ledger_adds_up)


async def test_an_experiment_is_on_record_with_who_asked_and_keeps_its_own_words(
    database: Database, clock: ManualClock
) -> None:
    async with open_scene(database, clock, Echo(), words=KEEPS) as scene:
        await scene.ask()
        first = scene.events()[0]["call_id"]
        found = await retried(scene, first, PromptEdits(append="Not topsecret1."))
    row = database.read_now(lambda connection: connection.execute(select(experiments)).mappings().one())
    assert (row["call_id"], row["of_call_id"]) == (found.second.call_id, first)
    assert (row["author"], row["client"], row["created_at"]) == ("ann", "a test", NOON)
    assert row["edits"] == {"append": "Not …."}
    assert database.read_now(experiments_with, first) == (found.second.call_id,)
    kept = database.read_now(kept_call, found.second.call_id)
    assert kept is not None
    assert kept.words.messages == (("user", f"{PROMPT}\n\nNot topsecret1."),)


async def test_without_edits_it_is_the_same_question_to_the_same_model(database: Database, clock: ManualClock) -> None:
    echo = Echo()
    async with open_scene(database, clock, echo, words=KEEPS) as scene:
        await scene.ask(role="auditor")
        found = await retried(scene, scene.events()[0]["call_id"])
        again = await retried(scene, found.second.call_id)
    assert [call.messages for call in echo.calls] == [echo.calls[0].messages] * 3
    assert {call.model for call in echo.calls} == {"claude"}
    assert (found.diff, again.diff) == ("", "")


async def test_a_call_of_a_run_is_tried_again_beside_the_run(database: Database, clock: ManualClock) -> None:
    # Neither its cap, which is used up, nor that it is over, nor that it was a rehearsal is the experiment's concern.
    facts: dict[str, Any] = {"state": "cancelled", "is_rehearsal": True, "token_cap": 10_000}
    database.write_now(insert_run, model_map=a_map(), **facts)
    echo = Echo()
    async with open_scene(database, clock, echo, words=KEEPS) as scene:
        await scene.ask(run_id="R1", phase_id="P1", rehearsed_reply="It was only a rehearsal.")
        before = database.read_now(_counters_of_runs)
        found = await retried(scene, scene.events()[0]["call_id"])
    assert (found.first.reply, len(echo.calls)) == ("It was only a rehearsal.", 1)
    assert database.read_now(_counters_of_runs) == before


async def test_an_experiment_is_held_to_the_caps_of_its_account(database: Database, clock: ManualClock) -> None:
    async with open_scene(database, clock, Echo(), words=KEEPS, config=capped(100_000)) as scene:
        await scene.ask()
        call_id = scene.events()[0]["call_id"]
        spend(database, 99_500)
        with pytest.raises(QuotaExhausted):
            await retried(scene, call_id, PromptEdits(max_output_tokens=5_000))
        # As a person's own choice it is never rerouted: another account would have had room.
        assert len(scene.events()) == 2


async def test_a_call_that_was_not_answered_can_be_tried_again(database: Database, clock: ManualClock) -> None:
    echo = Echo()
    echo.error = ProviderRefused("openai answered 400", provider="openai", status=400)
    async with open_scene(database, clock, echo, words=KEEPS) as scene:
        with pytest.raises(ProviderRefused):
            await scene.ask()
        call_id = scene.events()[0]["call_id"]
        with pytest.raises(ProviderRefused, match="400"):
            await retried(scene, call_id)
        echo.error = None
        found = await retried(scene, call_id)
    assert (found.first.reply, found.second.reply) == (None, f"gpt-big:\n{PROMPT}")
    # The refused try is an experiment on record, too.
    assert len(database.read_now(experiments_with, call_id)) == 2


async def test_a_prompt_that_lost_a_secret_is_sent_without_it_and_says_so(
    database: Database, clock: ManualClock
) -> None:
    echo = Echo()
    keeps = WordKeeper(lambda: True, lambda: {"OURS": "unusual"})
    async with open_scene(database, clock, echo, words=keeps) as scene:
        await scene.ask()
        found = await retried(scene, scene.events()[0]["call_id"])
    assert "‹redacted: OURS›" in echo.calls[1].messages[0].content
    assert found.redactions == 2  # In the prompt, and in the reply that repeats it.


async def test_what_cannot_be_tried_again_is_refused_before_anything_is_bought(
    database: Database, clock: ManualClock
) -> None:
    echo = Echo()
    database.write_now(book_external, usage_event("elsewhere", status="external"), held_against(), NOON)
    async with open_scene(database, clock, echo, words=KEEPS) as scene:
        with pytest.raises(RequestRefused, match="There is no call 'c-x'") as refusal:
            await retried(scene, "c-x")
        assert refusal.value.hint == "No call has its words kept."
        await scene.ask()
        call_id = scene.events()[-1]["call_id"]
        with pytest.raises(RequestRefused) as refusal:
            await retried(scene, "c-x")
        assert refusal.value.hint == f"Those kept are, newest first: {call_id}."
        with pytest.raises(RequestRefused, match="it was made elsewhere"):
            await retried(scene, "elsewhere")
        with pytest.raises(RequestRefused, match="does not hold 'nowhere'"):
            await retried(scene, call_id, PromptEdits(replace=(("nowhere", "here"),)))
        with pytest.raises(NoRoute, match="'no-such-model'"):
            await retried(scene, call_id, PromptEdits("no-such-model"))
        database.write_now(lambda connection: connection.execute(call_texts.delete()))
        with pytest.raises(RequestRefused, match="deleted by age"):
            await retried(scene, call_id)
    assert len(echo.calls) == 1


def test_edits_that_say_nothing_are_refused() -> None:
    with pytest.raises(RequestRefused, match="empty"):
        PromptEdits(replace=(("", "x"),))
    with pytest.raises(RequestRefused, match="0 tokens"):
        PromptEdits(max_output_tokens=0)


def test_words_are_added_to_the_last_question_or_are_one() -> None:
    assert edited(MESSAGES, PromptEdits(append="Now."))[-1] == ChatMessage("user", "Say hello.\n\nNow.")
    answered = (*MESSAGES, ("assistant", "Hello."))
    assert edited(answered, PromptEdits(append="Now."))[2:] == (
        ChatMessage("assistant", "Hello."), ChatMessage("user", "Now."),
    )  # fmt: skip


def test_a_text_is_replaced_wherever_it_stands_and_one_after_the_other() -> None:
    edits = PromptEdits(replace=(("e", "3"), ("3", "E")))
    assert [message.content for message in edited(MESSAGES, edits)] == ["BE briEf.", "Say hEllo."]


def _counters_of_runs(connection: Any) -> list[Any]:
    of_runs = select(budget_scopes).where(budget_scopes.c.scope.contains("run/R1")).order_by(budget_scopes.c.scope)
    return [tuple(row) for row in connection.execute(of_runs)]
