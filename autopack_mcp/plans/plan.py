"""A plan: what a person wants built, as tiers of phases.

It owns the words of a plan and the form in which the database keeps one. It starts nothing and reads nothing that a
person wrote (``plan_file`` does, and ``run_request`` for the predecessor's requests); runs and builders receive it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from autopack_mcp.errors import Problem

PLAN_FORMAT = 1  # Of the stored form; a reader of a later one can tell.
UNVERIFIED = "none"  # What a plan must write, in so many letters, to go without a verification command.
ATTEMPTS_LIMIT = 3  # Default attempts per phase (contract 20).
VERIFY_TIMEOUT_S = 600  # Default deadline of one verification command, in seconds.
OUTPUT_MB = 256  # What a command that has not stopped writing by then writes nobody will read.
PROCESSES = 1_000  # A parallel build with a hundred jobs has about four hundred; a fork bomb is there in a second.


@dataclass(frozen=True, slots=True)
class RehearsalScript:
    """What the scripted builder and auditor answer for a phase in rehearsal.

    ``files`` maps path to the whole new text; ``reject_first`` makes the auditor refuse the first attempt with that
    reason, so that a plan can show how a second attempt goes.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    reject_first: str | None = None


@dataclass(frozen=True, slots=True)
class PhaseSpec:
    """One planned change. ``verify`` replaces the plan's command; ``allowed_paths`` are globs, none means anywhere.

    Caps are for this phase alone, all its attempts together, beside the run's: tokens and integer nano-dollars.
    ``allow_fuzzy`` lets edits that do not fit exactly go where they most likely belong; None is as the plan has it.
    """

    phase_id: str
    name: str
    description: str
    task_category: str = "general"
    complexity: Literal["low", "medium", "high"] = "medium"
    acceptance_criteria: tuple[str, ...] = ()
    allowed_paths: tuple[str, ...] = ()
    context_paths: tuple[str, ...] = ()
    verify: str | None = None
    rehearsal: RehearsalScript | None = None
    token_cap: int | None = None
    cost_cap_nano: int | None = None
    allow_fuzzy: bool | None = None


@dataclass(frozen=True, slots=True)
class PlanLimits:
    """What each command of a plan may use, with all it starts; a megabyte is 1,000,000 bytes.

    ``cpu_s`` and ``memory_mb`` are None where the machine and the deadline say it (``workspace.verify``).
    """

    cpu_s: int | None = None
    memory_mb: int | None = None
    output_mb: int = OUTPUT_MB
    processes: int = PROCESSES


DEFAULT_LIMITS = PlanLimits()


@dataclass(frozen=True, slots=True)
class TierSpec:
    """Phases that belong together; tiers are done in order."""

    tier_id: str
    name: str
    phases: tuple[PhaseSpec, ...]
    description: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A validated plan. Caps are for the run: tokens, and integer nano-dollars; None means uncapped.

    ``repository`` is a URL, or an absolute path once a plan is loaded. ``verify`` is a shell command or ``UNVERIFIED``.
    """

    name: str
    repository: str
    verify: str
    tiers: tuple[TierSpec, ...]
    base: str = "HEAD"
    setup: str | None = None
    token_cap: int | None = None
    cost_cap_nano: int | None = None
    attempts_limit: int = ATTEMPTS_LIMIT
    on_failure: Literal["stop", "continue"] = "stop"
    verify_timeout_s: int = VERIFY_TIMEOUT_S
    verify_network: bool = False
    limits: PlanLimits = DEFAULT_LIMITS
    allow_fuzzy: bool = False
    source: str = ""
    warnings: tuple[Problem, ...] = ()

    @property
    def phases(self) -> tuple[PhaseSpec, ...]:
        """All phases in the order they will be built."""
        return tuple(phase for tier in self.tiers for phase in tier.phases)


def plan_to_json(plan: Plan) -> str:
    """A text from which ``plan_from_json`` makes an equal plan, for the database."""
    return json.dumps({"format": PLAN_FORMAT, **asdict(plan)}, separators=(",", ":"))


def plan_from_json(text: str) -> Plan:
    """The plan that ``plan_to_json`` wrote; what people write goes through ``plan_file`` instead."""
    fields: dict[str, Any] = json.loads(text)
    found = fields.pop("format")
    assert found == PLAN_FORMAT, f"a stored plan has the format {PLAN_FORMAT}, not {found}"
    fields["tiers"] = tuple(_tier(tier) for tier in fields["tiers"])
    fields["warnings"] = tuple(Problem(**problem) for problem in fields["warnings"])
    fields["limits"] = PlanLimits(**fields.get("limits", {}))
    return Plan(**fields)


def _tier(fields: dict[str, Any]) -> TierSpec:
    return TierSpec(**{**fields, "phases": tuple(_phase(phase) for phase in fields["phases"])})


def _phase(fields: dict[str, Any]) -> PhaseSpec:
    lists = {key: tuple(fields[key]) for key in ("acceptance_criteria", "allowed_paths", "context_paths")}
    script = fields["rehearsal"]
    return PhaseSpec(**{**fields, **lists, "rehearsal": None if script is None else RehearsalScript(**script)})
