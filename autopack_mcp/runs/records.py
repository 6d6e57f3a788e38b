"""What the store reads: a run, its phases, their attempts and what happened to them, as frozen rows.

Plain data without behaviour; every part above the store speaks in these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from autopack_mcp.replies.edited import AppliedHow
from autopack_mcp.runs.states import PhaseState, RunState

AttemptState = Literal["open", "kept", "rejected", "failed", "interrupted"]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run. Caps are tokens and integer nano-dollars; ``lease_token`` is the fencing token of its present owner.

    ``base_commit`` is where it started in the repository, ``head_commit`` the last phase that was kept. ``plan_edits``
    counts how often a person has changed the plan that it pinned. ``stopped_by``
    is what has stopped it, as ``stops`` writes and reads it.
    """

    run_id: str
    plan_name: str
    plan_source: str
    repository: str
    is_rehearsal: bool
    author: str
    client: str
    state: RunState
    why: str
    token_cap: int | None
    cost_cap_nano: int | None
    base_commit: str
    head_commit: str
    workspace: str
    sandbox: str | None
    is_set_up: bool
    last_summary: str | None
    lease_token: int
    lease_owner: str | None
    lease_expires_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    stopped_by: Mapping[str, Any] | None = None
    plan_edits: int = 0
    machine: str | None = None
    trace_id: str | None = None
    forked_from_run: str | None = None
    forked_from_phase: str | None = None

    @property
    def branch(self) -> str:
        """The branch of the repository that receives every kept phase."""
        return f"autopack/{self.run_id}"


@dataclass(frozen=True, slots=True)
class PhaseRecord:
    """One phase of a run. Indexes start at 1; ``is_verified`` is None until a command has said green."""

    run_id: str
    phase_index: int
    phase_id: str
    name: str
    tier_index: int
    tier_name: str
    task_category: str
    complexity: str
    state: PhaseState
    why: str
    attempt: int
    commit_sha: str | None
    is_verified: bool | None
    summary: str | None
    minor_issues: int
    major_issues: int
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One try at a phase, with everything needed to go on from its last finished step."""

    run_id: str
    phase_id: str
    attempt: int
    state: AttemptState
    reason: str
    parent_commit: str
    builder_model: str | None
    builder_reasons: Sequence[str] | None
    reply: str | None
    summary: str | None
    diff: str | None
    tree: str | None
    verify_outcome: str | None
    verify_exit_code: int | None
    verify_output: str | None
    auditor_model: str | None
    auditor_reasons: Sequence[str] | None
    verdict: Mapping[str, Any] | None
    started_at: datetime
    finished_at: datetime | None
    session_id: str | None = None
    applied_how: AppliedHow | None = None


@dataclass(frozen=True, slots=True)
class RunEventRecord:
    """One thing that happened to a run, in words and with the states it moved between."""

    event_id: int
    run_id: str
    phase_id: str | None
    attempt: int | None
    occurred_at: datetime
    kind: str
    from_state: str | None
    to_state: str | None
    why: str
