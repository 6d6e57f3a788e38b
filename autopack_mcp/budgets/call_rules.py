"""Everything a call is measured against at one moment: its caps, the standing orders about it, and the alert levels.

It reads the caps of the run, of the phase and the orders in force inside the ledger's own transaction, so that a cap
that was raised or an order that was laid down a moment ago holds for the very next call. It compares nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, bindparam, select

from autopack_mcp.budgets.caps import CallScope, RunCaps, ScopeCap, caps_of_call
from autopack_mcp.budgets.standing_orders import OrderCap, order_caps, orders_about
from autopack_mcp.config.settings import Settings
from autopack_mcp.database.bare import BareStatement
from autopack_mcp.database.tables import phase_caps, runs

_OF_PHASE = and_(phase_caps.c.run_id == runs.c.run_id, phase_caps.c.phase_id == bindparam("wanted_phase"))
_CAPS_OF_RUN = BareStatement(
    lambda _: (
        select(runs.c.token_cap, runs.c.cost_cap_nano, phase_caps.c.token_cap, phase_caps.c.cost_cap_nano)
        .outerjoin_from(runs, phase_caps, _OF_PHASE)
        .where(runs.c.run_id == bindparam("wanted_run"))
    )
)


@dataclass(frozen=True, slots=True)
class CallRules:
    """What a call must fit (``caps`` and ``stops``), and what is told when it is reached (``tells``, alert levels)."""

    caps: tuple[ScopeCap, ...] = ()
    stops: tuple[OrderCap, ...] = ()
    tells: tuple[OrderCap, ...] = ()
    alert_levels_percent: tuple[int, ...] = ()


RulesOf = Callable[[Connection, CallScope, datetime], CallRules]


def rules_under(settings: Settings) -> RulesOf:
    """How to find the rules of any call under these settings."""

    def rules_of(connection: Connection, call: CallScope, at: datetime) -> CallRules:
        return rules_of_call(connection, settings, call, at)

    return rules_of


def rules_of_call(connection: Connection, settings: Settings, call: CallScope, at: datetime) -> CallRules:
    """The rules of a call that is reserved ``at``.

    A call whose ``run_id`` is only a library caller's label has no caps of its own, and nothing that an order could
    stop: those orders concern runs of the database.
    """
    run_caps = caps_of_run(connection, call.run_id, call.phase_id)
    own = run_caps or RunCaps()
    orders = order_caps(orders_about(connection, call.run_id), settings, call, own, at)
    return CallRules(
        caps=caps_of_call(settings, call, own, at),
        stops=tuple(one for one in orders if one.order.action != "tell") if run_caps is not None else (),
        tells=tuple(one for one in orders if one.order.action == "tell"),
        alert_levels_percent=settings.alert_levels_percent,
    )


def caps_of_run(connection: Connection, run_id: str | None, phase_id: str | None) -> RunCaps | None:
    """A run's own caps and those of one of its phases; None when the database has no such run."""
    if run_id is None:
        return None
    row = _CAPS_OF_RUN.row(connection, {"wanted_run": run_id, "wanted_phase": phase_id})
    return None if row is None else RunCaps(*row)
