"""What a long-lived process does for traces on the side: words go when they are old enough, spans to a collector.

It owns only how often; nothing waits for it, and whatever goes wrong is tried again later. ``serve`` runs it beside the
supervisor until it ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from autopack_mcp.clock import Clock
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import AutopackError
from autopack_mcp.traces.export import SpanExporter
from autopack_mcp.traces.retention import forget, words_cutoff

log = logging.getLogger(__name__)

EXPORT_EVERY_S = 5.0  # A person who watches a run in a viewer of traces waits about so long for what has ended.
EXPORT_LIMIT_S = 300.0  # A collector that is down is asked ever more rarely, but at least so often.
FORGET_EVERY = timedelta(hours=1)


class TraceUpkeep:
    """Every part is given by name; ``run`` goes on until it is cancelled. ``exporter`` None sends nothing."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        keep_days: Callable[[], int],
        exporter: SpanExporter | None,
        wait: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._database = database
        self._clock = clock
        self._keep_days = keep_days
        self._exporter = exporter
        self._wait = wait
        self._forgot_at: datetime | None = None

    async def run(self) -> None:
        """Look after traces until somebody ends it; what has ended by then is still sent, if that is quick."""
        wait_s = EXPORT_EVERY_S
        try:
            while True:
                went_well = await self.look()
                wait_s = EXPORT_EVERY_S if went_well else min(2 * wait_s, EXPORT_LIMIT_S)
                await self._wait(wait_s)
        finally:
            if self._exporter is not None:
                await self._exporter.close()

    async def look(self) -> bool:
        """Do once what is due; False when it did not go well and may wait a little longer next time."""
        try:
            now = self._clock.now()
            if self._forgot_at is None or now - self._forgot_at >= FORGET_EVERY:
                until = words_cutoff(now, self._keep_days())
                gone = await asyncio.to_thread(forget, self._database, until, None)
                self._forgot_at = now
                if gone.words:
                    log.info("the words of %d calls were deleted by age", gone.words)
            return self._exporter is None or await self._exporter.export()
        except AutopackError as error:
            # A busy database, a models.yaml that was just broken: nothing is lost.
            log.warning("traces could not be looked after: %s", error.message)
        except Exception:  # On the side of a supervisor, which must not end for it.
            log.exception("traces could not be looked after; trying again")
        return False
