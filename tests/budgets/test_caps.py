"""Which counters count a call, and what each of them may reach."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from autopack_mcp.budgets.caps import (
    RunCaps,
    ScopeCap,
    caps_of_call,
    provider_caps,
    scopes_of_call,
)
from autopack_mcp.config.settings import (
    FallbackStrategy,
    ProviderSettings,
    QuotaRouting,
    RoleModels,
    Settings,
    WindowCap,
)
from tests.factories import NOON, call_scope, provider_settings, window_cap

BEFORE_MIDNIGHT = datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
AFTER_MIDNIGHT = datetime(2027, 1, 1, tzinfo=UTC)


def settings_with(provider: ProviderSettings) -> Settings:
    return Settings(
        providers={provider.provider: provider},
        models={},
        complexity_models={},
        category_models={},
        agent_models={},
        fallback_strategy=FallbackStrategy(),
        quota_routing=QuotaRouting(),
        high_risk=RoleModels(),
    )


def allowances(caps: tuple[ScopeCap, ...]) -> dict[str, tuple[int | None, int | None]]:
    return {cap.scope: (cap.allowance_tokens, cap.allowance_nano) for cap in caps}


def test_a_call_is_counted_by_its_windows_its_role_its_run_its_phase_and_all_together() -> None:
    assert scopes_of_call(call_scope(), NOON) == (
        "global/day/2026-11-18",
        "global/month/2026-11",
        "global/week/2026-W47",
        "phase/R1/P1",
        "provider/openai/day/2026-11-18",
        "provider/openai/month/2026-11",
        "provider/openai/week/2026-W47",
        "role/builder/day/2026-11-18",
        "role/builder/month/2026-11",
        "role/builder/week/2026-W47",
        "run/R1",
    )


@pytest.mark.parametrize(
    "scope, absent",
    [
        (call_scope(phase_id=None), {"phase/R1/P1"}),
        (call_scope(run_id=None, phase_id=None), {"phase/R1/P1", "run/R1"}),
    ],
    ids=["an agent of a run", "a library call"],
)
def test_a_call_without_a_run_or_a_phase_is_not_counted_there(scope, absent: set[str]) -> None:
    assert set(scopes_of_call(call_scope(), NOON)) - set(scopes_of_call(scope, NOON)) == absent


def test_a_rehearsal_shares_no_counter_with_real_calls_or_other_rehearsals() -> None:
    real = set(scopes_of_call(call_scope(), NOON))
    one = set(scopes_of_call(call_scope(purpose="rehearsal"), NOON))
    other = set(scopes_of_call(call_scope(purpose="rehearsal", run_id="R2"), NOON))
    assert real.isdisjoint(one)
    assert one.isdisjoint(other)
    assert {name.removeprefix("rehearsal/R1/") for name in one} == real


@pytest.mark.parametrize(
    "cap, share, allowance",
    [
        (1_000, "1", 1_000),
        (1_000, "0.5", 500),
        (1_001, "0.5", 500),
        (999, "0.333", 332),
        (10, "0.7", 7),
        (3, "0.1", 0),
        (0, "1", 0),
        (2_000_000_000_000_000_000, "0.3", 600_000_000_000_000_000),
    ],
)
def test_the_allowance_is_the_floor_of_cap_times_share(cap: int, share: str, allowance: int) -> None:
    provider = provider_settings(WindowCap("week", tokens=cap, nano_usd=cap), share=share)
    assert allowances(provider_caps(provider, NOON)) == {"provider/openai/week/2026-W47": (allowance, allowance)}


def test_every_configured_window_and_the_run_itself_must_fit() -> None:
    provider = provider_settings(WindowCap("day", tokens=10), WindowCap("month", tokens=30, nano_usd=5))
    caps = caps_of_call(settings_with(provider), call_scope(), RunCaps(tokens=7, nano_usd=9), NOON)
    assert allowances(caps) == {
        "provider/openai/day/2026-11-18": (10, None),
        "provider/openai/month/2026-11": (30, 5),
        "run/R1": (7, 9),
    }
    assert [cap.resets_at for cap in caps] == [
        datetime(2026, 11, 19, tzinfo=UTC),
        datetime(2026, 12, 1, tzinfo=UTC),
        None,
    ]


def test_what_is_not_capped_has_no_cap() -> None:
    assert caps_of_call(settings_with(provider_settings()), call_scope(), RunCaps(), NOON) == ()
    without_run = call_scope(run_id=None, phase_id=None)
    assert caps_of_call(settings_with(provider_settings()), without_run, RunCaps(tokens=5), NOON) == ()


def test_the_caps_of_a_rehearsal_are_those_of_its_shadow_counters() -> None:
    provider = provider_settings(WindowCap("week", tokens=10))
    scope = call_scope(purpose="rehearsal")
    caps = caps_of_call(settings_with(provider), scope, RunCaps(tokens=7), NOON)
    assert {cap.scope for cap in caps} <= set(scopes_of_call(scope, NOON))


def test_a_window_cap_of_the_factory_is_the_one_the_settings_make() -> None:
    (made,) = provider_caps(provider_settings(WindowCap("week", tokens=10)), NOON)
    assert made == window_cap("week", tokens=10)
