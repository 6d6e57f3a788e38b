"""What a call leaves beside its numbers: its words, its span, and what it was an experiment with.

It owns how much of that there is for a call that was answered, failed or was cut; it books nothing. ``calls`` makes one
of these for every try and writes it in the transaction that settles it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from autopack_mcp.call_spans import call_span
from autopack_mcp.providers.base import ChatMessage, ProviderReply
from autopack_mcp.traces.experiments import Experiment, write_experiment
from autopack_mcp.traces.spans import Span, write_span
from autopack_mcp.traces.texts import PackedWords, WordKeeper, Words, write_words
from autopack_mcp.usage.event import UsageEvent


@dataclass(frozen=True, slots=True)
class CallTrace:
    """What is written beside the event of one call; a part that is None is not."""

    words: PackedWords | None
    span: Span | None
    experiment: Experiment | None


def trace_of(
    event: UsageEvent,
    messages: Sequence[ChatMessage],
    max_output_tokens: int,
    reply: ProviderReply | None,
    *,
    keeper: WordKeeper | None,
    experiment: Experiment | None,
    at: datetime,
) -> CallTrace | None:
    """What a booked call leaves; None when that is nothing. ``reply`` is None for a call that was not answered."""

    def words() -> Words:
        asked = tuple((message.role, message.content) for message in messages)
        text, reason = (None, None) if reply is None else (reply.text, reply.finish_reason)
        return Words(asked, max_output_tokens, text, reason)

    packed = None if keeper is None else keeper.packed(words)
    model, reason = (None, None) if reply is None else (reply.model, reply.finish_reason)
    span = call_span(
        event, at, max_output_tokens=max_output_tokens, response_model=model, finish_reason=reason
    )  # fmt: skip
    if packed is None and span is None and experiment is None:
        return None
    return CallTrace(packed, span, experiment)


def write_trace(connection: Connection, event: UsageEvent, trace: CallTrace, at: datetime) -> None:
    """Write it down, in the transaction that books the call."""
    if trace.words is not None:
        write_words(
            connection, trace.words, call_id=event.call_id, run_id=event.run_id, phase_id=event.phase_id,
            role=event.role, model=event.model, at=at,
        )  # fmt: skip
    if trace.span is not None:
        write_span(connection, trace.span)
    if trace.experiment is not None:
        write_experiment(connection, event.call_id, trace.experiment, at)
