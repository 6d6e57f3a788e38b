"""The ledger: reserve before a call leaves, settle when the truth is known, and never exceed a cap in between.

It owns the life of a reservation (docs/accounting.md): every function here is one operation of the writer's
transaction, so a crash leaves all of it or nothing. It does not choose models and does not know what a call says;
``calls`` reserves and settles, the supervisor expires what was lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, select

from autopack_mcp.budgets.alerts import raise_alerts
from autopack_mcp.budgets.breaches import record_breaches
from autopack_mcp.budgets.call_rules import CallRules, RulesInForce, RulesOf
from autopack_mcp.budgets.caps import CallScope, scopes_of_call
from autopack_mcp.budgets.counters import KeptCounters, ScopeUse, counted_uses, move, scope_use
from autopack_mcp.budgets.denials import Wanted, denials_of
from autopack_mcp.budgets.firings import fire_stop, fire_tells
from autopack_mcp.budgets.reservations import Ending, KeptReservations, ReservationRow, overdue
from autopack_mcp.budgets.run_facts import KeptRuns, run_facts
from autopack_mcp.call_spans import call_span
from autopack_mcp.clock import Clock, from_us, to_us
from autopack_mcp.config.settings import Settings
from autopack_mcp.database.bare import BareStatement
from autopack_mcp.database.batch import Batch, flush_batch, kept, nothing, takes_part
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import usage_events
from autopack_mcp.errors import Denial, ImpossibleTokenCounts, LeaseLost, UnknownCall, UsageConflict, UsageTooOld
from autopack_mcp.traces.spans import write_span
from autopack_mcp.usage.booked import KeptBookings, is_booked
from autopack_mcp.usage.event import TokenCounts, UsageEvent
from autopack_mcp.usage.pruning import LEAST_KEPT_DAYS
from autopack_mcp.usage.rollup import Charge, book, booked_event, rebook
from autopack_mcp.usage.true_sums import pruned_before

__all__ = [
    "Ledger", "Reservation", "RunFence", "ScopeUse", "book_external", "expire_overdue", "release", "reserve",
    "scope_use", "settle",
]  # fmt: skip


_TWIN = BareStatement(
    lambda _: (
        select(usage_events.c.call_id)
        .where(
            usage_events.c.provider == bindparam("wanted_provider"),
            usage_events.c.response_id == bindparam("wanted_response"),
        )
        .order_by(usage_events.c.recorded_at.desc())
        .limit(1)
    )
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
    ``is_rough`` says that the caller has the prompt counted and asks again when these bounds do not fit.

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
    is_rough: bool = False

    def __post_init__(self) -> None:
        for name in ("bound_input", "bound_output", "bound_nano"):
            if (getattr(self, name) or 0) < 0:
                raise ImpossibleTokenCounts(("zero or more", 0), (name, getattr(self, name)))

    @property
    def bound_tokens(self) -> int:
        """What the call can weigh at most."""
        return self.bound_input + self.bound_output


class Ledger:
    """The operations below, run by the writer of this process under the settings in force."""

    def __init__(self, database: Database, clock: Clock, settings: Callable[[], Settings]) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._rules: RulesInForce | None = None

    def rules(self) -> RulesInForce:
        """What calls are measured against under the settings in force."""
        settings = self._settings()
        if self._rules is None or self._rules.settings is not settings:
            self._rules = RulesInForce(settings)
        return self._rules

    async def reserve(
        self, reservation: Reservation, fence: RunFence | None = None, *, will_wait: bool = False
    ) -> datetime | Denial:
        """Promise tokens to a call in every scope it touches, all or nothing.

        A standing order that the call does not fit denies it like a cap and fires, in the same transaction.
        ``will_wait`` says that the caller asks again when only calls in flight are in the way; then nothing fires yet,
        nor when the bounds are rough.

        Returns:
            When it was reserved (the moment that decides its windows), or the denial of a cap that says no, which
            leaves no trace. Of several, it is one that waiting for calls in flight cannot help.

        Raises:
            LeaseLost: ``fence`` is stale; another process owns the run.
        """
        now = self._clock.now()
        return await self._database.write(reserve, reservation, self.rules(), fence, now, will_wait=will_wait)

    async def settle(self, event: UsageEvent) -> None:
        """Book the truth about a reserved call and give the rest of its promise back, in one transaction.

        Settling the same call again with the same token counts changes nothing. A truth that arrives after the lease
        ended corrects the charge, once. A truth above its promise is a breach of the caps that it passes.

        Raises:
            UnknownCall: it was never reserved. UsageConflict: it is booked with other numbers.
        """
        await self._database.write(settle, event, self.rules(), self._clock.now())

    async def release(self, call_id: str) -> bool:
        """Give a promise back because provably nothing was billed; False when it was no longer held."""
        return await self._database.write(release, call_id, self._clock.now())

    async def expire_overdue(self) -> int:
        """Charge every reservation whose lease has passed in full; returns how many."""
        return await self._database.write(expire_overdue, self.rules(), self._clock.now())

    def book_external(self, event: UsageEvent) -> None:
        """Book a call made elsewhere: no reservation, counted against every cap, a breach when it passes one.

        Raises:
            UsageConflict: the call is booked with other numbers, or was reserved here and must be settled; or its
                answer is one that was asked for here, with other numbers.
            UsageTooOld: it is from before the events that were kept, so it may have been counted already.
        """
        self._database.write_now(book_external, event, self.rules(), self._clock.now())


def _foresee_reserve(batch: Batch, reservation: Reservation, _rules: RulesOf, _fence: object, now: datetime,
                     **_: object) -> None:  # fmt: skip
    _foresee_call(batch, reservation.scope, now)


def foresee_settle(batch: Batch, event: UsageEvent, *_: object) -> None:
    """What ``settle`` asks for: its reservation, and what the call is counted in."""
    batch.keeper(KeptReservations).foresee(event.call_id)
    _foresee_call(batch, _scope_of_event(event), event.occurred_at)


def _foresee_release(batch: Batch, call_id: str, *_: object) -> None:
    batch.keeper(KeptReservations).foresee(call_id)


def _foresee_external(batch: Batch, event: UsageEvent, *_: object) -> None:
    foresee_settle(batch, event)
    batch.keeper(KeptBookings).foresee(event)


def _foresee_call(batch: Batch, scope: CallScope, at: datetime) -> None:
    batch.keeper(KeptCounters).foresee(scopes_of_call(scope, at))
    batch.keeper(KeptRuns).foresee(scope.run_id)


@takes_part(_foresee_reserve)
def reserve(
    connection: Connection,
    reservation: Reservation,
    rules_of: RulesOf,
    fence: RunFence | None,
    now: datetime,
    *,
    will_wait: bool = False,
) -> datetime | Denial:
    """See ``Ledger.reserve``."""
    if fence is not None:
        _check_fence(connection, fence)
    rules = rules_of(connection, reservation.scope, now)
    denial = _denial(connection, reservation, rules, now, will_wait=will_wait)
    if denial is not None:
        return denial
    promised = ScopeUse(reserved_tokens=reservation.bound_tokens, reserved_nano=reservation.bound_nano or 0)
    move(connection, scopes_of_call(reservation.scope, now), promised)
    kept(connection, KeptReservations).add(_reservation_row(reservation, now))
    return now


@takes_part(foresee_settle)
def settle(connection: Connection, event: UsageEvent, rules_of: RulesOf, now: datetime) -> None:
    """See ``Ledger.settle``."""
    row = _reservation(connection, event.call_id)
    event = _as_reserved(event, row)
    if row.state == "held":
        charge = _charge(event, row)
        book(connection, event, charge, now)
        uses = _resolve(connection, row, "settled", charge, now)
        _measure(connection, event, uses, rules_of, _excess(charge, row.promise), now)
        return
    booked = booked_event(connection, event.call_id)
    if booked is None:
        raise UsageConflict(event.call_id, "it was released as not billed")
    if booked[0].status == "expired":
        _correct(connection, booked, event, _charge(event, row), rules_of, now)
    else:
        _check_same(event, booked[0])


@takes_part(_foresee_release)
def release(connection: Connection, call_id: str, now: datetime) -> bool:
    """See ``Ledger.release``."""
    row = _reservation(connection, call_id)
    if row.state != "held":
        return False
    _resolve(connection, row, "released", Charge(0, 0), now)
    return True


@takes_part(nothing)
def expire_overdue(connection: Connection, rules_of: RulesOf, now: datetime) -> int:
    """See ``Ledger.expire_overdue``."""
    flush_batch(connection)  # Which are overdue the table says.
    rows = overdue(connection, now)
    for row in rows:
        event = _expired_event(row)
        book(connection, event, row.promise, now)
        uses = _resolve(connection, row, "expired", row.promise, now)
        _measure(connection, event, uses, rules_of, Charge(0, 0), now)
        if (span := call_span(event, now)) is not None:
            write_span(connection, span)
    return len(rows)


@takes_part(_foresee_external)
def book_external(connection: Connection, event: UsageEvent, rules_of: RulesOf, now: datetime) -> None:
    """See ``Ledger.book_external``; idempotent on ``call_id``, and on the provider's answer, of which the last wins."""
    if is_booked(connection, event) or _found_reservation(connection, event.call_id) is not None:
        _book_known(connection, event, rules_of, now)
        return
    _check_age(connection, event, now)
    charge = Charge(event.counts.total, event.cost_nano or 0)
    book(connection, event, charge, now)
    uses = _move_settled(connection, event, charge)
    _measure(connection, event, uses, rules_of, charge, now)


