"""Whole runs in one process: real git, real commands, real database, scripted replies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import select

from autopack_mcp.control.overrides import OverrideWish
from autopack_mcp.database.tables import reservations, usage_events
from autopack_mcp.errors import IllegalTransition, MissingKey, PlanError, RunNotFound, SupervisorUnavailable
from tests.projects import a_phase, a_plan, git, make_repository
from tests.runs.house import ANN, House, open_house

pytestmark = pytest.mark.anyio


@pytest.fixture
async def house(tmp_path: Path, empty_database: Path | str) -> AsyncIterator[House]:
    async with open_house(tmp_path, empty_database) as opened:
        yield opened


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "project")


async def test_a_plan_becomes_one_commit_a_phase_and_the_checkout_stays_untouched(
    house: House, repository: Path
) -> None:
    async with house.supervising():
        run_id = await house.start(a_plan(repository))
        run = await house.stopped(run_id)

    assert (run.state, run.percent_complete, run.completed_phases) == ("succeeded", 100.0, 2)
    assert git(repository, "log", "--format=%s", f"main..{run.branch}").splitlines() == ["Phase b", "Phase a"]
    trailers = git(repository, "log", "-1", "--format=%(trailers:only,unfold)", run.branch)
    assert trailers == f"Autopack-Run: {run_id}\nAutopack-Phase: b\nAutopack-Attempt: 1"
    assert git(repository, "status", "--porcelain") == ""
    assert not (repository / "a.txt").exists()


async def test_a_red_verification_is_never_success_and_its_output_is_fed_back(house: House, repository: Path) -> None:
    plan = a_plan(repository, [a_phase("a", verify="echo the tests are red; exit 3")], attempts_limit=2)
    async with house.supervising():
        run = await house.stopped(await house.start(plan))

    assert (run.state, run.percent_complete, run.phases[0].attempt) == ("needs_attention", 0.0, 2)
    assert "the tests are red" in run.phases[0].why
    assert run.phases[0].auditor_model is None  # Contract 21: red verification skips the auditor.
    assert run.needs_you
    assert run.run_id in run.needs_you.say
    assert git(repository, "branch", "--list", run.branch) == ""


async def test_a_rejected_attempt_is_rolled_back_and_the_second_one_succeeds(house: House, repository: Path) -> None:
    script = {"files": {"a.txt": "a\n"}, "reject_first": "name the file better"}
    async with house.supervising():
        run = await house.stopped(await house.start(a_plan(repository, [a_phase("a", rehearsal=script)])))

    assert (run.state, run.phases[0].attempt, run.major_issues_count) == ("succeeded", 2, 0)
    assert git(repository, "log", "--format=%s", f"main..{run.branch}") == "Phase a"


async def test_unverified_phases_say_so(house: House, repository: Path) -> None:
    async with house.supervising():
        run = await house.stopped(await house.start(a_plan(repository, verify="none")))

    assert run.state == "succeeded"
    assert {phase.is_verified for phase in run.phases} == {"unverified"}
    assert "2 of them unverified" in run.why


async def test_a_run_pauses_between_two_steps_and_goes_on(house: House, repository: Path) -> None:
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository))
        await house.gate.reached.wait()
        asking = asyncio.create_task(house.control.request(run_id, "pause", ANN))
        await house.until(run_id, lambda run: run.state == "pausing")
        house.gate.open()
        outcome = await asking
        assert (outcome.state, outcome.is_pending) == ("paused", False)

        again = await house.control.request(run_id, "pause", ANN)
        assert "already paused" in again.message
        await house.control.request(run_id, "resume", ANN)
        run = await house.stopped(run_id)

    assert run.state == "succeeded"
    assert [phase.attempt for phase in run.phases] == [1, 1]


async def test_pause_now_interrupts_the_call_in_hand_and_books_it(house: House, repository: Path) -> None:
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository))
        await house.gate.reached.wait()
        outcome = await house.control.request(run_id, "pause", ANN, now=True)
        events = await house.autopack.database.read(_events)
        house.gate.open()
        await house.control.request(run_id, "resume", ANN)
        run = await house.stopped(run_id)

    assert outcome.state == "paused"
    assert [event.status for event in events] == ["cut"]
    assert run.state == "succeeded"


async def test_cancel_ends_a_command_with_everything_it_started(house: House, repository: Path, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    stubborn = f"(trap '' TERM; setsid sh -c 'trap \"\" TERM; echo $$ > {mark}; while :; do sleep 1; done') & wait"
    async with house.supervising():
        run_id = await house.start(a_plan(repository, [a_phase("a", verify=stubborn)]))
        await house.until(run_id, lambda run: run.current_phase_state == "verifying")
        while not mark.exists() or not mark.read_text():  # noqa: ASYNC110  A fact of another process; no event can tell.
            await asyncio.sleep(0.01)
        outcome = await house.control.request(run_id, "cancel", ANN)

    run = await house.run(run_id)
    assert (outcome.state, run.state, run.phases[0].state) == ("cancelled", "cancelled", "cancelled")
    assert not _is_alive(int(mark.read_text()))
    assert git(Path(run.workspace), "status", "--porcelain") == ""


async def test_a_run_goes_on_from_the_last_finished_step_when_its_supervisor_ends(
    house: House, repository: Path
) -> None:
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository))
        await house.gate.reached.wait()
        # A scripted reply pauses before it is written and after: the third pause is the auditor's first.
        for _ in range(2):
            house.gate.let_pass()
            await house.gate.reached.wait()
    between = await house.run(run_id)
    house.gate.open()
    async with house.supervising():
        run = await house.stopped(run_id)

    assert (between.state, between.phases[0].state) == ("running", "auditing")
    assert run.state == "succeeded"
    assert [phase.attempt for phase in run.phases] == [1, 1]
    assert git(repository, "log", "--format=%s", f"main..{run.branch}").splitlines() == ["Phase b", "Phase a"]


async def test_the_token_cap_of_a_run_pauses_it_and_says_which_cap(house: House, repository: Path) -> None:
    async with house.supervising():
        run = await house.stopped(await house.start(a_plan(repository, token_cap=2_000)))

    assert run.state == "budget_paused"
    assert "2,000 tokens" in run.why
    assert (run.tokens_used, run.tokens_reserved) == (0, 0)


async def test_a_failed_phase_does_not_stop_a_plan_that_says_continue(house: House, repository: Path) -> None:
    phases = [a_phase("a", verify="false"), a_phase("b")]
    async with house.supervising():
        run = await house.stopped(
            await house.start(a_plan(repository, phases, on_failure="continue", attempts_limit=1))
        )

    assert (run.state, run.completed_phases, run.percent_complete) == ("failed", 1, 50.0)
    assert [phase.state for phase in run.phases] == ["failed", "succeeded"]


async def test_resuming_a_run_that_needs_attention_tries_its_failed_phase_again(
    house: House, repository: Path, tmp_path: Path
) -> None:
    switch = tmp_path / "switch"
    plan = a_plan(repository, [a_phase("a", verify=f"test -e {switch}")], attempts_limit=1)
    async with house.supervising():
        run_id = await house.start(plan)
        failed = await house.stopped(run_id)
        switch.touch()
        await house.control.request(run_id, "resume", ANN)
        run = await house.stopped(run_id)

    assert (failed.state, run.state, run.phases[0].attempt) == ("needs_attention", "succeeded", 2)


@pytest.mark.parametrize("path", ["../outside.txt", ".git/config", "secret/../../x", "b.txt"])
async def test_a_change_outside_the_allowed_paths_is_refused_and_nothing_is_written(
    house: House, repository: Path, tmp_path: Path, path: str
) -> None:
    plan = a_plan(repository, [a_phase("a", allowed_paths=["a.txt"])], attempts_limit=1)
    run_id = await house.start_unattended(plan)
    await house.autopack.database.write(_rewrite_script, run_id, path)
    async with house.supervising():
        run = await house.stopped(run_id)

    assert run.state == "needs_attention"
    assert not (tmp_path / "outside.txt").exists()
    assert git(Path(run.workspace), "status", "--porcelain") == ""


async def test_a_note_is_in_every_later_prompt_and_the_status_says_who_got_it_first(
    house: House, repository: Path
) -> None:
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository))
        await house.gate.reached.wait()
        note = await house.control.add_note(run_id, "No test data, please.", "tool", ANN)
        house.gate.open()
        run = await house.stopped(run_id)

    assert "first in phase a" in run.notes[0].delivered
    assert "3 prompts" in run.notes[0].delivered  # The auditor of a, the builder and the auditor of b.
    assert "No test data, please." in Path(note.notes_file).read_text(encoding="utf-8")


async def test_a_line_added_to_the_notes_file_by_hand_becomes_a_note(house: House, repository: Path) -> None:
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository))
        await house.gate.reached.wait()
        file = Path((await house.run(run_id)).workspace) / ".autopack" / "human_notes.md"
        with file.open("a", encoding="utf-8") as stream:
            stream.write("Prefer short names.\n")
        house.gate.open()
        run = await house.stopped(run_id)

    assert [(note.text, note.source) for note in run.notes] == [("Prefer short names.", "file")]
    assert "first in phase a" in run.notes[0].delivered


async def test_an_override_for_a_run_takes_effect_on_its_next_phase(house: House, repository: Path) -> None:
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository))
        await house.gate.reached.wait()
        wish = OverrideWish("builder", "gen*", "*", "claude-haiku-5-5", "run", run_id)
        outcome = await house.control.override(wish, ANN)
        house.gate.open()
        run = await house.stopped(run_id)

    assert [change.phase_id for change in outcome.changes] == ["b"]
    assert run.phases[0].builder_model != "claude-haiku-5-5"
    assert run.phases[1].builder_model == "claude-haiku-5-5"


async def test_a_second_supervisor_of_one_home_is_refused_and_says_who_holds_it(house: House) -> None:
    async with house.supervising():
        with pytest.raises(SupervisorUnavailable):
            async with house.supervising():
                pass


async def test_a_real_run_without_a_key_is_refused_before_anything_exists(house: House, repository: Path) -> None:
    file = house.folder / "plan.yaml"
    file.write_text(a_plan(repository), encoding="utf-8")
    async with house.supervising():
        with pytest.raises(MissingKey, match="_API_KEY"):
            await house.control.start_file(file, ANN)

    assert (await house.autopack.summaries.runs()).total == 0
    assert git(repository, "for-each-ref", "refs/autopack") == ""


async def test_a_bad_plan_starts_nothing_and_names_every_problem(house: House, repository: Path) -> None:
    file = house.folder / "plan.yaml"
    file.write_text(a_plan(repository, [a_phase("a"), a_phase("a")], [], verify=None), encoding="utf-8")
    async with house.supervising():
        with pytest.raises(PlanError) as caught:
            await house.control.start_file(file, ANN, is_rehearsal=True)

    assert len(caught.value.problems) >= 3
    assert (await house.autopack.summaries.runs()).total == 0


async def test_what_cannot_be_asked_says_what_can(house: House, repository: Path) -> None:
    async with house.supervising():
        run_id = await house.start(a_plan(repository))
        await house.stopped(run_id)
        with pytest.raises(IllegalTransition):
            await house.control.request(run_id, "pause", ANN)
        with pytest.raises(RunNotFound, match=run_id):
            await house.control.request("r-none", "pause", ANN)


async def test_the_ledger_of_a_rehearsal_holds_nothing_open_and_nothing_real(house: House, repository: Path) -> None:
    async with house.supervising():
        run = await house.stopped(await house.start(a_plan(repository)))
    usage = await house.autopack.summaries.usage("week")
    events = await house.autopack.database.read(_events)

    assert {event.purpose for event in events} == {"rehearsal"}
    assert run.tokens_used == sum(event.charged_tokens for event in events)
    assert (usage.total_tokens, run.tokens_reserved) == (0, 0)
    assert await house.autopack.database.read(_open_reservations) == 0


def _is_alive(pid: int) -> bool:
    # A process that nobody has waited for yet is dead all the same: it runs nothing and holds nothing.
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def _events(connection):
    return connection.execute(select(usage_events).order_by(usage_events.c.recorded_at)).all()


def _open_reservations(connection) -> int:
    return len(connection.execute(select(reservations).where(reservations.c.state == "held")).all())


def _rewrite_script(connection, run_id: str, path: str) -> None:
    """A hostile builder: the plan's own script would be refused when it is loaded."""
    from sqlalchemy import update

    from autopack_mcp.database.tables import runs

    text = connection.execute(select(runs.c.plan_json).where(runs.c.run_id == run_id)).scalar_one()
    changed = text.replace('"a.txt": "a\\n"', f'"{path}": "evil\\n"').replace('"a.txt":"a\\n"', f'"{path}":"evil\\n"')
    assert changed != text
    connection.execute(update(runs).where(runs.c.run_id == run_id).values(plan_json=changed))


