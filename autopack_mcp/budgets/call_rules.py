"""Everything a call is measured against at one moment: its caps, the standing orders about it, and the alert levels.

It reads the caps of the run, of the phase and the orders in force inside the ledger's own transaction, so that a cap
that was raised or an order that was laid down a moment ago holds for the very next call. It compares nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

from sqlalchemy import Connection

from autopack_mcp.budgets.caps import (
    CallScope,
    RunCaps,
    ScopeCap,
    caps_of_call,
    day_number,
    start_of_day,
)
from autopack_mcp.budgets.counters import ScopeUse
from autopack_mcp.budgets.run_facts import run_facts
from autopack_mcp.budgets.standing_orders import OrderCap, order_caps, orders_about
from autopack_mcp.config.settings import Settings


@dataclass(frozen=True, slots=True)
class CallRules:
    """What a call must fit (``caps`` and ``stops``), and what is told when it is reached (``tells``, alert levels)."""

    caps: tuple[ScopeCap, ...] = ()
    stops: tuple[OrderCap, ...] = ()
    tells: tuple[OrderCap, ...] = ()
    alert_levels_percent: tuple[int, ...] = ()

    def are_far(self, uses: Mapping[str, ScopeUse]) -> bool:
        """Whether no cap is used so far that there is anything to say of it: no alert level, and no breach.

        Most bookings end here, so it is one comparison for each unit of a cap.
        """
        first_percent = min((*self.alert_levels_percent, 100))
        for cap in self.caps:
            use = uses[cap.scope]
            tokens, nano = cap.allowance_tokens, cap.allowance_nano
            if tokens is not None and (use.settled_tokens + use.reserved_tokens) * 100 >= tokens * first_percent:
                return False
            if nano is not None and (use.settled_nano + use.reserved_nano) * 100 >= nano * first_percent:
                return False
        return True


RulesOf = Callable[[Connection, CallScope, datetime], CallRules]


class RulesInForce:
    """Finds the rules of any call under some settings. Keep one as long as the settings hold: it remembers caps.

    Calling it reads what may change at any moment (a run's caps, the orders in force) on the given connection. A call
    whose ``run_id`` is only a library caller's label has no caps of its own, and nothing that an order could stop:
    those orders concern runs of the database.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._without_orders = lru_cache(maxsize=1_024)(self._find_without_orders)

    def __call__(self, connection: Connection, call: CallScope, at: datetime) -> CallRules:
        """The rules of a call that is reserved ``at``."""
        run_caps = caps_of_run(connection, call.run_id, call.phase_id)
        rules = self._without_orders(call, day_number(at), run_caps)
        orders = orders_about(connection, call.run_id)
        if not orders:
            return rules
        found = order_caps(orders, self.settings, call, run_caps or RunCaps(), at)
        stops = tuple(one for one in found if one.order.action != "tell") if run_caps is not None else ()
        return replace(rules, stops=stops, tells=tuple(one for one in found if one.order.action == "tell"))

    def _find_without_orders(self, call: CallScope, day: int, run_caps: RunCaps | None) -> CallRules:
        caps = caps_of_call(self.settings, call, run_caps or RunCaps(), start_of_day(day))
        return CallRules(caps, alert_levels_percent=self.settings.alert_levels_percent)


def caps_of_run(connection: Connection, run_id: str | None, phase_id: str | None) -> RunCaps | None:
    """A run's own caps and those of one of its phases; None when the database has no such run."""
    facts = None if run_id is None else run_facts(connection, run_id)
    return None if facts is None else facts.caps(phase_id)