# ── denying ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _check_fence(connection: Connection, fence: RunFence) -> None:
    facts = run_facts(connection, fence.run_id)
    if facts is None or facts.lease_token != fence.lease_token:
        raise LeaseLost(fence.run_id)


def _denial(
    connection: Connection, call: Reservation, rules: CallRules, now: datetime, *, will_wait: bool
) -> Denial | None:
    """The denial to answer with, None when the call fits; a standing order comes first, for it stops the run."""
    caps = rules.caps
    uses = counted_uses(connection, call.scope, [*caps, *(stop.cap for stop in rules.stops)], now)
    wanted = Wanted(call.call_id, call.model, call.bound_tokens, call.bound_nano, call.is_rough)
    stopped = fire_stop(connection, rules.stops, uses, wanted, call.scope.run_id, now, will_wait=will_wait)
    denials = [denial for cap in caps for denial in denials_of(cap, uses[cap.scope], wanted)]
    if stopped is not None and (not stopped.is_due_to_calls_in_flight or not will_wait):
        return stopped
    if stopped is not None:
        denials.append(stopped)
    return min(denials, key=lambda denial: denial.is_due_to_calls_in_flight, default=None)


# ── booking ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _charge(event: UsageEvent, row: ReservationRow) -> Charge:
    """What a settled call weighs: its truth, or its whole promise while only a lower bound of the truth is known."""
    promise = row.promise
    if event.usage_source == "provider":
        return Charge(event.counts.total, promise.nano_usd if event.cost_nano is None else event.cost_nano)
    return Charge(max(promise.tokens, event.counts.total), max(promise.nano_usd, event.cost_nano or 0))


