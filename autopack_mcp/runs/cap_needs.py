"""How large a cap that has stopped a run must be: at least for the denied call, and roughly for all that is left.

It owns the estimate, which goes by what the run's own phases have taken so far, and the phrase to say. It changes
nothing; the answer to a person who raises a cap and the status of a stopped run ask it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote

from sqlalchemy import Connection

from autopack_mcp.budgets.measures import exact_amount
from autopack_mcp.money import exact_dollars_text, usd
from autopack_mcp.runs.records import PhaseRecord, RunRecord
from autopack_mcp.runs.states import PHASE_ENDED
from autopack_mcp.runs.stops import CapStop, rounded_up
from autopack_mcp.usage.service import spent_by_phase


@dataclass(frozen=True, slots=True)
class CapNeed:
    """What a stopped run needs of its cap: ``stop.needed`` at least.

    ``whole`` is about what all of the run may come to, in the unit of the stop; None where there is nothing to go by:
    no phase has ended, calls have no price, or it is the cap of a phase. ``done`` and ``left`` count phases.
    """

    stop: CapStop
    done: int = 0
    left: int = 0
    whole: int | None = None

    @property
    def total(self) -> int:
        """The total to ask for: for the whole run where that can be said, otherwise the least; to two figures."""
        return rounded_up(self.stop.needed if self.whole is None else self.whole)

    @property
    def say(self) -> str:
        """What to say in chat: "raise the cap of run r-1 to 90,000 tokens", or "… to at least 35,000 tokens"."""
        least = "at least " if self.whole is None else ""
        return f"raise {self.stop.whose} to {least}{exact_amount(self.stop.unit, self.total)}"

    @property
    def command(self) -> str:
        """The same to type: "autopack-mcp raise-cap r-1 --tokens 90000"."""
        if self.stop.unit == "tokens":
            amount = f"--tokens {self.total}"
        else:
            amount = f"--usd {exact_dollars_text(usd(self.total)).removeprefix('$').replace(',', '')}"
        phase = "" if self.stop.phase_id is None else f" --phase {quote(self.stop.phase_id)}"
        return f"autopack-mcp raise-cap {quote(self.stop.run_id)} {amount}{phase}"

    @property
    def least(self) -> str:
        """The least that helps, exactly."""
        return exact_amount(self.stop.unit, self.stop.needed)

    @property
    def outlook(self) -> str:
        """What the rest may take, as a sentence behind others; "" where there is nothing to go by."""
        if self.whole is None:
            return ""
        done = "the phase that is done" if self.done == 1 else f"the {self.done:,} phases that are done"
        left = "the phase that is left" if self.left == 1 else f"the {self.left:,} that are left"
        return f" At what {done} took, {left} may bring it to about {exact_amount(self.stop.unit, self.total)} in all."


def need_of(connection: Connection, run: RunRecord, stop: CapStop, phases: Sequence[PhaseRecord]) -> CapNeed:
    """What a run needs of the cap that has stopped it; ``phases`` are all of the run's."""
    if stop.phase_id is not None:
        return CapNeed(stop)
    spent = spent_by_phase(connection, run.run_id, is_rehearsal=run.is_rehearsal)
    done = [spent[phase.phase_id] for phase in phases if phase.state in PHASE_ENDED and phase.phase_id in spent]
    left = sum(phase.state not in PHASE_ENDED for phase in phases)
    if not done or (stop.unit == "nano_usd" and any(one.unpriced_calls for one in done)):
        return CapNeed(stop)
    taken = sum(one.charged_tokens if stop.unit == "tokens" else one.cost_nano for one in done)
    # The denied call's upper bound stays in the sum: the last call must fit below the cap with its own.
    return CapNeed(stop, len(done), left, stop.needed - (-taken * left // len(done)))
