"""How answers about models look on a terminal: which model answers what, and why one question is answered so.

It formats what ``summary`` says and knows no database; tables are ``output``'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from autopack_mcp.cli.output import print_table
from autopack_mcp.summary.shown import tokens_text, usd_text

if TYPE_CHECKING:
    from autopack_mcp.routing.precedence import TriedRule
    from autopack_mcp.summary.caps import CapView
    from autopack_mcp.summary.explanation import ModelExplanation, WhatIf
    from autopack_mcp.summary.models import ModelMapping, ModelRow
    from autopack_mcp.summary.run_usage import RunUsage


def print_models(mapping: ModelMapping) -> None:
    """Which model answers what, and the reason."""
    print_table(
        ("role", "category", "complexity", "model", "why"),
        [
            (row.role, ", ".join((row.category, *row.also)), row.complexity, row.model or "none", _why(row))
            for row in mapping.rows
        ],
    )
    for override in mapping.overrides:
        click.echo(
            f"override {override.scope}: {override.role} {override.pattern} → {override.model} by {override.author}"
        )
    for warning in mapping.warnings:
        click.echo(warning, err=True)


def print_used_models(used: RunUsage) -> None:
    """What a run asked that has no phase left to ask for."""
    click.echo(f"Run {used.run_id} has no phase left that would ask a model.{'' if used.models else ' It asked none.'}")
    if used.models:
        click.echo("It used:")
        print_table(
            ("model", "provider", "calls", "tokens", "cost"),
            [
                (row.model, row.provider, f"{row.calls:,}", tokens_text(row.total_tokens),
                 usd_text(row.cost_usd, row.unpriced_calls))
                for row in used.models
            ],
        )  # fmt: skip
    if used.note:
        click.echo(used.note)


def print_explanation(found: ModelExplanation) -> None:
    """One question in full: the answer, the rules, the caps, the ifs, the chain, the other choices."""
    row = found.row
    where = "a run started now" if found.run_id is None else f"run {found.run_id}"
    phase = f" (next: phase {found.phase_id})" if found.phase_id else ""
    click.echo(f"{row.role}, {row.category}, {row.complexity}, in {where}{phase}: {row.model or 'no model'}")
    for reason in row.reasons:
        click.echo(f"  {reason}")
    if row.error is not None:
        click.echo(f"  {row.error}")
    if row.blocked_by is not None:
        click.echo(f"  A call would fail right now: {row.blocked_by}")
    _section("Rules, highest first", map(_rule, found.rules))
    _print_caps(found)
    _section("Standing orders", (f"{one.says} ({one.percent_reached:g} % of that)" for one in found.orders))
    _section("What if", map(_what_if, found.what_ifs))
    if any(one.happens == "denied" for one in found.what_ifs):
        click.echo(f"  Denied: {found.when_denied}")
    _section("Fallbacks at the soft limit", _chain(found))
    _section("May be chosen", (f"{one.model} ({one.provider}): {one.state}" for one in found.choices))


def _section(title: str, lines: Iterable[str]) -> None:
    for number, line in enumerate(lines):
        if number == 0:
            click.echo(f"{title}:")
        click.echo(f"  {line}")


def _rule(one: TriedRule) -> str:
    return f"{one.rule}{' decides' if one.outcome == 'decided' else ''}: {one.why}"


def _print_caps(found: ModelExplanation) -> None:
    if not found.caps:
        return
    least = "" if found.least_tokens is None else f"; it promises at least {tokens_text(found.least_tokens)} tokens"
    click.echo(f"Caps that such a call must fit{least}:")
    print_table(
        ("cap", "used", "reserved", "allowance", "percent", "soft limit", "resets"),
        [_cap_row(cap) for cap in found.caps],
    )


def _cap_row(cap: CapView) -> tuple[str, ...]:
    tokens = None if cap.cap_tokens is None else tokens_text(cap.cap_tokens)
    dollars = None if cap.cap_usd is None else usd_text(cap.cap_usd)
    used = (tokens and tokens_text(cap.used_tokens), dollars and usd_text(cap.used_usd))
    percents = (cap.percent_of_cap, cap.percent_of_cap_usd)
    return (
        cap.label,
        " and ".join(filter(None, used)),
        tokens_text(cap.reserved_tokens),
        " and ".join(filter(None, (tokens, dollars))),
        " and ".join(f"{percent:g} %" for percent in percents if percent is not None),
        "–" if cap.soft_limit_percent is None else f"{cap.soft_limit_percent:g} %",
        "–" if cap.resets_at is None else f"{cap.resets_at:%Y-%m-%d %H:%M} UTC",
    )


def _what_if(one: WhatIf) -> str:
    there = " (there already)" if one.is_reached else ""
    return f"{one.percent:g} % of {', '.join(one.caps)}{there}: {one.happens}: {one.why}"


def _chain(found: ModelExplanation) -> Iterable[str]:
    if found.chain_note is not None:
        return (f"never asked: {found.chain_note}",)
    takers = [one.model for one in found.chain if one.objection is None]
    return (
        f"{one.model}: {one.objection or ('takes over' if one.model == takers[0] else 'would be next')}"
        for one in found.chain
    )


def _why(row: ModelRow) -> str:
    """The reasons for a model, and what stands in the way of calling it now."""
    if row.error is not None:
        return row.error
    return "; ".join(row.reasons) + (f" (now blocked: {row.blocked_by})" if row.blocked_by else "")
