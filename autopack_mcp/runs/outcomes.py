"""What a step of a phase can come to, and how each outcome is written down in one guarded transaction.

The executor returns one of these values and writes nothing; the driver hands it to ``write_outcome``, the only place
where a step's result becomes state. A crash before that commit repeats the step, a crash after it goes on behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection

from autopack_mcp.budgets.ledger import RunFence
from autopack_mcp.errors import Denial
from autopack_mcp.replies.edited import AppliedHow
from autopack_mcp.runs.progress import is_over
from autopack_mcp.runs.records import PhaseRecord, RunRecord
from autopack_mcp.runs.repetition import repetition
from autopack_mcp.runs.run_spans import Step, trace_step
from autopack_mcp.runs.states import PHASE_ACTIVE, PHASE_ENDED, PhaseEvent, next_run_state
from autopack_mcp.runs.stops import facts_of, order_stop
from autopack_mcp.runs.store import (
    applied_how_of,
    attempts_before_retry,
    attempts_of_phase,
    check_lease,
    check_phase,
    insert_attempt,
    move_phase,
    move_run,
    phases_of_run,
    record_event,
    run_by_id,
    set_attempt,
    set_run,
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The workspace is there and set up; ``sandbox`` says how commands are confined in it."""

    sandbox: str


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """The builder may work inside the workspace, under this name; it has not begun."""

    session_id: str


@dataclass(frozen=True, slots=True)
class WasBuilt:
    """The builder answered with edits that can be read."""

    reply: str
    summary: str
    model: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NeedsRepair:
    """The builder answered with edits that do not fit the files; it is asked once more, in the same attempt."""

    reply: str
    why: str
    model: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WasApplied:
    """The edits stand in the workspace; ``diff`` is git's, ``tree`` names exactly what a commit will hold.

    ``how`` says by which lane they came.
    """

    diff: str
    tree: str
    how: AppliedHow | None = None


@dataclass(frozen=True, slots=True)
class WasVerified:
    """The verification command said green, or the plan says there is none ("unverified")."""

    outcome: Literal["green", "unverified"]
    exit_code: int | None
    output: str


@dataclass(frozen=True, slots=True)
class WasApproved:
    """The auditor lets the change through, perhaps with minor issues."""

    model: str
    reasons: tuple[str, ...]
    verdict: dict[str, Any]
    minor_issues: int


@dataclass(frozen=True, slots=True)
class WasCommitted:
    """The phase's commit stands on the run's branch of the repository."""

    commit: str
    summary: str


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """This attempt is not kept; ``reason`` goes into the next one's prompt, ``facts`` into its row."""

    reason: str
    kind: Literal["failed", "rejected"] = "failed"
    facts: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class BudgetDenied:
    """A cap denies the call; the attempt stays open and goes on at the same step. ``denial`` has its numbers."""

    why: str
    denial: Denial | None = None


@dataclass(frozen=True, slots=True)
class OrderFired:
    """A standing order denies the call; its firing is on record and says what becomes of the run."""

    why: str
    denial: Denial | None = None


@dataclass(frozen=True, slots=True)
class Stuck:
    """The step cannot be done as things are, and trying again will not help; a person must look."""

    why: str


