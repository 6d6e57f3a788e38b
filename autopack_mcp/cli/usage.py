"""The verb ``usage``: what was spent in a span of time or by a run; its sub-verbs care for the ledger itself."""

from __future__ import annotations

import click
from click.core import ParameterSource

from autopack_mcp.cli.exporting import export
from autopack_mcp.cli.ledger import check, prune, rebuild, reprice
from autopack_mcp.cli.opening import opened
from autopack_mcp.cli.output import print_json
from autopack_mcp.cli.reading import as_json
from autopack_mcp.cli.spans import from_option, offset_option, periods, to_option
from autopack_mcp.cli.usage_output import print_run_usage, print_usage


@click.group(invoke_without_command=True)
@click.option("--period", type=periods, default="week", show_default=True)
@offset_option
@from_option
@to_option
@click.option("--runs", "with_runs", is_flag=True, help="Tell runs apart, however many calls have to be read for it.")
@click.option("--run", help="Instead of a span of time: one run, by tier and phase.")
@as_json
@click.pass_context
def usage(
    context: click.Context, period: str, offset: int, from_: str | None, to: str | None, with_runs: bool,
    run: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Show what was spent in a window or from one date to another, on what, and against which caps."""
    if context.invoked_subcommand is not None:
        _refuse_options_before(context, context.invoked_subcommand)
        return
    with opened() as autopack:
        if run is not None:
            spent = autopack.summaries.run_usage_now(run)
            print_json(spent) if as_json else print_run_usage(spent)
        else:
            found = autopack.summaries.usage_now(period, offset, from_=from_, to=to, with_runs=with_runs)
            print_json(found) if as_json else print_usage(found)


def _refuse_options_before(context: click.Context, verb: str) -> None:
    """An option in front of a sub-verb is not the sub-verb's: ignored, it would change what is asked without a word."""
    if any(context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in context.params):
        raise click.UsageError(f"Write the options behind {verb!r}, not before it.", context)


usage.add_command(export)
usage.add_command(check)
usage.add_command(rebuild)
usage.add_command(prune)
usage.add_command(reprice)
