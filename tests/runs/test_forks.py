"""Where a run can be forked and what its fork is written down with, on both engines."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import Connection

from autopack_mcp.database.engine import Database
from autopack_mcp.errors import RequestRefused
from autopack_mcp.notes import add_note, notes_in_force
from autopack_mcp.plans.plan import PhaseSpec, Plan, TierSpec, plan_to_json
from autopack_mcp.routing.model_map import current_model_map, model_map_to_json
from autopack_mcp.routing.overrides import Override, add_override, overrides_in_force
from autopack_mcp.runs.forks import Origin, insert_fork, origin_of
from autopack_mcp.runs.own_caps import caps_of_phases
from autopack_mcp.runs.store import NewRun, events_of_run, phases_of_run, run_by_id
from tests.factories import NOON, insert_attempt, insert_phase, insert_run, settings

STATES = ("succeeded", "skipped", "failed", "queued", "queued")


def a_plan() -> Plan:
    phases = [PhaseSpec(f"P{number}", f"phase {number}", "") for number in range(1, 6)]
    tiers = (TierSpec("t1", "first", tuple(phases[:2])), TierSpec("t2", "second", tuple(phases[2:])))
    return Plan("a plan", "/project", "true", tiers, token_cap=10)


def standing(connection: Connection) -> None:
    """A run of five phases: committed, skipped, failed, next and one that it never came to."""
    model_map = model_map_to_json(current_model_map(settings(), ()))
    insert_run(
        connection, plan_json=plan_to_json(a_plan()), model_map=model_map, head_commit="c2", base_commit="c0",
        token_cap=500, rules="Be brief.", state="needs_attention",
    )  # fmt: skip
    for index, state in enumerate(STATES, start=1):
        insert_phase(connection, index, state=state)
    insert_attempt(connection, "P1", 1, state="rejected", parent_commit="c0")
    insert_attempt(connection, "P1", 2, state="kept", parent_commit="c1")
    insert_attempt(connection, "P1", 3, state="failed", parent_commit="c9")
    insert_attempt(connection, "P3", 1, state="failed", parent_commit="c2")
    for role, until in (("auditor", None), ("builder", NOON)):
        choice = Override(0, "run", role, "*", "*", "gpt-4o", "ann", NOON, until, "R1")
        add_override(connection, choice, "a test")
    add_note(connection, "R1", "No test data.", "file", "notes file", NOON)


def new_run(origin: Origin) -> NewRun:
    return NewRun("R2", origin.plan, plan_to_json(origin.plan), False, "bob", "a phone", {}, "", "c2", "/w/R2")


@pytest.mark.parametrize(
    ("phase_id", "commit", "left"),
    [("P1", "c1", 5), ("P2", "c2", 4), ("P3", "c2", 3), ("P4", "c2", 2)],
    ids=["where its kept attempt began", "skipped: the head", "where it failed", "next: the head"],
)
def test_a_fork_begins_where_its_phase_did(database: Database, phase_id: str, commit: str, left: int) -> None:
    database.write_now(standing)
    plan = database.read_now(origin_of, "R1", phase_id, NOON).plan
    assert (plan.base, len(plan.phases), plan.phases[0].phase_id) == (commit, left, phase_id)
    assert [tier.name for tier in plan.tiers] == (["first", "second"] if left > 3 else ["second"])


def test_a_phase_that_a_run_never_came_to_has_no_commit_before_it(database: Database) -> None:
    database.write_now(standing)
    with pytest.raises(RequestRefused, match="never came to phase P5: P4 comes before it and is queued"):
        database.read_now(origin_of, "R1", "P5", NOON)


def test_a_fork_is_written_down_with_all_that_it_takes_over(database: Database) -> None:
    database.write_now(standing)
    origin = database.read_now(origin_of, "R1", "P4", NOON)
    capped = replace(origin.plan.tiers[0].phases[0], token_cap=7)
    tier = replace(origin.plan.tiers[0], phases=(capped, *origin.plan.tiers[0].phases[1:]))
    origin = replace(origin, plan=replace(origin.plan, tiers=(tier,)))
    database.write_now(insert_fork, origin, new_run(origin), NOON)

    run = database.read_now(run_by_id, "R2")
    assert (run.forked_from_run, run.forked_from_phase, run.token_cap, run.state) == ("R1", "P4", 500, "queued")
    assert [phase.phase_index for phase in database.read_now(phases_of_run, "R2")] == [1, 2]
    assert [(one.role, one.run_id) for one in database.read_now(overrides_in_force, "R2", NOON)] == [("auditor", "R2")]
    # It stood in a file of the other workspace; here the executor writes it into the run's own.
    assert [(note.text, note.source) for note in database.read_now(notes_in_force, "R2")] == [("No test data.", "cli")]
    assert {phase_id: caps.tokens for phase_id, caps in database.read_now(caps_of_phases, "R2").items()} == {"P4": 7}
    assert len(database.read_now(events_of_run, "R2", 9)) == 1
