"""What the ledger must know of a run inside its own transaction: who owns it, and the caps of it and of its phases.

It only reads, and the runs of all operations of a batch together: none of those changes a run. A cap that was raised a
moment ago therefore holds for the very next call. Whoever looks without a batch asks for one run alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection

from autopack_mcp.budgets.caps import RunCaps
from autopack_mcp.database.bare import BareLookup
from autopack_mcp.database.batch import batch_of
from autopack_mcp.database.tables import phase_caps, runs

_RUNS = BareLookup((runs.c.run_id, runs.c.lease_token, runs.c.token_cap, runs.c.cost_cap_nano), runs.c.run_id)
_PHASES = BareLookup(
    (phase_caps.c.run_id, phase_caps.c.phase_id, phase_caps.c.token_cap, phase_caps.c.cost_cap_nano),
    phase_caps.c.run_id,
)


@dataclass(frozen=True, slots=True)
class RunFacts:
    """``lease_token`` fences its owner; ``phases`` has (tokens, nano-dollars) of those with caps of their own."""

    lease_token: int
    token_cap: int | None
    cost_cap_nano: int | None
    phases: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)

    def caps(self, phase_id: str | None) -> RunCaps:
        """The caps of the run, and of one of its phases."""
        return RunCaps(self.token_cap, self.cost_cap_nano, *self.phases.get(phase_id or "", (None, None)))


class KeptRuns:
    """The runs that the operations of one transaction are about; None stands for what is no run of the database."""

    def __init__(self) -> None:
        self._runs: dict[str, RunFacts | None] = {}
        self._foreseen: set[str] = set()

    def foresee(self, run_id: str | None) -> None:
        """Read this one together with whatever is read next."""
        if run_id is not None:
            self._foreseen.add(run_id)

    def find(self, connection: Connection, run_id: str) -> RunFacts | None:
        """What is known of a run, read only the first time."""
        if run_id not in self._runs:
            wanted = (self._foreseen - self._runs.keys()) | {run_id}
            self._foreseen.clear()
            self._runs.update(dict.fromkeys(wanted))
            self._runs.update(_read(connection, wanted))
        return self._runs[run_id]

    def flush(self, connection: Connection) -> None:
        """Forget them."""
        self._runs.clear()


def run_facts(connection: Connection, run_id: str) -> RunFacts | None:
    """What is known of a run; None when the database has no such run."""
    batch = batch_of(connection)
    if batch is not None:
        return batch.keeper(KeptRuns).find(connection, run_id)
    return _read(connection, {run_id}).get(run_id)


def _read(connection: Connection, run_ids: set[str]) -> dict[str, RunFacts]:
    found = _RUNS.rows(connection, run_ids)
    phases: dict[str, dict[str, tuple[int | None, int | None]]] = {row[0]: {} for row in found}
    if found:
        for run_id, phase_id, tokens, nano_usd in _PHASES.rows(connection, phases):
            phases[run_id][phase_id] = (tokens, nano_usd)
    return {
        run_id: RunFacts(lease_token, tokens, nano_usd, phases[run_id])
        for run_id, lease_token, tokens, nano_usd in found
    }
