"""Summaries with believable values, of which a test overrides the ones it is about."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from autopack_mcp.routing.model_router import Choice
from autopack_mcp.summary.alerts import AlertView
from autopack_mcp.summary.caps import CapView
from autopack_mcp.summary.models import ModelMapping, ModelRow, OverrideView, StandingView
from autopack_mcp.summary.needs import NeedsYou
from autopack_mcp.summary.orders import FiringView, OrderView
from autopack_mcp.summary.pace import BurnRate, Pace
from autopack_mcp.summary.run import (
    EventView,
    NoteView,
    PhaseView,
    RequestView,
    RunLine,
    RunList,
    RunSummary,
)
from autopack_mcp.summary.run_usage import PhaseUsage, RunUsage, TierUsage
from autopack_mcp.summary.scorecard import AuditorScore, BuilderScore, ModelScorecard, wilson
from autopack_mcp.summary.usage import (
    CategoryUsage,
    DayUsage,
    ModelUsage,
    ProviderUsage,
    RoleUsage,
    RunShare,
    UsageSummary,
)
from tests.factories import NOON

WEEK_START = datetime(2026, 11, 16, tzinfo=NOON.tzinfo)
WEEK_END = WEEK_START + timedelta(days=7)


def ago(minutes: float) -> datetime:
    """So many minutes before the moment at which the ``clock`` fixture stands."""
    return NOON - timedelta(minutes=minutes)


def phase_view(phase_id: str = "p1", **overrides: Any) -> PhaseView:
    """A phase that is done, in the first tier."""
    values: dict[str, Any] = {
        "phase_id": phase_id,
        "name": f"Phase {phase_id}",
        "tier_index": 1,
        "tier_name": "Core",
        "state": "succeeded",
        "why": "verified and approved",
        "attempt": 1,
        "task_category": "core_backend",
        "complexity": "medium",
        "is_verified": "verified",
        "commit": "4be1d0c2aa33f0192837465564738291aabbccdd",
        "minor_issues": 0,
        "major_issues": 0,
        "builder_model": "gpt-4o",
        "auditor_model": "claude-sonnet-4-5",
        "tokens_used": 12_345,
        "cost_usd": Decimal("0.0812"),
        "started_at": ago(30),
        "finished_at": ago(26),
    }
    return PhaseView(**{**values, **overrides})


def queued_phase(phase_id: str, **overrides: Any) -> PhaseView:
    """A phase nobody has tried yet."""
    names = ("is_verified", "commit", "builder_model", "auditor_model", "started_at", "finished_at")
    untouched: dict[str, Any] = dict.fromkeys(names)
    nothing = {"state": "queued", "why": "", "attempt": 0, "tokens_used": 0, "cost_usd": Decimal(0)}
    return phase_view(phase_id, **{**untouched, **nothing, **overrides})


def note_view(note_id: int = 1, **overrides: Any) -> NoteView:
    """A note in force that one phase has got."""
    values: dict[str, Any] = {
        "note_id": note_id,
        "text": "Skip the UI tests, no test data.",
        "source": "tool",
        "author": "someone",
        "created_at": ago(20),
        "in_force": True,
        "delivered": "first in phase p2, 3 prompts so far",
    }
    return NoteView(**{**values, **overrides})


def event_view(**overrides: Any) -> EventView:
    """A phase that went on to its verification."""
    values: dict[str, Any] = {
        "occurred_at": ago(1),
        "kind": "phase",
        "phase_id": "p3",
        "attempt": 2,
        "from_state": "applying",
        "to_state": "verifying",
        "why": "3 files changed",
    }
    return EventView(**{**values, **overrides})


def run_summary(run_id: str = "r-7f3a", **overrides: Any) -> RunSummary:
    """A run in the middle of its second tier, all well."""
    values: dict[str, Any] = {
        "run_id": run_id,
        "state": "running",
        "current_tier_name": "Interface",
        "current_phase_name": "Show overdue loans",
        "current_tier_index": 2,
        "current_phase_index": 3,
        "total_tiers": 2,
        "total_phases": 4,
        "completed_tiers": 1,
        "completed_phases": 2,
        "percent_complete": 50.0,
        "tokens_used": 31_204,
        "token_cap": 120_000,
        "minor_issues_count": 2,
        "major_issues_count": 0,
        "why": "phase p3 is being verified",
        "plan_name": "Lending library",
        "plan_source": "library.yaml",
        "is_rehearsal": False,
        "repository": "/home/someone/library",
        "branch": f"autopack/{run_id}",
        "workspace": f"/home/someone/.local/share/autopack-mcp/workspaces/{run_id}",
        "sandbox": "bubblewrap: no network",
        "supervisor": "this machine's supervisor, heard 1 s ago",
        "needs_you": None,
        "current_phase_id": "p3",
        "current_phase_state": "verifying",
        "current_attempt": 2,
        "cost_usd": Decimal("0.2144"),
        "charged_usd": Decimal("0.2144"),
        "unpriced_calls": 0,
        "cost_cap_usd": Decimal(2),
        "tokens_reserved": 4_100,
        "last_summary": "Loans know their due date; a loan that is late says by how many days.",
        "pending_requests": (),
        "notes": (note_view(),),
        "phases": (
            phase_view("p1"),
            phase_view("p2"),
            phase_view("p3", state="verifying", tier_index=2, tier_name="Interface", finished_at=None, commit=None,
                       is_verified=None, auditor_model=None, attempt=2, why="attempt 1 was rejected: no test"),
            queued_phase("p4", tier_index=2, tier_name="Interface"),
        ),
        "recent_events": (event_view(),),
        "created_at": ago(42),
        "started_at": ago(41),
        "finished_at": None,
        "updated_at": ago(0.2),
        "aliases": ("in_progress", "TIER_IN_PROGRESS"),
        "orders": (order_view(),),
        "alerts": (alert_view(),),
    }  # fmt: skip
    return RunSummary(**{**values, **overrides})


def order_view(**overrides: Any) -> OrderView:
    """A rule that has paused a run twenty minutes ago."""
    firing = FiringView("r-7f3a", ago(20), "the run was paused", "That is $5.00: $4.90 are used.")
    values: dict[str, Any] = {
        "order_id": 3,
        "order": "pause any run when it reaches $5.00",
        "action": "pause",
        "provider": None,
        "period": None,
        "run_id": None,
        "author": "someone",
        "client": "a phone",
        "created_at": ago(60),
        "withdrawn_at": None,
        "firings": (firing,),
    }
    return OrderView(**{**values, **overrides})


def alert_view(**overrides: Any) -> AlertView:
    """Most of a week is spent."""
    said = "80 % of openai's cap of the week was reached at 2026-11-18 11:50 UTC: 812,000 of 1,000,000 tokens."
    values: dict[str, Any] = {
        "level_percent": 80, "cap": "openai's cap of the week", "occurred_at": ago(10), "sentence": said
    }  # fmt: skip
    return AlertView(**{**values, **overrides})


def needs_you(run_id: str = "r-7f3a") -> NeedsYou:
    """A run whose cap is reached."""
    return NeedsYou("The token cap of 120,000 is reached. Raise it, or cancel the run.", f"resume run {run_id}")


def request_view(**overrides: Any) -> RequestView:
    """Somebody wants the run to pause."""
    values: dict[str, Any] = {"request_id": "q-1", "action": "pause", "author": "someone", "created_at": ago(0.1)}
    return RequestView(**{**values, **overrides})


def run_line(run_id: str = "r-7f3a", **overrides: Any) -> RunLine:
    """A running run in a list."""
    values: dict[str, Any] = {
        "run_id": run_id,
        "plan_name": "Lending library",
        "state": "running",
        "percent_complete": 50.0,
        "is_rehearsal": False,
        "needs_you": False,
        "created_at": ago(42),
        "tokens_used": 31_204,
        "cost_usd": Decimal("0.2144"),
    }
    return RunLine(**{**values, **overrides})


def run_list(*lines: RunLine, **overrides: Any) -> RunList:
    """A list that ends with these lines."""
    return RunList(**{"runs": lines, "total": len(lines), "next_cursor": None, "hint": "", **overrides})


def cap_view(provider: str = "openai", **overrides: Any) -> CapView:
    """A week of one million tokens, a third of it used."""
    values: dict[str, Any] = {
        "kind": "provider",
        "label": f"{provider}'s cap of the week",
        "provider": provider,
        "role": None,
        "period": "week",
        "window_label": "2026-W47",
        "used_tokens": 331_000,
        "reserved_tokens": 0,
        "cap_tokens": 1_000_000,
        "configured_cap_tokens": 1_000_000,
        "percent_of_cap": 33.1,
        "used_usd": Decimal("1.20"),
        "cap_usd": None,
        "configured_cap_usd": None,
        "percent_of_cap_usd": None,
        "level": "ok",
        "soft_limit_percent": 80.0,
        "is_over_soft_limit": False,
        "resets_at": WEEK_END,
        "pace": pace(),
    }
    return CapView(**{**values, **overrides})


def burn(**overrides: Any) -> BurnRate:
    """Six thousand tokens in the last three hours."""
    values: dict[str, Any] = {
        "measured_from": ago(180),
        "measured_until": NOON,
        "tokens": 6_000,
        "usd": Decimal("0.03"),
        "tokens_per_hour": 2_000,
        "usd_per_hour": Decimal("0.01"),
    }
    return BurnRate(**{**values, **overrides})


def pace(**overrides: Any) -> Pace:
    """A cap that is reached on the next day if it goes on like this."""
    says = "At this pace it is reached on 2026-11-19 12:00 UTC: 6,000 tokens since 2026-11-18 09:00 UTC, 2,000 an hour."
    values: dict[str, Any] = {"reached_at": ago(-24 * 60), "unit": "tokens", "burn": burn(), "says": says}
    return Pace(**{**values, **overrides})


def provider_usage(provider: str = "openai", **overrides: Any) -> ProviderUsage:
    """A provider a third of whose week is used."""
    values: dict[str, Any] = {
        "provider": provider,
        "period": "week",
        "prompt_tokens": 300_000,
        "completion_tokens": 31_000,
        "total_tokens": 331_000,
        "charged_tokens": 331_000,
        "reserved_tokens": 0,
        "cap_tokens": 1_000_000,
        "configured_cap_tokens": 1_000_000,
        "percent_of_cap": 33.1,
        "resets_at": WEEK_END,
        "level": "ok",
        "soft_limit_percent": 80.0,
        "cost_usd": Decimal("1.20"),
        "cap_usd": None,
        "configured_cap_usd": None,
        "percent_of_cap_usd": None,
        "calls": 41,
        "failed_calls": 2,
        "unpriced_calls": 0,
    }
    return ProviderUsage(**{**values, **overrides})


def model_usage(model: str = "gpt-4o", **overrides: Any) -> ModelUsage:
    """A model in the window."""
    values: dict[str, Any] = {"provider": "openai", "model": model, **_sums()}
    return ModelUsage(**{**values, **overrides})


def role_usage(role: str = "builder", **overrides: Any) -> RoleUsage:
    """A role in the window."""
    values: dict[str, Any] = {"role": role, "is_core": role in ("builder", "auditor"), **_sums()}
    return RoleUsage(**{**values, **overrides})


def category_usage(category: str = "core_backend", **overrides: Any) -> CategoryUsage:
    """A category in the window."""
    return CategoryUsage(**{"category": category, **_sums(), **overrides})


def run_share(run_id: str = "r-7f3a", **overrides: Any) -> RunShare:
    """A run with calls in the window."""
    return RunShare(**{"run_id": run_id, "plan_name": "Lending library", **_sums(), **overrides})


def day_usage(date: str = "2026-11-16", **overrides: Any) -> DayUsage:
    """A day in the window."""
    return DayUsage(**{"date": date, **_sums(), **overrides})


def _sums() -> dict[str, Any]:
    return {
        "prompt_tokens": 300_000,
        "completion_tokens": 31_000,
        "total_tokens": 331_000,
        "cost_usd": Decimal("1.20"),
        "calls": 41,
        "failed_calls": 2,
        "unpriced_calls": 0,
    }


def usage_summary(**overrides: Any) -> UsageSummary:
    """The present week, one provider used."""
    values: dict[str, Any] = {
        "period": "week",
        "offset": 0,
        "window_label": "2026-W47",
        "starts_at": WEEK_START,
        "ends_at": WEEK_END,
        "providers": (provider_usage(),),
        "models": (model_usage(),),
        "roles": (role_usage(), role_usage("agent:planner")),
        "categories": (category_usage(), category_usage("")),
        "days": (day_usage(), day_usage("2026-11-17", total_tokens=0), day_usage("2026-11-18", total_tokens=12_000)),
        "runs": (run_share(),),
        "runs_note": "",
        "caps": (cap_view(),),
        "burn": burn(),
        "core_tokens": 331_000,
        "core_cost_usd": Decimal("1.20"),
        "auxiliary_tokens": 12_000,
        "auxiliary_cost_usd": Decimal(0),
        "total_tokens": 343_000,
        "cost_usd": Decimal("1.20"),
        "calls": 82,
        "unpriced_calls": 0,
        "breaches": 0,
        "note": "Rehearsals are not in these numbers.",
        "orders": (order_view(),),
        "alerts": (alert_view(),),
    }
    return UsageSummary(**{**values, **overrides})


def run_usage(**overrides: Any) -> RunUsage:
    """A run of two tiers, the first of them paid for."""
    sums = {**_sums(), "charged_tokens": 331_000}
    values: dict[str, Any] = {
        "run_id": "r-7f3a",
        "plan_name": "Lending library",
        "is_rehearsal": False,
        "tiers": (TierUsage(tier_index=1, tier_name="Core", phases=2, **sums),
                  TierUsage(tier_index=None, tier_name="", phases=0, **sums)),
        "phases": (PhaseUsage(phase_id="p1", name="Phase p1", tier_index=1, **sums),),
        "roles": (role_usage(),),
        "models": (model_usage(),),
        "charged_tokens": 662_000,
        "total_tokens": 662_000,
        "cost_usd": Decimal("2.40"),
        "calls": 82,
        "unpriced_calls": 0,
        "note": "",
    }  # fmt: skip
    return RunUsage(**{**values, **overrides})


def model_row(role: str = "builder", **overrides: Any) -> ModelRow:
    """The complexity rule answers."""
    values: dict[str, Any] = {
        "role": role,
        "category": "general",
        "complexity": "medium",
        "model": "gpt-4o",
        "provider": "openai",
        "rule": "complexity",
        "reasons": (f"complexity medium uses gpt-4o as {role}",),
    }
    return ModelRow(**{**values, **overrides})


def override_view(**overrides: Any) -> OverrideView:
    """Cheap models for UI phases of low complexity, for this run."""
    values: dict[str, Any] = {
        "override_id": 7,
        "scope": "run",
        "role": "builder",
        "pattern": "ui*:low",
        "model": "claude-haiku-4-5",
        "author": "someone",
        "created_at": ago(10),
        "expires_at": None,
    }
    return OverrideView(**{**values, **overrides})


def standing_view(provider: str = "openai", **overrides: Any) -> StandingView:
    """A provider that can be called."""
    values: dict[str, Any] = {"provider": provider, "state": "ok", "missing_key_variable": None, "caps": (cap_view(),)}
    return StandingView(**{**values, **overrides})


def model_mapping(**overrides: Any) -> ModelMapping:
    """What a new run would use."""
    values: dict[str, Any] = {
        "run_id": None,
        "is_rehearsal": False,
        "rows": (model_row(), model_row("auditor", model="claude-sonnet-4-5", provider="anthropic")),
        "overrides": (override_view(),),
        "choices": (Choice("gpt-4o", "openai", "ok"), Choice("claude-haiku-4-5", "anthropic", "over its soft limit")),
        "standings": (standing_view(), standing_view("google", state="no key", missing_key_variable="GOOGLE_API_KEY")),
        "categories": ("general",),
        "complexities": ("low", "medium", "high"),
        "source": "packaged default",
        "warnings": (),
    }
    return ModelMapping(**{**values, **overrides})


def builder_score(model: str = "gpt-4o", **overrides: Any) -> BuilderScore:
    """A builder of ui phases with three of four attempts approved."""
    values: dict[str, Any] = {
        "category": "ui",
        "model": model,
        "attempts": 4,
        "approved_attempts": 3,
        "approval": wilson(3, 4),
        "first_try": wilson(2, 3),
        "sample": "small (4 attempts)",
        "is_small_sample": True,
        "attempts_by_complexity": {"low": 0, "medium": 40, "high": 0},
        "interrupted_attempts": 0,
        "unjudged_attempts": 0,
        "calls": 8,
        "unpriced_calls": 0,
        "tokens": 36_000,
        "cost_usd": Decimal("0.15"),
        "counted_phases": 3,
        "tokens_per_approved_phase": 12_000,
        "cost_usd_per_approved_phase": Decimal("0.05"),
    }
    return BuilderScore(**{**values, **overrides})


def model_scorecard(*builders: BuilderScore, **overrides: Any) -> ModelScorecard:
    """How these builders did, and one auditor who judged them."""
    auditor = AuditorScore(
        model="claude",
        verdicts=4,
        rejected=1,
        rejection=wilson(1, 4),
        unusable_verdicts=0,
        sample="small (4 verdicts)",
        is_small_sample=True,
        calls=4,
        unpriced_calls=0,
        tokens=4_000,
        cost_usd=Decimal("0.01"),
        tokens_per_verdict=1_000,
    )
    values: dict[str, Any] = {
        "since": ago(90 * 24 * 60),
        "until": None,
        "category": None,
        "complexity": None,
        "builders": builders,
        "auditors": (auditor,) if builders else (),
        "experiments": (),
        "interrupted_attempts": 0,
        "unjudged_attempts": 0,
        "open_attempts": 0,
        "uncounted_phases": 0,
        "small_sample": 40,
        "note": "Rehearsals are not in these numbers.",
    }
    return ModelScorecard(**{**values, **overrides})
