"""The one place that tools, page, card and command line ask what to show.

It owns the reading of summaries, asynchronous for servers and synchronous (``*_now``) for the command line, over one
list of query functions. It writes nothing and words nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from autopack_mcp.clock import Clock
from autopack_mcp.config import ProviderSettings, Settings
from autopack_mcp.database.engine import Database
from autopack_mcp.summary.models import ModelExplanation, ModelMapping
from autopack_mcp.summary.run import RunList, RunSummary
from autopack_mcp.summary.usage import UsageSummary
from autopack_mcp.usage.prices import UnitPrices


class Summaries:
    """Every part is given by name; safe for concurrent callers. Each answer is read in one transaction.

    ``has_key`` is asked only while no supervisor is alive: otherwise the keys that the supervisor sees are what counts.
    """

    def __init__(
        self,
        *,
        database: Database,
        settings: Callable[[], Settings],
        clock: Clock,
        has_key: Callable[[ProviderSettings], bool],
        unit_price: Callable[[str], UnitPrices | None],
    ) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._has_key = has_key
        self._unit_price = unit_price

    async def run(self, run_id: str) -> RunSummary:
        """One run. Raises RunNotFound."""
        raise NotImplementedError

    async def current(self) -> RunSummary | RunList:
        """The run that is meant when none is named, or the list of the unfinished ones."""
        raise NotImplementedError

    async def runs(self, limit: int = 20, cursor: str | None = None) -> RunList:
        """Runs, newest first. Raises RequestRefused for a bad limit or cursor."""
        raise NotImplementedError

    async def usage(self, period: str = "week", offset: int = 0) -> UsageSummary:
        """What was spent in a window. Raises RequestRefused for a bad period or offset."""
        raise NotImplementedError

    async def models(self, run_id: str | None = None) -> ModelMapping:
        """Which model is used for what. Raises RunNotFound."""
        raise NotImplementedError

    async def explain(self, role: str, category: str, complexity: str, run_id: str | None = None) -> ModelExplanation:
        """Which model would answer, and why. Raises RunNotFound, RequestRefused."""
        raise NotImplementedError

    async def context_block(self, run_id: str) -> str:
        """The run as Markdown to paste. Raises RunNotFound."""
        raise NotImplementedError

    def run_now(self, run_id: str) -> RunSummary:
        """See ``run``."""
        raise NotImplementedError

    def current_now(self) -> RunSummary | RunList:
        """See ``current``."""
        raise NotImplementedError

    def runs_now(self, limit: int = 20, cursor: str | None = None) -> RunList:
        """See ``runs``."""
        raise NotImplementedError

    def usage_now(self, period: str = "week", offset: int = 0) -> UsageSummary:
        """See ``usage``."""
        raise NotImplementedError

    def models_now(self, run_id: str | None = None) -> ModelMapping:
        """See ``models``."""
        raise NotImplementedError

    def explain_now(self, role: str, category: str, complexity: str, run_id: str | None = None) -> ModelExplanation:
        """See ``explain``."""
        raise NotImplementedError

    def context_block_now(self, run_id: str) -> str:
        """See ``context_block``."""
        raise NotImplementedError
