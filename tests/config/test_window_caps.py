"""Caps of roles and of all calls in models.yaml, and the one rule that they share with a provider's."""

from __future__ import annotations

import pytest

from autopack_mcp.config.models_yaml import load_settings
from autopack_mcp.config.settings import Settings, WindowCap
from autopack_mcp.errors import ConfigError

OPENAI = "providers: {openai: {}}\n"
ROLE_CAP = "caps:\n  roles:\n    auditor: {monthly_cap_usd: 20}\n"


def load(caps: str) -> Settings:
    return load_settings(OPENAI + caps, "models.yaml")


def problems(caps: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(caps)
    return [str(problem) for problem in caught.value.problems if problem.severity == "error"]


def test_caps_of_roles_and_of_all_calls_are_read_by_window() -> None:
    settings = load(
        "caps:\n  global: {daily_cap_usd: 50, weekly_cap_tokens: 5_000_000}\n"
        "  roles:\n    builder: {daily_cap_tokens: 7, daily_cap_usd: 0.5}\n"
        "    auditor: {monthly_cap_usd: 20}\n"
        '    "agent:planner": {daily_cap_tokens: 100000}\n'
    )
    assert settings.global_caps == (WindowCap("day", None, 50_000_000_000), WindowCap("week", 5_000_000))
    assert settings.role_caps == {
        "builder": (WindowCap("day", 7, 500_000_000),),
        "auditor": (WindowCap("month", None, 20_000_000_000),),
        "agent:planner": (WindowCap("day", 100_000),),
    }


@pytest.mark.parametrize("caps", ["", "caps:\n", "caps: {}\n", "caps: {global: , roles: }\n", "caps: {roles: {}}\n"])
def test_without_such_caps_there_are_none(caps: str) -> None:
    settings = load(caps)
    assert (settings.global_caps, settings.role_caps) == ((), {})
    assert [warning for warning in settings.warnings if "caps" in warning.where] == []


@pytest.mark.parametrize(
    "place, caps",
    [
        ("caps.global", "caps:\n  global: {KEYS}\n"),
        ("caps.roles.auditor", "caps: {roles: {\n    auditor: {KEYS}}}\n"),
        ("caps.roles.agent:a", "caps: {roles: {\n    'agent:a': {KEYS}}}\n"),
    ],
    ids=["all calls", "a role", "an agent"],
)
@pytest.mark.parametrize(
    "keys, expected",
    [
        ("daily_cap_tokens: 0", "daily_cap_tokens: must be at least 1, not 0. For no cap leave the key out."),
        ("daily_cap_tokens: -5", "daily_cap_tokens: must be at least 1, not -5."),
        ("weekly_cap_tokens: 1.5", "weekly_cap_tokens: must be a whole number, not 1.5."),
        ("weekly_cap_tokens: many", "weekly_cap_tokens: must be a whole number, not 'many'."),
        ("weekly_cap_tokens: true", "weekly_cap_tokens: must be a whole number, not true."),
        (
            "weekly_cap_tokens: 9223372036854775808",
            "weekly_cap_tokens: must be at most 9,223,372,036,854,775,807, not 9,223,372,036,854,775,808.",
        ),
        (
            "monthly_cap_usd: 0",
            "monthly_cap_usd: must be an amount of dollars above 0, not 0. For no cap leave the key out.",
        ),
        (
            "monthly_cap_usd: -0.01",
            "monthly_cap_usd: must be an amount of dollars above 0, not -0.01. For no cap leave the key out.",
        ),
        (
            "monthly_cap_usd: 9223372037",
            "monthly_cap_usd: must be an amount of dollars of at most 9,223,372,036, not 9223372037. For no cap",
        ),
        ("monthly_cap_usd: .nan", "monthly_cap_usd: must be a number, not '.nan'."),
        ("monthly_cap_usd: .inf", "monthly_cap_usd: must be a number, not '.inf'."),
        ("dayly_cap_usd: 1", "dayly_cap_usd: is not known here. Did you mean 'daily_cap_usd'?"),
        ("hourly_cap_usd: 1", "hourly_cap_usd: is not known here. Did you mean"),
        ("autopack_share: 0.5", "autopack_share: is not known here. Known: daily_cap_tokens, daily_cap_usd, weekly"),
    ],
)
def test_a_mistake_in_a_cap_is_said_with_its_line_and_key(place: str, caps: str, keys: str, expected: str) -> None:
    (problem,) = problems(caps.replace("KEYS", keys))
    assert problem.startswith(f"models.yaml:3: error: {place}.{expected}")


@pytest.mark.parametrize(
    "caps, expected",
    [
        ("caps: 5", "caps: must hold keys and values, not 5."),
        ("caps: {global: 50}", "caps.global: must hold keys and values, not 50."),
        ("caps: {global: [daily_cap_usd]}", "caps.global: must hold keys and values, not a list."),
        ("caps: {roles: [auditor]}", "caps.roles: must hold keys and values, not a list."),
        ("caps: {roles: {auditor: 20}}", "caps.roles.auditor: must hold keys and values, not 20."),
        ("caps: {role: {}}", "caps.role: is not known here. Did you mean 'roles'?"),
        ("caps: {daily_cap_usd: 5}", "caps.daily_cap_usd: is not known here. Known: global, roles."),
    ],
)
def test_a_place_for_caps_that_holds_something_else_is_said(caps: str, expected: str) -> None:
    assert problems(caps + "\n") == [f"models.yaml:2: error: {expected}"]


@pytest.mark.parametrize(
    "role, hint",
    [
        ("auditer", " Did you mean 'auditor'?"),
        ("Builder", " Did you mean 'builder'?"),
        ("planner", " Did you mean 'agent:planner'?"),
        ("agent:", ""),
        ("agent:a b", ""),
        ("agent:" + "x" * 65, ""),
        ("*", ""),
    ],
)
def test_a_role_that_is_none_is_refused(role: str, hint: str) -> None:
    (problem,) = problems(ROLE_CAP.replace("auditor", f"'{role}'"))
    assert problem.startswith("models.yaml:4: error: caps.roles.")
    assert problem.endswith(f" is no role.{hint} Roles are builder, auditor and agent:<name>.")


@pytest.mark.parametrize("keys", ["", "{}", "{daily_cap_usd: }"])
def test_a_role_without_a_cap_is_a_warning(keys: str) -> None:
    settings = load(f"caps:\n  roles:\n    auditor: {keys}\n")
    assert settings.role_caps == {"auditor": ()}
    assert [str(warning) for warning in settings.warnings if "caps" in warning.where] == [
        (
            "models.yaml:4: warning: caps.roles.auditor: names no cap and does nothing. A cap is one of "
            "daily_cap_tokens, daily_cap_usd, weekly_cap_tokens, weekly_cap_usd, monthly_cap_tokens, monthly_cap_usd."
        )
    ]
