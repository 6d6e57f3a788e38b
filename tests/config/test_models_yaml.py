"""models.yaml: what each key means, in our spelling and the predecessor's, and what is said about a mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.config import models_yaml
from autopack_mcp.config.models_yaml import load_settings
from autopack_mcp.config.settings import (
    ModelPrice,
    ProviderSettings,
    QuotaRouting,
    RoleModels,
    RunSettings,
    Settings,
    WindowCap,
)
from autopack_mcp.config.shipped import default_config_text
from autopack_mcp.errors import ConfigError
from autopack_mcp.home import Home
from autopack_mcp.usage.prices import PriceBook

HOME = Home(Path("/home/ada/autopack"))
BOTH = "{builder: m, auditor: m}"
ROLES_COVERED = f"complexity_models: {{low: {BOTH}, medium: {BOTH}, high: {BOTH}}}"
SMALL = "providers: {openai: {}}\nmodels: {m: {provider: openai}}\n" + ROLES_COVERED + "\n"


def load(text: str) -> Settings:
    return load_settings(text, "models.yaml", home=HOME)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text)
    return [str(problem) for problem in caught.value.problems if problem.severity == "error"]


def warnings(text: str) -> list[str]:
    return [str(problem) for problem in load(text).warnings]


def provider(keys: str, name: str = "openai") -> ProviderSettings:
    return load(f"providers: {{{name}: {{{keys}}}}}\n").providers[name]


# --- The packaged default ---


def test_the_packaged_default_loads_without_a_word() -> None:
    settings = load(default_config_text())
    assert settings.warnings == ()
    assert set(settings.providers) == {"openai", "anthropic", "google", "glm"}
    assert settings.plan_folders == (HOME.plans,)
    assert settings.allow_inline_plans is False
    assert settings.alert_levels_percent == (80, 90)


def test_the_packaged_default_knows_the_predecessors_categories() -> None:
    assert load(default_config_text()).categories >= {
        "external_feature_reuse",
        "external_feature_reuse_remote",
        "external_feature_reuse_internal",
        "security_auth_change",
        "schema_contract_change",
        "schema_contract_change_destructive",
        "schema_contract_change_additive",
        "core_backend",
        "core_backend_high",
        "docs",
        "tests",
        "general",
    }


def test_every_model_of_the_packaged_default_has_a_price() -> None:
    settings = load(default_config_text())
    addresses = {name: each.base_url for name, each in settings.providers.items() if each.base_url}
    book = PriceBook({}, addresses)
    at = datetime(2026, 11, 20, tzinfo=UTC)
    unpriced = [
        model.name for model in settings.models.values() if book.unit_prices(model.provider, model.name, at) is None
    ]
    assert unpriced == []


def test_every_account_of_the_packaged_default_has_a_weekly_cap() -> None:
    for each in load(default_config_text()).providers.values():
        assert [cap.window for cap in each.caps] == ["week"]


# --- Providers ---


def test_a_known_provider_needs_nothing_said_about_it() -> None:
    settings = load("providers:\n  openai:\n  anthropic: {}\n  google: {}\n  glm: {}\n")
    found = {
        name: (each.sdk, each.api, each.base_url is None, each.api_key_env) for name, each in settings.providers.items()
    }
    assert found == {
        "openai": ("openai", "chat", True, "OPENAI_API_KEY"),
        "anthropic": ("anthropic", "messages", True, "ANTHROPIC_API_KEY"),
        "google": ("openai", "chat", False, "GOOGLE_API_KEY"),
        "glm": ("openai", "chat", False, "GLM_API_KEY"),
    }


def test_caps_are_read_by_window_in_tokens_and_dollars() -> None:
    caps = provider("daily_cap_tokens: 1_000, weekly_cap_tokens: 5000, weekly_cap_usd: 2.5, monthly_cap_usd: 40").caps
    assert caps == (
        WindowCap("day", 1_000, None),
        WindowCap("week", 5_000, 2_500_000_000),
        WindowCap("month", None, 40_000_000_000),
    )


def test_share_and_soft_limit_are_exact_fractions() -> None:
    each = provider("autopack_share: 0.1, soft_limit_ratio: 0.75")
    assert (each.autopack_share, each.soft_limit_ratio) == (Decimal("0.1"), Decimal("0.75"))
    assert each.allowance(1_000_009) == 100_000


def test_a_server_of_ones_own_needs_only_an_address() -> None:
    each = provider("base_url: 'http://127.0.0.1:11434/v1'", name="ollama")
    assert (each.sdk, each.api, each.api_key_env) == ("openai", "chat", None)


@pytest.mark.parametrize("value", ["null", "~", ""])
def test_a_known_provider_can_be_told_that_it_needs_no_key(value: str) -> None:
    assert provider(f"api_key_env: {value}").api_key_env is None


@pytest.mark.parametrize(
    "spelling, expected",
    [
        ("google_gemini", "google"),
        ("gemini", "google"),
        ("zhipu_glm", "glm"),
        ("OpenAI", "openai"),
        ("Ollama", "ollama"),
    ],
)
def test_other_spellings_of_a_provider_are_read_as_its_id_with_a_notice(spelling: str, expected: str) -> None:
    text = f"providers: {{{spelling}: {{base_url: 'http://h/v1'}}}}\n"
    assert list(load(text).providers) == [expected]
    assert f"models.yaml:1: warning: providers.{spelling}: is read as {expected}." in warnings(text)


def test_two_spellings_of_one_account_are_refused() -> None:
    assert problems("providers:\n  google: {}\n  google_gemini: {}\n") == [
        "models.yaml:3: error: providers.google_gemini: is the same account as 'google' on line 2. Keep one, as google."
    ]


def test_two_ids_for_one_address_and_key_are_refused() -> None:
    text = "providers:\n  openai: {}\n  mine: {base_url: 'http://h/v1'}\n  other: {base_url: 'http://h/v1/'}\n"
    assert problems(text) == [
        (
            "models.yaml:4: error: providers.other: has the address and the key of mine: two budgets of one account. "
            "Keep one of the two."
        )
    ]


def test_one_address_with_two_keys_is_two_accounts() -> None:
    account = "{base_url: 'https://h/v1', api_key_env: KEY}"
    text = f"providers: {{team: {account}, me: {account.replace('KEY', 'MY_KEY')}}}"
    assert set(load(text).providers) == {"team", "me"}


@pytest.mark.parametrize(
    "keys, expected",
    [
        ("weekly_cap_tokens: 0", "weekly_cap_tokens: must be at least 1, not 0. For no cap leave the key out"),
        ("weekly_cap_tokens: -1", "weekly_cap_tokens: must be at least 1, not -1."),
        ("weekly_cap_tokens: many", "weekly_cap_tokens: must be a whole number, not 'many'."),
        ("daily_cap_usd: 0", "daily_cap_usd: must be an amount of dollars above 0, not 0."),
        ("autopack_share: 0", "autopack_share: must be a fraction above 0 and at most 1 (0.8 is 80 %), not 0."),
        ("autopack_share: 1.01", "autopack_share: must be a fraction above 0 and at most 1 (0.8 is 80 %), not 1.01."),
        ("soft_limit_ratio: 80", "soft_limit_ratio: must be a fraction above 0 and at most 1 (0.8 is 80 %), not 80."),
        ("sdk: cohere", "sdk: must be openai or anthropic, not 'cohere'."),
        ("api: messages", "api: must be chat or responses, not 'messages'."),
        ("weekly_cap_token: 1", "weekly_cap_token: is not known here. Did you mean 'weekly_cap_tokens'?"),
        ("base_url: 'ftp://h'", "base_url: must be an address such as"),
        ("api_key: sk-123", "api_key: a key never stands in this file. Name its variable with api_key_env."),
    ],
)
def test_a_mistake_in_a_provider_is_said_with_its_key(keys: str, expected: str) -> None:
    (problem,) = problems(f"providers:\n  openai: {{{keys}}}\n")
    assert problem.startswith(f"models.yaml:2: error: providers.openai.{expected}")


@pytest.mark.parametrize("ratio", ["0.0001", "1", "1.0"])
def test_a_share_may_be_all_of_it_or_very_little(ratio: str) -> None:
    assert provider(f"autopack_share: {ratio}").autopack_share == Decimal(ratio)


@pytest.mark.parametrize(
    "keys",
    [
        "api_key: sk-proj-SECRET",
        "api_key_env: sk-proj-SECRET",
        "api_key_env: 'two SECRET words'",
        "api_key_env: [SECRET]",
        "base_url: 'https://user:SECRET@h/v1'",
        "base_url: 'https://h/v1?key=SECRET'",
    ],
)
def test_a_key_that_stands_where_none_may_is_not_repeated(keys: str) -> None:
    found = problems(f"providers: {{openai: {{{keys}}}}}\n")
    assert len(found) == 1
    assert "SECRET" not in found[0]


def test_an_unknown_provider_without_an_address_is_refused() -> None:
    assert problems("providers: {ollama: {}}\n") == [
        (
            "models.yaml:1: error: providers.ollama: needs a base_url: only openai, anthropic, google and glm are "
            "known without one."
        )
    ]


@pytest.mark.parametrize("text", ["complexity_models: {}\n", "providers: {}\n", "providers:\n"])
def test_a_file_without_any_provider_is_refused(text: str) -> None:
    assert any("no provider is configured" in problem for problem in problems(text))


# --- Models ---


def test_a_model_is_read_with_its_bounds_and_price() -> None:
    model = load(
        "providers: {openai: {}}\nmodels: {m/x:1: {provider: OpenAI, max_output_tokens: 5, context_window: 9, "
        "price: {input: 1.25, output: 10, cache_read: 0.1}}}\n"
    ).models["m/x:1"]
    assert (model.provider, model.max_output_tokens, model.context_window) == ("openai", 5, 9)
    assert model.price == ModelPrice(Decimal("1.25"), Decimal(10), Decimal("0.1"), None)


@pytest.mark.parametrize(
    "keys, expected",
    [
        ("{}", "models.local: needs its provider, because its name belongs to no family that is known."),
        ("{provider: glm}", "models.local.provider: its provider 'glm' is not configured. Configured: openai."),
        ("{provider: openai, max_output_tokens: 0}", "models.local.max_output_tokens: must be at least 1, not 0."),
        (
            "{provider: openai, max_output_tokens: 10, context_window: 9}",
            "models.local.max_output_tokens: does not fit into the context_window of 9 tokens.",
        ),
        ("{provider: openai, price: {input: 1}}", "models.local.price: needs output, in dollars per million tokens."),
        (
            "{provider: openai, price: {input: 1, output: -1}}",
            "models.local.price.output: must be dollars per million tokens, 0 or more, not -1.",
        ),
        ("{provider: openai, prise: {}}", "models.local.prise: is not known here. Did you mean 'price'?"),
    ],
)
def test_a_mistake_in_a_model_is_said_with_its_key(keys: str, expected: str) -> None:
    assert problems(f"providers: {{openai: {{}}}}\nmodels:\n  local: {keys}\n") == [f"models.yaml:3: error: {expected}"]


def test_a_model_of_a_known_family_needs_no_entry() -> None:
    settings = load(
        "providers: {openai: {}, anthropic: {}}\n"
        "defaults: {high_risk_builder: gpt-4o, high_risk_auditor: claude-opus-4-5}\n"
    )
    assert {model.name: model.provider for model in settings.models.values()} == {
        "gpt-4o": "openai",
        "claude-opus-4-5": "anthropic",
    }
    assert settings.models["gpt-4o"].max_output_tokens <= 16_384


@pytest.mark.parametrize(
    "place",
    [
        "complexity_models: {low: {builder: X}}",
        "complexity_models: {high: {auditor: X}}",
        "category_models: {docs: {builder: X}}",
        "category_models: {docs: {auditor_model_override: X}}",
        "agent_models: {planner: X}",
        "defaults: {high_risk_builder: X}",
        "fallback_strategy: {default_fallbacks: [X]}",
        "fallback_strategy: {by_category: {docs: {fallbacks: [X]}}}",
        "fallback_strategy: {by_category: {docs: [X]}}",
    ],
)
@pytest.mark.parametrize(
    "name, expected",
    [
        ("mystery", "'mystery' is no model that is known. Describe it under models, with its provider."),
        (
            "gpt-6.1-soul",
            "'gpt-6.1-soul' is a model of openai, which is not configured. Add `openai: {}` under providers.",
        ),
        ("claude-sonnet-5-6", ""),
        (
            "locall",
            "'locall' is no model that is known. Did you mean 'local'? Describe it under models, with its provider.",
        ),
        ("sonnet", "'sonnet' stands in model_aliases, which are not followed here. Write the model's full name."),
    ],
)
def test_a_model_that_cannot_be_called_is_an_error_wherever_it_is_named(place: str, name: str, expected: str) -> None:
    text = (
        "providers: {anthropic: {}}\nmodels: {local: {provider: anthropic}}\n"
        f"model_aliases: {{sonnet: claude-sonnet-5-5}}\n{place.replace('X', name)}\n"
    )
    if not expected:
        assert name in load(text).models
        return
    (problem,) = problems(text)
    assert problem.startswith("models.yaml:4: error: ")
    assert problem.endswith(expected)


# --- Who answers what ---


def test_both_spellings_of_a_category_mean_the_same() -> None:
    text = SMALL + "category_models:\n  docs: {description: words, builder_model_override: m}\n  tests: {auditor: m}\n"
    assert load(text).category_models == {"docs": RoleModels("m", None), "tests": RoleModels(None, "m")}


def test_two_spellings_that_differ_are_refused() -> None:
    text = SMALL + "category_models:\n  docs:\n    builder: m\n    builder_model_override: gpt-4o\n"
    assert problems(text) == [
        (
            "models.yaml:7: error: category_models.docs.builder_model_override: says something else than builder on "
            "line 6. Keep one."
        )
    ]


def test_fallbacks_keep_their_order_and_a_category_may_list_them_plainly() -> None:
    strategy = load(
        SMALL
        + "fallback_strategy:\n  default_fallbacks: [gpt-5, m, gpt-5]\n"
        + "  by_category: {docs: [m], tests: {fallbacks: []}}\n"
    ).fallback_strategy
    assert strategy.default == ("gpt-5", "m")
    assert strategy.chain("docs") == ("m",)
    assert strategy.chain("tests") == ()
    assert strategy.chain("other") == ("gpt-5", "m")


def test_quota_routing_is_read() -> None:
    quota = load(
        SMALL + "quota_routing: {enabled: false, never_fallback_categories: [a, b], critical_on_soft_limit: fail}\n"
    ).quota_routing
    assert quota == QuotaRouting(
        enabled=False, never_fallback_categories=frozenset({"a", "b"}), critical_on_soft_limit="fail"
    )


def test_a_rule_that_answers_for_nobody_is_a_warning() -> None:
    text = "providers: {openai: {}}\ncomplexity_models:\n  low: {builder: o3, auditor: o3}\n  medium: {builder: o3}\n"
    assert warnings(text) == [
        (
            "models.yaml:2: warning: complexity_models.high: names no builder: a high phase without a rule of its "
            "category cannot run."
        ),
        (
            "models.yaml:2: warning: complexity_models.high: names no auditor: a high phase without a rule of its "
            "category cannot run."
        ),
        (
            "models.yaml:4: warning: complexity_models.medium: names no auditor: a medium phase without a rule of its "
            "category cannot run."
        ),
    ]


@pytest.mark.parametrize(
    "line, expected",
    [
        ("complexity_models: {hard: {}}", "complexity_models.hard: is not known here. Known: low, medium, high."),
        ("category_models: {'ui*': {}}", "category_models.ui*: 'ui*': a category has up to 64"),
        (
            "quota_routing: {never_fallback_categories: ['a:b']}",
            "quota_routing.never_fallback_categories: 'a:b': a cat",
        ),
        ("fallback_strategy: {by_category: {'a*': [m]}}", "fallback_strategy.by_category.a*: 'a*': a category has"),
        ("quota_routing: {critical_on_soft_limit: stop}", "quota_routing.critical_on_soft_limit: must be keep or fail"),
        ("runs: {at_once: 0}", "runs.at_once: must be from 1 to 64, not 0."),
        ("runs: {per_repository: 65}", "runs.per_repository: must be from 1 to 64, not 65."),
        ("runs: {store_prompts: maybe}", "runs.store_prompts: must be true or false, not 'maybe'."),
        (
            "runs: {keep_prompts_days: 0}",
            "runs.keep_prompts_days: must be from 1 to 36,500, not 0. To keep no prompts write `store_prompts: false`.",
        ),
        (
            "alerts: {levels_percent: [80, 0]}",
            "alerts.levels_percent: each level is a whole number from 1 to 100, not 0",
        ),
        (
            "alerts: {levels_percent: [101]}",
            "alerts.levels_percent: each level is a whole number from 1 to 100, not 101",
        ),
        (
            "alerts: {levels_percent: [0.8]}",
            "alerts.levels_percent: each level is a whole number from 1 to 100, not 0.8",
        ),
        ("alerts: {levels_percent: 80}", "alerts.levels_percent: must be a list, not 80."),
        ("allow_inline_plans: 1", "allow_inline_plans: must be true or false, not 1."),
        ("plan_folders: here", "plan_folders: must be a list, not 'here'."),
        ("plan_folders: ['~no-such-user-here/x']", "plan_folders: '~no-such-user-here/x': there is no such user."),
        ("modles: {}", "modles: is not known here. Did you mean 'models'?"),
        ("agent_models: {'a b': m}", "agent_models.'a b': an agent's name has up to 64"),
        ("agent_models: [m]", "agent_models: must hold keys and values, not a list."),
    ],
)
def test_a_mistake_anywhere_else_is_said_with_its_key(line: str, expected: str) -> None:
    text = SMALL.replace(ROLES_COVERED, "") if line.startswith("complexity") else SMALL
    (problem,) = problems(text + line + "\n")
    assert problem.split("error: ")[1].startswith(expected)


def test_alert_levels_are_sorted_and_without_doubles() -> None:
    assert load(SMALL + "alerts: {levels_percent: [90, 50, 90]}\n").alert_levels_percent == (50, 90)


@pytest.mark.parametrize(
    "line, expected",
    [
        ("", (HOME.plans,)),
        ("plan_folders: []", ()),
        ("plan_folders: [mine, /srv/plans]", (HOME.path / "mine", Path("/srv/plans"))),
        ("plan_folders: ['~/plans']", (Path.home() / "plans",)),
    ],
    ids=["default", "none", "relative and absolute", "home"],
)
def test_plan_folders_start_at_the_home_of_autopack(line: str, expected: tuple[Path, ...]) -> None:
    assert load(SMALL + line + "\n").plan_folders == expected


# --- The predecessor ---

PREDECESSOR = """
complexity_models:
  low: {builder: claude-sonnet-4-5, auditor: claude-sonnet-4-5}
  medium: {builder: claude-sonnet-4-5, auditor: claude-sonnet-4-5}
  high: {builder: claude-sonnet-4-5, auditor: claude-sonnet-4-5, escalation_auditor: claude-opus-4-5}
