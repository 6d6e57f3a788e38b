"""``models.yaml`` as frozen Settings: providers and their caps, models, who answers what, and what replaces what.

It owns the file's meaning and reports every problem of it at once; it never writes the file and never reads an API key.
The router, the ledger and the provider adapters receive Settings; ``ConfigFile`` re-reads the file when it changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Literal

from autopack_mcp.errors import Problem

Sdk = Literal["openai", "anthropic"]
Api = Literal["chat", "responses", "messages"]
Window = Literal["day", "week", "month"]
Complexity = Literal["low", "medium", "high"]

NANO_PER_USD = 1_000_000_000


@dataclass(frozen=True, slots=True)
class WindowCap:
    """What one provider may cost in one window: configured tokens and integer nano-dollars, None where uncapped."""

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
class Settings:
    """All of models.yaml, validated: every model named anywhere below is in ``models``, every provider in ``providers``.

    ``digest`` is the SHA-256 of the file's bytes; ``warnings`` are shown to the person and stop nothing.
    """

    providers: Mapping[str, ProviderSettings]
    models: Mapping[str, ModelSettings]
    complexity_models: Mapping[str, RoleModels]
    category_models: Mapping[str, RoleModels]
    agent_models: Mapping[str, str]
    fallback_strategy: FallbackStrategy
    quota_routing: QuotaRouting
    high_risk: RoleModels
    alert_levels_percent: tuple[int, ...] = (80, 90)
    plan_folders: tuple[Path, ...] = ()
    allow_inline_plans: bool = False
    source: str = "packaged default"
    digest: str = ""
    warnings: tuple[Problem, ...] = ()

    @property
    def categories(self) -> frozenset[str]:
        """Every category that some rule of the file knows, and ``general``."""
        return (
            frozenset(self.category_models)
            | frozenset(self.fallback_strategy.by_category)
            | self.quota_routing.never_fallback_categories
            | {"general"}
        )
