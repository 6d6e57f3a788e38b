"""What is known without a file: provider ids, families of models, and the arithmetic of a share."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from autopack_mcp.config.settings import (
    KNOWN_PROVIDERS,
    FallbackStrategy,
    ModelSettings,
    ProviderSettings,
    QuotaRouting,
    RoleModels,
    Settings,
    family_model,
    family_of,
    provider_id,
)


def settings(**overrides: Any) -> Settings:
    fields: dict[str, Any] = {
        "providers": {"openai": KNOWN_PROVIDERS["openai"]},
        "models": {"gpt-4o": ModelSettings("gpt-4o", "openai", 1, 2)},
        "complexity_models": {},
        "category_models": {"docs": RoleModels()},
        "agent_models": {},
        "fallback_strategy": FallbackStrategy(by_category={"tests": ()}),
        "quota_routing": QuotaRouting(never_fallback_categories=frozenset({"security"})),
        "high_risk": RoleModels(),
    }
    return Settings(**{**fields, **overrides})


@pytest.mark.parametrize(
    "name, provider",
    [
        ("gpt-4o", "openai"),
        ("gpt-6.1-sol", "openai"),
        ("o3", "openai"),
        ("o4-mini", "openai"),
        ("claude-opus-5-5", "anthropic"),
        ("opus-4", "anthropic"),
        ("glm-4.6", "glm"),
        ("gemini-2.5-pro", "google"),
        ("olmo-2", None),
        ("ollama/llama3", None),
        ("my-gpt-4", None),
        ("GPT-4", None),
        ("o", None),
        ("", None),
    ],
)
def test_a_family_is_known_by_how_the_name_begins(name: str, provider: str | None) -> None:
    family = family_of(name)
    assert (None if family is None else family.provider) == provider


def test_a_family_whose_provider_is_not_configured_has_no_model() -> None:
    assert family_model("claude-opus-5-5", {"openai": KNOWN_PROVIDERS["openai"]}) is None


def test_a_model_of_the_catalog_comes_before_its_family() -> None:
    found = settings()
    assert found.find_model("gpt-4o") == ModelSettings("gpt-4o", "openai", 1, 2)
    assert found.find_model("gpt-5") == ModelSettings("gpt-5", "openai", 16_384, 128_000)
    assert found.find_model("claude-opus-5-5") is None
    assert found.find_model("mystery") is None


@pytest.mark.parametrize(
    "spelling, expected",
    [("OpenAI", "openai"), ("gemini", "google"), ("Google_Gemini", "google"), ("zhipu_glm", "glm"), ("mine", "mine")],
)
def test_a_provider_has_one_id(spelling: str, expected: str) -> None:
    assert provider_id(spelling) == expected


def test_every_word_that_a_rule_knows_is_a_category() -> None:
    assert settings().categories == {"docs", "tests", "security", "general"}


@pytest.mark.parametrize(
    "configured, share, allowance",
    [(100, "1", 100), (100, "0.8", 80), (99, "0.5", 49), (1, "0.5", 0), (5_000_000_000, "0.29", 1_450_000_000)],
)
def test_an_allowance_is_the_floor_of_cap_times_share(configured: int, share: str, allowance: int) -> None:
    assert ProviderSettings("p", "openai", "chat", autopack_share=Decimal(share)).allowance(configured) == allowance
