"""One run as people see it: where it stands, what needs a person, what it has cost, and what was said to it.

It owns RunSummary and the list of runs, and what each of their numbers means. It changes nothing and words no tool's
answer; ``Summaries`` reads it for the tools, the page, the card and the command line, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from sqlalchemy import Connection

from autopack_mcp.runs.states import PhaseState, RunState

Verification = Literal["verified", "unverified"]


@dataclass(frozen=True, slots=True)
class NeedsYou:
    """What waits for a person: ``what`` in a sentence or two, ``say`` the phrase to say in chat ("resume run r-…")."""

    what: str
    say: str


@dataclass(frozen=True, slots=True)
class RequestView:
    """Something a person asked of the run that nobody has answered yet."""

    request_id: str
    action: str
    author: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NoteView:
    """A person's words to the run. ``delivered`` is a sentence: "first in phase p2, 3 prompts so far"."""

    note_id: int
    text: str
    source: str
    author: str
    created_at: datetime
    in_force: bool
    delivered: str


@dataclass(frozen=True, slots=True)
class PhaseView:
    """One phase. ``attempt`` is 0 before the first try; models are those of the newest attempt that has asked one.

    ``tokens_used`` is what counts against caps (see RunSummary); ``cost_usd`` is None when nothing of it has a price.
    """

    phase_id: str
    name: str
    tier_index: int
    tier_name: str
    state: PhaseState
    why: str
    attempt: int
    task_category: str
    complexity: str
    is_verified: Verification | None
    commit: str | None
    minor_issues: int
    major_issues: int
    builder_model: str | None
    auditor_model: str | None
    tokens_used: int
    cost_usd: Decimal | None
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class EventView:
    """Something that happened to the run; ``kind`` is "run", "phase" or what the writer called it."""

    occurred_at: datetime
    kind: str
    phase_id: str | None
    attempt: int | None
    from_state: str | None
    to_state: str | None
    why: str


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A whole run at one moment (contract 19, 25, 26). Indexes start at 1, percent is 0 to 100, times are aware UTC.

    ``tokens_used`` are the tokens charged to the run, input plus output over all its settled calls: exactly what weighs
    against ``token_cap``. A call whose truth is unknown (cut, lost) is charged its whole reservation, so this may
    exceed what providers report. ``tokens_reserved`` is promised to calls in flight and counts against the cap, too.
    ``cost_usd`` is the known cost: None when no call has a price, and without the ``unpriced_calls`` otherwise;
    ``charged_usd`` is what weighs against ``cost_cap_usd``. A rehearsal's numbers are rehearsed: nothing was bought.

    ``supervisor`` says who advances the run; ``sandbox`` how its commands are confined, None before the first one.
    ``notes`` are oldest first, ``recent_events`` newest first. ``aliases`` are the predecessor's words for ``state``.
    Texts are made visible and cut to a limit; what is longer ends in "…".
    """

    run_id: str
    state: RunState
    current_tier_name: str | None
    current_phase_name: str | None
    current_tier_index: int | None
    current_phase_index: int | None
    total_tiers: int
    total_phases: int
    completed_tiers: int
    completed_phases: int
    percent_complete: float
    tokens_used: int
    token_cap: int | None
    minor_issues_count: int
    major_issues_count: int
    why: str
    plan_name: str
    plan_source: str
    is_rehearsal: bool
    repository: str
    branch: str
    workspace: str
    sandbox: str | None
    supervisor: str
    needs_you: NeedsYou | None
    current_phase_id: str | None
    current_phase_state: PhaseState | None
    current_attempt: int | None
    cost_usd: Decimal | None
    charged_usd: Decimal
    unpriced_calls: int
    cost_cap_usd: Decimal | None
    tokens_reserved: int
    last_summary: str | None
    pending_requests: tuple[RequestView, ...]
    notes: tuple[NoteView, ...]
    phases: tuple[PhaseView, ...]
    recent_events: tuple[EventView, ...]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run in a list; its numbers mean what they mean in RunSummary."""

    run_id: str
    plan_name: str
    state: RunState
    percent_complete: float
    is_rehearsal: bool
    needs_you: bool
    created_at: datetime
    tokens_used: int
    cost_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class RunList:
    """Some runs, newest first. ``next_cursor`` asks for the rest and is None at the end; ``hint`` says so in words."""

    runs: tuple[RunLine, ...]
    total: int
    next_cursor: str | None
    hint: str


# The predecessor's words (contract 26), for whoever reads what a person typed.
STATE_ALIASES: Mapping[str, RunState] = {
    "in_progress": "running",
    "TIER_IN_PROGRESS": "running",
    "DONE_SUCCESS": "succeeded",
}
ACTION_ALIASES: Mapping[str, Literal["cancel"]] = {"stop": "cancel"}


def run_summary(connection: Connection, run_id: str, now: datetime) -> RunSummary:
    """One run as it stands.

    Raises:
        RunNotFound: with the newest ids that do exist.
    """
    raise NotImplementedError


def list_runs(connection: Connection, now: datetime, limit: int = 20, cursor: str | None = None) -> RunList:
    """Up to ``limit`` runs (1 to 100), newest first, from where ``cursor`` says.

    Raises:
        RequestRefused: the limit is out of range, or the cursor is not one of ours.
    """
    raise NotImplementedError


def current_run_id(connection: Connection) -> str | None:
    """The run that is meant when none is named: the only unfinished one, or the newest when all have ended.

    None when there is no run at all, or when several are unfinished: then only a person can say.
    """
    raise NotImplementedError


def current_run(connection: Connection, now: datetime) -> RunSummary | RunList:
    """The run that is meant when none is named, or the list of unfinished runs when there are several.

    Without any run it is an empty list whose hint says how to start one.
    """
    raise NotImplementedError
