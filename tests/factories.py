"""Rows, events and reservations with sensible values, of which a test overrides the ones it is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

from sqlalchemy import Connection, insert

from autopack_mcp.budgets.call_rules import CallRules, RulesOf
from autopack_mcp.budgets.caps import CallScope, ScopeCap
from autopack_mcp.budgets.ledger import Reservation
from autopack_mcp.config.settings import (
    FallbackStrategy,
    ModelSettings,
    ProviderSettings,
    QuotaRouting,
    RoleModels,
    Settings,
    Window,
    WindowCap,
)
from autopack_mcp.database.tables import attempts, phases, runs, supervisors
from autopack_mcp.usage.event import TokenCounts, UsageEvent
from autopack_mcp.usage.windows import window_at

NOON = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)  # The moment at which the ``clock`` fixture stands.
_numbers = count(1)


def token_counts(**overrides: int) -> TokenCounts:
    """60 tokens in, 40 out."""
    return TokenCounts(**{"uncached_input": 60, "output": 40, **overrides})


def call_scope(**overrides: Any) -> CallScope:
    """The builder of phase P1 of run R1, on openai."""
    values = {"provider": "openai", "role": "builder", "purpose": "run", "run_id": "R1", "phase_id": "P1"}
    return CallScope(**{**values, **overrides})


def reservation(call_id: str | None = None, *, scope: CallScope | None = None, **overrides: Any) -> Reservation:
    """A promise of 60 tokens in, 40 out and a thousandth of a dollar, lost after a minute."""
    values: dict[str, Any] = {
        "call_id": call_id or f"call-{next(_numbers)}",
        "scope": scope or call_scope(),
        "model": "gpt-4o",
        "bound_input": 60,
        "bound_output": 40,
        "bound_nano": 1_000_000,
        "lease_s": 60.0,
        "attempt": 1,
        "category": "general",
    }
    return Reservation(**{**values, **overrides})


def usage_event(call_id: str | None = None, *, scope: CallScope | None = None, **overrides: Any) -> UsageEvent:
    """A call that went well: 60 tokens in, 40 out, at half a thousandth of a dollar."""
    owner = scope or call_scope()
    values: dict[str, Any] = {
        "call_id": call_id or f"call-{next(_numbers)}",
        "provider": owner.provider,
        "model": "gpt-4o",
        "role": owner.role,
        "purpose": owner.purpose,
        "status": "ok",
        "usage_source": "provider",
        "counts": token_counts(),
        "occurred_at": NOON,
        "run_id": owner.run_id,
        "phase_id": owner.phase_id,
        "attempt": 1,
        "category": "general",
        "cost_nano": 500_000,
        "price_version": "test-prices" if overrides.get("cost_nano", 0) is not None else None,
    }
    return UsageEvent(**{**values, **overrides})


def truth_of(promise: Reservation, *, tokens: int, **overrides: Any) -> UsageEvent:
    """What a provider says about a reserved call: ``tokens`` in all, split as the promise was as far as they go."""
    output = min(tokens, promise.bound_output)
    counts = TokenCounts(uncached_input=tokens - output, output=output)
    values: dict[str, Any] = {"model": promise.model, "counts": counts, "category": promise.category}
    return usage_event(promise.call_id, scope=promise.scope, **{**values, **overrides})


def window_cap(
    window: Window = "week",
    *,
    tokens: int | None = None,
    nano_usd: int | None = None,
    provider: str = "openai",
    at: datetime = NOON,
) -> ScopeCap:
    """One window of a provider with this allowance, in the window that holds ``at``."""
    span = window_at(window, at)
    return ScopeCap(
        scope=f"provider/{provider}/{window}/{span.label}",
        kind="provider",
        label=f"{provider}'s cap of the {window}",
        allowance_tokens=tokens,
        allowance_nano=nano_usd,
        window=window,
        provider=provider,
        resets_at=span.end,
    )


def held_against(*caps: ScopeCap, **rules: Any) -> RulesOf:
    """Rules for the ledger's operations: every call has just these caps (and ``stops``, ``tells``, levels as given).

    They count in the windows of the moment that is asked about, whatever moment they were made for.
    """
    return lambda connection, call, at: CallRules(caps=tuple(cap_in_window_of(cap, at) for cap in caps), **rules)


def cap_in_window_of(cap: ScopeCap, moment: datetime) -> ScopeCap:
    """The same cap in the window that holds ``moment``."""
    if cap.window is None:
        return cap
    span = window_at(cap.window, moment)
    stem, _, _ = cap.scope.rpartition("/")
    return replace(cap, scope=f"{stem}/{span.label}", resets_at=span.end)


def run_cap(run_id: str = "R1", *, tokens: int | None = None, nano_usd: int | None = None) -> ScopeCap:
    """A run's own cap."""
    return ScopeCap(f"run/{run_id}", "run", f"the cap of run {run_id}", tokens, nano_usd)


