"""What calls in flight hold, as the reservations say; for showing where no counter is kept.

It reads ``reservations`` and compares nothing: what is held against a cap stands in the cap's own counter.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import BigInteger, Connection, bindparam, cast, func, select

from autopack_mcp.clock import to_us
from autopack_mcp.database.bare import BareStatement
from autopack_mcp.database.tables import reservations

_COLUMNS = reservations.c
_HELD = BareStatement(
    lambda _: (
        select(_COLUMNS.provider, cast(func.sum(_COLUMNS.bound_input + _COLUMNS.bound_output), BigInteger))
        .where(
            _COLUMNS.state == "held",
            _COLUMNS.purpose != "rehearsal",
            _COLUMNS.reserved_at >= bindparam("start"),
            _COLUMNS.reserved_at < bindparam("end"),
        )
        .group_by(_COLUMNS.provider)
    )
)


def held_by_provider(connection: Connection, start: datetime, end: datetime) -> Mapping[str, int]:
    """Tokens promised to real calls that were reserved in ``start <= at < end`` and are not over, by provider."""
    rows = _HELD.rows(connection, {"start": to_us(start), "end": to_us(end)})
    return dict(rows)
