"""The ledger: reserve before a call leaves, settle when the truth is known, and never exceed a cap in between.

It owns the counters of ``budget_scopes`` and the life of a reservation (docs/accounting.md): every function here is one
operation of the writer's transaction, so a crash leaves all of it or nothing. It does not choose models and does not
know what a call says; ``llm_service`` reserves and settles, the supervisor expires what was lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, RowMapping, Table, and_, func, insert, select, update

from autopack_mcp.budgets.caps import CallScope, ScopeCap, scopes_of_call
from autopack_mcp.budgets.windows import window_at
from autopack_mcp.clock import Clock
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import (
    breaches,
    budget_scopes,
    reservations,
    runs,
    usage_hours,
    usage_phases,
)
from autopack_mcp.errors import Denial, LeaseLost, UnknownCall, UsageConflict
from autopack_mcp.usage.event import TokenCounts, UsageEvent
from autopack_mcp.usage.rollup import Charge, book, booked_event, rebook

NANO_PER_CENT = 10_000_000


@dataclass(frozen=True, slots=True)
class RunFence:
    """Proof that we still own the run: its fencing token. Reserving with a stale one is refused."""

    run_id: str
    lease_token: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """A promise of tokens to one call. ``bound_*`` are upper bounds; ``bound_nano`` is None when no price is known.

    ``lease_s`` is how long after the reservation the call counts as lost: its deadline plus a margin (contract 30).
    """

    call_id: str
    scope: CallScope
    model: str
    bound_input: int
    bound_output: int
    bound_nano: int | None
    lease_s: float
    attempt: int | None = None
    category: str | None = None

    @property
    def bound_tokens(self) -> int:
        """What the call can weigh at most."""
        return self.bound_input + self.bound_output


@dataclass(frozen=True, slots=True)
class ScopeUse:
    """One counter as it stands: tokens and nano-dollars that are spent, and that are promised to calls in flight."""

    settled_tokens: int = 0
    reserved_tokens: int = 0
    settled_nano: int = 0
    reserved_nano: int = 0


class Ledger:
    """The operations below, run by the writer of this process."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def reserve(
        self, reservation: Reservation, caps: Sequence[ScopeCap], fence: RunFence | None = None
    ) -> datetime | Denial:
        """Promise tokens to a call in every scope it touches, all or nothing.

        Returns:
            When it was reserved (the moment that decides its windows), or the denial of the first cap that says no,
            which leaves no trace.

        Raises:
            LeaseLost: ``fence`` is stale; another process owns the run.
        """
        return await self._database.write(reserve, reservation, tuple(caps), fence, self._clock.now())

    async def settle(self, event: UsageEvent, caps: Sequence[ScopeCap] = ()) -> None:
        """Book the truth about a reserved call and give the rest of its promise back, in one transaction.

        Settling the same call again with the same numbers changes nothing.

        Raises:
            UnknownCall: it was never reserved. UsageConflict: it is booked with other numbers.
        """
        await self._database.write(settle, event, tuple(caps), self._clock.now())

    async def release(self, call_id: str) -> bool:
        """Give a promise back because provably nothing was billed; False when it was no longer held."""
        return await self._database.write(release, call_id, self._clock.now())

    async def expire_overdue(self) -> int:
        """Charge every reservation whose lease has passed in full; returns how many."""
        return await self._database.write(expire_overdue, self._clock.now())

    def book_external(self, event: UsageEvent, caps: Sequence[ScopeCap]) -> None:
        """Book a call made elsewhere: no reservation, counted against every cap, a breach when it passes one."""
        self._database.write_now(book_external, event, tuple(caps), self._clock.now())


def reserve(
    connection: Connection, reservation: Reservation, caps: Sequence[ScopeCap], fence: RunFence | None, now: datetime
) -> datetime | Denial:
    """See ``Ledger.reserve``."""
    if fence is not None:
        _check_fence(connection, fence)
    used = _counters(connection, reservation.scope, caps, now)
    for cap in caps:
        denial = _denial(cap, used[cap.scope], reservation)
        if denial is not None:
            return denial
    delta = ScopeUse(reserved_tokens=reservation.bound_tokens, reserved_nano=reservation.bound_nano or 0)
    _move(connection, scopes_of_call(reservation.scope, now), delta)
    connection.execute(insert(reservations).values(**_reservation_row(reservation, now)))
    return now


