"""One run under one fencing token: people who act in mid-step, processes that lost the run, walls that it runs into."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection, Row, select

from autopack_mcp import app
from autopack_mcp.builders.api import ApiBuilder
from autopack_mcp.builders.base import BuildJob, Built
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import attempts, phases, reservations, run_events, runs, usage_events
from autopack_mcp.errors import (
    AutopackError,
    DatabaseBusy,
    DatabaseError,
    DatabaseUnusable,
    Denial,
    MissingKey,
    NoRoute,
    OverrideRefused,
    ProviderRateLimited,
    ProviderRefused,
    ProviderUnavailable,
    QuotaExhausted,
    UnusableReply,
    WorkspaceError,
)
from autopack_mcp.llm_service import AsyncLlmService
from autopack_mcp.plans.plan import plan_from_json
from autopack_mcp.runs.driver import RunDriver
from autopack_mcp.runs.executor import Executor, StepJob
from autopack_mcp.runs.requests import Action
from autopack_mcp.runs.sessions import SessionBooks
from autopack_mcp.runs.store import (
    attempts_of_phase,
    claim,
    move_run,
    phases_of_run,
    plan_json_of_run,
    run_by_id,
)
from autopack_mcp.sandbox import plain_sandbox
from tests.projects import a_phase, a_plan, git, make_repository
from tests.runs.house import ANN, House, open_house
from tests.runs.watched import Operation, WatchedDatabase, name_of

pytestmark = pytest.mark.anyio
LIMIT_S = 10


@pytest.fixture
def engine() -> str:
    """Git and the order of steps are tried here; their transactions are tried on both engines in the other files."""
    return "sqlite"


@pytest.fixture
async def house(tmp_path: Path, empty_database: Path | str) -> AsyncIterator[House]:
    async with open_house(tmp_path, empty_database) as opened:
        yield opened


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "project")


def url_of(house: House) -> str:
    return house.autopack.database.url.render_as_string()


def rows(connection: Connection) -> list[Row[Any]]:
    """Everything that is known about runs."""
    return [row for table in (runs, phases, attempts, run_events) for row in connection.execute(select(table))]


def statuses(connection: Connection) -> list[str]:
    return list(connection.execute(select(usage_events.c.status)).scalars())


def held(connection: Connection) -> int:
    return len(connection.execute(select(reservations).where(reservations.c.state == "held")).all())


@asynccontextmanager
async def stepping_in(
    house: House, moment: str, act: Callable[[], Any], *, at_read: bool = False
) -> AsyncIterator[None]:
    """A supervisor of which somebody acts, once, just before it writes (or asks) what ``moment`` names."""
    waiting = [act]

    async def look(operation: Operation, arguments: tuple[Any, ...]) -> None:
        name = operation.__name__ if at_read else name_of(operation, arguments)
        if name == moment and waiting:
            await waiting.pop()()

    watch: dict[str, Any] = {"before_read" if at_read else "before": look}
    database = WatchedDatabase(url_of(house), **watch)
    try:
        async with house.supervising(database=database):
            yield
    finally:
        await database.close()
    assert not waiting, f"{moment} never came"


# ── people who act in the middle ─────────────────────────────────────────────────────────────────────────────────────

RED = {"tiers": [a_phase("a", verify="false")], "attempts_limit": 1}
CAPPED = {"tiers": [a_phase("a")], "token_cap": 2_000}
BROKEN = {"tiers": [a_phase("a")], "setup": "exit 7"}
GOOD = {"tiers": [a_phase("a")]}


def plan_of(repository: Path, options: dict[str, Any]) -> str:
    rest = {key: value for key, value in options.items() if key != "tiers"}
    return a_plan(repository, options["tiers"], **rest)


@pytest.mark.parametrize(
    "action, moment, options, expected",
    [
        pytest.param("cancel", "started", GOOD, "cancelled", id="cancel before it starts"),
        pytest.param("cancel", "prepared", GOOD, "cancelled", id="cancel with a new workspace"),
        pytest.param("cancel", "a stuck", BROKEN, "cancelled", id="cancel as the set-up fails"),
        pytest.param("cancel", "a begun", GOOD, "cancelled", id="cancel before an attempt begins"),
        pytest.param("cancel", "a budgetdenied", CAPPED, "cancelled", id="cancel as a cap denies a call"),
        pytest.param("cancel", "a attemptfailed", RED, "cancelled", id="cancel as the last attempt fails"),
        pytest.param("cancel", "closed", GOOD, "cancelled", id="cancel as the run ends"),
        pytest.param("pause", "started", GOOD, "paused", id="pause before it starts"),
        pytest.param("pause", "a budgetdenied", CAPPED, "budget_paused", id="pause as a cap denies a call"),
        pytest.param("pause", "a attemptfailed", RED, "needs_attention", id="pause as the last attempt fails"),
        pytest.param("pause", "a committed", GOOD, "succeeded", id="pause as the last step ends"),
        pytest.param("pause", "closed", GOOD, "succeeded", id="pause as the run ends"),
    ],
)
async def test_a_person_who_acts_between_a_step_and_its_commit_has_the_last_word(
    house: House, repository: Path, action: Action, moment: str, options: dict[str, Any], expected: str
) -> None:
    run_id = await house.start_unattended(plan_of(repository, options))
    asked: list[asyncio.Task[Any]] = []

    async def act() -> None:
        asked.append(asyncio.create_task(house.control.request(run_id, action, ANN)))
        await house.until(run_id, lambda run: run.state not in ("queued", "running"))

    async with stepping_in(house, moment, act):
        run = await house.stopped(run_id)
        outcome = await asked[0]

    assert (run.state, outcome.state, outcome.is_pending) == (expected, expected, False)
    assert house.autopack.database.read_now(run_by_id, run_id).lease_owner is None
    if action == "cancel":
        # What is over stays as it was, and nothing is left open.
        assert run.phases[0].state == ("succeeded" if moment == "closed" else "cancelled")


async def test_a_cancel_that_comes_as_a_step_is_about_to_begin_does_not_wait_for_its_end(
    house: House, repository: Path
) -> None:
    run_id = await house.start_unattended(a_plan(repository, [a_phase("a", verify="sleep 3600")]))
    database = house.autopack.database
    asked: list[asyncio.Task[Any]] = []

    async def look(query: Operation, arguments: tuple[Any, ...]) -> None:
        is_next = query is attempts_of_phase and database.read_now(phases_of_run, run_id)[0].state == "verifying"
        if is_next and not asked:
            asked.append(asyncio.create_task(house.control.request(run_id, "cancel", ANN)))
            await house.until(run_id, lambda run: run.state == "cancelling")

    watched = WatchedDatabase(url_of(house), before_read=look)
    async with house.supervising(database=watched):
        with anyio.fail_after(LIMIT_S):
            run = await house.stopped(run_id)
            await asked[0]
    await watched.close()

    assert run.state == "cancelled"


async def test_a_cap_that_is_still_full_stops_the_run_again_at_the_same_step(house: House, repository: Path) -> None:
    async with house.supervising():
        run_id = await house.start(plan_of(repository, CAPPED))
        first = await house.stopped(run_id)
        paused = await house.control.request(run_id, "pause", ANN)
        resumed = await house.control.request(run_id, "resume", ANN)
        second = await house.until(
            run_id, lambda run: run.state == "budget_paused" and run.updated_at > first.updated_at
        )
        cancelled = await house.control.request(run_id, "cancel", ANN)

    assert "already budget_paused" in paused.message
    assert resumed.state in ("running", "budget_paused")
    assert "2,000 tokens" in second.why
    assert (second.phases[0].state, second.phases[0].attempt) == ("building", 1)
    assert house.autopack.database.read_now(statuses) == []
    assert cancelled.state == "cancelled"


# ── processes that lost the run ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "moment, at_read",
    [
        pytest.param("a builder reserved", False, id="before it buys a call"),
        pytest.param("a built", False, id="with a reply in its hand"),
        pytest.param("a verified", False, id="with a green verification"),
        pytest.param("check_lease", True, id="with a commit for the person's branch"),
        pytest.param("closed", False, id="with nothing left to do"),
    ],
)
async def test_a_process_that_lost_its_run_writes_nothing_of_what_it_did(
    house: House, repository: Path, moment: str, at_read: bool
) -> None:
    run_id = await house.start_unattended(a_plan(repository, [a_phase("a")]))
    database = house.autopack.database
    seen: dict[str, Any] = {}

    async def take_away() -> None:
        later = house.autopack.clock.now() + timedelta(hours=1)
        assert await database.write(claim, run_id, "another machine", later, 6.0) is not None
        seen.update(rows=database.read_now(rows), branch=branch(repository))

    async with stepping_in(house, moment, take_away, at_read=at_read):
        await _until(lambda: "rows" in seen)
        # The zombie has ended when its step has: the next look of its driver names the new owner.
        await _until(lambda: not _has_driver(run_id))

    assert database.read_now(rows) == seen["rows"]
    assert branch(repository) == seen["branch"]
    assert database.read_now(held) == 0


def branch(repository: Path) -> str:
    return git(repository, "for-each-ref", "refs/heads/autopack")


async def test_a_process_that_is_told_that_it_lost_its_run_books_its_call_and_touches_no_file(
    house: House, repository: Path
) -> None:
    run_id = await house.start_unattended(a_plan(repository, [a_phase("a")]))
    database = house.autopack.database
    house.gate.close()
    async with driving(house, run_id) as (_, _, make_driver):
        driver = make_driver()
        driving_it = asyncio.create_task(driver.drive())
        await house.gate.reached.wait()
        later = house.autopack.clock.now() + timedelta(hours=1)
        await database.write(claim, run_id, "another machine", later, 6.0)
        before = database.read_now(rows)
        theirs = Path((await house.run(run_id)).workspace) / "theirs.txt"
        theirs.write_text("the new owner is at work\n", encoding="utf-8")
        driver.interrupt()
        with anyio.fail_after(LIMIT_S):
            await driving_it

    assert database.read_now(rows) == before
    assert theirs.exists()
    # Whoever owns the run, the money was spent.
    assert database.read_now(statuses) == ["cut"]
    assert database.read_now(held) == 0


# ── walls ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class MoodyBuilder(ApiBuilder):
    """Answers as in any rehearsal, unless it is told to fail."""

    error: Exception | None = None

    async def build(self, job: BuildJob) -> Built:
        if self.error is not None:
            raise self.error
        return await super().build(job)


@asynccontextmanager
async def driving(
    house: House, run_id: str, database: Database | None = None
) -> AsyncIterator[tuple[MoodyBuilder, Executor, Callable[[], RunDriver]]]:
    """The parts of a run without a supervisor; each driver claims the run anew."""
    door = app.call_door(house.autopack, rehearsal_pause=house.gate)
    service = AsyncLlmService(door)
    builder = MoodyBuilder(service)
    database, clock = database or house.autopack.database, house.autopack.clock
    executor = Executor(
        database=database, clock=clock, builder=builder, auditor=service, sandbox=plain_sandbox("this is a test"),
        environ=house.autopack.environ,
        sessions=SessionBooks(ledger=app.ledger(house.autopack), clock=clock, price_book=house.autopack.price_book),
    )  # fmt: skip

    def driver() -> RunDriver:
        fence = database.write_now(claim, run_id, "me", clock.now(), 60.0)
        assert fence is not None
        return RunDriver(fence=fence, database=database, clock=clock, executor=executor)

    yield builder, executor, driver
    await door.close()


DENIAL = Denial("run/r", "tokens", 9, 0, 9, 10, None, "The cap is full.")
REFUSED = "openai answered"
FAILURES: dict[str, tuple[AutopackError | OSError, str]] = {
    "no key": (MissingKey("openai", "OPENAI_API_KEY"), "Stuck"),
    "key not accepted": (ProviderRefused(REFUSED, provider="openai", status=401), "Stuck"),
    "no credit": (ProviderRefused(REFUSED, provider="openai", status=402), "Stuck"),
    "not allowed": (ProviderRefused(REFUSED, provider="openai", status=403), "Stuck"),
    "no such model": (ProviderRefused(REFUSED, provider="openai", status=404), "Stuck"),
    "no credit, says a 429": (ProviderRefused(REFUSED, provider="openai", status=429), "Stuck"),
    "prompt too large": (ProviderRefused(REFUSED, provider="openai", status=413), "AttemptFailed"),
    "bad request": (ProviderRefused(REFUSED, provider="openai", status=400), "AttemptFailed"),
    "rate limited to the end": (ProviderRateLimited(REFUSED, provider="openai"), "AttemptFailed"),
    "down": (ProviderUnavailable(REFUSED, provider="openai"), "AttemptFailed"),
    "no route": (NoRoute("builder", "general", "low", "nothing is configured."), "Stuck"),
    "override of a model that is gone": (OverrideRefused("No model 'x'."), "Stuck"),
    "unusable": (UnusableReply("prose"), "AttemptFailed"),
    "over its cap": (QuotaExhausted(DENIAL), "BudgetDenied"),
    "git refuses": (WorkspaceError("git refused"), "Stuck"),
    "disk full": (OSError(28, "No space left on device"), "Stuck"),
}


async def test_only_what_another_attempt_can_mend_costs_one(house: House, repository: Path) -> None:
    run_id = await house.start_unattended(a_plan(repository, [a_phase("a")]))
    database = house.autopack.database
    async with driving(house, run_id) as (builder, executor, driver):
        builder.error = FAILURES["no key"][0]
        await driver().drive()
        run = database.read_now(run_by_id, run_id)
        plan = plan_from_json(database.read_now(plan_json_of_run, run_id))
        tried = database.read_now(attempts_of_phase, run_id, "a")
        job = StepJob(run, plan, "", database.read_now(phases_of_run, run_id)[0], tried, driver().fence)
        outcomes = {}
        for name, (error, _) in FAILURES.items():
            builder.error = error
            outcomes[name] = await executor.do(job)

    assert {name: type(outcome).__name__ for name, outcome in outcomes.items()} == {
        name: expected for name, (_, expected) in FAILURES.items()
    }
    for name, (error, _) in FAILURES.items():
        assert str(error) in str(outcomes[name]) or "prose" in str(outcomes[name])


async def test_a_key_that_went_missing_costs_no_attempt_and_the_run_goes_on_with_it(
    house: House, repository: Path
) -> None:
    run_id = await house.start_unattended(a_plan(repository, [a_phase("a")]))
    async with driving(house, run_id) as (builder, _, driver):
        builder.error = FAILURES["no key"][0]
        await driver().drive()
        stopped = await house.run(run_id)
        builder.error = None
        again = driver()
        await house.autopack.database.write(move_run, again.fence, "retry", "resume asked", house.autopack.clock.now())
        await again.drive()
        run = await house.run(run_id)

    assert (stopped.state, stopped.phases[0].state, stopped.phases[0].attempt) == ("needs_attention", "building", 1)
    assert "OPENAI_API_KEY" in stopped.why
    assert "AUTOPACK_HOME/env" in stopped.why
    assert (run.state, run.phases[0].attempt) == ("succeeded", 1)


async def test_an_error_of_our_own_stops_the_run_with_the_reason_and_frees_it(house: House, repository: Path) -> None:
    run_id = await house.start_unattended(a_plan(repository, [a_phase("a")]))
    async with driving(house, run_id) as (builder, _, driver):
        builder.error = ZeroDivisionError("a bug")
        await driver().drive()

    run = house.autopack.database.read_now(run_by_id, run_id)
    assert (run.state, run.why) == ("needs_attention", "internal error: ZeroDivisionError('a bug')")
    assert run.lease_owner is None


@pytest.mark.parametrize(
    "error, state, owner",
    [
        pytest.param(DatabaseBusy(10), "running", "me", id="busy: taken up again when the lease ends"),
        pytest.param(DatabaseUnusable("The disk is full."), "running", "me", id="full: the same"),
        pytest.param(
            DatabaseError("The database refused: no such value"),
            "needs_attention",
            None,
            id="refusing: not tried forever",
        ),
    ],
)
async def test_a_reply_that_cannot_be_written_down_is_not_paid_for_again_and_again(
    house: House, repository: Path, error: DatabaseError, state: str, owner: str | None
) -> None:
    run_id = await house.start_unattended(a_plan(repository, [a_phase("a")]))

    async def refuse(operation: Operation, arguments: tuple[Any, ...]) -> None:
        if name_of(operation, arguments) == "a built":
            raise error

    database = WatchedDatabase(url_of(house), before=refuse)
    async with driving(house, run_id, database) as (_, _, driver):
        await driver().drive()
    await database.close()

    run = house.autopack.database.read_now(run_by_id, run_id)
    assert (run.state, run.lease_owner) == (state, owner)
    assert house.autopack.database.read_now(statuses) == ["ok"]


async def test_a_repository_or_a_workspace_that_is_gone_stops_the_run_until_it_is_back(
    house: House, repository: Path, tmp_path: Path
) -> None:
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository))
        await house.gate.reached.wait()
        repository.rename(tmp_path / "elsewhere")
        house.gate.open()
        moved = await house.stopped(run_id)
        (tmp_path / "elsewhere").rename(repository)
        shutil.rmtree(moved.workspace)
        await house.control.request(run_id, "resume", ANN)
        run = await house.stopped(run_id)

    assert moved.state == "needs_attention"
    assert str(repository) in moved.why
    assert (run.state, [phase.attempt for phase in run.phases]) == ("succeeded", [1, 1])
    assert git(repository, "log", "--format=%s", f"main..{run.branch}").splitlines() == ["Phase b", "Phase a"]


async def test_a_change_that_comes_out_otherwise_when_it_is_applied_again_is_built_anew(
    house: House, repository: Path
) -> None:
    run_id = await house.start_unattended(a_plan(repository, [a_phase("a")]))

    async def disturb() -> None:
        other_tree = attempts.update().values(tree=git(repository, "rev-parse", "HEAD^{tree}"))
        await house.autopack.database.write(lambda connection: connection.execute(other_tree))

    async with stepping_in(house, "a verified", disturb):
        run = await house.stopped(run_id)
    first, second = house.autopack.database.read_now(attempts_of_phase, run_id, "a")

    assert (run.state, second.state) == ("succeeded", "kept")
    assert (first.state, first.reason) == (
        "failed",
        "applied again, the same change gave another result: it was disturbed from outside",
    )


async def test_a_branch_that_a_person_moved_is_not_overwritten_and_the_run_says_so(
    house: House, repository: Path
) -> None:
    run_id = await house.start_unattended(a_plan(repository))
    ours = f"autopack/{run_id}"

    async def commit_on_it() -> None:
        git(repository, "checkout", "--quiet", ours)
        git(repository, "commit", "--quiet", "--allow-empty", "--message=mine")

    async with stepping_in(house, "b begun", commit_on_it):
        stopped = await house.stopped(run_id)
        git(repository, "branch", "-m", ours, "mine")
        await house.control.request(run_id, "resume", ANN)
        run = await house.stopped(run_id)

    assert (stopped.state, stopped.phases[1].state) == ("needs_attention", "committing")
    assert "has commits that are not this run's" in stopped.why
    assert (run.state, run.phases[1].attempt) == ("succeeded", 1)
    assert git(repository, "log", "--format=%s", f"main..{ours}").splitlines() == ["Phase b", "Phase a"]
    assert git(repository, "log", "--format=%s", "-1", "mine") == "mine"


def _has_driver(run_id: str) -> bool:
    return any(task.get_name() == f"run {run_id}" for task in asyncio.all_tasks())


async def _until(is_so: Callable[[], bool]) -> None:
    with anyio.fail_after(LIMIT_S):
        while not is_so():  # noqa: ASYNC110  A fact of another task; it has no event of its own.
            await anyio.sleep(0.005)
