"""Runs whose builder answers with edits that do not fit: mended by the real lines, placed likely, or failed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from autopack_mcp.database.tables import run_events
from tests.e2e.scene import (
    BUILDER,
    approval,
    attempts_of,
    events,
    facts,
    held,
    of_auditor,
    of_builder,
    open_scene,
    quick_door,
    replaces,
)
from tests.ledger_truth import assert_ledger_adds_up
from tests.projects import a_phase, a_plan, git, make_repository
from tests.runs.house import House
from tests.upstream.harness import Answer, Asked, Upstream

pytestmark = pytest.mark.anyio

TEXT = "one\n    two\nthree\nfour\n"
DIFF = "Here it is.\n\n```diff\n--- a/a.txt\n+++ b/a.txt\n@@ -7,9 +7,9 @@\n one\n-    {}\n+    2\n three\n```\n"
SHIFTED = replaces("a.txt", "one\n    two  \n", "one\n    2  \n")
OF_REPAIR = Asked(model=BUILDER, user_has="These edits do not fit the files as they are")


@pytest.fixture
async def house(tmp_path: Path, empty_database_file: Path, upstream: Upstream) -> AsyncIterator[House]:
    addresses = (upstream.openai_base_url, upstream.anthropic_base_url)
    async with open_scene(tmp_path, empty_database_file, *addresses) as opened:
        yield opened
        await opened.autopack.database.read(assert_ledger_adds_up)
        assert await opened.autopack.database.read(held) == []


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "project", {"a.txt": TEXT, "check.sh": "exit 0\n"})


async def finished(house: House, repository: Path, **plan: object) -> str:
    """The id of a run of one phase, as soon as nobody advances it any more."""
    text = a_plan(repository, [a_phase("a", allowed_paths=["a.txt"])], **plan)
    async with house.supervising(quick_door(house)):
        run_id = await house.start(text, is_rehearsal=False)
        await house.stopped(run_id)
    return run_id


def whys(connection: Connection, run_id: str) -> list[str]:
    mine = select(run_events.c.why).where(run_events.c.run_id == run_id, run_events.c.phase_id == "a")
    return list(connection.execute(mine.order_by(run_events.c.event_id)).scalars())


async def test_a_hunk_that_does_not_fit_is_mended_within_the_attempt_with_the_real_lines_in_sight(
    house: House, repository: Path, upstream: Upstream
) -> None:
    upstream.script(of_builder("a"), Answer(text=DIFF.format("zwei")))
    upstream.script(OF_REPAIR, Answer(text=DIFF.format("two")))
    upstream.script(of_auditor("a"), Answer(text=approval()))
    run_id = await finished(house, repository)
    run = await house.run(run_id)
    first, second, _ = await house.autopack.database.read(events)
    [attempt] = await house.autopack.database.read(attempts_of, run_id)
    repair = upstream.journal()[1]
    told = " ".join(await house.autopack.database.read(whys, run_id))

    assert (run.state, run.phases[0].attempt) == ("succeeded", 1)
    assert git(repository, "show", f"autopack/{run_id}:a.txt") == TEXT.replace("two", "2").strip()
    assert [facts(event, "role", "attempt", "status") for event in (first, second)] == [("builder", 1, "ok")] * 2
    assert facts(attempt, "state", "applied_how", "reply") == ("kept", "diff", DIFF.format("two"))
    assert "> -    zwei" in repair.prompt
    assert "a.txt from line 1 on, as it is now [data]\n\none\n    two\nthree\nfour" in repair.prompt
    assert "is asked once more, for its edits do not fit" in told


async def test_edits_that_do_not_fit_twice_cost_the_attempt_and_the_next_one_is_told(
    house: House, repository: Path, upstream: Upstream
) -> None:
    upstream.script(of_builder("a"), Answer(text=SHIFTED), Answer(text=DIFF.format("two")))
    upstream.script(OF_REPAIR, Answer(text=DIFF.format("deux")))
    upstream.script(of_auditor("a"), Answer(text=approval()))
    run_id = await finished(house, repository)
    run = await house.run(run_id)
    first, second = await house.autopack.database.read(attempts_of, run_id)

    assert (run.state, run.phases[0].attempt) == ("succeeded", 2)
    assert facts(first, "state", "reply") == ("failed", DIFF.format("deux"))
    assert first["reason"].startswith("the builder's edits do not fit, also when asked once more: The hunk for 'a.txt'")
    assert "fits nowhere" in upstream.journal()[2].prompt
    assert second["applied_how"] == "diff"


async def test_a_plan_that_allows_it_takes_the_likely_place_and_says_so_to_the_auditor_and_to_the_person(
    house: House, repository: Path, upstream: Upstream
) -> None:
    upstream.script(of_builder("a"), Answer(text=SHIFTED))
    upstream.script(of_auditor("a"), Answer(text=approval()))
    run_id = await finished(house, repository, allow_fuzzy=True)
    run = await house.run(run_id)
    [attempt] = await house.autopack.database.read(attempts_of, run_id)
    review = upstream.journal()[1]

    assert run.state == "succeeded"
    assert attempt["applied_how"] == "fuzzy"
    assert git(repository, "show", f"autopack/{run_id}:a.txt") == TEXT.replace("two", "2").strip()
    assert "put where they most likely belong" in review.prompt
    assert run.phases[0].why.endswith(", applied fuzzily (allow_fuzzy)")
    told = [why for why in await house.autopack.database.read(whys, run_id) if "applied fuzzily" in why]
    assert len(told) == 4  # Applied, verified, approved, committed.
