"""How often a cap was found exceeded, as the ledger wrote it down.

It reads ``breaches`` and judges nothing; the usage summary shows the count.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, func, select

from autopack_mcp.database.tables import breaches


def count_breaches(connection: Connection, start: datetime, end: datetime) -> int:
    """Breaches of real caps with ``start <= occurred < end``; those of a rehearsal's shadow caps are not counted."""
    within = (breaches.c.occurred_at >= start, breaches.c.occurred_at < end)
    is_shadow = breaches.c.scope.startswith("rehearsal/", autoescape=True)
    return int(connection.execute(select(func.count()).select_from(breaches).where(*within, ~is_shadow)).scalar_one())