Outcome = (
    Prepared | SessionOpened | WasBuilt | NeedsRepair | WasApplied | WasVerified | WasApproved | WasCommitted
    | AttemptFailed | BudgetDenied | OrderFired | Stuck
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FailureRule:
    """What the plan says about failing: attempts per phase, and whether the run stops at the first failed phase."""

    attempts_limit: int
    on_failure: Literal["stop", "continue"]


def begin_attempt(connection: Connection, fence: RunFence, run: RunRecord, phase: PhaseRecord, at: datetime) -> None:
    """Open the next attempt at a queued phase, from the last commit that was kept."""
    number = phase.attempt + 1
    why = f"attempt {number}"
    move_phase(connection, fence, phase, "begin", why, at, attempt=number, started_at=phase.started_at or at)
    insert_attempt(connection, fence, phase.phase_id, number, run.head_commit, at)


def write_outcome(
    connection: Connection,
    fence: RunFence,
    phase: PhaseRecord,
    outcome: Outcome,
    rule: FailureRule,
    at: datetime,
    step: Step | None = None,
) -> None:
    """Write down what one step came to, and as a span how long it took, where it is one.

    Raises:
        LeaseLost, IllegalTransition: somebody else moved the run or the phase; nothing was written.
    """
    if not isinstance(outcome, Prepared):
        # A person may have skipped the phase while its step came to this.
        check_phase(connection, phase)
    if step is not None:
        _trace(connection, phase, outcome, step, at)
    match outcome:
        case Prepared():
            set_run(connection, fence, at, sandbox=outcome.sandbox, is_set_up=True)
        case SessionOpened():
            # Before it is launched, so that whoever takes the run up after a crash can find it again.
            _note(connection, fence, phase, session_id=outcome.session_id)
        case WasBuilt():
            _note(connection, fence, phase, reply=outcome.reply, summary=outcome.summary,
                  builder_model=outcome.model, builder_reasons=list(outcome.reasons))  # fmt: skip
            move_phase(connection, fence, phase, "built", f"{outcome.model} wrote a change", at)
        case NeedsRepair():
            _write_misfit(connection, fence, phase, outcome, at)
        case WasApplied():
            _note(connection, fence, phase, diff=outcome.diff, tree=outcome.tree, applied_how=outcome.how)
            why = "the change is in the workspace" + _how(connection, phase)
            move_phase(connection, fence, phase, "applied", why, at)
        case WasVerified():
            _write_verified(connection, fence, phase, outcome, at)
        case WasApproved():
            _note(connection, fence, phase, auditor_model=outcome.model, auditor_reasons=list(outcome.reasons),
                  verdict=outcome.verdict)  # fmt: skip
            move_phase(connection, fence, phase, "approved", f"{outcome.model} approved" + _how(connection, phase), at,
                       minor_issues=outcome.minor_issues)  # fmt: skip
        case WasCommitted():
            _write_committed(connection, fence, phase, outcome, at)
        case AttemptFailed():
            _write_failed(connection, fence, phase, outcome, rule, at)
        case BudgetDenied():
            move_run(connection, fence, "budget_denied", outcome.why, at)
            set_run(connection, fence, at, stopped_by=facts_of(outcome.denial))
        case OrderFired():
            # The attempt stays open where it is. What becomes of the run stands in the firing, which the driver acts on
            # at its next look; so does whoever takes the run up after a crash. Only the call's numbers are kept here.
            set_run(connection, fence, at, stopped_by=facts_of(outcome.denial))
        case Stuck():
            move_run(connection, fence, "phase_failed", outcome.why, at)


def _trace(connection: Connection, phase: PhaseRecord, outcome: Outcome, step: Step, at: datetime) -> None:
    is_done = not isinstance(outcome, AttemptFailed | BudgetDenied | OrderFired | Stuck)
    facts = dict(outcome.facts) if isinstance(outcome, AttemptFailed) else {}
    verified = outcome.outcome if isinstance(outcome, WasVerified) else facts.get("verify_outcome")
    came_to = verified or ("done" if is_done else "failed")
    trace_step(
        connection, phase.run_id, phase.phase_id, phase.attempt, step, came_to, is_done=is_done, at=at
    )  # fmt: skip


def _note(connection: Connection, fence: RunFence, phase: PhaseRecord, **facts: Any) -> None:
    set_attempt(connection, fence, phase.phase_id, phase.attempt, **facts)


def _how(connection: Connection, phase: PhaseRecord) -> str:
    """What every later word about a change repeats: that its lines were not all where the builder had them."""
    how = applied_how_of(connection, phase.run_id, phase.phase_id, phase.attempt)
    return ", applied fuzzily (allow_fuzzy)" if how == "fuzzy" else ""


def _write_misfit(
    connection: Connection, fence: RunFence, phase: PhaseRecord, outcome: NeedsRepair, at: datetime
) -> None:
    """Keep the reply while the phase goes on building: whoever takes the run up then asks only for the repair."""
    _note(connection, fence, phase, reply=outcome.reply, builder_model=outcome.model,
          builder_reasons=list(outcome.reasons))  # fmt: skip
    told = " ".join(outcome.why.split())
    why = f"{outcome.model} is asked once more, for its edits do not fit: {told}"
    record_event(connection, phase.run_id, at, "phase", why, phase.phase_id, phase.attempt)


def _write_verified(
    connection: Connection, fence: RunFence, phase: PhaseRecord, outcome: WasVerified, at: datetime
) -> None:
    _note(connection, fence, phase, verify_outcome=outcome.outcome, verify_exit_code=outcome.exit_code,
          verify_output=outcome.output)  # fmt: skip
    is_green = outcome.outcome == "green"
    why = "verification is green" if is_green else "unverified: the plan says verify: none"
    move_phase(connection, fence, phase, "verified", why + _how(connection, phase), at, is_verified=is_green)


def _write_committed(
    connection: Connection, fence: RunFence, phase: PhaseRecord, outcome: WasCommitted, at: datetime
) -> None:
    _note(connection, fence, phase, state="kept", finished_at=at)
    why = f"committed as {outcome.commit[:10]}" + ("" if phase.is_verified else ", unverified")
    why += _how(connection, phase)
    move_phase(
        connection, fence, phase, "committed", why, at,
        commit_sha=outcome.commit, summary=outcome.summary, finished_at=at,
    )  # fmt: skip
    set_run(connection, fence, at, head_commit=outcome.commit, last_summary=outcome.summary)


def _write_failed(
    connection: Connection,
    fence: RunFence,
    phase: PhaseRecord,
    outcome: AttemptFailed,
    rule: FailureRule,
    at: datetime,
) -> None:
    facts = dict(outcome.facts)
    told = " ".join(outcome.reason.split())  # A state's why is one line; the attempt keeps the reason as it is.
    _note(connection, fence, phase, state=outcome.kind, reason=outcome.reason, finished_at=at, **facts)
    # Each time that a person has a phase tried anew brings a full set of attempts, and a new count of what repeats.
    before = attempts_before_retry(connection, phase.run_id, phase.phase_id)
    tried = [one for one in attempts_of_phase(connection, phase.run_id, phase.phase_id) if one.attempt > before]
    repeated = repetition(tried)
    is_last = phase.attempt - before >= rule.attempts_limit
    if not is_last and repeated is None:
        why = f"attempt {phase.attempt} was not kept: {told}"
        move_phase(connection, fence, phase, "attempt_failed", why, at, is_verified=None)
        return
    stuck = "" if repeated is None else f"stuck, {repeated}; "
    why = f"{stuck}attempt {phase.attempt} was the last: {told}"
    event: PhaseEvent = "attempts_used_up" if is_last else "stuck"
    move_phase(connection, fence, phase, event, why, at, is_verified=None, finished_at=at)
    if rule.on_failure == "stop":
        move_run(connection, fence, "phase_failed", _why_a_person(phase.phase_id, repeated, told), at)


def _why_a_person(phase_id: str, repeated: str | None, told: str) -> str:
    """Why a run cannot go on by itself; when it is stuck, first what may help, for the last failure may be long."""
    if repeated is None:
        return f"phase {phase_id} failed: {told}"
    ways = f"say 'edit phase {phase_id}', 'another model for phase {phase_id}', 'skip phase {phase_id}' or 'retry'"
    return f"phase {phase_id} is stuck, {repeated}; {ways}: {told}"


def close_run(connection: Connection, fence: RunFence, at: datetime) -> None:
    """End a run that has nothing left to do: succeeded when every phase is completed, failed otherwise.

    Nothing happens to a run whose phase a person has just queued again.

    Raises:
        LeaseLost, IllegalTransition: somebody else moved the run; nothing was written.
    """
    check_lease(connection, fence)
    phases = phases_of_run(connection, fence.run_id)
    if not is_over(phases):
        return
    failed = [phase.phase_id for phase in phases if phase.state == "failed"]
    if failed:
        move_run(connection, fence, "done_with_failures", f"phases failed: {', '.join(failed)}", at)
        return
    counted = {
        "skipped": sum(phase.state == "skipped" for phase in phases),
        "unverified": sum(phase.is_verified is False for phase in phases),
    }
    how = "".join(f", {count} of them {word}" for word, count in counted.items() if count)
    move_run(connection, fence, "all_done", f"all {len(phases)} phases are completed{how}", at)


def cancel_run(connection: Connection, fence: RunFence, at: datetime) -> None:
    """End a cancelled run with all its phases that have not ended; the attempt in hand counts as interrupted."""
    _close_phases(connection, fence, "the run was cancelled", at)
    _end_cancelled(connection, fence, run_by_id(connection, fence.run_id), at)


def _end_cancelled(connection: Connection, fence: RunFence, run: RunRecord, at: datetime) -> None:
    """Why it ended so is that a person asked, or the words of the standing order that did."""
    is_ordered = order_stop(run) is not None
    move_run(connection, fence, "stopped", run.why if is_ordered else "cancelled as asked", at)
    if is_ordered:
        set_run(connection, fence, at, stopped_by=run.stopped_by)


def give_up_run(connection: Connection, fence: RunFence, why: str, at: datetime) -> None:
    """End a run as failed because a person has given up on it; its workspace stays as it is, to be looked at."""
    _close_phases(connection, fence, "the run was given up", at)
    move_run(connection, fence, "give_up", why, at)


def _close_phases(connection: Connection, fence: RunFence, why: str, at: datetime) -> None:
    for phase in phases_of_run(connection, fence.run_id):
        if phase.state in PHASE_ACTIVE:
            drop_attempt(connection, fence, phase, why, at)
        if phase.state not in PHASE_ENDED:
            move_phase(connection, fence, phase, "cancel", why, at, finished_at=at)


def drop_attempt(connection: Connection, fence: RunFence, phase: PhaseRecord, why: str, at: datetime) -> None:
    """Close the attempt in hand as one that a person has interrupted; it counts against no limit."""
    _note(connection, fence, phase, state="interrupted", reason=why, finished_at=at)


def stop_for_person(connection: Connection, fence: RunFence, why: str, at: datetime) -> bool:
    """Let a run wait for a person after a failure of ours; False when its state knows no such wait."""
    run = run_by_id(connection, fence.run_id)
    if next_run_state(run.state, "phase_failed") is None:
        return False
    move_run(connection, fence, "phase_failed", why, at)
    return True
