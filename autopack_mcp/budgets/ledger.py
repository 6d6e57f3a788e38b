"""The ledger: reserve before a call leaves, settle when the truth is known, and never exceed a cap in between.

It owns the life of a reservation (docs/accounting.md): every function here is one operation of the writer's
transaction, so a crash leaves all of it or nothing. It does not choose models and does not know what a call says;
``llm_service`` reserves and settles, the supervisor expires what was lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import Connection, RowMapping, and_, bindparam, insert, select, update

from autopack_mcp.budgets.caps import CallScope, ScopeCap, cap_in_window_of, scopes_of_call
from autopack_mcp.budgets.counters import ScopeUse, locked_uses, move, scope_use
from autopack_mcp.clock import Clock
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import breaches, reservations, runs
from autopack_mcp.errors import Denial, ImpossibleTokenCounts, LeaseLost, UnknownCall, UsageConflict
from autopack_mcp.money import NANO_PER_USD
from autopack_mcp.usage.event import TokenCounts, UsageEvent
from autopack_mcp.usage.rollup import Charge, book, booked_event, rebook

__all__ = [
    "Ledger", "Reservation", "RunFence", "ScopeUse", "book_external", "expire_overdue", "release", "reserve",
    "scope_use", "settle",
]  # fmt: skip


# Built once: every call passes here, and building a statement costs ten times what running it does.
_FIND = select(reservations).where(reservations.c.call_id == bindparam("wanted_call")).with_for_update()
_END = (
    update(reservations)
    .where(reservations.c.call_id == bindparam("ended_call"), reservations.c.state == "held")
    .values(state=bindparam("state"), resolved_at=bindparam("resolved_at"))
)


@dataclass(frozen=True, slots=True)
class RunFence:
    """Proof that we still own the run: its fencing token. Reserving with a stale one is refused."""

    run_id: str
    lease_token: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """A promise of tokens to one call. ``bound_*`` are upper bounds; ``bound_nano`` is None when no price is known.

    ``lease_s`` is how long after the reservation the call counts as lost: its deadline plus a margin (contract 30).

    Raises:
        ImpossibleTokenCounts: a bound is negative.
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

    def __post_init__(self) -> None:
        for name in ("bound_input", "bound_output", "bound_nano"):
            if (getattr(self, name) or 0) < 0:
                raise ImpossibleTokenCounts(("zero or more", 0), (name, getattr(self, name)))

    @property
    def bound_tokens(self) -> int:
        """What the call can weigh at most."""
        return self.bound_input + self.bound_output


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
            When it was reserved (the moment that decides its windows), or the denial of a cap that says no, which
            leaves no trace. Of several, it is one that waiting for calls in flight cannot help.

        Raises:
            LeaseLost: ``fence`` is stale; another process owns the run.
        """
        return await self._database.write(reserve, reservation, tuple(caps), fence, self._clock.now())

    async def settle(self, event: UsageEvent, caps: Sequence[ScopeCap] = ()) -> None:
        """Book the truth about a reserved call and give the rest of its promise back, in one transaction.

        Settling the same call again with the same token counts changes nothing. A truth that arrives after the lease
        ended corrects the charge, once. ``caps`` are those that a truth above its promise is measured against.

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
        """Book a call made elsewhere: no reservation, counted against every cap, a breach when it passes one.

        Raises:
            UsageConflict: the call is booked with other numbers, or was reserved here and must be settled.
        """
        self._database.write_now(book_external, event, tuple(caps), self._clock.now())


def reserve(
    connection: Connection, reservation: Reservation, caps: Sequence[ScopeCap], fence: RunFence | None, now: datetime
) -> datetime | Denial:
    """See ``Ledger.reserve``."""
    if fence is not None:
        _check_fence(connection, fence)
    caps = [cap_in_window_of(cap, now) for cap in caps]
    uses = locked_uses(connection, reservation.scope, caps, now)
    denials = [denial for cap in caps for denial in _denials(cap, uses[cap.scope], reservation)]
    if denials:
        return min(denials, key=lambda denial: denial.is_due_to_calls_in_flight)
    promised = ScopeUse(reserved_tokens=reservation.bound_tokens, reserved_nano=reservation.bound_nano or 0)
    move(connection, scopes_of_call(reservation.scope, now), promised)
    connection.execute(insert(reservations), _reservation_row(reservation, now))
    return now


