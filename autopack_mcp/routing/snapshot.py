"""Reads everything a choice of model depends on, at one moment, into a RoutingSnapshot, and keeps one while it holds.

One read serves the door that spends, the library's router and the tools that explain, so that what is shown is what
would be used. It chooses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from threading import Lock
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from autopack_mcp.budgets.caps import CallScope, RunCaps
from autopack_mcp.budgets.standings import ProviderStanding, provider_standing, provider_standings
from autopack_mcp.clock import Clock
from autopack_mcp.config.settings import ProviderSettings, Settings
from autopack_mcp.routing.model_map import ModelMap, current_model_map
from autopack_mcp.routing.model_router import RoutingSnapshot
from autopack_mcp.routing.overrides import Override, overrides_in_force
from autopack_mcp.usage.prices import UnitPrices

T = TypeVar("T")

TRUSTED_S = 0.001  # Without a look at the database: hundreds of questions in a hot loop, and shorter than any commit.
KEPT_S = 1.0  # Even when nothing was written: overrides expire and windows end by the clock alone.
KEPT_LIMIT = 64  # Snapshots, one per run; a process that asks about more of them reads more often.


@dataclass(frozen=True, slots=True)
class RunRules:
    """What a run of the database adds to a choice: its pinned map, its overrides, its caps, and whether it is real."""

    run_id: str
    model_map: ModelMap
    overrides: tuple[Override, ...]
    caps: RunCaps
    is_rehearsal: bool


def read_snapshot(
    connection: Connection,
    settings: Settings,
    at: datetime,
    has_key: Callable[[ProviderSettings], bool],
    unit_price: Callable[[str], UnitPrices | None],
    rules: RunRules | None = None,
) -> RoutingSnapshot:
    """The snapshot for a run, or for a call outside any run when ``rules`` is None.

    A rehearsal buys nothing, so it needs no key; its caps are the run's shadow scopes (contract 17). Each price is
    worked out at most once per snapshot.
    """
    is_rehearsal = rules is not None and rules.is_rehearsal
    standings = provider_standings(
        connection,
        settings,
        at,
        (lambda provider: True) if is_rehearsal else has_key,
        purpose="rehearsal" if is_rehearsal else "run",
        run_id=rules.run_id if rules else None,
    )
    return _snapshot(connection, settings, at, standings, unit_price, rules)


def _snapshot(
    connection: Connection,
    settings: Settings,
    at: datetime,
    standings: Mapping[str, ProviderStanding],
    unit_price: Callable[[str], UnitPrices | None],
    rules: RunRules | None,
) -> RoutingSnapshot:
    model_map = rules.model_map if rules else current_model_map(settings, overrides_in_force(connection, None, at))
    overrides = rules.overrides if rules else ()
    return RoutingSnapshot(at, model_map, settings.models, standings, cache(unit_price), overrides)


class Asker(Protocol):
    """Answers a question about the database at once, as ``Database.read_kept`` does."""

    def __call__(self, query: Callable[[Connection], T], /) -> T:
        """What ``query`` answers."""
        ...


class StandingsOnDemand(Mapping[str, ProviderStanding]):
    """Every configured provider's standing, each read when a choice first comes to it.

    Most choices look at one account, and an account that no call has touched yet has to be added up. ``read_already``
    names those that a choice has come to.
    """

    def __init__(
        self,
        ask: Asker,
        settings: Settings,
        at: datetime,
        has_key: Callable[[ProviderSettings], bool],
        rules: RunRules | None,
    ) -> None:
        self._ask = ask
        self._settings = settings
        self._at = at
        self._is_rehearsal = rules is not None and rules.is_rehearsal
        self._has_key = (lambda provider: True) if self._is_rehearsal else has_key
        self._run_id = rules.run_id if rules else None
        self._read: dict[str, ProviderStanding] = {}

    def __getitem__(self, provider: str) -> ProviderStanding:
        if provider not in self._read:
            if provider not in self._settings.providers:
                raise KeyError(provider)
            self._ask(lambda connection: self.read(connection, provider))
        return self._read[provider]

    def read(self, connection: Connection, provider: str) -> None:
        """Read one now, for whoever has a connection in hand and knows that it will be asked for."""
        call = CallScope(provider, "", "rehearsal" if self._is_rehearsal else "run", self._run_id)
        self._read[provider] = provider_standing(connection, self._settings, call, self._at, self._has_key)

    @property
    def read_already(self) -> tuple[str, ...]:
        """The providers whose standing is at hand."""
        return tuple(self._read)

    def __contains__(self, provider: object) -> bool:
        return provider in self._settings.providers

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings.providers)

    def __len__(self) -> int:
        return len(self._settings.providers)


class SnapshotReader:
    """``read_snapshot`` with everything but the run already in hand; give every part by name."""

    def __init__(
        self,
        *,
        settings: Callable[[], Settings],
        clock: Clock,
        has_key: Callable[[ProviderSettings], bool],
        unit_price: Callable[[str], UnitPrices | None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._has_key = has_key
        self.unit_price = unit_price

    def read(
        self, connection: Connection, rules: RunRules | None = None, settings: Settings | None = None
    ) -> RoutingSnapshot:
        """A snapshot of this moment under the settings in force, or under ``settings`` that the caller holds on to."""
        settings = settings or self._settings()
        return read_snapshot(connection, settings, self._clock.now(), self._has_key, self.unit_price, rules)

    def read_on_demand(
        self,
        connection: Connection,
        ask: Asker,
        rules: RunRules | None,
        settings: Settings,
        likely: Sequence[str] = (),
    ) -> RoutingSnapshot:
        """The same, but an account's standing is asked for when a choice first looks at it.

        Those of the ``likely`` providers are read at once, because a connection is in hand.
        """
        at = self._clock.now()
        standings = StandingsOnDemand(ask, settings, at, self._has_key, rules)
        for provider in likely:
            standings.read(connection, provider)
        return _snapshot(connection, settings, at, standings, self.unit_price, rules)


@dataclass(frozen=True, slots=True)
class _Kept:
    snapshot: RoutingSnapshot
    version: Hashable
    read_at: float
    looked_at: float


class KeptSnapshots:
    """Snapshots in memory, read again when something they depend on has changed. Safe for threads.

    Args:
        read: makes the snapshot for a run id, or for a call outside any run.
        version: what changes with every commit and every edit of the configuration; None when nobody can tell, and
            then every look is a read.
        monotonic: seconds that never go back.
    """

    def __init__(
        self,
        read: Callable[[str | None], RoutingSnapshot],
        version: Callable[[], Hashable],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._version = version
        self._monotonic = monotonic
        self._kept: dict[str | None, _Kept] = {}
        self._lock = Lock()

    def get(self, run_id: str | None) -> RoutingSnapshot:
        """The snapshot of this moment, at most ``TRUSTED_S`` seconds old."""
        kept = self._kept.get(run_id)
        if kept is not None and self._monotonic() - kept.looked_at < TRUSTED_S:
            return kept.snapshot
        with self._lock:
            return self._looked(run_id)

    def _looked(self, run_id: str | None) -> RoutingSnapshot:
        now, version = self._monotonic(), self._version()  # Before the read: a commit in between is seen next time.
        kept = self._kept.pop(run_id, None)
        if kept is not None and version is not None and version == kept.version and now - kept.read_at < KEPT_S:
            kept = _Kept(kept.snapshot, version, kept.read_at, now)
        else:
            kept = _Kept(self._read(run_id), version, now, now)
        if len(self._kept) >= KEPT_LIMIT:
            self._kept.pop(next(iter(self._kept)))  # The one not looked at for longest.
        self._kept[run_id] = kept
        return kept.snapshot
