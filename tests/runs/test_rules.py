"""What a run adds to a choice of model."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any, Literal

from autopack_mcp.budgets.caps import RunCaps
from autopack_mcp.database.engine import Database
from autopack_mcp.plans.plan import PhaseSpec
from autopack_mcp.routing.model_map import current_model_map, model_map_to_json
from autopack_mcp.routing.overrides import Override, add_override
from autopack_mcp.runs.own_caps import insert_phase_caps
from autopack_mcp.runs.rules import run_rules
from tests.factories import NOON, insert_run, settings


def override(database: Database, model: str, run_id: str | None = "R1", expires_in_s: float | None = None) -> None:
    expires_at = None if expires_in_s is None else NOON + timedelta(seconds=expires_in_s)
    scope: Literal["run", "global"] = "global" if run_id is None else "run"
    wish = Override(0, scope, "builder", "*", "*", model, "me", NOON, expires_at, run_id)
    database.write_now(add_override, wish, "test")


def test_a_run_brings_its_pinned_map_its_own_overrides_and_its_caps(database: Database) -> None:
    pinned = current_model_map(settings(), ())
    facts: dict[str, Any] = {
        "model_map": model_map_to_json(pinned),
        "token_cap": 1_000,
        "cost_cap_nano": 5,
        "is_rehearsal": True,
    }
    database.write_now(insert_run, **facts)
    database.write_now(insert_run, "R2")
    override(database, "mine")
    override(database, "of another run", "R2")
    override(database, "of everybody", None)
    override(database, "expired", expires_in_s=60)
    rules = database.read_now(run_rules, "R1", NOON + timedelta(seconds=60))
    assert rules is not None
    assert (rules.run_id, rules.model_map, rules.caps, rules.is_rehearsal) == ("R1", pinned, RunCaps(1_000, 5), True)
    assert [one.model for one in rules.overrides] == ["mine"]


def test_the_caps_of_a_phase_stand_beside_its_runs(database: Database) -> None:
    database.write_now(
        partial(insert_run, token_cap=1_000, model_map=model_map_to_json(current_model_map(settings(), ())))
    )
    database.write_now(insert_phase_caps, "R1", (PhaseSpec("P1", "P1", "Do it.", token_cap=9, cost_cap_nano=5),))
    found = {phase_id: database.read_now(run_rules, "R1", NOON, phase_id) for phase_id in ("P1", "P2")}
    assert {phase_id: rules and rules.caps for phase_id, rules in found.items()} == {
        "P1": RunCaps(1_000, None, 9, 5),
        "P2": RunCaps(1_000),
    }


def test_an_id_that_is_only_a_label_has_no_rules(database: Database) -> None:
    assert database.read_now(run_rules, "my own loop", NOON) is None
