"""What one run cost, taken apart: by tier, phase, role and model.

It owns RunUsage. A status says what a run cost in all (``run``); this says where it went. The numbers are sums of the
run's own calls at any time: the real ones of a real run, the rehearsed ones of a rehearsal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import Connection

from autopack_mcp.errors import RunNotFound
from autopack_mcp.runs.records import PhaseRecord, RunRecord
from autopack_mcp.runs.store import phases_of_run, run_by_id
from autopack_mcp.summary.usage import ModelUsage, RoleUsage, shown_name, shown_sums
from autopack_mcp.usage.service import usage_of_run
from autopack_mcp.usage.sums import UsageRow, grouped, summed

REHEARSED = "A rehearsal: no tokens were bought, the numbers are rehearsed."
_NOTHING = UsageRow()


@dataclass(frozen=True, slots=True)
class PhaseUsage:
    """One phase of a run; ``tier_index`` is None for calls of a phase that the run's plan does not have."""

    phase_id: str
    name: str
    tier_index: int | None
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cost_usd: Decimal | None
    calls: int
    failed_calls: int
    unpriced_calls: int
    charged_tokens: int


@dataclass(frozen=True, slots=True)
class TierUsage:
    """One tier of a run; ``tier_index`` is None for calls outside any of its phases."""

    tier_index: int | None
    tier_name: str
    phases: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cost_usd: Decimal | None
    calls: int
    failed_calls: int
    unpriced_calls: int
    charged_tokens: int


@dataclass(frozen=True, slots=True)
class RunUsage:
    """What a run cost, by tier and by phase in plan order (tried or not), by role and by model most tokens first.

    ``charged_tokens`` is what weighs against the run's cap: more than ``total_tokens`` where the truth of a call is
    unknown. ``plan_name`` is None for a run that another program named when it booked its calls. Costs are the known
    ones, None where no call has a price.
    """

    run_id: str
    plan_name: str | None
    is_rehearsal: bool
    tiers: tuple[TierUsage, ...]
    phases: tuple[PhaseUsage, ...]
    roles: tuple[RoleUsage, ...]
    models: tuple[ModelUsage, ...]
    charged_tokens: int
    total_tokens: int
    cost_usd: Decimal | None
    calls: int
    unpriced_calls: int
    note: str


def run_usage(connection: Connection, run_id: str) -> RunUsage:
    """What one run cost so far.

    Raises:
        RunNotFound: there is no such run, and no call was ever booked for it.
    """
    run, rows = _run_and_rows(connection, run_id)
    planned = () if run is None else phases_of_run(connection, run_id)
    by_phase = {row.phase_id or "": row for row in grouped(rows, "phase_id")}
    whole = summed(by_phase.values())
    is_rehearsal = run is not None and run.is_rehearsal
    return RunUsage(
        run_id=shown_name(run_id),
        plan_name=None if run is None else shown_name(run.plan_name),
        is_rehearsal=is_rehearsal,
        tiers=_tiers(planned, by_phase),
        phases=_phases(planned, by_phase),
        roles=tuple(RoleUsage(shown_name(row.role), row.is_core, **shown_sums(row)) for row in grouped(rows, "role")),
        models=tuple(
            ModelUsage(shown_name(row.provider), shown_name(row.model), **shown_sums(row))
            for row in grouped(rows, "provider", "model")
        ),
        charged_tokens=whole.charged_tokens,
        total_tokens=whole.total_tokens,
        cost_usd=whole.cost_usd,
        calls=whole.calls,
        unpriced_calls=whole.unpriced_calls,
        note=REHEARSED if is_rehearsal else "",
    )


def check_run(connection: Connection, run_id: str) -> None:
    """See that there is such a run, or a call that was booked for it.

    Raises:
        RunNotFound: neither; with the newest runs that do exist.
    """
    try:
        run_by_id(connection, run_id)
    except RunNotFound:
        if not any(usage_of_run(connection, run_id, is_rehearsal=is_rehearsal) for is_rehearsal in (False, True)):
            raise


def _run_and_rows(connection: Connection, run_id: str) -> tuple[RunRecord | None, Sequence[UsageRow]]:
    """The run, and its sums; None for one that only its calls know."""
    try:
        run = run_by_id(connection, run_id)
    except RunNotFound:
        rows = usage_of_run(connection, run_id)
        if not rows:
            raise
        return None, rows
    return run, usage_of_run(connection, run_id, is_rehearsal=run.is_rehearsal)


def _tiers(planned: Sequence[PhaseRecord], by_phase: Mapping[str, UsageRow]) -> tuple[TierUsage, ...]:
    tiers: dict[int, list[PhaseRecord]] = {}
    for phase in planned:
        tiers.setdefault(phase.tier_index, []).append(phase)
    found = [
        _tier(index, phases[0].tier_name, len(phases), (by_phase.get(phase.phase_id, _NOTHING) for phase in phases))
        for index, phases in tiers.items()
    ]
    outside = _outside(planned, by_phase)
    if outside:
        found.append(_tier(None, "", 0, outside.values()))
    return tuple(found)


def _tier(index: int | None, name: str, phases: int, rows: Iterable[UsageRow]) -> TierUsage:
    whole = summed(rows)
    return TierUsage(index, shown_name(name), phases, **shown_sums(whole), charged_tokens=whole.charged_tokens)


def _phases(planned: Sequence[PhaseRecord], by_phase: Mapping[str, UsageRow]) -> tuple[PhaseUsage, ...]:
    found = [
        _phase(phase.phase_id, phase.name, phase.tier_index, by_phase.get(phase.phase_id, _NOTHING))
        for phase in planned
    ]
    found += [_phase(phase_id, "", None, row) for phase_id, row in _outside(planned, by_phase).items()]
    return tuple(found)


def _phase(phase_id: str, name: str, tier_index: int | None, row: UsageRow) -> PhaseUsage:
    sums = shown_sums(row)
    return PhaseUsage(shown_name(phase_id), shown_name(name), tier_index, **sums, charged_tokens=row.charged_tokens)


def _outside(planned: Sequence[PhaseRecord], by_phase: Mapping[str, UsageRow]) -> Mapping[str, UsageRow]:
    """What was booked for phases that the plan does not have, and for none at all ("")."""
    known = {phase.phase_id for phase in planned}
    return {phase_id: row for phase_id, row in by_phase.items() if phase_id not in known}