def _excess(charge: Charge, before: Charge) -> Charge:
    return Charge(charge.tokens - before.tokens, charge.nano_usd - before.nano_usd)


def _as_reserved(event: UsageEvent, row: ReservationRow) -> UsageEvent:
    # What was promised decides who pays and in which window, even when the call ends after midnight (contract 15):
    # otherwise the sums of the events and the counters would disagree.
    at = from_us(row.reserved_at)
    if _scope_of_event(event) == row.scope and event.occurred_at == at:
        return event
    return replace(
        event,
        provider=row.provider,
        role=row.role,
        purpose=row.purpose,
        run_id=row.run_id,
        phase_id=row.phase_id,
        occurred_at=at,
    )


def _correct(
    connection: Connection,
    booked: tuple[UsageEvent, Charge],
    event: UsageEvent,
    charge: Charge,
    rules_of: RulesOf,
    now: datetime,
) -> None:
    """A truth that arrives after the lease ended corrects the charge once, down or up."""
    expired, expired_charge = booked
    rebook(connection, expired, expired_charge, event, charge, now)
    excess = _excess(charge, expired_charge)
    uses = _move_settled(connection, event, excess)
    _measure(connection, event, uses, rules_of, excess, now)


def _book_known(connection: Connection, event: UsageEvent, rules_of: RulesOf, now: datetime) -> None:
    booked = booked_event(connection, event.call_id)
    if booked is not None:
        _check_same(event, booked[0])
        return
    if _found_reservation(connection, event.call_id) is not None:
        raise UsageConflict(event.call_id, "it was reserved here, so only a settle can book it")
    twin = _same_answer(connection, event)
    assert twin is not None, "it was just found, and it is neither this call nor its reservation"
    _book_again(connection, twin, event, rules_of, now)


def _same_answer(connection: Connection, event: UsageEvent) -> tuple[UsageEvent, Charge] | None:
    """The newest booking of the provider's same answer, under whatever call id; None when it is not booked."""
    if not event.response_id:
        return None
    flush_batch(connection)
    found = _TWIN.row(connection, {"wanted_provider": event.provider, "wanted_response": event.response_id})
    return None if found is None else booked_event(connection, found[0])