def settle(connection: Connection, event: UsageEvent, caps: Sequence[ScopeCap], now: datetime) -> None:
    """See ``Ledger.settle``."""
    row = _reservation(connection, event.call_id)
    event = _as_reserved(event, row)
    if row["state"] == "held":
        charge = _charge(event, row)
        book(connection, event, charge, now)
        _resolve(connection, row, "settled", charge, now)
        _record_breaches(connection, event, _excess(charge, _promise(row)), caps, now)
        return
    booked = booked_event(connection, event.call_id)
    if booked is None:
        raise UsageConflict(event.call_id, "it was released as not billed")
    if booked[0].status == "expired":
        _correct(connection, booked, event, _charge(event, row), caps, now)
    else:
        _check_same(event, booked[0])


def release(connection: Connection, call_id: str, now: datetime) -> bool:
    """See ``Ledger.release``."""
    row = _reservation(connection, call_id)
    if row["state"] != "held":
        return False
    _resolve(connection, row, "released", Charge(0, 0), now)
    return True


def expire_overdue(connection: Connection, now: datetime) -> int:
    """See ``Ledger.expire_overdue``."""
    overdue = and_(reservations.c.state == "held", reservations.c.lease_expires_at < now)
    rows = connection.execute(select(reservations).where(overdue).order_by(reservations.c.call_id)).mappings().all()
    for row in rows:
        book(connection, _expired_event(row), _promise(row), now)
        _resolve(connection, row, "expired", _promise(row), now)
    return len(rows)


def book_external(connection: Connection, event: UsageEvent, caps: Sequence[ScopeCap], now: datetime) -> None:
    """See ``Ledger.book_external``; idempotent on ``call_id``."""
    booked = booked_event(connection, event.call_id)
    if booked is not None:
        _check_same(event, booked[0])
        return
    if _found_reservation(connection, event.call_id) is not None:
        raise UsageConflict(event.call_id, "it was reserved here, so only a settle can book it")
    charge = Charge(event.counts.total, event.cost_nano or 0)
    book(connection, event, charge, now)
    _move_settled(connection, event, charge)
    _record_breaches(connection, event, charge, caps, now)


def _check_fence(connection: Connection, fence: RunFence) -> None:
    held = select(runs.c.run_id).where(runs.c.run_id == fence.run_id, runs.c.lease_token == fence.lease_token)
    if connection.execute(held).first() is None:
        raise LeaseLost(fence.run_id)


@dataclass(frozen=True, slots=True)
class _Measure:
    """One cap in one of its units, against its counter."""

    unit: Literal["tokens", "nano_usd"]
    allowance: int
    used: int
    in_flight: int


def _measures(cap: ScopeCap, use: ScopeUse) -> Iterator[_Measure]:
    if cap.allowance_tokens is not None:
        yield _Measure("tokens", cap.allowance_tokens, use.used_tokens, use.reserved_tokens)
    if cap.allowance_nano is not None:
        yield _Measure("nano_usd", cap.allowance_nano, use.used_nano, use.reserved_nano)


def _denials(cap: ScopeCap, use: ScopeUse, call: Reservation) -> Iterator[Denial]:
    for measure in _measures(cap, use):
        wanted = call.bound_tokens if measure.unit == "tokens" else call.bound_nano
        if wanted is None:
            why = (
                f"the price of {call.model!r} is unknown, so nothing can be promised. Give it a price: in models.yaml."
            )
            # More than the whole allowance, so that nobody waits for calls in flight.
            wanted = measure.allowance + 1
        else:
            why = (
                f"{_amount(measure.unit, measure.used)} are used ({_amount(measure.unit, measure.in_flight)} of it by"
                f" calls in flight) and this call may need {_amount(measure.unit, wanted)}."
            )
        if measure.used + wanted > measure.allowance:
            yield Denial(
                scope=cap.scope,
                unit=measure.unit,
                used=measure.used,
                in_flight=measure.in_flight,
                wanted=wanted,
                allowance=measure.allowance,
                resets_at=cap.resets_at,
                why=f"{_cap_in_words(cap, measure)}: {why}",
            )


def _cap_in_words(cap: ScopeCap, measure: _Measure) -> str:
    return f"{cap.label[:1].upper()}{cap.label[1:]} is {_amount(measure.unit, measure.allowance)}"


def _amount(unit: str, count: int) -> str:
    return f"{count:,} tokens" if unit == "tokens" else f"${count / NANO_PER_USD:,.4f}"


def _promise(row: RowMapping) -> Charge:
    return Charge(row["bound_input"] + row["bound_output"], row["bound_nano"] or 0)


