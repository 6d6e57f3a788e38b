"""The verbs about standing orders: ``order`` lays one down or takes it back, ``orders`` lists them.

``control`` reads and checks what is meant, ``summary`` says what stands; these print it.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Literal

import click

from autopack_mcp.cli.opening import acting, opened
from autopack_mcp.cli.output import firing_words, print_json, print_table
from autopack_mcp.cli.reading import as_json

if TYPE_CHECKING:
    from autopack_mcp.budgets.standing_orders import OrderAction
    from autopack_mcp.config.settings import Window
    from autopack_mcp.summary.orders import OrderView


_ACTIONS: tuple[Literal["pause", "cancel", "tell"], ...] = ("pause", "cancel", "tell")
_REMOVES = frozenset({"remove", "rm", "delete", "drop", "withdraw", "undo"})
_LISTS = frozenset({"list", "ls", "show"})
_LIKE = "Give ACTION WHEN REACHES, like: pause anthropic 80%, or: pause run 5usd. To take one back: remove NUMBER."


@click.command()
@click.argument("action", required=False)
@click.argument("when", required=False)
@click.argument("reaches", nargs=-1)
@click.option("--period", type=click.Choice(["day", "week", "month"]), help="Of a provider or all.  [default: week]")
@click.option("--run", help="Only this run; without it, every run.")
@click.option("--remove", type=int, metavar="NUMBER", help="Take this order out of force instead, as `remove NUMBER`.")
def order(
    action: str | None,
    when: str | None,
    reaches: tuple[str, ...],
    period: Window | None,
    run: str | None,
    remove: int | None,
) -> None:
    """Pause or cancel runs, or tell, as soon as WHEN (a provider, run, phase or all) REACHES an amount.

    ACTION is pause, cancel or tell. An amount is a percentage of the cap, dollars or tokens: 80%, 5usd, 200k, 18000
    tokens; $5 needs quotes in a shell: '$5'. The server keeps the order until it is removed: remove NUMBER.
    """
    # Lazy: `orders` only reads.
    from autopack_mcp.control.orders import OrderWish

    number = _number_to_remove(action, when, reaches) if remove is None else remove
    if number is not None:
        if (period, run) != (None, None) or (remove is not None and action is not None):
            raise click.UsageError("--remove takes nothing else.")
        click.echo(acting(lambda control, person: control.remove_order(number)))
        return
    known = _known_action(action, when, reaches)
    if when is None or not reaches:
        raise click.UsageError(f"{_LIKE} A shell takes $5 for something of its own: write '$5' or 5usd.")
    wish = OrderWish(known, when, " ".join(reaches), period, run)
    click.echo(acting(lambda control, person: control.set_order(wish, person)).message)


def _number_to_remove(action: str | None, when: str | None, reaches: tuple[str, ...]) -> int | None:
    """The order that "remove 3", or "stop 3", takes back; None when it is no such wish."""
    # "Stop" alone would be a run's; with nothing but a number it can only mean an order.
    is_stop = action == "stop" and when is not None and when.isdecimal() and not reaches
    if action not in _REMOVES and not is_stop:
        return None
    if when is None or not when.isdecimal() or reaches:
        raise click.UsageError(f"Give the number of one order: {action} 3. `autopack-mcp orders` lists them.")
    return int(when)


def _known_action(action: str | None, when: str | None, reaches: tuple[str, ...]) -> OrderAction:
    for known in _ACTIONS:
        if action == known:
            return known
    if action is None:
        raise click.UsageError(_LIKE)
    if action in _LISTS:
        raise click.UsageError("To list the standing orders: autopack-mcp orders")
    rest = " ".join(shlex.quote(word) for word in (when or "PROVIDER", " ".join(reaches) or "80%"))
    ways = " or ".join(f"autopack-mcp order {known} {rest}" for known in _ACTIONS[:2])
    raise click.UsageError(f"{action!r} is no action; it is pause, cancel or tell. Try {ways}")


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
