"""What every key of models.yaml means: a text in, Settings or every problem at once out.

It owns our keys (contract 7), the predecessor's spellings of them (formats.md) and the rules between them; it opens no
file and reads no API key. ``config_file`` calls it, and so does whoever holds a text.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from autopack_mcp.config.settings import (
    ALERT_LEVELS_PERCENT,
    COMPLEXITIES,
    KNOWN_PROVIDERS,
    Api,
    FallbackStrategy,
    ModelFamily,
    ModelPrice,
    ModelSettings,
    ProviderSettings,
    QuotaRouting,
    RoleModels,
    RunSettings,
    Sdk,
    Settings,
    family_model,
    family_of,
    provider_id,
)
from autopack_mcp.config.window_caps import CAP_KEYS, CAP_PLACES, global_caps, role_caps, window_caps
from autopack_mcp.documents import Value, read_document, shown
from autopack_mcp.errors import ConfigError
from autopack_mcp.home import Home, find_home
from autopack_mcp.sections import Findings, Section, nearest, spelled

ROLES = ("builder", "auditor")

# Every key that the loader knows, by the place where it stands; docs/config.md explains each, and a test compares.
KEYS: Mapping[str, tuple[str, ...]] = {
    "": (
        "providers",
        "models",
        "complexity_models",
        "category_models",
        "agent_models",
        "fallback_strategy",
        "quota_routing",
        "defaults",
        "caps",
        "alerts",
        "runs",
        "plan_folders",
        "allow_inline_plans",
    ),
    "providers": ("sdk", "api", "base_url", "api_key_env", *CAP_KEYS, "autopack_share", "soft_limit_ratio"),
    "models": ("provider", "max_output_tokens", "context_window", "price"),
    "price": ("input", "output", "cache_read", "cache_write"),
    "complexity_models": ROLES,
    "category_models": ("description", *ROLES),
    "fallback_strategy": ("default_fallbacks", "by_category"),
    "by_category": ("fallbacks",),
    "quota_routing": ("enabled", "never_fallback_categories", "critical_on_soft_limit"),
    "defaults": ("high_risk_builder", "high_risk_auditor"),
    "caps": CAP_PLACES,
    "global": CAP_KEYS,
    "roles": CAP_KEYS,
    "alerts": ("levels_percent",),
    "runs": ("at_once", "per_repository", "store_prompts", "keep_prompts_days"),
}
# The predecessor's spellings of keys that we have.
OLD_KEYS: Mapping[str, tuple[str, ...]] = {
    "": ("provider_quotas",),
    "providers": ("daily_token_cap", "weekly_token_cap", "monthly_token_cap"),
    "category_models": tuple(f"{role}_model_override" for role in ROLES),
}
# The predecessor's keys for what we do not do, or do in another way: named in a warning, never silently dropped.
UNIMPLEMENTED_KEYS: Mapping[str, tuple[str, ...]] = {
    "": (
        "budget_warning_threshold",
        "builder_output_mode",
        "cheap_first_optimization",
        "complexity_escalation",
        "discovery_promotion",
        "doctor",
        "doctor_models",
        "dual_audit_judge",
        "escalation_chains",
        "llm_routing_policies",
        "model_aliases",
        "model_capabilities",
        "quota_enforcement",
        "replan",
        "tier_budget_strategy",
        "tier_cost_ratios",
        "token_soft_caps",
        "tool_models",
        "validation",
    ),
    "complexity_models": ("escalation_builder", "escalation_auditor"),
    "category_models": ("secondary_auditor",),
    "fallback_strategy": ("enabled", "fallback_order"),
}

_APIS_OF_SDK: Mapping[Sdk, tuple[Api, ...]] = {"openai": ("chat", "responses"), "anthropic": ("messages",)}
_NAME_LIMIT = 128
_RUNS_LIMIT = 64  # Runs of one machine at a time; each holds a model's answer in memory and starts commands.
_DAYS_LIMIT = 36_500
_KEEP_NONE = "To keep no prompts write `store_prompts: false`."
_PROVIDER_ZERO = "For no cap leave the key out; to use nothing of it, leave the provider out."
_ANY_MODEL = ModelFamily("*", "")  # Bounds of a model in no family, where the file names none.
_PROVIDER_ID = re.compile(r"[a-z][a-z0-9_-]{0,31}\Z")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}\Z")
# Without * ? [ ] and :, which have a meaning in the patterns of overrides.
_CATEGORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}\Z")
_HTTP_URL = re.compile(r"https?://[^\s/?#@]+(?:/[^\s?#@]*)?\Z")


def load_settings(text: str, source: str, *, home: Home | None = None) -> Settings:
    """Read models.yaml: our keys, and the predecessor's spellings of them.

    Args:
        source: what problems name as their file.
        home: where relative plan folders start; the one that this process's environment names when None.

    Raises:
        ConfigError: with every problem of the file at once.
    """
    findings = Findings(read_document(text, source))
    root = findings.root()
    settings = None if root is None else _settings(root, home or find_home(os.environ))
    if settings is None or findings.has_errors:
        raise ConfigError(findings.problems)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return replace(settings, source=source, digest=digest, warnings=findings.problems)


def _settings(root: Section, home: Home) -> Settings:
    _check_keys(root, "")
    providers = _providers(root)
    catalog = _Catalog(providers, root)
    caps = root.section("caps")
    _check_keys(caps, "caps")
    return Settings(
        providers=providers,
        models=catalog.models,  # One of a known family enters as a rule below names it.
        complexity_models=_complexity_models(root.section("complexity_models"), catalog),
        category_models=_category_models(root.section("category_models"), catalog),
        agent_models=_agent_models(root.section("agent_models"), catalog),
        fallback_strategy=_fallback_strategy(root.section("fallback_strategy"), catalog),
        quota_routing=_quota_routing(root.section("quota_routing")),
        high_risk=_high_risk(root.section("defaults"), catalog),
        global_caps=global_caps(caps),
        role_caps=role_caps(caps),
        alert_levels_percent=_alert_levels(root.section("alerts")),
        runs=_runs(root.section("runs")),
        plan_folders=_plan_folders(root, home),
        allow_inline_plans=root.flag("allow_inline_plans", default=False),
    )


def _check_keys(section: Section, place: str) -> None:
    section.refuse_unknown((*KEYS[place], *OLD_KEYS.get(place, ())), unimplemented=UNIMPLEMENTED_KEYS.get(place, ()))


# --- Providers ---------------------------------------------------------------------------------------------------


def _providers(root: Section) -> dict[str, ProviderSettings]:
    found: dict[str, list[Section]] = {}
    for place in ("providers", "provider_quotas"):
        for provider, section in _accounts(root.section(place)):
            found.setdefault(provider, []).append(section)
    if not found:
        root.error("providers", "no provider is configured. The least is `providers: {openai: {}}`.")
    providers = {provider: _provider(provider, sections) for provider, sections in found.items()}
    _refuse_doubled_accounts(providers, found)
    return providers


def _accounts(place: Section) -> Iterator[tuple[str, Section]]:
    """Each provider of ``providers`` or ``provider_quotas`` under its own id; a second spelling of one is refused."""
    spelling: dict[str, str] = {}
    for name, section in place.sections():
        provider = provider_id(name)
        if provider in spelling:
            first = spelling[provider]
            place.error(name, f"is the same account as {first!r} on line {place.line(first)}. Keep one, as {provider}.")
            continue
        spelling[provider] = name
        if not _PROVIDER_ID.match(provider):
            place.error(name, "a provider's id begins with a letter and has up to 32 small letters, digits, - and _.")
        elif provider != name:
            place.warn(name, f"is read as {provider}.")
        yield provider, section


def _provider(provider: str, sections: Sequence[Section]) -> ProviderSettings:
    """One account, whose keys may be spread over ``providers`` and the predecessor's ``provider_quotas``."""

    def at(key: str) -> Section:
        return spelled(sections, (key,))[0]

    for section in sections:
        _check_provider_keys(section)
    known = KNOWN_PROVIDERS.get(provider)
    sdk = at("sdk").choice("sdk", _APIS_OF_SDK, known.sdk if known else "openai")
    apis = _APIS_OF_SDK[sdk]
    return ProviderSettings(
        provider=provider,
        sdk=sdk,
        api=at("api").choice("api", apis, apis[0]),
        base_url=_base_url(at("base_url"), known if known and known.sdk == sdk else None),
        api_key_env=_key_variable(at("api_key_env"), known.api_key_env if known else None),
        caps=window_caps(sections, _PROVIDER_ZERO),
        autopack_share=_fraction(at("autopack_share"), "autopack_share", default=Decimal(1)),
        soft_limit_ratio=_fraction(at("soft_limit_ratio"), "soft_limit_ratio", default=Decimal("0.8")),
    )


