"""Choosing other models: what changes, and what is refused with what there is."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from autopack_mcp.clock import ManualClock
from autopack_mcp.control.overrides import OverrideWish
from autopack_mcp.database.tables import overrides
from autopack_mcp.errors import IllegalTransition, OverrideRefused
from tests.control.counter import BOB, HAIKU, Counter, count_of, pinned_map, written_plan
from tests.factories import NOON, insert_phase
from tests.factories import insert_run as insert_run_row
from tests.projects import a_plan
from tests.runs.house import ANN

pytestmark = pytest.mark.anyio


async def test_an_override_lists_the_future_phases_that_change_and_undoing_it_changes_them_back(
    counter: Counter,
) -> None:
    counter.a_run("running", model_map=await pinned_map(counter))
    for index, row in enumerate(
        ({"state": "building", "attempt": 1}, {}, {"complexity": "low"}, {"task_category": "ui"})
    ):
        counter.write(lambda connection, index=index, row=row: insert_phase(connection, index + 1, **row))
    control = counter.control()
    wish = OverrideWish("builder", "gen*", "*", HAIKU, "run", "R1")

    chosen = await control.override(wish, BOB)
    undone = await control.override(replace(wish, undo=True, model=""), ANN)
    nothing = await control.override(replace(wish, undo=True, model=""), ANN)

    assert [(change.phase_id, change.role, change.from_model, change.to_model) for change in chosen.changes] == [
        ("P2", "builder", "gpt-6.1-sol", HAIKU),
        ("P3", "builder", "gpt-6-luna", HAIKU),
    ]
    assert chosen.message == f"builder gen*:* in run R1 will use {HAIKU}. 2 future choice(s) change."
    assert [(change.phase_id, change.from_model) for change in undone.changes] == [("P2", HAIKU), ("P3", HAIKU)]
    assert undone.message == "1 override(s) withdrawn: builder gen*:* in run R1. 2 future choice(s) change."
    assert (nothing.changes, nothing.message) == (
        (),
        "There was no such override: builder gen*:* in run R1. No future phase changes its model.",
    )
    [row] = counter.read(lambda connection: connection.execute(select(overrides)).all())
    assert (row.author, row.client, row.override_id) == ("bob", "a phone", chosen.override_id)


@pytest.mark.parametrize(
    "state, phases", [("paused", ["P2"]), ("budget_paused", ["P1", "P2"]), ("needs_attention", ["P1", "P2"])]
)
async def test_a_run_that_stopped_for_want_of_a_model_changes_the_phase_in_hand_as_well(
    counter: Counter, state: str, phases: list[str]
) -> None:
    counter.a_run(state, model_map=await pinned_map(counter))
    counter.write(lambda connection: insert_phase(connection, 1, state="auditing", attempt=1))
    counter.write(lambda connection: insert_phase(connection, 2))

    chosen = await counter.control().override(OverrideWish("auditor", "*", "*", HAIKU, "run", "R1"), ANN)

    assert [change.phase_id for change in chosen.changes] == phases


async def test_an_override_ends_when_it_expires(counter: Counter, clock: ManualClock) -> None:
    counter.a_run("running", model_map=await pinned_map(counter))
    counter.write(insert_phase)
    until = NOON + timedelta(hours=1)
    wish = OverrideWish("builder", "*", "*", HAIKU, "run", "R1", expires_at=until)
    control = counter.control()

    await control.override(wish, ANN)
    clock.advance(3599)
    before = await counter.house.autopack.summaries.explain("builder", "general", "medium", "R1")
    clock.advance(1)
    after = await counter.house.autopack.summaries.explain("builder", "general", "medium", "R1")
    late = pytest.raises(OverrideRefused, match="would already have expired at 2026-11-18 13:00 UTC")

    assert (before.row.model, after.row.model) == (HAIKU, "gpt-6.1-sol")
    with late:
        await control.override(wish, ANN)


async def test_a_global_override_touches_only_runs_that_start_later(
    counter: Counter, repository: Path, tmp_path: Path
) -> None:
    file, control = written_plan(tmp_path, a_plan(repository)), counter.control()
    early = await control.start_file(file, ANN, is_rehearsal=True)
    chosen = await control.override(OverrideWish("builder", "*", "*", HAIKU, "global"), ANN)
    late = await control.start_file(file, ANN, is_rehearsal=True)

    models = [
        (await counter.house.autopack.summaries.explain("builder", "general", "medium", started.run_id)).row.model
        for started in (early, late)
    ]
    assert models == ["gpt-6.1-sol", HAIKU]
    assert chosen.changes == ()
    assert chosen.message == (
        f"builder *:* in runs started from now on will use {HAIKU}. Runs in progress keep the models they started with."
    )


@pytest.mark.parametrize(
    "wish, words",
    [
        (
            OverrideWish("builder", "*", "*", "llm-9", "run", "R1"),
            "No model 'llm-9' in the catalog. Known: claude-haiku",
        ),
        (OverrideWish("builder", "*", "*", "gpt-9", "run", "R1"), "'gpt-9' is neither in the catalog nor in the price"),
        (
            OverrideWish("boss", "*", "*", HAIKU, "run", "R1"),
            "No role 'boss'. Roles are builder, auditor, agent:<name>",
        ),
        (OverrideWish("builder", "uix*", "*", HAIKU, "run", "R1"), "No category matches 'uix*'. Known: core_backend"),
        (OverrideWish("builder", "*", "tiny", HAIKU, "run", "R1"), "No complexity matches 'tiny'. Known: high, low"),
        (OverrideWish("builder", "*", "*", HAIKU, "run"), "needs a run_id. Or use scope 'global'."),
        (OverrideWish("builder", "*", "*", HAIKU, "global", "R1"), "A global override has no run_id. It touches every"),
        (OverrideWish("builder", "*", "*", HAIKU, "run", "R1", NOON), "already have expired at 2026-11-18 12:00 UTC"),
        (
            OverrideWish("builder", "*", "*", HAIKU, "run", "done"),
            "'override' is not possible while the run is 'failed'",
        ),
    ],
    ids=[
        "model",
        "model of a family",
        "role",
        "category",
        "complexity",
        "no run",
        "global of a run",
        "expired",
        "ended run",
    ],
)
async def test_an_override_that_means_nothing_is_refused_with_what_there_is(
    counter: Counter, wish: OverrideWish, words: str
) -> None:
    counter.a_run("running")
    counter.write(lambda connection: insert_run_row(connection, "done", state="failed"))

    with pytest.raises((OverrideRefused, IllegalTransition)) as caught:
        await counter.control().override(wish, ANN)
    assert words in str(caught.value)
    assert counter.read(count_of, overrides) == 0


async def test_an_override_of_what_has_gone_from_the_settings_can_still_be_undone(counter: Counter) -> None:
    counter.a_run("running", model_map=await pinned_map(counter))
    wish = OverrideWish("builder", "ui", "*", HAIKU, "run", "R1")
    control = counter.control()
    await control.override(wish, ANN)
    counter.changed_settings = {"category_models": {}}

    with pytest.raises(OverrideRefused, match="No category matches 'ui'"):
        await control.override(wish, ANN)
    assert "1 override(s) withdrawn" in (await control.override(replace(wish, undo=True), ANN)).message
