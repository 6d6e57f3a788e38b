"""What becomes of a run whose standing order fired: every action in every state, once, and with the reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

from autopack_mcp.budgets.ledger import RunFence
from autopack_mcp.budgets.standing_orders import Firing, StandingOrder, add_order, firings_of_run, unhandled_firings
from autopack_mcp.clock import ManualClock
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import order_firings, phases
from autopack_mcp.errors import LeaseLost
from autopack_mcp.runs.firings import heed_firings, heed_unattended
from autopack_mcp.runs.outcomes import cancel_run
from autopack_mcp.runs.states import RunState
from autopack_mcp.runs.stops import OrderStop, order_stop
from autopack_mcp.runs.store import claim, events_of_run, move_run, run_by_id
from autopack_mcp.summary.run import RunSummary
from tests.factories import NOON, insert_phase, insert_run
from tests.ledger_truth import assert_ledger_adds_up
from tests.projects import a_phase, a_plan, make_repository
from tests.runs.house import ANN, House, open_house, reopen_house
from tests.runs.recording import Recording
from tests.runs.watched import Operation, WatchedDatabase, name_of

anyio_test = pytest.mark.anyio
MINE = RunFence("R1", 1)
LATER = NOON + timedelta(seconds=9)
WHY = "Standing order 1 (pause run R1 when it reaches 10 tokens): That is 10 tokens."


def fired(database: Database, action: str = "pause", order_id: int = 1, **overrides: Any) -> None:
    """An order has fired for run R1, and nobody has acted on it yet."""
    row = {
        "order_id": order_id, "run_id": "R1", "action": action, "scope": "run/R1", "unit": "tokens", "threshold": 10,
        "used": 9, "call_id": "c1", "why": WHY, "fired_at": NOON, "did": "", "handled_at": None, **overrides,
    }  # fmt: skip
    database.write_now(lambda connection: connection.execute(insert(order_firings).values(**row)))


def firings(database: Database, run_id: str = "R1") -> list[Firing]:
    """Oldest first."""
    return list(reversed(database.read_now(firings_of_run, run_id, 9)))


def a_run(database: Database, state: RunState = "running", **overrides: Any) -> None:
    database.write_now(lambda connection: insert_run(connection, state=state, why="so", **overrides))
    database.write_now(insert_phase, 1)


@pytest.mark.parametrize(
    "state, action, expected, did",
    [
        ("queued", "pause", "paused", "the run was paused"),
        ("running", "pause", "paused", "the run was paused"),
        ("pausing", "pause", "paused", "the run was paused"),
        ("paused", "pause", "paused", "it was already paused"),
        ("budget_paused", "pause", "budget_paused", "it was already budget_paused"),
        ("needs_attention", "pause", "needs_attention", "it was already needs_attention"),
        ("cancelling", "pause", "cancelling", "it was already cancelling"),
        ("queued", "cancel", "cancelling", "the run was cancelled"),
        ("running", "cancel", "cancelling", "the run was cancelled"),
        ("pausing", "cancel", "cancelling", "the run was cancelled"),
        ("paused", "cancel", "cancelling", "the run was cancelled"),
        ("budget_paused", "cancel", "cancelling", "the run was cancelled"),
        ("needs_attention", "cancel", "cancelling", "the run was cancelled"),
        ("cancelling", "cancel", "cancelling", "it was already cancelling"),
    ],
)
def test_a_firing_moves_its_run_or_is_marked_with_what_it_found(
    database: Database, state: RunState, action: str, expected: str, did: str
) -> None:
    a_run(database, state)
    fired(database, action)
    database.write_now(heed_firings, MINE, LATER)

    run = database.read_now(run_by_id, "R1")
    (firing,) = firings(database)
    assert (run.state, firing.did, firing.handled_at) == (expected, did, LATER)
    moves = [(event.from_state, event.to_state, event.why) for event in database.read_now(events_of_run, "R1", 9)]
    assert moves == ([] if state == expected else [(state, expected, WHY)])
    assert run.why == ("so" if state == expected else WHY)
    assert order_stop(run) == (None if state == expected else OrderStop(1))


def test_a_run_keeps_how_much_the_denied_call_wanted_and_forgets_it_when_it_goes_on(database: Database) -> None:
    kept = {"order_id": 1, "scope": "run/R1", "unit": "tokens", "needed": 18_009, "wanted": 18_000}
    a_run(database, stopped_by=kept)
    fired(database)
    database.write_now(heed_firings, MINE, LATER)
    assert order_stop(database.read_now(run_by_id, "R1")) == OrderStop(1, "tokens", 18_000)

    database.write_now(move_run, MINE, "resume", "on", LATER)
    assert order_stop(database.read_now(run_by_id, "R1")) is None


def test_what_another_order_denied_is_not_kept_for_this_one(database: Database) -> None:
    a_run(database, stopped_by={"order_id": 2, "scope": "run/R1", "unit": "tokens", "needed": 9, "wanted": 5})
    fired(database)
    database.write_now(heed_firings, MINE, LATER)
    assert order_stop(database.read_now(run_by_id, "R1")) == OrderStop(1)


def test_a_person_who_cancels_a_run_that_an_order_paused_is_who_cancelled_it(database: Database) -> None:
    a_run(database)
    fired(database)
    database.write_now(heed_firings, MINE, LATER)
    database.write_now(move_run, MINE, "cancel", "cancel asked by ann through a phone", LATER)
    database.write_now(cancel_run, MINE, LATER)
    assert database.read_now(run_by_id, "R1").why == "cancelled as asked"


def test_a_run_that_an_order_cancelled_says_so_when_it_has_ended(database: Database) -> None:
    a_run(database)
    fired(database, "cancel")
    database.write_now(heed_firings, MINE, LATER)
    database.write_now(cancel_run, MINE, LATER)
    run = database.read_now(run_by_id, "R1")
    assert (run.state, run.why, order_stop(run)) == ("cancelled", WHY, OrderStop(1))


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_a_firing_about_a_run_that_has_ended_is_marked_with_that(database: Database, state: RunState) -> None:
    a_run(database, state)
    fired(database)
    database.write_now(heed_unattended, "R1", "boss", LATER, 6.0)

    assert [firing.did for firing in firings(database)] == ["the run had ended already"]
    assert database.read_now(run_by_id, "R1").why == "so"


@pytest.mark.parametrize("action", ["pause", "cancel"])
def test_a_run_with_nothing_left_to_do_is_left_to_end(database: Database, action: str) -> None:
    a_run(database)
    done = update(phases).values(state="succeeded")
    database.write_now(lambda connection: connection.execute(done))
    fired(database, action)
    database.write_now(heed_firings, MINE, LATER)

    assert [firing.did for firing in firings(database)] == ["nothing was left to be done"]
    assert database.read_now(run_by_id, "R1").state == "running"


def test_every_firing_is_acted_on_in_its_turn(database: Database) -> None:
    a_run(database)
    for order_id, action in enumerate(("pause", "pause", "cancel"), start=1):
        fired(database, action, order_id)
    database.write_now(heed_firings, MINE, LATER)

    assert [firing.did for firing in firings(database)] == [
        "the run was paused", "it was already paused", "the run was cancelled"
    ]  # fmt: skip
    assert database.read_now(run_by_id, "R1").state == "cancelling"
    assert database.read_now(unhandled_firings) == ()


def test_a_process_that_lost_the_run_moves_nothing_and_marks_nothing(database: Database) -> None:
    a_run(database, lease_token=2)
    fired(database)
    with pytest.raises(LeaseLost):
        database.write_now(heed_firings, MINE, LATER)
    assert [firing.did for firing in firings(database)] == [""]


def test_a_run_that_nobody_has_in_hand_is_claimed_for_the_move_alone(database: Database) -> None:
    a_run(database)
    fired(database)
    database.write_now(heed_unattended, "R1", "boss", LATER, 6.0)

    run = database.read_now(run_by_id, "R1")
    assert (run.state, run.lease_token, run.lease_owner) == ("paused", 2, None)


def test_a_run_that_somebody_has_in_hand_is_left_to_its_owner(database: Database) -> None:
    a_run(database)
    fired(database)
    assert database.write_now(claim, "R1", "another", LATER, 60.0) is not None
    database.write_now(heed_unattended, "R1", "boss", LATER, 6.0)

    assert database.read_now(run_by_id, "R1").state == "running"
    assert [firing.did for firing in firings(database)] == [""]


# ── whole runs ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def house(tmp_path: Path, empty_database: Path | str) -> AsyncIterator[House]:
    async with open_house(tmp_path, empty_database) as opened:
        yield opened


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "project")


def lay_down(house: House, run_id: str, tokens: int, action: Any = "pause") -> int:
    """Stop this run when it has used so many tokens."""
    wish = StandingOrder(0, action, "run", "tokens", tokens, run_id, "ann", "a test", house.autopack.clock.now())
    return house.autopack.database.write_now(add_order, wish)


@anyio_test
async def test_an_order_pauses_a_run_at_the_call_that_would_pass_it_and_a_person_overrules_it(
    house: House, repository: Path
) -> None:
    run_id = await house.start_unattended(a_plan(repository))
    number = lay_down(house, run_id, 2_000)
    async with house.supervising():
        stopped = await house.stopped(run_id)
        await house.control.request(run_id, "resume", ANN)
        run = await house.stopped(run_id)

    assert (stopped.state, stopped.phases[0].state, stopped.phases[0].attempt) == ("paused", "building", 1)
    assert stopped.tokens_used == stopped.tokens_reserved == 0
    assert stopped.why.startswith(f"Standing order {number} (pause run {run_id} when it reaches 2,000 tokens)")
    assert "0 tokens are used" in stopped.why
    (firing,) = firings(house.autopack.database, run_id)
    assert firing.did == "the run was paused"
    # The same order says nothing more in the same window: the person has seen it and wants to go on.
    assert (run.state, [phase.attempt for phase in run.phases]) == ("succeeded", [1, 1])


@anyio_test
async def test_an_order_cancels_a_run_and_leaves_nothing_open(house: House, repository: Path) -> None:
    run_id = await house.start_unattended(a_plan(repository))
    lay_down(house, run_id, 2_000, "cancel")
    async with house.supervising():
        run = await house.stopped(run_id)

    assert run.state == "cancelled"
    assert {phase.state for phase in run.phases} == {"cancelled"}
    assert run.why.startswith("Standing order 1 (cancel run")


@anyio_test
async def test_an_order_that_a_call_of_somebody_else_fires_cancels_a_run_in_the_middle_of_a_command(
    house: House, repository: Path
) -> None:
    async with house.supervising():
        run_id = await house.start(a_plan(repository, [a_phase("a", verify="sleep 3600")]))
        await house.until(run_id, lambda run: run.current_phase_state == "verifying")
        database = house.autopack.database
        fired(database, "cancel", run_id=run_id)
        run = await house.stopped(run_id)

    assert run.state == "cancelled"
    assert [firing.did for firing in firings(database, run_id)] == ["the run was cancelled"]


@anyio_test
async def test_an_order_that_a_call_of_somebody_else_fires_pauses_a_run_after_the_step_in_hand(
    house: House, repository: Path
) -> None:
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository))
        await house.gate.reached.wait()
        fired(house.autopack.database, run_id=run_id)
        house.gate.open()
        run = await house.stopped(run_id)

    assert (run.state, run.phases[0].state) == ("paused", "applying")


@anyio_test
async def test_an_order_that_fires_for_a_paused_run_does_not_stop_it_when_it_is_resumed(
    house: House, repository: Path
) -> None:
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository))
        await house.gate.reached.wait()
        await house.control.request(run_id, "pause", ANN, now=True)
        fired(house.autopack.database, run_id=run_id)
        await house.until(run_id, lambda _: not house.autopack.database.read_now(unhandled_firings))
        house.gate.open()
        await house.control.request(run_id, "resume", ANN)
        run = await house.stopped(run_id)

    assert run.state == "succeeded"
    assert [firing.did for firing in firings(house.autopack.database, run_id)] == ["it was already paused"]


# ── crashes ──────────────────────────────────────────────────────────────────────────────────────────────────────────

# The reservation is the write that denies and holds the firing; of what the step came to only numbers are written.
BEGINNING = (
    "before claimed", "after claimed", "after started", "before prepared", "after prepared", "after a begun",
    "after a builder reserved", "after a orderfired", "after heeded",
)  # fmt: skip
POINTS = {"pause": BEGINNING, "cancel": (*BEGINNING, "after cancelled")}
ENDS = {"pause": ("paused", "the run was paused"), "cancel": ("cancelled", "the run was cancelled")}


async def _record(recording: Recording, empty_database_file: Path, action: str) -> None:
    repository = make_repository(recording.folder / "project")
    async with open_house(recording.folder, empty_database_file, clock=ManualClock(NOON)) as house:
        recording.run_id = await house.start_unattended(a_plan(repository, [a_phase("a")]))
        lay_down(house, recording.run_id, 2_000, action)

        async def before(operation: Operation, arguments: tuple[Any, ...]) -> None:
            if name := name_of(operation, arguments):
                recording.take(f"before {name}")

        async def after(operation: Operation, arguments: tuple[Any, ...]) -> None:
            if name := name_of(operation, arguments):
                recording.take(f"after {name}")

        url = house.autopack.database.url.render_as_string()
        watched = WatchedDatabase(url, before=before, after=after)
        async with house.supervising(database=watched):
            assert_stopped_once(house, await house.stopped(recording.run_id), action)
        await watched.close()


def assert_stopped_once(house: House, run: RunSummary, action: str) -> None:
    """The order has done its part, nothing is promised to anybody, and nothing was bought."""
    state, did = ENDS[action]
    database = house.autopack.database
    assert (run.state, [firing.did for firing in firings(database, run.run_id)]) == (state, [did])
    assert run.why.startswith("Standing order 1 (")
    assert (run.tokens_used, run.tokens_reserved) == (0, 0)
    database.read_now(assert_ledger_adds_up)


@pytest.fixture(scope="module")
def recording(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, empty_database_file: Path
) -> Recording:
    made = Recording(tmp_path_factory.mktemp("world"), tmp_path_factory.mktemp("copies"))
    asyncio.run(_record(made, empty_database_file, request.param))
    return made


@pytest.mark.parametrize("recording, action", [("pause", "pause"), ("cancel", "cancel")], indirect=["recording"])
def test_every_point_of_a_firing_at_which_the_world_is_another_one_is_tried(recording: Recording, action: str) -> None:
    assert tuple(recording.points) == POINTS[action]


@anyio_test
@pytest.mark.parametrize(
    "recording, action, point",
    [pytest.param(action, action, point, id=f"{action} {point}") for action in POINTS for point in POINTS[action]],
    indirect=["recording"],
)
async def test_a_crash_between_a_firing_and_its_move_loses_neither(
    recording: Recording, action: str, point: str
) -> None:
    recording.put_back(point)
    clock = ManualClock(NOON + timedelta(hours=1))
    async with reopen_house(recording.folder, clock=clock) as house:
        async with house.supervising():
            assert_stopped_once(house, await house.stopped(recording.run_id), action)
            if action == "pause":
                await house.control.request(recording.run_id, "resume", ANN)
                assert (await house.stopped(recording.run_id)).state == "succeeded"
        assert len(firings(house.autopack.database, recording.run_id)) == 1