def _check_provider_keys(section: Section) -> None:
    if "api_key" in section:
        section.error("api_key", "a key never stands in this file. Name its variable with api_key_env.")
    section.refuse_unknown((*KEYS["providers"], *OLD_KEYS["providers"], "api_key"))


def _base_url(section: Section, known: ProviderSettings | None) -> str | None:
    url = section.text("base_url", limit=500)
    if url is None:
        if known is None and "base_url" not in section:
            section.error(None, "needs a base_url: only openai, anthropic, google and glm are known without one.")
        return known.base_url if known else None
    if not _HTTP_URL.match(url):
        # The address is not repeated, because it may carry a password.
        message = "must be an address such as http://127.0.0.1:11434/v1, without user, password or query."
        section.error("base_url", message)
    return url


def _key_variable(section: Section, default: str | None) -> str | None:
    if "api_key_env" not in section:
        return None if "api_key_env" in section.names() else default
    name = section.value("api_key_env")
    if isinstance(name, str) and _VARIABLE.match(name):
        return name
    # The value is not repeated: it may be the key itself.
    section.error(
        "api_key_env", "must be the name of an environment variable (letters, digits, _), never the key itself."
    )
    return None


def _fraction(section: Section, key: str, *, default: Decimal) -> Decimal:
    fraction = section.decimal(key)
    if fraction is not None and not 0 < fraction <= 1:
        section.error(key, f"must be a fraction above 0 and at most 1 (0.8 is 80 %), not {shown(fraction)}.")
    return default if fraction is None else fraction


