"""The order of the rules, and what each of them says of itself: one decides, others are silent or overruled."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from autopack_mcp.config.settings import QuotaRouting, RoleModels, Settings
from autopack_mcp.errors import NoRoute
from autopack_mcp.routing.model_router import RoutingSnapshot, choose
from autopack_mcp.routing.overrides import Override
from autopack_mcp.routing.precedence import TriedRule, rules_tried
from tests.factories import NOON, settings
from tests.routing.snapshots import snapshot


def override(model: str, pattern: str = "*:*", role: str = "builder", number: int = 1, **facts: Any) -> Override:
    category, _, complexity = pattern.partition(":")
    return Override(number, facts.pop("scope", "run"), role, category, complexity, model, "ann", NOON, **facts)


def said(of: RoutingSnapshot, role: str = "builder", category: str = "general", complexity: str = "low") -> list[str]:
    return [f"{one.rule}: {one.outcome}: {one.why}" for one in rules_tried(of, role, category, complexity)]


def test_every_rule_says_why_it_does_not_decide() -> None:
    assert said(snapshot()) == [
        "run override: silent: there is none",
        "global override: silent: there is none",
        "category: silent: category_models has no general",
        "high risk default: silent: general is not one of the never_fallback_categories",
        "complexity: decided: complexity low uses gpt-small as builder",
    ]


def test_lower_rules_are_overruled_and_still_say_what_they_would_name() -> None:
    config = settings(
        category_models={"docs": RoleModels("claude", None)},
        high_risk=RoleModels("gpt-big", None),
        quota_routing=QuotaRouting(never_fallback_categories=frozenset({"docs"})),
    )
    of = snapshot(config=config, run_overrides=[override("gpt-small", "docs:*")])
    assert said(of, category="docs") == [
        "run override: decided: run override builder docs:* by ann",
        "global override: silent: there is none",
        "category: overruled: would name claude, but a higher rule decides",
        "high risk default: overruled: would name gpt-big, but a higher rule decides",
        "complexity: overruled: would name gpt-small, but a higher rule decides",
    ]


def test_a_silent_override_scope_says_how_many_speak_of_something_else_and_how_many_have_expired() -> None:
    ended = override("claude", expires_at=NOON)
    of = snapshot(
        run_overrides=[override("claude", "ui:*"), override("claude", "*:high"), ended],
        global_overrides=[replace(ended, scope="global")],
    )
    assert said(of)[:2] == [
        "run override: silent: none of the 2 speaks of builder general:low (1 expired)",
        "global override: silent: there is none (1 expired)",
    ]


@pytest.mark.parametrize(
    "second, why",
    [
        (override("claude", "*:low"), "it has no wildcard"),
        (override("claude", "general:*"), "it has no wildcard"),
        (override("claude", "general:low", role="*"), "it names the role"),
        (override("claude", "general:low", number=0), "it is newer"),
    ],
    ids=["a glob", "a longer glob", "any role", "older"],
)
def test_of_two_overrides_the_winner_says_by_what_it_wins(second: Override, why: str) -> None:
    decided = rules_tried(
        snapshot(run_overrides=[second, override("gpt-big", "general:low")]), "builder", "general", "low"
    )[0]
    assert decided.model == "gpt-big"
    asked = f"{second.role} {second.pattern} → claude"
    assert decided.why == f"run override builder general:low by ann; it goes before {asked} because {why}"


def test_more_literal_patterns_win_and_the_rest_is_counted() -> None:
    of = snapshot(
        run_overrides=[override("claude", "*:*"), override("gpt-big", "gen*:low"), override("gpt-small", "*:low")]
    )
    decided = rules_tried(of, "builder", "general", "low")[0]
    assert decided.why.endswith(
        "before builder *:low → gpt-small because its pattern is more literal, and before 1 more"
    )


@pytest.mark.parametrize(
    "config, category, expected",
    [
        (settings(), "security", TriedRule("category", "silent", None, "category_models.security names no auditor")),
        (
            settings(),
            "security",
            TriedRule("high risk default", "silent", None, "defaults.high_risk_auditor is not set"),
        ),
    ],
    ids=["a category that names only the other role", "a high risk category without a default"],
)
def test_a_rule_that_names_the_other_role_says_so(config: Settings, category: str, expected: TriedRule) -> None:
    assert expected in rules_tried(snapshot(config=config), "auditor", category, "low")


def test_an_agent_is_answered_by_its_own_model_or_by_the_medium_auditor() -> None:
    assert [line for line in said(snapshot(), "agent:planner") if "override" not in line] == [
        "agent: decided: agent_models names planner",
        "agent: overruled: would name claude, but a higher rule decides",
    ]
    assert [line for line in said(snapshot(), "agent:other") if "override" not in line] == [
        "agent: silent: agent_models has no 'other'",
        "agent: decided: agent_models has no other: the medium auditor answers",
    ]


@pytest.mark.parametrize("role", ["builder", "auditor", "agent:planner", "agent:other"])
@pytest.mark.parametrize("category", ["general", "security"])
@pytest.mark.parametrize("overrides", [(), (override("claude", "*:low", role="*"),)], ids=["plain", "overridden"])
def test_the_rule_that_decides_is_the_one_that_the_router_obeys(
    role: str, category: str, overrides: tuple[Override, ...]
) -> None:
    of = snapshot(run_overrides=overrides)
    (decided,) = [one for one in rules_tried(of, role, category, "low") if one.outcome == "decided"]
    decision = choose(of, role, category, "low")
    assert (decided.rule, decided.model) == (decision.rule, decision.model)
    assert decision.reasons[0] == decided.why


def test_where_no_rule_speaks_every_one_is_silent_and_the_router_says_so() -> None:
    of = snapshot(config=settings(complexity_models={}))
    assert {one.outcome for one in rules_tried(of, "builder", "general", "low")} == {"silent"}
    with pytest.raises(NoRoute, match=r"complexity_models\.low names no builder"):
        choose(of, "builder", "general", "low")


def test_an_expired_override_does_not_decide() -> None:
    of = snapshot(run_overrides=[override("claude", expires_at=NOON + timedelta(seconds=1))])
    assert rules_tried(of, "builder", "general", "low")[0].outcome == "decided"
    later = replace(of, at=NOON + timedelta(seconds=1))
    assert rules_tried(later, "builder", "general", "low")[0].outcome == "silent"
