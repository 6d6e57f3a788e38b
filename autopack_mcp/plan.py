"""A plan: what a person wants built, as tiers of phases.

It turns a native YAML plan or a predecessor's JSON run request into a frozen Plan and reports every problem at once with
file and line. It is pure: it starts nothing and looks at no repository beyond asking whether the folder is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from autopack_mcp.errors import Problem

UNVERIFIED = "none"  # What a plan must write, in so many letters, to go without a verification command.
ATTEMPTS_LIMIT = 3  # Default attempts per phase (contract 20).
VERIFY_TIMEOUT_S = 600  # Default deadline of one verification command, in seconds.


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
    """One planned change. ``verify`` overrides the plan's command; ``allowed_paths`` are globs, empty means anywhere."""

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

    ``repository`` is an absolute path once a plan is loaded. ``verify`` is a shell command or ``UNVERIFIED``.
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
    source: str = ""
    warnings: tuple[Problem, ...] = ()

    @property
    def phases(self) -> tuple[PhaseSpec, ...]:
        """All phases in the order they will be built."""
        return tuple(phase for tier in self.tiers for phase in tier.phases)
