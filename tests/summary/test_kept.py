"""Kept answers: said again only while they still hold."""

from __future__ import annotations

import pytest

from autopack_mcp.clock import ManualClock
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import RunNotFound
from autopack_mcp.summary.kept import KEEP_FOR, QUESTIONS_KEPT, KeptAnswers
from tests.factories import insert_run

pytestmark = pytest.mark.anyio

on_sqlite = pytest.mark.parametrize("engine", ["sqlite"])  # Which alone numbers its commits.


class Counting:
    """Answers each question with a new object, and counts."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self) -> object:
        self.asked += 1
        return object()


@pytest.fixture
def kept(database: Database, clock: ManualClock) -> KeptAnswers:
    return KeptAnswers(database, clock)


@on_sqlite
async def test_unchanged_answer_is_the_same_object(kept: KeptAnswers) -> None:
    read = Counting()
    assert await kept.ask("run", read) is await kept.ask("run", read)
    assert read.asked == 1


@pytest.mark.parametrize("engine", ["postgresql"])
async def test_where_commits_have_no_number_nothing_is_kept(kept: KeptAnswers) -> None:
    read = Counting()
    assert await kept.ask("run", read) is not await kept.ask("run", read)
    assert read.asked == 2


async def test_commit_makes_the_next_question_read_again(kept: KeptAnswers, database: Database) -> None:
    read = Counting()
    await kept.ask("run", read)
    await database.write(insert_run)
    await kept.ask("run", read)
    assert read.asked == 2


async def test_commit_while_reading_makes_the_next_question_read_again(kept: KeptAnswers, database: Database) -> None:
    read = Counting()

    async def read_while_somebody_writes() -> object:
        await database.write(insert_run)
        return await read()

    await kept.ask("run", read_while_somebody_writes)
    await kept.ask("run", read)
    assert read.asked == 2


@on_sqlite
@pytest.mark.parametrize(
    "seconds, asked", [(0.499, 1), (0.5, 2), (-1.0, 2)], ids=["just before", "at", "clock set back"]
)
async def test_passing_time_makes_an_answer_old(
    kept: KeptAnswers, clock: ManualClock, seconds: float, asked: int
) -> None:
    assert KEEP_FOR.total_seconds() == 0.5
    read = Counting()
    await kept.ask("run", read)
    clock.advance(seconds)
    await kept.ask("run", read)
    assert read.asked == asked


@on_sqlite
async def test_questions_are_told_apart_and_the_oldest_is_forgotten(kept: KeptAnswers) -> None:
    read = Counting()
    first = await kept.ask(0, read)
    for question in range(1, QUESTIONS_KEPT):
        await kept.ask(question, read)
    assert await kept.ask(0, read) is first
    await kept.ask("one more", read)
    assert await kept.ask(0, read) is not first


async def test_refusal_is_not_kept(kept: KeptAnswers) -> None:
    async def refuse() -> object:
        raise RunNotFound("R9")

    with pytest.raises(RunNotFound):
        await kept.ask("run", refuse)
    read = Counting()
    await kept.ask("run", read)
    assert read.asked == 1
