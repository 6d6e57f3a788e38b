"""What a person's wish about one phase comes to: to try it anew, to skip it, to edit it; or why that cannot be.

It reads the run and writes nothing; the supervisor obeys by what it says, in the same transaction. A wish that is true
already changes nothing and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast, get_args

from sqlalchemy import Connection

from autopack_mcp.errors import IllegalTransition, RequestRefused
from autopack_mcp.plans.plan import Plan, plan_from_json
from autopack_mcp.runs.plan_edits import PhaseEdit, TextChange, changes_of, edited_plan
from autopack_mcp.runs.progress import current_phase
from autopack_mcp.runs.records import PhaseRecord, RunRecord
from autopack_mcp.runs.requests import PhaseAction, RequestRecord, allowed_actions
from autopack_mcp.runs.states import PHASE_ACTIVE, RUN_STOPPED, PhaseEvent, RunEvent
from autopack_mcp.runs.store import phases_of_run, plan_json_of_run

PHASES_NAMED = 20  # Of a run that does not have the phase that was meant.
_PARTS = {"description": "description", "verify": "verification command"}


@dataclass(frozen=True, slots=True)
class PhaseWish:
    """What a person asks about a phase. Only ``retry`` may leave it unnamed: the one that the run is about is meant.

    ``reason`` belongs to ``skip``, ``edit`` to the action of that name.
    """

    action: PhaseAction
    phase_id: str | None
    reason: str = ""
    edit: PhaseEdit = field(default_factory=PhaseEdit)

    def why(self, who: str) -> str:
        """What the log and the phase say about it, on one line."""
        done = {"retry": "to be tried anew", "skip": "skipped", "edit": "edited"}[self.action]
        return f"{done} by {who}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, slots=True)
class PhaseAnswer:
    """What a wish comes to: the moves of the phase and of the run, if any, and the plan if it is edited.

    ``interrupts`` says that the step in hand must end for it; ``words`` are for whoever asked.
    """

    words: str
    phase: PhaseRecord
    phase_event: PhaseEvent | None = None
    run_event: RunEvent | None = None
    plan: Plan | None = None
    edits: tuple[TextChange, ...] = ()
    interrupts: bool = False

    @property
    def is_change(self) -> bool:
        """False for what is so already."""
        return self.phase_event is not None or self.run_event is not None or self.plan is not None


def wish_to_json(wish: PhaseWish) -> Mapping[str, Any]:
    """The wish as the arguments of its request."""
    return {"phase_id": wish.phase_id, "reason": wish.reason, **asdict(wish.edit)}


def wish_from_json(request: RequestRecord) -> PhaseWish:
    """The wish that a request was made of."""
    assert request.action in get_args(PhaseAction), f"{request.action} is not about a phase"
    words = dict(request.arguments)
    phase_id, reason = words.pop("phase_id"), words.pop("reason")
    return PhaseWish(cast(PhaseAction, request.action), phase_id, reason, PhaseEdit(**words))


def answer_to_wish(connection: Connection, run: RunRecord, wish: PhaseWish) -> PhaseAnswer:
    """What it would come to to do as a person wishes with a phase of a run.

    Raises:
        RequestRefused: there is no such phase, or it stands where this cannot be done; the hint says what can.
        IllegalTransition: the run has ended, or is about to.
    """
    if wish.action not in allowed_actions(run.state):
        raise IllegalTransition(run.state, wish.action)
    phases = phases_of_run(connection, run.run_id)
    phase = _phase_meant(run, phases, wish.phase_id)
    _refuse_what_is_kept(phase, wish.action)
    moment = _Moment(run, phase, current_phase(phases))
    if wish.action == "retry":
        return _retry(moment)
    if wish.action == "skip":
        return _skip(moment, wish.reason)
    return _edit(moment, plan_from_json(plan_json_of_run(connection, run.run_id)), wish.edit)


@dataclass(frozen=True, slots=True)
class _Moment:
    """A phase of a run, as both stand. ``current`` is the phase that the run is about."""

    run: RunRecord
    phase: PhaseRecord
    current: PhaseRecord | None

    @property
    def in_hand(self) -> bool:
        return self.phase.state in PHASE_ACTIVE

    @property
    def is_stopped(self) -> bool:
        return self.run.state in RUN_STOPPED

    @property
    def frees_run(self) -> bool:
        """Whether the run needs attention for this very phase."""
        return self.run.state == "needs_attention" and self.phase == self.current

    @property
    def outlook(self) -> str:
        """What becomes of a stopped run, when this phase is not what has stopped it."""
        if not self.is_stopped or self.frees_run:
            return ""
        if self.run.state == "needs_attention" and self.current is not None:
            return f" The run still needs you for phase {self.current.phase_id}."
        return " The run stays stopped until it is resumed."


def _phase_meant(run: RunRecord, phases: Sequence[PhaseRecord], phase_id: str | None) -> PhaseRecord:
    if phase_id is not None:
        for phase in phases:
            if phase.phase_id == phase_id:
                return phase
        raise RequestRefused(f"Run {run.run_id} has no phase {phase_id!r}.", hint=f"Its phases: {_named(phases)}.")
    current = current_phase(phases)
    if current is None or (current.state not in PHASE_ACTIVE | {"failed"} and run.state != "needs_attention"):
        raise RequestRefused("No phase has failed or is in hand.", hint=f"Name one of {_named(phases)}.")
    return current


def _named(phases: Sequence[PhaseRecord]) -> str:
    named = ", ".join(f"{phase.phase_id} ({phase.state})" for phase in phases[:PHASES_NAMED])
    return f"{named} and {len(phases) - PHASES_NAMED} more" if len(phases) > PHASES_NAMED else named


def _refuse_what_is_kept(phase: PhaseRecord, action: PhaseAction) -> None:
    if phase.state == "succeeded":
        raise RequestRefused(
            f"{action} is not possible: phase {phase.phase_id} has been committed as {(phase.commit_sha or '')[:10]}.",
            hint="Later phases build on it. To have it otherwise, fork the run from this phase.",
        )
    if phase.state == "committing":
        raise RequestRefused(
            f"{action} is not possible: phase {phase.phase_id} is approved and its commit is being made.",
            hint="Let the run go on with it, or cancel the run.",
        )


def _retry(moment: _Moment) -> PhaseAnswer:
    phase, name = moment.phase, f"Phase {moment.phase.phase_id}"
    run_event: RunEvent | None = "retry" if moment.frees_run else None
    if moment.in_hand and not moment.is_stopped:
        how_to = "To drop this attempt, pause now and then retry."
        return PhaseAnswer(f"{name} is being tried already (attempt {phase.attempt}). {how_to}", phase)
    if phase.state == "queued":
        how = "is tried now" if run_event else "waits to be tried already; nothing was changed"
        return PhaseAnswer(f"{name} {how}.{moment.outlook}", phase, None, run_event)
    dropped = f"Attempt {phase.attempt} was dropped: " if moment.in_hand else ""
    words = f"{dropped}{name} begins anew, with a full set of attempts.{moment.outlook}"
    return PhaseAnswer(words, phase, "retry", run_event)


def _skip(moment: _Moment, reason: str) -> PhaseAnswer:
    phase, name = moment.phase, f"Phase {moment.phase.phase_id}"
    if phase.state == "skipped":
        return PhaseAnswer(f"{name} is skipped already; nothing was changed.", phase)
    dropped = f" Its attempt {phase.attempt} was dropped." if moment.in_hand else ""
    words = f"{name} is skipped and counts as completed ({reason}).{dropped}{moment.outlook}"
    run_event: RunEvent | None = "skip" if moment.frees_run else None
    return PhaseAnswer(words, phase, "skip", run_event, interrupts=moment.in_hand)


def _edit(moment: _Moment, plan: Plan, edit: PhaseEdit) -> PhaseAnswer:
    phase, name = moment.phase, f"Phase {moment.phase.phase_id}"
    edits = changes_of(plan, phase.phase_id, edit)
    if not edits:
        return PhaseAnswer(f"{name} says so already; nothing was changed.", phase)
    if moment.in_hand and not moment.is_stopped:
        hint = "Pause the run now, edit the phase (that drops its attempt), then resume."
        raise RequestRefused(f"{name} is in hand ({phase.state}, attempt {phase.attempt}).", hint=hint)
    if phase.state == "skipped":
        raise RequestRefused(f"{name} is skipped.", hint="Retry it first, then edit it.")
    what = " and ".join(_PARTS[change.part] for change in edits)
    dropped = f" Its attempt {phase.attempt} was dropped, for it was made from the old words." if moment.in_hand else ""
    words = f"{name} has another {what} now.{dropped}{_after_edit(moment)}"
    event: PhaseEvent | None = "retry" if moment.in_hand else None
    return PhaseAnswer(words, phase, event, None, edited_plan(plan, phase.phase_id, edit), edits)


def _after_edit(moment: _Moment) -> str:
    """What is still to be said so that the edited phase is tried."""
    if moment.phase.state == "failed":
        return f" Retry phase {moment.phase.phase_id} to try it so."
    if moment.frees_run:
        return " Resume the run to try it so."
    return moment.outlook
