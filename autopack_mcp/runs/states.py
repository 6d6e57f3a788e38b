"""The two state machines, as pure total functions: what may follow what (docs/runs.md draws them, a test compares).

They own the words of states and events. They touch nothing; the store makes a move only where ``next_run_state`` or
``next_phase_state`` names one, and the tools ask ``allowed_run_events`` to say what is possible instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

RunState = Literal[
    "queued", "running", "pausing", "paused", "budget_paused", "needs_attention", "cancelling",
    "succeeded", "failed", "cancelled",
]  # fmt: skip
RunEvent = Literal[
    "start", "pause", "resume", "retry", "skip", "cancel", "give_up",  # what people and the supervisor ask for
    "boundary", "stopped", "all_done", "done_with_failures",  # what happens
    "phase_failed", "budget_denied", "order_fired",
]  # fmt: skip
PhaseState = Literal[
    "queued", "building", "applying", "verifying", "auditing", "committing",
    "succeeded", "failed", "skipped", "cancelled",
]  # fmt: skip
PhaseEvent = Literal[
    "begin", "built", "applied", "verified", "approved", "committed",
    "attempt_failed", "attempts_used_up", "stuck", "retry", "skip", "cancel",
]  # fmt: skip

RUN_ENDED: frozenset[RunState] = frozenset({"succeeded", "failed", "cancelled"})
RUN_ACTIVE: frozenset[RunState] = frozenset({"queued", "running", "pausing", "cancelling"})  # A supervisor must act.
RUN_STOPPED: frozenset[RunState] = frozenset({"paused", "budget_paused", "needs_attention"})  # A person must act.
PHASE_COMPLETED: frozenset[PhaseState] = frozenset({"succeeded", "skipped"})
PHASE_ENDED: frozenset[PhaseState] = frozenset({"succeeded", "failed", "skipped", "cancelled"})
PHASE_ACTIVE: frozenset[PhaseState] = frozenset({"building", "applying", "verifying", "auditing", "committing"})

_RUN_MOVES: Mapping[RunState, Mapping[RunEvent, RunState]] = {
    "queued": {"start": "running", "pause": "paused", "cancel": "cancelling", "order_fired": "paused"},
    "running": {
        "pause": "pausing",
        "cancel": "cancelling",
        "all_done": "succeeded",
        "done_with_failures": "failed",
        "phase_failed": "needs_attention",
        "budget_denied": "budget_paused",
        "order_fired": "paused",
    },
    "pausing": {
        "boundary": "paused",
        "resume": "running",
        "cancel": "cancelling",
        "all_done": "succeeded",
        "done_with_failures": "failed",
        "phase_failed": "needs_attention",
        "budget_denied": "budget_paused",
        "order_fired": "paused",
    },
    "paused": {"resume": "running", "cancel": "cancelling"},
    "budget_paused": {"resume": "running", "cancel": "cancelling"},
    "needs_attention": {"retry": "running", "skip": "running", "cancel": "cancelling", "give_up": "failed"},
    "cancelling": {"stopped": "cancelled"},
    "succeeded": {},
    "failed": {},
    "cancelled": {},
}

_WHILE_ACTIVE: Mapping[PhaseEvent, PhaseState] = {
    "attempt_failed": "queued",
    "attempts_used_up": "failed",
    "stuck": "failed",
    "cancel": "cancelled",
}
# Not while committing: the commit may stand on the branch already, and that cannot be called off.
_BY_A_PERSON: Mapping[PhaseEvent, PhaseState] = {"retry": "queued", "skip": "skipped"}
_PHASE_MOVES: Mapping[PhaseState, Mapping[PhaseEvent, PhaseState]] = {
    "queued": {"begin": "building", "skip": "skipped", "cancel": "cancelled"},
    "building": {"built": "applying", **_WHILE_ACTIVE, **_BY_A_PERSON},
    "applying": {"applied": "verifying", **_WHILE_ACTIVE, **_BY_A_PERSON},
    "verifying": {"verified": "auditing", **_WHILE_ACTIVE, **_BY_A_PERSON},
    "auditing": {"approved": "committing", **_WHILE_ACTIVE, **_BY_A_PERSON},
    "committing": {"committed": "succeeded", **_WHILE_ACTIVE},
    "succeeded": {},
    "failed": {"retry": "queued", "skip": "skipped", "cancel": "cancelled"},
    "skipped": {"retry": "queued"},
    "cancelled": {},
}


def next_run_state(state: RunState, event: RunEvent) -> RunState | None:
    """The state that follows, or None when the event means nothing in this state."""
    return _RUN_MOVES[state].get(event)


def next_phase_state(state: PhaseState, event: PhaseEvent) -> PhaseState | None:
    """The state that follows, or None when the event means nothing in this state."""
    return _PHASE_MOVES[state].get(event)


def allowed_run_events(state: RunState) -> tuple[RunEvent, ...]:
    """Every event that a run in this state accepts, in the order of the drawing."""
    return tuple(_RUN_MOVES[state])


def allowed_phase_events(state: PhaseState) -> tuple[PhaseEvent, ...]:
    """Every event that a phase in this state accepts."""
    return tuple(_PHASE_MOVES[state])
