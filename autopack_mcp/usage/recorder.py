"""Books calls that were made elsewhere: an orchestrator with its own client reports what it spent.

It prices the event and hands it to the ledger, which counts it against every cap (contract 4). Calls made through our
own door never come this way: they are reserved and settled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from autopack_mcp.config.settings import provider_id
from autopack_mcp.usage.event import ReportedUsage, UsageEvent, UsageLine
from autopack_mcp.usage.prices import PriceBook
from autopack_mcp.usage.raw_usage import kept_usage
from autopack_mcp.usage.reading import read_inference_geo


class UsageRecorder:
    """Records usage events of other people's calls. ``book`` writes one and returns after its commit."""

    def __init__(self, book: Callable[[UsageEvent], None], price_book: Callable[[], PriceBook]) -> None:
        self.book = book
        self._price_book = price_book

    def record_usage(self, event: UsageEvent) -> UsageEvent:
        """Book ``event`` once and return it as it was booked: status ``external``, with its cost where it is known.

        Repeating it with the same token counts changes nothing. A cap that it passes is recorded as breached; nothing
        can be denied any more. A cost that the event brings along stands; otherwise its lines, tier, processing and
        tool calls are priced at ``occurred_at``.

        Raises:
            UsageConflict: the same ``call_id`` is already booked with other numbers.
            ConfigError: the provider is not configured.
        """
        raw_usage = None if event.raw_usage is None else kept_usage(event.raw_usage)
        provider = provider_id(event.provider)
        external = self._priced(replace(event, provider=provider, status="external", raw_usage=raw_usage))
        self.book(external)
        return external

    def _priced(self, event: UsageEvent) -> UsageEvent:
        if event.cost_nano is not None:
            return event
        lines = event.lines or (UsageLine(event.model, event.counts),)
        geo = read_inference_geo(event.raw_usage or {})
        usage = ReportedUsage(lines, event.service_tier, geo, event.tool_calls)
        price = self._price_book().price_usage(event.provider, event.model, usage, event.occurred_at, event.processing)
        if price is None:
            return replace(event, price_version=None)  # What has no cost names no price.
        return replace(event, cost_nano=price.cost_nano, price_version=price.version)
