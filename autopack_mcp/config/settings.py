"""``models.yaml`` as frozen Settings: providers and their caps, models, who answers what, and what replaces what.

It owns the words of the configuration and what is known without one: provider ids, families of models. It reads nothing
(``models_yaml`` reads a text, ``config_file`` a file that may change); the router, the ledger and the adapters receive
Settings.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from autopack_mcp.errors import Problem

Sdk = Literal["openai", "anthropic"]
Api = Literal["chat", "responses", "messages"]
Window = Literal["day", "week", "month"]
Complexity = Literal["low", "medium", "high"]

ALERT_LEVELS_PERCENT = (80, 90)  # Of an allowance (product.md).
COMPLEXITIES: tuple[Complexity, ...] = ("low", "medium", "high")


@dataclass(frozen=True, slots=True)
class WindowCap:
    """What may be spent in one window: configured tokens and integer nano-dollars, None where uncapped."""

    window: Window
    tokens: int | None = None
    nano_usd: int | None = None


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """One vendor account: how to reach it, and how much of it is ours.

    ``autopack_share`` and ``soft_limit_ratio`` are fractions in (0, 1]; ``api_key_env`` names a variable, never a key,
    and is None for a server that needs none.
    """

    provider: str
    sdk: Sdk
    api: Api
    base_url: str | None = None
    api_key_env: str | None = None
    caps: tuple[WindowCap, ...] = ()
    autopack_share: Decimal = Decimal(1)
    soft_limit_ratio: Decimal = Decimal("0.8")

    def allowance(self, configured: int) -> int:
        """floor(cap x share): the part of a configured cap that is ours (contract 14)."""
        return int(configured * self.autopack_share)


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """A person's own price for a model, in dollars per million tokens; wins over the price list."""

    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """One model of the catalog, with the bounds of a call in tokens."""

    name: str
    provider: str
    max_output_tokens: int
    context_window: int
    price: ModelPrice | None = None


@dataclass(frozen=True, slots=True)
class RoleModels:
    """Which model builds and which audits; None leaves the choice to the rule below it."""

    builder: str | None = None
    auditor: str | None = None


@dataclass(frozen=True, slots=True)
class FallbackStrategy:
    """Replacement chains, most wanted first; a category's own chain comes before the default one."""

    default: tuple[str, ...] = ()
    by_category: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def chain(self, category: str) -> tuple[str, ...]:
        """Candidates for a category, in the order to try them."""
        return self.by_category.get(category, self.default)


@dataclass(frozen=True, slots=True)
class QuotaRouting:
    """Whether a soft limit reroutes at all, and for which categories it never may."""

    enabled: bool = True
    never_fallback_categories: frozenset[str] = frozenset()
    critical_on_soft_limit: Literal["keep", "fail"] = "keep"


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How runs share a machine, and what is kept of their words.

    ``at_once`` and ``per_repository`` are runs that one machine advances at the same time; ``keep_prompts_days`` is
    after how many days stored prompts and replies go, ``store_prompts`` False keeps numbers only.
    """

    at_once: int = 4
    per_repository: int = 2
    store_prompts: bool = True
    keep_prompts_days: int = 30


@dataclass(frozen=True, slots=True)
class Settings:
    """All of models.yaml, validated: every model named below is in ``models``, every provider in ``providers``.

    ``global_caps`` count every call of every provider, ``role_caps`` those of one role (``builder``, ``auditor``,
    ``agent:<name>``). ``digest`` is the SHA-256 of the file's bytes; ``warnings`` are shown to the person and stop
    nothing.
    """

    providers: Mapping[str, ProviderSettings]
    models: Mapping[str, ModelSettings]
    complexity_models: Mapping[str, RoleModels]
    category_models: Mapping[str, RoleModels]
    agent_models: Mapping[str, str]
    fallback_strategy: FallbackStrategy
    quota_routing: QuotaRouting
    high_risk: RoleModels
    global_caps: tuple[WindowCap, ...] = ()
    role_caps: Mapping[str, tuple[WindowCap, ...]] = field(default_factory=dict)
    alert_levels_percent: tuple[int, ...] = ALERT_LEVELS_PERCENT
    runs: RunSettings = RunSettings()
    plan_folders: tuple[Path, ...] = ()
    allow_inline_plans: bool = False
    source: str = "packaged default"
    digest: str = ""
    warnings: tuple[Problem, ...] = ()

    def find_model(self, name: str) -> ModelSettings | None:
        """A model of the catalog, or one of a known family whose provider is configured; None for any other name.

        Ask this, not ``models``, when a person names a model: an override may name one that the file does not.
        """
        return self.models.get(name) or family_model(name, self.providers)

    @property
    def categories(self) -> frozenset[str]:
        """Every category that some rule of the file knows, and ``general``."""
        return (
            frozenset(self.category_models)
            | frozenset(self.fallback_strategy.by_category)
            | self.quota_routing.never_fallback_categories
            | {"general"}
        )


# What a provider is when the file says nothing else about it. A key variable is the one that the predecessor's users
# already have set.
KNOWN_PROVIDERS: Mapping[str, ProviderSettings] = {
    settings.provider: settings
    for settings in (
        ProviderSettings("openai", "openai", "chat", None, "OPENAI_API_KEY"),
        ProviderSettings("anthropic", "anthropic", "messages", None, "ANTHROPIC_API_KEY"),
        ProviderSettings(
            "google", "openai", "chat", "https://generativelanguage.googleapis.com/v1beta/openai/", "GOOGLE_API_KEY"
        ),
        ProviderSettings("glm", "openai", "chat", "https://api.z.ai/api/paas/v4/", "GLM_API_KEY"),
    )
}
_PROVIDER_ALIASES = {"google_gemini": "google", "gemini": "google", "zhipu_glm": "glm", "zhipu": "glm", "zai": "glm"}


def provider_id(name: str) -> str:
    """A provider's own id for any spelling of it: ``OpenAI`` is ``openai``, ``google_gemini`` is ``google``."""
    lower = name.lower()
    return _PROVIDER_ALIASES.get(lower, lower)


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """Models known by how their name begins, and bounds that every current member keeps, in tokens."""

    pattern: str
    provider: str
    max_output_tokens: int = 16_384  # The least that gpt-4o and everything after it may write.
    context_window: int = 128_000


# The predecessor's families. An "o" needs a digit after it: a local model such as "olmo" is not OpenAI's.
MODEL_FAMILIES = (
    ModelFamily("gpt-*", "openai"),
    ModelFamily("o[1-9]*", "openai"),
    ModelFamily("claude-*", "anthropic", context_window=200_000),
    ModelFamily("opus-*", "anthropic", context_window=200_000),
    ModelFamily("glm-*", "glm"),
    ModelFamily("gemini-*", "google", context_window=1_000_000),
)


def family_of(name: str) -> ModelFamily | None:
    """The family that a model's name belongs to, whatever is configured."""
    return next((family for family in MODEL_FAMILIES if fnmatchcase(name, family.pattern)), None)


def family_model(name: str, providers: Container[str]) -> ModelSettings | None:
    """A model that is in no catalog, but in a family whose provider is configured; never a guess."""
    family = family_of(name)
    if family is None or family.provider not in providers:
        return None
    return ModelSettings(name, family.provider, family.max_output_tokens, family.context_window)