category_models:
  security_auth_change:
    description: Security or auth code
    builder_model_override: claude-sonnet-4-5
    auditor_model_override: claude-opus-4-5
    secondary_auditor: gpt-4o
provider_quotas:
  openai: {weekly_token_cap: 50000000, soft_limit_ratio: 0.8}
  anthropic: {weekly_token_cap: 10000000, soft_limit_ratio: 0.9}
  zhipu_glm: {weekly_token_cap: 20000000}
quota_routing: {enabled: true, never_fallback_categories: [security_auth_change]}
fallback_strategy:
  by_category: {tests: {fallbacks: [glm-4.6]}}
  default_fallbacks: [claude-sonnet-4-5]
defaults: {high_risk_builder: gpt-4o, high_risk_auditor: gpt-4o}
escalation_chains: {builder: {low: {models: [claude-sonnet-4-5]}}}
llm_routing_policies: {docs: {strategy: progressive}}
model_aliases: {sonnet: claude-sonnet-4-5}
"""


def test_a_file_of_the_predecessor_loads_and_names_what_does_nothing() -> None:
    settings = load(PREDECESSOR)
    assert settings.category_models["security_auth_change"] == RoleModels("claude-sonnet-4-5", "claude-opus-4-5")
    assert settings.providers["anthropic"].caps == (WindowCap("week", 10_000_000),)
    assert settings.providers["anthropic"].soft_limit_ratio == Decimal("0.9")
    assert settings.high_risk == RoleModels("gpt-4o", "gpt-4o")
    assert settings.fallback_strategy.chain("tests") == ("glm-4.6",)
    assert {problem.where for problem in settings.warnings} == {
        "provider_quotas.zhipu_glm",
        "complexity_models.high.escalation_auditor",
        "category_models.security_auth_change.secondary_auditor",
        "escalation_chains",
        "llm_routing_policies",
        "model_aliases",
    }


def test_the_same_settings_come_from_json() -> None:
    text = PREDECESSOR[PREDECESSOR.index("defaults") : PREDECESSOR.index("escalation_chains")]
    as_json = json.dumps(
        {"provider_quotas": {"openai": {}}, "defaults": {"high_risk_builder": "gpt-4o", "high_risk_auditor": "gpt-4o"}}
    )
    assert load(as_json).high_risk == load("provider_quotas: {openai: {}}\n" + text).high_risk


def test_an_account_spread_over_both_spellings_is_one() -> None:
    text = (
        "providers:\n  gemini: {autopack_share: 0.5}\n"
        "provider_quotas:\n  google_gemini: {weekly_token_cap: 100, soft_limit_ratio: 0.6}\n"
    )
    each = load(text).providers["google"]
    assert (each.caps, each.autopack_share, each.soft_limit_ratio) == (
        (WindowCap("week", 100),),
        Decimal("0.5"),
        Decimal("0.6"),
    )


def test_two_places_that_disagree_about_a_cap_are_refused() -> None:
    text = "providers:\n  openai:\n    weekly_cap_tokens: 5\nprovider_quotas:\n  openai:\n    weekly_token_cap: 6\n"
    assert problems(text) == [
        (
            "models.yaml:6: error: provider_quotas.openai.weekly_token_cap: says something else than weekly_cap_tokens "
            "on line 3. Keep one."
        )
    ]


# --- The whole file ---


def test_every_problem_is_reported_at_once_with_its_line() -> None:
    text = """providers:
  openai:
    weekly_cap_tokens: 0
    autopack_share: 2
  openAI: {}
