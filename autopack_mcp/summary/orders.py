"""Standing orders as people see them: what each says, who laid it down, when it fired and what was done then.

It reads what the ledger and the supervisor wrote down and decides nothing; the summaries of a run and of usage hold
these views, and the command line lists them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from autopack_mcp.budgets.standing_orders import (
    Firing,
    OrderAction,
    StandingOrder,
    firings_of,
    firings_of_run,
    in_words,
    named,
    newest_orders,
    order_by_id,
    orders_in_force,
)
from autopack_mcp.config.settings import Window
from autopack_mcp.runs.records import RunRecord
from autopack_mcp.runs.states import RUN_ENDED
from autopack_mcp.runs.store import unfinished_runs
from autopack_mcp.text_safety import visible

ORDERS_LIMIT = 100  # The newest, where withdrawn ones are asked for as well.
FIRINGS_LIMIT = 200  # The newest of all orders together, read at once.
FIRINGS_SHOWN = 5  # Of each order: an order for every run fires once for each of them.
NAME_CHARS = 120  # Of a person's or a client's name.
WORDS_CHARS = 500  # Of a sentence: names of providers and runs stand in it.
NOT_ACTED_ON = "not acted on yet"


@dataclass(frozen=True, slots=True)
class FiringView:
    """One time an order fired. ``run_id`` is None where it told of no run's; ``did`` says what was done about it."""

    run_id: str | None
    fired_at: datetime
    did: str
    why: str


@dataclass(frozen=True, slots=True)
class OrderView:
    """One order. ``order`` is the sentence; ``run_id`` None means every run; ``firings`` are newest first.

    ``withdrawn_at`` is None while it is in force.
    """

    order_id: int
    order: str
    action: OrderAction
    provider: str | None
    period: Window | None
    run_id: str | None
    author: str
    client: str
    created_at: datetime
    withdrawn_at: datetime | None
    firings: tuple[FiringView, ...]


def order_views(connection: Connection, *, with_withdrawn: bool = False) -> tuple[OrderView, ...]:
    """The orders in force, oldest first; with ``with_withdrawn`` the newest of all there ever were, newest first.

    An order for a run that has ended can do nothing any more and is listed with the withdrawn ones alone.
    """
    if with_withdrawn:
        orders: Sequence[StandingOrder] = newest_orders(connection, ORDERS_LIMIT)
    else:
        orders = orders_in_force(connection)
        if any(order.run_id is not None for order in orders):
            alive = {run.run_id for run in unfinished_runs(connection)}
            orders = [order for order in orders if order.run_id is None or order.run_id in alive]
    firings = firings_of(connection, [order.order_id for order in orders], FIRINGS_LIMIT) if orders else ()
    return tuple(_order_view(order, firings) for order in orders)


def orders_of_run(connection: Connection, run: RunRecord) -> tuple[OrderView, ...]:
    """The orders that may still stop a run, or tell of it, and those that have; each with its firings about this run.

    An order for every run leaves rehearsals alone.
    """
    firings = firings_of_run(connection, run.run_id, FIRINGS_LIMIT)
    in_force = () if run.state in RUN_ENDED else orders_in_force(connection, run.run_id)
    touching = [order for order in in_force if _touches(order, run)]
    known = {order.order_id for order in touching}
    fired = (order_by_id(connection, number) for number in {firing.order_id for firing in firings} - known)
    orders = sorted([*touching, *(order for order in fired if order is not None)], key=lambda order: order.order_id)
    return tuple(_order_view(order, firings) for order in orders)


def _touches(order: StandingOrder, run: RunRecord) -> bool:
    if order.run_id is None and run.is_rehearsal:
        return False
    return order.action != "tell" or order.subject in ("run", "phase")


def _order_view(order: StandingOrder, firings: Iterable[Firing]) -> OrderView:
    mine = [firing for firing in firings if firing.order_id == order.order_id]
    return OrderView(
        order_id=order.order_id,
        order=visible(in_words(order), WORDS_CHARS),
        action=order.action,
        provider=order.provider,
        period=order.period,
        run_id=order.run_id,
        author=visible(order.author, NAME_CHARS),
        client=visible(order.client, NAME_CHARS),
        created_at=order.created_at,
        withdrawn_at=order.withdrawn_at,
        firings=tuple(_firing_view(order, firing) for firing in mine[:FIRINGS_SHOWN]),
    )


def _firing_view(order: StandingOrder, firing: Firing) -> FiringView:
    # The order itself stands beside it.
    why = firing.why.removeprefix(f"{named(order)}: ")
    return FiringView(firing.run_id or None, firing.fired_at, firing.did or NOT_ACTED_ON, visible(why, WORDS_CHARS))
