"""Which model answers what, and why: for a run, or for a run that would start now.

It owns the shapes; what would come of a call is asked of ``outlook``, so what is shown is what would be used. It spends
nothing and reserves nothing. ``explanation`` goes into one question.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection

from autopack_mcp.budgets.standings import ProviderStanding, capped_phases
from autopack_mcp.config.settings import COMPLEXITIES, Settings
from autopack_mcp.errors import NoRoute, RequestRefused
from autopack_mcp.routing.model_map import ModelMap
from autopack_mcp.routing.model_router import Choice, RoutingSnapshot, allowed_choices, choose
from autopack_mcp.routing.precedence import Rule
from autopack_mcp.routing.snapshot import RunRules, read_snapshot
from autopack_mcp.runs.records import PhaseRecord
from autopack_mcp.runs.rules import run_rules
from autopack_mcp.runs.states import PHASE_ENDED
from autopack_mcp.runs.store import phases_of_run, run_by_id
from autopack_mcp.summary.caps import CapView, views_of_caps
from autopack_mcp.summary.outlook import Outlook, Question, RoutingSources
from autopack_mcp.summary.run import NAME_LIMIT
from autopack_mcp.text_safety import visible
from autopack_mcp.usage.event import Purpose

ROLES = ("builder", "auditor")
REASON_LIMIT = 400  # Characters of a reason, which quotes names of models and of people.
ANY = "*"  # A row that holds for every complexity.
_FUTURE = frozenset({"queued", "failed"})  # A failed phase is queued again when a person retries it.


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
class PhaseModelChange:
    """A future phase that another model will answer; None where no model can be chosen."""

    phase_id: str
    name: str
    role: str
    from_model: str | None
    to_model: str | None


def model_mapping(
    connection: Connection,
    sources: RoutingSources,
    now: datetime,
    run_id: str | None = None,
    category: str | None = None,
    complexity: str | None = None,
) -> ModelMapping:
    """Who answers what: for the unfinished phases of a run, or for every known category and complexity.

    Args:
        category, complexity: only the rows that speak of these; None is any.

    Raises:
        RunNotFound: no such run.
        RequestRefused: an unknown category or complexity; the hint lists those that exist.
    """
    view = look(connection, sources, now, run_id)
    _check_words(view, category, complexity)
    snapshot = view.snapshot
    rows = _rows_of_map(view) if run_id is None else _rows_of_phases(view, capped_phases(connection, run_id))
    return ModelMapping(
        run_id=run_id,
        is_rehearsal=view.rules is not None and view.rules.is_rehearsal,
        rows=tuple(row for row in rows if _speaks_of(row, category, complexity)),
        overrides=_overrides(snapshot),
        choices=allowed_choices(snapshot),
        standings=tuple(standing_view(sources.settings, standing) for standing in snapshot.standings.values()),
        categories=view.categories,
        complexities=COMPLEXITIES,
        source=sources.settings.source,
        warnings=tuple(map(str, sources.settings.warnings)),
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
    models = {question: (_model(before, *question), _model(after, *question)) for question in questions}
    changes = (
        PhaseModelChange(phase.phase_id, phase.name, role, *models[role, phase.task_category, phase.complexity])
        for phase in future
        for role in ROLES
    )
    return tuple(change for change in changes if change.from_model != change.to_model)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class RoutingView:
    """What the router and the ledger see, and of a run its rules and phases."""

    snapshot: RoutingSnapshot
    outlook: Outlook
    rules: RunRules | None
    phases: tuple[PhaseRecord, ...]
    categories: tuple[str, ...]

    @property
    def unfinished(self) -> tuple[PhaseRecord, ...]:
        """The phases that still have something to ask, in plan order; a failed one does when a person retries it."""
        return tuple(phase for phase in self.phases if phase.state not in PHASE_ENDED or phase.state == "failed")


def look(connection: Connection, sources: RoutingSources, now: datetime, run_id: str | None) -> RoutingView:
    """Read what questions are answered from.

    Raises:
        RunNotFound: no such run.
    """
    rules: RunRules | None = None
    phases: tuple[PhaseRecord, ...] = ()
    if run_id is not None:
        run_by_id(connection, run_id)  # Raises RunNotFound, which names the runs that exist.
        rules = run_rules(connection, run_id, now)
        phases = phases_of_run(connection, run_id)
    snapshot = read_snapshot(connection, sources.settings, now, sources.has_key, sources.unit_price, rules)
    purpose: Purpose = "rehearsal" if rules is not None and rules.is_rehearsal else "run"
    outlook = Outlook(connection, sources.settings, snapshot, run_id, purpose)
    categories = _known_categories(sources.settings, snapshot.model_map, phases)
    return RoutingView(snapshot, outlook, rules, phases, categories)


def _known_categories(settings: Settings, model_map: ModelMap, phases: Sequence[PhaseRecord]) -> tuple[str, ...]:
    """Every category that a rule or a phase knows, "general" first."""
    known = settings.categories | model_map.category_models.keys() | {phase.task_category for phase in phases}
    known |= model_map.quota_routing.never_fallback_categories | model_map.fallback_strategy.by_category.keys()
    return ("general", *sorted(known - {"general"}))


def check_known(view: RoutingView, role: str, category: str, complexity: str) -> None:
    """Refuse words that mean nothing here.

    Raises:
        RequestRefused: nothing is called so; the hint lists what is.
    """
    is_agent = role.startswith("agent:") and len(role) > len("agent:")
    if role not in ROLES and not is_agent:
        agents = (f"agent:{name}" for name in sorted(view.snapshot.model_map.agent_models))
        raise _unknown("role", role, ", ".join((*ROLES, *agents, "agent:<name> for any other auxiliary agent")))
    _check_words(view, category, complexity)


def _check_words(view: RoutingView, category: str | None, complexity: str | None) -> None:
    if complexity is not None and complexity not in COMPLEXITIES:
        raise _unknown("complexity", complexity, ", ".join(COMPLEXITIES))
    if category is not None and category not in view.categories:
        raise _unknown("category", category, ", ".join(view.categories))


def _speaks_of(row: ModelRow, category: str | None, complexity: str | None) -> bool:
    is_of_category = category is None or category in (row.category, *row.also)
    return is_of_category and (complexity is None or row.complexity in (complexity, ANY))


def _unknown(noun: str, word: str, known: str) -> RequestRefused:
    return RequestRefused(f"Unknown {noun} {visible(word, NAME_LIMIT)!r}.", hint=f"Known are {known}.")


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def row_of(outlook: Outlook, question: Question) -> ModelRow:
    """The answer to one question, and what the ledger would say to a call."""
    asked = (question.role, question.category, question.complexity)
    try:
        outcome = outlook.outcome(question)
    except NoRoute as error:
        return ModelRow(*asked, None, None, None, (), error=visible(str(error), REASON_LIMIT))
    decision, blocked_by = outcome.decision, outcome.blocked_by
    return ModelRow(
        *asked,
        model=decision.model,
        provider=decision.provider,
        rule=decision.rule,
        reasons=tuple(visible(reason, REASON_LIMIT) for reason in decision.reasons),
        blocked_by=None if blocked_by is None else visible(blocked_by, REASON_LIMIT),
        replaces=decision.replaces,
    )


def _model(snapshot: RoutingSnapshot, role: str, category: str, complexity: str) -> str | None:
    try:
        return choose(snapshot, role, category, complexity).model
    except NoRoute:
        return None


def _rows_of_phases(view: RoutingView, capped: frozenset[str]) -> tuple[ModelRow, ...]:
    """One row per role for each kind of phase that is still to be done, in plan order.

    A phase with a cap of its own is a kind of its own: it may be stopped where its like is not.
    """
    kinds: dict[tuple[str, str, str | None], list[str]] = {}
    for phase in view.unfinished:
        own = phase.phase_id if phase.phase_id in capped else None
        kinds.setdefault((phase.task_category, phase.complexity, own), []).append(phase.phase_id)
    return tuple(
        replace(row_of(view.outlook, Question(role, category, complexity, ids[0])), phase_ids=tuple(ids))
        for (category, complexity, _), ids in kinds.items()
        for role in ROLES
    )


def _rows_of_map(view: RoutingView) -> tuple[ModelRow, ...]:
    """The whole map, in as few rows as say it: alike complexities become "*", alike categories one row."""
    rows = [row for role in ROLES for row in _rows_of_role(view, role)]
    agents = (f"agent:{name}" for name in sorted(view.snapshot.model_map.agent_models))
    asked = (Question(agent, "general", "medium") for agent in agents)
    return (*rows, *(replace(row_of(view.outlook, question), complexity=ANY) for question in asked))


def _rows_of_role(view: RoutingView, role: str) -> list[ModelRow]:
    groups: dict[tuple[Hashable, ...], list[tuple[ModelRow, ...]]] = {}
    for category in view.categories:
        questions = (Question(role, category, complexity) for complexity in COMPLEXITIES)
        rows = _by_complexity([row_of(view.outlook, question) for question in questions])
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


def standing_view(settings: Settings, standing: ProviderStanding) -> StandingView:
    """One provider as people see it."""
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
