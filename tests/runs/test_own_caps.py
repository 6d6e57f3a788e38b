"""Caps of a run and of its phases: written with a new run, and read where a call is reserved."""

from __future__ import annotations

from autopack_mcp.budgets.call_rules import caps_of_run
from autopack_mcp.budgets.caps import RunCaps
from autopack_mcp.database.engine import Database
from autopack_mcp.plans.plan import PhaseSpec, Plan, TierSpec, plan_to_json
from autopack_mcp.runs.store import NewRun, insert_run
from tests.factories import NOON

PHASES = (
    PhaseSpec("free", "free", "Free."),
    PhaseSpec("both", "both", "Both.", token_cap=50, cost_cap_nano=7),
    PhaseSpec("tokens", "tokens", "Tokens.", token_cap=60),
)


def new_run(run_id: str, token_cap: int | None = None, cost_cap_nano: int | None = None) -> NewRun:
    tiers = (TierSpec("t", "t", PHASES),)
    plan = Plan("a plan", "/repository", "none", tiers, token_cap=token_cap, cost_cap_nano=cost_cap_nano)
    return NewRun(run_id, plan, plan_to_json(plan), False, "ann", "a test", {}, "", "0" * 40, "/workspace")


def test_a_run_is_capped_as_its_plan_says_and_each_phase_as_the_phase_says(database: Database) -> None:
    database.write_now(insert_run, new_run("R1", token_cap=100, cost_cap_nano=9), NOON)
    database.write_now(insert_run, new_run("R2"), NOON)
    found = {
        (run_id, phase_id): database.read_now(caps_of_run, run_id, phase_id)
        for run_id in ("R1", "R2")
        for phase_id in ("free", "both", "tokens", None)
    }
    assert found == {
        ("R1", "free"): RunCaps(100, 9),
        ("R1", "both"): RunCaps(100, 9, 50, 7),
        ("R1", "tokens"): RunCaps(100, 9, 60, None),
        ("R1", None): RunCaps(100, 9),
        ("R2", "free"): RunCaps(),
        ("R2", "both"): RunCaps(None, None, 50, 7),
        ("R2", "tokens"): RunCaps(None, None, 60, None),
        ("R2", None): RunCaps(),
    }
