"""The acting tool about rules that the server keeps: ``set_standing_order``, which lays one down or takes it back.

It owns how the wish is put into arguments, and how orders and alerts stand in any tool's answer; checking a wish is
``control``'s, keeping it the ledger's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mcp.server.mcpserver import Context
from pydantic import BeforeValidator, Field

from autopack_mcp.errors import RequestRefused
from autopack_mcp.mcp_server.answers import Answer, known, short
from autopack_mcp.mcp_server.asking import meant_run, person_of
from autopack_mcp.mcp_server.control import known_action
from autopack_mcp.mcp_server.tool import StrictTool, tool_of
from autopack_mcp.summary.shown import Plain

if TYPE_CHECKING:
    from autopack_mcp.control.control import Control
    from autopack_mcp.control.orders import OrderWish
    from autopack_mcp.summary.alerts import AlertView
    from autopack_mcp.summary.orders import OrderView
    from autopack_mcp.summary.summaries import Summaries

MESSAGE_BYTES = 1_500  # Of what is in force now, in words.
EVERY_RUN = "*"
TIME = "%Y-%m-%d %H:%M UTC"

OrderAction = Annotated[Literal["pause", "cancel", "tell"] | None, BeforeValidator(known_action)]
Period = Literal["day", "week", "month"]


class OrderTools:
    """The one tool."""

    def __init__(self, summaries: Summaries, control: Control) -> None:
        self._summaries = summaries
        self._control = control

    def tools(self) -> list[StrictTool]:
        """It, in a list."""
        return [tool_of(self.set_standing_order, title="Set or remove a standing order", is_acting=True)]

    async def set_standing_order(
        self,
        *,
        context: Context[Any, Any],
        action: OrderAction = None,
        when: Annotated[str | None, Field(description="provider name, run, phase or all")] = None,
        reaches: Annotated[str | None, Field(description="80%, $5 or 200k tokens")] = None,
        period: Annotated[Period | None, Field(description="Default: week")] = None,
        run_id: Annotated[str | None, Field(description="Default: the only unfinished run; * is every")] = None,
        remove: Annotated[int | None, Field(description="order_id to take back instead")] = None,
    ) -> Answer:
        """Pause or cancel a run, or tell, once a provider, run, phase or everything has used so much.

        The server keeps it until it is removed.
        """
        if remove is not None:
            if (action, when, reaches, period, run_id) != (None,) * 5:
                raise RequestRefused("remove takes nothing else.", hint="It is the number of an order in force.")
            message = await self._control.remove_order(remove)
            return {"message": short(message, MESSAGE_BYTES), "order_id": remove, "in_force": False}
        wish = await self._wish(action, when, reaches, period, run_id)
        done = await self._control.set_order(wish, person_of(context))
        return {
            "message": short(done.message, MESSAGE_BYTES),
            "order_id": done.order_id,
            "order": short(done.order, MESSAGE_BYTES),
            "in_force": True,
            "is_new": done.is_new,
        }

    async def _wish(
        self,
        action: Literal["pause", "cancel", "tell"] | None,
        when: str | None,
        reaches: str | None,
        period: Period | None,
        run_id: str | None,
    ) -> OrderWish:
        """The wish's type is imported late (server.py).

        Raises:
            RequestRefused: something is missing, or no single run can be meant.
        """
        from autopack_mcp.control.orders import OrderWish, concerns_runs

        if action is None or when is None or reaches is None:
            raise RequestRefused(
                "A standing order needs action, when and reaches.",
                hint='Like action pause, when anthropic, reaches "80%"; or remove with the number of an order.',
            )
        if run_id == EVERY_RUN or (run_id is None and not concerns_runs(action, when)):
            return OrderWish(action, when, reaches, period)
        return OrderWish(action, when, reaches, period, await meant_run(self._summaries, run_id))


def orders_shown(orders: Sequence[OrderView], most: int, room: int) -> list[Plain]:
    """Up to ``most`` orders, those that have fired and then the newest, in texts of ``room`` bytes; oldest first."""
    matter = sorted(orders, key=lambda order: (not order.firings, -order.order_id))[:most]
    return [_order(order, room) for order in sorted(matter, key=lambda order: order.order_id)]


def alerts_shown(alerts: Sequence[AlertView], most: int, room: int) -> list[Plain]:
    """The newest ``most`` alerts, as sentences of ``room`` bytes."""
    return [short(alert.sentence, room) for alert in alerts[:most]]


def _order(order: OrderView, room: int) -> Answer:
    last = order.firings[0] if order.firings else None
    about = "" if last is None or last.run_id in (None, order.run_id) else f" ({last.run_id})"
    fired = None if last is None else f"{last.fired_at:{TIME}}: {last.did}{about}. {last.why}"
    return known(
        order_id=order.order_id,
        order=short(order.order, room),
        fired=None if fired is None else short(fired, room),
        withdrawn=order.withdrawn_at is not None,
    )