async def test_a_plan_with_a_url_is_pushed_phase_by_phase(house: House, repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--bare", "project", "server.git")
    async with house.supervising():
        run_id = await house.start(a_plan(f"file://{tmp_path}/server.git"))
        run = await house.stopped(run_id)

    assert run.state == "succeeded", run.why
    server = tmp_path / "server.git"
    assert git(server, "log", "--format=%s", f"main..{run.branch}").splitlines() == ["Phase b", "Phase a"]
    assert [phase.commit for phase in run.phases][-1] == git(server, "rev-parse", run.branch)
    assert git(repository, "for-each-ref", "--format=%(refname)") == "refs/heads/main"


async def test_a_branch_moved_behind_a_url_stops_the_run_for_a_person(
    house: House, repository: Path, tmp_path: Path
) -> None:
    git(tmp_path, "clone", "--quiet", "--bare", "project", "server.git")
    server = tmp_path / "server.git"
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(f"file://{server}"))
        await house.gate.reached.wait()
        other = git(server, "commit-tree", "-m", "mine", "-p", "main", "main^{tree}")
        git(server, "update-ref", f"refs/heads/autopack/{run_id}", other)
        house.gate.open()
        run = await house.stopped(run_id)

    assert run.state == "needs_attention"
    assert "was moved by somebody else" in run.why
    assert git(server, "rev-parse", run.branch) == other
