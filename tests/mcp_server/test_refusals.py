"""Refusals: a model that reads one knows what to do next."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from autopack_mcp.errors import Denial, PlanError, Problem, QuotaExhausted, RunNotFound
from autopack_mcp.mcp_server.answers import json_bytes
from autopack_mcp.mcp_server.refusals import FACT_BYTES, MESSAGE_BYTES, refused


def test_error_says_message_hint_code_and_facts() -> None:
    message, hint, facts = refused(RunNotFound("r-9", ("r-2", "r-1"))).splitlines()
    assert message == "No run 'r-9'."
    assert hint == "Known runs, newest first: r-2, r-1."
    assert json.loads(facts) == {"code": "run_not_found", "run_id": "r-9", "known": ["r-2", "r-1"]}


def test_every_problem_of_a_plan_is_said_with_its_place() -> None:
    problems = tuple(Problem("is empty.", "plan.yaml", line, f"tiers[{line}]") for line in (3, 9))
    assert refused(PlanError(problems)).splitlines() == [
        "plan.yaml:3: error: tiers[3]: is empty.",
        "plan.yaml:9: error: tiers[9]: is empty.",
        '{"code": "plan_invalid"}',
    ]


def test_hundreds_of_problems_are_cut() -> None:
    problems = tuple(Problem("is empty: 😀", "plan.yaml", line) for line in range(1000))
    said = refused(PlanError(problems))
    assert json_bytes(said) < MESSAGE_BYTES + 100
    assert said.splitlines()[-2].endswith("…")


def test_hidden_characters_of_an_error_are_shown() -> None:
    said = refused(RunNotFound("r\u202e" + "x" * 1000))
    assert "\u202e" not in said
    assert json_bytes(json.loads(said.splitlines()[-1])["run_id"]) <= FACT_BYTES + 2


def test_facts_that_are_records_are_said_in_words() -> None:
    resets = datetime(2026, 11, 23, tzinfo=UTC)
    denial = Denial("provider/openai/week/2026-W47", "tokens", 90, 10, 20, 100, resets, "openai's week is used up.")
    facts = json.loads(refused(QuotaExhausted(denial)).splitlines()[-1])
    assert facts["code"] == "quota_exhausted"
    assert "openai" in facts["denial"]
