"""One try at a provider call, from its reservation to the row it becomes.

It owns what a finished, failed, cut or interrupted call is booked as (docs/accounting.md); it sends nothing and writes
nothing. ``calls`` makes a ``Try`` for every reservation and books the event that comes of it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime

from autopack_mcp.budgets.ledger import Reservation
from autopack_mcp.config.settings import ProviderSettings
from autopack_mcp.errors import ProviderError
from autopack_mcp.providers.base import CallObservation, ProviderReply
from autopack_mcp.routing.model_router import RouteDecision
from autopack_mcp.usage.event import ReportedUsage, Status, TokenCounts, UsageEvent, UsageSource
from autopack_mcp.usage.prices import PriceBook

ERROR_SHOWN_CHARS = 500


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt at a provider call that is promised its tokens; ``observation`` fills while it runs."""

    decision: RouteDecision
    provider: ProviderSettings
    reservation: Reservation
    reserved_at: datetime
    started_at: datetime
    observation: CallObservation = field(default_factory=CallObservation)


def answered_event(one: Try, reply: ProviderReply, prices: PriceBook) -> UsageEvent:
    """The row of a call that was answered."""
    one.observation.response_id = reply.response_id
    one.observation.request_id = reply.request_id
    if reply.usage is None:
        # An answer without its last word on usage is charged in full rather than guessed.
        what = "no usage" if one.observation.usage is None else "only a part of its usage"
        return _unfinished_event(one, "ok", f"the provider reported {what}", prices)
    return _priced(one, "ok", "provider", reply.usage, prices)


def failed_event(one: Try, error: ProviderError, prices: PriceBook) -> UsageEvent:
    """The row of a call that the provider did not answer."""
    reason = str(error)[:ERROR_SHOWN_CHARS]
    seen = one.observation
    if error.billed == "no" and seen.usage is None:
        event = _event(one, "failed", "provider", TokenCounts())
        return replace(event, cost_nano=0, error=reason)
    return _unfinished_event(one, "cut" if seen.response_id or seen.usage else "failed", reason, prices)


def cut_event(one: Try, error: BaseException, prices: PriceBook) -> UsageEvent:
    """The row of a call that was sent and then cancelled, or ended by a bug of ours."""
    # The words of a foreign error may quote anything; its name says enough.
    is_cancelled = isinstance(error, asyncio.CancelledError)
    return _unfinished_event(
        one, "cut", "interrupted" if is_cancelled else f"internal error: {type(error).__name__}", prices
    )


def _unfinished_event(one: Try, status: Status, reason: str, prices: PriceBook) -> UsageEvent:
    """A call whose truth is at best half known: what was seen, or its whole reservation."""
    if one.observation.usage is not None:
        return replace(_priced(one, status, "partial", one.observation.usage, prices), error=reason)
    bound = one.reservation
    counts = TokenCounts(uncached_input=bound.bound_input, output=bound.bound_output)
    return replace(_event(one, status, "estimated", counts), cost_nano=bound.bound_nano, error=reason)


def _priced(one: Try, status: Status, source: UsageSource, usage: ReportedUsage, prices: PriceBook) -> UsageEvent:
    event = _event(one, status, source, usage.counts)
    price = prices.price_usage(event.provider, event.model, usage, one.reserved_at)
    return replace(
        event,
        cost_nano=price.cost_nano if price else None,
        price_version=price.version if price else None,
        service_tier=usage.service_tier,
        tool_calls=usage.tool_calls,
        raw_usage=usage.raw,
        lines=usage.lines,
    )


def _event(one: Try, status: Status, source: UsageSource, counts: TokenCounts) -> UsageEvent:
    promise = one.reservation
    scope = promise.scope
    return UsageEvent(
        call_id=promise.call_id,
        provider=scope.provider,
        model=one.decision.model,
        role=scope.role,
        purpose=scope.purpose,
        status=status,
        usage_source=source,
        counts=counts,
        occurred_at=one.reserved_at,
        run_id=scope.run_id,
        phase_id=scope.phase_id,
        attempt=promise.attempt,
        category=promise.category,
        response_id=one.observation.response_id,
        request_id=one.observation.request_id,
        started_at=one.started_at,
    )
