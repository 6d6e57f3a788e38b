"""Standing orders: rules that a person laid down and the ledger keeps, and a row for each time one fired.

It owns the two tables and what an order measures. An order that stops a run is one more allowance that its calls must
fit, so it is never late; the ledger writes the firing in the transaction that denies, and only the supervisor turns it
into a pause or a cancel (contract 18).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, RowMapping, insert, or_, select, update

from autopack_mcp.budgets.caps import (
    CallScope,
    RunCaps,
    ScopeCap,
    caps_of_call,
    phase_scope,
    run_scope,
    shadow_prefix,
    window_scope,
)
from autopack_mcp.clock import from_us
from autopack_mcp.config.settings import Settings, Window
from autopack_mcp.database.bare import BareStatement
from autopack_mcp.database.batch import batch_of
from autopack_mcp.database.tables import order_firings, standing_orders
from autopack_mcp.money import exact_dollars_text, usd
from autopack_mcp.usage.windows import window_at

OrderAction = Literal["pause", "cancel", "tell"]
OrderSubject = Literal["provider", "run", "phase", "global"]
OrderUnit = Literal["percent", "tokens", "nano_usd"]


@dataclass(frozen=True, slots=True)
class StandingOrder:
    """One rule: do ``action`` when ``subject`` reaches ``threshold``.

    ``unit`` says what the threshold counts: percent of the subject's allowance, tokens, or integer nano-dollars.
    ``run_id`` is the run that is stopped (and measured, when the subject is a run or a phase); None is every run.
    ``provider`` is set for that subject alone; ``period`` is the window of a provider or of all calls.
    """

    order_id: int
    action: OrderAction
    subject: OrderSubject
    unit: OrderUnit
    threshold: int
    run_id: str | None
    author: str
    client: str
    created_at: datetime
    provider: str | None = None
    period: Window | None = None
    withdrawn_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Firing:
    """One time an order fired. ``did`` says in words what was done about it, empty until the supervisor has acted.

    ``action`` is what is to be done; ``run_id`` is "" where an order tells of something that is no run's alone.
    """

    firing_id: int
    order_id: int
    run_id: str
    action: OrderAction
    scope: str
    unit: Literal["tokens", "nano_usd"]
    threshold: int
    used: int
    call_id: str
    why: str
    fired_at: datetime
    did: str
    handled_at: datetime | None


@dataclass(frozen=True, slots=True)
class OrderCap:
    """An order as one more allowance of a call: the counter it measures, and where it says stop (or tell).

    ``counts_call`` is false where the call itself does not move that counter: an order about another provider.
    """

    order: StandingOrder
    cap: ScopeCap
    counts_call: bool = True


@dataclass(frozen=True, slots=True)
class LaidDown:
    """What came of laying an order down: the one in force, whether it is new, and the one whose place it took."""

    order: StandingOrder
    is_new: bool
    replaced_id: int | None = None


_ORDER_FIELDS = tuple(StandingOrder.__dataclass_fields__)
# Without an order by id they would come as the engine likes; the oldest is named first when several say no.
_IN_FORCE = BareStatement(
    lambda _: (
        select(*(standing_orders.c[name] for name in _ORDER_FIELDS))
        .where(standing_orders.c.withdrawn_at.is_(None))
        .order_by(standing_orders.c.order_id)
    )
)


# ── the tables ───────────────────────────────────────────────────────────────────────────────────────────────────────


def add_order(connection: Connection, order: StandingOrder) -> int:
    """Lay an order down; its ``order_id`` is ignored, the new one is returned."""
    row = {name: getattr(order, name) for name in StandingOrder.__dataclass_fields__ if name != "order_id"}
    found: int = connection.execute(
        insert(standing_orders).values(**row).returning(standing_orders.c.order_id)
    ).scalar_one()
    return found


def lay_down(connection: Connection, order: StandingOrder) -> LaidDown:
    """Put an order in force unless one that says the same is, and has not fired. One that has is replaced.

    Whoever lays down the same order after it has fired wants it to act once more.
    """
    same = _same_order(connection, order)
    if same is not None:
        if not firings_of(connection, (same.order_id,), 1):
            return LaidDown(same, is_new=False)
        withdraw_order(connection, same.order_id, order.created_at)
    new = replace(order, order_id=add_order(connection, order))
    return LaidDown(new, is_new=True, replaced_id=None if same is None else same.order_id)


def withdraw_order(connection: Connection, order_id: int, at: datetime) -> bool:
    """Take an order out of force; False when there is none of this id in force."""
    mine = (standing_orders.c.order_id == order_id, standing_orders.c.withdrawn_at.is_(None))
    return connection.execute(update(standing_orders).where(*mine).values(withdrawn_at=at)).rowcount == 1


def order_by_id(connection: Connection, order_id: int) -> StandingOrder | None:
    """One order, in force or withdrawn; None when there never was one of this number."""
    found = select(standing_orders).where(standing_orders.c.order_id == order_id)
    row = connection.execute(found).mappings().first()
    return None if row is None else _order(row)


def newest_orders(connection: Connection, limit: int) -> tuple[StandingOrder, ...]:
    """The newest ``limit`` orders, in force or withdrawn, newest first."""
    found = select(standing_orders).order_by(standing_orders.c.order_id.desc()).limit(limit)
    return tuple(_order(row) for row in connection.execute(found).mappings())


def orders_in_force(connection: Connection, run_id: str | None = None) -> tuple[StandingOrder, ...]:
    """Every order in force, oldest first; with ``run_id`` only those that touch this run."""
    found = select(standing_orders).where(standing_orders.c.withdrawn_at.is_(None))
    if run_id is not None:
        found = found.where(or_(standing_orders.c.run_id.is_(None), standing_orders.c.run_id == run_id))
    return tuple(_order(row) for row in connection.execute(found.order_by(standing_orders.c.order_id)).mappings())


def orders_about(connection: Connection, run_id: str | None) -> tuple[StandingOrder, ...]:
    """Every order in force that may concern a call of this run, or a call of no run; the ledger asks for each call."""
    batch = batch_of(connection)
    orders = _all_in_force(connection) if batch is None else batch.keeper(_KeptOrders).read(connection)
    return tuple(order for order in orders if order.run_id in (None, run_id))


def _all_in_force(connection: Connection) -> tuple[StandingOrder, ...]:
    return tuple(_from_driver(row) for row in _IN_FORCE.rows(connection, {}))


class _KeptOrders:
    """The orders in force, read once for all bookings of a transaction: none of these changes any."""

    def __init__(self) -> None:
        self._orders: tuple[StandingOrder, ...] | None = None

    def read(self, connection: Connection) -> tuple[StandingOrder, ...]:
        """All of them."""
        if self._orders is None:
            self._orders = _all_in_force(connection)
        return self._orders

    def flush(self, connection: Connection) -> None:
        """Forget them."""
        self._orders = None


def firings_of(connection: Connection, order_ids: Sequence[int], limit: int) -> tuple[Firing, ...]:
    """The newest ``limit`` firings of some orders, newest first."""
    mine = order_firings.c.order_id.in_(order_ids)
    found = select(order_firings).where(mine).order_by(order_firings.c.firing_id.desc()).limit(limit)
    return tuple(Firing(**row) for row in connection.execute(found).mappings())


def firings_of_run(connection: Connection, run_id: str, limit: int) -> tuple[Firing, ...]:
    """The newest ``limit`` firings about a run, newest first."""
    mine = order_firings.c.run_id == run_id
    found = select(order_firings).where(mine).order_by(order_firings.c.firing_id.desc()).limit(limit)
    return tuple(Firing(**row) for row in connection.execute(found).mappings())


def unhandled_firings(connection: Connection, run_id: str | None = None) -> tuple[Firing, ...]:
    """Firings that nobody has acted on, oldest first; about one run, or about all."""
    found = select(order_firings).where(order_firings.c.handled_at.is_(None)).order_by(order_firings.c.firing_id)
    if run_id is not None:
        found = found.where(order_firings.c.run_id == run_id)
    return tuple(Firing(**row) for row in connection.execute(found).mappings())


def mark_handled(connection: Connection, firing_id: int, did: str, at: datetime) -> None:
    """Write down what was done about a firing."""
    mine = order_firings.c.firing_id == firing_id
    connection.execute(update(order_firings).where(mine).values(did=did, handled_at=at))


def insert_firing(
    connection: Connection, found: OrderCap, run_id: str, action: OrderAction, unit: Literal["tokens", "nano_usd"],
    threshold: int, used: int, call_id: str, why: str, at: datetime, did: str = "",
) -> int:  # fmt: skip
    """Write a firing down; the caller has made sure that this order has not fired for this run and counter yet."""
    row = {
        "order_id": found.order.order_id,
        "run_id": run_id,
        "action": action,
        "scope": found.cap.scope,
        "unit": unit,
        "threshold": threshold,
        "used": used,
        "call_id": call_id,
        "why": why,
        "fired_at": at,
        "did": did,
        "handled_at": at if did else None,
    }
    new: int = connection.execute(insert(order_firings).values(**row).returning(order_firings.c.firing_id)).scalar_one()
    return new


def has_fired(connection: Connection, found: OrderCap, run_id: str) -> bool:
    """Whether an order has fired for this run and counter already; it does so once."""
    return connection.execute(select(order_firings.c.firing_id).where(*_firing_of(found, run_id))).first() is not None


def has_acted(connection: Connection, found: OrderCap, run_id: str) -> bool:
    """Whether an order has done what it was laid down for; from then on a person has the word."""
    done = (*_firing_of(found, run_id), order_firings.c.handled_at.is_not(None))
    return connection.execute(select(order_firings.c.firing_id).where(*done)).first() is not None


def _firing_of(found: OrderCap, run_id: str) -> tuple[ColumnElement[bool], ...]:
    return (
        order_firings.c.order_id == found.order.order_id,
        order_firings.c.run_id == run_id,
        order_firings.c.scope == found.cap.scope,
    )


# ── what an order measures ───────────────────────────────────────────────────────────────────────────────────────────


def order_caps(
    orders: Sequence[StandingOrder], settings: Settings, call: CallScope, run_caps: RunCaps, at: datetime
) -> tuple[OrderCap, ...]:
    """The orders that this call has to do with, each as an allowance of the counter it measures.

    An order in percent of a cap that is not configured (any more) rests. An order for every run leaves rehearsals
    alone: what they count is not real.
    """
    return tuple(found for order in orders for found in _caps_of_order(order, settings, call, run_caps, at))


def in_words(order: StandingOrder) -> str:
    """An order as a sentence without its end: "pause run r-1 when anthropic reaches 80 % of its cap of the week"."""
    whom = "" if order.action == "tell" else f" run {order.run_id}" if order.run_id else " any run"
    return f"{order.action}{whom} when {_subject_in_words(order)} reaches {_threshold_in_words(order)}"


def named(order: StandingOrder) -> str:
    """How an order is called in a reason: its number, and what it says."""
    return f"Standing order {order.order_id} ({in_words(order)})"


def _subject_in_words(order: StandingOrder) -> str:
    if order.subject == "provider":
        return str(order.provider)
    if order.subject == "global":
        return "everything together"
    # Who is to be stopped has been named before.
    which = "it" if order.action != "tell" else f"run {order.run_id}" if order.run_id else "any run"
    return which if order.subject == "run" else f"a phase of {which}"


def _threshold_in_words(order: StandingOrder) -> str:
    if order.unit == "percent":
        return f"{order.threshold} % of its cap{f' of the {order.period}' if order.period else ''}"
    within = f" in a {order.period}" if order.period else ""
    if order.unit == "tokens":
        return f"{order.threshold:,} tokens{within}"
    return f"{exact_dollars_text(usd(order.threshold))}{within}"


def _caps_of_order(
    order: StandingOrder, settings: Settings, call: CallScope, run_caps: RunCaps, at: datetime
) -> Iterator[OrderCap]:
    concerns = order.run_id == call.run_id if order.run_id is not None else call.purpose != "rehearsal"
    bare = _bare_cap(order, call, at) if concerns else None
    if bare is None:
        return
    counts_call = order.provider in (None, call.provider)
    if order.unit == "tokens":
        yield OrderCap(order, replace(bare, allowance_tokens=order.threshold), counts_call)
    elif order.unit == "nano_usd":
        yield OrderCap(order, replace(bare, allowance_nano=order.threshold), counts_call)
    else:
        measured = call._replace(provider=order.provider or call.provider)
        for cap in caps_of_call(settings, measured, run_caps, at):
            if cap.scope == bare.scope:
                yield OrderCap(order, _share_of(cap, order.threshold, bare.label), counts_call)


def _share_of(cap: ScopeCap, percent: int, label: str) -> ScopeCap:
    tokens = None if cap.allowance_tokens is None else cap.allowance_tokens * percent // 100
    nano = None if cap.allowance_nano is None else cap.allowance_nano * percent // 100
    return replace(cap, label=label, allowance_tokens=tokens, allowance_nano=nano)


def _bare_cap(order: StandingOrder, call: CallScope, at: datetime) -> ScopeCap | None:
    """The counter that an order measures on this call, without an allowance; None when it measures something else."""
    prefix, label = shadow_prefix(call), "that"
    if order.subject in ("provider", "global"):
        assert order.period is not None, "an order about a provider or about all calls has a window"
        span = window_at(order.period, at)
        scope = window_scope(prefix, order.subject, order.provider or "", span)
        return ScopeCap(scope, order.subject, label, None, None, order.period, order.provider, span.end)
    if call.run_id is None:
        return None
    if order.subject == "run":
        return ScopeCap(run_scope(prefix, call.run_id), "run", label, None, None)
    if call.phase_id is None:
        return None
    return ScopeCap(phase_scope(prefix, call.run_id, call.phase_id), "phase", label, None, None)


def _same_order(connection: Connection, order: StandingOrder) -> StandingOrder | None:
    """The order in force that says the very same, whoever laid it down."""
    says = ("action", "subject", "unit", "threshold", "run_id", "provider", "period")
    same = [standing_orders.c[name].is_not_distinct_from(getattr(order, name)) for name in says]
    found = select(standing_orders).where(standing_orders.c.withdrawn_at.is_(None), *same)
    row = connection.execute(found.order_by(standing_orders.c.order_id)).mappings().first()
    return None if row is None else _order(row)


def _from_driver(row: tuple[Any, ...]) -> StandingOrder:
    facts = dict(zip(_ORDER_FIELDS, row, strict=True))
    return StandingOrder(**{**facts, "created_at": from_us(facts["created_at"])})


def _order(row: RowMapping) -> StandingOrder:
    return StandingOrder(**row)
