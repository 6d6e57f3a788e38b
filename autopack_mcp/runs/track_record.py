"""How attempts ended and what they cost, by the models that made and judged them: the sums behind a scorecard.

It owns the questions asked of attempts with their phases and calls; rates and words are ``summary.scorecard``'s.
Rehearsals are in none. They read the phases of a stretch of time and then only what belongs to these.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import BigInteger, ColumnElement, Connection, Select, and_, case, cast, func, literal, select

from autopack_mcp.database.tables import attempts, phases, pruned_phases, runs, usage_days, usage_events
from autopack_mcp.usage.spans import day_of

Ending = Literal[
    "approved", "rejected", "failed", "no reply", "no audit", "no verdict", "disturbed", "interrupted", "open"
]
"""How an attempt ended.

- ``approved``, ``rejected``: by the auditor. ``failed``: the builder's change could not be used or was red.
- ``no reply``, ``no audit``: no provider answered the builder, the auditor. ``no verdict``: the auditor's answer could
  not be used, also when asked for once more. ``disturbed``: approved, and then not committed.
- ``interrupted``: a person ended it. ``open``: it has not ended.
"""


@dataclass(frozen=True, slots=True)
class Begun:
    """Which phases are meant: those whose first attempt began in ``since <= begun < until``, None is without bound.

    A phase is never cut in two: all its attempts belong to the time in which it was begun.
    """

    since: datetime | None = None
    until: datetime | None = None
    category: str | None = None
    complexity: str | None = None


@dataclass(frozen=True, slots=True)
class EndedAttempts:
    """How many attempts ended alike. ``is_first``: it was the first at its phase.

    ``is_pruned``: calls of its phase have been deleted by age, so that nobody knows any more what it cost.
    """

    category: str
    complexity: str
    builder_model: str | None
    auditor_model: str | None
    ending: Ending
    is_first: bool
    is_pruned: bool
    attempts: int


@dataclass(frozen=True, slots=True)
class CallCosts:
    """What some calls came to. ``cost_nano`` is the sum of the known prices; ``unpriced_calls`` are not in it."""

    calls: int = 0
    unpriced_calls: int = 0
    tokens: int = 0
    cost_nano: int = 0

    def __add__(self, other: CallCosts) -> CallCosts:
        return CallCosts(
            self.calls + other.calls,
            self.unpriced_calls + other.unpriced_calls,
            self.tokens + other.tokens,
            self.cost_nano + other.cost_nano,
        )


@dataclass(frozen=True, slots=True)
class AttemptCosts:
    """What one model (``model``) spent in one ``role`` on attempts of ``builder_model`` that ended alike."""

    category: str
    complexity: str
    builder_model: str | None
    ending: Ending
    role: str
    model: str
    spent: CallCosts


@dataclass(frozen=True, slots=True)
class ExperimentCosts:
    """What experiments with one model came to."""

    model: str
    spent: CallCosts


def attempt_endings(connection: Connection, begun: Begun) -> tuple[EndedAttempts, ...]:
    """Every real attempt at these phases, counted by how it ended, in any order."""
    each = _attempts(begun).add_columns(
        attempts.c.auditor_model, (attempts.c.attempt == 1).label("is_first"), _is_pruned().label("is_pruned")
    )
    columns = each.subquery().c
    keys = (
        columns.task_category, columns.complexity, columns.builder_model, columns.auditor_model, columns.ending,
        columns.is_first, columns.is_pruned,
    )  # fmt: skip
    rows = connection.execute(select(*keys, func.count()).group_by(*keys)).all()
    return tuple(
        EndedAttempts(category, complexity, builder, auditor, ending, bool(is_first), bool(is_pruned), count)
        for category, complexity, builder, auditor, ending, is_first, is_pruned, count in rows
    )


def attempt_costs(connection: Connection, begun: Begun) -> tuple[AttemptCosts, ...]:
    """What the calls of builders and auditors for these attempts came to, but for phases with deleted calls.

    Each call belongs to the attempt that it was made for, so nothing is counted twice; experiments belong to none.
    """
    calls = _calls(begun).subquery().c
    each = _attempts(begun).add_columns(
        calls.role, calls.model, calls.calls, calls.unpriced_calls, calls.tokens, calls.cost_nano
    )
    same = and_(
        calls.run_id == attempts.c.run_id, calls.phase_id == attempts.c.phase_id, calls.attempt == attempts.c.attempt
    )
    columns = each.where(same, ~_is_pruned()).subquery().c
    keys = (
        columns.task_category, columns.complexity, columns.builder_model, columns.ending, columns.role, columns.model,
    )  # fmt: skip
    sums = [_sum(columns[name]) for name in ("calls", "unpriced_calls", "tokens", "cost_nano")]
    rows = connection.execute(select(*keys, *sums).group_by(*keys)).all()
    return tuple(
        AttemptCosts(category, complexity, builder, ending, role, model, CallCosts(*spent))
        for category, complexity, builder, ending, role, model, *spent in rows
    )


def experiment_costs(connection: Connection, begun: Begun) -> tuple[ExperimentCosts, ...]:
    """What experiments came to, by model, on the UTC days that the stretch touches; nobody knows their complexity."""
    days = usage_days.c
    within = [days.purpose == "experiment"]
    if begun.since is not None:
        within.append(days.day_start >= day_of(begun.since))
    if begun.until is not None:
        within.append(days.day_start < begun.until)
    if begun.category is not None:
        within.append(days.category == begun.category)
    tokens = days.uncached_input + days.cache_read + days.cache_write + days.output
    sums = [_sum(column) for column in (days.calls, days.unpriced_calls, tokens, days.cost_nano)]
    found = select(days.model, *sums).where(*within).group_by(days.model).order_by(days.model)
    return tuple(ExperimentCosts(model, CallCosts(*counts)) for model, *counts in connection.execute(found).all())


def _attempts(begun: Begun) -> Select[tuple[object, ...]]:
    """One row per real attempt: its phase's kind, its builder, how it ended."""
    same_phase = and_(phases.c.run_id == attempts.c.run_id, phases.c.phase_id == attempts.c.phase_id)
    rehearsed = select(runs.c.run_id).where(runs.c.is_rehearsal)
    found = (
        select(phases.c.task_category, phases.c.complexity, attempts.c.builder_model, _ending().label("ending"))
        .join_from(attempts, phases, same_phase)
        .where(*_of(begun), attempts.c.run_id.not_in(rehearsed))
    )
    # Else SQLite reads every attempt there ever was, with all that its row holds, to find the few that are asked for.
    return found.where(attempts.c.run_id.in_(_runs(begun))) if begun != Begun() else found


