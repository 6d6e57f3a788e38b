"""Everything a call is measured against at one moment: its caps, the standing orders about it, and the alert levels.

It reads the caps of the run, of the phase and the orders in force inside the ledger's own transaction, so that a cap
that was raised or an order that was laid down a moment ago holds for the very next call. It compares nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from sqlalchemy import Connection, and_, bindparam, select

from autopack_mcp.budgets.caps import (
    CallScope,
    RunCaps,
    ScopeCap,
    day_number,
    own_caps_of_call,
    start_of_day,
    window_caps_of_call,
)
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


class RulesInForce:
    """Finds the rules of any call under some settings. Keep one as long as the settings hold: it remembers caps.

    Calling it reads what may change at any moment (a run's caps, the orders in force) on the given connection. A call
    whose ``run_id`` is only a library caller's label has no caps of its own, and nothing that an order could stop:
    those orders concern runs of the database.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._window_caps = lru_cache(maxsize=256)(self._find_window_caps)

    def __call__(self, connection: Connection, call: CallScope, at: datetime) -> CallRules:
        """The rules of a call that is reserved ``at``."""
        run_caps = caps_of_run(connection, call.run_id, call.phase_id)
        shared = CallScope(call.provider, call.role, call.purpose, call.run_id if call.purpose == "rehearsal" else None)
        caps = self._window_caps(shared, day_number(at))
        if run_caps is not None:
            caps = (*caps, *own_caps_of_call(call, run_caps))
        orders = orders_about(connection, call.run_id)
        levels = self.settings.alert_levels_percent
        if not orders:
            return CallRules(caps, alert_levels_percent=levels)
        found = order_caps(orders, self.settings, call, run_caps or RunCaps(), at)
        stops = tuple(one for one in found if one.order.action != "tell") if run_caps is not None else ()
        return CallRules(caps, stops, tuple(one for one in found if one.order.action == "tell"), levels)

    def _find_window_caps(self, call: CallScope, day: int) -> tuple[ScopeCap, ...]:
        return window_caps_of_call(self.settings, call, start_of_day(day))


def caps_of_run(connection: Connection, run_id: str | None, phase_id: str | None) -> RunCaps | None:
    """A run's own caps and those of one of its phases; None when the database has no such run."""
    if run_id is None:
        return None
    row = _CAPS_OF_RUN.row(connection, {"wanted_run": run_id, "wanted_phase": phase_id})
    return None if row is None else RunCaps(*row)
