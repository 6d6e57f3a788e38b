"""What people call: build a phase, review a change, or let an auxiliary agent answer, routed, capped and recorded.

It words the question (``prompts``), sends it through the one door (``calls``) and reads the answer (``replies``). The
executor uses it for runs; ``library`` opens it for people who have their own loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Literal, Never, TypeGuard

from autopack_mcp.budgets.ledger import RunFence
from autopack_mcp.calls import Answer, Ask, CallDoor
from autopack_mcp.config.settings import COMPLEXITIES
from autopack_mcp.errors import EditMisfit, PlanError, Problem, RequestRefused, UnusableReply
from autopack_mcp.money import NANO_PER_USD
from autopack_mcp.plans.plan import PhaseSpec
from autopack_mcp.prompts import Repair, agent_messages, auditor_messages, builder_messages
from autopack_mcp.providers.base import ChatMessage
from autopack_mcp.replies.edits import BuilderReply, parse_edits
from autopack_mcp.replies.patch import edited_files, patch_of
from autopack_mcp.replies.rehearsed import rehearsed_edits, rehearsed_verdict
from autopack_mcp.replies.verdict import Issue, Verdict, parse_verdict

BUILDER_OUTPUT_TOKENS = 16_384  # Reserved for a builder's answer; a model's own limit may be lower.
AUDITOR_OUTPUT_TOKENS = 4_096  # Reserved for a verdict.
AGENT_OUTPUT_TOKENS = 4_096  # Reserved for an auxiliary agent's answer, unless it asks for more.
VERDICT_TRIES = 2  # Contract 21: an unusable verdict is asked for once more.

# What a phase of a library caller has (contract 2). The rest of a plan's phase is about a workspace, which they lack.
_TEXTS = ("phase_id", "name", "description", "task_category", "complexity")
_LISTS = ("acceptance_criteria", "allowed_paths")
_PHASE_KEYS = (*_TEXTS, *_LISTS)
_MESSAGE_ROLES = ("system", "user", "assistant")
_MESSAGE_KEYS = {"role", "content"}
_ONLY_TEXT = (
    "Send text alone: what tools, pictures, files, kept conversations, further answers and other service tiers cost"
    " cannot be bounded before the call, so no cap could hold."
)


@dataclass(frozen=True, slots=True)
class Accounting:
    """What one question cost over all its tries: tokens, and dollars (None when a part is unpriced)."""

    tokens_used: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model_used: str = ""
    reasons: tuple[str, ...] = ()
    cost_usd: Decimal | None = None


@dataclass(frozen=True, slots=True)
class BuilderResult(Accounting):
    """A builder's change: ``patch_content`` is a unified diff of ours, ``error`` why there is none (contract 3)."""

    success: bool = False
    patch_content: str = ""
    summary: str = ""
    files: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class AuditorResult(Accounting):
    """An auditor's verdict. Any major issue means not approved; ``error`` says why a verdict could not be used."""

    approved: bool = False
    issues_found: tuple[Issue, ...] = ()
    summary: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Completion(Accounting):
    """An auxiliary agent's answer."""

    text: str = ""


@dataclass(frozen=True, slots=True)
class PhaseAccount:
    """On whose account a question about a phase is asked, and what the prompt says beside the phase."""

    run_id: str | None = None
    attempt: int | None = None
    fence: RunFence | None = None
    run_context: Mapping[str, Any] = field(default_factory=dict)
    rules: str = ""


@dataclass(frozen=True, slots=True)
class BuilderAnswer:
    """A builder's reply before it touches any file: its raw text, and the edits in it or why there are none.

    ``is_misfit`` says that the text holds edits, and only their form keeps them from being used: it may be mended.
    """

    answer: Answer
    reply: BuilderReply | None
    error: str | None
    is_misfit: bool = False


