"""What was spent in a window, on whom and on what, set against the caps that are configured now.

It owns UsageSummary and the meaning of percent and level (contract 14); it counts nothing itself: sums come from the
usage rollups, what is used of a cap from the counter that the ledger compares. Rehearsals are never in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from sqlalchemy import Connection

from autopack_mcp.config import Settings, Window

Level = Literal["ok", "warn", "critical", "exceeded"]


@dataclass(frozen=True, slots=True)
class CapView:
    """One configured cap of a provider and how far it is used now.

    ``cap_*`` is the allowance (cap times share), ``configured_cap_*`` the number in models.yaml. ``used_*`` is settled
    plus reserved, ``reserved_tokens`` the part that calls in flight still hold. Percents are of the allowance, 0 to 100
    and beyond, cut (not rounded) to one decimal, so that 90.0 is shown only when 90 percent are used. None: not capped
    in that unit. ``label`` names the window: "2026-W47".
    """

    provider: str
    period: Window
    label: str
    used_tokens: int
    reserved_tokens: int
    cap_tokens: int | None
    configured_cap_tokens: int | None
    percent_of_cap: float | None
    used_usd: Decimal
    cap_usd: Decimal | None
    configured_cap_usd: Decimal | None
    percent_of_cap_usd: float | None
    level: Level
    soft_limit_percent: float
    is_over_soft_limit: bool
    resets_at: datetime


@dataclass(frozen=True, slots=True)
class ProviderUsage:
    """One provider in the window. ``prompt_tokens`` is all input, cached included; ``total_tokens`` adds the output.

    ``charged_tokens`` is what weighs against caps: more than ``total_tokens`` where the truth of a call is unknown.
    ``percent_of_cap`` is of ``charged_tokens + reserved_tokens`` against ``cap_tokens`` (the allowance); see CapView.
    ``level`` is the worse of tokens and dollars, None without a cap in this period. ``cost_usd`` is the known cost:
    None when no call has a price.
    """

    provider: str
    period: Window
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    charged_tokens: int
    reserved_tokens: int
    cap_tokens: int | None
    configured_cap_tokens: int | None
    percent_of_cap: float | None
    resets_at: datetime
    level: Level | None
    soft_limit_percent: float | None
    cost_usd: Decimal | None
    cap_usd: Decimal | None
    configured_cap_usd: Decimal | None
    percent_of_cap_usd: float | None
    calls: int
    failed_calls: int
    unpriced_calls: int


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """One model in the window; most tokens first."""

    provider: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cost_usd: Decimal | None
    calls: int
    failed_calls: int
    unpriced_calls: int


@dataclass(frozen=True, slots=True)
class RoleUsage:
    """One role in the window. ``is_core`` is true of builder and auditor, false of auxiliary agents."""

    role: str
    is_core: bool
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cost_usd: Decimal | None
    calls: int
    failed_calls: int
    unpriced_calls: int


@dataclass(frozen=True, slots=True)
class UsageSummary:
    """What was spent in ``starts_at <= call < ends_at``; a call belongs to the window it was reserved in (contract 15).

    ``window_label`` is 2026-11-18, 2026-W47 or 2026-11. Every configured provider has a row, used or not. ``caps`` are
    all configured caps of every period as they stand now, fullest first, and empty for a past window. ``breaches``
    counts how often a cap was found exceeded in the window. ``note`` says what is not in these numbers.
    """

    period: Window
    offset: int
    window_label: str
    starts_at: datetime
    ends_at: datetime
    providers: tuple[ProviderUsage, ...]
    models: tuple[ModelUsage, ...]
    roles: tuple[RoleUsage, ...]
    caps: tuple[CapView, ...]
    core_tokens: int
    auxiliary_tokens: int
    total_tokens: int
    cost_usd: Decimal | None
    unpriced_calls: int
    breaches: int
    note: str


def usage_summary(
    connection: Connection, settings: Settings, now: datetime, period: str = "week", offset: int = 0
) -> UsageSummary:
    """The window of ``period`` (day, week, month) that holds ``now``, or ``-offset`` windows before it.

    A past window is measured against today's caps; nobody writes down what they were.

    Raises:
        RequestRefused: an unknown period, or a window of the future; the hint lists what exists.
    """
    raise NotImplementedError
