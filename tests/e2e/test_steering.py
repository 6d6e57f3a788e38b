"""What a person says in the middle of a phase, and from when on it holds: rehearsed runs, held in mid-call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from autopack_mcp.control.overrides import OverrideWish
from autopack_mcp.control.requests import ACKNOWLEDGE_S
from tests.projects import a_phase, a_plan, make_repository
from tests.runs.house import ANN, House, open_house

pytestmark = pytest.mark.anyio
OTHER = "claude-haiku-5-5"
SMALL = "gpt-6-luna"


@pytest.fixture
async def house(tmp_path: Path, empty_database_file: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path, empty_database_file) as opened:
        yield opened


async def test_a_choice_for_the_auditor_leaves_the_phase_in_hand_alone(house: House, tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "project")
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository))
        await house.gate.reached.wait()
        outcome = await house.control.override(OverrideWish("auditor", "*", "*", OTHER, "run", run_id), ANN)
        house.gate.open()
        run = await house.stopped(run_id)

    # Contract 10: future phases are those still queued, and the answer said which ones change.
    assert [change.phase_id for change in outcome.changes] == ["b"]
    assert run.phases[0].auditor_model != OTHER
    assert run.phases[1].auditor_model == OTHER


async def test_a_choice_undone_in_the_middle_of_a_phase_still_holds_for_that_phase(
    house: House, tmp_path: Path
) -> None:
    run_id = await house.start_unattended(a_plan(make_repository(tmp_path / "project")))
    await house.control.override(OverrideWish("auditor", "*", "*", OTHER, "run", run_id), ANN)
    house.gate.close()
    async with house.supervising():
        await house.gate.reached.wait()
        await house.control.override(OverrideWish("auditor", "*", "*", "", "run", run_id, undo=True), ANN)
        house.gate.open()
        run = await house.stopped(run_id)

    assert [phase.auditor_model == OTHER for phase in run.phases] == [True, False]


async def test_a_choice_helps_a_phase_on_that_a_cap_has_stopped(house: House, tmp_path: Path) -> None:
    # What one answer of the large model could cost does not fit, what one of the small model could cost does.
    plan = a_plan(make_repository(tmp_path / "project"), [a_phase("a", complexity="high")], cost_cap_usd=0.30)
    async with house.supervising():
        run_id = await house.start(plan)
        stopped = await house.stopped(run_id)
        outcome = await house.control.override(OverrideWish("builder", "*", "*", SMALL, "run", run_id), ANN)
        await house.control.request(run_id, "resume", ANN)
        run = await house.stopped(run_id)

    assert stopped.state == "budget_paused"
    assert [change.phase_id for change in outcome.changes] == ["a"]
    assert (run.state, run.phases[0].builder_model, run.phases[0].attempt) == ("succeeded", SMALL, 1)


async def test_a_phase_that_is_tried_again_takes_the_choice_made_meanwhile(house: House, tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "project")
    script = {"files": {"a.txt": "a\n"}, "reject_first": "name the file better"}
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository, [a_phase("a", rehearsal=script)]))
        await house.gate.reached.wait()
        await house.control.override(OverrideWish("*", "*", "*", OTHER, "run", run_id), ANN)
        house.gate.open()
        run = await house.stopped(run_id)

    assert (run.state, run.phases[0].attempt) == ("succeeded", 2)
    assert (run.phases[0].builder_model, run.phases[0].auditor_model) == (OTHER, OTHER)


async def test_a_pause_is_acknowledged_while_its_step_goes_on_and_says_what_it_waits_for(
    house: House, tmp_path: Path
) -> None:
    repository = make_repository(tmp_path / "project")
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository))
        await house.gate.reached.wait()
        with anyio.fail_after(ACKNOWLEDGE_S + 4):  # The rest is for a busy machine; the step itself would never end.
            outcome = await house.control.request(run_id, "pause", ANN)
        await house.control.request(run_id, "cancel", ANN)

    assert (outcome.state, outcome.is_pending) == ("pausing", True)
    assert "building of phase a" in outcome.message


async def test_a_withdrawn_note_is_in_no_later_prompt(house: House, tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "project")
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository))
        await house.gate.reached.wait()
        note = await house.control.add_note(run_id, "Write in verse.", "tool", ANN)
        await house.control.withdraw_note(run_id, note.note_id)
        house.gate.open()
        run = await house.stopped(run_id)

    assert run.state == "succeeded"
    assert [note.delivered for note in run.notes] == ["withdrawn before it was delivered"]
