"""The verbs about standing orders: ``order`` lays one down or takes it back, ``orders`` lists them.

``control`` reads and checks what is meant, ``summary`` says what stands; these print it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from autopack_mcp.cli.opening import acting, opened
from autopack_mcp.cli.output import firing_words, print_json, print_table
from autopack_mcp.cli.reading import as_json

if TYPE_CHECKING:
    from autopack_mcp.budgets.standing_orders import OrderAction
    from autopack_mcp.config.settings import Window
    from autopack_mcp.summary.orders import OrderView


@click.command()
@click.argument("action", type=click.Choice(["pause", "cancel", "tell"]), required=False)
@click.argument("when", required=False)
@click.argument("reaches", required=False)
@click.option("--period", type=click.Choice(["day", "week", "month"]), help="Of a provider or all.  [default: week]")
@click.option("--run", help="Only this run; without it, every run.")
@click.option("--remove", type=int, metavar="NUMBER", help="Take this order out of force instead.")
def order(
    action: OrderAction | None,
    when: str | None,
    reaches: str | None,
    period: Window | None,
    run: str | None,
    remove: int | None,
) -> None:
    """Pause or cancel runs, or tell, as soon as WHEN (a provider, run, phase or all) REACHES an amount.

    An amount is a percentage of the cap, dollars or tokens: 80%, '$5', 200k. The server keeps the order until it is
    removed.
    """
    # Lazy: `orders` only reads.
    from autopack_mcp.control.orders import OrderWish

    if remove is not None:
        if (action, period, run) != (None, None, None):
            raise click.UsageError("--remove takes nothing else.")
        click.echo(acting(lambda control, person: control.remove_order(remove)))
        return
    if action is None or when is None or reaches is None:
        raise click.UsageError("Give ACTION WHEN REACHES, like: pause anthropic 80%. Or --remove NUMBER.")
    wish = OrderWish(action, when, reaches, period, run)
    click.echo(acting(lambda control, person: control.set_order(wish, person)).message)


@click.command()
@click.option("--all", "with_withdrawn", is_flag=True, help="Also those that were removed or can do nothing any more.")
@as_json
def orders(with_withdrawn: bool, as_json: bool) -> None:
    """List the standing orders, and what they did."""
    with opened() as autopack:
        found = autopack.summaries.orders_now(with_withdrawn=with_withdrawn)
    if as_json:
        print_json(found)
    elif not found:
        click.echo("No standing order is in force. Lay one down with: autopack-mcp order pause PROVIDER 80%")
    else:
        print_table(("order", "says", "by", "since", "fired"), [_row(one) for one in found])


def _row(order: OrderView) -> tuple[str, ...]:
    fired = "; ".join(firing_words(firing, order) for firing in order.firings) or "not yet"
    removed = "" if order.withdrawn_at is None else f" (removed {order.withdrawn_at:%Y-%m-%d %H:%M} UTC)"
    since = f"{order.created_at:%Y-%m-%d %H:%M} UTC{removed}"
    return str(order.order_id), order.order, f"{order.author} through {order.client}", since, fired
