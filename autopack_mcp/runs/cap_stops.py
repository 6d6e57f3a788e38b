"""Which of its own caps has stopped a run, and how large it must be for the call that it denied.

It reads that back from the words of the denial, which is all that a run keeps of it; a test lets the ledger deny and
compares. A cap of an account, of a role or of all calls is nobody's to raise for one run, so here it is no stop. The
answer to a person who raises a cap, and the phrase that says how, ask it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from autopack_mcp.budgets.measures import Unit
from autopack_mcp.money import NANO_PER_USD
from autopack_mcp.runs.records import RunRecord

_DENIED = re.compile(
    r"The cap of (?:phase (?P<phase>\S+) of )?run (?P<run>\S+) is \S+(?: tokens)?: (?P<used>\S+)(?: tokens)? are used"
    r" \(.*\) and this call may need (?P<wanted>\$?[\d,]+(?:\.\d+)?)"
)
_CENTI_CENT_NANO = NANO_PER_USD // 10_000  # Denials say dollars to this, so a sum of two is off by it at most.


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


def cap_stop(run: RunRecord) -> CapStop | None:
    """The own cap that has stopped a run; None for a run that is not stopped, or was by something else."""
    found = _DENIED.match(run.why) if run.state == "budget_paused" else None
    if found is None or found["run"] != run.run_id:
        return None
    used, wanted = found["used"], found["wanted"]
    if wanted.startswith("$"):
        return CapStop(run.run_id, "nano_usd", _nano(used) + _nano(wanted) + _CENTI_CENT_NANO, found["phase"])
    return CapStop(run.run_id, "tokens", _whole(used) + _whole(wanted), found["phase"])


def _whole(said: str) -> int:
    return int(said.replace(",", ""))


def _nano(said: str) -> int:
    return int(Decimal(said.removeprefix("$").replace(",", "")) * NANO_PER_USD)


def _rounded_up(unit: Unit, count: int) -> str:
    step = 10 ** max(0, len(str(count)) - 2)
    rounded = -(-count // step) * step
    if unit == "tokens":
        return f"{rounded:,} tokens"
    dollars = (Decimal(rounded) / NANO_PER_USD).normalize()
    return f"${dollars:,f}"