class AsyncLlmService:
    """Builder, auditor and agents over one door. Close the door, not this."""

    def __init__(self, door: CallDoor) -> None:
        self._door = door

    async def execute_builder_phase(
        self,
        phase_spec: PhaseSpec | Mapping[str, Any],
        file_context: Mapping[str, Any],
        run_id: str | None = None,
        phase_id: str | None = None,
        run_context: Mapping[str, Any] | None = None,
        project_rules: str | None = None,
        run_hints: Sequence[str] | str | None = None,
    ) -> BuilderResult:
        """Let the builder of this phase change the given files, in memory.

        Args:
            phase_spec: ``phase_id, description, task_category`` ("general")``, complexity`` ("medium")``,
                acceptance_criteria, allowed_paths``; only ``description`` is needed.
            file_context: ``{"existing_files": {path: text}}``.
            run_id, phase_id: where the usage is booked; a run of the database brings its caps, overrides and notes.
            run_context: ``{"model_overrides": {"builder": {"core_backend:medium": "gpt-4o"}}}``.
            run_hints: reasons why earlier attempts were not kept.

        Raises:
            PlanError: ``phase_spec`` has a key or a value that no phase has.
            RequestRefused: a file of ``file_context`` is not a text.
            QuotaExhausted, NoRoute, MissingKey, ProviderError: see ``CallDoor.ask``. A reply that cannot be used is not
                an error but ``success=False``: it was paid for and is booked.
        """
        phase = phase_spec_of(phase_spec, phase_id)
        files = _checked_files(file_context.get("existing_files") or {})
        account = PhaseAccount(run_id, run_context=run_context or {}, rules=project_rules or "")
        hints = (run_hints,) if isinstance(run_hints, str) else tuple(run_hints or ())
        built = await self.ask_builder(phase, files, account, hints)
        return _builder_result(built, files, phase.allowed_paths)

    async def execute_auditor_review(
        self,
        patch_content: str,
        phase_spec: PhaseSpec | Mapping[str, Any],
        run_id: str | None = None,
        phase_id: str | None = None,
        run_context: Mapping[str, Any] | None = None,
        project_rules: str | None = None,
        verification_output: str | None = None,
    ) -> AuditorResult:
        """Let the auditor of this phase review a diff.

        Raises:
            PlanError: see ``execute_builder_phase``.
            QuotaExhausted, NoRoute, MissingKey, ProviderError: see ``CallDoor.ask``. A verdict that cannot be used,
                also not when asked for once more, comes back as ``approved=False`` with ``error``.
        """
        phase = phase_spec_of(phase_spec, phase_id)
        account = PhaseAccount(run_id, run_context=run_context or {}, rules=project_rules or "")
        return await self.ask_auditor(phase, patch_content, verification_output, account)

    async def complete(
        self,
        role: str,
        messages: Sequence[ChatMessage | Mapping[str, str]],
        run_id: str | None = None,
        phase_id: str | None = None,
        run_context: Mapping[str, Any] | None = None,
        task_category: str = "general",
        complexity: str = "medium",
        max_output_tokens: int = AGENT_OUTPUT_TOKENS,
        **unbounded: Never,
    ) -> Completion:
        """Let an auxiliary agent answer; ``role`` is ``agent:<name>``, messages are ``{"role": …, "content": …}``.

        Args:
            run_id: where the usage is booked; the notes of a run of the database come before the messages.
            max_output_tokens: the longest answer, thinking included; all of it is reserved before the call.
            unbounded: nothing. Whatever else an SDK takes (tools, n, service_tier, previous_response_id, …) is refused
                by name, because it may cost more than can be reserved.

        Raises:
            RequestRefused: a message is more than text, the answer would have no room, or there is such an argument.
            QuotaExhausted, NoRoute, MissingKey, ProviderError: see ``CallDoor.ask``.
        """
        if unbounded:
            raise RequestRefused(f"complete takes no {', '.join(map(repr, unbounded))}.", hint=_ONLY_TEXT)
        own = _checked_messages(messages)
        if type(max_output_tokens) is not int or max_output_tokens < 1:
            raise RequestRefused(f"An answer of {max_output_tokens!r} tokens says nothing.", hint="Ask for 1 or more.")
        notes = await self._door.notes(run_id)
        sent = agent_messages(own, notes)
        ask = Ask(
            role, sent, max_output_tokens, task_category, complexity, run_id, phase_id, run_context=run_context or {},
            rehearsed_reply="This is a rehearsal: no model was asked.",
        )  # fmt: skip
        answer = await self._door.ask(ask, notes)
        return Completion(**_accounting((answer,)), text=answer.text)

    async def ask_builder(
        self,
        phase: PhaseSpec,
        files: Mapping[str, str],
        account: PhaseAccount,
        hints: Sequence[str] = (),
        repair: Repair | None = None,
    ) -> BuilderAnswer:
        """The builder's reply to a phase, parsed but not applied; with ``repair`` the one that mends an earlier one."""
        notes = await self._door.notes(account.run_id)
        messages = builder_messages(phase, files, account.rules, notes, hints, repair)
        scripted = rehearsed_edits(phase, files)
        answer = await self._door.ask(_ask("builder", messages, BUILDER_OUTPUT_TOKENS, phase, account, scripted), notes)
        try:
            return BuilderAnswer(answer, parse_edits(_whole(answer)), None)
        except UnusableReply as error:
            return BuilderAnswer(answer, None, error.reason, is_misfit=isinstance(error, EditMisfit))

    async def ask_auditor(
        self,
        phase: PhaseSpec,
        diff: str,
        verification: str | None,
        account: PhaseAccount,
        *,
        is_fuzzy: bool = False,
    ) -> AuditorResult:
        """The auditor's verdict on a diff; asked for once more when it cannot be read (contract 21).

        ``is_fuzzy`` says that lines of it were put where they most likely belong, which the auditor is told.
        """
        answers: list[Answer] = []
        error = ""
        for _ in range(VERDICT_TRIES):
            notes = await self._door.notes(account.run_id)
            messages = auditor_messages(phase, diff, verification, account.rules, notes, is_fuzzy=is_fuzzy)
            scripted = rehearsed_verdict(phase, account.attempt or 1)
            ask = _ask("auditor", messages, AUDITOR_OUTPUT_TOKENS, phase, account, scripted)
            answers.append(await self._door.ask(ask, notes))
            try:
                return _auditor_result(parse_verdict(_whole(answers[-1])), answers)
            except UnusableReply as unusable:
                error = unusable.reason
        return AuditorResult(**_accounting(answers), error=f"The auditor's verdict cannot be used: {error}")


