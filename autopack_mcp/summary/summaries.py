"""The one place that tools, page, card and command line ask what to show.

It owns the reading of summaries, asynchronous for servers and synchronous (``*_now``) for the command line, over one
list of query functions. It writes nothing and words nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from autopack_mcp.clock import Clock
from autopack_mcp.config.settings import ProviderSettings, Settings
from autopack_mcp.database.engine import Database
from autopack_mcp.runs.overview import supervisors_known
from autopack_mcp.summary.context_block import context_block
from autopack_mcp.summary.kept import KeptAnswers
from autopack_mcp.summary.notices import config_notice
from autopack_mcp.summary.orders import OrderView, order_views
from autopack_mcp.summary.run import RunList, RunSummary, run_summary
from autopack_mcp.summary.run_list import RUNS_SHOWN, current_run, list_runs

if TYPE_CHECKING:
    # Usage and models are imported when they are asked for: ``autopack-mcp status`` shows neither and must be quick.
    from autopack_mcp.summary.comparison import Comparison
    from autopack_mcp.summary.explanation import ModelExplanation
    from autopack_mcp.summary.models import ModelMapping
    from autopack_mcp.summary.outlook import RoutingSources
    from autopack_mcp.summary.run_usage import RunUsage
    from autopack_mcp.summary.scorecard import ModelScorecard, ScorecardWish
    from autopack_mcp.summary.usage import UsageSummary
    from autopack_mcp.usage.export import Export
    from autopack_mcp.usage.prices import UnitPrices
    from autopack_mcp.usage.spans import Moment


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
        self._kept = KeptAnswers(database, clock)

    # ── for servers ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self, run_id: str) -> RunSummary:
        """One run, the same object as before while nothing has changed. Raises RunNotFound."""
        return await self._kept.ask(("run", run_id), lambda: self._database.read(self._run, run_id))

    async def current(self) -> RunSummary | RunList:
        """The run that is meant when none is named, or the list of the unfinished ones; kept as ``run`` is."""
        return await self._kept.ask("current", lambda: self._database.read(self._current))

    async def runs(self, limit: int = RUNS_SHOWN, cursor: str | None = None) -> RunList:
        """Runs, newest first. Raises RequestRefused for a bad limit or cursor."""
        return await self._database.read(self._runs, limit, cursor)

    async def usage(
        self,
        period: str = "week",
        offset: int = 0,
        *,
        from_: Moment | None = None,
        to: Moment | None = None,
        with_runs: bool = False,
    ) -> UsageSummary:
        """What was spent in a window or stretch. Raises RequestRefused for what is no past or present time."""
        return await self._database.read(self._usage, period, offset, from_, to, with_runs=with_runs)

    async def run_usage(self, run_id: str) -> RunUsage:
        """What one run cost, by tier, phase, role and model. Raises RunNotFound."""
        return await self._database.read(self._run_usage, run_id)

    async def models(
        self, run_id: str | None = None, category: str | None = None, complexity: str | None = None
    ) -> ModelMapping:
        """Which model is used for what. Raises RunNotFound, RequestRefused."""
        return await self._database.read(self._models, run_id, category, complexity)

    async def explain(self, role: str, category: str, complexity: str, run_id: str | None = None) -> ModelExplanation:
        """Which model would answer, and why. Raises RunNotFound, RequestRefused."""
        return await self._database.read(self._explain, role, category, complexity, run_id)

    async def orders(self, *, with_withdrawn: bool = False) -> tuple[OrderView, ...]:
        """The standing orders in force, or the newest of all there ever were."""
        return await self._database.read(order_views, with_withdrawn=with_withdrawn)

    async def scorecard(self, wish: ScorecardWish) -> ModelScorecard:
        """How each model did on the person's own work. Raises RequestRefused."""
        return await self._database.read(self._scorecard, wish)

    async def compare(self, run_id: str, other: str | None = None) -> Comparison:
        """Two runs side by side; without another one, the run it was forked from and it.

        Raises RunNotFound, RequestRefused.
        """
        from autopack_mcp.summary.comparison import compared, facts_of_runs  # Lazy, as said above.

        a, b = await self._database.read(facts_of_runs, run_id, other, self._clock.now())
        return await compared(a, b)

    async def context_block(self, run_id: str) -> str:
        """The run as Markdown to paste. Raises RunNotFound."""
        return context_block(await self.run(run_id))

    async def check_run(self, run_id: str) -> None:
        """See that there is such a run, or a call of it. Raises RunNotFound."""
        await self._database.read(self._check_run, run_id)

    # ── for the command line ─────────────────────────────────────────────────────────────────────────────────────────

    def run_now(self, run_id: str) -> RunSummary:
        """See ``run``."""
        return self._database.read_now(self._run, run_id)

    def current_now(self) -> RunSummary | RunList:
        """See ``current``."""
        return self._database.read_now(self._current)

    def runs_now(self, limit: int = RUNS_SHOWN, cursor: str | None = None) -> RunList:
        """See ``runs``."""
        return self._database.read_now(self._runs, limit, cursor)

    def usage_now(
        self,
        period: str = "week",
        offset: int = 0,
        *,
        from_: Moment | None = None,
        to: Moment | None = None,
        with_runs: bool = False,
    ) -> UsageSummary:
        """See ``usage``."""
        return self._database.read_now(self._usage, period, offset, from_, to, with_runs=with_runs)

    def run_usage_now(self, run_id: str) -> RunUsage:
        """See ``run_usage``."""
        return self._database.read_now(self._run_usage, run_id)

    def check_run_now(self, run_id: str) -> None:
        """See ``check_run``."""
        self._database.read_now(self._check_run, run_id)

    def export_now(self, export: Export) -> Generator[str, None, None]:
        """The ledger's rows as text, in pieces that are read while they are taken; close it to stop before the end."""
        from autopack_mcp.usage.export import exported  # Lazy, as said above.

        return self._database.stream_now(exported, export)

    def models_now(
        self, run_id: str | None = None, category: str | None = None, complexity: str | None = None
    ) -> ModelMapping:
        """See ``models``."""
        return self._database.read_now(self._models, run_id, category, complexity)

    def explain_now(self, role: str, category: str, complexity: str, run_id: str | None = None) -> ModelExplanation:
        """See ``explain``."""
        return self._database.read_now(self._explain, role, category, complexity, run_id)

    def orders_now(self, *, with_withdrawn: bool = False) -> tuple[OrderView, ...]:
        """See ``orders``."""
        return self._database.read_now(order_views, with_withdrawn=with_withdrawn)

    def scorecard_now(self, wish: ScorecardWish) -> ModelScorecard:
        """See ``scorecard``."""
        return self._database.read_now(self._scorecard, wish)

    def context_block_now(self, run_id: str) -> str:
        """See ``context_block``."""
        return context_block(self.run_now(run_id))

    # ── the questions ────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self, connection: Connection, run_id: str) -> RunSummary:
        return run_summary(connection, run_id, self._clock.now(), self._settings)

    def _current(self, connection: Connection) -> RunSummary | RunList:
        return current_run(connection, self._clock.now(), self._settings)

    def _runs(self, connection: Connection, limit: int, cursor: str | None) -> RunList:
        return replace(list_runs(connection, self._clock.now(), limit, cursor), notice=config_notice(self._settings))

    def _usage(
        self,
        connection: Connection,
        period: str,
        offset: int,
        from_: Moment | None,
        to: Moment | None,
        *,
        with_runs: bool,
    ) -> UsageSummary:
        from autopack_mcp.summary.usage import usage_summary  # Lazy, as said above.

        now = self._clock.now()
        return usage_summary(connection, self._settings(), now, period, offset, from_=from_, to=to, with_runs=with_runs)

    def _check_run(self, connection: Connection, run_id: str) -> None:
        from autopack_mcp.summary.run_usage import check_run  # Lazy, as said above.

        check_run(connection, run_id)

    def _run_usage(self, connection: Connection, run_id: str) -> RunUsage:
        from autopack_mcp.summary.run_usage import run_usage  # Lazy, as said above.

        return run_usage(connection, run_id)

    def _models(
        self, connection: Connection, run_id: str | None, category: str | None, complexity: str | None
    ) -> ModelMapping:
        from autopack_mcp.summary.models import model_mapping  # Lazy, as said above.

        sources = self._sources(connection)
        return model_mapping(connection, sources, self._clock.now(), run_id, category, complexity)

    def _explain(
        self, connection: Connection, role: str, category: str, complexity: str, run_id: str | None
    ) -> ModelExplanation:
        from autopack_mcp.summary.explanation import explain_model  # Lazy, as said above.

        sources = self._sources(connection)
        return explain_model(connection, sources, self._clock.now(), role, category, complexity, run_id)

    def _scorecard(self, connection: Connection, wish: ScorecardWish) -> ModelScorecard:
        from autopack_mcp.summary.scorecard import model_scorecard  # Lazy, as said above.

        return model_scorecard(connection, self._clock.now(), wish)

    def _sources(self, connection: Connection) -> RoutingSources:
        from autopack_mcp.summary.outlook import RoutingSources  # Lazy, as said above.

        return RoutingSources(self._settings(), self._keys_that_count(connection), self._unit_price)

    def _keys_that_count(self, connection: Connection) -> Callable[[ProviderSettings], bool]:
        now = self._clock.now()
        alive = [one for one in supervisors_known(connection) if one.is_alive(now)]
        if not alive:
            return self._has_key
        # A chat client starts its servers with a bare environment; the calls are made by the supervisor (contract 29).
        seen = frozenset(variable for one in alive for variable in one.key_variables)
        return lambda provider: provider.api_key_env is None or provider.api_key_env in seen
