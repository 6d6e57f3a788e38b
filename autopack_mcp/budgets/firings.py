"""When a standing order fires: the comparison, and the row that goes with it, in the ledger's own transaction.

It denies on behalf of an order and writes down that it did; it stops no run. Only the supervisor turns a firing into a
pause or a cancel (contract 18).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, insert

from autopack_mcp.budgets.counters import ScopeUse
from autopack_mcp.budgets.denials import Wanted, denials_at, denials_of
from autopack_mcp.budgets.measures import amount, measures
from autopack_mcp.budgets.standing_orders import OrderAction, OrderCap, has_acted, has_fired, insert_firing, named
from autopack_mcp.database.tables import outbox
from autopack_mcp.errors import Denial

_SEVERITY = {"cancel": 0, "pause": 1}


def fire_stop(
    connection: Connection,
    stops: Sequence[OrderCap],
    uses: Mapping[str, ScopeUse],
    call: Wanted,
    run_id: str | None,
    at: datetime,
    *,
    will_wait: bool,
) -> Denial | None:
    """Deny in the name of the gravest order that this call does not fit, and fire it; None when it fits them all.

    An order fires once; it denies until somebody has acted on that, and then lets every call pass. Nothing fires while
    only calls in flight are in the way of a caller that ``will_wait``, nor for bounds that are rough.
    """
    if not stops or run_id is None:
        return None
    hit = [
        (found, denial)
        for found in stops
        for denial in _denials(found, uses[found.cap.scope], call)
        if not has_acted(connection, found, run_id)
    ]
    if not hit:
        return None
    found, denial = min(hit, key=lambda one: (one[1].is_due_to_calls_in_flight, _SEVERITY[one[0].order.action]))
    denial = replace(denial, why=f"{named(found.order)}: {denial.why}", order_id=found.order.order_id)
    is_last_word = not (call.is_rough or (will_wait and denial.is_due_to_calls_in_flight))
    if is_last_word and not has_fired(connection, found, run_id):
        action = _action(found, denial, call)
        fired = insert_firing(
            connection, found, run_id, action, denial.unit, denial.allowance, denial.used, call.call_id, denial.why, at
        )
        _send(connection, fired, run_id, denial.why, at)
    return denial


def fire_tells(
    connection: Connection,
    tells: Sequence[OrderCap],
    uses: Mapping[str, ScopeUse],
    call_id: str,
    run_id: str | None,
    at: datetime,
) -> None:
    """Fire every order to tell whose threshold the settled part of its counter has reached, once each."""
    for found in tells:
        about = _run_told_of(found, run_id)
        for measure in measures(found.cap, uses[found.cap.scope]):
            if measure.settled < measure.allowance or has_fired(connection, found, about):
                continue
            why = f"{named(found.order)}: {amount(measure.unit, measure.settled)} are spent."
            fired = insert_firing(
                connection, found, about, "tell", measure.unit, measure.allowance, measure.settled, call_id, why, at,
                did="told",
            )  # fmt: skip
            _send(connection, fired, about, why, at)


def _send(connection: Connection, firing_id: int, run_id: str, why: str, at: datetime) -> None:
    message = {"kind": "order", "subject_id": firing_id, "run_id": run_id or None, "text": why, "tries": 0}
    connection.execute(insert(outbox).values(**message, created_at=at))


def _denials(found: OrderCap, use: ScopeUse, call: Wanted) -> Iterator[Denial]:
    yield from denials_of(found.cap, use, call) if found.counts_call else denials_at(found.cap, use)


def _action(found: OrderCap, denial: Denial, call: Wanted) -> OrderAction:
    # Nothing was spent too much: the order only cannot be kept while the price is unknown. A pause can be undone.
    is_unpriced = denial.unit == "nano_usd" and call.nano_usd is None
    return "pause" if is_unpriced else found.order.action


def _run_told_of(found: OrderCap, run_id: str | None) -> str:
    """The run that a firing is about, "" when it is about a provider or about all calls."""
    return found.order.run_id or (run_id or "" if found.order.subject in ("run", "phase") else "")
