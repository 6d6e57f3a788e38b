"""Sends a recorded prompt again, perhaps with other words or to another model, and lays the two answers side by side.

It owns what may be changed about a prompt and how two answers are compared; the call goes through the one door, so it
is reserved, capped and recorded like any other. The command line and ``library`` ask it: whoever has the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import unified_diff
from typing import Any, Literal, cast

from sqlalchemy import Connection

from autopack_mcp.calls import Answer, Ask, CallDoor
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import RequestRefused
from autopack_mcp.money import usd
from autopack_mcp.providers.base import ChatMessage
from autopack_mcp.traces.experiments import Experiment
from autopack_mcp.traces.texts import KeptCall, kept_call, newest_kept
from autopack_mcp.usage.event import UsageEvent
from autopack_mcp.usage.rollup import booked_event

OLD_SHOWN_CHARS = 80  # Of a text that a prompt does not hold, when it is repeated.


@dataclass(frozen=True, slots=True)
class PromptEdits:
    """What is to be different: another model, texts replaced wherever they stand, words behind the last question.

    Raises:
        RequestRefused: a text to be replaced is empty, or the answer would have no room.
    """

    model: str | None = None
    replace: tuple[tuple[str, str], ...] = ()
    append: str | None = None
    max_output_tokens: int | None = None

    def __post_init__(self) -> None:
        if any(not old for old, _ in self.replace):
            raise RequestRefused("A text to be replaced is empty.", hint="Name the words that are to be replaced.")
        if self.max_output_tokens is not None and self.max_output_tokens < 1:
            message = f"An answer of {self.max_output_tokens} tokens says nothing."
            raise RequestRefused(message, hint="Ask for 1 or more.")

    def told(self, clean: Callable[[str], str]) -> dict[str, Any]:
        """Those that were asked for, by name, each text without its secrets: as the experiment's row keeps them."""
        said = {
            "model": self.model,
            "replace": [[clean(old), clean(new)] for old, new in self.replace] or None,
            "append": None if self.append is None else clean(self.append),
            "max_output_tokens": self.max_output_tokens,
        }
        return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Take:
    """One of the two answers, and what it came to. ``reply`` is None for a call that was not answered.

    Numbers are None where the call itself is no longer recorded; ``cost_usd`` also where no price is known. Of an
    experiment they are the sum over all its tries.
    """

    call_id: str
    model: str
    reply: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class RetriedPrompt:
    """Both answers, the unified diff from the first to the second, and how many secrets the prompt had lost before."""

    first: Take
    second: Take
    diff: str
    redactions: int


AS_IT_WAS = PromptEdits()


class Experiments:
    """Retries prompts over one door. Every part is given by name; close the door, not this.

    ``clean`` takes secrets out of a text before it is written down.
    """

    def __init__(self, *, door: CallDoor, database: Database, clean: Callable[[str], str]) -> None:
        self._door = door
        self._database = database
        self._clean = clean

    async def retry_prompt(
        self, call_id: str, edits: PromptEdits = AS_IT_WAS, *, author: str, client: str
    ) -> RetriedPrompt:
        """Ask a model what was asked in a recorded call, with ``edits``; without any it is the same question again.

        It belongs to no run: it counts against its account, its role and all calls, in the windows of today, but never
        against the caps of the run that first asked, and never as a rehearsal.

        Raises:
            RequestRefused: there is no such call, its words are not kept, or an edit does not fit them. Nothing was
                bought.
            QuotaExhausted, NoRoute, MissingKey, ProviderError: see ``CallDoor.ask``.
        """
        kept, event = await self._database.read(_recorded, call_id)
        words = kept.words
        answer = await self._door.ask(
            Ask(
                role=kept.role,
                messages=edited(words.messages, edits),
                max_output_tokens=edits.max_output_tokens or words.max_output_tokens,
                category=(event.category if event else None) or "general",
                # As a person's own choice: at the soft limit nothing takes its place, and the answer is of this model.
                run_context={"model_overrides": {kept.role: {"*:*": edits.model or kept.model}}},
                experiment=Experiment(call_id, edits.told(self._clean), author, client),
            )
        )
        first, second = _first_take(kept, event), _second_take(answer)
        return RetriedPrompt(first, second, difference(first, second), kept.redactions)


def edited(messages: Sequence[tuple[str, str]], edits: PromptEdits) -> tuple[ChatMessage, ...]:
    """The messages as they are to be sent.

    Raises:
        RequestRefused: a text that is to be replaced stands in none of them.
    """
    contents = [content for _, content in messages]
    for old, new in edits.replace:
        if not any(old in content for content in contents):
            shown = old if len(old) <= OLD_SHOWN_CHARS else f"{old[:OLD_SHOWN_CHARS]}…"
            raise RequestRefused(
                f"The prompt does not hold {shown!r}.", hint="Look at it with: autopack-mcp retry-prompt CALL --show"
            )
        contents = [content.replace(old, new) for content in contents]
    roles = [role for role, _ in messages]
    if edits.append is not None:
        if roles and roles[-1] == "user":
            contents[-1] = f"{contents[-1]}\n\n{edits.append}"
        else:
            roles, contents = [*roles, "user"], [*contents, edits.append]
    return tuple(ChatMessage(_role(role), content) for role, content in zip(roles, contents, strict=True))


def difference(first: Take, second: Take) -> str:
    """A unified diff of two replies, line by line; empty when both say the same."""
    before, after = ((take.reply or "").splitlines() for take in (first, second))
    named = [f"{take.call_id} {take.model}" for take in (first, second)]
    return "\n".join(unified_diff(before, after, named[0], named[1], lineterm=""))


def recorded_call(connection: Connection, call_id: str) -> KeptCall:
    """The words of a call.

    Raises:
        RequestRefused: there is no such call, or its words are not kept.
    """
    return _recorded(connection, call_id)[0]


def _recorded(connection: Connection, call_id: str) -> tuple[KeptCall, UsageEvent | None]:
    kept, booked = kept_call(connection, call_id), booked_event(connection, call_id)
    if kept is not None:
        return kept, booked[0] if booked else None
    newest = newest_kept(connection)
    hint = f"Those kept are, newest first: {', '.join(newest)}." if newest else "No call has its words kept."
    if booked is None:
        raise RequestRefused(f"There is no call {call_id!r}.", hint=hint)
    raise RequestRefused(f"The words of call {call_id!r} are not kept: {_why_gone(booked[0])}.", hint=hint)


def _why_gone(event: UsageEvent) -> str:
    if event.status == "external":
        return "it was made elsewhere"
    if event.status == "expired":
        return "it was never reported back"
    return "they were deleted by age (keep_prompts_days) or not wanted (store_prompts)"


def _first_take(kept: KeptCall, event: UsageEvent | None) -> Take:
    said = (kept.call_id, kept.model, kept.words.reply, kept.words.finish_reason)
    if event is None:
        return Take(*said, None, None, None)
    cost = None if event.cost_nano is None else usd(event.cost_nano)
    return Take(*said, event.counts.total_input, event.counts.output, cost)


def _second_take(answer: Answer) -> Take:
    said = (answer.booked[-1].call_id, answer.decision.model, answer.text, answer.finish_reason)
    cost = None if answer.cost_nano is None else usd(answer.cost_nano)
    return Take(*said, answer.prompt_tokens, answer.completion_tokens, cost)


def _role(role: str) -> Literal["system", "user", "assistant"]:
    # What was packed was sent, so it is one of these.
    return cast(Literal["system", "user", "assistant"], role)
