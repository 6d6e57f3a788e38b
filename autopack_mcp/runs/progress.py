"""How far a run is, from its phases alone: a pure count that the tools, the page and the command line share.

Percent is 0 to 100 and falls only when a person retries a finished phase (contract 19).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autopack_mcp.runs.records import PhaseRecord
from autopack_mcp.runs.states import PHASE_ACTIVE, PHASE_COMPLETED, PHASE_ENDED


@dataclass(frozen=True, slots=True)
class RunProgress:
    """Counts of phases and tiers; indexes start at 1 and are None for a run without phases.

    ``current_*`` is the phase of ``current_phase``.
    """

    total_tiers: int
    total_phases: int
    completed_tiers: int
    completed_phases: int
    percent_complete: float
    current_tier_index: int | None
    current_tier_name: str | None
    current_phase_index: int | None
    current_phase_name: str | None


def progress_of(phases: Sequence[PhaseRecord]) -> RunProgress:
    """The progress of a run with these phases, in plan order."""
    done = [phase for phase in phases if phase.state in PHASE_COMPLETED]
    tiers = {phase.tier_index for phase in phases}
    unfinished = {phase.tier_index for phase in phases if phase.state not in PHASE_COMPLETED}
    current = current_phase(phases)
    return RunProgress(
        total_tiers=len(tiers),
        total_phases=len(phases),
        completed_tiers=len(tiers - unfinished),
        completed_phases=len(done),
        percent_complete=percent_complete(len(done), len(phases)),
        current_tier_index=current.tier_index if current else None,
        current_tier_name=current.tier_name if current else None,
        current_phase_index=current.phase_index if current else None,
        current_phase_name=current.name if current else None,
    )


def percent_complete(completed: int, total: int) -> float:
    """0 to 100 with one decimal, 0 without phases; 100 only when nothing is left, however many phases there are."""
    if completed == total:
        return 100.0 if total else 0.0
    return min(round(100 * completed / total, 1), 99.9)


def current_phase(phases: Sequence[PhaseRecord]) -> PhaseRecord | None:
    """The phase in hand, else the first that failed, is queued or was cancelled, else the last; None without phases.

    A failed phase comes before the queued ones, because it is what a person is asked about and what a retry builds.
    """
    for states in (PHASE_ACTIVE, {"failed"}, {"queued"}, {"cancelled"}):
        found = next((phase for phase in phases if phase.state in states), None)
        if found is not None:
            return found
    return phases[-1] if phases else None


def next_phase(phases: Sequence[PhaseRecord]) -> PhaseRecord | None:
    """The phase to work on: the one in hand, else the next queued one; None when there is nothing left to do."""
    active = next((phase for phase in phases if phase.state in PHASE_ACTIVE), None)
    return active or next((phase for phase in phases if phase.state == "queued"), None)


def is_over(phases: Sequence[PhaseRecord]) -> bool:
    """True when no phase is left to be done, however each of them ended."""
    return all(phase.state in PHASE_ENDED for phase in phases)