def settle(connection: Connection, event: UsageEvent, caps: Sequence[ScopeCap], now: datetime) -> None:
    """See ``Ledger.settle``."""
    row = _reservation(connection, event.call_id)
    event = replace(event, occurred_at=row["reserved_at"])
    if row["state"] == "held":
        charge = _charge(event, row)
        book(connection, event, charge, now)
        _resolve(connection, event.call_id, "settled", now)
        bound = ScopeUse(reserved_tokens=row["bound_input"] + row["bound_output"], reserved_nano=row["bound_nano"] or 0)
        _move_from_reserved(connection, row, bound, charge)
        _record_breaches(connection, event.call_id, caps, now)
    elif row["state"] == "expired":
        _settle_late(connection, event, row, caps, now)
    else:
        _check_same(connection, event)


def release(connection: Connection, call_id: str, now: datetime) -> bool:
    """See ``Ledger.release``."""
    row = _reservation(connection, call_id)
    if row["state"] != "held":
        return False
    bound = ScopeUse(reserved_tokens=row["bound_input"] + row["bound_output"], reserved_nano=row["bound_nano"] or 0)
    _move_from_reserved(connection, row, bound, Charge(0, 0))
    return _resolve(connection, call_id, "released", now)


def expire_overdue(connection: Connection, now: datetime) -> int:
    """See ``Ledger.expire_overdue``."""
    overdue = and_(reservations.c.state == "held", reservations.c.lease_expires_at < now)
    rows = connection.execute(select(reservations).where(overdue).order_by(reservations.c.call_id)).mappings().all()
    for row in rows:
        charge = Charge(row["bound_input"] + row["bound_output"], row["bound_nano"] or 0)
        book(connection, _expired_event(row), charge, now)
        _resolve(connection, row["call_id"], "expired", now)
        bound = ScopeUse(reserved_tokens=charge.tokens, reserved_nano=charge.nano_usd)
        _move_from_reserved(connection, row, bound, charge)
    return len(rows)


def book_external(connection: Connection, event: UsageEvent, caps: Sequence[ScopeCap], now: datetime) -> None:
    """See ``Ledger.book_external``; idempotent on ``call_id``."""
    if booked_event(connection, event.call_id) is not None:
        _check_same(connection, event)
        return
    charge = Charge(event.counts.total, event.cost_nano or 0)
    scope = CallScope(event.provider, event.role, event.purpose, event.run_id, event.phase_id)
    _counters(connection, scope, caps, event.occurred_at)
    book(connection, event, charge, now)
    _move(connection, scopes_of_call(scope, event.occurred_at),
          ScopeUse(settled_tokens=charge.tokens, settled_nano=charge.nano_usd))  # fmt: skip
    _record_breaches(connection, event.call_id, caps, now)


def scope_use(connection: Connection, scope: CallScope, cap: ScopeCap, at: datetime) -> ScopeUse:
    """How far one cap is used, from its counter, or from the ledger when no call has touched the counter yet."""
    row = connection.execute(select(budget_scopes).where(budget_scopes.c.scope == cap.scope)).mappings().first()
    return _seed(connection, scope, cap, at) if row is None else _use(row)


def _check_fence(connection: Connection, fence: RunFence) -> None:
    held = select(runs.c.run_id).where(runs.c.run_id == fence.run_id, runs.c.lease_token == fence.lease_token)
    if connection.execute(held).first() is None:
        raise LeaseLost(fence.run_id)


def _counters(connection: Connection, scope: CallScope, caps: Sequence[ScopeCap], at: datetime) -> dict[str, ScopeUse]:
    """Every capped counter of a call, created from the ledger at its first use and locked until the commit."""
    names = sorted({cap.scope for cap in caps})
    found = select(budget_scopes).where(budget_scopes.c.scope.in_(names)).order_by(budget_scopes.c.scope)
    uses = {row["scope"]: _use(row) for row in connection.execute(found.with_for_update()).mappings()}
    for cap in caps:
        if cap.scope not in uses:
            uses[cap.scope] = _seed(connection, scope, cap, at)
            _insert_counter(connection, cap.scope, uses[cap.scope])
    return uses


def _insert_counter(connection: Connection, name: str, use: ScopeUse) -> None:
    connection.execute(
        insert(budget_scopes).values(
            scope=name,
            settled_tokens=use.settled_tokens,
            reserved_tokens=use.reserved_tokens,
            settled_nano=use.settled_nano,
            reserved_nano=use.reserved_nano,
        )
    )


