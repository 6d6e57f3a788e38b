"""Caps that were found exceeded by a booking which nobody could deny: a truth above its promise, or a foreign call.

It owns ``breaches``: the ledger writes them down in the transaction that finds them, the usage summary counts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, func, insert, select

from autopack_mcp.budgets.caps import ScopeCap
from autopack_mcp.budgets.counters import ScopeUse
from autopack_mcp.budgets.measures import amount, in_words, measures
from autopack_mcp.clock import to_us
from autopack_mcp.database.bare import BareStatement
from autopack_mcp.database.tables import breaches
from autopack_mcp.usage.rollup import Charge


def record_breaches(
    connection: Connection,
    caps: Sequence[ScopeCap],
    uses: Mapping[str, ScopeUse],
    excess: Charge,
    call_id: str,
    at: datetime,
) -> None:
    """Write down every cap that stands exceeded after a booking; ``excess`` is what it added to what was promised.

    A booking within its promise breaks nothing, also when the cap was lowered in the meantime.
    """
    for cap in caps:
        for measure in measures(cap, uses[cap.scope]):
            added = excess.tokens if measure.unit == "tokens" else excess.nano_usd
            if added > 0 and measure.used > measure.allowance:
                why = (
                    f"{in_words(cap, measure)}: {amount(measure.unit, measure.used)} are used,"
                    f" {amount(measure.unit, added)} of it by a call that could not be denied."
                )
                row = {"scope": cap.scope, "unit": measure.unit, "call_id": call_id, "allowance": measure.allowance}
                connection.execute(insert(breaches).values(**row, used=measure.used, occurred_at=at, why=why))


def count_breaches(connection: Connection, start: datetime, end: datetime) -> int:
    """Breaches of real caps with ``start <= occurred < end``; those of a rehearsal's shadow caps are not counted."""
    row = _COUNT.row(connection, {"start": to_us(start), "end": to_us(end)})
    assert row is not None, "a count is a row"
    return int(row[0])


_COUNT = BareStatement(
    lambda _: (
        select(func.count())
        .select_from(breaches)
        .where(
            breaches.c.occurred_at >= bindparam("start"),
            breaches.c.occurred_at < bindparam("end"),
            ~breaches.c.scope.startswith("rehearsal/", autoescape=True),
        )
    )
)
