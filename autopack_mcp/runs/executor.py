"""Does one step of one phase: build, apply, verify, audit or commit, and says what it came to.

It owns the order of hands (builder, workspace, command, auditor) and writes no state: the driver commits the outcome it
returns. Cancelling it ends a provider call or a command tree at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autopack_mcp.budgets.ledger import RunFence
from autopack_mcp.builders.base import Builder, BuildJob, Built, Session
from autopack_mcp.clock import Clock
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import (
    EditMisfit,
    Misfit,
    MissingKey,
    ProviderError,
    ProviderRefused,
    QuotaExhausted,
    RoutingError,
    StandingOrderFired,
    UnusableReply,
    WorkspaceError,
)
from autopack_mcp.llm_service import AsyncLlmService, AuditorResult, PhaseAccount
from autopack_mcp.notes import adopt_lines, append_missing, hand_written, notes_file, notes_of_run, read_lines
from autopack_mcp.plans.plan import PhaseSpec, Plan
from autopack_mcp.processes import kill_leftovers
from autopack_mcp.prompts import Repair
from autopack_mcp.replies.edits import parse_edits
from autopack_mcp.runs.outcomes import (
    AttemptFailed,
    BudgetDenied,
    NeedsRepair,
    OrderFired,
    Outcome,
    Prepared,
    SessionOpened,
    Stuck,
    WasApplied,
    WasApproved,
    WasBuilt,
    WasCommitted,
    WasVerified,
)
from autopack_mcp.runs.records import AttemptRecord, PhaseRecord, RunRecord
from autopack_mcp.runs.run_spans import Step, step_id
from autopack_mcp.runs.sessions import SessionBooks, make_room, taken_change
from autopack_mcp.runs.store import check_lease
from autopack_mcp.sandbox import Sandbox
from autopack_mcp.traces.spans import TRACEPARENT_VARIABLE, attempt_span_id, run_span_id, trace_id_of, traceparent
from autopack_mcp.workspace.clone import Workspace
from autopack_mcp.workspace.verify import VerifyResult, verify

CONTEXT_LIMIT_BYTES = 200_000  # Of files shown to a builder: about 50,000 tokens, well within every window we know.
REASON_OUTPUT_CHARS = 4_000  # Of a red verification's output that the next attempt's prompt repeats: its end.
# Key not accepted, account without credit (429 counts here only when no waiting cures it), not allowed, no such model.
UNMENDED_STATUSES = frozenset({401, 402, 403, 404, 429})
HINTS_SHOWN = 3  # The newest failed attempts; older ones say less and are paid for each time.


@dataclass(frozen=True, slots=True)
class StepJob:
    """One phase in hand, as the driver just read it. ``attempts`` ends with the open one once there is one.

    ``step`` is the span that this will be, None where it is none.
    """

    run: RunRecord
    plan: Plan
    rules: str
    phase: PhaseRecord
    attempts: tuple[AttemptRecord, ...]
    fence: RunFence
    step: Step | None = None

    @property
    def open_attempt(self) -> AttemptRecord:
        """The attempt that this step belongs to."""
        return self.attempts[-1]

    @property
    def hints(self) -> tuple[str, ...]:
        """Why the newest attempts were not kept."""
        reasons = tuple(attempt.reason for attempt in self.attempts if attempt.state in ("failed", "rejected"))
        return reasons[-HINTS_SHOWN:]


class Executor:
    """Works in one workspace per run. Every part is given by name; it keeps nothing between steps."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        builder: Builder,
        sessions: SessionBooks,
        auditor: AsyncLlmService,
        sandbox: Sandbox,
        environ: Mapping[str, str],
        secret_variables: Sequence[str] = (),
    ) -> None:
        self._database = database
        self._clock = clock
        self._builder = builder
        self._sessions = sessions
        self._auditor = auditor
        self._sandbox = sandbox
        self._environ = environ
        self._secret_variables = secret_variables

    async def prepare(self, run: RunRecord, plan: Plan) -> Outcome:
        """Make the run's own clone and run the plan's set-up in it; both only as far as they are not done yet."""
        workspace = self.workspace(run)
        try:
            await kill_leftovers(run.run_id)
            await workspace.create(run.base_commit)
            if plan.setup is not None:
                # Its own mark in the workspace says whether it is done; a workspace made anew needs it again.
                await workspace.run_setup(
                    plan.setup, self._sandbox, self._traced(run, run_span_id(run.run_id)),
                    secret_variables=self._secret_variables,
                    limits=plan.limits,
                )  # fmt: skip
            await self._sync_notes(run)
        except (WorkspaceError, OSError) as error:
            return Stuck(f"the workspace cannot be made: {error}")
        return Prepared(self._sandbox.description)

    async def do(self, job: StepJob) -> Outcome:
        """The step that the phase's state asks for."""
        steps = {
            "building": self._build,
            "applying": self._apply,
            "verifying": self._verify,
            "auditing": self._audit,
            "committing": self._commit,
        }
        try:
            return await steps[job.phase.state](job)
        except QuotaExhausted as error:
            return BudgetDenied(str(error), error.denial)
        except StandingOrderFired as error:
            return OrderFired(error.message, error.denial)
        except UnusableReply as error:
            return AttemptFailed(error.reason)
        except (ProviderError, RoutingError, WorkspaceError, OSError) as error:
            if isinstance(error, ProviderError) and not _needs_a_person(error):
                return AttemptFailed(str(error))
            return Stuck(f"phase {job.phase.phase_id}: {error}")

    async def find_commit(self, job: StepJob) -> WasCommitted | None:
        """The commit of the attempt in hand, when it stands on the run's branch already."""
        try:
            commit = await self.workspace(job.run).find_phase_commit(job.phase.phase_id, job.open_attempt.attempt)
        except (WorkspaceError, OSError):
            return None
        return None if commit is None else _committed(job, commit)

    async def clean(self, run: RunRecord) -> None:
        """Leave the workspace at the last kept commit, with nothing of a cancelled phase in it."""
        await kill_leftovers(run.run_id)
        workspace = self.workspace(run)
        if workspace.exists():
            await workspace.reset(run.head_commit)

    def workspace(self, run: RunRecord) -> Workspace:
        """The clone that belongs to a run."""
        return Workspace(Path(run.workspace), run.repository, run.run_id)

    def _traced(self, run: RunRecord, span_id: str) -> dict[str, str]:
        """Our environment for a command that is to find its place in the run's trace, below this span."""
        trace_id = trace_id_of(run.run_id, run.trace_id)
        return {**self._environ, TRACEPARENT_VARIABLE: traceparent(trace_id, span_id)}

    async def _build(self, job: StepJob) -> Outcome:
        await self._sync_notes(job.run)
        phase = _spec(job)
        asked = BuildJob(
            phase, _account(job), Path(job.run.workspace), hints=job.hints, session_id=job.open_attempt.session_id,
            is_rehearsal=job.run.is_rehearsal, traceparent=traceparent(trace_id_of(job.run.run_id, job.run.trace_id),
            _span_id(job)),
        )  # fmt: skip
        session = await self._builder.prepare(asked)
        if session is not None:
            return await self._in_session(job, asked, session)
        workspace = self.workspace(job.run)
        await workspace.reset(job.open_attempt.parent_commit)
        files = await workspace.read_context(phase.allowed_paths, phase.context_paths, CONTEXT_LIMIT_BYTES)
        return await self._answered(job, replace(asked, files=files))

    async def _answered(self, job: StepJob, asked: BuildJob) -> Outcome:
        """Ask for edits, and once more for edits that fit: a reply on record says that the second question is due."""
        attempt, first = job.open_attempt, job.open_attempt.reply
        misfits = () if first is None else await self._misfits(job, first)
        if first is not None and not misfits:
            # What it did not fit has changed since: a person has edited the phase.
            return WasBuilt(first, parse_edits(first).summary, attempt.builder_model or "", _reasons(attempt))
        built = await self._builder.build(asked if first is None else replace(asked, repair=Repair(first, misfits)))
        outcome = _built(built)
        left = await self._misfits(job, built.reply) if isinstance(outcome, WasBuilt) else ()
        if not left:
            return outcome
        why = "\n".join(misfit.why for misfit in left)
        if first is None:
            return NeedsRepair(built.reply, why, built.model, built.reasons)
        return AttemptFailed(f"the builder's edits do not fit, also when asked once more: {why}", facts=_facts(built))

    async def _misfits(self, job: StepJob, reply: str) -> tuple[Misfit, ...]:
        """What of a reply does not fit, where asking again may help; what else is wrong comes up when it is applied."""
        try:
            edits = parse_edits(reply).edits
            await self.workspace(job.run).check(edits, _spec(job).allowed_paths, allow_fuzzy=_allows_fuzzy(job))
        except EditMisfit as misfit:
            return misfit.misfits
        except UnusableReply:
            return ()
        return ()

    async def _in_session(self, job: StepJob, asked: BuildJob, session: Session) -> Outcome:
        """Let a builder edit files itself, once its session is on record, and take what git sees of it."""
        attempt, workspace = job.open_attempt, self.workspace(job.run)
        if attempt.session_id is None:
            return SessionOpened(session.session_id)
        if session.session_id != attempt.session_id:
            return AttemptFailed("the builder has lost the session that it was interrupted in")
        await make_room(workspace, attempt.parent_commit, session.session_id)
        built = await self._sessions.run(self._builder, asked, session)
        if built.error is not None:
            return _built(built)
        try:
            reply = await taken_change(workspace, attempt.parent_commit, asked.phase.allowed_paths, built.summary)
        except UnusableReply as error:
            return _built(replace(built, error=error.reason))
        return _built(replace(built, reply=reply))

    async def _apply(self, job: StepJob) -> Outcome:
        workspace, attempt = self.workspace(job.run), job.open_attempt
        await workspace.reset(attempt.parent_commit)
        edits = parse_edits(attempt.reply or "").edits
        change = await workspace.apply(edits, _spec(job).allowed_paths, allow_fuzzy=_allows_fuzzy(job))
        return WasApplied(change.diff, change.tree, change.how)

    async def _verify(self, job: StepJob) -> Outcome:
        # The command sees exactly the change, also after a crash in the middle of an earlier try.
        await self._ensure_applied(job)
        result = await verify(
            _spec(job).verify or job.plan.verify,
            Path(job.run.workspace),
            timeout_s=job.plan.verify_timeout_s,
            network=job.plan.verify_network,
            sandbox=self._sandbox,
            environ=self._traced(job.run, _span_id(job)),
            secret_variables=self._secret_variables,
            label=job.run.run_id,
            limits=job.plan.limits,
        )
        if result.outcome == "green" or result.outcome == "unverified":
            return WasVerified(result.outcome, result.exit_code, result.output)
        return _red(result)

    async def _audit(self, job: StepJob) -> Outcome:
        await self._sync_notes(job.run)
        attempt = job.open_attempt
        is_fuzzy = attempt.applied_how == "fuzzy"
        result = await self._auditor.ask_auditor(
            _spec(job), attempt.diff or "", _verification(attempt), _account(job), is_fuzzy=is_fuzzy
        )
        return _judged(result)

    async def _commit(self, job: StepJob) -> Outcome:
        workspace = self.workspace(job.run)
        commit = await workspace.find_phase_commit(job.phase.phase_id, job.open_attempt.attempt)
        if commit is None:
            commit = await self._make_commit(job, workspace)
        # Nobody fences the person's repository but we: whoever was stopped for longer than its lease ends here.
        await self._database.read(check_lease, job.fence)
        await workspace.publish(commit)
        return _committed(job, commit)

    async def _make_commit(self, job: StepJob, workspace: Workspace) -> str:
        await self._ensure_applied(job)
        attempt = job.open_attempt
        trailers = {
            "Autopack-Run": job.run.run_id,
            "Autopack-Phase": job.phase.phase_id,
            "Autopack-Attempt": str(attempt.attempt),
        }
        message = f"{job.phase.name}\n\n{attempt.summary or job.phase.name}"
        # Dated by the attempt, so that committing again after a crash makes the very same commit.
        return await workspace.commit(attempt.tree or "", attempt.parent_commit, message, trailers, attempt.started_at)

    async def _ensure_applied(self, job: StepJob) -> None:
        """Bring the workspace to exactly the attempt's change, whatever a crash or a command left in it.

        Raises:
            UnusableReply: it cannot be brought there any more; only another attempt helps.
        """
        workspace, attempt = self.workspace(job.run), job.open_attempt
        await workspace.reset(attempt.parent_commit)
        edits = parse_edits(attempt.reply or "").edits
        # Not by what the plan says now: a person may have edited the phase, and this is about the change on record.
        is_fuzzy = attempt.applied_how == "fuzzy"
        change = await workspace.apply(edits, _spec(job).allowed_paths, allow_fuzzy=is_fuzzy)
        if change.tree != attempt.tree:
            raise UnusableReply("applied again, the same change gave another result: it was disturbed from outside")

    async def _sync_notes(self, run: RunRecord) -> None:
        """Make notes of lines that a hand added to the file, and append those that came from elsewhere."""
        file = notes_file(Path(run.workspace))
        lines = await asyncio.to_thread(read_lines, file)
        if hand_written(lines):
            await self._database.write(adopt_lines, run.run_id, lines, self._clock.now())
        known = await self._database.read(notes_of_run, run.run_id)
        await asyncio.to_thread(append_missing, file, known)


