"""Two runs side by side: what is compared is what happened, and what cannot be compared says why."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from autopack_mcp.control.forks import ForkWish
from autopack_mcp.errors import RequestRefused, RunNotFound
from autopack_mcp.summary.comparison import DIFF_LIMIT
from tests.projects import a_phase, a_plan, git, make_repository
from tests.runs.house import ANN, House, open_house

pytestmark = pytest.mark.anyio
LINES = 12_500  # As many as a scripted answer may have; with a sign before each they are more than is shown.
REJECTED = a_phase("b", rehearsal={"files": {"b.txt": "b\n"}, "reject_first": "It is\u200b late."})


@pytest.fixture
def engine() -> str:
    """Git and whole runs are tried here; the questions are asked of both engines in tests/runs."""
    return "sqlite"


@pytest.fixture
async def house(tmp_path: Path, empty_database: Path | str) -> AsyncIterator[House]:
    async with open_house(tmp_path, empty_database) as opened:
        yield opened


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "project")


async def done(house: House, repository: Path, *phases: dict[str, object], **overrides: object) -> str:
    run_id = await house.start(a_plan(repository, list(phases), **overrides))
    await house.stopped(run_id)
    return run_id


async def test_a_fork_is_compared_with_the_run_that_it_came_from(house: House, repository: Path) -> None:
    async with house.supervising():
        run_id = await done(house, repository, a_phase("a"), REJECTED)
        wish = ForkWish(run_id, "b", auditor="claude-opus-5-5")
        forked = (await house.control.fork(wish, "tool", ANN)).run_id
        await house.stopped(forked)
        found = await house.autopack.summaries.compare(forked)

    assert (found.a.run_id, found.b.run_id, found.b.forked_from) == (run_id, forked, f"{run_id}, phase b")
    first, second = found.phases
    assert (first.phase_id, first.b) == ("a", None)
    assert second.a is not None
    assert second.b is not None
    assert (second.a.state, second.a.attempts, second.a.verdict) == ("succeeded", 2, "approved")
    assert found.models_differ == ("auditor of b: claude-sonnet-5-5 in the first, claude-opus-5-5 in the second",)
    assert found.a.tokens_used == (first.a.tokens_used if first.a else 0) + second.a.tokens_used
    assert (found.b.tokens_used, found.b.cost_usd) == (second.b.tokens_used, second.b.cost_usd)
    assert (second.b.cost_usd or 0) > Decimal(0)
    assert (found.b.duration_s or 0) > 0
    # Both wrote the same: the trees are equal although the commits are not.
    assert found.a.commit != found.b.commit
    assert (found.diff.files if found.diff else None) == 0


async def test_the_diff_of_two_runs_is_gits_with_hidden_characters_shown(house: House, repository: Path) -> None:
    async with house.supervising():
        one = await done(house, repository, a_phase("a"), base="main")
        two = await done(house, repository, a_phase("a", rehearsal={"files": {"a.txt": "a\nred \x1b[31m\u202e\n"}}))
        found = await house.autopack.summaries.compare(one, two)

    assert found.diff is not None
    assert (found.diff.files, found.diff.added_lines, found.diff.removed_lines, found.diff.is_cut) == (1, 1, 0, False)
    assert found.diff.text.endswith(" a\n+red \\x1b[31m\\u202e\n")


async def test_a_diff_is_cut_and_says_so(house: House, repository: Path) -> None:
    async with house.supervising():
        one = await done(house, repository, a_phase("a"))
        two = await done(house, repository, a_phase("a", rehearsal={"files": {"a.txt": "line\n" * LINES}}))
        found = await house.autopack.summaries.compare(one, two)

    assert found.diff is not None
    assert (found.diff.is_cut, found.diff.added_lines, len(found.diff.text) <= DIFF_LIMIT) == (True, LINES, True)


async def test_what_an_auditor_or_a_command_said_stands_in_words(house: House, repository: Path) -> None:
    async with house.supervising():
        once = await done(house, repository, REJECTED, attempts_limit=1)
        red = await done(house, repository, a_phase("b", verify="false"), attempts_limit=1)
        found = await house.autopack.summaries.compare(once, red)

    (phase,) = found.phases
    assert phase.a is not None
    assert phase.b is not None
    assert (phase.a.verdict, phase.a.auditor_said) == ("rejected (1 major)", "It is\\u200b late.")
    assert (phase.b.verdict, phase.b.auditor_model, phase.b.duration_s is not None) == ("red", None, True)


async def test_a_diff_that_cannot_be_made_says_why_and_hides_nothing_else(
    house: House, repository: Path, tmp_path: Path
) -> None:
    elsewhere = make_repository(tmp_path / "other")
    async with house.supervising():
        one = await done(house, repository, a_phase("a"))
        other = await done(house, elsewhere, a_phase("a"))
        found = await house.autopack.summaries.compare(one, other)
        two = await done(house, repository, a_phase("b"))
        git(repository, "update-ref", "-d", f"refs/heads/autopack/{two}")
        git(repository, "-c", "gc.pruneExpire=now", "gc", "--prune=now", "--quiet")
        pruned = await house.autopack.summaries.compare(one, two)
        repository.rename(tmp_path / "moved")
        moved = await house.autopack.summaries.compare(one, two)

    assert (found.diff, found.why_no_diff) == (None, "the runs are of different repositories")
    assert found.phases[0].a is not None
    assert "is not in" in (pruned.why_no_diff or "")
    assert "There is no git repository at" in (moved.why_no_diff or "")


async def test_a_run_that_is_no_fork_needs_the_other_one_named(house: House, repository: Path) -> None:
    async with house.supervising():
        run_id = await done(house, repository, a_phase("a"))
        with pytest.raises(RequestRefused, match=r"was forked from no other\. Name the run to compare it with\."):
            await house.autopack.summaries.compare(run_id)
        for pair in (("r-none", run_id), (run_id, "r-none")):
            with pytest.raises(RunNotFound):
                await house.autopack.summaries.compare(*pair)
