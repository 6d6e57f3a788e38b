"""The verb ``rehearse``: a whole run with scripted replies, and what it would use and cost for real.

The run is a real one in everything but its replies; ``summary.estimate`` does the sums, this prints them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from autopack_mcp.cli.acting import FILE, REPOSITORY
from autopack_mcp.cli.opening import acting, opened
from autopack_mcp.cli.output import print_table
from autopack_mcp.cli.watching import followed, watch
from autopack_mcp.summary.estimate import CapInTheWay, CostSpan, Estimate, RoleEstimate, Span, estimate_of
from autopack_mcp.summary.run import RunSummary
from autopack_mcp.summary.shown import plain, tokens_text, usd_text


@click.command()
@click.argument("plan", type=FILE)
@click.option("--repository", type=REPOSITORY, help="Rehearse in this folder or URL instead of the plan's own.")
@click.option("--verify", help="Use this command to verify each phase instead of the plan's own.")
@click.option("--json", "as_json", is_flag=True, help="The rehearsal's end and the estimate, as JSON.")
def rehearse(plan: Path, repository: Path | str | None, verify: str | None, as_json: bool) -> None:
    """Run PLAN with scripted replies and estimate the real run: tokens, dollars, and the caps in its way.

    Exits with 1 when the rehearsal itself did not succeed; then there is no estimate.
    """
    started = acting(
        lambda control, person: control.start_file(
            plan, person, repository=repository, verify=verify, is_rehearsal=True
        )
    )
    with opened() as autopack:
        run = followed(autopack, started.run_id, lambda _: None) if as_json else watch(autopack, started.run_id)
        now = autopack.clock.now()
        estimate = None
        if run.state == "succeeded":
            estimate = autopack.database.read_now(
                estimate_of, run.run_id, autopack.settings(), autopack.price_book(), now
            )
    if as_json:
        rehearsal = {"run_id": run.run_id, "state": run.state, "why": run.why}
        click.echo(json.dumps({"rehearsal": rehearsal, "estimate": plain(estimate)}, indent=2, ensure_ascii=False))
    else:
        for warning in started.warnings:
            click.echo(warning, err=True)
        _print(run, estimate)
    sys.exit(0 if estimate is not None else 1)


def _print(run: RunSummary, estimate: Estimate | None) -> None:
    click.echo(f"Rehearsal {run.run_id}: {run.state}: {run.why}")
    if estimate is None:
        click.echo("There is no estimate: the plan does not get through its rehearsal.", err=True)
        return
    click.echo("\nThe real run, low / typical / high:\n")
    header = ("phase", "role", "model", "prompt tokens", "answer tokens", "cost", "basis of the answer")
    print_table(header, map(_row, estimate.roles))
    unpriced = f" + unpriced: {', '.join(estimate.unpriced_models)}" if estimate.unpriced_models else ""
    click.echo(f"\nAltogether {_tokens(estimate.tokens)} tokens, {_cost(estimate.cost_usd)}{unpriced}.")
    for cap in estimate.caps:
        click.echo(_cap_words(cap))
    if not estimate.caps:
        click.echo("No cap is in the way.")
    click.echo("\nAssumptions:")
    for assumption in estimate.assumptions:
        click.echo(f"- {assumption}")


def _row(role: RoleEstimate) -> tuple[str, ...]:
    return (
        role.phase_id, role.role, role.model, _tokens(role.prompt_tokens), _tokens(role.completion_tokens),
        _cost(role.cost_usd), role.basis,
    )  # fmt: skip


def _tokens(span: Span) -> str:
    return f"{tokens_text(span.low)} / {tokens_text(span.typical)} / {tokens_text(span.high)}"


def _cost(span: CostSpan) -> str:
    if span.typical is None:
        return "unpriced"
    return f"{usd_text(span.low)} / {usd_text(span.typical)} / {usd_text(span.high)}"


def _cap_words(cap: CapInTheWay) -> str:
    left, of = (
        (tokens_text(int(amount)) + " tokens" if cap.unit == "tokens" else usd_text(amount))
        for amount in (cap.left, cap.allowance)
    )
    cases = ", ".join(
        f"{case} in phase {phase}" for case in ("low", "typical", "high") if (phase := getattr(cap, case)) is not None
    )
    return f"In the way: {cap.label}, {left} left of {of}: {cases}."
