"""A process that is gone after any write of a run, or with a step's work done and not written: the next one finishes.

One run is recorded: before and after each write the whole world (database, workspace, repository) is copied aside. Each
copy is then put back where it was and given to a new supervisor, an hour later, when every lease has ended.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from autopack_mcp.clock import ManualClock
from autopack_mcp.database.tables import phases, reservations, usage_events
from autopack_mcp.runs.requests import add_request
from autopack_mcp.summary.run import RunSummary
from tests.factories import NOON
from tests.ledger_truth import assert_ledger_adds_up
from tests.projects import a_phase, a_plan, git, make_repository
from tests.runs.house import open_house, reopen_house
from tests.runs.recording import Recording
from tests.runs.watched import Operation, WatchedDatabase, name_of

pytestmark = pytest.mark.anyio

LATER_S = 3600.0  # Longer than any lease: of the run, of the supervisor, of a call.
STEPS = (
    "begun", "builder reserved", "builder settled", "built", "applied", "verified", "auditor reserved",
    "auditor settled", "approved", "committed",
)  # fmt: skip
PHASES = tuple(f"{phase} {step}" for phase in "ab" for step in STEPS)
WRITES = ("claimed", "started", "prepared", *PHASES, "closed")
# What is done before these is seen outside the database; before any other write the world is as after the last one.
WORKING = {
    "claimed",
    "prepared",
    "b builder reserved",
    *(f"{phase} {step}" for phase in "ab" for step in ("applied", "verified", "committed")),
}
POINTS = tuple(
    point for write in WRITES for point in ([f"before {write}"] if write in WORKING else []) + [f"after {write}"]
)
# It leaves something behind, so that a step which is repeated finds what the first try left.
VERIFY = "test ! -e leftover && touch leftover"
CALLS = 4  # A builder's and an auditor's for each phase.


async def _record(recording: Recording, empty_database_file: Path) -> None:
    repository = make_repository(recording.folder / "project")
    async with open_house(recording.folder, empty_database_file, clock=ManualClock(NOON)) as house:
        recording.run_id = await house.start_unattended(
            a_plan(repository, [a_phase("a")], [a_phase("b")], verify=VERIFY)
        )

        async def before(operation: Operation, arguments: tuple[Any, ...]) -> None:
            if name := name_of(operation, arguments):
                recording.take(f"before {name}")

        async def after(operation: Operation, arguments: tuple[Any, ...]) -> None:
            if name := name_of(operation, arguments):
                recording.take(f"after {name}")

        url = house.autopack.database.url.render_as_string()
        watched = WatchedDatabase(url, before=before, after=after)
        async with house.supervising(database=watched):
            run = await house.stopped(recording.run_id)
        await watched.close()
        recording.tree = git(repository, "rev-parse", f"{run.branch}^{{tree}}")
        assert_finished(recording, run, repository)


def assert_finished(recording: Recording, run: RunSummary, repository: Path) -> None:
    """Succeeded with both phases in their first attempt, one commit each, and the very files it should have."""
    assert (run.state, run.percent_complete) == ("succeeded", 100.0)
    assert [(phase.state, phase.attempt, phase.is_verified) for phase in run.phases] == [
        ("succeeded", 1, "verified")
    ] * 2
    trailers = "%(trailers:key=Autopack-Phase,valueonly,separator=%x2C)"
    assert git(repository, "log", "--reverse", f"--format={trailers}", f"main..{run.branch}").split() == ["a", "b"]
    assert git(repository, "rev-parse", f"{run.branch}^{{tree}}") == recording.tree
    assert [phase.commit for phase in run.phases] == git(
        repository, "rev-list", "--reverse", f"main..{run.branch}"
    ).splitlines()
    assert git(repository, "status", "--porcelain") == ""


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory, empty_database_file: Path) -> Recording:
    folder = tmp_path_factory.mktemp("world")
    made = Recording(folder, tmp_path_factory.mktemp("copies"))
    asyncio.run(_record(made, empty_database_file))
    return made


def test_every_point_at_which_the_world_is_another_one_is_tried(recording: Recording) -> None:
    assert tuple(recording.points) == POINTS
    # Nothing else is written in between, and where a point is left out the world is the one before it.
    assert sorted(recording.points + recording.left_out) == sorted(
        f"{when} {write}" for write in WRITES for when in ("before", "after")
    )


@pytest.mark.parametrize("point", POINTS)
async def test_the_next_supervisor_finishes_what_a_crash_left(recording: Recording, point: str) -> None:
    recording.put_back(point)
    clock = ManualClock(NOON + timedelta(seconds=LATER_S))
    async with reopen_house(recording.folder, clock=clock) as house:
        lost, wasted = house.autopack.database.read_now(_calls_without_a_result)
        async with house.supervising():
            run = await house.stopped(recording.run_id)
        booked = house.autopack.database.read_now(_statuses)
        house.autopack.database.read_now(assert_ledger_adds_up)

    assert_finished(recording, run, recording.folder / "project")
    # A call in flight is charged in full and made again; one whose answer was not written down is made again.
    assert sorted(booked) == ["expired"] * lost + ["ok"] * (CALLS + wasted)


@pytest.mark.parametrize(
    "point, states, subjects",
    [
        pytest.param("after a builder reserved", ["cancelled", "cancelled"], [], id="in a call"),
        pytest.param("after a approved", ["cancelled", "cancelled"], [], id="before the commit"),
        pytest.param("before a committed", ["succeeded", "cancelled"], ["Phase a"], id="with the commit on the branch"),
        pytest.param("before b committed", ["succeeded"] * 2, ["Phase b", "Phase a"], id="with the last one on it"),
    ],
)
async def test_a_run_that_is_cancelled_after_a_crash_keeps_exactly_what_stands_on_its_branch(
    recording: Recording, point: str, states: list[str], subjects: list[str]
) -> None:
    recording.put_back(point)
    clock = ManualClock(NOON + timedelta(seconds=LATER_S))
    async with reopen_house(recording.folder, clock=clock) as house:
        await house.autopack.database.write(add_request, recording.run_id, "cancel", "ann", "chat", clock.now())
        async with house.supervising():
            run = await house.stopped(recording.run_id)

    repository = recording.folder / "project"
    assert (run.state, [phase.state for phase in run.phases]) == ("cancelled", states)
    kept = git(repository, "for-each-ref", "--format=%(refname:short)", "refs/heads/autopack")
    assert (git(repository, "log", "--format=%s", f"main..{run.branch}").splitlines() if kept else []) == subjects
    assert git(Path(run.workspace), "status", "--porcelain") == ""


def _calls_without_a_result(connection: Connection) -> tuple[int, int]:
    """Calls that were in flight, and calls whose answer came but of which nothing else was written."""
    lost = connection.execute(select(reservations.c.call_id).where(reservations.c.state == "held")).all()
    states = {row.phase_id: row.state for row in connection.execute(select(phases))}
    asking = {"builder": "building", "auditor": "auditing"}
    booked = connection.execute(select(usage_events.c.phase_id, usage_events.c.role)).all()
    return len(lost), sum(states[phase_id] == asking[role] for phase_id, role in booked)


def _statuses(connection: Connection) -> list[str]:
    return list(connection.execute(select(usage_events.c.status)).scalars())