def _denial(cap: ScopeCap, use: ScopeUse, call: Reservation) -> Denial | None:
    if cap.allowance_tokens is not None:
        used, wanted = use.settled_tokens + use.reserved_tokens, call.bound_tokens
        if used + wanted > cap.allowance_tokens:
            why = (
                f"{cap.label[:1].upper()}{cap.label[1:]} is {cap.allowance_tokens:,} tokens: {used:,} are used"
                f" ({use.reserved_tokens:,} of them by calls in flight) and this call may need {wanted:,}."
            )
            return Denial(cap.scope, "tokens", used, use.reserved_tokens, wanted, cap.allowance_tokens, cap.resets_at, why)  # fmt: skip
    if cap.allowance_nano is not None:
        return _dollar_denial(cap, cap.allowance_nano, use, call)
    return None


def _dollar_denial(cap: ScopeCap, allowance: int, use: ScopeUse, call: Reservation) -> Denial | None:
    used = use.settled_nano + use.reserved_nano
    if call.bound_nano is None:
        why = (
            f"{cap.label} is in dollars and the price of {call.model!r} is unknown: nothing can be promised."
            " Give it a price: in models.yaml."
        )
        return Denial(cap.scope, "nano_usd", used, 0, allowance + 1, allowance, cap.resets_at, why)
    if used + call.bound_nano <= allowance:
        return None
    why = (
        f"{cap.label} is {_dollars(allowance)}: {_dollars(used)} are used and this call may cost"
        f" {_dollars(call.bound_nano)}."
    )
    return Denial(cap.scope, "nano_usd", used, use.reserved_nano, call.bound_nano, allowance, cap.resets_at, why)


def _dollars(nano: int) -> str:
    return f"${nano / NANO_PER_CENT / 100:,.4f}"


def _move(connection: Connection, names: Sequence[str], delta: ScopeUse) -> None:
    """Add ``delta`` to every counter of these names that exists; one that does not is made from the ledger later."""
    connection.execute(
        update(budget_scopes)
        .where(budget_scopes.c.scope.in_(names))
        .values(
            settled_tokens=budget_scopes.c.settled_tokens + delta.settled_tokens,
            reserved_tokens=budget_scopes.c.reserved_tokens + delta.reserved_tokens,
            settled_nano=budget_scopes.c.settled_nano + delta.settled_nano,
            reserved_nano=budget_scopes.c.reserved_nano + delta.reserved_nano,
        )
    )


def _move_from_reserved(connection: Connection, row: RowMapping, bound: ScopeUse, charge: Charge) -> None:
    # In the windows of the reservation, even when the call ends after midnight (contract 15).
    names = scopes_of_call(_scope_of(row), row["reserved_at"])
    delta = ScopeUse(charge.tokens, -bound.reserved_tokens, charge.nano_usd, -bound.reserved_nano)
    _move(connection, names, delta)


def _seed(connection: Connection, scope: CallScope, cap: ScopeCap, at: datetime) -> ScopeUse:
    """What a counter must start from so that it equals the ledger: settled events and reservations still held."""
    if cap.kind == "run":
        spent, held = usage_phases.c.run_id == scope.run_id, reservations.c.run_id == scope.run_id
        return _sum_up(connection, usage_phases, spent, held)
    assert cap.window is not None, "only provider windows and runs have caps"
    span = window_at(cap.window, at)
    # Also a rehearsal's shadow starts from the real use of its windows (contract 17).
    spent = and_(
        usage_hours.c.provider == cap.provider,
        usage_hours.c.hour_start >= span.start,
        usage_hours.c.hour_start < span.end,
        usage_hours.c.purpose != "rehearsal",
    )
    held = and_(
        reservations.c.provider == cap.provider,
        reservations.c.reserved_at >= span.start,
        reservations.c.reserved_at < span.end,
        reservations.c.purpose != "rehearsal",
    )
    return _sum_up(connection, usage_hours, spent, held)


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


def _use(row: RowMapping) -> ScopeUse:
    return ScopeUse(row["settled_tokens"], row["reserved_tokens"], row["settled_nano"], row["reserved_nano"])


def _charge(event: UsageEvent, row: RowMapping) -> Charge:
    """What a settled call weighs: its truth, or its whole promise while only a lower bound of the truth is known."""
    bound_tokens, bound_nano = row["bound_input"] + row["bound_output"], row["bound_nano"] or 0
    if event.usage_source == "provider":
        return Charge(event.counts.total, event.cost_nano if event.cost_nano is not None else bound_nano)
    return Charge(max(bound_tokens, event.counts.total), max(bound_nano, event.cost_nano or 0))