def _needs_a_person(error: ProviderError) -> bool:
    """Whether no attempt can go better before somebody has mended a key, an account or a name."""
    refused = isinstance(error, ProviderRefused) and error.status in UNMENDED_STATUSES
    return refused or isinstance(error, MissingKey)


def _committed(job: StepJob, commit: str) -> WasCommitted:
    return WasCommitted(commit, job.open_attempt.summary or job.phase.name)


def _verification(attempt: AttemptRecord) -> str | None:
    """What the green verification printed, None when the plan has none."""
    return attempt.verify_output or "" if attempt.verify_outcome == "green" else None


def _spec(job: StepJob) -> PhaseSpec:
    return next(phase for phase in job.plan.phases if phase.phase_id == job.phase.phase_id)


def _allows_fuzzy(job: StepJob) -> bool:
    said = _spec(job).allow_fuzzy
    return job.plan.allow_fuzzy if said is None else said


def _reasons(attempt: AttemptRecord) -> tuple[str, ...]:
    return tuple(attempt.builder_reasons or ())


def _account(job: StepJob) -> PhaseAccount:
    return PhaseAccount(job.run.run_id, job.phase.attempt, job.fence, rules=job.rules)


def _span_id(job: StepJob) -> str:
    """The span that what this step starts belongs to: the step's own where it is one, else the attempt's."""
    run_id, phase_id, attempt = job.run.run_id, job.phase.phase_id, job.phase.attempt
    if job.step is None:
        return attempt_span_id(run_id, phase_id, attempt)
    return step_id(run_id, phase_id, attempt, job.step)


