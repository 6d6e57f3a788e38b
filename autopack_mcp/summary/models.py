"""Which model answers what, and why: for a run, or for a run that would start now.

It owns the shapes; the choices are made by the router's own function over the router's own snapshot, so what is shown
is what would be used. It spends nothing and reserves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection

from autopack_mcp.budgets.standings import ProviderStanding
from autopack_mcp.config.settings import COMPLEXITIES, ProviderSettings, Settings
from autopack_mcp.errors import NoRoute, RequestRefused
from autopack_mcp.routing.model_map import ModelMap
from autopack_mcp.routing.model_router import Choice, RoutingSnapshot, allowed_choices, choose
from autopack_mcp.routing.precedence import Rule
from autopack_mcp.routing.snapshot import RunRules, read_snapshot
from autopack_mcp.runs.records import PhaseRecord
from autopack_mcp.runs.rules import run_rules
from autopack_mcp.runs.states import PHASE_ENDED
from autopack_mcp.runs.store import phases_of_run, run_by_id
from autopack_mcp.summary.run import NAME_LIMIT
from autopack_mcp.summary.caps import CapView, views_of_caps
from autopack_mcp.text_safety import visible
from autopack_mcp.usage.prices import UnitPrices

ROLES = ("builder", "auditor")
ANY = "*"  # A row that holds for every complexity.
_FUTURE = frozenset({"queued", "failed"})  # A failed phase is queued again when a person retries it.


@dataclass(frozen=True, slots=True)
class RoutingSources:
    """What a choice needs beside the database: the settings in force, and answers about keys and prices."""

    settings: Settings
    has_key: Callable[[ProviderSettings], bool]
    unit_price: Callable[[str], UnitPrices | None]


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One answer of the router. Without a model, ``error`` says why there is none.

    ``complexity`` is "*" where low, medium and high are answered alike; ``also`` lists the other categories that are
    answered like ``category``. ``phase_ids`` are the unfinished phases of the run that ask exactly this.
    ``blocked_by`` says why a call would fail right now; ``replaces`` is the model that a soft limit took away.
    """

    role: str
    category: str
    complexity: str
    model: str | None
    provider: str | None
    rule: Rule | None
    reasons: tuple[str, ...]
    blocked_by: str | None = None
    replaces: str | None = None
    error: str | None = None
    also: tuple[str, ...] = ()
    phase_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OverrideView:
    """A person's choice in force. ``pattern`` is the glob on ``category:complexity``; no ``expires_at`` is for good."""

    override_id: int
    scope: Literal["run", "global"]
    role: str
    pattern: str
    model: str
    author: str
    created_at: datetime | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class StandingView:
    """One provider: the variable of the key it lacks (None when it can be called), its state in a word, and its caps.

    ``state`` is "ok", "over its soft limit", "cap reached" or "no key".
    """

    provider: str
    state: str
    missing_key_variable: str | None
    caps: tuple[CapView, ...]


@dataclass(frozen=True, slots=True)
class ModelMapping:
    """Which model is used for what. With a ``run_id``: what its unfinished phases will be given; else: a new run.

    ``choices`` are the models that may be chosen now, with their state (contract 13); ``warnings`` are those of the
    configuration file.
    """

    run_id: str | None
    is_rehearsal: bool
    rows: tuple[ModelRow, ...]
    overrides: tuple[OverrideView, ...]
    choices: tuple[Choice, ...]
    standings: tuple[StandingView, ...]
    categories: tuple[str, ...]
    complexities: tuple[str, ...]
    source: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelExplanation:
    """Why a question is answered by this model: the decision, its provider's caps, and what else may be chosen."""

    run_id: str | None
    row: ModelRow
    standing: StandingView | None
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class PhaseModelChange:
    """A future phase that another model will answer; None where no model can be chosen."""

    phase_id: str
    name: str
    role: str
    from_model: str | None
    to_model: str | None