def phase_spec_of(value: PhaseSpec | Mapping[str, Any], phase_id: str | None = None) -> PhaseSpec:
    """A PhaseSpec from a library caller's mapping; ``phase_id``, where given, wins over the one in it.

    A value of None counts as left out. A phase needs a description, or at least a name.

    Raises:
        PlanError: every wrong key and value at once.
    """
    if isinstance(value, PhaseSpec):
        return replace(value, phase_id=phase_id or value.phase_id)
    given = {key: found for key, found in value.items() if found is not None}
    problems = tuple(Problem(message, where="phase_spec") for message in _objections(given))
    if problems:
        raise PlanError(problems)
    own_id = phase_id or given.get("phase_id") or "phase"
    texts = {"name": own_id, "description": "", **given, "phase_id": own_id}
    return PhaseSpec(**{**texts, **{key: tuple(given[key]) for key in _LISTS if key in given}})


def _objections(given: Mapping[str, Any]) -> Iterator[str]:
    unknown = sorted(set(map(str, given)) - set(_PHASE_KEYS))
    if unknown:
        yield f"unknown key {', '.join(map(repr, unknown))}; a phase has {', '.join(_PHASE_KEYS)}"
    for key in _TEXTS:
        if not isinstance(given.get(key, ""), str):
            yield f"{key} must be a text, not {type(given[key]).__name__}"
    for key in _LISTS:
        listed = given.get(key, ())
        if not isinstance(listed, (list, tuple)) or not all(isinstance(entry, str) for entry in listed):
            yield f"{key} must be a list of texts"
    if given.get("complexity", "medium") not in COMPLEXITIES:
        yield f"complexity must be one of {', '.join(COMPLEXITIES)}, not {given['complexity']!r}"
    if not given.get("description") and not given.get("name"):
        yield "description is missing: nothing says what to do"


