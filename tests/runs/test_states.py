"""The state machines: total, true to their drawing, and never a shortcut to success."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.database.tables import PHASE_STATES, RUN_STATES
from autopack_mcp.runs.states import (
    PHASE_ENDED,
    RUN_ACTIVE,
    RUN_ENDED,
    PhaseEvent,
    PhaseState,
    RunEvent,
    RunState,
    allowed_phase_events,
    allowed_run_events,
    next_phase_state,
    next_run_state,
)

DRAWING = Path(__file__).parents[2] / "docs" / "runs.md"
run_states, run_events = st.sampled_from(get_args(RunState)), st.sampled_from(get_args(RunEvent))
phase_states, phase_events = st.sampled_from(get_args(PhaseState)), st.sampled_from(get_args(PhaseEvent))


def test_the_tables_accept_exactly_the_states_of_the_machines() -> None:
    assert get_args(RunState) == RUN_STATES
    assert get_args(PhaseState) == PHASE_STATES


@given(run_states, run_events)
def test_every_event_in_every_run_state_has_an_answer(state: RunState, event: RunEvent) -> None:
    following = next_run_state(state, event)

    assert following is None or following in RUN_STATES
    assert (following is not None) == (event in allowed_run_events(state))


@given(phase_states, phase_events)
def test_every_event_in_every_phase_state_has_an_answer(state: PhaseState, event: PhaseEvent) -> None:
    following = next_phase_state(state, event)

    assert following is None or following in PHASE_STATES
    assert (following is not None) == (event in allowed_phase_events(state))


@pytest.mark.parametrize("state", sorted(RUN_ENDED))
def test_a_run_that_has_ended_stays_ended(state: RunState) -> None:
    assert allowed_run_events(state) == ()


@pytest.mark.parametrize("state", sorted(set(RUN_STATES) - RUN_ENDED - {"cancelling"}))
def test_every_run_that_has_not_ended_can_be_cancelled(state: RunState) -> None:
    assert next_run_state(state, "cancel") == "cancelling"


@given(st.lists(run_events, max_size=30))
def test_no_sequence_of_events_reaches_success_but_through_running(events: list[RunEvent]) -> None:
    state: RunState = "queued"
    path = [state]
    for event in events:
        state = next_run_state(state, event) or state
        path.append(state)

    if "succeeded" in path:
        assert {"running", "pausing"} & set(path[: path.index("succeeded")])


def test_a_phase_succeeds_only_after_verification_and_approval() -> None:
    every: tuple[PhaseState, ...] = get_args(PhaseState)
    before = {state: {next_phase_state(state, event) for event in get_args(PhaseEvent)} for state in every}

    assert [state for state in every if "succeeded" in before[state]] == ["committing"]
    assert [state for state in every if "committing" in before[state]] == ["auditing"]
    assert [state for state in every if "auditing" in before[state]] == ["verifying"]


def test_from_every_state_a_run_can_still_end() -> None:
    every: tuple[RunState, ...] = get_args(RunState)
    for start in every:
        reached, frontier = {start}, [start]
        while frontier:
            state = frontier.pop()
            moves = (next_run_state(state, event) for event in allowed_run_events(state))
            following = {move for move in moves if move is not None} - reached
            reached |= following
            frontier += following
        assert reached & RUN_ENDED


def test_what_waits_for_a_person_is_not_what_a_supervisor_advances() -> None:
    assert not RUN_ACTIVE & {"paused", "budget_paused", "needs_attention"}
    assert not RUN_ACTIVE & RUN_ENDED


def test_the_document_draws_exactly_the_moves_of_both_machines() -> None:
    drawn = {
        tuple(part.strip() for part in line.strip("| ").split("|"))
        for line in DRAWING.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    }
    moves = {
        (f"`{state}`", f"`{event}`", f"`{next_run_state(state, event)}`")
        for state in get_args(RunState)
        for event in allowed_run_events(state)
    } | {
        (f"`{state}`", f"`{event}`", f"`{next_phase_state(state, event)}`")
        for state in get_args(PhaseState)
        for event in allowed_phase_events(state)
    }

    assert drawn == moves


def test_an_ended_phase_moves_again_only_when_a_person_asks() -> None:
    asked = {"retry", "skip", "cancel"}

    assert all(set(allowed_phase_events(state)) <= asked for state in PHASE_ENDED)