def provider_settings(*caps: WindowCap, share: str = "1", **overrides: Any) -> ProviderSettings:
    """The account at openai, with these windows capped."""
    values: dict[str, Any] = {"provider": "openai", "sdk": "openai", "api": "chat", "api_key_env": "OPENAI_API_KEY"}
    return ProviderSettings(**{**values, "caps": caps, "autopack_share": Decimal(share), **overrides})


def insert_run(connection: Connection, /, run_id: str = "R1", **overrides: Any) -> None:
    """A running run that this machine owns with fencing token 1."""
    values: Mapping[str, Any] = {
        "run_id": run_id,
        "plan_name": "a plan",
        "plan_source": "plan.yaml",
        "plan_json": "{}",
        "repository": "/repository",
        "is_rehearsal": False,
        "author": "someone",
        "client": "test",
        "state": "running",
        "why": "",
        "model_map": {},
        "rules": "",
        "base_commit": "0" * 40,
        "head_commit": "0" * 40,
        "workspace": "/workspace",
        "is_set_up": True,
        "lease_token": 1,
        "created_at": NOON,
        "updated_at": NOON,
    }
    connection.execute(insert(runs).values(**{**values, **overrides}))


def insert_phase(connection: Connection, /, index: int = 1, run_id: str = "R1", **overrides: Any) -> None:
    """A queued phase ``P<index>`` of the only tier, of general category and medium complexity."""
    values: Mapping[str, Any] = {
        "run_id": run_id,
        "phase_index": index,
        "phase_id": f"P{index}",
        "name": f"phase {index}",
        "tier_index": 1,
        "tier_name": "tier 1",
        "task_category": "general",
        "complexity": "medium",
        "state": "queued",
        "why": "",
        "attempt": 0,
        "minor_issues": 0,
        "major_issues": 0,
    }
    connection.execute(insert(phases).values(**{**values, **overrides}))


def insert_attempt(connection: Connection, /, phase_id: str = "P1", number: int = 1, **overrides: Any) -> None:
    """An open attempt at a phase of run R1 that has asked no model yet."""
    values: Mapping[str, Any] = {
        "run_id": "R1",
        "phase_id": phase_id,
        "attempt": number,
        "state": "open",
        "reason": "",
        "parent_commit": "0" * 40,
        "started_at": NOON,
    }
    connection.execute(insert(attempts).values(**{**values, **overrides}))


def insert_supervisor(connection: Connection, /, machine: str = "desk", **overrides: Any) -> None:
    """A supervisor that is alive at noon and sees the keys of openai and anthropic."""
    values: Mapping[str, Any] = {
        "machine": machine,
        "token": 1,
        "pid": 4711,
        "url": "http://127.0.0.1:8000",
        "version": "0",
        "key_variables": ["OPENAI_API_KEY", "ANTHROPIC_API_KEY"],
        "sandbox": "",
        "started_at": NOON,
        "lease_expires_at": NOON + timedelta(seconds=6),
    }
    connection.execute(insert(supervisors).values(**{**values, **overrides}))


def model_settings(name: str, provider: str = "openai", **overrides: Any) -> ModelSettings:
    """A model of the catalog."""
    return ModelSettings(name, provider, **{"max_output_tokens": 16_000, "context_window": 128_000, **overrides})


def settings(*providers: ProviderSettings, **overrides: Any) -> Settings:
    """Two accounts, uncapped unless given; small work goes to gpt-small, the rest to gpt-big; claude audits.

    Category "security" is built by claude and never falls back; anything else falls back to gpt-small.
    """
    accounts = {
        "openai": provider_settings(),
        "anthropic": provider_settings(provider="anthropic", api_key_env="ANTHROPIC_API_KEY"),
        **{provider.provider: provider for provider in providers},
    }
    catalog = (model_settings("gpt-big"), model_settings("gpt-small"), model_settings("claude", "anthropic"))
    values: dict[str, Any] = {
        "providers": accounts,
        "models": {model.name: model for model in catalog},
        "complexity_models": {
            "low": RoleModels("gpt-small", "claude"),
            "medium": RoleModels("gpt-big", "claude"),
            "high": RoleModels("gpt-big", "claude"),
        },
        "category_models": {"security": RoleModels("claude", None)},
        "agent_models": {"planner": "gpt-big"},
        "fallback_strategy": FallbackStrategy(default=("gpt-small",)),
        "quota_routing": QuotaRouting(never_fallback_categories=frozenset({"security"})),
        "high_risk": RoleModels(),
    }
    return Settings(**{**values, **overrides})
