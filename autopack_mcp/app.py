"""The only place where objects are constructed and wired: one Autopack per process, and parts of it by need.

Everything else receives what it needs by name. ``cli`` and ``serve`` open an Autopack; ``library`` opens one for people
with their own loop. Parts that only a long-lived process needs are imported when they are asked for, because
``autopack-mcp status`` must start in a third of a second (docs/architecture.md).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from autopack_mcp import __version__
from autopack_mcp.clock import Clock, SystemClock
from autopack_mcp.config.settings import ProviderSettings, Settings
from autopack_mcp.database.engine import Database
from autopack_mcp.database.migrate import open_database
from autopack_mcp.errors import ConfigError, Problem
from autopack_mcp.home import CONFIG_VARIABLE, MACHINE_VARIABLE, Home, Keys, find_home
from autopack_mcp.summary.summaries import Summaries
from autopack_mcp.usage.prices import PriceBook, UnitPrices

if TYPE_CHECKING:
    from autopack_mcp.budgets.ledger import Ledger, RunFence
    from autopack_mcp.calls import CallDoor
    from autopack_mcp.config.config_file import ConfigFile
    from autopack_mcp.control.control import Control
    from autopack_mcp.experiments import Experiments
    from autopack_mcp.providers.pacing import RetryPolicy
    from autopack_mcp.routing.snapshot import SnapshotReader
    from autopack_mcp.runs.driver import RunDriver
    from autopack_mcp.runs.supervision import SupervisorKind, SupervisorRecord
    from autopack_mcp.runs.supervisor import Jobs, Supervisor
    from autopack_mcp.sandbox import Sandbox
    from autopack_mcp.traces.texts import WordKeeper
    from autopack_mcp.traces.upkeep import TraceUpkeep
    from autopack_mcp.usage.recorder import UsageRecorder


@dataclass(slots=True)
class _SettingsInForce:
    """models.yaml, first read when somebody asks: a question about a run never does, and YAML costs time to load.

    A file that became bad leaves the last good settings in force; what is wrong with it joins their warnings.
    """

    home: Home
    explicit: Path | None
    clock: Clock
    _file: ConfigFile | None = None

    def __call__(self) -> Settings:
        if self._file is None:
            # Lazy: see above.
            from autopack_mcp.config.config_file import find_config

            self._file = find_config(self.explicit, self.home, clock=self.clock)
        settings = self._file.current()
        problem = self._file.problem
        return settings if problem is None else replace(settings, warnings=settings.warnings + problem.problems)


@dataclass(slots=True)
class _PriceBooks:
    """The price book of the settings in force, made anew when their file changes."""

    settings: Callable[[], Settings]
    _digest: str | None = None
    _book: PriceBook = field(default_factory=lambda: PriceBook({}))

    def current(self) -> PriceBook:
        settings = self.settings()
        if settings.digest != self._digest:
            prices = {model.name: model.price for model in settings.models.values() if model.price is not None}
            addresses = {p.provider: p.base_url for p in settings.providers.values() if p.base_url is not None}
            self._book, self._digest = PriceBook(prices, addresses), settings.digest
        return self._book


@dataclass(frozen=True, slots=True)
class Autopack:
    """What every process has: the home, the settings, the keys it can see, the database, and answers about it."""

    home: Home
    environ: Mapping[str, str]
    clock: Clock
    settings: Callable[[], Settings]
    keys: Keys
    database: Database
    price_book: Callable[[], PriceBook]
    summaries: Summaries

    def has_key(self, provider: ProviderSettings) -> bool:
        """Whether this process could call a provider."""
        return provider.api_key_env is None or self.keys.get(provider.api_key_env) is not None

    def key_of(self, provider: ProviderSettings) -> str | None:
        """The key of a provider, None when it needs none or has none."""
        return None if provider.api_key_env is None else self.keys.get(provider.api_key_env)

    def visible_keys(self) -> tuple[str, ...]:
        """The names of the key variables that hold something."""
        return tuple(sorted(self.keys.present(self.key_variables())))

    def key_variables(self) -> tuple[str, ...]:
        """The names of all key variables of the configured providers."""
        return tuple(p.api_key_env for p in self.settings().providers.values() if p.api_key_env is not None)

    def unit_price(self, model: str) -> UnitPrices | None:
        """What a model costs per million tokens, None when unknown."""
        found = self.settings().find_model(model)
        return None if found is None else self.price_book().unit_prices(found.provider, model, self.clock.now())


def open_autopack(
    environ: Mapping[str, str] = os.environ,
    *,
    db_url: str | None = None,
    config_path: str | Path | None = None,
    clock: Clock | None = None,
) -> Autopack:
    """Open the home that ``environ`` names, and its database; close the database when done.

    Raises:
        DatabaseError: the database cannot be used. (A models.yaml that cannot is a ConfigError of the first question
            that needs it; see ``open_checked``.)
    """
    home = find_home(environ)
    home.ensure()
    clock = clock or SystemClock()
    explicit = config_path or environ.get(CONFIG_VARIABLE)
    settings = _SettingsInForce(home, Path(explicit) if explicit else None, clock)
    keys = Keys(environ, home.env_file)
    database = open_database(db_url or home.database_url)
    books = _PriceBooks(settings)

    def has_key(provider: ProviderSettings) -> bool:
        return provider.api_key_env is None or keys.get(provider.api_key_env) is not None

    def unit_price(model: str) -> UnitPrices | None:
        found = settings().find_model(model)
        return None if found is None else books.current().unit_prices(found.provider, model, clock.now())

    summaries = Summaries(database=database, settings=settings, clock=clock, has_key=has_key, unit_price=unit_price)
    return Autopack(home, environ, clock, settings, keys, database, books.current, summaries)


def open_checked(
    environ: Mapping[str, str] = os.environ, *, db_url: str | None = None, config_path: str | Path | None = None
) -> Autopack:
    """``open_autopack`` for whoever stays: a models.yaml that cannot be used is said now, not at the first call.

    Raises:
        ConfigError: models.yaml cannot be used. DatabaseError: the database cannot.
    """
    autopack = open_autopack(environ, db_url=db_url, config_path=config_path)
    try:
        autopack.settings()
    except ConfigError:
        autopack.database.close_now()
        raise
    return autopack


def machine_name(environ: Mapping[str, str] = os.environ) -> str:
    """How this machine signs its leases: its own name, unless ``AUTOPACK_MACHINE`` gives it one that lasts."""
    return environ.get(MACHINE_VARIABLE) or platform.node() or "localhost"


def snapshot_reader(autopack: Autopack) -> SnapshotReader:
    """Reads what a choice of model depends on."""
    from autopack_mcp.routing.snapshot import SnapshotReader

    return SnapshotReader(
        settings=autopack.settings, clock=autopack.clock, has_key=autopack.has_key, unit_price=autopack.unit_price
    )


def ledger(autopack: Autopack) -> Ledger:
    """The ledger over this database."""
    from autopack_mcp.budgets.ledger import Ledger

    return Ledger(autopack.database, autopack.clock, autopack.settings)


def control(autopack: Autopack) -> Control:
    """What people may ask of runs; it starts a supervisor when none is alive."""
    from autopack_mcp.control.control import Control
    from autopack_mcp.runs.launch import DetachedLauncher

    launcher = DetachedLauncher(
        home=autopack.home,
        machine=machine_name(autopack.environ),
        database=autopack.database,
        clock=autopack.clock,
        environ=autopack.environ,
    )
    return Control(
        home=autopack.home,
        database=autopack.database,
        clock=autopack.clock,
        settings=autopack.settings,
        supervisors=launcher,
        snapshots=snapshot_reader(autopack),
    )


def call_door(
    autopack: Autopack,
    *,
    rehearsal_pause: Callable[[], Awaitable[None]] | None = None,
    retry: RetryPolicy | None = None,
    call_timeout_s: float | None = None,
) -> CallDoor:
    """The one door to paid tokens; ``retry`` and ``call_timeout_s`` (seconds per call) are the usual ones if None."""
    from autopack_mcp.calls import CALL_TIMEOUT_S, CallDoor
    from autopack_mcp.providers.pacing import RetryPolicy
    from autopack_mcp.providers.registry import open_provider
    from autopack_mcp.runs.rules import run_rules

    return CallDoor(
        database=autopack.database,
        ledger=ledger(autopack),
        clock=autopack.clock,
        settings=autopack.settings,
        price_book=autopack.price_book,
        key_of=autopack.key_of,
        snapshots=snapshot_reader(autopack),
        run_rules=run_rules,
        open_provider=open_provider,
        retry=retry or RetryPolicy(),
        call_timeout_s=CALL_TIMEOUT_S if call_timeout_s is None else call_timeout_s,
        rehearsal_pause=rehearsal_pause,
        words=_word_keeper(autopack),
    )


def experiments(autopack: Autopack, door: CallDoor) -> Experiments:
    """Recorded prompts, sent again through a door."""
    from autopack_mcp.experiments import Experiments
    from autopack_mcp.traces.redaction import redacted

    known = _known_secrets(autopack)
    return Experiments(door=door, database=autopack.database, clean=lambda text: redacted(text, known()).text)


def trace_upkeep(autopack: Autopack) -> TraceUpkeep:
    """What deletes words by age, and sends spans where the standard variables name a collector."""
    from autopack_mcp.traces.export import SpanExporter, collector_in
    from autopack_mcp.traces.upkeep import TraceUpkeep

    database, clock, collector = autopack.database, autopack.clock, collector_in(autopack.environ)
    exporter = None
    if collector is not None:
        exporter = SpanExporter(database=database, clock=clock, collector=collector, version=__version__)
    return TraceUpkeep(
        database=database,
        clock=clock,
        keep_days=lambda: autopack.settings().runs.keep_prompts_days,
        exporter=exporter,
    )


def _word_keeper(autopack: Autopack) -> WordKeeper:
    from autopack_mcp.traces.texts import WordKeeper

    return WordKeeper(lambda: autopack.settings().runs.store_prompts, _known_secrets(autopack))


def _known_secrets(autopack: Autopack) -> Callable[[], Mapping[str, str]]:
    from autopack_mcp.traces.redaction import secrets_in

    seen = secrets_in(autopack.environ)

    def known() -> Mapping[str, str]:
        keys = {name: key for name in autopack.key_variables() if (key := autopack.keys.get(name)) is not None}
        return {**seen, **keys}

    return known


def usage_recorder(autopack: Autopack) -> UsageRecorder:
    """Books calls that were made elsewhere, against every cap."""
    from autopack_mcp.usage.event import UsageEvent
    from autopack_mcp.usage.recorder import UsageRecorder

    books = ledger(autopack)

    def book(event: UsageEvent) -> None:
        settings = autopack.settings()
        if event.provider not in settings.providers:
            known = ", ".join(sorted(settings.providers))
            message = f"there is no account {event.provider!r} to book a call on; there are {known}"
            raise ConfigError((Problem(message, settings.source, where="providers"),))
        books.book_external(event)

    return UsageRecorder(book, autopack.price_book)


def supervisor(autopack: Autopack, door: CallDoor, sandbox: Sandbox, url: str) -> Supervisor:
    """The supervisor of this machine, not yet running; ``url`` is where this process answers."""
    from autopack_mcp.runs.supervisor import Supervisor

    return Supervisor(
        identity=_identity(autopack, "serve", machine_name(autopack.environ), sandbox, url),
        lock_file=autopack.home.lock_file,
        database=autopack.database,
        clock=autopack.clock,
        ledger=ledger(autopack),
        visible_keys=autopack.visible_keys,
        make_driver=_driver_maker(autopack, door, sandbox),
        limits=lambda: autopack.settings().runs,
        workspaces=autopack.home.workspaces,
    )


def worker_name(environ: Mapping[str, str]) -> str:
    """How this process signs as a worker, of which a machine may have many."""
    return f"{machine_name(environ)}/worker-{os.getpid()}"


def worker_supervisor(
    autopack: Autopack, door: CallDoor, sandbox: Sandbox, *, jobs: Jobs, workspaces: Path
) -> Supervisor:
    """The supervisor of one worker, not yet running; ``jobs`` say which runs it claims."""
    from autopack_mcp.runs.supervisor import WORKER_REST_S, Supervisor

    return Supervisor(
        identity=_identity(autopack, "worker", worker_name(autopack.environ), sandbox, ""),
        lock_file=None,
        database=autopack.database,
        clock=autopack.clock,
        ledger=ledger(autopack),
        visible_keys=autopack.visible_keys,
        make_driver=_driver_maker(autopack, door, sandbox),
        limits=lambda: autopack.settings().runs,
        workspaces=workspaces,
        jobs=jobs,
        look_rest_s=WORKER_REST_S,
    )


def _driver_maker(autopack: Autopack, door: CallDoor, sandbox: Sandbox) -> Callable[[RunFence], RunDriver]:
    from autopack_mcp.builders.api import ApiBuilder
    from autopack_mcp.llm_service import AsyncLlmService
    from autopack_mcp.runs.driver import RunDriver
    from autopack_mcp.runs.executor import Executor
    from autopack_mcp.runs.sessions import SessionBooks

    service = AsyncLlmService(door)
    executor = Executor(
        database=autopack.database,
        clock=autopack.clock,
        builder=ApiBuilder(service),
        sessions=SessionBooks(ledger=ledger(autopack), clock=autopack.clock, price_book=autopack.price_book),
        auditor=service,
        sandbox=sandbox,
        environ=autopack.environ,
        secret_variables=autopack.key_variables(),
    )
    return lambda fence: RunDriver(fence=fence, database=autopack.database, clock=autopack.clock, executor=executor)


def _identity(autopack: Autopack, kind: SupervisorKind, name: str, sandbox: Sandbox, url: str) -> SupervisorRecord:
    from autopack_mcp.runs.supervision import SupervisorRecord

    now = autopack.clock.now()
    keys = autopack.visible_keys()
    return SupervisorRecord(name, 0, os.getpid(), url, __version__, keys, sandbox.description, now, now, kind)