def _ask(
    role: str, messages: tuple[ChatMessage, ...], limit: int, phase: PhaseSpec, account: PhaseAccount, scripted: str
) -> Ask:
    return Ask(
        role=role,
        messages=messages,
        max_output_tokens=limit,
        category=phase.task_category,
        complexity=phase.complexity,
        run_id=account.run_id,
        phase_id=phase.phase_id,
        attempt=account.attempt,
        run_context=account.run_context,
        fence=account.fence,
        rehearsed_reply=scripted,
    )


def _whole(answer: Answer) -> str:
    """The reply's text, unless it ends in the middle or is a refusal."""
    if answer.finish_reason == "length":
        raise UnusableReply("the reply was cut off at its length limit; make a smaller change")
    if answer.finish_reason == "refused":
        raise UnusableReply("the model refused to answer")
    return answer.text


def _builder_result(built: BuilderAnswer, files: Mapping[str, str], allowed_paths: Sequence[str]) -> BuilderResult:
    result = BuilderResult(**_accounting((built.answer,)), error=built.error)
    if built.reply is None:
        return result
    try:
        after = edited_files(files, built.reply.edits, allowed_paths)
    except UnusableReply as error:
        return replace(result, error=error.reason, summary=built.reply.summary)
    patch = patch_of(files, after)
    return replace(result, success=True, patch_content=patch, summary=built.reply.summary, files=tuple(sorted(after)))


def _auditor_result(verdict: Verdict, answers: Sequence[Answer]) -> AuditorResult:
    return AuditorResult(
        **_accounting(answers), approved=verdict.approved, issues_found=verdict.issues, summary=verdict.summary
    )


def _accounting(answers: Sequence[Answer]) -> dict[str, Any]:
    last = answers[-1].decision
    costs = [answer.cost_nano for answer in answers]
    nano = None if None in costs else sum(cost for cost in costs if cost is not None)
    prompt_tokens = sum(answer.prompt_tokens for answer in answers)
    completion_tokens = sum(answer.completion_tokens for answer in answers)
    return {
        "tokens_used": prompt_tokens + completion_tokens,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "model_used": last.model,
        "reasons": last.reasons,
        "cost_usd": None if nano is None else Decimal(nano) / NANO_PER_USD,
    }


def _checked_messages(messages: Sequence[ChatMessage | Mapping[str, str]]) -> tuple[ChatMessage, ...]:
    """
    Raises:
        RequestRefused: there are none, or one is not ``{"role": …, "content": …}`` with plain text.
    """
    if not messages:
        raise RequestRefused("There is no message to send.", hint='Give at least {"role": "user", "content": "…"}.')
    return tuple(_message(number, message) for number, message in enumerate(messages, start=1))


def _message(number: int, message: ChatMessage | Mapping[str, str]) -> ChatMessage:
    if isinstance(message, ChatMessage):
        message = {"role": message.role, "content": message.content}
    role, content = message.get("role"), message.get("content")
    if further := message.keys() - _MESSAGE_KEYS:
        raise RequestRefused(f"Message {number} has {', '.join(map(repr, sorted(further)))}.", hint=_ONLY_TEXT)
    if not _is_message_role(role):
        roles = f"Roles are {', '.join(_MESSAGE_ROLES)}."
        raise RequestRefused(f"Message {number} cannot be sent with the role {role!r}.", hint=roles)
    if not isinstance(content, str):
        kinds = ", ".join(_kinds(content)) or type(content).__name__
        raise RequestRefused(f"Message {number} cannot be sent: its content is no text ({kinds}).", hint=_ONLY_TEXT)
    return ChatMessage(role, content)


def _kinds(content: object) -> list[str]:
    """What the parts of a content call themselves: text, image_url, input_file."""
    parts = content if isinstance(content, (list, tuple)) else ()
    return [str(part["type"]) for part in parts if isinstance(part, Mapping) and "type" in part]


def _checked_files(files: Mapping[str, object]) -> Mapping[str, str]:
    """
    Raises:
        RequestRefused: one of them is not a text.
    """
    found = {path: text for path, text in files.items() if isinstance(text, str)}
    for path in files.keys() - found.keys():
        raise RequestRefused(f"The file {path!r} is no text but {type(files[path]).__name__}.", hint=_ONLY_TEXT)
    return found


def _is_message_role(role: object) -> TypeGuard[Literal["system", "user", "assistant"]]:
    return role in _MESSAGE_ROLES
