"""The verb ``scorecard``: how each model did on the person's own work, with the counts behind every rate."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

import click

from autopack_mcp.cli.opening import opened
from autopack_mcp.cli.output import print_json, print_table
from autopack_mcp.cli.reading import as_json
from autopack_mcp.cli.spans import from_option, to_option
from autopack_mcp.summary.scorecard import BuilderScore, ModelScorecard, Rate, ScorecardWish
from autopack_mcp.summary.shown import tokens_text, usd_text


@click.command()
@click.option("--days", type=int, help="Only phases begun in the last so many days. Default: ever.")
@from_option
@to_option
@click.option("--category", help="Only this category.")
@click.option("--complexity", help="Only low, medium or high phases.")
@as_json
def scorecard(
    days: int | None, from_: str | None, to: str | None, category: str | None, complexity: str | None, as_json: bool
) -> None:
    """Show how each model did: approvals, first tries, and what an approved phase took."""
    with opened() as autopack:
        found = autopack.summaries.scorecard_now(ScorecardWish(days, from_, to, category, complexity))
    print_json(found) if as_json else print_scorecard(found)


def print_scorecard(found: ModelScorecard) -> None:
    """Builders by category, auditors, experiments, and what is in no rate."""
    if not (found.builders or found.auditors):
        click.echo("No attempt of a real run has been judged in that time; rehearsals do not count.")
    if found.builders:
        print_table(
            ("category", "builder", "approved", "first try", "sample", "low/medium/high", "tokens/phase", "cost/phase"),
            [_builder_row(one) for one in found.builders],
        )
    if found.auditors:
        print_table(
            ("auditor", "rejected", "sample", "unusable", "tokens/verdict"),
            [
                (
                    one.model,
                    _rate(one.rejection),
                    one.sample,
                    str(one.unusable_verdicts),
                    _tokens(one.tokens_per_verdict),
                )
                for one in found.auditors
            ],
        )
    for one in found.experiments:
        cost = usd_text(one.cost_usd, one.unpriced_calls)
        click.echo(f"experiments with {one.model}: {tokens_text(one.tokens)} tokens, {cost}")
    for line in _apart(found):
        click.echo(line)
    click.echo(found.note)


def _builder_row(one: BuilderScore) -> tuple[str, ...]:
    return (
        one.category,
        one.model,
        _rate(one.approval),
        _rate(one.first_try),
        one.sample,
        "/".join(str(count) for count in one.attempts_by_complexity.values()),
        _tokens(one.tokens_per_approved_phase),
        _cost(one.cost_usd_per_approved_phase, one),
    )


def _rate(rate: Rate) -> str:
    """ "3 of 4, 75 % (30.1 to 95.4)"."""
    if rate.percent is None:
        return "–"
    return f"{rate.hits} of {rate.tries}, {rate.percent:g} % ({rate.low_percent:g} to {rate.high_percent:g})"


def _tokens(count: int | None) -> str:
    return "–" if count is None else tokens_text(count)


def _cost(amount: Decimal | None, one: BuilderScore) -> str:
    if amount is None:
        return "unpriced" if one.unpriced_calls and one.counted_phases else "–"
    return usd_text(amount, one.unpriced_calls)


def _apart(found: ModelScorecard) -> Iterable[str]:
    """What was left out, if anything was."""
    counts = (
        (found.interrupted_attempts, "ended by a person"),
        (found.unjudged_attempts, "ended without a judgement of the change"),
        (found.open_attempts, "under way"),
    )
    apart = ", ".join(f"{count:,} {what}" for count, what in counts if count)
    if apart:
        yield f"Attempts in no rate: {apart}."
    if found.uncounted_phases:
        yield f"Approved phases in no cost, because calls of theirs were deleted by age: {found.uncounted_phases:,}."
