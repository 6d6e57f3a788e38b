"""Starting a run: a plan that is named, written out or in a file becomes a row in the queue, or nothing at all.

It validates the plan, checks the supervisor's keys and pins the base commit; it builds nothing itself. ``Control``
calls it for the MCP tools and the command line alike.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Connection

from autopack_mcp.clock import Clock
from autopack_mcp.config.settings import ProviderSettings, Settings
from autopack_mcp.control.person import Person
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import MissingKey, RequestRefused
from autopack_mcp.home import Home
from autopack_mcp.plans.plan import Plan, plan_to_json
from autopack_mcp.plans.plan_file import load_plan, load_plan_file
from autopack_mcp.plans.repository_url import is_url
from autopack_mcp.routing.model_map import current_model_map, model_map_to_json
from autopack_mcp.routing.model_router import RoutingSnapshot, choose
from autopack_mcp.routing.overrides import overrides_in_force
from autopack_mcp.routing.snapshot import RunRules, SnapshotReader
from autopack_mcp.runs.forks import Origin, insert_fork
from autopack_mcp.runs.launch import SupervisorLauncher
from autopack_mcp.runs.states import RunState
from autopack_mcp.runs.store import NewRun, insert_run
from autopack_mcp.workspace.clone import pin_base

RULES_LIMIT = 32_000  # Characters of .autopack/rules.md: they enter every prompt.


@dataclass(frozen=True, slots=True)
class Started:
    """A run that was put into the queue. ``warnings`` are what validation had to say and did not stop it."""

    run_id: str
    state: RunState
    message: str
    warnings: tuple[str, ...] = ()


class Starting:
    """Puts runs into the queue. Every part is given by name; safe for concurrent callers."""

    def __init__(
        self,
        *,
        home: Home,
        database: Database,
        clock: Clock,
        settings: Callable[[], Settings],
        supervisors: SupervisorLauncher,
        snapshots: SnapshotReader,
    ) -> None:
        self._home = home
        self._database = database
        self._clock = clock
        self._settings = settings
        self._supervisors = supervisors
        self._snapshots = snapshots

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
        repository: Path | str | None = None,
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

    async def start_fork(self, origin: Origin, person: Person) -> Started:
        """Start what another run is to be tried again as: with its pinned models, rules, overrides and notes.

        Raises:
            MissingKey, WorkspaceError, SupervisorUnavailable: see ``start_file``.
        """
        return await self._start(origin.plan, person, is_rehearsal=origin.is_rehearsal, origin=origin)

    async def _start(self, plan: Plan, person: Person, *, is_rehearsal: bool, origin: Origin | None = None) -> Started:
        supervisor = await self._supervisors.ensure(here=not is_url(plan.repository))
        if not is_rehearsal:
            rules = None if origin is None else origin.rules_for_models
            await self._check_keys(plan, self._settings(), frozenset(supervisor.key_variables), rules)
        run_id = f"r-{self._clock.now():%m%d}-{secrets.token_hex(3)}"
        base = await pin_base(plan.repository, run_id, plan.base)
        new = self._new_run(run_id, plan, base, person, is_rehearsal=is_rehearsal)
        # A path means nothing on another machine; ours is where the supervisor that was made sure of is.
        machine = None if is_url(plan.repository) else supervisor.machine
        await self._database.write(self._insert, replace(new, machine=machine), origin)
        kind = "rehearsal: no model is called and no tokens are bought" if is_rehearsal else "real run"
        again = "" if origin is None else f", run {origin.run_id} again from phase {origin.phase_id},"
        what = f"Run {run_id} of plan {plan.name!r}{again} is queued ({len(plan.phases)} phases, {kind})."
        # A worker has no page of its own; whoever serves one anywhere shows this run as well.
        message = f"{what} Page: {supervisor.url}/runs/{run_id}" if supervisor.url else what
        return Started(run_id, "queued", message, tuple(str(warning) for warning in plan.warnings))

    async def _check_keys(
        self, plan: Plan, settings: Settings, key_variables: frozenset[str], rules: RunRules | None
    ) -> None:
        snapshot = await self._database.read(self._snapshots.read, rules)
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
            rules="" if is_url(plan.repository) else _rules(Path(plan.repository)),
            base_commit=base,
            workspace=str(self._home.workspaces / run_id),
        )

    def _insert(self, connection: Connection, new: NewRun, origin: Origin | None) -> None:
        now = self._clock.now()
        if origin is not None:
            insert_fork(connection, origin, new, now)
            return
        model_map = current_model_map(self._settings(), overrides_in_force(connection, None, now))
        insert_run(connection, replace(new, model_map=model_map_to_json(model_map)), now)


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