models:
  local: {provider: nobody}
complexity_models:
  low: {builder: mystery}
quota_routing:
  enabled: maybe
whatever: 1
"""
    lines = [int(problem.split(":")[1]) for problem in problems(text)]
    assert lines == [3, 4, 5, 7, 9, 11, 12]


@pytest.mark.parametrize(
    "text", ["", "[]", "- a\n", "text", "a: [", "\x00", "providers: {openai: {}}\nproviders: {}\n"]
)
def test_what_is_no_config_is_one_error(text: str) -> None:
    assert len(problems(text)) == 1


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(sorted({key for keys in models_yaml.KEYS.values() for key in keys} | {"openai"})), inner
            )
        ),
        max_leaves=30,
    )
)
def test_no_shape_of_values_makes_the_loader_raise_anything_else(data: object) -> None:
    with suppress(ConfigError):
        load(json.dumps(data))


def test_the_digest_and_the_source_say_which_text_it_was() -> None:
    first, second = load(SMALL), load(SMALL + "\n")
    assert first.source == "models.yaml"
    assert first.digest != second.digest
    assert load(SMALL).digest == first.digest


def test_reading_a_config_imports_nothing_heavy() -> None:
    code = (
        "import sys; from autopack_mcp.config.config_file import find_config; from autopack_mcp.home import find_home; "
        "find_config(None, find_home({'AUTOPACK_HOME': '/nonexistent'})).current(); "
        "heavy = {'pydantic', 'sqlalchemy', 'genai_prices', 'openai', 'anthropic', 'mcp', 'difflib', 'dotenv'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_every_key_that_the_loader_knows_is_in_the_reference() -> None:
    reference = (Path(__file__).parents[2] / "docs" / "config.md").read_text(encoding="utf-8")
    known = {
        key
        for table in (models_yaml.KEYS, models_yaml.OLD_KEYS, models_yaml.UNIMPLEMENTED_KEYS)
        for keys in table.values()
        for key in keys
    }
    assert sorted(key for key in known if f"`{key}`" not in reference) == []


def test_how_runs_share_a_machine_has_defaults_and_can_be_said() -> None:
    assert load(SMALL).runs == RunSettings(at_once=4, per_repository=2, store_prompts=True, keep_prompts_days=30)
    said = "runs: {at_once: 8, per_repository: 1, store_prompts: false, keep_prompts_days: 7}\n"
    assert load(SMALL + said).runs == RunSettings(8, 1, False, 7)
