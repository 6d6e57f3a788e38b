"""Runs in the database: questions about them, and the guarded moves that are the only way they change.

Each move is one transaction that checks the state it leaves and, for a run in hand, the fencing token of its owner;
zero rows changed is an answer (LeaseLost, IllegalTransition), never a silent overwrite. The supervisor moves, all read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, insert, literal, null, or_, select, update

from autopack_mcp.budgets.ledger import RunFence
from autopack_mcp.database.tables import attempts, phases, run_events, runs
from autopack_mcp.errors import IllegalTransition, LeaseLost, RunNotFound
from autopack_mcp.plans.plan import Plan
from autopack_mcp.replies.edited import AppliedHow
from autopack_mcp.runs.own_caps import insert_phase_caps
from autopack_mcp.runs.records import AttemptRecord, PhaseRecord, RunEventRecord, RunRecord
from autopack_mcp.runs.run_spans import trace_attempt, trace_attempt_end, trace_phase, trace_run
from autopack_mcp.runs.states import (
    PHASE_ENDED,
    RUN_ACTIVE,
    RUN_ENDED,
    PhaseEvent,
    PhaseState,
    RunEvent,
    RunState,
    allowed_run_events,
    next_phase_state,
    next_run_state,
)
from autopack_mcp.traces.spans import new_trace_id

# Where a run waits in which another model may be what helps the phase in hand on.
CHOICE_HELPS_ON: frozenset[RunState] = frozenset({"budget_paused", "needs_attention"})
RUN_LEASE_S = 6.0  # Three missed heartbeats (contract 30): long enough for a busy disk, short enough to wait for.
KNOWN_RUNS_SHOWN = 5  # How many ids an error names: enough to find the one that was meant.
_RUN_FIELDS = tuple(RunRecord.__dataclass_fields__)
_PHASE_FIELDS = tuple(PhaseRecord.__dataclass_fields__)
_ATTEMPT_FIELDS = tuple(AttemptRecord.__dataclass_fields__)
_EVENT_FIELDS = tuple(RunEventRecord.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class NewRun:
    """Everything that is fixed when a run is started; ``plan_json`` and ``model_map`` are what it keeps for life.

    ``machine`` is the one whose disk holds its repository, None when a URL names that.
    """

    run_id: str
    plan: Plan
    plan_json: str
    is_rehearsal: bool
    author: str
    client: str
    model_map: Mapping[str, Any]
    rules: str
    base_commit: str
    workspace: str
    machine: str | None = None
    forked_from_run: str | None = None
    forked_from_phase: str | None = None


# ── questions ────────────────────────────────────────────────────────────────────────────────────────────────────────


def run_by_id(connection: Connection, run_id: str) -> RunRecord:
    """One run.

    Raises:
        RunNotFound: with the newest ids that do exist.
    """
    found = connection.execute(select(*_columns(runs, _RUN_FIELDS)).where(runs.c.run_id == run_id)).mappings().first()
    if found is None:
        known = connection.execute(
            select(runs.c.run_id).order_by(runs.c.created_at.desc()).limit(KNOWN_RUNS_SHOWN)
        ).scalars()
        raise RunNotFound(run_id, tuple(known))
    return RunRecord(**found)


def runs_newest_first(connection: Connection, limit: int, before: datetime | None = None) -> tuple[RunRecord, ...]:
    """Up to ``limit`` runs created before a moment, newest first."""
    found = select(*_columns(runs, _RUN_FIELDS)).order_by(runs.c.created_at.desc(), runs.c.run_id).limit(limit)
    if before is not None:
        found = found.where(runs.c.created_at < before)
    return tuple(RunRecord(**row) for row in connection.execute(found).mappings())


def unfinished_runs(connection: Connection) -> tuple[RunRecord, ...]:
    """Every run that has not ended, newest first."""
    found = (
        select(*_columns(runs, _RUN_FIELDS)).where(runs.c.state.not_in(RUN_ENDED)).order_by(runs.c.created_at.desc())
    )
    return tuple(RunRecord(**row) for row in connection.execute(found).mappings())


def count_runs(connection: Connection) -> int:
    """How many runs there are."""
    return int(connection.execute(select(func.count()).select_from(runs)).scalar_one())


def plan_json_of_run(connection: Connection, run_id: str) -> str:
    """The plan as the run pinned it, in the form of ``plan.plan_from_json``."""
    return str(connection.execute(select(runs.c.plan_json).where(runs.c.run_id == run_id)).scalar_one())


def model_map_of_run(connection: Connection, run_id: str) -> Mapping[str, Any]:
    """The model map as the run pinned it, in the form of ``model_map_from_json``."""
    found: Mapping[str, Any] = connection.execute(select(runs.c.model_map).where(runs.c.run_id == run_id)).scalar_one()
    return found


def rules_of_run(connection: Connection, run_id: str) -> str:
    """The project's rules as the run pinned them (contract 24)."""
    return str(connection.execute(select(runs.c.rules).where(runs.c.run_id == run_id)).scalar_one())


