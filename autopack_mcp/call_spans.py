"""The span of a call to a model, made from the event that is booked for it, in the names of OpenTelemetry's GenAI.

It owns which of our facts stands under which of those names; never money, which only the ledger knows (docs/traces.md).
The door writes it with the settlement, the ledger with an expiry, so each call has exactly one.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from autopack_mcp.traces.spans import Span, SpanStatus, owner_span_id, span_id_of
from autopack_mcp.usage.event import UsageEvent

# What OpenTelemetry calls accounts that we call by shorter names; others are named as they are.
_PROVIDERS = {"google": "gcp.gemini"}


def call_span(
    event: UsageEvent,
    ended_at: datetime,
    *,
    max_output_tokens: int | None = None,
    response_model: str | None = None,
    finish_reason: str | None = None,
) -> Span | None:
    """The span of a booked call; None outside a run, for then it belongs to no trace."""
    if event.run_id is None:
        return None
    said = {
        "gen_ai.request.max_tokens": max_output_tokens,
        "gen_ai.response.model": response_model,
        "gen_ai.response.id": event.response_id,
        "gen_ai.response.finish_reasons": None if finish_reason is None else [finish_reason],
        "error.type": None if event.status == "ok" else event.status,
    }
    status: SpanStatus = "ok" if event.status == "ok" else "error"
    return Span(
        span_id=span_id_of(event.run_id, "llm_call", event.call_id),
        run_id=event.run_id,
        kind="llm_call",
        name=f"chat {event.model}",
        started_at=event.started_at or event.occurred_at,
        # A clock may have been set back meanwhile.
        ended_at=max(ended_at, event.started_at or event.occurred_at),
        parent_id=owner_span_id(event.run_id, event.phase_id, event.attempt),
        status=status,
        phase_id=event.phase_id,
        attempt=event.attempt,
        call_id=event.call_id,
        attributes={**_asked(event), **{name: value for name, value in said.items() if value}, **_usage(event)},
    )


def _asked(event: UsageEvent) -> dict[str, Any]:
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _PROVIDERS.get(event.provider, event.provider),
        "gen_ai.request.model": event.model,
        "autopack.call_id": event.call_id,
        "autopack.role": event.role,
        "autopack.purpose": event.purpose,
    }


def _usage(event: UsageEvent) -> dict[str, int]:
    """What the provider said; a call that is charged by its reservation has used nobody knows how much."""
    if event.usage_source not in ("provider", "partial"):
        return {}
    counts = event.counts
    return {
        "gen_ai.usage.input_tokens": counts.total_input,
        "gen_ai.usage.output_tokens": counts.output,
        "gen_ai.usage.cache_read.input_tokens": counts.cache_read,
        "gen_ai.usage.cache_write.input_tokens": counts.cache_write,
        "gen_ai.usage.reasoning.output_tokens": counts.reasoning,
    }