def _built(built: Built) -> Outcome:
    if built.error is not None:
        what = "reply" if built.reply else "change"
        return AttemptFailed(f"the builder's {what} cannot be used: {built.error}", facts=_facts(built))
    return WasBuilt(built.reply, built.summary, built.model, built.reasons)


def _facts(built: Built) -> tuple[tuple[str, Any], ...]:
    return (("reply", built.reply), ("builder_model", built.model), ("builder_reasons", list(built.reasons)))


def _red(result: VerifyResult) -> AttemptFailed:
    facts = (
        ("verify_outcome", result.outcome),
        ("verify_exit_code", result.exit_code),
        ("verify_output", result.output),
    )
    said = result.output[-REASON_OUTPUT_CHARS:].strip()
    reason = f"the verification command {result.ending}" + (f":\n{said}" if said else " and printed nothing")
    return AttemptFailed(reason, facts=facts)


def _judged(result: AuditorResult) -> Outcome:
    verdict = {
        "approved": result.approved,
        "summary": result.summary,
        "issues": [asdict(issue) for issue in result.issues_found],
    }
    minor = sum(issue.severity == "minor" for issue in result.issues_found)
    if result.approved:
        return WasApproved(result.model_used, result.reasons, verdict, minor)
    facts = (
        ("auditor_model", result.model_used),
        ("auditor_reasons", list(result.reasons)),
        ("verdict", verdict),
    )
    if result.error is not None:
        return AttemptFailed(result.error, facts=facts)
    found = "\n".join(f"- {issue.severity}: {issue.description}" for issue in result.issues_found)
    return AttemptFailed(f"the auditor rejected it: {result.summary}\n{found}".strip(), "rejected", facts)
