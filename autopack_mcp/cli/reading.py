"""The verbs that only read: runs, status, models. Each prints what ``summary`` says, or the same as JSON."""

from __future__ import annotations

import click

from autopack_mcp.cli.opening import opened
from autopack_mcp.cli.output import print_json, print_models, print_run, print_runs
from autopack_mcp.summary.run import RunList

as_json = click.option("--json", "as_json", is_flag=True, help="Print the whole answer as JSON.")


@click.command()
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 100), help="How many, newest first.")
@click.option("--cursor", help="Where the last answer said the rest begins.")
@as_json
def runs(limit: int, cursor: str | None, as_json: bool) -> None:
    """List runs, newest first."""
    with opened() as autopack:
        found = autopack.summaries.runs_now(limit, cursor)
    print_json(found) if as_json else print_runs(found)


@click.command()
@click.argument("run", required=False)
@as_json
def status(run: str | None, as_json: bool) -> None:
    """Show how RUN stands; without RUN the current one, or the list when several are unfinished."""
    with opened() as autopack:
        found = autopack.summaries.run_now(run) if run else autopack.summaries.current_now()
    if as_json:
        print_json(found)
    elif isinstance(found, RunList):
        print_runs(found)
    else:
        print_run(found)


@click.command()
@click.option("--run", help="What the unfinished phases of this run will be given.")
@as_json
def models(run: str | None, as_json: bool) -> None:
    """Show which model answers what, and why."""
    with opened() as autopack:
        found = autopack.summaries.models_now(run)
    print_json(found) if as_json else print_models(found)
