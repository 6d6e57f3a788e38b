"""What people may ask of runs, from any client: start, pause, resume, cancel, choose a model, leave a note.

It checks a wish, writes it down as a row and waits briefly for the supervisor to have acted; it never moves a run
itself. The MCP tools and the command line call it, so both answer alike.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection

from autopack_mcp.clock import Clock
from autopack_mcp.config.settings import ProviderSettings, Settings
from autopack_mcp.database.changes import ChangeWatch
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import IllegalTransition, MissingKey, OverrideRefused, RequestRefused
from autopack_mcp.home import Home
from autopack_mcp.notes import Source, add_note, append_missing, checked_note, notes_file, notes_of_run, withdraw_note
from autopack_mcp.plans.plan import Plan, plan_to_json
from autopack_mcp.plans.plan_file import load_plan, load_plan_file
from autopack_mcp.routing.model_map import current_model_map, model_map_to_json
from autopack_mcp.routing.model_router import RoutingSnapshot, choose
from autopack_mcp.routing.overrides import Override, add_override, overrides_in_force, withdraw_overrides
from autopack_mcp.routing.snapshot import SnapshotReader
from autopack_mcp.runs.launch import SupervisorLauncher
from autopack_mcp.runs.progress import current_phase
from autopack_mcp.runs.records import PhaseRecord, RunRecord
from autopack_mcp.runs.requests import (
    ALREADY_TRUE,
    Action,
    RequestRecord,
    add_request,
    event_of,
    pending_requests,
    request_by_id,
)
from autopack_mcp.runs.rules import run_rules
from autopack_mcp.runs.states import RUN_ACTIVE, RUN_ENDED, RunState, next_run_state
from autopack_mcp.runs.store import CHOICE_HELPS_ON, NewRun, insert_run, phases_of_run, run_by_id
from autopack_mcp.runs.workspace import pin_base
from autopack_mcp.summary.models import PhaseModelChange, phase_model_changes

log = logging.getLogger(__name__)

WAIT_S = 3.0  # A tool answers within this, with what happened or with what is pending (mcp.md: no call blocks longer).
ACKNOWLEDGE_S = 1.0  # A pause is acknowledged within this, whatever it still waits for (contract 27).
RULES_LIMIT = 32_000  # Characters of .autopack/rules.md: they enter every prompt.


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks, and through what: both are stored with every request, note and override."""

    author: str
    client: str


@dataclass(frozen=True, slots=True)
class Started:
    """A run that was put into the queue. ``warnings`` are what validation had to say and did not stop it."""

    run_id: str
    state: RunState
    message: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """What came of a request: the state it left the run in, in words, and whether something is still to happen."""

    run_id: str
    action: str
    state: RunState
    message: str
    is_pending: bool


@dataclass(frozen=True, slots=True)
class NoteOutcome:
    """A note that is in force; ``notes_file`` is where it also stands, once the run has a workspace."""

    note_id: int
    message: str
    timestamp: datetime
    notes_file: str


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


