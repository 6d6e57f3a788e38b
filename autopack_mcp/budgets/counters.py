"""The counters behind every cap: one row per scope, with what is settled and what is reserved.

It owns ``budget_scopes``: a row is made from the ledger when a cap first asks for it and moves with every booking from
then on. It compares nothing and denies nothing. The ledger moves the counters; whoever shows a cap reads them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from operator import eq, ne
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Table, and_, bindparam, func, insert, select, update

from autopack_mcp.budgets.caps import CallScope, ScopeCap
from autopack_mcp.database.bare import BareLookup, BareStatement
from autopack_mcp.database.batch import flush_batch, kept
from autopack_mcp.database.tables import budget_scopes, reservations, usage_days, usage_events, usage_phases
from autopack_mcp.usage.windows import WindowSpan, window_at

_COLUMNS = ("settled_tokens", "reserved_tokens", "settled_nano", "reserved_nano")
_STORED = BareLookup((budget_scopes.c.scope, *(budget_scopes.c[name] for name in _COLUMNS)), budget_scopes.c.scope)


class ScopeUse(NamedTuple):
    """One counter as it stands: tokens and nano-dollars that are spent, and that are promised to calls in flight.

    A tuple, because each booking makes one for every counter that it moves.
    """

    settled_tokens: int = 0
    reserved_tokens: int = 0
    settled_nano: int = 0
    reserved_nano: int = 0

    @property
    def used_tokens(self) -> int:
        """What no other call may have."""
        return self.settled_tokens + self.reserved_tokens

    @property
    def used_nano(self) -> int:
        """What no other call may have, in nano-dollars."""
        return self.settled_nano + self.reserved_nano

    def plus(self, delta: ScopeUse) -> ScopeUse:
        """Both together."""
        return ScopeUse(
            self.settled_tokens + delta.settled_tokens,
            self.reserved_tokens + delta.reserved_tokens,
            self.settled_nano + delta.settled_nano,
            self.reserved_nano + delta.reserved_nano,
        )


def scope_use(connection: Connection, scope: CallScope, cap: ScopeCap, at: datetime) -> ScopeUse:
    """How far one cap is used, from its counter, or from the ledger when no call has touched the counter yet.

    ``at`` is a moment in the cap's window; ``scope`` says whose calls count (its provider, its run, whether rehearsed).
    """
    rows = _STORED.rows(connection, (cap.scope,))
    return ScopeUse(*rows[0][1:]) if rows else _seed(connection, scope, cap, at)


def counted_uses(
    connection: Connection, scope: CallScope, caps: Iterable[ScopeCap], at: datetime
) -> dict[str, ScopeUse]:
    """Every capped counter of a call by scope, created from the ledger at its first use.

    Only inside a write transaction, of which there is one at a time: what is read here is still true when it is moved.
    """
    by_scope = {cap.scope: cap for cap in caps}
    if not by_scope:
        return {}
    counters = kept(connection, KeptCounters)
    uses = counters.uses(connection, by_scope)
    for name in by_scope.keys() - uses.keys():
        uses[name] = _seed(connection, scope, by_scope[name], at)
        numbers = {column: getattr(uses[name], column) for column in _COLUMNS}
        connection.execute(insert(budget_scopes), {"scope": name, **numbers})
        counters.forget(name)
    return uses


def move(connection: Connection, names: Collection[str], delta: ScopeUse) -> dict[str, ScopeUse]:
    """Add ``delta`` to every counter of these names that exists; one that does not is made from the ledger later.

    Returns:
        The counters that exist, as they stand now.
    """
    return kept(connection, KeptCounters).move(connection, names, delta)


class KeptCounters:
    """The counters that the bookings of one transaction have to do with; None stands for one that does not exist."""

    def __init__(self) -> None:
        self._kept: dict[str, ScopeUse | None] = {}
        self._foreseen: set[str] = set()
        self._moved: set[str] = set()

    def foresee(self, names: Iterable[str]) -> None:
        """Read these together with whatever is read next."""
        self._foreseen.update(names)

    def uses(self, connection: Connection, names: Collection[str]) -> dict[str, ScopeUse]:
        """Those of these that exist, read from the table only the first time."""
        known = self._kept
        try:
            return {name: use for name in names if (use := known[name]) is not None}
        except KeyError:
            wanted = self._foreseen.union(names) - known.keys()
            self._foreseen.clear()
            known.update(dict.fromkeys(wanted))
            known.update((row[0], ScopeUse(*row[1:])) for row in _STORED.rows(connection, wanted))
        return {name: use for name in names if (use := known[name]) is not None}

    def move(self, connection: Connection, names: Collection[str], delta: ScopeUse) -> dict[str, ScopeUse]:
        """See ``move``."""
        moved = {name: use.plus(delta) for name, use in self.uses(connection, names).items()}
        self._kept.update(moved)
        self._moved.update(moved)
        return moved

    def forget(self, name: str) -> None:
        """Read this one again: it was made meanwhile."""
        self._kept.pop(name, None)

    def flush(self, connection: Connection) -> None:
        """Write every counter that was moved."""
        _STORE.run_many(connection, [self._row(name) for name in sorted(self._moved)])
        self._kept.clear()
        self._moved.clear()

    def _row(self, name: str) -> dict[str, Any]:
        use = self._kept[name]
        assert use is not None, "only counters that exist are moved"
        return {"same_scope": name, **{column: getattr(use, column) for column in _COLUMNS}}


_STORE = BareStatement(
    lambda _: update(budget_scopes).where(budget_scopes.c.scope == bindparam("same_scope")), _COLUMNS
)


def _seed(connection: Connection, scope: CallScope, cap: ScopeCap, at: datetime) -> ScopeUse:
    """What a counter must start from so that it equals the ledger: settled events and reservations still held."""
    flush_batch(connection)  # The sums that are read here may still be in memory.
    if cap.kind in ("run", "phase"):
        return _run_use(connection, scope, cap)
    assert cap.window is not None, "a cap that is no run's and no phase's has a window"
    span = window_at(cap.window, at)
    real = _window_use(connection, scope, cap, span)
    if scope.purpose != "rehearsal":
        return real
    # A rehearsal's shadow starts from the real use of its window (contract 17). Real calls still in flight will never
    # be given back here, so for the shadow they are as good as spent.
    own = _rehearsed_use(connection, scope, cap, span)
    return ScopeUse(
        real.used_tokens + own.settled_tokens, own.reserved_tokens, real.used_nano + own.settled_nano, own.reserved_nano
    )


def _run_use(connection: Connection, scope: CallScope, cap: ScopeCap) -> ScopeUse:
    is_counted = eq if scope.purpose == "rehearsal" else ne
    spent = [usage_phases.c.run_id == scope.run_id, is_counted(usage_phases.c.purpose, "rehearsal")]
    held = [reservations.c.run_id == scope.run_id, is_counted(reservations.c.purpose, "rehearsal")]
    if cap.kind == "phase":
        spent.append(usage_phases.c.phase_id == scope.phase_id)
        held.append(reservations.c.phase_id == scope.phase_id)
    return _sum_up(connection, usage_phases, and_(*spent), and_(*held))


def _window_use(connection: Connection, scope: CallScope, cap: ScopeCap, span: WindowSpan) -> ScopeUse:
    spent = and_(
        *_of_subject(usage_days, scope, cap),
        usage_days.c.day_start >= span.start,
        usage_days.c.day_start < span.end,
        usage_days.c.purpose != "rehearsal",
    )
    held = and_(_held_in(scope, cap, span), reservations.c.purpose != "rehearsal")
    return _sum_up(connection, usage_days, spent, held)


def _rehearsed_use(connection: Connection, scope: CallScope, cap: ScopeCap, span: WindowSpan) -> ScopeUse:
    spent = and_(
        *_of_subject(usage_events, scope, cap),
        usage_events.c.run_id.is_not_distinct_from(scope.run_id),
        usage_events.c.purpose == "rehearsal",
        usage_events.c.occurred_at >= span.start,
        usage_events.c.occurred_at < span.end,
    )
    held = and_(
        _held_in(scope, cap, span),
        reservations.c.run_id.is_not_distinct_from(scope.run_id),
        reservations.c.purpose == "rehearsal",
    )
    return _sum_up(connection, usage_events, spent, held)


def _held_in(scope: CallScope, cap: ScopeCap, span: WindowSpan) -> ColumnElement[bool]:
    return and_(
        *_of_subject(reservations, scope, cap),
        reservations.c.reserved_at >= span.start,
        reservations.c.reserved_at < span.end,
    )


def _of_subject(table: Table, scope: CallScope, cap: ScopeCap) -> list[ColumnElement[bool]]:
    """Whose calls a windowed cap counts: a provider's (perhaps not the call's own), a role's, or all."""
    if cap.kind == "provider":
        return [table.c.provider == (cap.provider or scope.provider)]
    return [table.c.role == (cap.role or scope.role)] if cap.kind == "role" else []


def _sum_up(connection: Connection, table: Table, spent: ColumnElement[bool], held: ColumnElement[bool]) -> ScopeUse:
    settled = connection.execute(
        select(func.coalesce(func.sum(table.c.charged_tokens), 0), func.coalesce(func.sum(table.c.charged_nano), 0))
        .where(spent)
    ).one()  # fmt: skip
    bound = reservations.c.bound_input + reservations.c.bound_output
    reserved = connection.execute(
        select(func.coalesce(func.sum(bound), 0), func.coalesce(func.sum(reservations.c.bound_nano), 0))
        .where(reservations.c.state == "held", held)
    ).one()  # fmt: skip
    return ScopeUse(int(settled[0]), int(reserved[0]), int(settled[1]), int(reserved[1]))