def _refuse_doubled_accounts(providers: Mapping[str, ProviderSettings], found: Mapping[str, Sequence[Section]]) -> None:
    """One address with one key is one account; two ids would be two budgets of it (contract 8)."""
    first_with: dict[tuple[str, str | None], str] = {}
    for provider, settings in providers.items():
        address = (settings.base_url or f"the vendor of the {settings.sdk} SDK").rstrip("/")
        first = first_with.setdefault((address, settings.api_key_env), provider)
        if first != provider:
            message = f"has the address and the key of {first}: two budgets of one account. Keep one of the two."
            found[provider][0].error(None, message)


# --- Models ------------------------------------------------------------------------------------------------------


class _Catalog:
    """The models that the file describes, and those of known families as rules name them."""

    def __init__(self, providers: Mapping[str, ProviderSettings], root: Section) -> None:
        self.models: dict[str, ModelSettings] = {}
        self._providers = providers
        self._aliases = frozenset(root.section("model_aliases").names())
        described = root.section("models")
        self._described = frozenset(described.names())
        for name, section in described.sections():
            model = self._read(name, section)
            if model is not None:
                self.models[name] = model

    def named(self, section: Section, key: str, name: str | None) -> str | None:
        """``name`` if it can be called, else None and a problem at ``key``; a family's model is added."""
        if name is None or name in self._described or name in self.models:
            return name
        model = family_model(name, self._providers)
        if model is None:
            section.error(key, self._objection(name))
            return None
        self.models[name] = model
        return name

    def _objection(self, name: str) -> str:
        family = family_of(name)
        if family is not None:
            missing = family.provider
            return f"{name!r} is a model of {missing}, which is not configured. Add `{missing}: {{}}` under providers."
        if name in self._aliases:
            return f"{name!r} stands in model_aliases, which are not followed here. Write the model's full name."
        hint = nearest(name, tuple(self.models))
        return f"{shown(name)} is no model that is known.{hint} Describe it under models, with its provider."

    def _read(self, name: str, section: Section) -> ModelSettings | None:
        if not _MODEL_NAME.match(name):
            section.error(None, "a model's name has up to 128 letters, digits and . _ : / @ + - and no spaces.")
        _check_keys(section, "models")
        provider = self._provider(name, section)
        bounds = family_of(name) or _ANY_MODEL
        output = section.whole("max_output_tokens") or bounds.max_output_tokens
        window = section.whole("context_window") or max(bounds.context_window, output)
        if output > window:
            section.error("max_output_tokens", f"does not fit into the context_window of {window:,} tokens.")
        price = _price(section.section("price"))
        return None if provider is None else ModelSettings(name, provider, output, window, price)

    def _provider(self, name: str, section: Section) -> str | None:
        named = section.text("provider", limit=_NAME_LIMIT)
        family = family_of(name)
        if named is None:
            if family is None and "provider" not in section:
                section.error(None, "needs its provider, because its name belongs to no family that is known.")
            provider = family.provider if family else None
        else:
            provider = provider_id(named)
        if provider is not None and provider not in self._providers:
            key = None if named is None else "provider"
            known = ", ".join(self._providers) or "none"
            section.error(key, f"its provider {shown(provider)} is not configured. Configured: {known}.")
            return None
        return provider


