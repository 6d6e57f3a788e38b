"""A run that begins again from a phase of another one: from which commit, and what it takes over.

It owns where a run can be forked and writes the fork down; what a person changes on the way is ``control.forks``'s.
A fork holds the plan from that phase on: what came before stands in its base commit, and is neither its work nor its
cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from autopack_mcp.errors import RequestRefused
from autopack_mcp.notes import Note, Source, add_note, notes_in_force
from autopack_mcp.plans.plan import PhaseSpec, Plan, plan_from_json
from autopack_mcp.routing.overrides import Override, add_override, overrides_in_force
from autopack_mcp.routing.snapshot import RunRules
from autopack_mcp.runs.own_caps import PhaseCaps, caps_of_phases
from autopack_mcp.runs.records import AttemptRecord, PhaseRecord, RunRecord
from autopack_mcp.runs.rules import run_rules
from autopack_mcp.runs.states import PhaseState
from autopack_mcp.runs.store import (
    NewRun,
    attempts_of_phase,
    insert_run,
    model_map_of_run,
    phases_of_run,
    plan_json_of_run,
    rules_of_run,
    run_by_id,
)

PHASES_NAMED = 20  # Of a run that does not have the phase that was meant.
# Behind these a run goes on, so that what comes next begins at its head.
_PASSED: frozenset[PhaseState] = frozenset({"succeeded", "skipped", "failed"})


@dataclass(frozen=True, slots=True)
class Origin:
    """What a fork takes over from a run as it stands: all of it may be edited before it is started.

    ``plan`` begins with the phase, from the commit before it, under the caps that the run has now. ``rules`` are the
    project's; ``rules_for_models`` are what chooses a model. A fork of a rehearsal is one.
    """

    run_id: str
    phase_id: str
    plan: Plan
    is_rehearsal: bool
    model_map: Mapping[str, Any]
    rules: str
    rules_for_models: RunRules
    overrides: tuple[Override, ...]
    notes: tuple[Note, ...]


def origin_of(connection: Connection, run_id: str, phase_id: str, at: datetime) -> Origin:
    """What a fork of a run from one of its phases begins with, whatever state the run is in.

    Raises:
        RunNotFound. RequestRefused: it has no such phase, or has not come to it yet, so no commit stands before it.
    """
    run, phases = run_by_id(connection, run_id), phases_of_run(connection, run_id)
    phase = next((phase for phase in phases if phase.phase_id == phase_id), None)
    if phase is None:
        named = ", ".join(phase.phase_id for phase in phases[:PHASES_NAMED])
        more = f" and {len(phases) - PHASES_NAMED} more" if len(phases) > PHASES_NAMED else ""
        raise RequestRefused(f"Run {run_id} has no phase {phase_id!r}.", hint=f"Its phases: {named}{more}.")
    commit = _commit_before(run, phases, phase, attempts_of_phase(connection, run_id, phase_id))
    plan = plan_from_json(plan_json_of_run(connection, run_id))
    rules = run_rules(connection, run_id, at)
    assert rules is not None, "the run was read in this transaction"
    return Origin(
        run_id=run_id,
        phase_id=phase_id,
        plan=_under_its_caps(connection, run, _plan_from(plan, phase_id, commit)),
        is_rehearsal=run.is_rehearsal,
        model_map=model_map_of_run(connection, run_id),
        rules=rules_of_run(connection, run_id),
        rules_for_models=rules,
        overrides=overrides_in_force(connection, run_id, at),
        notes=notes_in_force(connection, run_id),
    )


def insert_fork(connection: Connection, origin: Origin, new: NewRun, at: datetime) -> None:
    """Put a fork into the queue with everything that it takes over, so that its first call is made under it."""
    fork = replace(
        new,
        model_map=origin.model_map,
        rules=origin.rules,
        forked_from_run=origin.run_id,
        forked_from_phase=origin.phase_id,
    )
    insert_run(connection, fork, at)
    for override in origin.overrides:
        add_override(connection, replace(override, run_id=new.run_id, created_at=at), new.client)
    for note in origin.notes:
        # A file's line stands in the workspace of the run it was written for; here it is a note like any other.
        source: Source = "cli" if note.source == "file" else note.source
        add_note(connection, new.run_id, note.text, source, note.author, at)


def _commit_before(
    run: RunRecord, phases: Sequence[PhaseRecord], phase: PhaseRecord, tried: Sequence[AttemptRecord]
) -> str:
    """Where the phase began: its kept attempt, else its newest one; for a phase that comes next, the run's head."""
    kept = [attempt for attempt in tried if attempt.state == "kept"]
    if tried:
        return (kept or tried)[-1].parent_commit
    before = phases[: phase.phase_index - 1]
    first = next((earlier for earlier in before if earlier.state not in _PASSED), None)
    if first is not None:
        raise RequestRefused(
            f"Run {run.run_id} never came to phase {phase.phase_id}: {first.phase_id} comes before it"
            f" and is {first.state}.",
            hint=f"Fork it from {first.phase_id} or an earlier phase.",
        )
    return run.head_commit


def _plan_from(plan: Plan, phase_id: str, commit: str) -> Plan:
    """The plan without what comes before the phase; a tier that is begun in its middle keeps its name."""
    seen = False
    tiers = []
    for tier in plan.tiers:
        kept = []
        for phase in tier.phases:
            seen = seen or phase.phase_id == phase_id
            if seen:
                kept.append(phase)
        if kept:
            tiers.append(replace(tier, phases=tuple(kept)))
    return replace(plan, tiers=tuple(tiers), base=commit)


def _under_its_caps(connection: Connection, run: RunRecord, plan: Plan) -> Plan:
    """With the caps that people have given the run and its phases since; they count what the fork itself spends."""
    caps = caps_of_phases(connection, run.run_id)
    tiers = tuple(
        replace(tier, phases=tuple(_under(phase, caps.get(phase.phase_id)) for phase in tier.phases))
        for tier in plan.tiers
    )
    return replace(plan, tiers=tiers, token_cap=run.token_cap, cost_cap_nano=run.cost_cap_nano)


def _under(phase: PhaseSpec, caps: PhaseCaps | None) -> PhaseSpec:
    return phase if caps is None else replace(phase, token_cap=caps.tokens, cost_cap_nano=caps.nano_usd)
