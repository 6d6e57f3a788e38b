"""ModelRouter: the precedence of rules, what a soft limit and a cap do to a choice, and reasons in words."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.budgets.standings import ProviderStanding
from autopack_mcp.config.settings import FallbackStrategy, QuotaRouting, RoleModels, Settings
from autopack_mcp.errors import NoRoute, OverrideRefused
from autopack_mcp.routing.model_router import (
    Candidate,
    ModelRouter,
    RouteDecision,
    RoutingSnapshot,
    allowed_choices,
    candidates,
    choose,
)
from tests.factories import NOON, model_settings, provider_settings, settings
from tests.routing.snapshots import ALLOWANCE, SOFT_LIMIT, keyless, override, snapshot, used

HIGH_RISK = settings(
    quota_routing=QuotaRouting(never_fallback_categories=frozenset({"security", "schema"})),
    high_risk=RoleModels("claude", "gpt-big"),
)
STOPS_EARLY = settings(
    quota_routing=QuotaRouting(never_fallback_categories=frozenset({"security"}), critical_on_soft_limit="fail")
)


def three_accounts(*chain: str) -> Settings:
    """A third account with two models, and this chain of fallbacks for every category."""
    glm = provider_settings(provider="glm", api_key_env="GLM_API_KEY")
    base = settings(glm)
    models = (*base.models.values(), model_settings("glm-cheap", "glm"), model_settings("glm-dear", "glm"))
    return replace(
        base, models={model.name: model for model in models}, fallback_strategy=FallbackStrategy(default=chain)
    )


def chosen(
    of: RoutingSnapshot, role: str = "builder", category: str = "general", complexity: str = "medium", **context: Any
) -> RouteDecision:
    return choose(of, role, category, complexity, context)


def answer_or_reason(of: RoutingSnapshot, role: str, category: str, complexity: str) -> RouteDecision | NoRoute:
    try:
        return choose(of, role, category, complexity)
    except NoRoute as error:
        return error


# --- precedence


@pytest.mark.parametrize(
    "role, category, complexity, model, rule",
    [
        pytest.param("builder", "general", "low", "gpt-small", "complexity", id="complexity"),
        pytest.param("builder", "unheard of", "high", "gpt-big", "complexity", id="unknown category"),
        pytest.param("builder", "security", "low", "claude", "category", id="category before complexity"),
        pytest.param("auditor", "security", "low", "gpt-big", "high risk default", id="high risk before complexity"),
        pytest.param("builder", "schema", "low", "claude", "high risk default", id="high risk without models"),
        pytest.param("agent:planner", "general", "low", "gpt-big", "agent", id="named agent"),
        pytest.param("agent:reviewer", "security", "low", "claude", "agent", id="any agent is the medium auditor"),
    ],
)
def test_baseline_answers(role: str, category: str, complexity: str, model: str, rule: str) -> None:
    decision = chosen(snapshot(config=HIGH_RISK), role, category, complexity)
    assert (decision.model, decision.rule, decision.blocked_by) == (model, rule, None)
    assert decision.provider == HIGH_RISK.models[model].provider
    assert len(decision.reasons) == 1


def test_run_override_beats_global_override_beats_category() -> None:
    of_run, for_all = override("gpt-small", "security:*"), override("gpt-big", "security:low", scope="global")
    both = snapshot(run_overrides=[of_run], global_overrides=[for_all])
    assert chosen(both, category="security", complexity="low").rule == "run override"
    only_global = snapshot(global_overrides=[for_all])
    assert chosen(only_global, category="security", complexity="low").rule == "global override"
    assert chosen(only_global, category="security", complexity="high").rule == "category"


def test_run_context_beats_the_overrides_of_the_run() -> None:
    of = snapshot(run_overrides=[override("gpt-big", "ui:low", "builder")])
    context = {"model_overrides": {"builder": {"ui:low": "claude"}}}
    assert choose(of, "builder", "ui", "low", context).model == "claude"
    assert choose(of, "auditor", "ui", "low", context).rule == "complexity"


def test_an_override_speaks_to_agents_too() -> None:
    of = snapshot(run_overrides=[override("gpt-small", role="agent:planner")])
    assert chosen(of, "agent:planner").rule == "run override"
    assert chosen(of, "agent:critic").rule == "agent"


def test_an_expired_override_is_as_if_it_were_not_there() -> None:
    of = snapshot(global_overrides=[override("claude", expires_at=NOON)])
    assert chosen(of).rule == "complexity"


def test_the_reason_names_the_override_and_its_author() -> None:
    of = snapshot(run_overrides=[override("claude", "ui:*", "builder")])
    assert chosen(of, category="ui").reasons == ("run override builder ui:* by ada",)


@pytest.mark.parametrize("role", ["janitor", "agent:", "", "Builder"])
def test_an_unknown_role_has_no_route_even_when_an_override_is_for_any_role(role: str) -> None:
    with pytest.raises(NoRoute, match="the role is not builder, auditor or agent:<name>"):
        chosen(snapshot(run_overrides=[override("claude")]), role)


@pytest.mark.parametrize(
    "config, role, complexity, why",
    [
        pytest.param(settings(), "builder", "huge", "complexity_models.huge names no builder", id="complexity"),
        pytest.param(
            settings(complexity_models={"low": RoleModels("gpt-small", None)}), "auditor", "low", "names no auditor",
            id="half a pair",
        ),
        pytest.param(settings(complexity_models={}), "agent:critic", "low", "no medium auditor", id="agent"),
        pytest.param(
            settings(complexity_models={"low": RoleModels("gone", None)}), "builder", "low", "not in the catalog",
            id="unknown model",
        ),
    ],
)  # fmt: skip
def test_no_route_says_which_rule_is_missing(config: Settings, role: str, complexity: str, why: str) -> None:
    with pytest.raises(NoRoute, match=why) as caught:
        chosen(snapshot(config=config), role, complexity=complexity)
    assert (caught.value.role, caught.value.complexity) == (role, complexity)


def test_an_override_with_an_unknown_model_has_no_route_and_is_never_another_one() -> None:
    with pytest.raises(NoRoute, match="run override rule names 'no-such-model'"):
        chosen(snapshot(), model_overrides={"builder": {"*": "no-such-model"}})


def test_a_model_of_a_known_family_needs_no_entry() -> None:
    decision = chosen(snapshot(), model_overrides={"builder": {"*": "claude-next"}})
    assert (decision.model, decision.provider) == ("claude-next", "anthropic")


def test_a_model_of_a_family_whose_account_is_not_configured_is_unknown() -> None:
    with pytest.raises(NoRoute, match="not in the catalog"):
        chosen(snapshot(), model_overrides={"builder": {"*": "glm-5"}})


# --- soft limits


@pytest.mark.parametrize(
    "tokens, model",
    [(SOFT_LIMIT - 1, "gpt-big"), (SOFT_LIMIT, "claude"), (SOFT_LIMIT + 1, "claude")],
    ids=["under", "at", "over"],
)
def test_the_soft_limit_reroutes_from_the_token_that_reaches_it(tokens: int, model: str) -> None:
    config = settings(fallback_strategy=FallbackStrategy(default=("claude",)))
    decision = chosen(snapshot(used(tokens), config=config))
    assert decision.model == model
    assert decision.rule == ("complexity" if model == "gpt-big" else "fallback")
    assert decision.replaces == (None if model == "gpt-big" else "gpt-big")


def test_a_rerouted_choice_says_why_and_what_was_passed_over() -> None:
    config = three_accounts("gpt-small", "glm-dear", "glm-cheap")
    prices = {"gpt-big": (4, 16), "glm-dear": (4, 17), "glm-cheap": (4, 16)}
    decision = chosen(snapshot(used(900), config=config, prices=prices))
    assert decision.model == "glm-cheap"
    assert decision.reasons == (
        "complexity medium uses gpt-big as builder",
        "openai's cap of the week is 90% used (soft limit 80%)",
        "not gpt-small: openai's cap of the week is 90% used (soft limit 80%)",
        "not glm-dear: it is dearer than gpt-big",
        "glm-cheap takes over from gpt-big",
    )


@pytest.mark.parametrize(
    "standing, prices, objection",
    [
        pytest.param(keyless("glm"), {"gpt-big": (4, 16), "glm-cheap": (1, 1)}, "GLM_API_KEY is not set", id="no key"),
        pytest.param(
            used(SOFT_LIMIT, "glm"), {"gpt-big": (4, 16), "glm-cheap": (1, 1)}, "glm's cap", id="its own soft limit"
        ),
        pytest.param(None, {"gpt-big": (4, 16), "glm-cheap": (5, 1)}, "dearer", id="dearer input"),
        pytest.param(None, {"gpt-big": (4, 16), "glm-cheap": (1, 17)}, "dearer", id="dearer output"),
        pytest.param(None, {"gpt-big": (4, 16)}, "the price of glm-cheap is unknown", id="unknown price"),
        pytest.param(
            None, {"glm-cheap": (0, 0)}, "the price of gpt-big is unknown", id="unknown price to compare with"
        ),
    ],
)
def test_a_fallback_is_weighed_against_its_own_account(
    standing: ProviderStanding | None, prices: dict[str, tuple[int, int]], objection: str
) -> None:
    standings = [used(900), *([standing] if standing else [])]
    decision = chosen(snapshot(*standings, config=three_accounts("glm-cheap"), prices=prices))
    assert (decision.model, decision.rule, decision.blocked_by) == ("gpt-big", "complexity", None)
    (said,) = [reason for reason in decision.reasons if reason.startswith("not glm-cheap: ")]
    assert objection in said
    assert decision.reasons[-1] == "no fallback is left, so gpt-big stays until the hard cap"


def test_a_fallback_as_dear_as_the_original_is_not_dearer() -> None:
    prices = {"gpt-big": (4, 16), "glm-cheap": (4, 16)}
    assert chosen(snapshot(used(900), config=three_accounts("glm-cheap"), prices=prices)).model == "glm-cheap"


def test_a_fallback_whose_reservation_was_just_denied_is_passed_over() -> None:
    config = three_accounts("glm-cheap", "glm-dear")
    prices = {"gpt-big": (4, 16), "glm-cheap": (1, 1), "glm-dear": (1, 1)}
    of = snapshot(used(900), config=config, prices=prices, denied_models=frozenset({"glm-cheap"}))
    assert chosen(of).model == "glm-dear"


def test_the_whole_chain_is_told_with_what_speaks_against_each_and_the_first_without_takes_over() -> None:
    config = three_accounts("gone", "gpt-big", "gpt-small", "glm-dear", "glm-cheap", "claude")
    prices = {"gpt-big": (4, 16), "gpt-small": (1, 4), "glm-dear": (5, 20), "glm-cheap": (1, 1), "claude": (4, 16)}
    of = snapshot(used(900), config=config, prices=prices)
    found = tuple(candidates(of, "general", "gpt-big"))
    assert found == (
        Candidate("gone", None, "it is not in the catalog"),
        Candidate("gpt-small", "openai", "openai's cap of the week is 90% used (soft limit 80%)"),
        Candidate("glm-dear", "glm", "it is dearer than gpt-big"),
        Candidate("glm-cheap", "glm", None),
        Candidate("claude", "anthropic", None),
    )
    assert chosen(of).model == "glm-cheap"


def test_a_fallback_that_is_not_in_the_catalog_is_passed_over() -> None:
    prices = {"gpt-big": (4, 16), "glm-cheap": (1, 1)}
    decision = chosen(snapshot(used(900), config=three_accounts("gone", "glm-cheap"), prices=prices))
    assert decision.model == "glm-cheap"
    assert "not gone: it is not in the catalog" in decision.reasons


def test_a_category_has_its_own_chain() -> None:
    chains = FallbackStrategy(default=("claude",), by_category={"docs": ()})
    of = snapshot(used(900), config=settings(fallback_strategy=chains))
    assert chosen(of).model == "claude"
    assert chosen(of, category="docs").model == "gpt-big"


@pytest.mark.parametrize("scope", ["run", "global"])
def test_a_persons_override_is_never_rerouted(scope: str) -> None:
    choice = override("gpt-big", scope=scope)
    where = {"run_overrides": [choice]} if scope == "run" else {"global_overrides": [choice]}
    config = settings(fallback_strategy=FallbackStrategy(default=("claude",)))
    decision = chosen(snapshot(used(ALLOWANCE - 1), config=config, **where))  # type: ignore[arg-type]  # by name
    assert (decision.model, decision.blocked_by) == ("gpt-big", None)
    assert decision.reasons[-1].endswith("a person chose this model, so it stays until the hard cap")


@pytest.mark.parametrize("config, stops", [(settings(), False), (STOPS_EARLY, True)], ids=["keep", "fail"])
@pytest.mark.parametrize("tokens, is_over", [(SOFT_LIMIT - 1, False), (SOFT_LIMIT, True), (SOFT_LIMIT + 1, True)])
def test_a_category_that_never_falls_back_keeps_its_model_or_stops(
    config: Settings, stops: bool, tokens: int, is_over: bool
) -> None:
    decision = chosen(snapshot(used(tokens, "anthropic"), config=config), category="security")
    assert (decision.model, decision.rule) == ("claude", "category")
    assert (decision.blocked_by is not None) == (stops and is_over)
    assert ("category security never falls back" in decision.reasons[-1]) == is_over


def test_a_used_up_cap_is_named_before_the_soft_limit() -> None:
    decision = chosen(snapshot(used(ALLOWANCE, "anthropic"), config=STOPS_EARLY), category="security")
    assert decision.blocked_by == "anthropic's cap of the week is used up (100%)"


def test_an_override_in_a_category_that_stops_early_goes_on_to_the_hard_cap() -> None:
    of = snapshot(used(900), config=STOPS_EARLY, run_overrides=[override("gpt-big", "security:*")])
    assert chosen(of, category="security").blocked_by is None


def test_with_quota_routing_off_nothing_is_rerouted() -> None:
    config = settings(
        fallback_strategy=FallbackStrategy(default=("claude",)), quota_routing=QuotaRouting(enabled=False)
    )
    decision = chosen(snapshot(used(900), config=config))
    assert (decision.model, len(decision.reasons)) == ("gpt-big", 1)


# --- what stops a call


@pytest.mark.parametrize(
    "tokens, blocked_by",
    [
        (ALLOWANCE - 1, None),
        (ALLOWANCE, "openai's cap of the week is used up (100%)"),
        (ALLOWANCE + 1, "openai's cap of the week is used up (100%)"),
    ],
)
def test_a_used_up_cap_blocks_an_override(tokens: int, blocked_by: str | None) -> None:
    decision = chosen(snapshot(used(tokens), run_overrides=[override("gpt-big")]))
    assert (decision.model, decision.blocked_by) == ("gpt-big", blocked_by)


def test_a_used_up_cap_is_no_obstacle_to_the_fallback_of_another_account() -> None:
    config = settings(fallback_strategy=FallbackStrategy(default=("claude",)))
    decision = chosen(snapshot(used(ALLOWANCE), config=config))
    assert (decision.model, decision.blocked_by) == ("claude", None)


def test_a_missing_key_blocks_and_names_the_variable() -> None:
    decision = chosen(snapshot(keyless()), model_overrides={"builder": {"*": "gpt-big"}})
    assert decision.blocked_by == "no API key: OPENAI_API_KEY is not set"


def test_allowed_choices_are_all_models_with_a_key_and_their_state() -> None:
    of = snapshot(used(SOFT_LIMIT), used(ALLOWANCE, "anthropic"))
    assert {choice.model: choice.state for choice in allowed_choices(of)} == {
        "gpt-big": "over its soft limit",
        "gpt-small": "over its soft limit",
        "claude": "cap reached",
    }
    assert [choice.model for choice in allowed_choices(snapshot(keyless()))] == ["claude"]


# --- always


_names = st.sampled_from(["gpt-big", "gpt-small", "claude", "gone", "claude-next"])
_maybe = st.none() | _names
_categories = st.sampled_from(["general", "ui", "security"])
_complexities = st.sampled_from(["low", "medium", "high", "huge"])
_pairs = st.builds(RoleModels, _maybe, _maybe)
_uses = st.builds(
    used,
    st.sampled_from([0, SOFT_LIMIT - 1, SOFT_LIMIT, ALLOWANCE, ALLOWANCE + 1]),
    st.sampled_from(["openai", "anthropic"]),
    missing_key=st.sampled_from([None, None, "A_KEY"]),
)
_overrides = st.lists(
    st.builds(
        override,
        _names,
        st.sampled_from(["*:*", "ui:low", "ui:*", "sec*:high"]),
        st.sampled_from(["*", "builder", "agent:*"]),
        override_id=st.integers(1, 99),
        expires_at=st.sampled_from([None, NOON, NOON + timedelta(seconds=1)]),
    ),
    max_size=3,
)
_configs = st.builds(
    settings,
    complexity_models=st.dictionaries(_complexities, _pairs),
    category_models=st.dictionaries(_categories, _pairs),
    agent_models=st.dictionaries(st.just("planner"), _names),
    fallback_strategy=st.builds(
        FallbackStrategy,
        st.lists(_names).map(tuple),
        st.dictionaries(_categories, st.lists(_names).map(tuple)),
    ),
    quota_routing=st.builds(QuotaRouting, st.booleans(), st.frozensets(_categories), st.sampled_from(["keep", "fail"])),
    high_risk=_pairs,
)
_prices = st.dictionaries(_names, st.tuples(st.integers(0, 5), st.integers(0, 5)))


@given(st.data())
def test_choosing_always_answers_or_names_its_reason(data: st.DataObject) -> None:
    of = snapshot(
        *data.draw(st.lists(_uses, max_size=2)),
        config=data.draw(_configs),
        run_overrides=data.draw(_overrides),
        global_overrides=data.draw(_overrides),
        prices=data.draw(_prices),
        denied_models=data.draw(st.frozensets(_names)),
    )
    role = data.draw(st.sampled_from(["builder", "auditor", "agent:planner", "agent:other", "janitor"]))
    question = (role, data.draw(_categories), data.draw(_complexities))
    decision = answer_or_reason(of, *question)
    if isinstance(decision, NoRoute):
        assert (decision.role, decision.category, decision.complexity) == question
        return
    assert decision == choose(of, *question)
    model = of.find_model(decision.model)
    assert model is not None
    assert decision.provider == model.provider
    assert all(decision.reasons)
    standing = of.standings[decision.provider]
    if standing.missing_key_variable or standing.exhausted_cap:
        assert decision.blocked_by
    if decision.rule == "fallback":
        assert decision.replaces not in (None, decision.model)
        assert decision.model not in of.denied_models
        assert (standing.soft_cap, standing.missing_key_variable) == (None, None)


# --- ModelRouter


def test_the_router_asks_for_the_snapshot_of_the_callers_context() -> None:
    asked: list[object] = []

    def give(run_context: object) -> RoutingSnapshot:
        asked.append(run_context)
        return snapshot()

    router = ModelRouter(give)
    context = {"run_id": "R1", "model_overrides": {"auditor": {"general": "gpt-big"}}}
    assert router.select_model("auditor", run_context=context).model == "gpt-big"
    assert router.select_model("builder").model == "gpt-big"
    assert asked == [context, {}]


def test_the_router_refuses_a_context_it_cannot_read() -> None:
    with pytest.raises(OverrideRefused):
        ModelRouter(lambda _: snapshot()).select_model("builder", run_context={"model_overrides": "gpt-big"})


def test_a_decision_equals_nothing_but_an_equal_decision() -> None:
    decision = chosen(snapshot())
    assert decision == chosen(snapshot())
    name: object = decision.model
    assert decision != name
    assert decision != replace(decision, blocked_by="no")
