"""Two runs side by side: how each phase went, what it cost, which models did it, and what lies between their trees.

It owns ``Comparison`` and what is compared with what; it changes nothing. ``Summaries`` reads it, the tool and the
command line show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from sqlalchemy import Connection

from autopack_mcp.errors import RequestRefused, WorkspaceError
from autopack_mcp.runs.overview import PhaseVerdict, phase_verdicts
from autopack_mcp.runs.records import RunRecord
from autopack_mcp.runs.states import PhaseState, RunState
from autopack_mcp.runs.store import run_by_id
from autopack_mcp.summary.run import PhaseView, RunSummary, run_summary
from autopack_mcp.text_safety import visible
from autopack_mcp.workspace.differences import diff_between

DIFF_LIMIT = 60_000  # Characters of a diff: about a thousand lines; git shows the rest.
WORDS_LIMIT = 300  # Characters of what an auditor said.


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One of the two. ``duration_s`` is from its start to its end, or None before both; amounts as in RunSummary."""

    run_id: str
    plan_name: str
    state: RunState
    is_rehearsal: bool
    forked_from: str | None
    completed_phases: int
    total_phases: int
    tokens_used: int
    cost_usd: Decimal | None
    unpriced_calls: int
    minor_issues_count: int
    major_issues_count: int
    duration_s: float | None
    commit: str


@dataclass(frozen=True, slots=True)
class PhaseSide:
    """A phase in one of the runs. ``verdict`` is of its newest attempt, in words; None before anything was judged."""

    state: PhaseState
    attempts: int
    verdict: str | None
    auditor_said: str
    builder_model: str | None
    auditor_model: str | None
    tokens_used: int
    cost_usd: Decimal | None
    unpriced_calls: int
    duration_s: float | None


@dataclass(frozen=True, slots=True)
class ComparedPhase:
    """A phase of either plan, known by its id; None on the side of a run that does not have it."""

    phase_id: str
    name: str
    a: PhaseSide | None
    b: PhaseSide | None