def _book_again(
    connection: Connection, booked: tuple[UsageEvent, Charge], event: UsageEvent, rules_of: RulesOf, now: datetime
) -> None:
    """An answer that is reported twice counts once, as it was reported last; what we asked ourselves we know better."""
    old, old_charge = booked
    if old.counts == event.counts:
        return
    if old.status != "external":
        raise UsageConflict(old.call_id, f"its answer {event.response_id!r} is reported as made elsewhere")
    charge = Charge(event.counts.total, event.cost_nano or 0)
    # It stays one row under its first call id, so that repeating the first report is still known for a repetition.
    event = replace(event, call_id=old.call_id)
    rebook(connection, old, old_charge, event, charge, now)
    _move_settled(connection, old, Charge(-old_charge.tokens, -old_charge.nano_usd))
    uses = _move_settled(connection, event, charge)
    _measure(connection, event, uses, rules_of, _excess(charge, old_charge), now)


def _check_age(connection: Connection, event: UsageEvent, now: datetime) -> None:
    """Refuse what is older than the events that are left: whether it was counted before, nobody can say any more."""
    if event.occurred_at >= now - timedelta(days=LEAST_KEPT_DAYS):
        return  # Nothing that young is ever deleted, so most bookings need not ask.
    since = pruned_before(connection)
    if since is not None and event.occurred_at < since:
        raise UsageTooOld(event.call_id, since)


def _check_same(event: UsageEvent, booked: UsageEvent) -> None:
    # The cost is not compared: a price list may have been updated between two reports of one truth.
    if booked.counts != event.counts:
        raise UsageConflict(event.call_id, f"{booked.counts.total} tokens before, {event.counts.total} now")


def _measure(
    connection: Connection,
    event: UsageEvent,
    uses: dict[str, ScopeUse],
    rules_of: RulesOf,
    excess: Charge,
    now: datetime,
) -> None:
    """What a booking brought to light: caps it has passed (``excess`` was never promised), levels it has reached."""
    scope, at = _scope_of_event(event), event.occurred_at
    rules = rules_of(connection, scope, at)
    caps, tells = rules.caps, rules.tells
    measured = (*caps, *(tell.cap for tell in tells)) if tells else caps
    if missing := [cap for cap in measured if cap.scope not in uses]:
        uses = {**uses, **counted_uses(connection, scope, missing, at)}
    if not rules.are_far(uses):
        if excess.tokens > 0 or excess.nano_usd > 0:
            record_breaches(connection, caps, uses, excess, event.call_id, now)
        raise_alerts(connection, caps, uses, rules.alert_levels_percent, event.call_id, now)
    fire_tells(connection, tells, uses, event.call_id, event.run_id, now)


def _found_reservation(connection: Connection, call_id: str) -> ReservationRow | None:
    return kept(connection, KeptReservations).find(connection, call_id)


def _reservation(connection: Connection, call_id: str) -> ReservationRow:
    row = _found_reservation(connection, call_id)
    if row is None:
        raise UnknownCall(call_id)
    return row


def _resolve(
    connection: Connection, row: ReservationRow, state: Ending, charge: Charge, now: datetime
) -> dict[str, ScopeUse]:
    """End a held reservation: its promise leaves the counters of its own windows, ``charge`` enters them."""
    kept(connection, KeptReservations).end(row, state, now)
    promise = row.promise
    delta = ScopeUse(charge.tokens, -promise.tokens, charge.nano_usd, -promise.nano_usd)
    return move(connection, scopes_of_call(row.scope, from_us(row.reserved_at)), delta)


def _move_settled(connection: Connection, event: UsageEvent, delta: Charge) -> dict[str, ScopeUse]:
    names = scopes_of_call(_scope_of_event(event), event.occurred_at)
    return move(connection, names, ScopeUse(settled_tokens=delta.tokens, settled_nano=delta.nano_usd))


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
        "reserved_at": to_us(now),
        "lease_expires_at": to_us(now + timedelta(seconds=reservation.lease_s)),
        "resolved_at": None,
    }


def _expired_event(row: ReservationRow) -> UsageEvent:
    return UsageEvent(
        call_id=row.call_id,
        provider=row.provider,
        model=row.model,
        role=row.role,
        purpose=row.purpose,
        status="expired",
        usage_source="expired",
        counts=TokenCounts(uncached_input=row.bound_input, output=row.bound_output),
        occurred_at=from_us(row.reserved_at),
        run_id=row.run_id,
        phase_id=row.phase_id,
        attempt=row.attempt,
        category=row.category,
        cost_nano=row.bound_nano,
        error="The call was never reported back; its whole reservation is charged.",
    )
