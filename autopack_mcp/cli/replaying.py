"""The verbs about trying again: ``fork`` begins a run anew from one of its phases, ``compare`` shows two side by side.

``control`` and ``summary`` do the work; these print their answers.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import click

from autopack_mcp.app import open_autopack
from autopack_mcp.cli.opening import acting, opened
from autopack_mcp.cli.output import print_json, print_run, print_table
from autopack_mcp.cli.watching import watch
from autopack_mcp.summary.comparison import ComparedRun, Comparison, PhaseSide
from autopack_mcp.summary.shown import tokens_text, usd_text

NOTHING = "–"  # In a cell: this run has no such thing.


@click.command()
@click.argument("run")
@click.argument("phase")
@click.option("--description", help="What this phase is to do instead.")
@click.option("--verify", help="Use this command to verify this phase instead.")
@click.option("--builder", metavar="MODEL", help="Let this model write, in all phases of the new run.")
@click.option("--auditor", metavar="MODEL", help="Let this model review, in all phases of the new run.")
@click.option("--note", help="Put this into every prompt, beside the notes of RUN.")
@click.option("--without-notes", is_flag=True, help="Leave the notes of RUN behind.")
@click.option("--rehearse", is_flag=True, help="Scripted replies: no model is called, no tokens are bought.")
@click.option("--wait", is_flag=True, help="Watch until the new run stops; exit with 0 only when it has succeeded.")
def fork(
    run: str, phase: str, description: str | None, verify: str | None, builder: str | None, auditor: str | None,
    note: str | None, without_notes: bool, rehearse: bool, wait: bool,
) -> None:  # fmt: skip
    """Begin RUN again from PHASE, as a new run from the commit before it; RUN stays as it is.

    The new run has PHASE and what follows it, the models, rules and notes that RUN has, and what you change here.
    """
    from autopack_mcp.control.forks import ForkWish  # Lazy: ``compare`` only reads.
    from autopack_mcp.runs.plan_edits import PhaseEdit

    wish = ForkWish(run, phase, PhaseEdit(description, verify), builder, auditor, note, without_notes, rehearse)
    started = acting(lambda control, person: control.fork(wish, "cli", person, may_set_commands=True))
    click.echo(started.message)
    if not wait:
        click.echo(f"Compare it when it is done: autopack-mcp compare {started.run_id}")
        return
    with opened() as autopack:
        found = watch(autopack, started.run_id)
    print_run(found)
    sys.exit(0 if found.state == "succeeded" else 1)


@click.command()
@click.argument("run")
@click.argument("other", required=False)
@click.option("--diff/--no-diff", "with_diff", default=True, help="Whether to print what git says differs.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
def compare(run: str, other: str | None, with_diff: bool, as_json: bool) -> None:
    """Show RUN and OTHER side by side; without OTHER, the run that RUN was forked from, and RUN."""
    found = asyncio.run(_compared(run, other))
    if as_json:
        print_json(found)
        return
    print_table(("", found.a.run_id, found.b.run_id), _of_runs(found.a, found.b))
    click.echo()
    header = ("phase", *(f"{side} {what}" for side in "AB" for what in ("result", "models", "tokens", "cost", "time")))
    print_table(header, [(phase.phase_id, *_cells(phase.a), *_cells(phase.b)) for phase in found.phases])
    for sentence in found.models_differ:
        click.echo(f"Another model: {sentence}")
    click.echo(_diff_words(found))
    if with_diff and found.diff is not None and found.diff.text:
        click.echo(f"\n{found.diff.text}")


async def _compared(run: str, other: str | None) -> Comparison:
    autopack = open_autopack()
    try:
        return await autopack.summaries.compare(run, other)
    finally:
        await autopack.database.close()


def _of_runs(a: ComparedRun, b: ComparedRun) -> list[Sequence[str]]:
    return list(
        zip(
            ("plan", "state", "forked from", "phases", "tokens", "cost", "issues", "time", "commit"),
            _of_run(a),
            _of_run(b),
            strict=True,
        )
    )


def _of_run(run: ComparedRun) -> tuple[str, ...]:
    return (
        run.plan_name + (" [rehearsal]" if run.is_rehearsal else ""),
        run.state,
        run.forked_from or NOTHING,
        f"{run.completed_phases} of {run.total_phases}",
        tokens_text(run.tokens_used),
        usd_text(run.cost_usd, run.unpriced_calls),
        f"{run.major_issues_count} major, {run.minor_issues_count} minor",
        seconds_text(run.duration_s),
        run.commit[:10],
    )


def _cells(side: PhaseSide | None) -> tuple[str, ...]:
    if side is None:
        return (NOTHING,) * 5
    tries = f", {side.attempts} attempts" if side.attempts > 1 else ""
    result = side.state + (f", {side.verdict}" if side.verdict else "") + tries
    models = f"{side.builder_model or NOTHING} / {side.auditor_model or NOTHING}"
    cost = usd_text(side.cost_usd, side.unpriced_calls)
    return result, models, tokens_text(side.tokens_used), cost, seconds_text(side.duration_s)


def seconds_text(seconds: float | None) -> str:
    """A duration for a person: "0.4 s", "3 min 20 s", "2 h 5 min"."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _diff_words(found: Comparison) -> str:
    diff = found.diff
    if diff is None:
        return f"No diff: {found.why_no_diff}"
    if not diff.files:
        return "Both have come to the same tree."
    cut = " (cut here; `git diff` shows all of it)" if diff.is_cut else ""
    return f"From A to B: {diff.files} files, {diff.added_lines} lines added, {diff.removed_lines} removed{cut}."
