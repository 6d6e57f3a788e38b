"""Another description or verification command for one phase of a plan that a run has pinned.

Pure: it makes the edited plan and says what was and what is. Which phases may be edited when, and by whom, is decided
by ``phase_wishes`` and ``control``; the supervisor writes the result under the run's fence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from autopack_mcp.plans.plan import Plan


@dataclass(frozen=True, slots=True)
class PhaseEdit:
    """New words for a phase; None leaves a part as it is. ``verify`` is a command, or none for no verification."""

    description: str | None = None
    verify: str | None = None


@dataclass(frozen=True, slots=True)
class TextChange:
    """One part of a phase that becomes another text. What a phase is verified by may be the whole plan's command."""

    part: Literal["description", "verify"]
    before: str
    after: str

    @property
    def event(self) -> str:
        """For the run's log; first what is now, which also a short view of it shows."""
        return f"{self.part} is {self.after!r} now, it was {self.before!r}"


def changes_of(plan: Plan, phase_id: str, edit: PhaseEdit) -> tuple[TextChange, ...]:
    """The parts of a phase of this plan that really become something else."""
    return tuple(change for change in _asked(plan, phase_id, edit) if change.before != change.after)


def edited_plan(plan: Plan, phase_id: str, edit: PhaseEdit) -> Plan:
    """The plan with these words for one of its phases."""
    new = {part: text for part in ("description", "verify") if (text := getattr(edit, part)) is not None}
    tiers = tuple(
        replace(
            tier,
            phases=tuple(replace(phase, **new) if phase.phase_id == phase_id else phase for phase in tier.phases),
        )
        for tier in plan.tiers
    )
    return replace(plan, tiers=tiers)


def _asked(plan: Plan, phase_id: str, edit: PhaseEdit) -> Iterator[TextChange]:
    phase = next(phase for phase in plan.phases if phase.phase_id == phase_id)
    if edit.description is not None:
        yield TextChange("description", phase.description, edit.description)
    if edit.verify is not None:
        yield TextChange("verify", phase.verify or plan.verify, edit.verify)
