"""Summaries with sensible values, of which a test overrides the ones it is about."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from autopack_mcp.summary.run import NoteView, PhaseView, RunSummary
from tests.factories import NOON

# Of a status: the names that our first users know, in their order; they may gain siblings, never go.
PROMISED = [
    "run_id", "state", "current_tier_name", "current_phase_name", "current_tier_index", "current_phase_index",
    "total_tiers", "total_phases", "completed_tiers", "completed_phases", "percent_complete", "tokens_used",
    "token_cap", "minor_issues_count", "major_issues_count",
]  # fmt: skip


def phase_view(index: int = 1, **overrides: Any) -> PhaseView:
    """A queued phase of the only tier."""
    values: dict[str, Any] = {
        "phase_id": f"P{index}",
        "name": f"phase {index}",
        "tier_index": 1,
        "tier_name": "tier 1",
        "state": "queued",
        "why": "",
        "attempt": 0,
        "task_category": "general",
        "complexity": "medium",
        "is_verified": None,
        "commit": None,
        "minor_issues": 0,
        "major_issues": 0,
        "builder_model": None,
        "auditor_model": None,
        "tokens_used": 0,
        "cost_usd": None,
        "started_at": None,
        "finished_at": None,
    }
    return PhaseView(**{**values, **overrides})


def note_view(number: int = 1, **overrides: Any) -> NoteView:
    """A note in force that has not been delivered."""
    values: dict[str, Any] = {
        "note_id": number,
        "text": f"note {number}",
        "source": "tool",
        "author": "ann",
        "created_at": NOON,
        "in_force": True,
        "delivered": "not delivered yet",
    }
    return NoteView(**{**values, **overrides})


def run_view(**overrides: Any) -> RunSummary:
    """A running run of two phases, the first of them done."""
    phases = (phase_view(1, state="succeeded"), phase_view(2, state="building", attempt=1))
    values: dict[str, Any] = {
        "run_id": "r-1118-abc123",
        "state": "running",
        "current_tier_name": "tier 1",
        "current_phase_name": "phase 2",
        "current_tier_index": 1,
        "current_phase_index": 2,
        "total_tiers": 1,
        "total_phases": 2,
        "completed_tiers": 0,
        "completed_phases": 1,
        "percent_complete": 50.0,
        "tokens_used": 12_345,
        "token_cap": 50_000,
        "minor_issues_count": 1,
        "major_issues_count": 0,
        "why": "",
        "plan_name": "a plan",
        "plan_source": "plan.yaml",
        "is_rehearsal": False,
        "repository": "/repository",
        "branch": "autopack/r-1118-abc123",
        "workspace": "/workspace",
        "sandbox": None,
        "supervisor": "the supervisor on desk",
        "needs_you": None,
        "current_phase_id": "P2",
        "current_phase_state": "building",
        "current_attempt": 1,
        "cost_usd": Decimal("0.42"),
        "charged_usd": Decimal("0.42"),
        "unpriced_calls": 0,
        "cost_cap_usd": None,
        "tokens_reserved": 0,
        "last_summary": None,
        "pending_requests": (),
        "notes": (),
        "phases": phases,
        "recent_events": (),
        "created_at": NOON,
        "started_at": NOON,
        "finished_at": None,
        "updated_at": NOON,
        "aliases": ("in_progress", "TIER_IN_PROGRESS"),
    }
    return RunSummary(**{**values, **overrides})
