"""Questions about runs that only those who show them ask: a page of runs, counts of phases, who supervises.

It owns no table and moves nothing (``store`` does); each question is one statement however many runs or phases there
are. The summaries are its caller.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, case, func, or_, select

from autopack_mcp.database.tables import attempts, phases, runs, supervisors
from autopack_mcp.runs.progress import percent_complete
from autopack_mcp.runs.records import PhaseRecord, RunRecord
from autopack_mcp.runs.states import PHASE_COMPLETED
from autopack_mcp.runs.supervision import SupervisorRecord


@dataclass(frozen=True, slots=True)
class PhaseCounts:
    """How many phases a run has, and how many of them are completed."""

    total: int = 0
    completed: int = 0

    @property
    def percent_complete(self) -> float:
        """As in RunProgress: 0 to 100."""
        return percent_complete(self.completed, self.total)


@dataclass(frozen=True, slots=True)
class AttemptModels:
    """Which models an attempt has asked; None until it has asked one."""

    builder: str | None = None
    auditor: str | None = None


_PHASE_FIELDS = tuple(PhaseRecord.__dataclass_fields__)


def runs_after(connection: Connection, limit: int, after: tuple[datetime, str] | None = None) -> tuple[RunRecord, ...]:
    """Up to ``limit`` runs, newest first, that come after the one created then and called so."""
    columns = [runs.c[name] for name in RunRecord.__dataclass_fields__]
    # The id breaks ties, so that runs created in one microsecond are neither skipped nor shown twice.
    found = select(*columns).order_by(runs.c.created_at.desc(), runs.c.run_id).limit(limit)
    if after is not None:
        created_at, run_id = after
        same_moment = and_(runs.c.created_at == created_at, runs.c.run_id > run_id)
        found = found.where(or_(runs.c.created_at < created_at, same_moment))
    return tuple(RunRecord(**row) for row in connection.execute(found).mappings())


def plan_names(connection: Connection, run_ids: Collection[str]) -> Mapping[str, str]:
    """What the plans of several runs are called, by run id; a run that is not there is absent."""
    rows = connection.execute(select(runs.c.run_id, runs.c.plan_name).where(runs.c.run_id.in_(run_ids)))
    return {row.run_id: row.plan_name for row in rows}


def phase_counts(connection: Connection, run_ids: Sequence[str]) -> Mapping[str, PhaseCounts]:
    """The counts of several runs by id; a run without phases is absent."""
    completed = func.sum(case((phases.c.state.in_(PHASE_COMPLETED), 1), else_=0))
    found = select(phases.c.run_id, func.count(), completed).where(phases.c.run_id.in_(run_ids))
    rows = connection.execute(found.group_by(phases.c.run_id))
    return {run_id: PhaseCounts(total, int(done)) for run_id, total, done in rows}


def phases_with_models(connection: Connection, run_id: str) -> tuple[tuple[PhaseRecord, AttemptModels], ...]:
    """The phases of a run in plan order, each with the models that its newest attempt has asked."""
    newest = and_(
        attempts.c.run_id == phases.c.run_id,
        attempts.c.phase_id == phases.c.phase_id,
        attempts.c.attempt == phases.c.attempt,
    )
    found = (
        select(*(phases.c[name] for name in _PHASE_FIELDS), attempts.c.builder_model, attempts.c.auditor_model)
        .select_from(phases.outerjoin(attempts, newest))
        .where(phases.c.run_id == run_id)
        .order_by(phases.c.phase_index)
    )
    # By position, which is three times as fast as by name: a status reads all phases of its run.
    rows = connection.execute(found).all()
    return tuple((PhaseRecord(*phase), AttemptModels(builder, auditor)) for *phase, builder, auditor in rows)


def supervisors_known(connection: Connection) -> tuple[SupervisorRecord, ...]:
    """The newest supervisor of every machine, alive or not, the one heard of last first."""
    found = select(*(supervisors.c[name] for name in SupervisorRecord.__dataclass_fields__))
    found = found.order_by(supervisors.c.lease_expires_at.desc(), supervisors.c.machine)
    return tuple(SupervisorRecord(**row) for row in connection.execute(found).mappings())


@dataclass(frozen=True, slots=True)
class PhaseVerdict:
    """How the newest attempt at a phase was judged: ``approved`` is None until an auditor's verdict could be used."""

    verify_outcome: str | None
    approved: bool | None
    summary: str
    minor_issues: int
    major_issues: int


def phase_verdicts(connection: Connection, run_id: str) -> Mapping[str, PhaseVerdict]:
    """The verdicts on the newest attempts at a run's phases, by phase id; a phase that was never tried is absent."""
    newest = and_(
        attempts.c.run_id == phases.c.run_id,
        attempts.c.phase_id == phases.c.phase_id,
        attempts.c.attempt == phases.c.attempt,
    )
    found = (
        select(phases.c.phase_id, attempts.c.verify_outcome, attempts.c.verdict)
        .select_from(phases.join(attempts, newest))
        .where(phases.c.run_id == run_id)
    )
    return {row.phase_id: _verdict(row.verify_outcome, row.verdict) for row in connection.execute(found)}


def _verdict(verify_outcome: str | None, verdict: Mapping[str, Any] | None) -> PhaseVerdict:
    if verdict is None:
        return PhaseVerdict(verify_outcome, None, "", 0, 0)
    severities = [issue["severity"] for issue in verdict["issues"]]
    return PhaseVerdict(
        verify_outcome, verdict["approved"], verdict["summary"], severities.count("minor"), severities.count("major")
    )
