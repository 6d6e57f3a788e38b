"""The repair of edits that do not fit, interrupted everywhere: no question is put again whose answer is on record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection, select

from autopack_mcp import app
from autopack_mcp.builders.api import ApiBuilder
from autopack_mcp.builders.base import BuildJob, Built
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import attempts, runs, usage_events
from autopack_mcp.errors import DatabaseBusy
from autopack_mcp.llm_service import AsyncLlmService
from autopack_mcp.runs.driver import RunDriver
from autopack_mcp.runs.executor import Executor
from autopack_mcp.runs.sessions import SessionBooks
from autopack_mcp.runs.store import claim
from autopack_mcp.sandbox import plain_sandbox
from tests.projects import a_phase, a_plan, git, make_repository
from tests.runs.house import LIMIT_S, House, open_house
from tests.runs.watched import Operation, WatchedDatabase, name_of

pytestmark = pytest.mark.anyio
WRONG = "--- a/a.txt\n+++ b/a.txt\n@@ -1,3 +1,3 @@\n one\n-zwei\n+2\n three\n"
RIGHT = WRONG.replace("zwei", "two")


@pytest.fixture
def engine() -> str:
    """The order of steps is tried here; their transactions are tried on both engines in the other files."""
    return "sqlite"


@pytest.fixture
async def house(tmp_path: Path, empty_database: Path | str) -> AsyncIterator[House]:
    async with open_house(tmp_path, empty_database) as opened:
        yield opened


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "project", {"a.txt": "one\ntwo\nthree\n", "check.sh": "exit 0\n"})


@dataclass
class Script:
    """What a builder answers, by whether it is asked to mend something, and every job that it got."""

    first: str = WRONG
    repair: str = RIGHT
    jobs: list[BuildJob] = field(default_factory=list)


class ScriptedBuilder(ApiBuilder):
    """Asks, reserves and books as always; only the words of the answer come from the script."""

    def __init__(self, service: AsyncLlmService, script: Script) -> None:
        super().__init__(service)
        self._script = script

    async def build(self, job: BuildJob) -> Built:
        self._script.jobs.append(job)
        built = await super().build(job)
        return replace(built, reply=self._script.first if job.repair is None else self._script.repair, error=None)


@asynccontextmanager
async def driving(
    house: House, run_id: str, script: Script, database: Database | None = None
) -> AsyncIterator[Callable[[], RunDriver]]:
    """Drivers that claim the run anew, as another process would."""
    door = app.call_door(house.autopack)
    service = AsyncLlmService(door)
    own, clock = house.autopack.database, house.autopack.clock
    executor = Executor(
        database=database or own, clock=clock, builder=ScriptedBuilder(service, script), auditor=service,
        sessions=SessionBooks(ledger=app.ledger(house.autopack), clock=clock, price_book=house.autopack.price_book),
        sandbox=plain_sandbox("this is a test"), environ=house.autopack.environ,
    )  # fmt: skip

    def driver() -> RunDriver:
        fence = own.write_now(claim, run_id, "me", clock.now(), 60.0)
        assert fence is not None
        return RunDriver(fence=fence, database=database or own, clock=clock, executor=executor)

    with anyio.fail_after(LIMIT_S):
        yield driver
    await door.close()


async def started(house: House, repository: Path, **plan: Any) -> str:
    return await house.start_unattended(a_plan(repository, [a_phase("a", allowed_paths=["a.txt"])], **plan))


def replies(connection: Connection) -> list[tuple[str, str | None]]:
    rows = connection.execute(select(attempts.c.state, attempts.c.reply).order_by(attempts.c.attempt))
    return [(row.state, row.reply) for row in rows]


def builder_calls(connection: Connection) -> int:
    return len(connection.execute(select(usage_events).where(usage_events.c.role == "builder")).all())


def free(connection: Connection, run_id: str) -> None:
    """The lease of a process that is no more has run out."""
    connection.execute(runs.update().where(runs.c.run_id == run_id).values(lease_owner=None))


@pytest.mark.parametrize(
    ("moment", "on_record", "asked"),
    [
        pytest.param("a needsrepair", None, [False, False, True], id="with the first reply in its hand"),
        pytest.param("a built", WRONG, [False, True, True], id="with the repair in its hand"),
        pytest.param("a applied", RIGHT, [False, True], id="with the mended change in the workspace"),
    ],
)
async def test_a_crash_around_the_repair_repeats_only_the_call_that_nobody_had_written_down(
    house: House, repository: Path, moment: str, on_record: str | None, asked: list[bool]
) -> None:
    run_id = await started(house, repository)
    script = Script()
    to_come = [DatabaseBusy(10)]

    async def crash(operation: Operation, arguments: tuple[Any, ...]) -> None:
        if to_come and name_of(operation, arguments) == moment:
            raise to_come.pop()

    database = WatchedDatabase(house.autopack.database.url.render_as_string(), before=crash)
    async with driving(house, run_id, script, database) as driver:
        await driver().drive()
        before = house.autopack.database.read_now(replies)
        house.autopack.database.write_now(free, run_id)
        await driver().drive()
    await database.close()
    run = await house.run(run_id)

    assert before == [("open", on_record)]
    assert [job.repair is not None for job in script.jobs] == asked
    assert house.autopack.database.read_now(builder_calls) == len(asked)
    assert (run.state, run.phases[0].attempt) == ("succeeded", 1)
    assert house.autopack.database.read_now(replies) == [("kept", RIGHT)]
    assert git(repository, "show", f"autopack/{run_id}:a.txt") == "one\n2\nthree"


async def test_a_repair_sees_the_first_reply_and_what_of_it_was_refused(house: House, repository: Path) -> None:
    run_id = await started(house, repository)
    script = Script()
    async with driving(house, run_id, script) as driver:
        await driver().drive()

    repair = script.jobs[1].repair
    assert repair is not None
    assert repair.reply == WRONG
    assert [(misfit.path, misfit.refused) for misfit in repair.misfits] == [("a.txt", " one\n-zwei\n+2\n three\n")]
    assert script.jobs[1].files == {"a.txt": "one\ntwo\nthree\n"}


@pytest.mark.parametrize(
    ("first", "repair", "reason"),
    [
        pytest.param(WRONG, WRONG, "do not fit, also when asked once more: The hunk for 'a.txt'", id="twice the same"),
        pytest.param(f"```diff\n{RIGHT}", f"```diff\n{RIGHT}", "the fence around it is never closed", id="cut off"),
        pytest.param(WRONG, "*** WRITE b.txt\nx\n*** END\n", "'b.txt' is not allowed", id="mended into another file"),
        pytest.param("*** WRITE b.txt\nx\n*** END\n", RIGHT, "'b.txt' is not allowed", id="not its file"),
    ],
)
async def test_one_repair_is_all_there_is_and_what_may_not_be_is_not_repaired(
    house: House, repository: Path, first: str, repair: str, reason: str
) -> None:
    run_id = await started(house, repository, attempts_limit=1)
    script = Script(first, repair)
    async with driving(house, run_id, script) as driver:
        await driver().drive()
    run = await house.run(run_id)

    assert run.state == "needs_attention"
    assert reason in run.why
    assert len(script.jobs) == (1 if first.startswith("***") else 2)


@pytest.mark.parametrize(
    ("plan_says", "phase_says", "state", "questions"),
    [(False, True, "succeeded", 1), (True, False, "needs_attention", 2), (True, None, "succeeded", 1)],
    ids=["the phase allows it", "the phase forbids it", "the plan allows it"],
)
async def test_what_a_phase_says_of_likely_places_outranks_its_plan(
    house: House, repository: Path, plan_says: bool, phase_says: bool | None, state: str, questions: int
) -> None:
    said = {} if phase_says is None else {"allow_fuzzy": phase_says}
    phase = a_phase("a", allowed_paths=["a.txt"], **said)
    run_id = await house.start_unattended(a_plan(repository, [phase], allow_fuzzy=plan_says, attempts_limit=1))
    similar = RIGHT.replace(" three", " three  ")
    script = Script(similar, similar)
    async with driving(house, run_id, script) as driver:
        await driver().drive()

    assert ((await house.run(run_id)).state, len(script.jobs)) == (state, questions)
