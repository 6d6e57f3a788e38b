"""The verbs that only read: runs, status, models. Each prints what ``summary`` says, or the same as JSON."""

from __future__ import annotations

import click

from autopack_mcp.cli.opening import opened
from autopack_mcp.cli.output import print_json, print_run, print_runs
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
@click.option("--role", help="Explain one question in full: builder, auditor or agent:NAME.")
@click.option("--category", help="Only of this category; of a question general if left out.")
@click.option("--complexity", help="Only low, medium or high; of a question medium if left out.")
@as_json
def models(run: str | None, role: str | None, category: str | None, complexity: str | None, as_json: bool) -> None:
    """Show which model answers what, and why; with --role everything about one question."""
    # Lazy: ``status`` shows no model and must be quick.
    from autopack_mcp.cli.model_output import print_explanation, print_models, print_used_models

    with opened() as autopack:
        if role is not None:
            explained = autopack.summaries.explain_now(role, category or "general", complexity or "medium", run)
            print_json(explained) if as_json else print_explanation(explained)
            return
        found = autopack.summaries.models_now(run, category, complexity)
        if run is not None and not (found.rows or category or complexity or as_json):
            print_used_models(autopack.summaries.run_usage_now(run))
            return
    print_json(found) if as_json else print_models(found)
