"""Summaries shaped for drawing: phases in the order people look for them, caps as bars, costs as words.

Pure and small: it sorts, counts and divides what ``summary`` says, and never judges (levels, percents and states are
the summary's). ``rendering`` is its caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from autopack_mcp.runs.states import PHASE_ACTIVE, PhaseState
from autopack_mcp.summary.caps import CapView, Level
from autopack_mcp.summary.run import PhaseView, RunSummary
from autopack_mcp.summary.shown import tokens_text, usd_text

GROUP_LIMIT = 25  # Phases of one kind on a run's page; all of them stand on /runs/<id>/phases.
QUEUED_LIMIT = 5  # Of what has not begun, the next few are enough.

_SEVERITY: Sequence[Level] = ("ok", "warn", "critical", "exceeded")
_GROUPS: Sequence[tuple[str, frozenset[PhaseState], int]] = (
    ("Failed", frozenset({"failed"}), GROUP_LIMIT),
    ("Running", PHASE_ACTIVE, GROUP_LIMIT),
    ("Queued", frozenset({"queued"}), QUEUED_LIMIT),
    ("Done", frozenset({"succeeded", "skipped", "cancelled"}), GROUP_LIMIT),
)


@dataclass(frozen=True, slots=True)
class NumberedPhase:
    """A phase and its place in the plan, from 1."""

    number: int
    phase: PhaseView


@dataclass(frozen=True, slots=True)
class PhaseGroup:
    """Phases of one kind, in plan order. ``total`` counts those left out, too."""

    title: str
    total: int
    phases: tuple[NumberedPhase, ...]
    is_folded: bool


@dataclass(frozen=True, slots=True)
class Bar:
    """How much of an amount is used, for drawing: shares in percent of the bar's width, together at most 100.

    ``words`` say the same in numbers, ``mark_share`` is where the soft limit stands on it.
    """

    unit: Literal["tokens", "dollars"]
    words: str
    percent: float
    settled_share: float
    reserved_share: float = 0.0
    mark_share: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CapPanel:
    """One cap with a bar for each unit it is set in."""

    cap: CapView
    bars: tuple[Bar, ...]


def numbered(phases: Iterable[PhaseView]) -> tuple[NumberedPhase, ...]:
    """Phases with their places in the plan."""
    return tuple(NumberedPhase(number, phase) for number, phase in enumerate(phases, start=1))


def phase_groups(phases: Iterable[PhaseView]) -> tuple[PhaseGroup, ...]:
    """Failed, running, queued, then done ones, folded beside others; groups without a phase are left out."""
    every = numbered(phases)
    groups: list[PhaseGroup] = []
    for title, states, limit in _GROUPS:
        members = tuple(item for item in every if item.phase.state in states)
        if members:
            # What is done matters least, unless there is nothing else.
            is_folded = title == "Done" and bool(groups)
            groups.append(PhaseGroup(title, len(members), members[:limit], is_folded))
    return tuple(groups)


def cap_panels(caps: Iterable[CapView]) -> tuple[CapPanel, ...]:
    """Caps with their bars, worst first."""
    worst_first = sorted(caps, key=lambda cap: (-_SEVERITY.index(cap.level), -_fullest(cap)))
    return tuple(CapPanel(cap, _bars(cap)) for cap in worst_first)


def run_token_bar(run: RunSummary) -> Bar | None:
    """How far a run's own token cap is used, calls in flight included; None without one."""
    if run.token_cap is None:
        return None
    used = run.tokens_used + run.tokens_reserved
    return _tokens_bar(used, run.tokens_reserved, run.token_cap, _percent(used, run.token_cap))


def run_cost_bar(run: RunSummary) -> Bar | None:
    """How far a run's own dollar cap is used; None without one."""
    cap = run.cost_cap_usd
    return None if cap is None else _dollars_bar(run.charged_usd, cap, _percent(run.charged_usd, cap))


def share_percent(part: int | Decimal, whole: int | Decimal) -> float:
    """``part`` in percent of ``whole``, 0 when there is no whole."""
    return float(100 * part / whole) if whole else 0.0


def _fullest(cap: CapView) -> float:
    return max(cap.percent_of_cap or 0.0, cap.percent_of_cap_usd or 0.0)


def _bars(cap: CapView) -> tuple[Bar, ...]:
    soft = cap.soft_limit_percent
    bars = []
    if cap.cap_tokens is not None and cap.percent_of_cap is not None:
        detail = _share_words(cap.cap_tokens, cap.configured_cap_tokens)
        bar = _tokens_bar(cap.used_tokens, cap.reserved_tokens, cap.cap_tokens, cap.percent_of_cap)
        bars.append(replace(bar, mark_share=_mark(soft, cap.used_tokens, cap.cap_tokens), detail=detail))
    if cap.cap_usd is not None and cap.percent_of_cap_usd is not None:
        bar = _dollars_bar(cap.used_usd, cap.cap_usd, cap.percent_of_cap_usd)
        bars.append(replace(bar, mark_share=_mark(soft, cap.used_usd, cap.cap_usd)))
    return tuple(bars)


def _tokens_bar(used: int, reserved: int, cap: int, percent: float) -> Bar:
    words = f"{tokens_text(used)} of {tokens_text(cap)} tokens"
    if reserved:
        words += f", {tokens_text(reserved)} of them reserved for calls in flight"
    # Beyond the cap the bar is full, and what is reserved still shows at its end.
    reserved_share = share_percent(reserved, max(used, cap))
    return Bar("tokens", words, percent, _full_or(used, cap) - reserved_share, reserved_share)


def _dollars_bar(used: Decimal, cap: Decimal, percent: float) -> Bar:
    return Bar("dollars", f"{usd_text(used)} of {usd_text(cap)}", percent, _full_or(used, cap))


def _full_or(used: int | Decimal, cap: int | Decimal) -> float:
    """How much of a bar is used; an allowance of nothing is used up from the start."""
    return share_percent(used, max(used, cap)) if cap else 100.0


def _mark(soft_limit_percent: float | None, used: int | Decimal, cap: int | Decimal) -> float | None:
    """Where the soft limit stands on a bar that is as wide as the larger of the two; None without one."""
    if soft_limit_percent is None:
        return None
    return soft_limit_percent if used <= cap else soft_limit_percent * float(cap / used)


def _percent(used: int | Decimal, cap: int | Decimal) -> float:
    """Cut, not rounded, to one decimal: 100.0 is shown only when all of it is used."""
    return int(1000 * used / cap) / 10


def _share_words(allowance: int, configured: int | None) -> str:
    if configured is None or configured == allowance:
        return ""
    return f"Our share of the {tokens_text(configured)} configured."
