"""Choosing another model for part of a run, or for all later runs.

It checks the wish, writes the override down and says which future phases it changes; what a phase uses is the router's
to say. ``Control`` calls it for the MCP tools and the command line alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Literal

from sqlalchemy import Connection

from autopack_mcp.clock import Clock
from autopack_mcp.config.settings import Settings
from autopack_mcp.control.person import Person
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import IllegalTransition, OverrideRefused
from autopack_mcp.routing.model_router import RoutingSnapshot
from autopack_mcp.routing.overrides import Override, add_override, withdraw_overrides
from autopack_mcp.routing.snapshot import SnapshotReader
from autopack_mcp.runs.records import PhaseRecord
from autopack_mcp.runs.rules import run_rules
from autopack_mcp.runs.states import RUN_ENDED
from autopack_mcp.runs.store import CHOICE_HELPS_ON, phases_of_run, run_by_id
from autopack_mcp.summary.models import PhaseModelChange, phase_model_changes


@dataclass(frozen=True, slots=True)
class OverrideOutcome:
    """An override that was written or undone, and the future phases whose model it changes."""

    message: str
    changes: tuple[PhaseModelChange, ...]
    override_id: int | None = None


@dataclass(frozen=True, slots=True)
class OverrideWish:
    """What a person wants: for this role and pattern, use this model. ``undo`` withdraws the like instead."""

    role: str
    category: str
    complexity: str
    model: str
    scope: Literal["run", "global"] = "run"
    run_id: str | None = None
    expires_at: datetime | None = None
    undo: bool = False


class Overrides:
    """Writes overrides and withdraws them. Every part is given by name; safe for concurrent callers."""

    def __init__(
        self, *, database: Database, clock: Clock, settings: Callable[[], Settings], snapshots: SnapshotReader
    ) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._snapshots = snapshots

    async def override(self, wish: OverrideWish, person: Person) -> OverrideOutcome:
        """Choose another model for part of a run (its future phases), or for all later runs.

        Raises:
            OverrideRefused: an unknown model, role or pattern, or a scope without its run. RunNotFound.
        """
        override = await self._checked(wish, person)
        before = await self._futures(wish.run_id)
        override_id, undone = await self._database.write(
            self._write_override, override, client=person.client, undo=wish.undo
        )
        after = await self._futures(wish.run_id)
        changes = _changes(before, after)
        return OverrideOutcome(_override_message(wish, override, undone, changes), changes, override_id)

    def _write_override(
        self, connection: Connection, override: Override, *, client: str, undo: bool
    ) -> tuple[int | None, int]:
        if undo:
            return None, withdraw_overrides(connection, override, self._clock.now())
        return add_override(connection, override, client), 0

    async def _futures(self, run_id: str | None) -> _Futures | None:
        """What the run's future phases are chosen from; None for a global override, which touches new runs only."""
        if run_id is None:
            return None

        def read(connection: Connection) -> _Futures:
            run = run_by_id(connection, run_id)
            rules = run_rules(connection, run_id, self._clock.now())
            phases = phases_of_run(connection, run_id)
            return _Futures(self._snapshots.read(connection, rules), phases, run.state in CHOICE_HELPS_ON)

        return await self._database.read(read)

    async def _checked(self, wish: OverrideWish, person: Person) -> Override:
        await self._check_scope(wish)
        now = self._clock.now()
        # What is to be withdrawn may name what has gone from the settings since.
        if not wish.undo:
            settings = self._settings()
            check_model(wish.model, settings, self._snapshots)
            _check_pattern(wish, settings.categories)
            if wish.expires_at is not None and wish.expires_at <= now:
                expired = f"{wish.expires_at:%Y-%m-%d %H:%M}"
                raise OverrideRefused(f"The override would already have expired at {expired} UTC.")
        return Override(
            0, wish.scope, wish.role, wish.category, wish.complexity, wish.model, person.author, now, wish.expires_at,
            wish.run_id,
        )  # fmt: skip

    async def _check_scope(self, wish: OverrideWish) -> None:
        if wish.scope == "global":
            if wish.run_id is not None:
                raise OverrideRefused("A global override has no run_id.", hint="It touches every run started later.")
            return
        if wish.run_id is None:
            raise OverrideRefused("An override of scope 'run' needs a run_id.", hint="Or use scope 'global'.")
        run = await self._database.read(run_by_id, wish.run_id)
        if run.state in RUN_ENDED:
            raise IllegalTransition(run.state, "override")


@dataclass(frozen=True, slots=True)
class _Futures:
    """From what a run's phases will choose their models, and whether that concerns the phase in hand as well."""

    snapshot: RoutingSnapshot
    phases: tuple[PhaseRecord, ...]
    helps_phase_in_hand: bool


def _changes(before: _Futures | None, after: _Futures | None) -> tuple[PhaseModelChange, ...]:
    if before is None or after is None:
        return ()
    return phase_model_changes(
        before.snapshot, after.snapshot, after.phases, with_phase_in_hand=after.helps_phase_in_hand
    )


def check_model(model: str, settings: Settings, snapshots: SnapshotReader) -> None:
    """Nothing, when a person may choose this model.

    Raises:
        OverrideRefused: nobody knows it.
    """
    if model in settings.models:
        return
    if settings.find_model(model) is None:
        known = ", ".join(sorted(settings.models))
        raise OverrideRefused(f"No model {model!r} in the catalog.", hint=f"Known: {known}.")
    if snapshots.unit_price(model) is None:
        # A family takes any name; one that no price list knows either is most likely a typo.
        raise OverrideRefused(
            f"Model {model!r} is neither in the catalog nor in the price list.",
            hint="Mend the name, or add the model to models.yaml, with a price if it is new.",
        )


def _check_pattern(wish: OverrideWish, categories: frozenset[str]) -> None:
    roles = ("builder", "auditor", "*")
    if wish.role not in roles and not wish.role.startswith("agent:"):
        raise OverrideRefused(f"No role {wish.role!r}.", hint="Roles are builder, auditor, agent:<name>, or * for all.")
    for what, pattern, known in (
        ("category", wish.category, categories),
        ("complexity", wish.complexity, frozenset({"low", "medium", "high"})),
    ):
        if not any(fnmatchcase(name, pattern) for name in known):
            raise OverrideRefused(f"No {what} matches {pattern!r}.", hint=f"Known: {', '.join(sorted(known))}.")


def _override_message(
    wish: OverrideWish, override: Override, undone: int, changes: tuple[PhaseModelChange, ...]
) -> str:
    where = f"run {wish.run_id}" if wish.run_id else "runs started from now on"
    what = f"{override.role} {override.pattern} in {where}"
    if wish.undo:
        done = f"{undone} override(s) withdrawn: {what}." if undone else f"There was no such override: {what}."
    else:
        done = f"{what} will use {wish.model}."
    if wish.scope == "global":
        return f"{done} Runs in progress keep the models they started with."
    return (
        f"{done} {len(changes)} future choice(s) change." if changes else f"{done} No future phase changes its model."
    )
