"""Builders that work inside the workspace: a real child process edits files there, and its session is paid for."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Row, select

from autopack_mcp import app
from autopack_mcp.builders.base import BuildJob, Built, Session
from autopack_mcp.database.tables import attempts, reservations, usage_events
from autopack_mcp.errors import ProviderRefused, UnusableReply
from autopack_mcp.llm_service import AsyncLlmService
from autopack_mcp.runs.driver import RunDriver
from autopack_mcp.runs.executor import Executor
from autopack_mcp.runs.sessions import SessionBooks
from autopack_mcp.runs.store import claim, move_run, run_by_id
from autopack_mcp.sandbox import plain_sandbox
from autopack_mcp.usage.event import ReportedUsage, TokenCounts, UsageLine
from tests.projects import a_phase, a_plan, git, make_repository
from tests.runs.house import LIMIT_S, House, open_house

pytestmark = pytest.mark.anyio
AGENT = Path(__file__).with_name("fake_agent.py")
MODEL = "claude-haiku-5-5"
Steps = Sequence[Sequence[Any]]  # What the fake agent is to do, in its own words.
PROMISED = (4_000, 1_000)  # Tokens in and out that a session is reserved.


@pytest.fixture
def engine() -> str:
    """Git and child processes are tried here; the ledger's transactions are tried on both engines in its own tests."""
    return "sqlite"


@pytest.fixture
async def house(tmp_path: Path, empty_database: Path | str) -> AsyncIterator[House]:
    async with open_house(tmp_path, empty_database) as opened:
        yield opened


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    files = {"check.sh": "exit 0\n", "README.md": "A project.\n", "old.txt": "old\n", ".gitignore": "*.log\n"}
    return make_repository(tmp_path / "project", files)


@dataclass(slots=True)
class AgentBuilder:
    """What an adapter for a coding agent would be: launches it in the workspace, reads it, ends it."""

    home: Path
    house: House
    name: str = "s"
    is_forgetful: bool = False
    timeout_s: float = LIMIT_S
    error: Exception | None = None
    held: asyncio.Event = field(default_factory=asyncio.Event)
    jobs: list[BuildJob] = field(default_factory=list)
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)
    own: list[str] = field(default_factory=list)

    async def prepare(self, job: BuildJob) -> Session:
        session_id = job.session_id
        if session_id is None or (self.is_forgetful and session_id not in self.own):
            session_id = f"{self.name}-{len(self.own) + 1}"
            self.own.append(session_id)
        return Session(session_id, "anthropic", MODEL, *PROMISED, self.timeout_s)

    async def build(self, job: BuildJob) -> Built:
        self.jobs.append(job)
        if self.error is not None:
            raise self.error
        assert self.house.autopack.database.read_now(stored_sessions)[-1] == job.session_id, "stored before launch"
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(AGENT), cwd=job.workspace, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, env={"AGENT_HOME": str(self.home), "PATH": os.environ["PATH"]},
            start_new_session=True,
        )  # fmt: skip
        self.processes.append(process)
        try:
            return await self._talk(process, job)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def _talk(self, process: asyncio.subprocess.Process, job: BuildJob) -> Built:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"session": job.session_id, "prompt": job.phase.description}).encode() + b"\n")
        async for line in process.stdout:
            message = json.loads(line)
            if "held" in message:
                self.held.set()
                continue  # Nobody lets it go: it is held until it is ended.
            return Built("", message["said"], MODEL, ("the agent's own model",), usage=usage_of(message["usage"]))
        raise UnusableReply("the agent ended without an answer")


def usage_of(said: dict[str, int] | None) -> ReportedUsage | None:
    if said is None:
        return None
    counts = TokenCounts(uncached_input=said["input"], output=said["output"])
    return ReportedUsage((UsageLine(MODEL, counts),))


@asynccontextmanager
async def driving(
    house: House, run_id: str, **facts: Any
) -> AsyncIterator[tuple[AgentBuilder, Callable[[], RunDriver]]]:
    """A builder with an agent, and drivers that claim the run anew as another process would."""
    home = house.folder / "agent"
    home.mkdir(exist_ok=True)
    builder = AgentBuilder(home, house, **facts)
    door = app.call_door(house.autopack)
    database, clock = house.autopack.database, house.autopack.clock
    executor = Executor(
        database=database, clock=clock, builder=builder, auditor=AsyncLlmService(door),
        sessions=SessionBooks(ledger=app.ledger(house.autopack), clock=clock, price_book=house.autopack.price_book),
        sandbox=plain_sandbox("this is a test"), environ=house.autopack.environ,
    )  # fmt: skip

    def driver() -> RunDriver:
        fence = database.write_now(claim, run_id, "me", clock.now(), 60.0)
        assert fence is not None
        return RunDriver(fence=fence, database=database, clock=clock, executor=executor)

    async with asyncio.timeout(LIMIT_S):
        yield builder, driver
    await door.close()


