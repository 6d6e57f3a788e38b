"""Which moves of a run begin and end spans, and which steps are one: written with the move itself, so never without it.

It owns what a run, a phase, an attempt and a step are called in a trace; ids and rows are ``traces.spans``'. The store
calls it with every move, ``outcomes`` with what a step came to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection

from autopack_mcp.runs.states import PHASE_ENDED, RUN_ENDED, PhaseState, RunState
from autopack_mcp.traces.spans import (
    Span,
    SpanKind,
    SpanStatus,
    attempt_span_id,
    close_spans,
    open_span_of,
    run_span_id,
    span_id_of,
    step_span_id,
    write_span,
)

StepName = Literal["setup", "apply", "verify", "commit"]

_KINDS: Mapping[StepName, SpanKind] = {"setup": "setup", "apply": "git", "verify": "verification", "commit": "git"}
# Building and auditing are calls, which have spans of their own.
_STEPS: Mapping[PhaseState, StepName] = {"applying": "apply", "verifying": "verify", "committing": "commit"}
_RUN_STATUS: Mapping[str, SpanStatus] = {"succeeded": "ok", "failed": "error"}
_PHASE_STATUS: Mapping[str, SpanStatus] = {"succeeded": "ok", "failed": "error"}
_ATTEMPT_STATUS: Mapping[str, SpanStatus] = {"kept": "ok", "failed": "error", "rejected": "error"}


@dataclass(frozen=True, slots=True)
class Step:
    """One step in hand that is a span once it is done, and when it began."""

    name: StepName
    began_at: datetime


def step_of(state: PhaseState, at: datetime) -> Step | None:
    """The step that a phase's state asks for, beginning now; None for one that only asks a model."""
    name = _STEPS.get(state)
    return None if name is None else Step(name, at)


def step_id(run_id: str, phase_id: str, attempt: int, step: Step) -> str:
    """The span of a step, known before it is written: what the step starts finds its place below it."""
    return step_span_id(run_id, phase_id, attempt, step.name, step.began_at)


def trace_run(connection: Connection, run_id: str, target: RunState, at: datetime) -> None:
    """With a run's move: its span begins when it first runs and ends, with all that is still open, when it does."""
    if target == "running" and open_span_of(connection, run_id, "run") is None:
        attributes = {"autopack.run_id": run_id}
        write_span(connection, Span(run_span_id(run_id), run_id, "run", f"run {run_id}", at, attributes=attributes))
    if target in RUN_ENDED:
        close_spans(connection, run_id, None, None, _RUN_STATUS.get(target, "unset"), at, {"autopack.state": target})


def trace_phase(connection: Connection, run_id: str, phase_id: str, attempt: int, target: PhaseState,
                at: datetime) -> None:  # fmt: skip
    """With a phase's move: its span begins with the first attempt and ends with the phase; tried anew, it has another.

    ``attempt`` is the one that the phase is in after the move.
    """
    if target == "building" and open_span_of(connection, run_id, "phase", phase_id) is None:
        span_id = span_id_of(run_id, "phase", phase_id, attempt)
        attributes = {"autopack.run_id": run_id, "autopack.phase_id": phase_id}
        write_span(
            connection,
            Span(span_id, run_id, "phase", f"phase {phase_id}", at, parent_id=run_span_id(run_id), phase_id=phase_id,
                 attributes=attributes),
        )  # fmt: skip
    if target in PHASE_ENDED:
        status = _PHASE_STATUS.get(target, "unset")
        close_spans(connection, run_id, "phase", phase_id, status, at, {"autopack.state": target})


def trace_attempt(connection: Connection, run_id: str, phase_id: str, attempt: int, at: datetime) -> None:
    """With the opening of an attempt."""
    facts = {"autopack.run_id": run_id, "autopack.phase_id": phase_id, "autopack.attempt": attempt}
    parent_id = open_span_of(connection, run_id, "phase", phase_id) or run_span_id(run_id)
    span_id = attempt_span_id(run_id, phase_id, attempt)
    name = f"attempt {attempt} at {phase_id}"
    write_span(
        connection,
        Span(span_id, run_id, "attempt", name, at, parent_id=parent_id, phase_id=phase_id, attempt=attempt,
             attributes=facts),
    )  # fmt: skip


def trace_attempt_end(connection: Connection, run_id: str, phase_id: str, state: str, at: datetime) -> None:
    """With the end of an attempt: kept, failed, rejected, or interrupted by a person."""
    status = _ATTEMPT_STATUS.get(state, "unset")
    close_spans(connection, run_id, "attempt", phase_id, status, at, {"autopack.state": state})


def trace_step(connection: Connection, run_id: str, phase_id: str, attempt: int, step: Step, came_to: str,
               *, is_done: bool, at: datetime) -> None:  # fmt: skip
    """With what a step came to, in a word; a step that a crash or a person cut off has no span but the repeated one."""
    is_setup = step.name == "setup"
    span = Span(
        span_id=step_id(run_id, phase_id, attempt, step),
        run_id=run_id,
        kind=_KINDS[step.name],
        name=step.name if is_setup else f"{step.name} {phase_id}",
        started_at=step.began_at,
        ended_at=max(at, step.began_at),  # A clock may have been set back meanwhile.
        parent_id=run_span_id(run_id) if is_setup else attempt_span_id(run_id, phase_id, attempt),
        status="ok" if is_done else "error",
        phase_id=None if is_setup else phase_id,
        attempt=None if is_setup else attempt,
        attributes={"autopack.run_id": run_id, "autopack.outcome": came_to}
        | ({} if is_done else {"error.type": came_to}),
    )
    write_span(connection, span)
