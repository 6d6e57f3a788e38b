"""Beginning a run again from one of its phases, with other words, models or notes.

It checks what is changed and who may change a command, and starts the fork; what a fork takes over is ``runs.forks``'s.
``Control`` calls it for the MCP tools and the command line alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from autopack_mcp.clock import Clock
from autopack_mcp.config.settings import Settings
from autopack_mcp.control.overrides import check_model
from autopack_mcp.control.person import Person
from autopack_mcp.control.phases import checked_words
from autopack_mcp.control.starting import Started, Starting
from autopack_mcp.database.engine import Database
from autopack_mcp.notes import Note, Source, checked_note
from autopack_mcp.routing.overrides import Override
from autopack_mcp.routing.snapshot import SnapshotReader
from autopack_mcp.runs.forks import Origin, origin_of
from autopack_mcp.runs.plan_edits import PhaseEdit, edited_plan

_HINTS = dict.fromkeys(("description", "verify"), "Leave it out to keep what the plan says.")


@dataclass(frozen=True, slots=True)
class ForkWish:
    """Which run is to begin again from which phase, and what is to be otherwise; None leaves a part as it was.

    ``builder`` and ``auditor`` are the models of all its phases. ``note`` stands beside the notes that the run has, or
    alone ``without_notes``. ``is_rehearsal`` rehearses what was real; a fork of a rehearsal always is one.
    """

    run_id: str
    phase_id: str
    edit: PhaseEdit = field(default_factory=PhaseEdit)
    builder: str | None = None
    auditor: str | None = None
    note: str | None = None
    without_notes: bool = False
    is_rehearsal: bool = False


class Forks:
    """Starts forks. Every part is given by name; safe for concurrent callers."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        settings: Callable[[], Settings],
        snapshots: SnapshotReader,
        starting: Starting,
    ) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._snapshots = snapshots
        self._starting = starting

    async def fork(self, wish: ForkWish, source: Source, person: Person, *, may_set_commands: bool) -> Started:
        """Start a run from the commit before a phase of another one, which stays as it is.

        ``may_set_commands`` as in ``Requests.about_phase``.

        Raises:
            RunNotFound; RequestRefused: no such phase, the run never came to it, or unusable words; or a command from
                where none may be set. OverrideRefused: no such model.
            MissingKey, WorkspaceError, SupervisorUnavailable: see ``Starting.start_file``.
        """
        may_set_commands = may_set_commands or self._settings().allow_inline_plans
        edit = checked_words(wish.edit, "fork", _HINTS, may_set_commands=may_set_commands)
        note = None if wish.note is None else checked_note(wish.note)
        for model in (wish.builder, wish.auditor):
            if model is not None:
                check_model(model, self._settings(), self._snapshots)
        origin = await self._database.read(origin_of, wish.run_id, wish.phase_id, self._clock.now())
        return await self._starting.start_fork(self._changed(origin, wish, edit, note, source, person), person)

    def _changed(
        self, origin: Origin, wish: ForkWish, edit: PhaseEdit, note: str | None, source: Source, person: Person
    ) -> Origin:
        now = self._clock.now()
        chosen = {"builder": wish.builder, "auditor": wish.auditor}
        choices = tuple(
            Override(0, "run", role, "*", "*", model, person.author, now)
            for role, model in chosen.items()
            if model is not None
        )
        kept = tuple(_for_others(origin.overrides, {choice.role for choice in choices}))
        notes = () if wish.without_notes else origin.notes
        if note is not None:
            notes = (*notes, Note(0, wish.run_id, note, source, person.author, now, None, None, None, 0))
        overrides = (*kept, *choices)
        return replace(
            origin,
            plan=edited_plan(origin.plan, wish.phase_id, edit),
            is_rehearsal=origin.is_rehearsal or wish.is_rehearsal,
            overrides=overrides,
            notes=notes,
            rules_for_models=replace(origin.rules_for_models, overrides=overrides),
        )


def _for_others(overrides: Sequence[Override], chosen: Set[str]) -> Iterator[Override]:
    """The overrides that still speak once these roles have another model for all phases.

    An older choice that names its pattern would win against that, so it is left behind; one for several roles goes on
    for the others.
    """
    for one in overrides:
        if not any(fnmatchcase(role, one.role) for role in chosen):
            yield one
        elif one.role not in chosen:
            for role in ("builder", "auditor", "agent:*"):
                if role not in chosen and fnmatchcase(role, one.role):
                    yield replace(one, role=role)
