"""The predecessor's run requests: accepted as they are, and honest about what does nothing here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autopack_mcp.errors import PlanError
from autopack_mcp.plans.plan import PhaseSpec, Plan
from autopack_mcp.plans.plan_file import load_plan
from autopack_mcp.plans.run_request import TOKEN_CAP


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / ".git").mkdir()
    return tmp_path


def request_of(**overrides: Any) -> dict[str, Any]:
    request = {
        "run": {"run_id": "run-7", "safety_profile": "normal", "run_scope": "multi_tier", "token_cap": 450_000},
        "tiers": [
            {"tier_id": "T2", "tier_index": 2, "name": "Later"},
            {"tier_id": "T1", "tier_index": 1, "name": "First", "description": "of two"},
        ],
        "phases": [
            {"phase_id": "P2.1", "phase_index": 1, "tier_id": "T2", "name": "last"},
            {"phase_id": "P1.2", "phase_index": 5, "tier_id": "T1", "name": "second"},
            {"phase_id": "P1.1", "phase_index": 0, "tier_id": "T1", "name": "first"},
        ],
    }
    return {**request, **overrides}


def phase(**keys: Any) -> dict[str, Any]:
    return request_of(
        tiers=[{"tier_id": "T"}], phases=[{"phase_id": "P", "phase_index": 0, "tier_id": "T", "name": "n", **keys}]
    )


def load(request: dict[str, Any], **overrides: Any) -> Plan:
    text = json.dumps(request, indent=2)
    return load_plan(text, "run.json", known_categories=frozenset({"general", "docs"}), **overrides)


def problems(request: dict[str, Any], **overrides: Any) -> list[str]:
    with pytest.raises(PlanError) as caught:
        load(request, **overrides)
    return [str(problem) for problem in caught.value.problems if problem.severity == "error"]


def test_tiers_and_phases_stand_in_the_order_of_their_indexes(repository: Path) -> None:
    plan = load(request_of(), repository=repository, verify="make test")
    assert [(tier.tier_id, tier.name, tier.description) for tier in plan.tiers] == [
        ("T1", "First", "of two"),
        ("T2", "Later", ""),
    ]
    assert [phase.phase_id for phase in plan.phases] == ["P1.1", "P1.2", "P2.1"]
    assert (plan.name, plan.token_cap, plan.verify, plan.repository) == (
        "run-7",
        450_000,
        "make test",
        str(repository),
    )


def test_without_indexes_the_order_of_the_file_stands(repository: Path) -> None:
    request = request_of(
        tiers=[{"tier_id": "B"}, {"tier_id": "A"}],
        phases=[{"phase_id": f"p{n}", "tier_id": "AB"[n % 2], "name": "n"} for n in range(4)],
    )
    plan = load(request, repository=repository, verify="none")
    assert [phase.phase_id for phase in plan.phases] == ["p1", "p3", "p0", "p2"]


def test_a_request_without_a_cap_has_the_predecessors(repository: Path) -> None:
    plan = load(request_of(run={"run_id": "r"}), repository=repository, verify="none")
    assert plan.token_cap == TOKEN_CAP == 5_000_000


def test_the_scope_of_a_phase_becomes_our_keys(repository: Path) -> None:
    request = phase(
        description="Do it.",
        task_category="docs",
        complexity="low",
        scope={
            "paths": ["src/a.py", "./docs/"],
            "read_only_context": [{"path": "tests/test_a.py", "reason": "how it is tested"}, "README.md"],
            "acceptance_criteria": ["it works"],
            "test_cmd": "pytest tests/test_a.py",
        },
    )
    plan = load(request, repository=repository, verify="make")
    assert plan.phases == (
        PhaseSpec(
            phase_id="P",
            name="n",
            description="Do it.",
            task_category="docs",
            complexity="low",
            acceptance_criteria=("it works",),
            allowed_paths=("src/a.py", "docs/**"),
            context_paths=("tests/test_a.py", "README.md"),
            verify="pytest tests/test_a.py",
        ),
    )


@pytest.mark.parametrize("criteria", ["it works", ["it works"]], ids=["one", "list"])
def test_acceptance_criteria_may_stand_at_the_phase(repository: Path, criteria: Any) -> None:
    plan = load(phase(acceptance_criteria=criteria), repository=repository, verify="none")
    assert plan.phases[0].acceptance_criteria == ("it works",)


def test_what_does_nothing_here_is_named_once_with_its_lines(repository: Path) -> None:
    request = request_of()
    for each in request["phases"]:
        each["builder_mode"] = "compose"
    request["phases"][0]["scope"] = {"notes": ["x"]}
    plan = load(request, repository=repository, verify="none")
    assert [(warning.where, warning.message.split(" (")[0]) for warning in plan.warnings] == [
        ("run.safety_profile", "'safety_profile' is not implemented here and does nothing."),
        ("run.run_scope", "'run_scope' is not implemented here and does nothing."),
        ("phases[0].builder_mode", "'builder_mode' is not implemented here and does nothing."),
        ("phases[0].scope.notes", "'notes' is not implemented here and does nothing."),
    ]
    assert "(Also on line" in plan.warnings[2].message


def test_a_request_must_be_given_a_repository_and_a_command() -> None:
    assert problems(request_of()) == [
        "run.json:1: error: a run request names no repository. Give one with --repository.",
        (
            "run.json:1: error: there is no verification command. Give one with --verify; to go without, write "
            "`verify: none`."
        ),
    ]


@pytest.mark.parametrize(
    "request_data, expected",
    [
        (request_of(phases=[]), "tiers[0]: the tier 'T2' has no phase."),
        (request_of(tiers=[]), "phases[0].tier_id: names the tier 'T2', which does not exist. Tiers: none."),
        (phase(tier_id="X"), "phases[0].tier_id: names the tier 'X', which does not exist. Tiers: T."),
        (phase(phase_id="a b"), "phases[0].phase_id: 'a b': an id has up to 64"),
        (phase(phase_index=-1), "phases[0].phase_index: must be from 0 to 1,000,000, not -1."),
        (phase(scope={"paths": ["/etc"]}), "phases[0].scope.paths[0]: '/etc' is not relative to the repository."),
        (phase(scope={"read_only_context": [{}]}), "phases[0].scope.read_only_context[0]: nothing is not a path."),
        (phase(scope={"read_only_context": ["../x"]}), "phases[0].scope.read_only_context[0]: '../x' leaves the work"),
        (request_of(run={"token_cap": 0}), "run.token_cap: must be at least 1, not 0. Leave it out for 5,000,000."),
        (request_of(run=[]), "run: must hold keys and values, not a list."),
    ],
    ids=["no phases", "no tiers", "other tier", "id", "index", "path", "context", "context path", "cap", "run"],
)
def test_a_mistake_in_a_request_is_said_with_its_key(
    repository: Path, request_data: dict[str, Any], expected: str
) -> None:
    assert any(
        problem.split("error: ")[1].startswith(expected)
        for problem in problems(request_data, repository=repository, verify="none")
    )


def test_a_doubled_phase_is_refused(repository: Path) -> None:
    request = request_of()
    request["phases"][1]["phase_id"] = "P2.1"
    (problem,) = problems(request, repository=repository, verify="none")
    assert "phases[1].phase_id: 'P2.1' is already the id on line" in problem