class Control:
    """Every part is given by name; safe for concurrent callers."""

    def __init__(
        self,
        *,
        home: Home,
        database: Database,
        clock: Clock,
        settings: Callable[[], Settings],
        supervisors: SupervisorLauncher,
        snapshots: SnapshotReader,
        wait_s: float = WAIT_S,
        acknowledge_s: float = ACKNOWLEDGE_S,
    ) -> None:
        self._home = home
        self._database = database
        self._clock = clock
        self._settings = settings
        self._supervisors = supervisors
        self._snapshots = snapshots
        self._wait_s = wait_s
        self._acknowledge_s = acknowledge_s

    # ── start ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def start_named(self, name: str, person: Person, *, is_rehearsal: bool = False) -> Started:
        """Start a plan that stands in one of the configured plan folders, by file name with or without its ending.

        Raises:
            RequestRefused: no such plan; the answer lists those that exist.
            PlanError, MissingKey, WorkspaceError, SupervisorUnavailable: see ``start_file``.
        """
        file = _named_plan(name, self._settings().plan_folders)
        return await self.start_file(file, person, is_rehearsal=is_rehearsal)

    async def start_inline(self, text: str, person: Person, *, is_rehearsal: bool = False) -> Started:
        """Start a plan given as text, where the configuration allows that: a plan contains commands.

        Raises:
            RequestRefused: inline plans are off (the default).
            PlanError, MissingKey, WorkspaceError, SupervisorUnavailable: see ``start_file``.
        """
        settings = self._settings()
        if not settings.allow_inline_plans:
            raise RequestRefused(
                "Inline plans are off, because a plan contains commands.",
                hint="Put the plan into a plan folder and start it by name, or set allow_inline_plans: true.",
            )
        plan = load_plan(text, "inline plan", known_categories=settings.categories)
        return await self._start(plan, person, is_rehearsal=is_rehearsal)

    async def start_file(
        self,
        file: Path,
        person: Person,
        *,
        repository: Path | None = None,
        verify: str | None = None,
        is_rehearsal: bool = False,
    ) -> Started:
        """Validate a plan, pin its base commit and put the run into the queue; nothing is started on any error.

        Args:
            repository, verify: win over the plan's own.

        Raises:
            PlanError: every problem of the plan at once. MissingKey: the supervisor lacks a key the plan needs.
            WorkspaceError: the base commit cannot be pinned. SupervisorUnavailable: none runs and none can be started.
        """
        categories = self._settings().categories
        plan = load_plan_file(file, known_categories=categories, repository=repository, verify=verify)
        return await self._start(plan, person, is_rehearsal=is_rehearsal)

    async def _start(self, plan: Plan, person: Person, *, is_rehearsal: bool) -> Started:
        supervisor = await self._supervisors.ensure()
        if not is_rehearsal:
            await self._check_keys(plan, self._settings(), frozenset(supervisor.key_variables))
        run_id = f"r-{self._clock.now():%m%d}-{secrets.token_hex(3)}"
        base = await pin_base(Path(plan.repository), run_id, plan.base)
        await self._database.write(self._insert, self._new_run(run_id, plan, base, person, is_rehearsal=is_rehearsal))
        kind = "rehearsal: no model is called and no tokens are bought" if is_rehearsal else "real run"
        what = f"Run {run_id} of plan {plan.name!r} is queued ({len(plan.phases)} phases, {kind})."
        message = f"{what} Page: {supervisor.url}/runs/{run_id}"
        return Started(run_id, "queued", message, tuple(str(warning) for warning in plan.warnings))

    async def _check_keys(self, plan: Plan, settings: Settings, key_variables: frozenset[str]) -> None:
        snapshot = await self._database.read(self._snapshots.read)
        missing = missing_keys(snapshot, plan, settings.providers, key_variables)
        if missing:
            provider, *others = missing
            raise MissingKey(
                provider, missing[provider], where="the supervisor's environment", also=[missing[o] for o in others]
            )

    def _new_run(self, run_id: str, plan: Plan, base: str, person: Person, *, is_rehearsal: bool) -> NewRun:
        return NewRun(
            run_id=run_id,
            plan=plan,
            plan_json=plan_to_json(plan),
            is_rehearsal=is_rehearsal,
            author=person.author,
            client=person.client,
            model_map={},
            rules=_rules(Path(plan.repository)),
            base_commit=base,
            workspace=str(self._home.workspaces / run_id),
        )

    def _insert(self, connection: Connection, new: NewRun) -> None:
        now = self._clock.now()
        model_map = current_model_map(self._settings(), overrides_in_force(connection, None, now))
        insert_run(connection, replace(new, model_map=model_map_to_json(model_map)), now)

    # ── pause, resume, cancel ────────────────────────────────────────────────────────────────────────────────────────

    async def request(self, run_id: str, action: Action, person: Person, *, now: bool = False) -> RequestOutcome:
        """Ask a run to pause, resume or cancel, and wait up to ``WAIT_S`` seconds for it to have happened.

        ``now`` makes a pause interrupt the step in hand. Asking for what is already so changes nothing and says so.

        Raises:
            RunNotFound, IllegalTransition: with what exists or is allowed. SupervisorUnavailable: nobody can act.
            RequestRefused: the run went on meanwhile, to where this cannot be asked any more.
        """
        run, is_undisturbed = await self._database.read(_run_and_peace, run_id)
        if run.state in RUN_ACTIVE:
            # Also when nothing else is to be done: "resume" revives a run whose supervisor has died.
            await self._supervisors.ensure()
        # What is so already needs no request, unless another one is on its way that changes it.
        if is_undisturbed and not (now and run.state == "pausing"):
            if run.state in ALREADY_TRUE[action]:
                message = f"Run {run_id} is already {run.state}: {run.why}"
                return RequestOutcome(run_id, action, run.state, message, _is_underway(action, run.state))
            if next_run_state(run.state, event_of(action, run.state)) is None:
                raise IllegalTransition(run.state, action, _allowed_actions(run.state))
        await self._supervisors.ensure()
        request_id = await self._database.write(
            add_request, run_id, action, person.author, person.client, self._clock.now(), {"now": now}
        )
        return await self._outcome(run_id, action, request_id)

    async def _outcome(self, run_id: str, action: Action, request_id: str) -> RequestOutcome:
        """Wait until the request is answered and has happened, but never longer than a chat waits for its answer."""
        changes = ChangeWatch(self._database)
        now_s = asyncio.get_running_loop().time
        started_s = now_s()
        try:
            while True:
                seen = changes.version()
                request = await self._database.read(request_by_id, request_id)
                run = await self._database.read(run_by_id, run_id)
                if request.state == "refused":
                    raise RequestRefused(request.answer, hint=_may_ask(run))
                is_pending = request.state == "pending" or _is_underway(action, run.state)
                # A pause may wait for a long step: that it is acknowledged is the answer (contract 27).
                patience_s = self._acknowledge_s if run.state == "pausing" else self._wait_s
                left_s = started_s + patience_s - now_s()
                if not is_pending or left_s <= 0:
                    phases = await self._database.read(phases_of_run, run_id)
                    return RequestOutcome(run_id, action, run.state, _said(request, run, phases), is_pending)
                await changes.wait(seen, left_s)
        finally:
            changes.close()

    # ── notes and models ─────────────────────────────────────────────────────────────────────────────────────────────

    async def add_note(self, run_id: str, text: str, source: Source, person: Person) -> NoteOutcome:
        """Put a note in force for the whole run: every later prompt quotes it until it is withdrawn (contract 25).

        Raises:
            RunNotFound; RequestRefused: it is empty or too long; IllegalTransition: the run has ended.
        """
        run = await self._database.read(run_by_id, run_id)
        if run.state in RUN_ENDED:
            raise IllegalTransition(run.state, "note")
        now = self._clock.now()
        note_id = await self._database.write(add_note, run_id, checked_note(text), source, person.author, now)
        file = notes_file(Path(run.workspace))
        if Path(run.workspace).is_dir():
            await self._append(file, run_id)
        message = f"Note {note_id} will stand in every later prompt of run {run_id} until it is withdrawn."
        return NoteOutcome(note_id, message, now, str(file))

    async def _append(self, file: Path, run_id: str) -> None:
        try:
            await asyncio.to_thread(append_missing, file, await self._database.read(notes_of_run, run_id))
        except OSError:
            # The note is in force all the same: the row counts, and the executor appends what is missing later.
            log.exception("note of run %s could not be appended to its file", run_id)

    async def withdraw_note(self, run_id: str, note_id: int) -> str:
        """Take a note out of all later prompts.

        Raises:
            RunNotFound; RequestRefused: the run has no such note in force.
        """
        await self._database.read(run_by_id, run_id)
        if not await self._database.write(withdraw_note, run_id, note_id, self._clock.now()):
            raise RequestRefused(f"Run {run_id} has no note {note_id} in force.", hint="Its status lists the notes.")
        return f"Note {note_id} will not be in later prompts of run {run_id}."

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

    def _check_model(self, model: str, settings: Settings) -> None:
        if model in settings.models:
            return
        if settings.find_model(model) is None:
            known = ", ".join(sorted(settings.models))
            raise OverrideRefused(f"No model {model!r} in the catalog.", hint=f"Known: {known}.")
        if self._snapshots.unit_price(model) is None:
            # A family takes any name; one that no price list knows either is most likely a typo.
            raise OverrideRefused(
                f"Model {model!r} is neither in the catalog nor in the price list.",
                hint="Mend the name, or add the model to models.yaml, with a price if it is new.",
            )

    async def _checked(self, wish: OverrideWish, person: Person) -> Override:
        await self._check_scope(wish)
        now = self._clock.now()
        # What is to be withdrawn may name what has gone from the settings since.
        if not wish.undo:
            settings = self._settings()
            self._check_model(wish.model, settings)
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