def phases_of_run(connection: Connection, run_id: str) -> tuple[PhaseRecord, ...]:
    """The phases of a run in plan order."""
    found = select(*_columns(phases, _PHASE_FIELDS)).where(phases.c.run_id == run_id).order_by(phases.c.phase_index)
    return tuple(PhaseRecord(**row) for row in connection.execute(found).mappings())


def attempts_of_phase(connection: Connection, run_id: str, phase_id: str) -> tuple[AttemptRecord, ...]:
    """The attempts at a phase, first to last."""
    mine = and_(attempts.c.run_id == run_id, attempts.c.phase_id == phase_id)
    found = select(*_columns(attempts, _ATTEMPT_FIELDS)).where(mine).order_by(attempts.c.attempt)
    return tuple(AttemptRecord(**row) for row in connection.execute(found).mappings())


def applied_how_of(connection: Connection, run_id: str, phase_id: str, attempt: int) -> AppliedHow | None:
    """By which lane the edits of an attempt came; None before they are applied, and where they are no edits of ours."""
    mine = and_(attempts.c.run_id == run_id, attempts.c.phase_id == phase_id, attempts.c.attempt == attempt)
    how: AppliedHow | None = connection.execute(select(attempts.c.applied_how).where(mine)).scalar_one_or_none()
    return how


def events_of_run(connection: Connection, run_id: str, limit: int) -> tuple[RunEventRecord, ...]:
    """The newest ``limit`` events of a run, newest first."""
    found = select(*_columns(run_events, _EVENT_FIELDS)).where(run_events.c.run_id == run_id)
    found = found.order_by(run_events.c.event_id.desc()).limit(limit)
    return tuple(RunEventRecord(**row) for row in connection.execute(found).mappings())


# ── moves ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def insert_run(connection: Connection, new: NewRun, at: datetime) -> None:
    """Put a run into the queue, with all its phases and their caps."""
    why = "waiting for the supervisor"
    connection.execute(insert(runs).values(**_run_row(new), state="queued", why=why, created_at=at, updated_at=at))
    connection.execute(insert(phases), _phase_rows(new))
    insert_phase_caps(connection, new.run_id, new.plan.phases)
    record_event(connection, new.run_id, at, "run", why, to_state="queued")


def claim(
    connection: Connection, run_id: str, owner: str, at: datetime, lease_s: float, workspace: str | None = None
) -> RunFence | None:
    """Take over a run whose lease is free; None when somebody holds it. The new fencing token outdates every older.

    ``workspace`` is where its new owner will have the clone; None leaves that as it is.
    """
    place = {} if workspace is None else {"workspace": workspace}
    taken = connection.execute(
        update(runs)
        .where(runs.c.run_id == run_id, is_free(at), runs.c.state.not_in(RUN_ENDED))
        .values(
            lease_owner=owner,
            lease_token=runs.c.lease_token + 1,
            lease_expires_at=at + timedelta(seconds=lease_s),
            **place,
        )
    )
    if taken.rowcount == 0:
        return None
    token = connection.execute(select(runs.c.lease_token).where(runs.c.run_id == run_id)).scalar_one()
    return RunFence(run_id, int(token))


def claimable_runs(
    connection: Connection, at: datetime, within: ColumnElement[bool] | None = None
) -> tuple[RunRecord, ...]:
    """Runs that want to be advanced and whose lease is free, oldest first; all of them, or those of a condition."""
    found = select(*_columns(runs, _RUN_FIELDS)).where(runs.c.state.in_(RUN_ACTIVE), is_free(at))
    if within is not None:
        found = found.where(within)
    found = found.order_by(runs.c.created_at, runs.c.run_id)
    return tuple(RunRecord(**row) for row in connection.execute(found).mappings())


def renew(connection: Connection, fences: Sequence[RunFence], at: datetime, lease_s: float) -> tuple[RunFence, ...]:
    """Prolong the leases of the runs in hand; returns the ones that were lost."""
    expires_at = at + timedelta(seconds=lease_s)
    return tuple(
        fence
        for fence in fences
        if connection.execute(update(runs).where(_mine(fence)).values(lease_expires_at=expires_at)).rowcount == 0
    )


def check_lease(connection: Connection, fence: RunFence) -> None:
    """Nothing, while the run is still ours.

    Raises:
        LeaseLost: another process owns it.
    """
    _state_under(connection, fence)


