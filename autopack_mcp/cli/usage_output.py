"""How usage looks on a terminal: what was spent on what, the caps with their pace, and one run taken apart.

It formats what ``summary`` says; tables and JSON are ``output``'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import click

from autopack_mcp.cli.output import print_notice, print_orders, print_table
from autopack_mcp.summary.shown import tokens_text, usd_text

if TYPE_CHECKING:
    from decimal import Decimal

    from autopack_mcp.summary.caps import CapView
    from autopack_mcp.summary.run_usage import RunUsage
    from autopack_mcp.summary.usage import ProviderUsage, UsageSummary

_SUMS = ("in", "out", "calls", "cost")


class _Sums(Protocol):
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def calls(self) -> int: ...
    @property
    def unpriced_calls(self) -> int: ...
    @property
    def cost_usd(self) -> Decimal | None: ...


def print_usage(usage: UsageSummary) -> None:
    """Everything about one span of time but its days, which are for charts: providers first, then what was used."""
    print_notice(usage.notice)
    kind = f"{usage.period} " if usage.period else ""
    click.echo(f"{kind}{usage.window_label}: {tokens_text(usage.total_tokens)} tokens,"
               f" {usd_text(usage.cost_usd, usage.unpriced_calls)}; core {tokens_text(usage.core_tokens)},"
               f" auxiliary {tokens_text(usage.auxiliary_tokens)}")  # fmt: skip
    if usage.rehearsed_calls:
        click.echo(f"{usage.note} Calls rehearsed: {usage.rehearsed_calls:,}.")
    print_table(
        ("provider", "tokens", "cap", "used", "level", "resets", "cost"),
        [_provider_row(provider) for provider in usage.providers],
    )
    _print_sums(("model", "provider"), [((row.model, row.provider), row) for row in usage.models])
    _print_sums(("role",), [((row.role,), row) for row in usage.roles])
    _print_sums(("category",), [((row.category or "none",), row) for row in usage.categories])
    runs = usage.runs or ()
    _print_sums(("run", "plan"), [((row.run_id, row.plan_name or "–"), row) for row in runs])
    if usage.runs_note:
        click.echo(usage.runs_note)
    if usage.caps:
        # A column that says nothing of any cap would only push the others apart.
        columns = 4 if any(cap.pace is not None and cap.pace.says for cap in usage.caps) else 3
        print_table(("cap", "used", "level", "pace")[:columns], [_cap_row(cap)[:columns] for cap in usage.caps])
    if usage.pace_note:
        click.echo(usage.pace_note)
    if usage.burn is not None:
        click.echo(f"{tokens_text(usage.burn.tokens_per_hour)} tokens and {usd_text(usage.burn.usd_per_hour)} an hour,"
                   f" since {usage.burn.measured_from:%Y-%m-%d %H:%M} UTC")  # fmt: skip
    if usage.breaches:
        click.echo(f"A cap was found exceeded {usage.breaches} time{'' if usage.breaches == 1 else 's'}.")
    print_orders(usage.orders, usage.alerts)


def print_run_usage(run: RunUsage) -> None:
    """One run by tier and phase, then by role and model."""
    plan = f"  {run.plan_name}" if run.plan_name is not None else ""
    click.echo(f"{run.run_id}{plan}: {tokens_text(run.total_tokens)} tokens,"
               f" {usd_text(run.cost_usd, run.unpriced_calls)}")  # fmt: skip
    if run.note:
        click.echo(run.note)
    tiers = [((_index(tier.tier_index), tier.tier_name or "outside any tier"), tier) for tier in run.tiers]
    _print_sums(("tier", "name"), tiers)
    phases = [((phase.phase_id or "none", _index(phase.tier_index), phase.name), phase) for phase in run.phases]
    _print_sums(("phase", "tier", "name"), phases)
    _print_sums(("role",), [((row.role,), row) for row in run.roles])
    _print_sums(("model", "provider"), [((row.model, row.provider), row) for row in run.models])


def _print_sums(keys: tuple[str, ...], rows: Sequence[tuple[tuple[str, ...], _Sums]]) -> None:
    if rows:
        print_table((*keys, *_SUMS), [(*names, *_sum_cells(row)) for names, row in rows])


def _sum_cells(row: _Sums) -> tuple[str, ...]:
    cost = usd_text(row.cost_usd, row.unpriced_calls) if row.calls else "–"
    return tokens_text(row.prompt_tokens), tokens_text(row.completion_tokens), str(row.calls), cost


def _index(index: int | None) -> str:
    return "–" if index is None else str(index)


def _provider_row(provider: ProviderUsage) -> tuple[str, ...]:
    used = "" if provider.percent_of_cap is None else f"{provider.percent_of_cap:g} %"
    return (
        provider.provider,
        tokens_text(provider.total_tokens),
        "no cap" if provider.cap_tokens is None else tokens_text(provider.cap_tokens),
        used,
        provider.level or "",
        "" if provider.resets_at is None else f"{provider.resets_at:%Y-%m-%d %H:%M} UTC",
        usd_text(provider.cost_usd, provider.unpriced_calls) if provider.calls else "–",
    )


def _cap_row(cap: CapView) -> tuple[str, ...]:
    used = []
    if cap.cap_tokens is not None:
        used.append(f"{cap.percent_of_cap:g} % of {tokens_text(cap.cap_tokens)} tokens")
    if cap.cap_usd is not None:
        used.append(f"{cap.percent_of_cap_usd:g} % of {usd_text(cap.cap_usd)}")
    return f"{cap.label}, {cap.window_label}", "; ".join(used), cap.level, "" if cap.pace is None else cap.pace.says
