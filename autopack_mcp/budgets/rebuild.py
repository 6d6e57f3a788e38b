"""Makes everything that is derived from the ledger anew where it is wrong: sums first, then counters.

It owns the counters' part; the sums are ``usage.rebuild``'s. It changes no event, no reservation and no cap, and says
what it changed. Each transaction is short, and each commit a step towards the truth. The command line asks it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import Connection, delete, insert

from autopack_mcp.budgets.check import wrong_counters
from autopack_mcp.budgets.counter_names import read_counter_name
from autopack_mcp.budgets.counters import ScopeUse, scope_use
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import budget_scopes
from autopack_mcp.usage.rebuild import Rebuilt, rebuild_sums

COUNTERS_PER_COMMIT = 50  # Each is a few look-ups in the sums; no other writer waits longer than for a batch of calls.


def rebuild_ledger(database: Database, now: datetime) -> Iterator[Rebuilt]:
    """Make every wrong hour, day, run and counter anew; yields what was made, nothing where all is right.

    A counter is made as at its first use, from the sums and the held reservations. A rehearsal's window that is wrong
    starts anew from what is really used now.

    Raises:
        RequestRefused: as ``rebuild_sums``.
    """
    yield from rebuild_sums(database)
    wrong = database.read_now(_names_of_wrong)
    for start in range(0, len(wrong), COUNTERS_PER_COMMIT):
        database.write_now(_rebuild, wrong[start : start + COUNTERS_PER_COMMIT], now)
    if wrong:
        yield Rebuilt("counters", wrong)


def _names_of_wrong(connection: Connection) -> tuple[str, ...]:
    found = (difference.where.removeprefix("counter ") for difference in wrong_counters(connection))
    return tuple(dict.fromkeys(found))


def _rebuild(connection: Connection, names: tuple[str, ...], now: datetime) -> None:
    for name in names:
        # Gone, it is a counter that no call has touched yet, and those are counted from the ledger.
        connection.execute(delete(budget_scopes).where(budget_scopes.c.scope == name))
        counter = read_counter_name(name)
        if counter is None:
            continue
        at = now if counter.span is None else counter.span.start
        use = scope_use(connection, counter.call, counter.cap(), at)
        numbers = {number: getattr(use, number) for number in ScopeUse._fields}
        connection.execute(insert(budget_scopes).values(scope=name, **numbers))
