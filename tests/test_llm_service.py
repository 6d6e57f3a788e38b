"""AsyncLlmService: questions in, results out, whatever a model answers; contract 1 to 3 and 21."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import fields
from decimal import Decimal
from typing import Any, cast

import pytest

from autopack_mcp.clock import ManualClock
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import NoRoute, PlanError, QuotaExhausted, RequestRefused
from autopack_mcp.llm_service import (
    AGENT_OUTPUT_TOKENS,
    AsyncLlmService,
    AuditorResult,
    BuilderResult,
    PhaseAccount,
    phase_spec_of,
)
from autopack_mcp.notes import add_note, notes_of_run, withdraw_note
from autopack_mcp.plans.plan import PhaseSpec, RehearsalScript
from autopack_mcp.providers.base import ChatMessage, ProviderCall
from autopack_mcp.providers.scripted import ScriptedProvider
from autopack_mcp.replies.verdict import Issue
from tests.doors import Held, Scene, a_map, capped, open_scene
from tests.factories import NOON, insert_run

pytestmark = pytest.mark.anyio

SPEC = {"phase_id": "P1", "description": "Say hello.", "task_category": "ui", "complexity": "low"}
FILES = {"existing_files": {"app.py": "one\ntwo\n"}}
EDIT = "*** SUMMARY Greets.\n*** EDIT app.py\n<<<<<<< SEARCH\ntwo\n=======\nhello\n>>>>>>> REPLACE\n*** END\n"
PATCH = "diff --git a/app.py b/app.py\n--- a/app.py\n+++ b/app.py\n@@ -1,2 +1,2 @@\n one\n-two\n+hello\n"
MAJOR = {"severity": "major", "category": "tests", "description": "None.", "file_path": "app.py", "line_number": 2}
MINOR = {**MAJOR, "severity": "minor"}
PLAIN = {"role": "user", "content": "x"}
ACCOUNTING = {"tokens_used", "prompt_tokens", "completion_tokens", "model_used", "reasons", "cost_usd"}


def verdict(*, approved: bool = True, summary: str = "Fine.", issues: tuple[object, ...] = ()) -> str:
    return json.dumps({"approved": approved, "summary": summary, "issues": list(issues)})


def content(*parts: object) -> dict[str, object]:
    """A message of parts."""
    return {"role": "user", "content": list(parts)}


class Talk:
    """Models that answer these in turn, the last one again and again; ``calls`` are what they were asked."""

    def __init__(self, *answers: str) -> None:
        self.calls: list[ProviderCall] = []
        self._answers: Iterator[str] = iter(answers)
        self._last = answers[-1]
        self.provider = ScriptedProvider(self._answer)

    def _answer(self, call: ProviderCall) -> str:
        self.calls.append(call)
        self._last = next(self._answers, self._last)
        return self._last

    def said(self, number: int = -1) -> str:
        """All words of one prompt."""
        return "\n".join(message.content for message in self.calls[number].messages)


@asynccontextmanager
async def service(
    database: Database, clock: ManualClock, talk: Talk, **overrides: Any
) -> AsyncIterator[tuple[AsyncLlmService, Scene]]:
    async with open_scene(database, clock, talk.provider, **overrides) as scene:
        yield AsyncLlmService(scene.door), scene


# --- the builder


def test_results_have_the_promised_fields() -> None:
    assert {field.name for field in fields(BuilderResult)} == ACCOUNTING | {
        "success", "patch_content", "summary", "files", "error",
    }  # fmt: skip
    assert {field.name for field in fields(AuditorResult)} == ACCOUNTING | {
        "approved", "issues_found", "summary", "error",
    }  # fmt: skip
    assert [field.name for field in fields(Issue)] == [
        "severity", "category", "description", "file_path", "line_number",
    ]  # fmt: skip


async def test_a_builders_edits_become_a_patch_with_its_account(database: Database, clock: ManualClock) -> None:
    talk = Talk(EDIT)
    async with service(database, clock, talk) as (llm, scene):
        result = await llm.execute_builder_phase(
            SPEC, FILES, "label", project_rules="Be kind.", run_hints=["It broke."]
        )
    (row,) = scene.events()
    assert (result.success, result.error, result.summary, result.files) == (True, None, "Greets.", ("app.py",))
    assert result.patch_content == PATCH
    assert (result.model_used, result.reasons) == ("gpt-small", ("complexity low uses gpt-small as builder",))
    assert result.tokens_used == result.prompt_tokens + result.completion_tokens == row["charged_tokens"]
    assert result.cost_usd == Decimal(row["cost_nano"]) / 10**9
    assert (row["run_id"], row["phase_id"], row["role"], row["category"]) == ("label", "P1", "builder", "ui")
    assert "> Be kind." in talk.said()
    assert "> It broke." in talk.said()
    assert "=== app.py\none\ntwo\n" in talk.said()


@pytest.mark.parametrize(
    "answer, why",
    [
        pytest.param("I would rather not.", "contains no edits", id="prose"),
        pytest.param(EDIT.replace("two", "three"), "do not occur", id="fits nowhere"),
        pytest.param(EDIT.replace("app.py", "../app.py"), "leaves the workspace", id="outside"),
        pytest.param("*** WRITE app.py\none\ntwo\n*** END", "change nothing", id="no change"),
        pytest.param("*** WRITE app.py\n" + "x" * 80_000, "cut off at its length limit", id="too long"),
    ],
)
async def test_a_reply_that_cannot_be_used_is_no_success_and_is_paid_for(
    database: Database, clock: ManualClock, answer: str, why: str
) -> None:
    async with service(database, clock, Talk(answer)) as (llm, scene):
        result = await llm.execute_builder_phase(SPEC, FILES)
    assert (result.success, result.patch_content, result.files) == (False, "", ())
    assert result.error is not None
    assert why in result.error
    assert result.tokens_used == scene.events()[0]["charged_tokens"] > 0


async def test_an_edit_outside_the_allowed_paths_is_no_success(database: Database, clock: ManualClock) -> None:
    async with service(database, clock, Talk(EDIT)) as (llm, _):
        result = await llm.execute_builder_phase({**SPEC, "allowed_paths": ["docs"]}, FILES)
    assert not result.success
    assert result.error is not None
    assert "not allowed in this phase. Allowed: docs" in result.error
    assert result.summary == "Greets."


async def test_run_context_chooses_another_model(database: Database, clock: ManualClock) -> None:
    async with service(database, clock, Talk(EDIT)) as (llm, _):
        context = {"model_overrides": {"builder": {"ui:low": "claude"}}}
        result = await llm.execute_builder_phase(SPEC, FILES, run_context=context)
    assert (result.model_used, result.reasons) == ("claude", ("run override builder ui:low by run context",))


async def test_an_unpriced_call_has_no_cost_rather_than_none_at_all(database: Database, clock: ManualClock) -> None:
    async with service(database, clock, Talk(EDIT), prices={}) as (llm, _):
        result = await llm.execute_builder_phase(SPEC, FILES)
    assert result.cost_usd is None
    assert result.tokens_used > 0


@pytest.mark.parametrize("context", [{}, {"existing_files": None}, {"existing_files": {}}])
async def test_without_files_a_builder_can_only_write_new_ones(
    database: Database, clock: ManualClock, context: dict[str, Any]
) -> None:
    async with service(database, clock, Talk("*** WRITE new.py\nx = 1\n*** END\n")) as (llm, _):
        result = await llm.execute_builder_phase(SPEC, context)
    assert result.patch_content.startswith("diff --git a/new.py b/new.py\nnew file mode 100644\n")


async def test_an_exhausted_cap_raises_and_sends_nothing(database: Database, clock: ManualClock) -> None:
    talk = Talk(EDIT)
    async with service(database, clock, talk, config=capped(10)) as (llm, _):
        with pytest.raises(QuotaExhausted):
            await llm.execute_builder_phase(SPEC, FILES)
    assert talk.calls == []


# --- the auditor


@pytest.mark.parametrize(
    "answer, approved, severities",
    [
        pytest.param(verdict(), True, [], id="approved"),
        pytest.param(verdict(issues=(MINOR,)), True, ["minor"], id="approved with a minor issue"),
        pytest.param(verdict(issues=(MINOR, MAJOR)), False, ["minor", "major"], id="a major issue overrules"),
        pytest.param(verdict(approved=False), False, [], id="rejected"),
    ],
)
async def test_a_verdict_is_read_and_a_major_issue_is_never_approved(
    database: Database, clock: ManualClock, answer: str, approved: bool, severities: list[str]
) -> None:
    async with service(database, clock, Talk(f"My verdict:\n{answer}")) as (llm, _):
        result = await llm.execute_auditor_review(PATCH, SPEC, verification_output="2 passed")
    assert (result.approved, result.error) == (approved, None)
    assert [issue.severity for issue in result.issues_found] == severities
    assert result.summary.startswith("Fine.")
    assert result.model_used == "claude"


async def test_the_auditor_reads_the_patch_the_rules_and_the_verification(
    database: Database, clock: ManualClock
) -> None:
    talk = Talk(verdict())
    async with service(database, clock, talk) as (llm, scene):
        await llm.execute_auditor_review(PATCH, SPEC, "label", "P9", None, "Be strict.", "2 passed")
    for words in ("> +hello", "> Be strict.", "> 2 passed"):
        assert words in talk.said()
    assert scene.facts("role", "run_id", "phase_id") == [("auditor", "label", "P9")]


async def test_an_unusable_verdict_is_asked_for_once_more(database: Database, clock: ManualClock) -> None:
    async with service(database, clock, Talk("Looks good!", verdict())) as (llm, scene):
        result = await llm.execute_auditor_review(PATCH, SPEC)
    assert result.approved
    assert len(scene.events()) == 2
    assert result.tokens_used == sum(row["charged_tokens"] for row in scene.events())


async def test_a_verdict_that_stays_unusable_is_not_approved_and_says_so(
    database: Database, clock: ManualClock
) -> None:
    async with service(database, clock, Talk("Looks good!")) as (llm, scene):
        result = await llm.execute_auditor_review(PATCH, SPEC)
    assert not result.approved
    assert result.error is not None
    assert result.error.startswith("The auditor's verdict cannot be used: ")
    assert len(scene.events()) == 2
    assert result.tokens_used == sum(row["charged_tokens"] for row in scene.events())


# --- agents


async def test_an_agent_answers_and_is_booked_under_its_name(database: Database, clock: ManualClock) -> None:
    talk = Talk("Plan: none.")
    async with service(database, clock, talk) as (llm, scene):
        messages = [{"role": "system", "content": "You plan."}, {"role": "user", "content": "Plan."}]
        answer = await llm.complete("agent:planner", messages, max_output_tokens=50)
    assert (answer.text, answer.model_used, answer.reasons) == (
        "Plan: none.",
        "gpt-big",
        ("agent_models names planner",),
    )
    assert [(message.role, message.content) for message in talk.calls[0].messages] == [
        ("system", "You plan."),
        ("user", "Plan."),
    ]
    assert talk.calls[0].max_output_tokens == 50
    assert scene.facts("role", "run_id", "phase_id") == [("agent:planner", None, None)]


async def test_an_agent_reserves_a_usual_answer_unless_it_asks_for_more(database: Database, clock: ManualClock) -> None:
    talk = Talk("Yes.")
    async with service(database, clock, talk) as (llm, _):
        await llm.complete("agent:any", [{"role": "user", "content": "?"}])
    assert talk.calls[0].max_output_tokens == AGENT_OUTPUT_TOKENS


@pytest.mark.parametrize(
    "messages, limit, why",
    [
        pytest.param([], 10, "no message", id="none"),
        pytest.param(
            [{"role": "tool", "content": "x"}], 10, "Message 1 cannot be sent with the role 'tool'", id="role"
        ),
        pytest.param(
            [{"role": "user", "content": "x"}, {"role": "user"}],
            10,
            r"Message 2 .* no text \(NoneType\)",
            id="no content",
        ),
        pytest.param([content({"type": "text", "text": "x"})], 10, r"Message 1 .* no text \(text\)", id="parts"),
        pytest.param(
            [content({"type": "image_url", "image_url": {"url": "https://x"}})], 10, "image_url", id="image by url"
        ),
        pytest.param([content({"type": "input_image", "file_id": "f"})], 10, "input_image", id="image by id"),
        pytest.param([content({"type": "image", "source": {"type": "base64"}})], 10, r"\(image\)", id="image inline"),
        pytest.param(
            [content({"type": "input_audio"}, {"type": "file"})], 10, "input_audio, file", id="audio and a file"
        ),
        pytest.param([content("bare")], 10, r"no text \(list\)", id="a list of texts"),
        pytest.param([ChatMessage("user", cast(Any, b"bytes"))], 10, r"no text \(bytes\)", id="a ChatMessage of bytes"),
        pytest.param(
            [ChatMessage(cast(Any, "developer"), "x")], 10, "the role 'developer'", id="a ChatMessage of another role"
        ),
        pytest.param([{**PLAIN, "tool_calls": []}], 10, "Message 1 has 'tool_calls'", id="tool calls"),
        pytest.param(
            [PLAIN, {**PLAIN, "name": "n", "cache_control": {}}], 10, "2 has 'cache_control', 'name'", id="keys"
        ),
        pytest.param([{"role": "user", "content": "\ud800"}], 10, "half a character", id="half a character"),
        pytest.param([PLAIN], 0, "0 tokens", id="no room"),
        pytest.param([PLAIN], -1, "-1 tokens", id="less than none"),
        pytest.param([PLAIN], 10.5, "10.5 tokens", id="a fraction"),
        pytest.param([PLAIN], True, "True tokens", id="a boolean"),
        pytest.param([PLAIN], "10", "'10' tokens", id="a text"),
    ],
)
async def test_messages_that_cannot_be_sent_are_refused_before_anything_is_reserved(
    database: Database, clock: ManualClock, messages: list[Any], limit: Any, why: str
) -> None:
    talk = Talk("never")
    async with service(database, clock, talk) as (llm, scene):
        with pytest.raises(RequestRefused, match=why):
            await llm.complete("agent:any", messages, max_output_tokens=limit)
    assert (scene.reservations(), talk.calls) == ([], [])


# What the SDKs take, and bill by other things than the tokens of the prompt and of one answer.
@pytest.mark.parametrize(
    "name",
    [
        "tools", "web_search_options", "mcp_servers", "container", "previous_response_id", "conversation", "prompt",
        "n", "best_of", "modalities", "audio", "service_tier", "speed", "thinking", "betas", "extra_body", "stream",
    ],
)  # fmt: skip
async def test_whatever_else_an_sdk_takes_is_refused_by_name_before_anything_is_reserved(
    database: Database, clock: ManualClock, name: str
) -> None:
    talk = Talk("never")
    async with service(database, clock, talk) as (llm, scene):
        complete: Any = llm.complete
        with pytest.raises(RequestRefused, match=f"complete takes no {name!r}") as caught:
            await complete("agent:any", [PLAIN], **{name: None})
    assert "no cap could hold" in caught.value.hint
    assert (scene.reservations(), talk.calls) == ([], [])


@pytest.mark.parametrize("picture", [b"\x89PNG", None, ["line"], 7])
async def test_a_file_that_is_no_text_is_refused_by_name(
    database: Database, clock: ManualClock, picture: object
) -> None:
    talk = Talk("never")
    async with service(database, clock, talk) as (llm, scene):
        with pytest.raises(RequestRefused, match=r"The file 'logo.png' is no text but"):
            await llm.execute_builder_phase(SPEC, {"existing_files": {"app.py": "x", "logo.png": picture}})
    assert (scene.reservations(), talk.calls) == ([], [])


async def test_a_role_that_does_not_exist_has_no_route(database: Database, clock: ManualClock) -> None:
    async with service(database, clock, Talk("never")) as (llm, _):
        with pytest.raises(NoRoute):
            await llm.complete("planner", [{"role": "user", "content": "x"}])


# --- notes and rehearsals


async def test_notes_of_a_run_are_in_every_prompt_until_withdrawn(database: Database, clock: ManualClock) -> None:
    database.write_now(insert_run, model_map=a_map())
    note_id = database.write_now(add_note, "R1", "No new dependencies.", "tool", "ada", NOON)
    talk = Talk(EDIT, verdict(), "Plan.", EDIT)
    async with service(database, clock, talk) as (llm, _):
        await llm.execute_builder_phase(SPEC, FILES, "R1")
        await llm.execute_auditor_review(PATCH, SPEC, "R1")
        await llm.complete("agent:planner", [{"role": "user", "content": "Plan."}], "R1")
        database.write_now(withdraw_note, "R1", note_id, NOON)
        await llm.execute_builder_phase(SPEC, FILES, "R1")
    assert ["> No new dependencies." in talk.said(number) for number in range(4)] == [True, True, True, False]
    (note,) = database.read_now(notes_of_run, "R1")
    assert (note.first_phase_id, note.delivered_count) == ("P1", 3)


async def test_a_rehearsed_phase_is_built_and_reviewed_without_a_model(database: Database, clock: ManualClock) -> None:
    database.write_now(insert_run, is_rehearsal=True, model_map=a_map())
    phase = PhaseSpec("P1", "Greet", "Say hello.", rehearsal=RehearsalScript(reject_first="No tests."))
    provider = Held()
    async with open_scene(database, clock, provider) as scene:
        llm = AsyncLlmService(scene.door)
        built = await llm.ask_builder(phase, {}, PhaseAccount("R1", 1))
        first, second = [await llm.ask_auditor(phase, PATCH, "", PhaseAccount("R1", attempt)) for attempt in (1, 2)]
        agent = await llm.complete("agent:planner", [{"role": "user", "content": "Plan."}], "R1")
    assert built.reply is not None
    assert (first.approved, first.summary, second.approved) == (False, "No tests.", True)
    assert agent.text == "This is a rehearsal: no model was asked."
    assert provider.calls == 0
    assert {purpose for (purpose,) in scene.facts("purpose")} == {"rehearsal"}


async def test_a_diff_that_fits_is_taken_from_a_library_callers_builder_and_one_that_does_not_says_why(
    database: Database, clock: ManualClock
) -> None:
    files = {"existing_files": {"a.txt": "one\ntwo\nthree\n"}}
    diff = "--- a/a.txt\n+++ b/a.txt\n@@ -8,3 +8,3 @@\n one\n-two\n+2\n three\n"
    talk = Talk(diff, diff.replace("-two", "-zwei"), f"```diff\n{diff}")
    async with service(database, clock, talk) as (llm, _):
        results = [await llm.execute_builder_phase({"description": "Do it."}, files) for _ in range(3)]
    fits, misfits, is_cut = results

    assert fits.success
    assert fits.patch_content == (
        "diff --git a/a.txt b/a.txt\n--- a/a.txt\n+++ b/a.txt\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n"
    )
    assert (misfits.success, "fits nowhere" in (misfits.error or "")) == (False, True)
    assert (is_cut.success, "never closed" in (is_cut.error or "")) == (False, True)


# --- phase_spec (contract 2)


def test_a_phase_needs_nothing_but_a_description() -> None:
    phase = phase_spec_of({"description": "Say hello.", "complexity": None})
    assert phase == PhaseSpec("phase", "phase", "Say hello.", "general", "medium")


def test_a_phase_takes_every_key_of_the_contract() -> None:
    phase = phase_spec_of({**SPEC, "name": "Greet", "acceptance_criteria": ["It greets."], "allowed_paths": ("src",)})
    assert phase == PhaseSpec("P1", "Greet", "Say hello.", "ui", "low", ("It greets.",), ("src",))


@pytest.mark.parametrize("value", [SPEC, PhaseSpec("P1", "P1", "Say hello.", "ui", "low")], ids=["mapping", "phase"])
def test_the_phase_id_beside_the_phase_wins(value: Any) -> None:
    assert phase_spec_of(value).phase_id == "P1"
    assert phase_spec_of(value, "P2").phase_id == "P2"


@pytest.mark.parametrize(
    "wrong, said",
    [
        pytest.param(
            {"descripton": "x"}, "unknown key 'descripton'; a phase has phase_id, name, description", id="typo"
        ),
        pytest.param({"verify": "true"}, "unknown key 'verify'", id="a key that would do nothing here"),
        pytest.param({"complexity": "huge"}, "complexity must be one of low, medium, high", id="complexity"),
        pytest.param({"allowed_paths": "src"}, "allowed_paths must be a list of texts", id="a text for a list"),
        pytest.param({"acceptance_criteria": [1]}, "acceptance_criteria must be a list of texts", id="a number"),
        pytest.param({"task_category": 7}, "task_category must be a text, not int", id="a number for a text"),
        pytest.param({"description": ""}, "description is missing", id="nothing to do"),
    ],
)
def test_a_phase_that_cannot_be_asked_is_refused_by_key(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError) as caught:
        phase_spec_of({**SPEC, **wrong})
    (problem,) = caught.value.problems
    assert problem.where == "phase_spec"
    assert said in problem.message


def test_every_mistake_in_a_phase_is_named_at_once() -> None:
    with pytest.raises(PlanError) as caught:
        phase_spec_of({"complexity": "huge", "allowed_paths": "src", "unknown": 1})
    assert len(caught.value.problems) == 4
