"""The verbs that act: start, pause, resume, retry, skip, edit, give-up, cancel, raise-cap, note, override.

``control`` does the work; these print its answer.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path

import click

from autopack_mcp.cli.opening import acting, opened
from autopack_mcp.cli.output import print_run
from autopack_mcp.cli.token_option import Tokens
from autopack_mcp.cli.watching import watch
from autopack_mcp.control.caps import CapWish
from autopack_mcp.control.overrides import OverrideWish
from autopack_mcp.control.requests import RequestOutcome
from autopack_mcp.plans.repository_url import is_url
from autopack_mcp.runs.phase_wishes import PhaseWish
from autopack_mcp.runs.plan_edits import PhaseEdit
from autopack_mcp.runs.requests import Action


class _Repository(click.ParamType):  # type: ignore[type-arg]  # Generic only for type checkers; both kinds are ours.
    """A folder that is there, or a URL, which the plan's own rules judge."""

    name = "directory or URL"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        if is_url(str(value)):
            return str(value)
        folder: Path = click.Path(exists=True, file_okay=False, path_type=Path).convert(str(value), param, ctx)
        return folder


FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
REPOSITORY = _Repository()


@click.command()
@click.argument("plan", type=FILE)
@click.option("--repository", type=REPOSITORY, help="Build in this folder or URL instead of the plan's own.")
@click.option("--verify", help="Use this command to verify each phase instead of the plan's own.")
@click.option("--rehearse", is_flag=True, help="Scripted replies: no model is called, no tokens are bought.")
@click.option("--wait", is_flag=True, help="Watch until the run stops; exit with 0 only when it has succeeded.")
def start(plan: Path, repository: Path | str | None, verify: str | None, rehearse: bool, wait: bool) -> None:
    """Start a run of PLAN (a YAML plan, or a run request in JSON). It goes on when this terminal is closed."""
    started = acting(
        lambda control, person: control.start_file(
            plan, person, repository=repository, verify=verify, is_rehearsal=rehearse
        )
    )
    for warning in started.warnings:
        click.echo(warning, err=True)
    click.echo(started.message)
    if not wait:
        click.echo(f"Watch it with: autopack-mcp status {started.run_id}")
        return
    with opened() as autopack:
        run = watch(autopack, started.run_id)
    print_run(run)
    sys.exit(0 if run.state == "succeeded" else 1)


@click.command()
@click.argument("run")
@click.option("--now", is_flag=True, help="Interrupt the step in hand instead of waiting for its end.")
def pause(run: str, now: bool) -> None:
    """Pause RUN at the end of the step in hand."""
    _request(run, "pause", now=now)


@click.command()
@click.argument("run")
def resume(run: str) -> None:
    """Let RUN go on; a phase that needs attention is tried again."""
    _request(run, "resume")


@click.command()
@click.argument("run")
def cancel(run: str) -> None:
    """End RUN now: a call in flight is interrupted, a command's processes are killed."""
    _request(run, "cancel")


@click.command(name="give-up")
@click.argument("run")
def give_up(run: str) -> None:
    """End RUN, which needs attention, as failed."""
    _request(run, "give_up")


@click.command()
@click.argument("run")
@click.argument("phase", required=False)
def retry(run: str, phase: str | None) -> None:
    """Try PHASE of RUN anew; without one the phase that failed.

    In a paused run the attempt in hand is dropped, and the run stays paused.
    """
    _about_phase(run, PhaseWish("retry", phase))


@click.command()
@click.argument("run")
@click.argument("phase")
@click.option("--reason", required=True, help="Why; it is shown wherever the phase is.")
def skip(run: str, phase: str, reason: str) -> None:
    """Leave PHASE of RUN out: it counts as completed. In hand, it is interrupted and nothing of it is kept."""
    _about_phase(run, PhaseWish("skip", phase, reason))


@click.command()
@click.argument("run")
@click.argument("phase")
@click.option("--description", help="What the builder is asked to do instead.")
@click.option("--verify", help="The command that says whether it worked, or none.")
def edit(run: str, phase: str, description: str | None, verify: str | None) -> None:
    """Change what PHASE of RUN is to do, or how it is verified, before it is tried (again)."""
    _about_phase(run, PhaseWish("edit", phase, edit=PhaseEdit(description, verify)))


@click.command(name="raise-cap")
@click.argument("run")
@click.option("--tokens", type=Tokens(), help="The new cap in tokens: 18000, 18k or 1.5M.")
@click.option("--usd", help="The new cap in dollars, such as 2.50.")
@click.option("--phase", help="The caps of this phase alone, not those of the run.")
def raise_cap(run: str, tokens: int | None, usd: str | None, phase: str | None) -> None:
    """Give RUN another cap: the new total, not what is added.

    A run that this cap has stopped goes on where it paused. A cap may be lowered as well; below what is spent, the next
    call is denied.
    """
    wish = CapWish(tokens, None if usd is None else _dollars(usd), phase)
    outcome: RequestOutcome = acting(lambda control, person: control.raise_cap(run, wish, person))
    click.echo(outcome.message)


@click.command()
@click.argument("run")
@click.argument("text", required=False)
@click.option("--withdraw", "note_id", type=int, help="Take this note out of all later prompts instead.")
def note(run: str, text: str | None, note_id: int | None) -> None:
    """Put TEXT into every later prompt of RUN."""
    if (text is None) == (note_id is None):
        raise click.UsageError("Give either TEXT or --withdraw NUMBER.")
    if note_id is not None:
        click.echo(acting(lambda control, person: control.withdraw_note(run, note_id)))
        return
    added = acting(lambda control, person: control.add_note(run, text or "", "cli", person))
    click.echo(added.message)


@click.command()
@click.argument("model", required=False, default="")
@click.option("--role", default="builder", show_default=True, help="builder, auditor, agent:NAME, or * for all.")
@click.option("--category", default="*", show_default=True, help="A category, or a pattern such as ui*.")
@click.option("--complexity", default="*", show_default=True, help="low, medium, high, or a pattern.")
@click.option("--run", help="Only future phases of this run; without it, all runs started later.")
@click.option("--expires", type=click.DateTime(), help="Until then (UTC).")
@click.option("--undo", is_flag=True, help="Withdraw the override of this pattern instead.")
def override(
    model: str, role: str, category: str, complexity: str, run: str | None, expires: datetime | None, undo: bool
) -> None:
    """Choose MODEL for part of a run, or for all later runs."""
    if not model and not undo:
        raise click.UsageError("Give a MODEL, or --undo.")
    until = None if expires is None else expires.replace(tzinfo=UTC)
    wish = OverrideWish(role, category, complexity, model, "run" if run else "global", run, until, undo)
    outcome = acting(lambda control, person: control.override(wish, person))
    click.echo(outcome.message)
    for change in outcome.changes:
        click.echo(f"  {change.phase_id} {change.role}: {change.from_model} → {change.to_model}")


def _dollars(text: str) -> Decimal:
    try:
        return Decimal(text.removeprefix("$").replace(",", ""))
    except InvalidOperation as error:
        raise click.BadParameter(f"{text!r} is not an amount of dollars.", param_hint="--usd") from error


def _about_phase(run: str, wish: PhaseWish) -> None:
    outcome: RequestOutcome = acting(
        lambda control, person: control.about_phase(run, wish, person, may_set_commands=True)
    )
    click.echo(outcome.message)


def _request(run: str, action: Action, *, now: bool = False) -> None:
    outcome: RequestOutcome = acting(lambda control, person: control.request(run, action, person, now=now))
    click.echo(outcome.message)
