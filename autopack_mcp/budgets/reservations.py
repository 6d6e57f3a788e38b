"""The rows of reservations: made, found and ended, together for all operations of a transaction.

It owns ``reservations`` as the ledger moves it and compares nothing; what a promise means is the ledger's business.
Others (counters, checks) sum these rows up with SQL of their own, when all of them are written.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, bindparam, insert, select, update

from autopack_mcp.budgets.caps import CallScope
from autopack_mcp.clock import to_us
from autopack_mcp.database.bare import BareLookup, BareStatement
from autopack_mcp.database.tables import reservations
from autopack_mcp.usage.event import Purpose
from autopack_mcp.usage.rollup import Charge

Ending = Literal["settled", "released", "expired"]


class ReservationRow(NamedTuple):
    """A reservation as the driver gives it; times are microseconds."""

    call_id: str
    provider: str
    model: str
    role: str
    purpose: Purpose
    run_id: str | None
    phase_id: str | None
    attempt: int | None
    category: str | None
    bound_input: int
    bound_output: int
    bound_nano: int | None
    state: str
    reserved_at: int

    @property
    def scope(self) -> CallScope:
        """Whose call it is."""
        return CallScope(self.provider, self.role, self.purpose, self.run_id, self.phase_id)

    @property
    def promise(self) -> Charge:
        """What it holds back in every counter of its scope."""
        return Charge(self.bound_input + self.bound_output, self.bound_nano or 0)


_SHOWN = tuple(reservations.c[name] for name in ReservationRow._fields)
_STORED = BareLookup(_SHOWN, reservations.c.call_id)
_OVERDUE = BareStatement(
    lambda _: (
        select(*_SHOWN)
        .where(reservations.c.state == "held", reservations.c.lease_expires_at < bindparam("now_us"))
        .order_by(reservations.c.call_id)
    )
)
_INSERT = BareStatement(lambda _: insert(reservations))
_END = BareStatement(
    lambda _: (
        update(reservations)
        .where(reservations.c.call_id == bindparam("ended_call"), reservations.c.state == "held")
        .values(state=bindparam("new_state"), resolved_at=bindparam("end_us"))
    )
)


class KeptReservations:
    """Those that the operations of one transaction have to do with; None stands for one that does not exist."""

    def __init__(self) -> None:
        self._rows: dict[str, ReservationRow | None] = {}
        self._foreseen: set[str] = set()
        self._new: dict[str, dict[str, Any]] = {}
        self._ended: dict[str, dict[str, Any]] = {}

    def foresee(self, call_id: str) -> None:
        """Read this one together with whatever is read next."""
        self._foreseen.add(call_id)

    def find(self, connection: Connection, call_id: str) -> ReservationRow | None:
        """One reservation as it stands, read from the table only the first time."""
        rows = self._rows
        if call_id not in rows:
            wanted = (self._foreseen - rows.keys()) | {call_id}
            self._foreseen.clear()
            rows.update(dict.fromkeys(wanted))
            rows.update((row[0], ReservationRow(*row)) for row in _STORED.rows(connection, wanted))
        return rows[call_id]

    def add(self, row: dict[str, Any]) -> None:
        """Have a new one written: every column of the table by name."""
        self._new[row["call_id"]] = row
        self._rows[row["call_id"]] = ReservationRow(*(row[name] for name in ReservationRow._fields))

    def end(self, row: ReservationRow, state: Ending, at: datetime) -> None:
        """End one that is held."""
        self._rows[row.call_id] = row._replace(state=state)
        self._ended[row.call_id] = {"ended_call": row.call_id, "new_state": state, "end_us": to_us(at)}

    def flush(self, connection: Connection) -> None:
        """Write what is new and what has ended."""
        _INSERT.run_many(connection, list(self._new.values()))
        ended = _END.run_many(connection, list(self._ended.values()))
        assert ended == len(self._ended), "each was held in this transaction"
        for kept in (self._rows, self._new, self._ended):
            kept.clear()


def overdue(connection: Connection, now: datetime) -> list[ReservationRow]:
    """Every held reservation whose lease has passed, by call id; only when nothing of the batch is unwritten."""
    return [ReservationRow(*found) for found in _OVERDUE.rows(connection, {"now_us": to_us(now)})]