def _calls(begun: Begun) -> Select[tuple[object, ...]]:
    """One row per attempt, role and model: what its calls came to."""
    events = usage_events.c
    keys = (events.run_id, events.phase_id, events.attempt, events.role, events.model)
    input_tokens = (
        events.uncached_input + events.cache_read + events.cache_write_5m + events.cache_write_1h
        + events.cache_write_other
    )  # fmt: skip
    found = select(
        *keys,
        func.count().label("calls"),
        _sum(case((events.cost_nano.is_(None), 1), else_=0)).label("unpriced_calls"),
        _sum(input_tokens + events.output).label("tokens"),
        _sum(func.coalesce(events.cost_nano, 0)).label("cost_nano"),
    )
    of_attempts = (events.purpose == "run", events.role.in_(("builder", "auditor")), events.attempt.is_not(None))
    return found.where(*of_attempts, events.run_id.in_(_runs(begun))).group_by(*keys)


def _runs(begun: Begun) -> Select[tuple[str]]:
    return select(phases.c.run_id).where(*_of(begun))


def _of(begun: Begun) -> list[ColumnElement[bool]]:
    columns = phases.c
    found: list[ColumnElement[bool]] = [columns.started_at.is_not(None)]
    if begun.since is not None:
        found.append(columns.started_at >= begun.since)
    if begun.until is not None:
        found.append(columns.started_at < begun.until)
    if begun.category is not None:
        found.append(columns.task_category == begun.category)
    if begun.complexity is not None:
        found.append(columns.complexity == begun.complexity)
    return found


def _is_pruned() -> ColumnElement[bool]:
    columns = pruned_phases.c
    mine = and_(columns.run_id == attempts.c.run_id, columns.phase_id == attempts.c.phase_id)
    return select(literal(1)).where(mine).correlate(attempts).exists()


def _ending() -> ColumnElement[str]:
    columns = attempts.c
    has_failed, is_judged = columns.state == "failed", columns.auditor_model.is_not(None)
    is_green = columns.verify_outcome.in_(("green", "unverified"))
    return case(
        (columns.state == "kept", "approved"),
        (and_(has_failed, columns.builder_model.is_(None)), "no reply"),
        (and_(has_failed, is_judged, columns.verdict["approved"].as_boolean()), "disturbed"),
        (and_(has_failed, is_judged), "no verdict"),
        (and_(has_failed, is_green), "no audit"),
        else_=columns.state,
    )


def _sum(column: ColumnElement[int]) -> ColumnElement[int]:
    # PostgreSQL sums BIGINT to NUMERIC, which would arrive as Decimal.
    return cast(func.sum(column), BigInteger)
