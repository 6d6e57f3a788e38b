"""A process that is gone at any boundary of a run, around each write, call and git command: the next one finishes.

One run is recorded on each database: at each boundary the whole world (rows, workspace, repository) is copied aside,
unless it is as it was. Each copy is then put back where it was and given to a new supervisor, an hour later, when every
lease has ended. What lies between two writes is a window; ``recoveries/`` has a picture of each, docs/durability.md
explains it.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from sqlalchemy import Connection, select

from autopack_mcp import app
from autopack_mcp.clock import ManualClock
from autopack_mcp.database.tables import phases
from autopack_mcp.runs.requests import add_request
from autopack_mcp.runs.states import RUN_ACTIVE
from autopack_mcp.runs.store import run_by_id
from autopack_mcp.summary.run import RunSummary
from tests.durability.picture import (
    Call,
    Recovery,
    booked_calls,
    calls_in_flight,
    database_lines,
    difference,
    drawn,
    folder_line,
)
from tests.durability.scene import PATIENT, until
from tests.durability.told_git import told_git
from tests.factories import NOON
from tests.ledger_truth import assert_ledger_adds_up
from tests.postgres import PostgresServer
from tests.projects import a_phase, a_plan, git, make_repository
from tests.runs.house import House, open_house, reopen_house
from tests.runs.recording import PostgresRows, Recording, SqliteRows
from tests.runs.watched import Operation, name_of, watching
from tests.span_truth import assert_spans_add_up, steps_done

pytestmark = [pytest.mark.anyio, PATIENT]

LATER_S = 3600.0  # Longer than any lease: of the run, of the supervisor, of a call.
STEPS = (
    "begun", "builder reserved", "builder settled", "built", "applied", "verified", "auditor reserved",
    "auditor settled", "approved", "committed",
)  # fmt: skip
# Writes of the driver and its calls, in their order. The supervisor's own (leases, expiry) move no run.
WRITES = ("claimed", "started", "prepared", *(f"{phase} {step}" for phase in "ab" for step in STEPS), "closed")
# What a crash can interrupt: the work for each write, and the rest after the last one.
WINDOWS = (*WRITES, "ended")
# A builder and an auditor for each phase.
CALLS = 4
# It leaves something behind, so that a step which is repeated finds what the first try left.
VERIFY = "test ! -e leftover && touch leftover"
RECOVERIES = Path(__file__).parent / "recoveries"
DOCUMENT = Path(__file__).parents[2] / "docs" / "durability.md"
REWRITE = "UPDATE_RECOVERIES"  # Set it to draw the pictures anew from what happens now; then read the diff.


@dataclass(slots=True)
class Lived:
    """One recorded run: where it stands, how its database is reached, and its boundaries by window."""

    recording: Recording
    environ: dict[str, str]
    done: list[str] = field(default_factory=list)
    boundaries: list[str] = field(default_factory=list)
    points: dict[str, list[str]] = field(default_factory=lambda: {window: [] for window in WINDOWS})
    undisturbed: Counter[Call] = field(default_factory=Counter)
    has_written: bool = True

    def reach(self, boundary: str) -> None:
        """The process could be gone here."""
        window = WINDOWS[len(self.done)]
        point = f"{len(self.boundaries):03} {boundary}"
        self.boundaries.append(boundary)
        self.recording.take(point, has_written=self.has_written)
        self.has_written = False
        if self.recording.points[-1] == point:
            self.points[window].append(point)

    async def before(self, operation: Operation, arguments: tuple[Any, ...]) -> None:
        if name := name_of(operation, arguments):
            self.reach(f"before {name} is written")

    async def after(self, operation: Operation, arguments: tuple[Any, ...]) -> None:
        self.has_written = True  # Whatever it was about: the rows must be looked at again.
        if name := name_of(operation, arguments):
            self.done.append(name)
            self.reach(f"after {name} is written")

    async def in_call(self) -> None:
        self.reach("in the call")

    def around_git(self, when: Literal["before", "after"], command: str) -> None:
        self.reach(f"{when} git {command}")

    @property
    def repository(self) -> Path:
        return self.recording.folder / "project"


async def _live(lived: Lived, empty_database: Path | str, tools: Path) -> None:
    recording = lived.recording
    repository = make_repository(lived.repository)
    async with open_house(recording.folder, empty_database, clock=ManualClock(NOON)) as house:
        plan = a_plan(repository, [a_phase("a")], [a_phase("b")], verify=VERIFY)
        recording.run_id = await house.start_unattended(plan)
        async with watching(_url(house), before=lived.before, after=lived.after) as watched:
            door = app.call_door(replace(house.autopack, database=watched), rehearsal_pause=lived.in_call)
            # The patch goes round the whole life of the supervisor: no git of ours may still wait for an answer.
            with pytest.MonkeyPatch.context() as patch, told_git(tools, patch, lived.around_git):
                async with house.supervising(door=door, database=watched):
                    await until(lambda: _has_stopped(house, recording.run_id))
        run = await house.run(recording.run_id)
        lived.undisturbed = house.autopack.database.read_now(booked_calls)
        recording.tree = git(repository, "rev-parse", f"{run.branch}^{{tree}}")
        assert_finished(lived, run)


async def _has_stopped(house: House, run_id: str) -> bool:
    return (await house.autopack.database.read(run_by_id, run_id)).state not in RUN_ACTIVE


def _url(house: House) -> str:
    return house.autopack.database.url.render_as_string(hide_password=False)


def assert_finished(lived: Lived, run: RunSummary) -> None:
    """Succeeded with both phases in their first attempt, one commit each, and the very files it should have."""
    repository = lived.repository
    assert (run.state, run.percent_complete) == ("succeeded", 100.0)
    assert [(phase.state, phase.attempt, phase.is_verified) for phase in run.phases] == [
        ("succeeded", 1, "verified")
    ] * 2
    trailers = "%(trailers:key=Autopack-Phase,valueonly,separator=%x2C)"
    assert git(repository, "log", "--reverse", f"--format={trailers}", f"main..{run.branch}").split() == ["a", "b"]
    assert git(repository, "rev-parse", f"{run.branch}^{{tree}}") == lived.recording.tree
    assert [phase.commit for phase in run.phases] == git(
        repository, "rev-list", "--reverse", f"main..{run.branch}"
    ).splitlines()
    assert git(repository, "status", "--porcelain") == ""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def lived(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, empty_database_file: Path
) -> Iterator[Lived]:
    folder, copies = tmp_path_factory.mktemp("world"), tmp_path_factory.mktemp("copies")
    tools = tmp_path_factory.mktemp("tools")
    if request.param == "sqlite":
        made = Lived(Recording(folder, copies, SqliteRows(folder / "home" / "autopack.db", copies)), {})
        asyncio.run(_live(made, empty_database_file, tools))
        yield made
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = server.create(request.getfixturevalue("empty_postgres"))
    made = Lived(Recording(folder, copies, PostgresRows(server, name)), {"AUTOPACK_DATABASE_URL": server.url(name)})
    asyncio.run(_live(made, server.url(name), tools))
    yield made
    server.drop(name)


def test_every_boundary_of_the_run_lies_in_a_window_and_every_window_has_one(lived: Lived) -> None:
    assert tuple(lived.done) == WRITES
    assert [window for window in WINDOWS if not lived.points[window]] == []
    # Around each write, in each call, and around each git command, of which a run of two phases has many.
    kinds = Counter(re.sub(r"(before|after) .* is written", r"\1 a write", boundary) for boundary in lived.boundaries)
    assert (kinds["before a write"], kinds["after a write"]) == (len(WRITES), len(WRITES))
    assert kinds["in the call"] >= CALLS
    assert sum(count for kind, count in kinds.items() if kind.startswith("before git ")) > 40


def test_every_window_is_explained_to_people_and_drawn() -> None:
    kinds = list(dict.fromkeys(re.sub(r"^[ab] ", "", window) for window in WINDOWS))
    assert re.findall(r"^\| `([a-z ]+)` \|", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE) == kinds
    drawn_windows = sorted(file.stem for file in RECOVERIES.glob("*.txt"))
    assert drawn_windows == [f"{number:02} {window}" for number, window in enumerate(WINDOWS)]


@pytest.mark.parametrize("window", WINDOWS)
async def test_the_next_supervisor_finishes_what_a_crash_left(lived: Lived, window: str) -> None:
    recoveries = [await _recovered(lived, point) for point in lived.points[window]]

    # Wherever in the window it happened: the same rows stood, the same is done, and it costs the same.
    assert len({(r.database, r.wrote, r.ended, r.ledger) for r in recoveries}) == 1
    title = "A crash after the run has ended" if window == WINDOWS[-1] else f'A crash before "{window}" is written'
    picture = drawn(title, recoveries)
    file = RECOVERIES / f"{WINDOWS.index(window):02} {window}.txt"
    if os.environ.get(REWRITE):
        file.write_text(picture, encoding="utf-8")
    assert picture == file.read_text(encoding="utf-8"), f"Read it, then set {REWRITE}=1 to draw it anew."


async def _recovered(lived: Lived, point: str) -> Recovery:
    """Put the world back to a point, let a new supervisor finish, and say what there was and what it did."""
    recording = lived.recording
    recording.put_back(point)
    wrote: list[str] = []

    async def after(operation: Operation, arguments: tuple[Any, ...]) -> None:
        if name := name_of(operation, arguments):
            wrote.append(name)

    async with reopen_house(recording.folder, lived.environ, ManualClock(NOON + timedelta(seconds=LATER_S))) as house:
        database = house.autopack.database
        before = await house.run(recording.run_id)
        stood, lost = database.read_now(database_lines), database.read_now(calls_in_flight)
        unused = database.read_now(_calls_whose_answer_was_lost)
        folders = folder_line(Path(before.workspace), lived.repository, before.branch)
        async with watching(_url(house), after=after) as watched, house.supervising(database=watched):
            run = await house.stopped(recording.run_id)
        found, ended = database.read_now(booked_calls), database.read_now(database_lines)
        database.read_now(assert_ledger_adds_up)
        database.read_now(assert_spans_add_up, recording.run_id)
        assert set(database.read_now(steps_done, recording.run_id).values()) == {1}

    assert_finished(lived, run)
    # A call in flight is charged in full and made again; one whose answer was not written down is made again.
    assert found == lived.undisturbed + lost + unused
    return Recovery(stood, folders, tuple(wrote), ended[:-1], difference(found, lived.undisturbed))


def _calls_whose_answer_was_lost(connection: Connection) -> Counter[Call]:
    """Calls that were answered and booked, and nothing else was written: the step that asked is done again."""
    asking = {"building": "builder", "auditing": "auditor"}
    states = {row.phase_id: row.state for row in connection.execute(select(phases))}
    return Counter(call for call in booked_calls(connection) if asking.get(states[call.phase_id]) == call.role)


@pytest.mark.parametrize(
    "window, at, states, subjects",
    [
        pytest.param("a builder settled", 0, ["cancelled", "cancelled"], [], id="in a call"),
        pytest.param("a committed", 0, ["cancelled", "cancelled"], [], id="before the commit"),
        pytest.param("a committed", -1, ["succeeded", "cancelled"], ["Phase a"], id="with the commit on the branch"),
        pytest.param("b committed", -1, ["succeeded"] * 2, ["Phase b", "Phase a"], id="with the last one on it"),
    ],
)
async def test_a_run_that_is_cancelled_after_a_crash_keeps_exactly_what_stands_on_its_branch(
    lived: Lived, window: str, at: int, states: list[str], subjects: list[str]
) -> None:
    recording = lived.recording
    recording.put_back(lived.points[window][at])
    clock = ManualClock(NOON + timedelta(seconds=LATER_S))
    async with reopen_house(recording.folder, lived.environ, clock) as house:
        await house.autopack.database.write(add_request, recording.run_id, "cancel", "ann", "chat", clock.now())
        async with house.supervising():
            run = await house.stopped(recording.run_id)

    assert (run.state, [phase.state for phase in run.phases]) == ("cancelled", states)
    kept = git(lived.repository, "for-each-ref", "--format=%(refname:short)", "refs/heads/autopack")
    log = git(lived.repository, "log", "--format=%s", f"main..{run.branch}").splitlines() if kept else []
    assert log == subjects
    assert git(Path(run.workspace), "status", "--porcelain") == ""
