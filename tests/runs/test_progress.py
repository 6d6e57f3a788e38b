"""Progress: what counts, what is current, and that it never falls by itself."""

from __future__ import annotations

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.runs.progress import current_phase, progress_of
from autopack_mcp.runs.records import PhaseRecord
from autopack_mcp.runs.states import PhaseEvent, PhaseState, next_phase_state

COUNTED_EVENTS = [event for event in get_args(PhaseEvent) if event != "retry"]


def phase(index: int, state: PhaseState, tier: int = 1) -> PhaseRecord:
    return PhaseRecord(
        "r", index, f"p{index}", f"Phase {index}", tier, f"Tier {tier}", "general", "medium", state, "", 0, None, None,
        None, 0, 0, None, None,
    )  # fmt: skip


def test_a_run_without_phases_is_at_zero() -> None:
    progress = progress_of([])

    assert (progress.percent_complete, progress.total_phases, progress.current_phase_index) == (0.0, 0, None)


def test_skipped_phases_count_as_completed_and_failed_ones_do_not() -> None:
    progress = progress_of([phase(1, "succeeded"), phase(2, "skipped"), phase(3, "failed"), phase(4, "queued", tier=2)])

    assert (progress.completed_phases, progress.percent_complete) == (2, 50.0)
    assert (progress.completed_tiers, progress.total_tiers) == (0, 2)


def test_a_tier_is_completed_when_all_its_phases_are() -> None:
    progress = progress_of([phase(1, "succeeded"), phase(2, "queued", tier=2)])

    assert (progress.completed_tiers, progress.current_tier_index, progress.current_tier_name) == (1, 2, "Tier 2")


def test_the_phase_in_hand_is_the_current_one_even_behind_a_queued_one() -> None:
    found = current_phase([phase(1, "succeeded"), phase(2, "queued"), phase(3, "auditing")])

    assert found
    assert found.phase_index == 3


def test_the_last_phase_is_current_when_all_have_ended() -> None:
    found = current_phase([phase(1, "succeeded"), phase(2, "failed")])

    assert found
    assert found.phase_index == 2


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(COUNTED_EVENTS)), max_size=60))
def test_progress_never_falls_unless_a_person_retries(events: list[tuple[int, PhaseEvent]]) -> None:
    states: list[PhaseState] = ["queued"] * 5
    percent = [0.0]
    for number, event in events:
        states[number] = next_phase_state(states[number], event) or states[number]
        percent.append(progress_of([phase(i + 1, state) for i, state in enumerate(states)]).percent_complete)

    assert percent == sorted(percent)
    assert all(0 <= value <= 100 for value in percent)
    if all(state in ("succeeded", "skipped") for state in states):
        assert percent[-1] == 100
