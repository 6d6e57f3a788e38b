"""Which of its own caps has stopped a run, and how large it must be for the call that it denied.

It owns what a run keeps of a denial (``runs.stopped_by``). A cap of an account, of a role or of all calls is nobody's
to raise for one run, so here it is no stop. The answer to a person who raises a cap, and the phrase that says how, ask
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autopack_mcp.budgets.counter_names import read_counter_name
from autopack_mcp.budgets.measures import Unit, exact_amount
from autopack_mcp.errors import Denial
from autopack_mcp.runs.records import RunRecord


@dataclass(frozen=True, slots=True)
class CapStop:
    """A run's own cap that denied a call. ``needed`` is the least total of it, in ``unit``, that lets the call through.

    ``phase_id`` is set when it was the cap of a phase.
    """

    run_id: str
    unit: Unit
    needed: int
    phase_id: str | None = None

    @property
    def words(self) -> str:
        """What to say in chat to raise it, to two figures: "raise the cap of run r-1 to 35,000 tokens"."""
        whose = f"run {self.run_id}" if self.phase_id is None else f"phase {self.phase_id} of run {self.run_id}"
        return f"raise the cap of {whose} to {_rounded_up(self.unit, self.needed)}"


def facts_of(denial: Denial | None) -> dict[str, Any] | None:
    """What a run keeps of the denial that stops it; None where no larger allowance would help."""
    if denial is None or denial.is_unpriced:
        return None
    return {"scope": denial.scope, "unit": denial.unit, "needed": denial.used + denial.wanted}


def cap_stop(run: RunRecord) -> CapStop | None:
    """The own cap that has stopped a run; None for a run that is not stopped, or was by something else."""
    if run.state != "budget_paused" or run.stopped_by is None:
        return None
    facts: Mapping[str, Any] = run.stopped_by
    counter = read_counter_name(facts["scope"])
    if counter is None or counter.kind not in ("run", "phase") or counter.call.run_id != run.run_id:
        return None
    return CapStop(run.run_id, facts["unit"], facts["needed"], counter.call.phase_id)


def _rounded_up(unit: Unit, count: int) -> str:
    step = 10 ** max(0, len(str(count)) - 2)
    return exact_amount(unit, -(-count // step) * step)