def _price(section: Section) -> ModelPrice | None:
    if not section.names():
        return None
    _check_keys(section, "price")
    amounts = {key: section.decimal(key) for key in KEYS["price"]}
    for key, amount in amounts.items():
        if amount is not None and amount < 0:
            section.error(key, f"must be dollars per million tokens, 0 or more, not {shown(amount)}.")
        elif amount is None and key in ("input", "output") and key not in section:
            section.error(None, f"needs {key}, in dollars per million tokens.")
    return ModelPrice(
        amounts["input"] or Decimal(0), amounts["output"] or Decimal(0), amounts["cache_read"], amounts["cache_write"]
    )


# --- Who answers what --------------------------------------------------------------------------------------------


def _complexity_models(section: Section, catalog: _Catalog) -> dict[str, RoleModels]:
    section.refuse_unknown(COMPLEXITIES)
    models: dict[str, RoleModels] = {}
    for complexity in COMPLEXITIES:
        rule = section.section(complexity)
        _check_keys(rule, "complexity_models")
        models[complexity] = RoleModels(*(catalog.named(rule, role, rule.text(role)) for role in ROLES))
        for role in ROLES:
            if role not in rule:
                section.warn(
                    complexity, f"names no {role}: a {complexity} phase without a rule of its category cannot run."
                )
    return models


def _category_models(section: Section, catalog: _Catalog) -> dict[str, RoleModels]:
    models: dict[str, RoleModels] = {}
    for category, rule in section.sections():
        _check_category(section, category, category)
        _check_keys(rule, "category_models")
        rule.text("description", lines=True)
        spots = [spelled((rule,), (role, f"{role}_model_override")) for role in ROLES]
        models[category] = RoleModels(*(catalog.named(rule, key, rule.text(key)) for _, key in spots))
    return models