def model_mapping(
    connection: Connection, sources: RoutingSources, now: datetime, run_id: str | None = None
) -> ModelMapping:
    """Who answers what: for the unfinished phases of a run, or for every known category and complexity.

    Raises:
        RunNotFound: no such run.
    """
    view = _look(connection, sources, now, run_id)
    snapshot = view.snapshot
    return ModelMapping(
        run_id=run_id,
        is_rehearsal=view.rules is not None and view.rules.is_rehearsal,
        rows=_rows_of_phases(snapshot, view.phases) if run_id is not None else _rows_of_map(snapshot, view.categories),
        overrides=_overrides(snapshot),
        choices=allowed_choices(snapshot),
        standings=tuple(_standing_view(sources.settings, standing) for standing in snapshot.standings.values()),
        categories=view.categories,
        complexities=COMPLEXITIES,
        source=sources.settings.source,
        warnings=tuple(map(str, sources.settings.warnings)),
    )


def explain_model(
    connection: Connection,
    sources: RoutingSources,
    now: datetime,
    role: str,
    category: str,
    complexity: str,
    run_id: str | None = None,
) -> ModelExplanation:
    """Which model would answer this question, and why. No model at all is an answer: ``row.error`` says why.

    Raises:
        RunNotFound: no such run.
        RequestRefused: an unknown role, category or complexity; the hint lists those that exist.
    """
    view = _look(connection, sources, now, run_id)
    _check_known(view, role, category, complexity)
    row = _row(view.snapshot, role, category, complexity)
    standing = None if row.provider is None else view.snapshot.standings[row.provider]
    return ModelExplanation(
        run_id=run_id,
        row=row,
        standing=None if standing is None else _standing_view(sources.settings, standing),
        choices=allowed_choices(view.snapshot),
    )


def phase_model_changes(
    before: RoutingSnapshot, after: RoutingSnapshot, phases: Sequence[PhaseRecord], *, with_phase_in_hand: bool = False
) -> tuple[PhaseModelChange, ...]:
    """Which future phases another model answers after a change, builder and auditor apart, in plan order.

    Future are the queued phases and those that a retry would queue again (contract 10); in a run that has stopped
    where another model may help it on, ``with_phase_in_hand`` adds the phase that it stopped in.
    """
    future = [
        phase for phase in phases if phase.state in _FUTURE or (with_phase_in_hand and phase.state not in PHASE_ENDED)
    ]
    questions = {(role, phase.task_category, phase.complexity) for role in ROLES for phase in future}
    models = {question: (_row(before, *question).model, _row(after, *question).model) for question in questions}
    changes = (
        PhaseModelChange(phase.phase_id, phase.name, role, *models[role, phase.task_category, phase.complexity])
        for phase in future
        for role in ROLES
    )
    return tuple(change for change in changes if change.from_model != change.to_model)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _View:
    """What the router sees, and of a run its rules and phases."""

    snapshot: RoutingSnapshot
    rules: RunRules | None
    phases: tuple[PhaseRecord, ...]
    categories: tuple[str, ...]


def _look(connection: Connection, sources: RoutingSources, now: datetime, run_id: str | None) -> _View:
    rules: RunRules | None = None
    phases: tuple[PhaseRecord, ...] = ()
    if run_id is not None:
        run_by_id(connection, run_id)  # Raises RunNotFound, which names the runs that exist.
        rules = run_rules(connection, run_id, now)
        phases = phases_of_run(connection, run_id)
    snapshot = read_snapshot(connection, sources.settings, now, sources.has_key, sources.unit_price, rules)
    return _View(snapshot, rules, phases, _known_categories(sources.settings, snapshot.model_map, phases))


def _known_categories(settings: Settings, model_map: ModelMap, phases: Sequence[PhaseRecord]) -> tuple[str, ...]:
    """Every category that a rule or a phase knows, "general" first."""
    known = settings.categories | model_map.category_models.keys() | {phase.task_category for phase in phases}
    known |= model_map.quota_routing.never_fallback_categories | model_map.fallback_strategy.by_category.keys()
    return ("general", *sorted(known - {"general"}))


def _check_known(view: _View, role: str, category: str, complexity: str) -> None:
    """Refuse words that mean nothing here.

    Raises:
        RequestRefused: nothing is called so; the hint lists what is.
    """
    is_agent = role.startswith("agent:") and len(role) > len("agent:")
    if role not in ROLES and not is_agent:
        agents = (f"agent:{name}" for name in sorted(view.snapshot.model_map.agent_models))
        raise _unknown("role", role, ", ".join((*ROLES, *agents, "agent:<name> for any other auxiliary agent")))
    if complexity not in COMPLEXITIES:
        raise _unknown("complexity", complexity, ", ".join(COMPLEXITIES))
    if category not in view.categories:
        raise _unknown("category", category, ", ".join(view.categories))