def check_phase(connection: Connection, phase: PhaseRecord) -> None:
    """Nothing, while a phase still stands where it was read.

    Raises:
        IllegalTransition: a person has moved it meanwhile.
    """
    mine = and_(phases.c.run_id == phase.run_id, phases.c.phase_index == phase.phase_index)
    found = connection.execute(select(phases.c.state, phases.c.attempt).where(mine)).one()
    if tuple(found) != (phase.state, phase.attempt):
        raise IllegalTransition(found.state, "outcome")


def let_go(connection: Connection, fence: RunFence) -> None:
    """Give a lease back; nothing happens when it is no longer ours."""
    connection.execute(update(runs).where(_mine(fence)).values(lease_owner=None, lease_expires_at=None))


def move_run(connection: Connection, fence: RunFence, event: RunEvent, why: str, at: datetime) -> RunState:
    """Move a run in hand by one event and write it down.

    Raises:
        LeaseLost: the fence is stale. IllegalTransition: the state knows no such event.
    """
    state = _state_under(connection, fence)
    target = next_run_state(state, event)
    if target is None:
        raise IllegalTransition(state, event, allowed_run_events(state))
    # Whoever moves a run because something stopped it writes down what, afterwards; no other stop outlives its state.
    values: dict[str, Any] = {"state": target, "why": why, "updated_at": at, "stopped_by": null()}
    if target == "running":
        # The first time only; that need not be a "start", for a run may be paused while it is still queued.
        values["started_at"] = func.coalesce(runs.c.started_at, literal(at, runs.c.started_at.type))
    if target in RUN_ENDED:
        # With its end the run is nobody's, also when its owner dies before it can say so.
        values.update(finished_at=at, lease_owner=None, lease_expires_at=None)
    connection.execute(update(runs).where(_mine(fence), runs.c.state == state).values(**values))
    record_event(connection, fence.run_id, at, "run", why, from_state=state, to_state=target)
    trace_run(connection, fence.run_id, target, at)
    return target


def set_run(connection: Connection, fence: RunFence, at: datetime, **values: Any) -> None:
    """Write facts about a run in hand that are not its state (sandbox, set-up, summary, head)."""
    if connection.execute(update(runs).where(_mine(fence)).values(updated_at=at, **values)).rowcount == 0:
        raise LeaseLost(fence.run_id)


def move_phase(
    connection: Connection, fence: RunFence, phase: PhaseRecord, event: PhaseEvent, why: str, at: datetime, **facts: Any
) -> PhaseState:
    """Move one phase of a run in hand by one event, together with facts of its row.

    Raises:
        LeaseLost: the fence is stale.
        IllegalTransition: the phase is not in the state that was read, or the state knows no such event.
    """
    _state_under(connection, fence)
    target = next_phase_state(phase.state, event)
    here = and_(
        phases.c.run_id == phase.run_id, phases.c.phase_index == phase.phase_index, phases.c.state == phase.state
    )
    values = {"state": target, "why": why, **facts}
    if target is None or connection.execute(update(phases).where(here).values(**values)).rowcount == 0:
        raise IllegalTransition(phase.state, event)
    record_event(
        connection, phase.run_id, at, "phase", why, phase.phase_id, facts.get("attempt", phase.attempt) or None,
        phase.state, target,
    )  # fmt: skip
    trace_phase(connection, phase.run_id, phase.phase_id, facts.get("attempt", phase.attempt), target, at)
    connection.execute(update(runs).where(_mine(fence)).values(updated_at=at))
    return target


def insert_attempt(
    connection: Connection, fence: RunFence, phase_id: str, number: int, parent: str, at: datetime
) -> None:
    """Open an attempt at a phase of a run in hand."""
    _state_under(connection, fence)
    connection.execute(
        insert(attempts).values(
            run_id=fence.run_id, phase_id=phase_id, attempt=number, state="open", reason="", parent_commit=parent,
            started_at=at,
        )
    )  # fmt: skip
    trace_attempt(connection, fence.run_id, phase_id, number, at)


def set_attempt(connection: Connection, fence: RunFence, phase_id: str, number: int, **facts: Any) -> None:
    """Write down what a step of an open attempt brought."""
    _state_under(connection, fence)
    mine = and_(attempts.c.run_id == fence.run_id, attempts.c.phase_id == phase_id, attempts.c.attempt == number)
    changed = connection.execute(update(attempts).where(mine, attempts.c.state == "open").values(**facts)).rowcount
    assert changed == 1, f"attempt {number} of {phase_id} is open while its phase is in hand"
    if "finished_at" in facts:
        trace_attempt_end(connection, fence.run_id, phase_id, facts["state"], facts["finished_at"])