async def started(house: House, repository: Path, steps: Steps, **overrides: Any) -> str:
    """A run with one phase whose agent shall do these steps."""
    phase = a_phase("a", description=json.dumps(steps), **overrides.pop("phase", {}))
    return await house.start_unattended(a_plan(repository, [phase], **overrides))


def stored_sessions(connection: Connection) -> list[str | None]:
    return list(connection.execute(select(attempts.c.session_id).order_by(attempts.c.attempt)).scalars())


def sessions_booked(connection: Connection) -> list[Row[Any]]:
    return list(
        connection.execute(
            select(usage_events).where(usage_events.c.role == "builder").order_by(usage_events.c.recorded_at)
        )
    )


def tries(connection: Connection) -> list[Row[Any]]:
    return list(connection.execute(select(attempts).order_by(attempts.c.attempt)))


def held(connection: Connection) -> int:
    return len(connection.execute(select(reservations).where(reservations.c.state == "held")).all())


def tree_of(repository: Path, run_id: str) -> dict[str, str]:
    names = git(repository, "ls-tree", "-r", "--name-only", f"autopack/{run_id}").splitlines()
    return {name: git(repository, "show", f"autopack/{run_id}:{name}") for name in names}


# ── what it changes ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_builder_that_works_in_the_workspace_yields_its_change_by_git(house: House, repository: Path) -> None:
    steps: Steps = [
        ["write", "src/new.py", "print('new')\n*** END\n"], ["write", "README.md", "Another project."],
        ["delete", "old.txt"], ["write", "build.log", "ignored\n"], ["run", "git", "add", "-A"],
        ["run", "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "its own"],
        ["say", "Made it new."], ["usage", 300, 40],
    ]  # fmt: skip
    run_id = await started(house, repository, steps)
    async with driving(house, run_id) as (builder, driver):
        await driver().drive()

    run = await house.run(run_id)
    assert (run.state, run.last_summary, run.phases[0].builder_model) == ("succeeded", "Made it new.", MODEL)
    assert tree_of(repository, run_id) == {
        ".gitignore": "*.log", "README.md": "Another project.", "check.sh": "exit 0",
        "src/new.py": "print('new')\n*** END",
    }  # fmt: skip
    # What the agent committed itself is no commit of ours: there is exactly the phase's.
    assert git(repository, "rev-list", "--count", f"main..autopack/{run_id}") == "1"
    assert "-old" in house.autopack.database.read_now(tries)[0].diff
    assert builder.processes[0].returncode is not None


BROKEN_RULES = {
    "outside what is allowed": ([["write", "elsewhere.txt", "x"]], "'elsewhere.txt' is not allowed in this phase"),
    "our own folder": ([["run", "git", "config", "x.y", "z"], ["write", "src/.autopack/x", "x"]], "src/.autopack/x"),
    "a link": ([["write", "src/a", "x"], ["run", "ln", "-s", "/etc/passwd", "src/b"]], "'src/b' became a link"),
    "a repository in it": ([["run", "git", "init", "src/sub"], ["write", "src/sub/f", "x"],
                            ["run", "git", "-C", "src/sub", "add", "-A"],
                            ["run", "git", "-C", "src/sub", "-c", "user.name=a", "-c", "user.email=a@b", "commit",
                             "-m", "x"]], "'src/sub' became a link or a repository of its own"),
    "a mode": ([["write", "src/a", "x"], ["run", "chmod", "+x", "src/a"]], "The mode of 'src/a' was changed"),
    "no text": ([["write", "src/a", "caf\u00e9"]], "'src/a' is a binary file or not UTF-8"),
    "a NUL": ([["write", "src/a", "a\u0000b"]], "NUL"),
    "too much": ([["write", "src/a", "x"], ["run", "truncate", "-s", "1000001", "src/a"]], "src/a"),
    "too many": ([["run", "sh", "-c", "mkdir src; for n in $(seq 201); do echo > src/$n; done"]], "at most 200"),
    "nothing": ([["say", "Nothing to do."]], "the builder changed no file"),
    "only what is ignored": ([["write", "src/build.log", "x"]], "the builder changed no file"),
    "line endings": ([["write", "src/crlf.txt", "a\nb\n"]], "line endings of existing files stay as they are"),
}  # fmt: skip


@pytest.mark.parametrize(("steps", "reason"), BROKEN_RULES.values(), ids=BROKEN_RULES)
async def test_the_rules_for_a_builder_hold_for_one_that_edits_files_itself(
    house: House, repository: Path, steps: Steps, reason: str
) -> None:
    if "crlf" in str(steps):
        # Half of the file keeps its endings, so it is a change, and not one that could be made by a reply.
        (repository / "src").mkdir()
        (repository / "src" / "crlf.txt").write_bytes(b"a\r\nc\r\n")
        git(repository, "add", "-A")
        git(repository, "commit", "-m", "crlf")
    phase = {"allowed_paths": ["src/**"]}
    run_id = await started(house, repository, [*steps, ["usage", 1, 1]], phase=phase, attempts_limit=1)
    async with driving(house, run_id) as (_, driver):
        await driver().drive()

    run = await house.run(run_id)
    assert run.state == "needs_attention"
    (tried,) = house.autopack.database.read_now(tries)
    assert (tried.state, tried.builder_model) == ("failed", MODEL)
    assert reason in tried.reason
    assert house.autopack.database.read_now(sessions_booked)[0].output == 1  # It was paid for all the same.


async def test_the_next_attempt_opens_a_session_of_its_own_in_a_clean_workspace(house: House, repository: Path) -> None:
    steps: Steps = [["run", "test", "!", "-e", "half.txt"], ["write", "half.txt", "x"], ["usage", 1, 1]]
    run_id = await started(house, repository, steps, verify="false", attempts_limit=2)
    async with driving(house, run_id) as (builder, driver):
        await driver().drive()

    found = house.autopack.database.read_now(tries)
    assert [one.reason for one in found] == ["the verification command failed with exit code 1 and printed nothing"] * 2
    assert [one.session_id for one in found] == ["s-1", "s-2"]
    assert builder.jobs[1].hints == (found[0].reason,)


async def test_a_session_that_dies_costs_an_attempt(house: House, repository: Path) -> None:
    run_id = await started(house, repository, [["write", "a.txt", "a"], ["die"]], attempts_limit=1)
    async with driving(house, run_id) as (_, driver):
        await driver().drive()

    assert house.autopack.database.read_now(tries)[0].reason == "the agent ended without an answer"
    assert house.autopack.database.read_now(sessions_booked)[0].charged_tokens == sum(PROMISED)


# ── what it costs ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_a_session_reports_is_booked_and_priced_as_any_call(house: House, repository: Path) -> None:
    run_id = await started(house, repository, [["write", "a.txt", "a\n"], ["usage", 300, 40]])
    async with driving(house, run_id) as (_, driver):
        await driver().drive()

    (event,) = house.autopack.database.read_now(sessions_booked)
    assert (event.status, event.usage_source, event.provider, event.model) == ("ok", "provider", "anthropic", MODEL)
    assert (event.uncached_input, event.output, event.charged_tokens) == (300, 40, 340)
    assert (event.run_id, event.phase_id, event.attempt, event.category) == (run_id, "a", 1, "general")
    assert event.cost_nano > 0
    assert event.price_version is not None
    assert house.autopack.database.read_now(held) == 0


async def test_a_session_that_reports_no_usage_is_charged_its_promise_and_never_nothing(
    house: House, repository: Path
) -> None:
    run_id = await started(house, repository, [["write", "a.txt", "a\n"]])
    async with driving(house, run_id) as (_, driver):
        await driver().drive()

    (event,) = house.autopack.database.read_now(sessions_booked)
    assert (event.status, event.usage_source) == ("ok", "estimated")
    assert (event.uncached_input, event.output, event.charged_tokens) == (*PROMISED, sum(PROMISED))
    assert event.error == "the builder reported no usage; its whole promise is charged"
    assert (await house.run(run_id)).tokens_used > sum(PROMISED)


async def test_a_cap_denies_a_session_before_anything_is_launched(house: House, repository: Path) -> None:
    run_id = await started(house, repository, [["write", "a.txt", "a\n"]], token_cap=sum(PROMISED) - 1)
    async with driving(house, run_id) as (builder, driver):
        await driver().drive()

    run = await house.run(run_id)
    assert run.state == "budget_paused"
    assert (builder.jobs, house.autopack.database.read_now(sessions_booked)) == ([], [])


async def test_a_session_that_provably_bought_nothing_costs_nothing(house: House, repository: Path) -> None:
    run_id = await started(house, repository, [])
    refused = ProviderRefused("no such account", provider="anthropic", status=401, billed="no")
    async with driving(house, run_id, error=refused) as (_, driver):
        await driver().drive()

    assert (await house.run(run_id)).state == "needs_attention"
    assert house.autopack.database.read_now(sessions_booked) == []
    assert house.autopack.database.read_now(held) == 0


async def test_a_session_past_its_deadline_is_ended_and_costs_an_attempt(house: House, repository: Path) -> None:
    run_id = await started(house, repository, [["hold"]], attempts_limit=1)
    async with driving(house, run_id, timeout_s=0.2) as (builder, driver):
        await driver().drive()

    (tried,) = house.autopack.database.read_now(tries)
    assert tried.reason == "the session ran into its deadline of 0.2 s"
    assert builder.processes[0].returncode == -signal.SIGKILL
    (event,) = house.autopack.database.read_now(sessions_booked)
    assert (event.status, event.charged_tokens) == ("failed", sum(PROMISED))


# ── when it is interrupted ───────────────────────────────────────────────────────────────────────────────────────────

HALF: Steps = [["write", "first.txt", "1\n"], ["hold"], ["write", "second.txt", "2\n"], ["usage", 10, 5]]


async def test_cancelling_ends_the_session_books_it_and_leaves_the_workspace_clean(
    house: House, repository: Path
) -> None:
    run_id = await started(house, repository, HALF)
    database = house.autopack.database
    async with driving(house, run_id) as (builder, driver):
        mine = driver()
        driven = asyncio.create_task(mine.drive())
        await builder.held.wait()
        database.write_now(move_run, mine.fence, "cancel", "cancelled as asked", house.autopack.clock.now())
        mine.interrupt()
        await driven

    assert (await house.run(run_id)).state == "cancelled"
    assert builder.processes[0].returncode == -signal.SIGKILL
    (event,) = database.read_now(sessions_booked)
    assert (event.status, event.usage_source, event.charged_tokens) == ("cut", "estimated", sum(PROMISED))
    workspace = Path(database.read_now(run_by_id, run_id).workspace)
    assert git(workspace, "status", "--porcelain", "--ignored").splitlines() == ["!! .autopack/"]


async def interrupted(house: House, repository: Path) -> str:
    """A run whose agent was killed in the middle, with everything of ours; nobody advances it now."""
    run_id = await started(house, repository, HALF)
    async with driving(house, run_id) as (builder, driver):
        driven = asyncio.create_task(driver().drive())
        await builder.held.wait()
        driven.cancel()
        with suppress(asyncio.CancelledError):
            await driven
    return run_id


async def test_a_session_that_was_killed_goes_on_under_its_name_where_it_was(house: House, repository: Path) -> None:
    run_id = await interrupted(house, repository)
    async with driving(house, run_id) as (another, driver):
        await driver().drive()

    assert (await house.run(run_id)).state == "succeeded"
    assert (another.own, [job.session_id for job in another.jobs]) == ([], ["s-1"])
    # What it had written before it was killed is in the change, although its second process did not write it again.
    assert {"first.txt", "second.txt"} <= tree_of(repository, run_id).keys()
    assert [event.status for event in house.autopack.database.read_now(sessions_booked)] == ["cut", "ok"]


async def test_a_builder_that_has_lost_its_session_gives_the_attempt_up(house: House, repository: Path) -> None:
    run_id = await interrupted(house, repository)
    async with driving(house, run_id, is_forgetful=True, name="new") as (builder, driver):
        mine = driver()
        driven = asyncio.create_task(mine.drive())
        await builder.held.wait()
        driven.cancel()
        with suppress(asyncio.CancelledError):
            await driven

    first, second = house.autopack.database.read_now(tries)
    assert (first.state, first.reason) == ("failed", "the builder has lost the session that it was interrupted in")
    assert second.session_id == "new-2"


async def test_half_done_work_is_not_taken_over_by_a_workspace_that_is_made_anew(
    house: House, repository: Path
) -> None:
    run_id = await interrupted(house, repository)
    shutil.rmtree(house.autopack.database.read_now(run_by_id, run_id).workspace)
    async with driving(house, run_id) as (_, driver):
        await driver().drive()

    # The session believes that it wrote both; git says what is there, and the auditor sees that.
    assert "first.txt" not in tree_of(repository, run_id)
    assert "second.txt" in tree_of(repository, run_id)