def _unknown(noun: str, word: str, known: str) -> RequestRefused:
    return RequestRefused(f"Unknown {noun} {visible(word, NAME_LIMIT)!r}.", hint=f"Known are {known}.")


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _row(snapshot: RoutingSnapshot, role: str, category: str, complexity: str) -> ModelRow:
    """The router's answer to one question."""
    try:
        decision = choose(snapshot, role, category, complexity)
    except NoRoute as error:
        return ModelRow(role, category, complexity, None, None, None, (), error=str(error))
    return ModelRow(
        role=role,
        category=category,
        complexity=complexity,
        model=decision.model,
        provider=decision.provider,
        rule=decision.rule,
        reasons=decision.reasons,
        blocked_by=decision.blocked_by,
        replaces=decision.replaces,
    )


def _rows_of_phases(snapshot: RoutingSnapshot, phases: Sequence[PhaseRecord]) -> tuple[ModelRow, ...]:
    """One row per role for each kind of phase that is still to be done, in plan order."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for phase in phases:
        if phase.state not in PHASE_ENDED or phase.state == "failed":
            kinds.setdefault((phase.task_category, phase.complexity), []).append(phase.phase_id)
    return tuple(
        replace(_row(snapshot, role, *kind), phase_ids=tuple(phase_ids))
        for kind, phase_ids in kinds.items()
        for role in ROLES
    )


def _rows_of_map(snapshot: RoutingSnapshot, categories: Sequence[str]) -> tuple[ModelRow, ...]:
    """The whole map, in as few rows as say it: alike complexities become "*", alike categories one row."""
    rows = [row for role in ROLES for row in _rows_of_role(snapshot, role, categories)]
    agents = (f"agent:{name}" for name in sorted(snapshot.model_map.agent_models))
    return (*rows, *(replace(_row(snapshot, agent, "general", "medium"), complexity=ANY) for agent in agents))


def _rows_of_role(snapshot: RoutingSnapshot, role: str, categories: Sequence[str]) -> list[ModelRow]:
    groups: dict[tuple[Hashable, ...], list[tuple[ModelRow, ...]]] = {}
    for category in categories:
        rows = _by_complexity([_row(snapshot, role, category, complexity) for complexity in COMPLEXITIES])
        groups.setdefault(tuple((row.complexity, _answer(row)) for row in rows), []).append(rows)
    found = []
    for first, *others in groups.values():
        also = tuple(rows[0].category for rows in others)
        found += [replace(row, also=also) for row in first]
    return found


def _by_complexity(rows: Sequence[ModelRow]) -> tuple[ModelRow, ...]:
    """One row for any complexity when all of them are answered alike, else the rows themselves."""
    if len({_answer(row) for row in rows}) > 1:
        return tuple(rows)
    reasons = dict.fromkeys(reason for row in rows for reason in row.reasons)
    return (replace(rows[0], complexity=ANY, reasons=tuple(reasons)),)


def _answer(row: ModelRow) -> Hashable:
    """What makes two rows say the same thing; their reasons may differ in wording."""
    return row.model, row.provider, row.rule, row.blocked_by, row.replaces


def _overrides(snapshot: RoutingSnapshot) -> tuple[OverrideView, ...]:
    """The choices of people that hold now, those of the run first; a pinned one may have expired since."""
    standing = (*snapshot.run_overrides, *snapshot.model_map.global_overrides)
    return tuple(
        OverrideView(
            override_id=override.override_id,
            scope=override.scope,
            role=override.role,
            pattern=override.pattern,
            model=override.model,
            author=visible(override.author, NAME_LIMIT),
            created_at=override.created_at,
            expires_at=override.expires_at,
        )
        for override in standing
        if override.expires_at is None or override.expires_at > snapshot.at
    )


def _standing_view(settings: Settings, standing: ProviderStanding) -> StandingView:
    return StandingView(
        provider=standing.provider,
        state=_state(standing),
        missing_key_variable=standing.missing_key_variable,
        caps=views_of_caps(settings, standing.caps),
    )


def _state(standing: ProviderStanding) -> str:
    if standing.missing_key_variable is not None:
        return "no key"
    if standing.exhausted_cap is not None:
        return "cap reached"
    return "ok" if standing.soft_cap is None else "over its soft limit"
