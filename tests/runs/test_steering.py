"""A person at the wheel of a real run: what is done with its phases while it runs, in mid-call and in mid-command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from autopack_mcp.control.requests import RequestOutcome
from autopack_mcp.database.tables import reservations, run_events, usage_events
from autopack_mcp.errors import RequestRefused
from autopack_mcp.runs.phase_wishes import PhaseWish, wish_to_json
from autopack_mcp.runs.plan_edits import PhaseEdit
from autopack_mcp.runs.requests import add_request
from autopack_mcp.runs.store import attempts_of_phase
from tests.projects import a_phase, a_plan, git, make_repository
from tests.runs.house import ANN, House, open_house
from tests.span_truth import assert_spans_add_up

pytestmark = pytest.mark.anyio


@pytest.fixture
def engine() -> str:
    """Git and the order of steps are tried here; the moves are tried on both engines in test_phase_wishes."""
    return "sqlite"


@pytest.fixture
async def house(tmp_path: Path, empty_database: Path | str) -> AsyncIterator[House]:
    async with open_house(tmp_path, empty_database) as opened:
        yield opened


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "project")


async def wished(house: House, run_id: str, wish: PhaseWish) -> RequestOutcome:
    return await house.control.about_phase(run_id, wish, ANN, may_set_commands=True)


def open_money(connection: Connection) -> list[str]:
    """Calls whose reservation is still held."""
    return list(connection.execute(select(reservations.c.call_id).where(reservations.c.state == "held")).scalars())


def booked(connection: Connection) -> list[str]:
    return sorted(connection.execute(select(usage_events.c.status)).scalars())


async def test_a_phase_skipped_in_mid_call_books_the_call_and_the_run_ends_without_it(
    house: House, repository: Path
) -> None:
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository))
        await house.gate.reached.wait()
        house.gate.reached.clear()
        outcome = await wished(house, run_id, PhaseWish("skip", "a", "b is enough"))
        await house.gate.reached.wait()  # The next phase has asked its builder, so the step of this one has ended.
        money = house.autopack.database.read_now(booked)
        house.gate.open()
        run = await house.stopped(run_id)

    assert (outcome.state, outcome.is_pending) == ("running", False)
    assert "Phase a is skipped and counts as completed (b is enough)." in outcome.message
    assert money == ["cut"]
    assert house.autopack.database.read_now(open_money) == []
    house.autopack.database.read_now(assert_spans_add_up, run_id)
    assert (run.state, run.percent_complete, run.why) == (
        "succeeded", 100.0, "all 2 phases are completed, 1 of them skipped",
    )  # fmt: skip
    assert [phase.state for phase in run.phases] == ["skipped", "succeeded"]
    assert run.phases[0].why == "skipped by ann through a test: b is enough"
    assert git(repository, "ls-tree", "--name-only", f"autopack/{run_id}").split() == ["README.md", "b.txt", "check.sh"]


async def test_a_phase_skipped_in_mid_command_leaves_no_process_and_a_clean_workspace(
    house: House, repository: Path, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    command = f"echo dirt > left-behind; echo $$ > {started}; sleep 3600"
    async with house.supervising():
        run_id = await house.start(a_plan(repository, [a_phase("a", verify=command)]))
        await house.until(run_id, lambda run: run.phases[0].state == "verifying")
        while not started.exists() or not started.read_text():  # noqa: ASYNC110  A fact of another process.
            await asyncio.sleep(0.01)
        process = int(started.read_text())
        await wished(house, run_id, PhaseWish("skip", "a", "it hangs"))
        run = await house.stopped(run_id)

    workspace = Path(run.workspace)
    assert run.state == "succeeded"
    assert not Path(f"/proc/{process}").exists()
    assert sorted(file.name for file in workspace.iterdir()) == [".autopack", ".git", "README.md", "check.sh"]
    assert git(workspace, "status", "--porcelain") == ""
    assert git(repository, "rev-parse", "main") == git(workspace, "rev-parse", "HEAD")


async def test_a_phase_that_a_pause_waits_for_is_skipped_and_the_run_pauses_with_a_clean_workspace(
    house: House, repository: Path, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    command = f"echo dirt > left-behind; echo $$ > {started}; sleep 3600"
    async with house.supervising():
        run_id = await house.start(a_plan(repository, [a_phase("a", verify=command), a_phase("b")]))
        while not started.exists() or not started.read_text():  # noqa: ASYNC110  A fact of another process.
            await asyncio.sleep(0.01)
        pausing = await house.control.request(run_id, "pause", ANN)
        await wished(house, run_id, PhaseWish("skip", "a", "it hangs"))
        run = await house.stopped(run_id)

    assert (pausing.state, run.state) == ("pausing", "paused")
    assert [phase.state for phase in run.phases] == ["skipped", "queued"]
    assert not (Path(run.workspace) / "left-behind").exists()
    assert git(Path(run.workspace), "status", "--porcelain") == ""


async def test_a_failed_phase_that_is_skipped_lets_the_run_go_on(house: House, repository: Path) -> None:
    plan = a_plan(repository, [a_phase("a", verify="false"), a_phase("b")], attempts_limit=1)
    async with house.supervising():
        run_id = await house.start(plan)
        stopped = await house.stopped(run_id)
        outcome = await wished(house, run_id, PhaseWish("skip", "a", "not worth it"))
        run = await house.stopped(run_id)

    assert (stopped.state, stopped.percent_complete) == ("needs_attention", 0.0)
    assert outcome.state in ("running", "succeeded")
    assert (run.state, run.percent_complete) == ("succeeded", 100.0)


async def test_a_failed_phase_is_edited_and_then_tried_with_the_new_words_and_command(
    house: House, repository: Path
) -> None:
    async with house.supervising():
        run_id = await house.start(a_plan(repository, [a_phase("a", verify="false")], attempts_limit=1))
        await house.stopped(run_id)
        edited = await wished(
            house, run_id, PhaseWish("edit", "a", edit=PhaseEdit("Write it anew.", "grep -q a a.txt"))
        )
        retried = await wished(house, run_id, PhaseWish("retry", None))
        run = await house.stopped(run_id)

    assert edited.state == "needs_attention"
    assert "Retry phase a to try it so." in edited.message
    assert "Phase a begins anew, with a full set of attempts." in retried.message
    assert (run.state, run.phases[0].attempt, run.phases[0].is_verified) == ("succeeded", 2, "verified")


async def test_a_queued_phase_is_edited_while_its_driver_has_the_plan_in_memory(house: House, repository: Path) -> None:
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository, [a_phase("a"), a_phase("b")]))
        await house.gate.reached.wait()
        await wished(house, run_id, PhaseWish("edit", "b", edit=PhaseEdit(verify="echo edited-command")))
        house.gate.open()
        run = await house.stopped(run_id)

    [attempt] = house.autopack.database.read_now(attempts_of_phase, run_id, "b")
    assert run.state == "succeeded"
    assert attempt.verify_output is not None
    assert attempt.verify_output.strip() == "edited-command"


async def test_the_attempt_in_hand_of_a_paused_run_is_dropped_and_begins_anew_on_resume(
    house: House, repository: Path
) -> None:
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository, [a_phase("a")]))
        await house.gate.reached.wait()
        already = await wished(house, run_id, PhaseWish("retry", "a"))
        await house.control.request(run_id, "pause", ANN, now=True)
        dropped = await wished(house, run_id, PhaseWish("retry", "a"))
        again = await wished(house, run_id, PhaseWish("retry", "a"))
        paused = await house.run(run_id)
        house.gate.open()
        await house.control.request(run_id, "resume", ANN)
        run = await house.stopped(run_id)

    assert "is being tried already (attempt 1)" in already.message
    assert dropped.state == paused.state == "paused"
    assert "Attempt 1 was dropped" in dropped.message
    assert "waits to be tried already; nothing was changed" in again.message
    assert (run.state, run.phases[0].attempt) == ("succeeded", 2)
    states = [one.state for one in house.autopack.database.read_now(attempts_of_phase, run_id, "a")]
    assert states == ["interrupted", "kept"]
    assert house.autopack.database.read_now(booked) == ["cut", "ok", "ok"]
    house.autopack.database.read_now(assert_spans_add_up, run_id)


async def test_a_skipped_phase_that_is_tried_after_all_lowers_the_percentage_and_the_log_says_why(
    house: House, repository: Path
) -> None:
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository))
        await house.gate.reached.wait()
        await wished(house, run_id, PhaseWish("skip", "b", "later"))
        before = await house.run(run_id)
        await wished(house, run_id, PhaseWish("retry", "b"))
        after = await house.run(run_id)
        house.gate.open()
        run = await house.stopped(run_id)

    assert (before.percent_complete, after.percent_complete) == (50.0, 0.0)
    assert "to be tried anew by ann through a test" in [event.why for event in after.recent_events]
    assert [phase.state for phase in run.phases] == ["succeeded", "succeeded"]


async def test_a_run_that_is_given_up_has_failed_and_can_be_asked_nothing_more(house: House, repository: Path) -> None:
    async with house.supervising():
        run_id = await house.start(a_plan(repository, [a_phase("a", verify="false"), a_phase("b")], attempts_limit=1))
        await house.stopped(run_id)
        outcome = await house.control.request(run_id, "give_up", ANN)
        again = await house.control.request(run_id, "give_up", ANN)
        run = await house.run(run_id)

    assert (outcome.state, again.state, again.is_pending) == ("failed", "failed", False)
    assert run.why == "give_up asked by ann through a test"
    assert [phase.state for phase in run.phases] == ["failed", "cancelled"]


async def test_a_phase_that_fails_in_the_same_way_three_times_stops_before_all_its_attempts(
    house: House, repository: Path
) -> None:
    command = "echo took $(date +%N) ns in /tmp/x$$; exit 1"
    async with house.supervising():
        run_id = await house.start(a_plan(repository, [a_phase("a", verify=command)], attempts_limit=9))
        run = await house.stopped(run_id)

    assert (run.state, run.phases[0].state, run.phases[0].attempt) == ("needs_attention", "failed", 3)
    assert run.why.startswith("phase a is stuck, 3 attempts failed in the same way; say 'edit phase a'")
    assert run.needs_you is not None
    assert run.needs_you.say == f"retry phase a of run {run_id}"


async def test_a_phase_in_hand_is_not_edited_under_its_builder(house: House, repository: Path) -> None:
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository, [a_phase("a")]))
        await house.gate.reached.wait()
        with pytest.raises(RequestRefused, match="is in hand") as caught:
            await wished(house, run_id, PhaseWish("edit", "a", edit=PhaseEdit("Otherwise.")))
        await house.control.request(run_id, "pause", ANN, now=True)
        edited = await wished(house, run_id, PhaseWish("edit", "a", edit=PhaseEdit("Otherwise.")))
        house.gate.open()
        await house.control.request(run_id, "resume", ANN)
        run = await house.stopped(run_id)

    assert caught.value.hint == "Pause the run now, edit the phase (that drops its attempt), then resume."
    assert "Its attempt 1 was dropped, for it was made from the old words." in edited.message
    assert (run.state, run.phases[0].attempt) == ("succeeded", 2)
    kinds = house.autopack.database.read_now(
        lambda connection: list(
            connection.execute(select(run_events.c.kind).where(run_events.c.run_id == run_id)).scalars()
        )
    )
    assert kinds.count("edit") == 1


async def test_requests_about_one_run_are_obeyed_in_the_order_in_which_they_were_asked(
    house: House, repository: Path
) -> None:
    run_id = await house.start_unattended(a_plan(repository))
    wishes = [PhaseWish("skip", "a", "no"), PhaseWish("retry", "a"), PhaseWish("skip", "b", "no")]
    database, now = house.autopack.database, house.autopack.clock.now()
    for wish in wishes:
        # All at one moment, as two clients may; only the order in which they were written down tells them apart.
        await database.write(add_request, run_id, wish.action, "ann", "a test", now, wish_to_json(wish))
    async with house.supervising():
        run = await house.stopped(run_id)

    assert [phase.state for phase in run.phases] == ["succeeded", "skipped"]