def attempts_before_retry(connection: Connection, run_id: str, phase_id: str) -> int:
    """How many attempts a phase had when a person last had it tried anew; 0 when nobody has.

    That is when it had ended and was queued again, or when the attempt in hand was dropped.
    """
    events = and_(run_events.c.run_id == run_id, run_events.c.phase_id == phase_id, run_events.c.kind == "phase")
    requeued = and_(events, run_events.c.to_state == "queued", run_events.c.from_state.in_(PHASE_ENDED))
    mine = and_(attempts.c.run_id == run_id, attempts.c.phase_id == phase_id)
    dropped = and_(mine, attempts.c.state == "interrupted")
    newest = (
        connection.execute(select(func.max(column)).where(clause)).scalar()
        for column, clause in ((run_events.c.attempt, requeued), (attempts.c.attempt, dropped))
    )
    return max(int(number or 0) for number in newest)


def chosen_at(connection: Connection, run_id: str, phase_id: str | None, attempt: int | None) -> datetime | None:
    """As of when the models of an attempt are chosen; None when there is no such attempt.

    That is its start, so that a phase in hand ends as it began (contract 10); but when a cap or a provider had stopped
    it, the moment a person let it go on: another model may be the very way out.
    """
    mine = and_(attempts.c.run_id == run_id, attempts.c.phase_id == phase_id, attempts.c.attempt == attempt)
    started_at: datetime | None = connection.execute(select(attempts.c.started_at).where(mine)).scalar()
    if started_at is None:
        return None
    let_on = and_(run_events.c.run_id == run_id, run_events.c.kind == "run", run_events.c.to_state == "running")
    after_a_stop = and_(let_on, run_events.c.from_state.in_(CHOICE_HELPS_ON), run_events.c.occurred_at > started_at)
    found = select(run_events.c.occurred_at).where(after_a_stop).order_by(run_events.c.event_id.desc())
    resumed_at: datetime | None = connection.execute(found.limit(1)).scalar()
    return resumed_at or started_at


def record_event(
    connection: Connection,
    run_id: str,
    at: datetime,
    kind: str,
    why: str,
    phase_id: str | None = None,
    attempt: int | None = None,
    from_state: str | None = None,
    to_state: str | None = None,
) -> None:
    """Append to the log of a run."""
    connection.execute(
        insert(run_events).values(
            run_id=run_id, phase_id=phase_id, attempt=attempt, occurred_at=at, kind=kind, from_state=from_state,
            to_state=to_state, why=why,
        )
    )  # fmt: skip


def _columns(table: Any, names: Sequence[str]) -> list[Any]:
    return [table.c[name] for name in names]


def is_free(at: datetime) -> Any:
    """The condition that nobody holds a run's lease at a moment."""
    return or_(runs.c.lease_owner.is_(None), runs.c.lease_expires_at < at)


def _mine(fence: RunFence) -> Any:
    return and_(runs.c.run_id == fence.run_id, runs.c.lease_token == fence.lease_token)


def _state_under(connection: Connection, fence: RunFence) -> RunState:
    state: RunState | None = connection.execute(select(runs.c.state).where(_mine(fence))).scalar_one_or_none()
    if state is None:
        raise LeaseLost(fence.run_id)
    return state


def _run_row(new: NewRun) -> dict[str, Any]:
    plan = new.plan
    return {
        "run_id": new.run_id,
        "plan_name": plan.name,
        "plan_source": plan.source,
        "plan_json": new.plan_json,
        "repository": plan.repository,
        "is_rehearsal": new.is_rehearsal,
        "author": new.author,
        "client": new.client,
        "model_map": dict(new.model_map),
        "rules": new.rules,
        "token_cap": plan.token_cap,
        "cost_cap_nano": plan.cost_cap_nano,
        "base_commit": new.base_commit,
        "head_commit": new.base_commit,
        "workspace": new.workspace,
        "machine": new.machine,
        "is_set_up": False,
        "lease_token": 0,
        "trace_id": new_trace_id(),
        "forked_from_run": new.forked_from_run,
        "forked_from_phase": new.forked_from_phase,
    }


def _phase_rows(new: NewRun) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for tier_index, tier in enumerate(new.plan.tiers, start=1):
        for phase in tier.phases:
            rows.append(
                {
                    "run_id": new.run_id,
                    "phase_index": len(rows) + 1,
                    "phase_id": phase.phase_id,
                    "name": phase.name,
                    "tier_index": tier_index,
                    "tier_name": tier.name,
                    "task_category": phase.task_category,
                    "complexity": phase.complexity,
                    "state": "queued",
                    "why": "",
                    "attempt": 0,
                    "minor_issues": 0,
                    "major_issues": 0,
                }
            )
    return rows