@dataclass(frozen=True, slots=True)
class TreeDiff:
    """From the last kept commit of ``a`` to that of ``b``; ``text`` shows what is hidden and ends at ``DIFF_LIMIT``."""

    text: str
    is_cut: bool
    files: int
    added_lines: int
    removed_lines: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """``a`` and ``b`` side by side. Amounts of a phase that only one run has are not in the other's.

    ``models_differ`` are sentences about the phases that both have tried. ``diff`` is None when it cannot be made, and
    ``why_no_diff`` says why.
    """

    a: ComparedRun
    b: ComparedRun
    phases: tuple[ComparedPhase, ...]
    models_differ: tuple[str, ...]
    diff: TreeDiff | None
    why_no_diff: str | None


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Everything about one run that is compared, read in one transaction."""

    record: RunRecord
    summary: RunSummary
    verdicts: Mapping[str, PhaseVerdict]


def facts_of_runs(connection: Connection, a: str, b: str | None, now: datetime) -> tuple[RunFacts, RunFacts]:
    """The facts of both; without ``b``, of the run that ``a`` was forked from and of ``a``, in this order.

    Raises:
        RunNotFound: with the newest ids that do exist. RequestRefused: ``a`` is no fork, so the other must be named.
    """
    one = run_by_id(connection, a)
    other = run_by_id(connection, parent_of(one) if b is None else b)
    pair = (other, one) if b is None else (one, other)
    first, second = (
        RunFacts(run, run_summary(connection, run.run_id, now), phase_verdicts(connection, run.run_id)) for run in pair
    )
    return first, second


async def compared(a: RunFacts, b: RunFacts) -> Comparison:
    """The comparison of two runs, with the diff that git makes of their trees."""
    diff, why = await _tree_diff(a.record, b.record)
    phases = _phases(a, b)
    return Comparison(_side(a), _side(b), phases, _models_differ(phases), diff, why)


async def _tree_diff(a: RunRecord, b: RunRecord) -> tuple[TreeDiff | None, str | None]:
    if a.repository != b.repository:
        return None, "the runs are of different repositories"
    try:
        found = await diff_between(Path(a.repository), a.head_commit, b.head_commit)
    except (WorkspaceError, OSError) as error:
        return None, visible(str(error), WORDS_LIMIT)
    shown = visible(found.text, DIFF_LIMIT, multiline=True)
    is_cut = len(found.text) > DIFF_LIMIT or shown.endswith("…")
    return TreeDiff(shown, is_cut, found.files, found.added_lines, found.removed_lines), None


def parent_of(run: RunRecord) -> str:
    """The run that this one was forked from.

    Raises:
        RequestRefused: it is no fork.
    """
    if run.forked_from_run is None:
        raise RequestRefused(f"Run {run.run_id} was forked from no other.", hint="Name the run to compare it with.")
    return run.forked_from_run


def _side(facts: RunFacts) -> ComparedRun:
    run = facts.summary
    return ComparedRun(
        run_id=run.run_id,
        plan_name=run.plan_name,
        state=run.state,
        is_rehearsal=run.is_rehearsal,
        forked_from=run.forked_from,
        completed_phases=run.completed_phases,
        total_phases=run.total_phases,
        tokens_used=run.tokens_used,
        cost_usd=run.cost_usd,
        unpriced_calls=run.unpriced_calls,
        minor_issues_count=run.minor_issues_count,
        major_issues_count=run.major_issues_count,
        duration_s=_seconds(run.started_at, run.finished_at),
        commit=facts.record.head_commit,
    )


def _phases(a: RunFacts, b: RunFacts) -> tuple[ComparedPhase, ...]:
    """In the order of ``a``'s plan, then what only ``b`` has."""
    of_a = {phase.phase_id: phase for phase in a.summary.phases}
    of_b = {phase.phase_id: phase for phase in b.summary.phases}
    found = []
    for phase_id in dict.fromkeys([*of_a, *of_b]):
        in_a, in_b = of_a.get(phase_id), of_b.get(phase_id)
        either = in_a or in_b
        assert either is not None, "the id is of one of them"
        sides = _phase_side(in_a, a.verdicts), _phase_side(in_b, b.verdicts)
        found.append(ComparedPhase(phase_id, either.name, *sides))
    return tuple(found)


def _phase_side(phase: PhaseView | None, verdicts: Mapping[str, PhaseVerdict]) -> PhaseSide | None:
    if phase is None:
        return None
    verdict = verdicts.get(phase.phase_id)
    return PhaseSide(
        state=phase.state,
        attempts=phase.attempt,
        verdict=None if verdict is None else _words(verdict),
        auditor_said="" if verdict is None else visible(verdict.summary, WORDS_LIMIT),
        builder_model=phase.builder_model,
        auditor_model=phase.auditor_model,
        tokens_used=phase.tokens_used,
        cost_usd=phase.cost_usd,
        unpriced_calls=phase.unpriced_calls,
        duration_s=_seconds(phase.started_at, phase.finished_at),
    )


def _words(verdict: PhaseVerdict) -> str | None:
    if verdict.approved is None:
        return {"green": "green, not audited", "unverified": "not audited"}.get(
            verdict.verify_outcome or "", verdict.verify_outcome
        )
    counts = ((verdict.major_issues, "major"), (verdict.minor_issues, "minor"))
    issues = ", ".join(f"{count} {severity}" for count, severity in counts if count)
    return ("approved" if verdict.approved else "rejected") + (f" ({issues})" if issues else "")


def _models_differ(phases: tuple[ComparedPhase, ...]) -> tuple[str, ...]:
    return tuple(
        f"{role} of {phase.phase_id}: {was} in the first, {now} in the second"
        for phase in phases
        if phase.a is not None and phase.b is not None
        for role, was, now in (
            ("builder", phase.a.builder_model, phase.b.builder_model),
            ("auditor", phase.a.auditor_model, phase.b.auditor_model),
        )
        if was is not None and now is not None and was != now
    )


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    return None if start is None or end is None else (end - start).total_seconds()