def _charge(event: UsageEvent, row: RowMapping) -> Charge:
    """What a settled call weighs: its truth, or its whole promise while only a lower bound of the truth is known."""
    promise = _promise(row)
    if event.usage_source == "provider":
        return Charge(event.counts.total, promise.nano_usd if event.cost_nano is None else event.cost_nano)
    return Charge(max(promise.tokens, event.counts.total), max(promise.nano_usd, event.cost_nano or 0))


def _excess(charge: Charge, before: Charge) -> Charge:
    return Charge(charge.tokens - before.tokens, charge.nano_usd - before.nano_usd)


def _as_reserved(event: UsageEvent, row: RowMapping) -> UsageEvent:
    # What was promised decides who pays and in which window, even when the call ends after midnight (contract 15):
    # otherwise the sums of the events and the counters would disagree.
    return replace(
        event,
        provider=row["provider"],
        role=row["role"],
        purpose=row["purpose"],
        run_id=row["run_id"],
        phase_id=row["phase_id"],
        occurred_at=row["reserved_at"],
    )


def _correct(
    connection: Connection,
    booked: tuple[UsageEvent, Charge],
    event: UsageEvent,
    charge: Charge,
    caps: Sequence[ScopeCap],
    now: datetime,
) -> None:
    """A truth that arrives after the lease ended corrects the charge once, down or up."""
    expired, expired_charge = booked
    rebook(connection, expired, expired_charge, event, charge, now)
    excess = _excess(charge, expired_charge)
    _move_settled(connection, event, excess)
    _record_breaches(connection, event, excess, caps, now)


def _check_same(event: UsageEvent, booked: UsageEvent) -> None:
    # The cost is not compared: a price list may have been updated between two reports of one truth.
    if booked.counts != event.counts:
        raise UsageConflict(event.call_id, f"{booked.counts.total} tokens before, {event.counts.total} now")


def _record_breaches(
    connection: Connection, event: UsageEvent, excess: Charge, caps: Sequence[ScopeCap], now: datetime
) -> None:
    """Write down every cap that stands exceeded by a booking nobody could deny: ``excess`` over what was promised.

    A booking within its promise breaks nothing, also when the cap was lowered in the meantime.
    """
    if excess.tokens <= 0 and excess.nano_usd <= 0:
        return
    caps = [cap_in_window_of(cap, event.occurred_at) for cap in caps]
    uses = locked_uses(connection, _scope_of_event(event), caps, event.occurred_at)
    for cap in caps:
        for measure in _measures(cap, uses[cap.scope]):
            added = excess.tokens if measure.unit == "tokens" else excess.nano_usd
            if added > 0 and measure.used > measure.allowance:
                _insert_breach(connection, cap, measure, event.call_id, added, now)


def _insert_breach(
    connection: Connection, cap: ScopeCap, measure: _Measure, call_id: str, added: int, now: datetime
) -> None:
    why = (
        f"{_cap_in_words(cap, measure)}: {_amount(measure.unit, measure.used)} are used, {_amount(measure.unit, added)}"
        " of it by a call that could not be denied."
    )
    connection.execute(
        insert(breaches).values(
            scope=cap.scope,
            unit=measure.unit,
            call_id=call_id,
            allowance=measure.allowance,
            used=measure.used,
            occurred_at=now,
            why=why,
        )
    )


def _found_reservation(connection: Connection, call_id: str) -> RowMapping | None:
    return connection.execute(_FIND, {"wanted_call": call_id}).mappings().first()


def _reservation(connection: Connection, call_id: str) -> RowMapping:
    row = _found_reservation(connection, call_id)
    if row is None:
        raise UnknownCall(call_id)
    return row


def _resolve(connection: Connection, row: RowMapping, state: str, charge: Charge, now: datetime) -> None:
    """End a held reservation: its promise leaves the counters of its own windows, ``charge`` enters them."""
    end = {"ended_call": row["call_id"], "state": state, "resolved_at": now}
    done = connection.execute(_END, end)
    assert done.rowcount == 1, "the row was read as held in this transaction"
    scope = CallScope(row["provider"], row["role"], row["purpose"], row["run_id"], row["phase_id"])
    promise = _promise(row)
    delta = ScopeUse(charge.tokens, -promise.tokens, charge.nano_usd, -promise.nano_usd)
    move(connection, scopes_of_call(scope, row["reserved_at"]), delta)


def _move_settled(connection: Connection, event: UsageEvent, delta: Charge) -> None:
    names = scopes_of_call(_scope_of_event(event), event.occurred_at)
    move(connection, names, ScopeUse(settled_tokens=delta.tokens, settled_nano=delta.nano_usd))


def _scope_of_event(event: UsageEvent) -> CallScope:
    return CallScope(event.provider, event.role, event.purpose, event.run_id, event.phase_id)


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
