"""One question in full: rules, caps, what would happen at 80 and 100 %, and the chain with its reasons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.budgets.standing_orders import StandingOrder, add_order
from autopack_mcp.config.settings import FallbackStrategy, QuotaRouting, Settings, WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.plans.plan import PhaseSpec
from autopack_mcp.routing.model_map import current_model_map, model_map_to_json
from autopack_mcp.routing.overrides import Override, add_override
from autopack_mcp.runs.own_caps import insert_phase_caps
from autopack_mcp.summary.explanation import ModelExplanation, explain_model
from autopack_mcp.summary.outlook import RoutingSources
from autopack_mcp.usage.prices import UnitPrices
from tests.factories import (
    NOON,
    held_against,
    insert_phase,
    insert_run,
    model_settings,
    provider_settings,
    settings,
    token_counts,
    usage_event,
)

WEEK = 1_000_000
PRICES = {"gpt-big": (4, 16), "gpt-small": (1, 4), "claude": (4, 16), "glm-cheap": (1, 1), "glm-dear": (9, 9)}


def accounts(*chain: str, **overrides: Any) -> Settings:
    """Openai with a cap of the day and one of the week, glm with one of the month; anthropic has none."""
    openai = provider_settings(WindowCap("day", WEEK), WindowCap("week", WEEK))
    glm = provider_settings(WindowCap("month", WEEK), provider="glm", api_key_env="GLM_API_KEY")
    models = {**settings().models}
    models |= {name: model_settings(name, "glm") for name in ("glm-cheap", "glm-dear")}
    return settings(openai, glm, models=models, fallback_strategy=FallbackStrategy(default=chain), **overrides)


def spend(database: Database, tokens: int, **facts: Any) -> None:
    event = usage_event(counts=token_counts(uncached_input=tokens, output=0), **facts)
    database.write_now(book_external, event, held_against(), NOON)


def explained(
    database: Database,
    of: Settings,
    role: str = "builder",
    category: str = "general",
    complexity: str = "medium",
    run_id: str | None = None,
    *,
    keyless: str = "",
    price: Callable[[str], UnitPrices | None] | None = None,
) -> ModelExplanation:
    def listed(model: str) -> UnitPrices | None:
        return UnitPrices(*map(Decimal, PRICES[model])) if model in PRICES else None

    sources = RoutingSources(of, lambda account: account.provider != keyless, price or listed)
    return database.read_now(explain_model, sources, NOON, role, category, complexity, run_id)


def ifs(found: ModelExplanation) -> list[tuple[float, tuple[str, ...], str, str | None, str]]:
    return [(one.percent, one.caps, one.happens, one.model, one.why) for one in found.what_ifs]


DAY_AND_WEEK = ("openai's cap of the day", "openai's cap of the week")


def test_at_the_soft_limit_and_at_the_cap_the_first_fallback_without_an_objection_answers(database: Database) -> None:
    found = explained(database, accounts("gpt-small", "glm-dear", "glm-cheap", "claude"))
    taken = (DAY_AND_WEEK, "rerouted", "glm-cheap", "glm-cheap takes over from gpt-big")
    assert ifs(found) == [(80.0, *taken), (100.0, *taken)]
    assert [(one.model, one.objection) for one in found.chain] == [
        ("gpt-small", "openai's cap of the day is 80% used (soft limit 80%)"),
        ("glm-dear", "it is dearer than gpt-big"),
        ("glm-cheap", None),
        ("claude", None),
    ]
    assert found.row.model == "gpt-big"


def test_where_no_fallback_is_left_the_model_stays_until_its_cap_denies(database: Database) -> None:
    found = explained(database, accounts("gpt-small"))
    why = "no fallback is left, so gpt-big stays until the hard cap"
    assert ifs(found) == [(80.0, DAY_AND_WEEK, "kept", "gpt-big", why), (100.0, DAY_AND_WEEK, "denied", None, why)]
    assert found.when_denied is not None
    assert found.when_denied.startswith("The run becomes budget_paused")


@pytest.mark.parametrize(
    "fail, soft, model, why",
    [
        ("keep", "kept", "claude", "category security never falls back, so claude stays until the hard cap"),
        ("fail", "denied", None, "category security never falls back and stops at the soft limit"),
    ],
)
def test_a_category_that_never_falls_back_keeps_its_model_or_stops_at_the_soft_limit(
    database: Database, fail: Any, soft: str, model: str | None, why: str
) -> None:
    quota = QuotaRouting(never_fallback_categories=frozenset({"security"}), critical_on_soft_limit=fail)
    anthropic = provider_settings(WindowCap("week", WEEK), provider="anthropic", api_key_env="ANTHROPIC_API_KEY")
    found = explained(database, settings(anthropic, quota_routing=quota), category="security")
    at_soft, at_cap = found.what_ifs
    assert (at_soft.percent, at_soft.happens, at_soft.model) == (80.0, soft, model)
    assert at_soft.why.startswith(why)
    assert (at_cap.percent, at_cap.happens) == (100.0, "denied")
    assert (found.chain, found.chain_note) == ((), "Category security never falls back.")


def test_a_persons_choice_stays_until_the_hard_cap(database: Database) -> None:
    database.write_now(add_override, Override(0, "global", "builder", "*", "*", "gpt-big", "ann", NOON), "test")
    found = explained(database, accounts("glm-cheap"))
    why = "a person chose this model, so it stays until the hard cap"
    assert ifs(found) == [(80.0, DAY_AND_WEEK, "kept", "gpt-big", why), (100.0, DAY_AND_WEEK, "denied", None, why)]
    assert found.chain_note == "A person chose this model, so no soft limit takes it away."


@pytest.mark.parametrize(
    "of, note",
    [
        (replace(accounts("glm-cheap"), quota_routing=QuotaRouting(enabled=False)), "quota_routing is off."),
        (accounts(), "Category general has no fallbacks."),
        (settings(), "openai has no cap, so no soft limit is ever reached."),
    ],
    ids=["switched off", "no chain", "no cap"],
)
def test_a_chain_that_is_never_asked_says_why(database: Database, of: Settings, note: str) -> None:
    found = explained(database, of)
    assert (found.chain, found.chain_note) == ((), note)


def test_with_quota_routing_off_nothing_takes_over(database: Database) -> None:
    found = explained(database, replace(accounts("glm-cheap"), quota_routing=QuotaRouting(enabled=False)))
    assert [(one.happens, one.why) for one in found.what_ifs] == [
        ("kept", "quota_routing is off, so nothing takes over from gpt-big"),
        ("denied", "quota_routing is off, so nothing takes over from gpt-big"),
    ]


def test_every_cap_that_the_call_must_fit_is_shown_with_its_use(database: Database) -> None:
    of = accounts(
        "glm-cheap", global_caps=(WindowCap("month", None, 10**9),), role_caps={"builder": (WindowCap("day", WEEK),)}
    )
    with_run(database, of, token_cap=WEEK)
    database.write_now(insert_phase_caps, "R1", (PhaseSpec("P1", "", "", token_cap=WEEK),))
    spend(database, 100_000, cost_nano=10**8)
    found = explained(database, of, run_id="R1")
    assert (found.phase_id, found.least_tokens) == ("P1", 16_000)
    shown = [(cap.kind, cap.label, cap.percent_of_cap or cap.percent_of_cap_usd) for cap in found.caps]
    assert shown == [
        ("provider", "openai's cap of the day", 10.0),
        ("provider", "openai's cap of the week", 10.0),
        ("role", "the builder's cap of the day", 10.0),
        ("global", "the cap of all calls of the month", 10.0),
        ("run", "the cap of run R1", 10.0),
        ("phase", "the cap of phase P1 of run R1", 10.0),
    ]
    assert [cap.soft_limit_percent for cap in found.caps] == [80.0, 80.0, None, None, None, None]
    (shared,) = [one for one in found.what_ifs if one.happens == "denied"]
    assert shared.caps == tuple(cap.label for cap in found.caps[2:])
    assert shared.why == "it counts every model alike, so no fallback helps"


def test_the_next_unfinished_phase_that_asks_this_is_the_one_that_is_explained(database: Database) -> None:
    with_run(database, accounts())
    database.write_now(insert_phase, 2, state="queued")
    assert explained(database, accounts(), run_id="R1").phase_id == "P1"
    assert explained(database, accounts(), complexity="high", run_id="R1").phase_id is None


def test_where_a_soft_limit_is_reached_both_accounts_are_shown_and_what_comes_next(database: Database) -> None:
    spend(database, WEEK * 9 // 10)
    found = explained(database, accounts("glm-cheap", "claude"))
    assert (found.row.model, found.row.replaces) == ("glm-cheap", "gpt-big")
    assert [cap.label for cap in found.caps] == [*DAY_AND_WEEK, "glm's cap of the month"]
    assert [one.objection for one in found.chain] == [None, None]
    assert [(one.percent, one.caps, one.model, one.is_reached) for one in found.what_ifs] == [
        (80.0, DAY_AND_WEEK, "glm-cheap", True),
        (80.0, ("glm's cap of the month",), "claude", False),
        (100.0, DAY_AND_WEEK, "glm-cheap", False),
        (100.0, ("glm's cap of the month",), "claude", False),
    ]


def test_without_a_key_every_if_fails_and_says_which_variable_is_missing(database: Database) -> None:
    found = explained(database, accounts(), keyless="openai")
    assert found.row.blocked_by == "no API key: OPENAI_API_KEY is not set"
    assert {(one.happens, one.model, one.why) for one in found.what_ifs} == {("fails", None, found.row.blocked_by)}


def test_an_unpriced_model_is_blocked_by_a_cap_in_dollars_whatever_is_used_of_it(database: Database) -> None:
    of = settings(provider_settings(WindowCap("week", nano_usd=10**9)))
    found = explained(database, of, price=lambda model: None)
    assert found.row.blocked_by is not None
    assert "the price of 'gpt-big' is unknown, so nothing can be promised" in found.row.blocked_by
    assert [one.happens for one in found.what_ifs] == ["denied", "denied"]


def test_a_standing_order_is_shown_and_comes_before_what_the_soft_limit_would_do(database: Database) -> None:
    wish = StandingOrder(
        0, "cancel", "provider", "percent", 80, None, "ann", "test", NOON, provider="openai", period="week"
    )
    database.write_now(add_order, wish)
    spend(database, WEEK // 2)
    found = explained(database, accounts("glm-cheap"))
    (shown,) = found.orders
    assert (shown.order_id, shown.action, shown.percent_reached) == (1, "cancel", 62.5)
    by_cap = {(one.percent, one.caps): one for one in found.what_ifs}
    assert by_cap[80.0, ("openai's cap of the day",)].happens == "rerouted"
    of_week = by_cap[80.0, ("openai's cap of the week",)]
    assert (of_week.happens, of_week.model) == ("cancelled", None)
    assert of_week.why.startswith("Standing order 1 (cancel any run when openai reaches 80 %")
    assert found.row.blocked_by is None


def test_an_order_in_dollars_only_pauses_while_the_price_is_unknown(database: Database) -> None:
    wish = StandingOrder(
        0, "cancel", "provider", "nano_usd", 10**9, None, "ann", "test", NOON, provider="openai", period="week"
    )
    database.write_now(add_order, wish)
    found = explained(database, accounts(), price=lambda model: None)
    assert {one.happens for one in found.what_ifs} == {"paused"}
    assert found.row.blocked_by is not None
    assert "Standing order 1 (cancel any run" in found.row.blocked_by


def test_an_agents_denial_is_told_to_who_asked(database: Database) -> None:
    found = explained(database, accounts("glm-cheap"), role="agent:planner")
    assert (found.when_denied, found.least_tokens) == ("Who asked gets QuotaExhausted.", None)


def test_words_of_others_are_shown_without_hidden_characters(database: Database) -> None:
    mine = Override(0, "global", "builder", "*", "*", "gpt-big", "ann\x1b[31m", NOON)
    database.write_now(add_override, mine, "test")
    found = explained(database, accounts())
    assert found.row.reasons == ("global override builder *:* by ann\\x1b[31m",)
    assert found.rules[1].why == "global override builder *:* by ann\\x1b[31m"


def test_a_question_without_an_answer_still_tells_every_rule(database: Database) -> None:
    found = explained(database, settings(complexity_models={}))
    assert (found.row.model, found.caps, found.what_ifs, found.when_denied) == (None, (), (), None)
    assert {rule.outcome for rule in found.rules} == {"silent"}
    assert len(found.choices) == 3


def with_run(database: Database, of: Settings, **facts: Any) -> None:
    model_map = model_map_to_json(current_model_map(of, ()))
    database.write_now(insert_run, **{"model_map": model_map, **facts})
    database.write_now(insert_phase)