def _run_and_peace(connection: Connection, run_id: str) -> tuple[RunRecord, bool]:
    """The run, and whether nothing that was asked of it is still unanswered."""
    return run_by_id(connection, run_id), not pending_requests(connection, (run_id,))


def _is_underway(action: Action, state: RunState) -> bool:
    """Whether what was asked has begun and is not done yet."""
    return (action, state) in (("pause", "pausing"), ("cancel", "cancelling"))


def _may_ask(run: RunRecord) -> str:
    actions = ", ".join(_allowed_actions(run.state)) or "nothing any more"
    return f"Run {run.run_id} is {run.state}: {run.why}. It can be asked now: {actions}."


def _said(request: RequestRecord, run: RunRecord, phases: Sequence[PhaseRecord]) -> str:
    """What came of a request, in words; of a pause also what it waits for."""
    if request.state == "pending":
        return f"The request is written down; the supervisor has not answered yet. Run {run.run_id} is {run.state}."
    if run.state == "pausing":
        phase = current_phase(phases)
        step = f"{phase.state} of phase {phase.phase_id}" if phase is not None else "step in hand"
        return f"Run {run.run_id} pauses as soon as the {step} is done; to pause now interrupts it."
    if run.state == "cancelling":
        return f"Run {run.run_id} is being cancelled: its step is being ended and its workspace cleaned."
    return f"{request.answer} Run {run.run_id} is {run.state}: {run.why}"


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