def _settle_late(
    connection: Connection, event: UsageEvent, row: RowMapping, caps: Sequence[ScopeCap], now: datetime
) -> None:
    """A truth that arrives after the lease ended corrects the charge once, down or up."""
    booked = booked_event(connection, event.call_id)
    assert booked is not None, "an expired reservation always has its event"
    old, old_charge = booked
    if old.status != "expired":
        _check_same(connection, event)
        return
    charge = _charge(event, row)
    rebook(connection, old, old_charge, event, charge, now)
    delta = ScopeUse(charge.tokens - old_charge.tokens, 0, charge.nano_usd - old_charge.nano_usd, 0)
    _move(connection, scopes_of_call(_scope_of(row), row["reserved_at"]), delta)
    _record_breaches(connection, event.call_id, caps, now)


def _check_same(connection: Connection, event: UsageEvent) -> None:
    booked = booked_event(connection, event.call_id)
    if booked is None:
        raise UsageConflict(event.call_id, "it was released as not billed")
    if booked[0].counts != event.counts:
        raise UsageConflict(event.call_id, f"{booked[0].counts.total} tokens before, {event.counts.total} now")


def _record_breaches(connection: Connection, call_id: str, caps: Sequence[ScopeCap], now: datetime) -> None:
    """Write down every cap that stands exceeded after a booking nobody could deny."""
    for cap in caps:
        found = select(budget_scopes).where(budget_scopes.c.scope == cap.scope)
        row = connection.execute(found).mappings().first()
        if row is None:
            continue
        use = _use(row)
        measured = (
            ("tokens", use.settled_tokens + use.reserved_tokens, cap.allowance_tokens),
            ("nano_usd", use.settled_nano + use.reserved_nano, cap.allowance_nano),
        )
        for unit, used, allowance in measured:
            if allowance is not None and used > allowance:
                why = f"{cap.label}: {used} {unit} used of {allowance} after a booking that could not be denied."
                connection.execute(
                    insert(breaches).values(scope=cap.scope, unit=unit, call_id=call_id, allowance=allowance,
                                            used=used, occurred_at=now, why=why)
                )  # fmt: skip


def _reservation(connection: Connection, call_id: str) -> RowMapping:
    found = select(reservations).where(reservations.c.call_id == call_id).with_for_update()
    row = connection.execute(found).mappings().first()
    if row is None:
        raise UnknownCall(call_id)
    return row


def _resolve(connection: Connection, call_id: str, state: str, now: datetime) -> bool:
    held = and_(reservations.c.call_id == call_id, reservations.c.state == "held")
    done = connection.execute(update(reservations).where(held).values(state=state, resolved_at=now))
    assert done.rowcount == 1, "the row was read as held in this transaction"
    return True


def _scope_of(row: RowMapping) -> CallScope:
    return CallScope(row["provider"], row["role"], row["purpose"], row["run_id"], row["phase_id"])


def _reservation_row(reservation: Reservation, now: datetime) -> dict[str, object]:
    scope = reservation.scope
    return {
        "call_id": reservation.call_id,
        "provider": scope.provider,
        "model": reservation.model,
        "role": scope.role,
        "purpose": scope.purpose,
        "run_id": scope.run_id,
        "phase_id": scope.phase_id,
        "attempt": reservation.attempt,
        "category": reservation.category,
        "bound_input": reservation.bound_input,
        "bound_output": reservation.bound_output,
        "bound_nano": reservation.bound_nano,
        "state": "held",
        "reserved_at": now,
        "lease_expires_at": now + timedelta(seconds=reservation.lease_s),
    }


def _expired_event(row: RowMapping) -> UsageEvent:
    return UsageEvent(
        call_id=row["call_id"],
        provider=row["provider"],
        model=row["model"],
        role=row["role"],
        purpose=row["purpose"],
        status="expired",
        usage_source="expired",
        counts=TokenCounts(uncached_input=row["bound_input"], output=row["bound_output"]),
        occurred_at=row["reserved_at"],
        run_id=row["run_id"],
        phase_id=row["phase_id"],
        attempt=row["attempt"],
        category=row["category"],
        cost_nano=row["bound_nano"],
        error="The call was never reported back; its whole reservation is charged.",
    )
