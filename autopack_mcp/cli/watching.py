"""Watches one run on the terminal until it stops: a live bar for a person, a line per change when piped.

It reads summaries whenever somebody commits; it changes nothing and keeps nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from autopack_mcp.app import Autopack, machine_name
from autopack_mcp.database.changes import ChangeWatch
from autopack_mcp.errors import SupervisorUnavailable
from autopack_mcp.runs.states import RUN_ACTIVE
from autopack_mcp.runs.supervision import supervisor_of
from autopack_mcp.summary.run import RunSummary
from autopack_mcp.summary.shown import tokens_text, usd_text

QUIET_S = 10.0  # A supervisor renews its lease every two seconds; this long without any commit means it is gone.


def watch(autopack: Autopack, run_id: str) -> RunSummary:
    """Show a run until nobody advances it any more; returns it as it stands then."""
    if sys.stdout.isatty():
        return _with_bar(autopack, run_id)
    return followed(autopack, run_id, _line_printer())


def followed(autopack: Autopack, run_id: str, show: Callable[[RunSummary], None]) -> RunSummary:
    """Show a run after each commit until nobody advances it any more; returns it as it stands then."""
    changes = ChangeWatch(autopack.database)
    try:
        while True:
            seen = changes.version()
            run = autopack.summaries.run_now(run_id)
            show(run)
            if run.state not in RUN_ACTIVE:
                return run
            if not changes.wait_now(seen, QUIET_S):
                _check_supervised(autopack, run_id)
    finally:
        changes.close()


def _check_supervised(autopack: Autopack, run_id: str) -> None:
    # Leases are renewed every two seconds, so a database that is quiet for longer means that nobody holds one.
    record = autopack.database.read_now(supervisor_of, machine_name())
    if record is None or not record.is_alive(autopack.clock.now()):
        raise SupervisorUnavailable(
            f"Nobody advances run {run_id} any more.", hint="It waits where it is; start autopack-mcp serve to go on."
        )


def _line_printer() -> Callable[[RunSummary], None]:
    said: set[str] = set()

    def show(run: RunSummary) -> None:
        line = f"{run.percent_complete:g} %  {doing(run)}"
        if line not in said:
            said.add(line)
            click.echo(f"{line}  ({tokens_text(run.tokens_used)} tokens, {usd_text(run.cost_usd)})")

    return show


def doing(run: RunSummary) -> str:
    """What a run is at, in a few words."""
    if run.current_phase_state is None or run.state != "running":
        return f"{run.state}: {run.why}"
    attempt = f", attempt {run.current_attempt}" if (run.current_attempt or 0) > 1 else ""
    place = f"phase {run.current_phase_index}/{run.total_phases} {run.current_phase_name}"
    return f"{place}: {run.current_phase_state}{attempt}"


def _with_bar(autopack: Autopack, run_id: str) -> RunSummary:
    # Lazy: only a terminal needs rich.
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (BarColumn(bar_width=30), TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.description}"))
    with Progress(*columns) as bar:
        task = bar.add_task("", total=100)

        def show(run: RunSummary) -> None:
            words = f"{escape(doing(run))}  [dim]{tokens_text(run.tokens_used)} tokens, {usd_text(run.cost_usd)}[/dim]"
            bar.update(task, completed=run.percent_complete, description=words)

        return followed(autopack, run_id, show)
