"""How answers look on a terminal: rich tables where a person looks, plain tab-separated lines where a program reads.

It formats what ``summary`` says and knows no database. Rich is imported only for a terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from autopack_mcp.summary.shown import plain, tokens_text, usd_text

if TYPE_CHECKING:
    from autopack_mcp.summary.alerts import AlertView
    from autopack_mcp.summary.orders import FiringView, OrderView
    from autopack_mcp.summary.run import PhaseView, RunList, RunSummary


def print_json(answer: object) -> None:
    """The whole answer as JSON."""
    click.echo(json.dumps(plain(answer), indent=2, ensure_ascii=False))


def print_notice(notice: str) -> None:
    """What is wrong with the configuration, beside the answer that was asked for."""
    if notice:
        click.echo(f"Notice: {notice}", err=True)


def print_runs(found: RunList) -> None:
    """One line a run."""
    print_notice(found.notice)
    if not found.runs:
        click.echo("There are no runs yet. Start one with: autopack-mcp start PLAN")
        return
    rows = [
        (
            run.run_id,
            run.state + (" (needs you)" if run.needs_you else ""),
            f"{run.percent_complete:g} %",
            tokens_text(run.tokens_used),
            usd_text(run.cost_usd, run.unpriced_calls),
            run.plan_name + (" [rehearsal]" if run.is_rehearsal else ""),
        )
        for run in found.runs
    ]
    print_table(("run", "state", "done", "tokens", "cost", "plan"), rows)
    if found.hint:
        click.echo(found.hint)


def print_run(run: RunSummary) -> None:
    """A whole run: how it stands, what it needs, its phases."""
    print_notice(run.notice)
    kind = " — rehearsal: no model was called, no tokens were bought" if run.is_rehearsal else ""
    click.echo(f"{run.run_id}  {run.state}  {run.percent_complete:g} %  {run.plan_name}{kind}")
    click.echo(f"  {run.why}")
    if run.forked_from is not None:
        click.echo(f"  Forked from {run.forked_from}")
    if run.needs_you is not None:
        click.echo(f"  Needs you: {run.needs_you.what}")
        click.echo(f"  Say in a chat: {run.needs_you.say}")
        if run.needs_you.command:
            click.echo(f"  Or type: {run.needs_you.command}")
    click.echo(f"  Tier {run.current_tier_index}/{run.total_tiers}, phase {run.current_phase_index}/{run.total_phases}"
               f": {run.current_phase_name}")  # fmt: skip
    cap = f" of {tokens_text(run.token_cap)}" if run.token_cap is not None else ""
    dollar_cap = f" of {usd_text(run.cost_cap_usd)}" if run.cost_cap_usd is not None else ""
    cost = usd_text(run.cost_usd, run.unpriced_calls)
    click.echo(f"  Tokens {tokens_text(run.tokens_used)}{cap}, cost {cost}{dollar_cap},"
               f" issues {run.major_issues_count} major, {run.minor_issues_count} minor")  # fmt: skip
    click.echo(f"  Branch {run.branch} of {run.repository}; supervisor: {run.supervisor}")
    for note in run.notes:
        click.echo(f"  Note {note.note_id}: {note.text} ({note.delivered})")
    print_orders(run.orders, run.alerts, "  ")
    print_table(
        ("phase", "state", "attempt", "builder", "auditor", "tokens", "commit", "why"),
        [
            (
                phase.phase_id, phase.state_words, str(phase.attempt), phase.builder_model or "–",
                phase.auditor_model or "–", _phase_tokens(phase), (phase.commit or "–")[:10], phase.why,
            )
            for phase in run.phases
        ],
    )  # fmt: skip


def _phase_tokens(phase: PhaseView) -> str:
    """What a phase has used, of its own caps where it has some."""
    tokens = tokens_text(phase.tokens_used)
    if phase.token_cap is not None:
        tokens += f" of {tokens_text(phase.token_cap)}"
    if phase.cost_cap_usd is not None:
        tokens += f", {usd_text(phase.cost_usd, phase.unpriced_calls)} of {usd_text(phase.cost_cap_usd)}"
    return tokens


def print_orders(orders: Sequence[OrderView], alerts: Sequence[AlertView], indent: str = "") -> None:
    """One line for each standing order and each alert."""
    for order in orders:
        fired = "; ".join(firing_words(firing, order) for firing in order.firings)
        click.echo(f"{indent}Order {order.order_id}: {order.order}{f' ({fired})' if fired else ''}")
    for alert in alerts:
        click.echo(f"{indent}Alert: {alert.sentence}")


def firing_words(firing: FiringView, order: OrderView) -> str:
    """When an order fired, what was done then, and to which run where the order does not say."""
    about = "" if firing.run_id in (None, order.run_id) else f" {firing.run_id}:"
    return f"{firing.fired_at:%Y-%m-%d %H:%M} UTC:{about} {firing.did}"


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table for a person, tab-separated lines when piped."""
    rows = list(rows)
    if not sys.stdout.isatty():
        for row in (header, *rows):
            click.echo("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        # Text, not markup: a phase may be called "[red]".
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
