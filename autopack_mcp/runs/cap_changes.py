"""What a person's wish for other caps of a run comes to: what changes, whether the run goes on, and the words for it.

It reads caps and counters and writes nothing; the supervisor obeys by what it says, in the same transaction. A cap may
be lowered below what is used: then the next call is denied, and nothing else happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from autopack_mcp.budgets.call_rules import caps_of_run
from autopack_mcp.budgets.caps import CallScope, RunCaps, own_caps_of_call
from autopack_mcp.budgets.counters import scope_use
from autopack_mcp.budgets.measures import Unit, amount, exact_amount, measures
from autopack_mcp.errors import IllegalTransition, RequestRefused
from autopack_mcp.runs.cap_needs import CapNeed, need_of
from autopack_mcp.runs.own_caps import NewCaps
from autopack_mcp.runs.records import PhaseRecord, RunRecord
from autopack_mcp.runs.states import PHASE_ENDED, RUN_ENDED
from autopack_mcp.runs.stops import CapStop, cap_stop
from autopack_mcp.runs.store import phases_of_run

PHASES_NAMED = 20  # Of a run that does not have the phase that was meant.


@dataclass(frozen=True, slots=True)
class CapChange:
    """One cap, in tokens or nano-dollars. ``before`` is None where there was none; calls in flight are ``used`` too."""

    whose: str
    unit: Unit
    before: int | None
    after: int
    used: int

    @property
    def is_change(self) -> bool:
        """False for a cap that already is what it should become."""
        return self.before != self.after

    @property
    def event(self) -> str:
        """ "The cap of run r-1 from 2,000 tokens to 35,000 tokens"."""
        before = "none" if self.before is None else exact_amount(self.unit, self.before)
        return f"{self.whose} from {before} to {exact_amount(self.unit, self.after)}"

    @property
    def sentence(self) -> str:
        """How it stands, for whoever asked."""
        whose, now = f"{self.whose[:1].upper()}{self.whose[1:]}", exact_amount(self.unit, self.after)
        if not self.is_change:
            return f"{whose} is {now} already; nothing was changed."
        before = "there was none" if self.before is None else f"before: {exact_amount(self.unit, self.before)}"
        nothing_left = " Nothing of it is left: the next call is denied." if self.after <= self.used else ""
        return f"{whose} is now {now} ({before}); {amount(self.unit, self.used)} are used.{nothing_left}"


@dataclass(frozen=True, slots=True)
class CapAnswer:
    """What a wish comes to. ``changes`` are the caps that really change, ``resumes`` says whether the run goes on.

    ``why`` is why it stays stopped under the new cap that is too small as well; None where its reason stays as it is.
    """

    changes: tuple[CapChange, ...]
    resumes: bool
    words: str
    why: str | None = None


def answer_to(connection: Connection, run: RunRecord, new: NewCaps, at: datetime) -> CapAnswer:
    """What it would come to to give a run, or one of its phases, the caps ``new``.

    Raises:
        RequestRefused: the run has no such phase. IllegalTransition: it has ended, or is about to.
    """
    if run.state in RUN_ENDED or run.state == "cancelling":
        raise IllegalTransition(run.state, "raise_cap")
    phases = phases_of_run(connection, run.run_id)
    phase = None if new.phase_id is None else _phase(phases, run.run_id, new.phase_id)
    asked = tuple(_asked(connection, run, new, at))
    changes = tuple(change for change in asked if change.is_change)
    stop = cap_stop(run)
    need = None if stop is None else need_of(connection, run, stop, phases)
    resumes = any(_frees(change, new, stop) for change in changes)
    sentences = [change.sentence for change in asked]
    sentences += [*_notes(run, phase, changes), *_outlook(run, need, asked, new, resumes=resumes)]
    return CapAnswer(changes, resumes, " ".join(sentences), None if resumes else _why_still(need, changes, new))


def _phase(phases: Sequence[PhaseRecord], run_id: str, phase_id: str) -> PhaseRecord:
    for phase in phases:
        if phase.phase_id == phase_id:
            return phase
    named = ", ".join(phase.phase_id for phase in phases[:PHASES_NAMED])
    more = f" and {len(phases) - PHASES_NAMED} more" if len(phases) > PHASES_NAMED else ""
    raise RequestRefused(f"Run {run_id} has no phase {phase_id!r}.", hint=f"Its phases: {named}{more}.")


def _asked(connection: Connection, run: RunRecord, new: NewCaps, at: datetime) -> Iterator[CapChange]:
    call = CallScope("", "", "rehearsal" if run.is_rehearsal else "run", run.run_id, new.phase_id)
    caps = caps_of_run(connection, run.run_id, new.phase_id) or RunCaps()
    if new.phase_id is None:
        before, wanted = (caps.tokens, caps.nano_usd), RunCaps(new.tokens, new.nano_usd)
    else:
        before, wanted = (caps.phase_tokens, caps.phase_nano_usd), RunCaps(None, None, new.tokens, new.nano_usd)
    for cap in own_caps_of_call(call, wanted):
        for measure in measures(cap, scope_use(connection, call, cap, at)):
            of_unit = before[0] if measure.unit == "tokens" else before[1]
            yield CapChange(cap.label, measure.unit, of_unit, measure.allowance, measure.used)


def _frees(change: CapChange, new: NewCaps, stop: CapStop | None) -> bool:
    return stop is not None and _is_about(change, new, stop) and change.after >= stop.needed


def _is_about(change: CapChange, new: NewCaps, stop: CapStop) -> bool:
    return (change.unit, new.phase_id) == (stop.unit, stop.phase_id)


def _notes(run: RunRecord, phase: PhaseRecord | None, changes: Sequence[CapChange]) -> Iterator[str]:
    """What makes the new cap of a phase matter less than it seems."""
    if phase is None or not changes:
        return
    for change in changes:
        of_run = run.token_cap if change.unit == "tokens" else run.cost_cap_nano
        if of_run is not None and change.after > of_run:
            yield f"The cap of the whole run is lower, {exact_amount(change.unit, of_run)}, and stops it first."
    if phase.state in PHASE_ENDED:
        yield f"Phase {phase.phase_id} is {phase.state} already: its cap matters only if it is tried again."


def _outlook(
    run: RunRecord, need: CapNeed | None, asked: Sequence[CapChange], new: NewCaps, *, resumes: bool
) -> Iterator[str]:
    """What becomes of a run that a cap has stopped."""
    if run.state != "budget_paused":
        return
    if need is None:
        yield "Another cap has stopped the run, so it stays stopped; see to that one, then resume the run."
        return
    of_this_cap = [cap.after for cap in asked if _is_about(cap, new, need.stop)]
    if resumes:
        may_stop_again = need.whole is not None and max(of_this_cap) < need.whole
        yield f"The run goes on where it paused.{need.outlook if may_stop_again else ''}"
    elif not of_this_cap:
        yield f"Another cap has stopped the run, so it stays stopped: {need.say}."
    elif max(of_this_cap) < need.stop.needed:
        yield f"The call that was denied needs {need.least} in all, so the run stays stopped: {need.say}."


def _why_still(need: CapNeed | None, changes: Sequence[CapChange], new: NewCaps) -> str | None:
    of_this_cap = [] if need is None else [change for change in changes if _is_about(change, new, need.stop)]
    if need is None or not of_this_cap:
        return None
    now = exact_amount(need.stop.unit, of_this_cap[0].after)
    whose = f"{need.stop.whose[:1].upper()}{need.stop.whose[1:]}"
    return f"{whose} is now {now}, which is not enough: the call that was denied needs at least {need.least} in all."
