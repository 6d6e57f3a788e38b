"""A plan in the database: the stored form gives back the same plan."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.errors import Problem
from autopack_mcp.plans.plan import PhaseSpec, Plan, PlanLimits, RehearsalScript, TierSpec, plan_from_json, plan_to_json

_texts = st.lists(st.text(max_size=8), max_size=3).map(tuple)
_scripts = st.builds(
    RehearsalScript,
    files=st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=2),
    reject_first=st.none() | st.text(max_size=8),
)
_phases = st.builds(
    PhaseSpec,
    acceptance_criteria=_texts,
    allowed_paths=_texts,
    context_paths=_texts,
    rehearsal=st.none() | _scripts,
)
_tiers = st.builds(TierSpec, phases=st.lists(_phases, max_size=3).map(tuple))
_plans = st.builds(
    Plan,
    tiers=st.lists(_tiers, max_size=2).map(tuple),
    token_cap=st.none() | st.integers(1, 2**63 - 1),
    cost_cap_nano=st.none() | st.integers(1, 2**63 - 1),
    limits=st.builds(PlanLimits, cpu_s=st.none() | st.integers(1)),
    warnings=st.lists(st.builds(Problem), max_size=2).map(tuple),
)


@given(_plans)
def test_a_stored_plan_comes_back_as_it_was(plan: Plan) -> None:
    assert plan_from_json(plan_to_json(plan)) == plan


def test_a_stored_plan_says_in_which_form_it_is() -> None:
    stored = json.loads(plan_to_json(Plan("n", "/r", "none", ())))
    assert stored["format"] == 1
    with pytest.raises(AssertionError, match="format 1, not 2"):
        plan_from_json(json.dumps({**stored, "format": 2}))


def test_a_plan_that_was_stored_before_there_were_limits_has_the_usual_ones() -> None:
    plan = Plan("n", "/r", "none", ())
    stored = json.loads(plan_to_json(plan))
    del stored["limits"]
    assert plan_from_json(json.dumps(stored)) == plan


def test_phases_stand_in_the_order_of_their_tiers() -> None:
    first, second, third = (PhaseSpec(name, name, name) for name in "abc")
    plan = Plan("n", "/r", "none", (TierSpec("1", "1", (first, second)), TierSpec("2", "2", (third,))))
    assert plan.phases == (first, second, third)