def _agent_models(section: Section, catalog: _Catalog) -> dict[str, str]:
    models: dict[str, str] = {}
    for agent in section.names():
        if not _CATEGORY.match(agent):
            section.error(agent, "an agent's name has up to 64 letters, digits and . _ - and begins with no sign.")
        model = catalog.named(section, agent, section.text(agent))
        if model is not None:
            models[agent] = model
    return models


def _fallback_strategy(section: Section, catalog: _Catalog) -> FallbackStrategy:
    _check_keys(section, "fallback_strategy")
    by_category: dict[str, tuple[str, ...]] = {}
    rules = section.section("by_category")
    for category in rules.names():
        _check_category(rules, category, category)
        if isinstance(rules.value(category), list):
            by_category[category] = _chain(rules, category, catalog)
            continue
        rule = rules.section(category)
        _check_keys(rule, "by_category")
        by_category[category] = _chain(rule, "fallbacks", catalog)
    return FallbackStrategy(_chain(section, "default_fallbacks", catalog), by_category)


def _chain(section: Section, key: str, catalog: _Catalog) -> tuple[str, ...]:
    """A list of models, most wanted first; a second mention of one changes nothing."""
    names = (catalog.named(section, key, name) for _, name in section.numbered_texts(key))
    return tuple(dict.fromkeys(name for name in names if name is not None))


def _quota_routing(section: Section) -> QuotaRouting:
    _check_keys(section, "quota_routing")
    categories = section.texts("never_fallback_categories")
    for category in categories:
        _check_category(section, "never_fallback_categories", category)
    return QuotaRouting(
        enabled=section.flag("enabled", default=True),
        never_fallback_categories=frozenset(categories),
        critical_on_soft_limit=section.choice("critical_on_soft_limit", ("keep", "fail"), "keep"),
    )


def _high_risk(section: Section, catalog: _Catalog) -> RoleModels:
    _check_keys(section, "defaults")
    return RoleModels(*(catalog.named(section, key, section.text(key)) for key in KEYS["defaults"]))


def _check_category(section: Section, key: str, category: str) -> None:
    if not _CATEGORY.match(category):
        section.error(
            key, f"{shown(category)}: a category has up to 64 letters, digits and . _ - and begins with no sign."
        )


# --- The rest ----------------------------------------------------------------------------------------------------


def _alert_levels(section: Section) -> tuple[int, ...]:
    _check_keys(section, "alerts")
    if "levels_percent" not in section:
        return ALERT_LEVELS_PERCENT
    levels = section.items("levels_percent", limit=100)
    for level in levels:
        if not _is_percent(level):
            section.error("levels_percent", f"each level is a whole number from 1 to 100, not {shown(level)}.")
    return tuple(sorted({level for level in levels if isinstance(level, int)}))


def _is_percent(value: Value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 100


def _runs(section: Section) -> RunSettings:
    _check_keys(section, "runs")
    usual = RunSettings()
    return RunSettings(
        at_once=section.whole("at_once", most=_RUNS_LIMIT) or usual.at_once,
        per_repository=section.whole("per_repository", most=_RUNS_LIMIT) or usual.per_repository,
        store_prompts=section.flag("store_prompts", default=usual.store_prompts),
        keep_prompts_days=section.whole("keep_prompts_days", most=_DAYS_LIMIT, zero_hint=_KEEP_NONE)
        or usual.keep_prompts_days,
    )


def _plan_folders(root: Section, home: Home) -> tuple[Path, ...]:
    """Folders in which plans are found by name; relative ones start at AUTOPACK_HOME."""
    if "plan_folders" not in root:
        return (home.plans,)
    folders = []
    for _, folder in root.numbered_texts("plan_folders"):
        try:
            folders.append(home.path / Path(folder).expanduser())
        except RuntimeError:
            root.error("plan_folders", f"{shown(folder)}: there is no such user.")
    return tuple(folders)
