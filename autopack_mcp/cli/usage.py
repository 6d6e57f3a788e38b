"""The verb ``usage``: what was spent in a window, against the caps; its sub-verbs care for the ledger itself."""

from __future__ import annotations

import click

from autopack_mcp.cli.opening import opened
from autopack_mcp.cli.output import print_json, print_usage
from autopack_mcp.cli.reading import as_json


@click.group(invoke_without_command=True)
@click.option("--period", type=click.Choice(["day", "week", "month"]), default="week", show_default=True)
@click.option("--offset", default=0, show_default=True, help="-1 is the window before this one.")
@as_json
@click.pass_context
def usage(context: click.Context, period: str, offset: int, as_json: bool) -> None:
    """Show what was spent in a window, against the caps."""
    if context.invoked_subcommand is not None:
        return
    with opened() as autopack:
        found = autopack.summaries.usage_now(period, offset)
    print_json(found) if as_json else print_usage(found)
