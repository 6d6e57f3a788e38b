"""The verbs that care for the ledger itself: usage check, rebuild, prune and reprice.

``budgets`` and ``usage`` do the work; these ask for it and print its answer. ``usage`` is the verb they belong to.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import click

from autopack_mcp.budgets.check import check_ledger
from autopack_mcp.budgets.rebuild import rebuild_ledger
from autopack_mcp.cli.opening import opened
from autopack_mcp.cli.output import print_json, print_table
from autopack_mcp.cli.reading import as_json
from autopack_mcp.summary.shown import usd_text
from autopack_mcp.text_safety import visible
from autopack_mcp.traces.retention import Forgotten, forget, forgettable, words_cutoff
from autopack_mcp.usage.pruning import Pruned, kept_days, prunable, prune_cutoff
from autopack_mcp.usage.pruning import prune as prune_events
from autopack_mcp.usage.rebuild import Rebuilt
from autopack_mcp.usage.repricing import ModelRepricing, Repricing
from autopack_mcp.usage.repricing import reprice as reprice_events
from autopack_mcp.usage.spans import asked_span

LINE_LIMIT = 600  # Characters of one difference: a row with all its numbers, and names that others gave.
NAMED_LIMIT = 5  # Rebuilt hours, days, runs or counters that a line names; the rest is counted.


@click.command()
@as_json
def check(as_json: bool) -> None:
    """Recompute every sum and counter from the events and say what differs; exit with 1 if anything does."""
    with opened() as autopack:
        found = autopack.database.read_now(check_ledger, autopack.settings(), autopack.clock.now())
    if as_json:
        print_json({"adds_up": found.adds_up, **{name: getattr(found, name) for name in found.__dataclass_fields__}})
    else:
        for difference in found.differences:
            click.echo(visible(str(difference), LINE_LIMIT))
        for note in found.notes:
            click.echo(visible(f"note: {note}", LINE_LIMIT))
        counted = f"{_many(found.events, 'event')}, {_many(found.reservations, 'reservation')}"
        counted += f", {_many(found.counters, 'counter')}"
        unsaid = found.difference_count - len(found.differences)
        more = f" ({unsaid:,} of them not shown)" if unsaid else ""
        wrong = f"{_many(found.difference_count, 'difference')}{more} in {counted}. Sums and counters can be mended"
        click.echo(f"All {counted} add up." if found.adds_up else f"{wrong} with: autopack-mcp usage rebuild")
    if not found.adds_up:
        sys.exit(1)


@click.command()
@as_json
def rebuild(as_json: bool) -> None:
    """Make every sum and counter that is wrong anew from the events and reservations; nothing else is touched.

    Runs may go on meanwhile. Counters of a rehearsal start anew from what is really used now.
    """
    with opened() as autopack:
        made = tuple(rebuild_ledger(autopack.database, autopack.clock.now()))
    if as_json:
        print_json({"rebuilt": made})
        return
    for one in made:
        click.echo(visible(_rebuilt_in_words(one), LINE_LIMIT))
    if not made:
        click.echo("Nothing to rebuild: every sum and counter is what its events say.")


@click.command()
@click.option("--older-than", required=True, metavar="DAYS", help="Keep this many whole days, like 400d; at least 62d.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@as_json
def prune(older_than: str, dry_run: bool, as_json: bool) -> None:
    """Delete calls by age, with all that tells of them; what they came to by hour, day and run is kept.

    Prompts and replies go earlier, as models.yaml says (keep_prompts_days).
    """
    days = kept_days(older_than)
    with opened() as autopack:
        now = autopack.clock.now()
        before = prune_cutoff(now, days)
        until = max(before, words_cutoff(now, autopack.settings().runs.keep_prompts_days))
        if dry_run:
            gone = autopack.database.read_now(prunable, before)
            told = autopack.database.read_now(forgettable, until, before)
        else:
            gone = prune_events(autopack.database, before, now)
            told = forget(autopack.database, until, before)
        is_sqlite = autopack.database.is_sqlite
    if as_json:
        facts = {name: getattr(gone, name) for name in gone.__dataclass_fields__}
        print_json({"is_dry_run": dry_run, **facts, "prompts": told.words, "spans": told.spans})
        return
    click.echo(_pruned_in_words(gone, is_dry_run=dry_run))
    if told != Forgotten():
        would = "Would delete" if dry_run else "Deleted"
        click.echo(f"{would} the words of {_many(told.words, 'call')} and {_many(told.spans, 'span')}.")
    if gone.events and is_sqlite and not dry_run:
        click.echo(
            "The file keeps its size and fills the space first. VACUUM, while nothing uses it, makes it smaller."
        )


@click.command()
@click.option("--from", "from_", metavar="DATE", help="The first day, or a time with its zone. Default: all there is.")
@click.option("--to", metavar="DATE", help="The last day, which is included, or a time. Default: today.")
@as_json
def reprice(from_: str | None, to: str | None, as_json: bool) -> None:
    """Hold what calls cost, as recorded, against today's price list and models.yaml; no row is changed.

    Each call is priced at its own date: this finds prices that were wrong or missing, not those that changed since.
    """
    with opened() as autopack:
        span = asked_span(autopack.clock.now(), from_=from_, to=to) if from_ or to else None
        since, before = (None, None) if span is None else (span.start, span.end)
        found = autopack.database.read_now(reprice_events, autopack.price_book(), since, before)
    print_json(found) if as_json else _print_repricing(found)


def _rebuilt_in_words(made: Rebuilt) -> str:
    shown, rest = made.buckets[:NAMED_LIMIT], len(made.buckets) - NAMED_LIMIT
    more = f" and {rest:,} more" if rest > 0 else ""
    return f"{made.table}: made {len(made.buckets):,} anew ({', '.join(shown)}{more})."


def _pruned_in_words(gone: Pruned, *, is_dry_run: bool) -> str:
    if not gone.events and not gone.promises:
        return f"Nothing is older than {gone.before:%Y-%m-%d}; nothing was deleted."
    when = "" if gone.first is None else f" (reserved {gone.first:%Y-%m-%d} to {gone.last:%Y-%m-%d})"
    what = f"{_many(gone.events, 'call')}{when}, {_many(gone.lines, 'line')}, {_many(gone.promises, 'reservation')}"
    kept = "their sums by hour, day and run are kept."
    return f"Would delete {what}; {kept}" if is_dry_run else f"Deleted {what}; {kept}"


def _print_repricing(found: Repricing) -> None:
    header = ("provider", "model", "calls", "recorded", "today", "difference", "priced by")
    rows = (*found.models, replace(found.total, provider="all", model="all"))
    if found.total.calls:
        print_table(header, [_repriced_row(row) for row in rows])
    else:
        click.echo("There were no calls in that time, so there is nothing to price again.")
    if found.events_from is not None and (found.starts_at is None or found.starts_at < found.events_from):
        last = found.events_from - timedelta(days=1)
        click.echo(f"Calls up to {last:%Y-%m-%d} were deleted by age and cannot be priced again.")


def _repriced_row(row: ModelRepricing) -> tuple[str, ...]:
    return (
        visible(row.provider, LINE_LIMIT),
        visible(row.model, LINE_LIMIT),
        f"{row.calls:,}",
        usd_text(row.recorded_usd, row.recorded_unpriced_calls),
        usd_text(row.repriced_usd, row.unpriced_calls),
        _signed(row.difference_usd),
        "; ".join(row.versions) or "–",
    )


def _signed(amount: Decimal | None) -> str:
    if amount is None:
        return "–"
    return "none" if amount == 0 else f"{'+' if amount > 0 else '-'}{usd_text(abs(amount))}"


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