def _named_plan(name: str, folders: tuple[Path, ...]) -> Path:
    # As with PATH, the first folder wins.
    plans = {file.name: file for folder in reversed(folders) for file in _plans_in(folder)}
    found = next(
        (plans[known] for known in (name, f"{name}.yaml", f"{name}.yml", f"{name}.json") if known in plans), None
    )
    if found is None:
        known = ", ".join(sorted(plans)) or f"none; put YAML files into {', '.join(map(str, folders))}"
        raise RequestRefused(f"No plan {name!r}.", hint=f"Known plans: {known}.")
    return found


def _plans_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix in (".yaml", ".yml", ".json") and file.is_file())


def _rules(repository: Path) -> str:
    file = repository / ".autopack" / "rules.md"
    # A repository of somebody else could name any file of this machine by a link, and prompts leave the machine.
    if not file.is_file() or file.resolve() != repository.resolve() / ".autopack" / "rules.md":
        return ""
    return file.read_text(encoding="utf-8", errors="replace")[:RULES_LIMIT]


def _allowed_actions(state: RunState) -> tuple[str, ...]:
    return tuple(action for action in ALREADY_TRUE if next_run_state(state, event_of(action, state)) is not None)


def missing_keys(
    snapshot: RoutingSnapshot, plan: Plan, providers: Mapping[str, ProviderSettings], key_variables: frozenset[str]
) -> Mapping[str, str]:
    """Provider to variable: the accounts that the plan's first choices need and the supervisor has no key for."""
    questions = {
        (role, phase.task_category, phase.complexity) for phase in plan.phases for role in ("builder", "auditor")
    }
    needed = {choose(snapshot, *question).provider for question in questions}
    return {
        provider: variable
        for provider in sorted(needed)
        if (variable := providers[provider].api_key_env) is not None and variable not in key_variables
    }
