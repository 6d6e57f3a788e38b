"""A run that begins again from a phase: from which commit, with what, and what it leaves alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from autopack_mcp.control.caps import CapWish
from autopack_mcp.control.forks import ForkWish
from autopack_mcp.control.overrides import OverrideWish
from autopack_mcp.errors import OverrideRefused, RequestRefused, RunNotFound, WorkspaceError
from autopack_mcp.notes import notes_in_force
from autopack_mcp.plans.plan import plan_from_json
from autopack_mcp.routing.overrides import overrides_in_force
from autopack_mcp.runs.own_caps import caps_of_phases
from autopack_mcp.runs.plan_edits import PhaseEdit
from autopack_mcp.runs.store import model_map_of_run, phases_of_run, plan_json_of_run, rules_of_run, run_by_id
from tests.projects import a_phase, a_plan, git, make_repository
from tests.runs.house import ANN, House, open_house

pytestmark = pytest.mark.anyio
TIERS = ([a_phase("a"), a_phase("b")], [a_phase("c")])
MODELS_YAML = Path(__file__).parents[2] / "config" / "models.yaml"
HAIKU = "claude-haiku-5-5"


@pytest.fixture
def engine() -> str:
    """What a whole fork does is tried here; its transactions are tried on both engines in tests/runs/test_forks.py."""
    return "sqlite"


@pytest.fixture
async def house(tmp_path: Path, empty_database: Path | str) -> AsyncIterator[House]:
    async with open_house(tmp_path, empty_database) as opened:
        yield opened


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "project")


async def finished(house: House, repository: Path, *tiers: list[dict[str, object]], **overrides: object) -> str:
    """A rehearsal that nobody advances any more; a supervisor stays alive for those who ask."""
    run_id = await house.start(a_plan(repository, *(tiers or TIERS), **overrides))
    await house.stopped(run_id)
    return run_id


async def fork(house: House, wish: ForkWish, **guard: bool) -> str:
    return (await house.control.fork(wish, "tool", ANN, **guard)).run_id


async def test_a_fork_holds_the_plan_from_its_phase_on_and_begins_at_the_commit_before_it(
    house: House, repository: Path
) -> None:
    async with house.supervising():
        run_id = await finished(house, repository)
        house.gate.close()
        started = await house.control.fork(ForkWish(run_id, "b"), "tool", ANN)
        waiting = await house.run(started.run_id)
        house.gate.open()
        run = await house.stopped(started.run_id)

    parent = house.autopack.database.read_now(phases_of_run, run_id)
    record = house.autopack.database.read_now(run_by_id, run.run_id)
    assert (
        f"Run {run.run_id} of plan 'a plan', run {run_id} again from phase b, is queued (2 phases," in started.message
    )
    # What came before is neither its work nor its cost: it begins at 0 %.
    assert (waiting.percent_complete, waiting.completed_phases) == (0.0, 0)
    assert [(phase.phase_id, phase.tier_name) for phase in run.phases] == [("b", "Tier 1"), ("c", "Tier 2")]
    assert record.base_commit == parent[0].commit_sha
    assert (run.state, run.forked_from, run.is_rehearsal) == ("succeeded", f"{run_id}, phase b", True)
    assert (record.forked_from_run, record.forked_from_phase) == (run_id, "b")
    assert git(repository, "rev-parse", f"refs/autopack/{run.run_id}/base") == record.base_commit
    assert git(repository, "rev-list", "--count", f"{record.base_commit}..autopack/{run.run_id}") == "2"
    # The run that it came from is as it was.
    assert git(repository, "rev-parse", f"autopack/{run_id}") == parent[2].commit_sha


async def test_a_fork_keeps_what_the_run_had_pinned_whatever_has_changed_since(house: House, repository: Path) -> None:
    rules = repository / ".autopack" / "rules.md"
    rules.parent.mkdir()
    rules.write_text("Be brief.\n")
    database = house.autopack.database
    async with house.supervising():
        house.gate.close()
        run_id = await house.start(a_plan(repository, [a_phase("a", token_cap=900_000), a_phase("b")]))
        await house.gate.reached.wait()
        await house.control.add_note(run_id, "No test data.", "tool", ANN)
        await house.control.override(OverrideWish("auditor", "*", "*", HAIKU, "run", run_id), ANN)
        await house.control.raise_cap(run_id, CapWish(5_000_000), ANN)
        await house.control.raise_cap(run_id, CapWish(800_000, None, "b"), ANN)
        house.gate.open()
        await house.stopped(run_id)
        rules.write_text("Be long.\n")
        await house.control.override(OverrideWish("builder", "*", "*", "gpt-6-luna", "global"), ANN)
        forked = await fork(house, ForkWish(run_id, "b"))
        run = await house.stopped(forked)

    assert database.read_now(rules_of_run, forked) == "Be brief.\n"
    assert database.read_now(model_map_of_run, forked) == database.read_now(model_map_of_run, run_id)
    assert [note.text for note in database.read_now(notes_in_force, forked)] == ["No test data."]
    assert run.phases[0].auditor_model == HAIKU
    assert run.notes[0].delivered.startswith("first in phase b")
    assert run.token_cap == 5_000_000
    caps = database.read_now(caps_of_phases, forked)
    assert {phase_id: cap.tokens for phase_id, cap in caps.items()} == {"b": 800_000}


async def test_words_models_and_notes_of_a_fork_are_what_was_asked_for(house: House, repository: Path) -> None:
    database = house.autopack.database
    async with house.supervising():
        house.gate.close()
        run_id = await house.start(a_plan(repository))
        await house.gate.reached.wait()
        await house.control.add_note(run_id, "No test data.", "tool", ANN)
        # Exact, so that it would win against a choice for all phases.
        await house.control.override(OverrideWish("builder", "general", "medium", "gpt-6-luna", "run", run_id), ANN)
        await house.control.override(OverrideWish("*", "general", "medium", "gpt-6.1-sol", "run", run_id), ANN)
        house.gate.open()
        await house.stopped(run_id)
        edit = PhaseEdit("Write it better.", "test -e b.txt")
        wish = ForkWish(run_id, "b", edit, builder=HAIKU, note="Mind the\x1b colours.", without_notes=True)
        forked = await fork(house, wish, may_set_commands=True)
        run = await house.stopped(forked)

    plan = plan_from_json(database.read_now(plan_json_of_run, forked))
    (phase,) = plan.phases
    assert (phase.description, phase.verify) == ("Write it better.", "test -e b.txt")
    assert (run.state, run.phases[0].builder_model, run.phases[0].auditor_model) == ("succeeded", HAIKU, "gpt-6.1-sol")
    assert [note.text for note in database.read_now(notes_in_force, forked)] == ["Mind the\\x1b colours."]
    assert {one.role for one in database.read_now(overrides_in_force, forked, house.autopack.clock.now())} == {
        "builder", "auditor", "agent:*",
    }  # fmt: skip


async def test_a_run_is_forked_in_whatever_state_it_is(house: House, repository: Path) -> None:
    async with house.supervising():
        failing = [a_phase("a"), a_phase("b", verify="false"), a_phase("c")]
        run_id = await finished(house, repository, failing, attempts_limit=1)
        assert (await house.run(run_id)).state == "needs_attention"
        mended = await fork(house, ForkWish(run_id, "b", PhaseEdit(verify="true")), may_set_commands=True)
        assert (await house.stopped(mended)).state == "succeeded"
        # While it is in the middle of a call, from the phase that is in hand and from one that is done.
        house.gate.close()
        running = await fork(house, ForkWish(mended, "c"))
        await house.gate.reached.wait()
        both = [await fork(house, ForkWish(running, "c")), await fork(house, ForkWish(mended, "b"))]
        house.gate.open()
        assert [(await house.stopped(one)).state for one in both] == ["succeeded", "succeeded"]

    bases = {one: house.autopack.database.read_now(run_by_id, one).base_commit for one in (running, both[0])}
    assert len(set(bases.values())) == 1


async def test_a_phase_that_comes_next_is_forked_from_the_head_and_a_later_one_is_not(
    house: House, repository: Path
) -> None:
    async with house.supervising():
        run_id = await finished(house, repository, [a_phase("a", verify="false"), a_phase("b")], attempts_limit=1)
        with pytest.raises(RequestRefused) as never:
            await fork(house, ForkWish(run_id, "c"))
        assert str(never.value) == f"Run {run_id} has no phase 'c'. Its phases: a, b."
        # A failed phase is passed: what comes after it begins where it left the run.
        next_one = await fork(house, ForkWish(run_id, "b"))
        await house.stopped(next_one)
        base = house.autopack.database.read_now(run_by_id, next_one).base_commit
        assert base == git(repository, "rev-parse", "main")

        house.gate.close()
        running = await house.start(a_plan(repository))
        await house.gate.reached.wait()
        with pytest.raises(RequestRefused, match=r"never came to phase b: a comes before it and is building"):
            await fork(house, ForkWish(running, "b"))
        house.gate.open()


async def test_what_cannot_be_forked_is_refused_and_leaves_nothing_behind(house: House, repository: Path) -> None:
    async with house.supervising():
        run_id = await finished(house, repository)
        refs = git(repository, "for-each-ref")
        refused = {
            ForkWish("r-none", "b"): (RunNotFound, "r-none"),
            ForkWish(run_id, "b", PhaseEdit(verify="rm -rf ~")): (RequestRefused, "cannot be set from a chat"),
            ForkWish(run_id, "b", PhaseEdit(description="")): (RequestRefused, "description"),
            ForkWish(run_id, "b", builder="gpt-none"): (OverrideRefused, "gpt-none"),
            ForkWish(run_id, "b", auditor="no-such-model"): (OverrideRefused, "No model 'no-such-model'"),
            ForkWish(run_id, "b", note=" "): (RequestRefused, "The note is empty."),
        }
        for wish, (error, words) in refused.items():
            with pytest.raises(error, match=words):
                await fork(house, wish)
        assert (git(repository, "for-each-ref"), (await house.autopack.summaries.runs()).total) == (refs, 1)


async def test_a_commit_that_is_gone_is_said(house: House, repository: Path) -> None:
    async with house.supervising():
        run_id = await finished(house, repository)
        git(repository, "update-ref", "-d", f"refs/heads/autopack/{run_id}")
        git(repository, "-c", "gc.pruneExpire=now", "gc", "--prune=now", "--quiet")
        with pytest.raises(WorkspaceError, match="has no commit"):
            await fork(house, ForkWish(run_id, "b"))


async def test_a_verify_command_from_a_chat_is_taken_where_plans_are(
    tmp_path: Path, empty_database: Path | str, repository: Path
) -> None:
    config = MODELS_YAML.read_text().replace("allow_inline_plans: false", "allow_inline_plans: true")
    async with open_house(tmp_path, empty_database, config) as house, house.supervising():
        run_id = await finished(house, repository)
        forked = await fork(house, ForkWish(run_id, "c", PhaseEdit(verify="test -e c.txt")))
        assert (await house.stopped(forked)).state == "succeeded"
