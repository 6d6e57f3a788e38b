"""What people may ask of runs: every answer and every refusal in words, asked twice or at once, with nobody there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, select

from autopack_mcp import app
from autopack_mcp.clock import ManualClock
from autopack_mcp.config.settings import Settings
from autopack_mcp.control.control import Control
from autopack_mcp.control.overrides import OverrideWish
from autopack_mcp.control.person import Person
from autopack_mcp.control.requests import ACKNOWLEDGE_S, WAIT_S, RequestOutcome
from autopack_mcp.database.changes import ChangeWatch
from autopack_mcp.database.tables import overrides, requests, runs
from autopack_mcp.errors import (
    AutopackError,
    IllegalTransition,
    MissingKey,
    OverrideRefused,
    PlanError,
    RequestRefused,
    RunNotFound,
    SupervisorUnavailable,
    WorkspaceError,
)
from autopack_mcp.notes import NOTE_LIMIT
from autopack_mcp.plans.plan import plan_from_json
from autopack_mcp.routing.model_map import current_model_map, model_map_to_json
from autopack_mcp.runs.requests import Action, answer_request, pending_requests
from autopack_mcp.runs.states import RunState
from autopack_mcp.runs.store import plan_json_of_run, rules_of_run, run_by_id
from autopack_mcp.runs.supervision import SupervisorRecord
from autopack_mcp.runs.supervisor import obey
from tests.factories import NOON, insert_phase
from tests.factories import insert_run as insert_run_row
from tests.projects import a_phase, a_plan, git, make_repository
from tests.runs.house import ANN, House, open_house

pytestmark = pytest.mark.anyio

BOB = Person("bob", "a phone")
ALL_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
HAIKU = "claude-haiku-5-5"
QUICK_S = 0.05
LIMIT_S = 10


@dataclass(slots=True)
class Posted:
    """A supervisor that is said to be there; it advances nothing."""

    keys: tuple[str, ...] = ALL_KEYS
    error: SupervisorUnavailable | None = None
    asked: int = 0

    async def ensure(self) -> SupervisorRecord:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return SupervisorRecord("desk", 1, 1, "http://127.0.0.1:1", "1", self.keys, "", NOON, NOON)


@dataclass(slots=True)
class Counter:
    """Control over a house in which nobody supervises; its patience is short unless a test says otherwise."""

    house: House
    clock: ManualClock
    posted: Posted = field(default_factory=Posted)
    changed_settings: dict[str, Any] = field(default_factory=dict)

    def control(self, *, wait_s: float = QUICK_S, acknowledge_s: float = QUICK_S) -> Control:
        autopack = self.house.autopack
        return Control(
            home=autopack.home,
            database=autopack.database,
            clock=self.clock,
            settings=self._settings,
            supervisors=self.posted,
            snapshots=app.snapshot_reader(autopack),
            wait_s=wait_s,
            acknowledge_s=acknowledge_s,
        )

    def read(self, question: Callable[..., Any], *arguments: Any) -> Any:
        return self.house.autopack.database.read_now(question, *arguments)

    def write(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        return self.house.autopack.database.write_now(operation, *arguments)

    def a_run(self, state: str, **overrides: Any) -> None:
        self.write(lambda connection: insert_run_row(connection, state=state, why="so", **overrides))

    def _settings(self) -> Settings:
        return replace(self.house.autopack.settings(), **self.changed_settings)


@pytest.fixture
async def counter(tmp_path: Path, empty_database_file: Path, clock: ManualClock) -> AsyncIterator[Counter]:
    async with open_house(tmp_path, empty_database_file, clock=clock) as house:
        yield Counter(house, clock)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "project")


def count_of(connection: Connection, table: Any) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def written_plan(folder: Path, text: str, name: str = "plan.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


# ── starting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_run_keeps_its_plan_its_base_and_its_rules_whatever_is_edited_later(
    counter: Counter, repository: Path, tmp_path: Path
) -> None:
    written_plan(repository / ".autopack", "Be brief.\n", "rules.md")
    file = written_plan(tmp_path, a_plan(repository, [a_phase("a"), a_phase("b")], [a_phase("c")]))
    base = git(repository, "rev-parse", "HEAD")

    started = await counter.control().start_file(file, BOB, is_rehearsal=True)
    file.write_text("nonsense", encoding="utf-8")
    written_plan(repository / ".autopack", "Be long.\n", "rules.md")
    git(repository, "commit", "--quiet", "--allow-empty", "--message=later")

    run = counter.read(run_by_id, started.run_id)
    plan = plan_from_json(counter.read(plan_json_of_run, started.run_id))
    assert started.state == "queued"
    assert started.message == (
        f"Run {started.run_id} of plan 'a plan' is queued (3 phases, rehearsal: no model is called and no tokens are"
        f" bought). Page: http://127.0.0.1:1/runs/{started.run_id}"
    )
    assert (run.author, run.client, run.plan_source) == ("bob", "a phone", str(file))
    assert [phase.phase_id for phase in plan.phases] == ["a", "b", "c"]
    assert counter.read(rules_of_run, started.run_id) == "Be brief.\n"
    assert run.base_commit == run.head_commit == base
    assert git(repository, "rev-parse", f"refs/autopack/{started.run_id}/base") == base


async def test_rules_behind_a_link_are_not_read(counter: Counter, repository: Path, tmp_path: Path) -> None:
    written_plan(tmp_path / "secret", "root:x:0:0\n", "rules.md")
    (repository / ".autopack").symlink_to(tmp_path / "secret")
    started = await counter.control().start_file(written_plan(tmp_path, a_plan(repository)), ANN, is_rehearsal=True)

    assert counter.read(rules_of_run, started.run_id) == ""


async def test_a_plan_is_known_by_its_name_in_the_first_folder_that_has_it(
    counter: Counter, repository: Path, tmp_path: Path
) -> None:
    folders = (tmp_path / "mine", tmp_path / "none", tmp_path / "theirs")
    counter.changed_settings = {"plan_folders": folders}
    for folder, name in ((folders[0], "mine"), (folders[2], "theirs")):
        written_plan(folder, a_plan(repository, name=name), "small.yaml")
    written_plan(folders[2], a_plan(repository, name="other"), "other.yml")
    control = counter.control()

    names = [
        counter.read(run_by_id, (await control.start_named(name, ANN, is_rehearsal=True)).run_id).plan_name
        for name in ("small", "small.yaml", "other")
    ]

    assert names == ["mine", "mine", "other"]


@pytest.mark.parametrize("name", ["none", "../mine/small", "", "small.txt"])
async def test_an_unknown_plan_is_answered_with_those_that_exist(counter: Counter, tmp_path: Path, name: str) -> None:
    written_plan(tmp_path / "mine", "", "small.yaml")
    written_plan(tmp_path / "mine", "", "notes.txt")
    counter.changed_settings = {"plan_folders": (tmp_path / "mine",)}

    with pytest.raises(RequestRefused) as caught:
        await counter.control().start_named(name, ANN)
    assert str(caught.value) == f"No plan {name!r}. Known plans: small.yaml."


async def test_where_there_is_no_plan_at_all_the_folder_is_named(counter: Counter) -> None:
    with pytest.raises(RequestRefused) as caught:
        await counter.control().start_named("small", ANN)
    folder = counter.house.autopack.home.plans
    assert caught.value.hint == f"Known plans: none; put YAML files into {folder}."


async def test_a_plan_in_so_many_words_is_started_only_where_that_is_allowed(
    counter: Counter, repository: Path
) -> None:
    with pytest.raises(RequestRefused) as caught:
        await counter.control().start_inline(a_plan(repository), ANN, is_rehearsal=True)
    assert str(caught.value) == (
        "Inline plans are off, because a plan contains commands. Put the plan into a plan folder and start it by name,"
        " or set allow_inline_plans: true."
    )

    counter.changed_settings = {"allow_inline_plans": True}
    started = await counter.control().start_inline(a_plan(repository), ANN, is_rehearsal=True)
    assert counter.read(run_by_id, started.run_id).plan_source == "inline plan"


@pytest.mark.parametrize(
    "changes, keys, error, words",
    [
        pytest.param({"verify": None}, ALL_KEYS, PlanError, "verify", id="a plan with problems"),
        pytest.param({"base": "v9"}, ALL_KEYS, WorkspaceError, "has no commit 'v9'", id="a base that is not there"),
        pytest.param(
            {},
            (),
            MissingKey,
            "No API key for provider 'anthropic': the variable ANTHROPIC_API_KEY is not set in the supervisor's"
            " environment. Set ANTHROPIC_API_KEY there, or put the line ANTHROPIC_API_KEY=… into AUTOPACK_HOME/env"
            " (mode 0600). Missing as well: OPENAI_API_KEY.",
            id="no keys",
        ),
        pytest.param(
            {},
            ("ANTHROPIC_API_KEY",),
            MissingKey,
            "No API key for provider 'openai': the variable OPENAI_API_KEY is not set in the supervisor's environment."
            " Set OPENAI_API_KEY there, or put the line OPENAI_API_KEY=… into AUTOPACK_HOME/env (mode 0600).",
            id="one key",
        ),
    ],
)
async def test_what_cannot_be_started_leaves_nothing_behind(
    counter: Counter,
    repository: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    keys: tuple[str, ...],
    error: type[AutopackError],
    words: str,
) -> None:
    counter.posted.keys = keys
    file = written_plan(tmp_path, a_plan(repository, **changes))

    with pytest.raises(error) as caught:
        await counter.control().start_file(file, ANN)

    assert words in str(caught.value)
    assert counter.read(count_of, runs) == 0
    assert git(repository, "for-each-ref", "refs/autopack") == ""


async def test_without_a_supervisor_nothing_is_started(counter: Counter, repository: Path, tmp_path: Path) -> None:
    counter.posted.error = SupervisorUnavailable("No supervisor came up within 20 s.")

    with pytest.raises(SupervisorUnavailable, match="within 20 s"):
        await counter.control().start_file(written_plan(tmp_path, a_plan(repository)), ANN, is_rehearsal=True)
    assert counter.read(count_of, runs) == 0
    assert git(repository, "for-each-ref", "refs/autopack") == ""


async def test_a_repository_and_a_command_that_are_named_at_the_start_win(
    counter: Counter, repository: Path, tmp_path: Path
) -> None:
    file = written_plan(tmp_path, a_plan(tmp_path / "elsewhere", verify=None))
    control = counter.control()
    started = await control.start_file(file, ANN, repository=repository, verify="make test", is_rehearsal=True)

    plan = plan_from_json(counter.read(plan_json_of_run, started.run_id))
    assert (plan.repository, plan.verify) == (str(repository), "make test")


# ── pause, resume, cancel ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_chat_never_waits_longer_than_promised() -> None:
    assert ACKNOWLEDGE_S <= 1.0  # Contract 27.
    assert WAIT_S <= 3.0  # No tool call blocks longer.


async def test_a_pause_in_a_long_step_is_acknowledged_within_a_second_and_says_what_it_waits_for(
    counter: Counter, repository: Path
) -> None:
    house, loop = counter.house, asyncio.get_running_loop()
    control = counter.control(wait_s=LIMIT_S, acknowledge_s=ACKNOWLEDGE_S / 4)
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository, [a_phase("a")]))
        await house.gate.reached.wait()
        asked_at = loop.time()
        first = await control.request(run_id, "pause", ANN)
        waited_s = loop.time() - asked_at
        again = await control.request(run_id, "pause", BOB)
        now = await control.request(run_id, "pause", BOB, now=True)
        house.gate.open()

    assert waited_s < ACKNOWLEDGE_S
    assert first == RequestOutcome(
        run_id, "pause", "pausing",
        f"Run {run_id} pauses as soon as the building of phase a is done; to pause now interrupts it.", True,
    )  # fmt: skip
    assert (again.message, again.is_pending) == (
        f"Run {run_id} is already pausing: pause asked by ann through a test",
        True,
    )
    assert (now.state, now.is_pending) == ("paused", False)
    assert now.message == f"It was already pausing. Run {run_id} is paused: paused as asked"
    assert counter.read(count_of, requests) == 2  # The one that was already so left no row.


async def test_a_request_that_nobody_answers_is_written_down_once_and_says_so(counter: Counter) -> None:
    counter.a_run("running")
    control, loop = counter.control(), asyncio.get_running_loop()

    asked_at = loop.time()
    outcomes = [await control.request("R1", "cancel", person) for person in (ANN, BOB)]

    assert loop.time() - asked_at < 1
    assert {(outcome.state, outcome.is_pending) for outcome in outcomes} == {("running", True)}
    assert outcomes[0].message == (
        "The request is written down; the supervisor has not answered yet. Run R1 is running."
    )
    [request] = counter.read(pending_requests)
    assert (request.author, request.action) == ("ann", "cancel")


async def test_a_cancel_that_is_obeyed_but_not_done_yet_says_that(counter: Counter) -> None:
    counter.a_run("running", lease_token=0)
    asking = asyncio.create_task(counter.control(wait_s=0.2).request("R1", "cancel", ANN))
    await obeyed_once(counter)

    outcome = await asking
    assert (outcome.state, outcome.is_pending) == ("cancelling", True)
    assert outcome.message == "Run R1 is being cancelled: its step is being ended and its workspace cleaned."


@pytest.mark.parametrize(
    "action, state, message",
    [
        ("pause", "paused", "Run R1 is already paused: so"),
        ("pause", "budget_paused", "Run R1 is already budget_paused: so"),
        ("resume", "running", "Run R1 is already running: so"),
        ("resume", "queued", "Run R1 is already queued: so"),
        ("cancel", "cancelled", "Run R1 is already cancelled: so"),
    ],
)
async def test_asking_for_what_is_so_already_changes_nothing(
    counter: Counter, action: Action, state: RunState, message: str
) -> None:
    counter.a_run(state)

    assert await counter.control().request("R1", action, ANN) == RequestOutcome("R1", action, state, message, False)
    assert counter.read(count_of, requests) == 0
    # Whoever asks about a run that should move also makes sure that somebody moves it.
    assert (counter.posted.asked > 0) == (state in ("running", "queued"))


@pytest.mark.parametrize(
    "action, state, words",
    [
        (
            "pause",
            "needs_attention",
            "'pause' is not possible while the run is 'needs_attention'. Allowed now: resume, cancel.",
        ),
        (
            "resume",
            "cancelling",
            "'resume' is not possible while the run is 'cancelling'. Nothing can be asked of it any more.",
        ),
        (
            "cancel",
            "succeeded",
            "'cancel' is not possible while the run is 'succeeded'. Nothing can be asked of it any more.",
        ),
    ],
)
async def test_what_cannot_be_asked_now_says_what_can(counter: Counter, action: Action, state: str, words: str) -> None:
    counter.a_run(state)

    with pytest.raises(IllegalTransition) as caught:
        await counter.control().request("R1", action, ANN)
    assert str(caught.value) == words
    assert counter.read(count_of, requests) == 0


async def test_an_unknown_run_is_answered_with_those_that_exist(counter: Counter) -> None:
    counter.a_run("running")
    control = counter.control()
    for asking in (
        control.request("R2", "pause", ANN),
        control.add_note("R2", "words", "tool", ANN),
        control.withdraw_note("R2", 1),
        control.override(OverrideWish("builder", "*", "*", HAIKU, "run", "R2"), ANN),
    ):
        with pytest.raises(RunNotFound, match=r"No run 'R2'\. Known runs, newest first: R1"):
            await asking


async def test_a_run_that_ends_while_it_is_asked_refuses_in_words(counter: Counter) -> None:
    counter.a_run("running")
    asking = asyncio.create_task(counter.control(wait_s=LIMIT_S).request("R1", "pause", ANN))
    await pending(counter)
    counter.write(lambda connection: connection.execute(runs.update().values(state="succeeded", why="all is done")))
    await obeyed_once(counter)

    with pytest.raises(RequestRefused) as caught:
        await asking
    assert str(caught.value) == (
        "pause is not possible: the run is succeeded. Run R1 is succeeded: all is done. It can be asked now: nothing"
        " any more."
    )


async def test_a_pause_that_a_cancel_has_overtaken_waits_for_nothing(counter: Counter) -> None:
    counter.a_run("running")
    asking = asyncio.create_task(counter.control(wait_s=LIMIT_S, acknowledge_s=LIMIT_S).request("R1", "pause", ANN))
    await pending(counter)
    [request] = counter.read(pending_requests)
    counter.write(lambda connection: connection.execute(runs.update().values(state="cancelling")))
    counter.write(answer_request, request.request_id, "done", "Done.", NOON)

    async with asyncio.timeout(LIMIT_S / 2):
        outcome = await asking
    assert (outcome.state, outcome.is_pending) == ("cancelling", False)


async def test_what_is_so_now_is_asked_all_the_same_while_another_wish_is_on_its_way(counter: Counter) -> None:
    counter.a_run("paused", lease_token=0)
    resuming = asyncio.create_task(counter.control().request("R1", "resume", ANN))
    await pending(counter)
    pausing = asyncio.create_task(counter.control().request("R1", "pause", BOB))
    await pending(counter, 2)
    await obeyed_once(counter, 2)

    await resuming
    assert (await pausing).state == "pausing"  # The last word: without it the run would go on.


async def pending(counter: Counter, count: int = 1) -> None:
    """Return when so many requests wait for an answer."""
    async with asyncio.timeout(LIMIT_S):
        changes = ChangeWatch(counter.house.autopack.database)
        while len(counter.read(pending_requests)) < count:
            await changes.wait(changes.version(), QUICK_S)
        changes.close()


async def obeyed_once(counter: Counter, count: int = 1) -> None:
    """What a supervisor does with the pending requests."""
    await pending(counter, count)
    for request in counter.read(pending_requests):
        counter.write(obey, request, None, "boss", counter.clock.now())


# ── notes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_note_is_in_force_at_once_and_names_its_file(counter: Counter, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    counter.a_run("running", workspace=str(workspace))
    control = counter.control()

    early = await control.add_note("R1", "  Be brief.  ", "tool", BOB)
    workspace.mkdir()
    late = await control.add_note("R1", "No test data.", "cli", ANN)

    assert early.message == f"Note {early.note_id} will stand in every later prompt of run R1 until it is withdrawn."
    assert (early.timestamp, early.notes_file) == (NOON, str(workspace / ".autopack" / "human_notes.md"))
    written = Path(late.notes_file).read_text(encoding="utf-8")
    assert f"(note {early.note_id}, tool) Be brief." in written
    assert f"(note {late.note_id}, cli) No test data." in written
    assert [note.author for note in (await counter.house.run("R1")).notes] == ["bob", "ann"]


async def test_a_note_is_withdrawn_once(counter: Counter) -> None:
    counter.a_run("paused")
    control = counter.control()
    note = await control.add_note("R1", "Be brief.", "tool", ANN)

    assert await control.withdraw_note("R1", note.note_id) == (
        f"Note {note.note_id} will not be in later prompts of run R1."
    )
    with pytest.raises(RequestRefused) as caught:
        await control.withdraw_note("R1", note.note_id)
    assert str(caught.value) == f"Run R1 has no note {note.note_id} in force. Its status lists the notes."


@pytest.mark.parametrize(
    "state, text, error, words",
    [
        ("succeeded", "words", IllegalTransition, "'note' is not possible while the run is 'succeeded'"),
        ("running", "  ", RequestRefused, "The note is empty."),
        ("running", "x" * (NOTE_LIMIT + 1), RequestRefused, f"has {NOTE_LIMIT + 1} characters"),
    ],
    ids=["the run has ended", "empty", "too long"],
)
async def test_a_note_that_nobody_would_read_is_refused(
    counter: Counter, state: str, text: str, error: type[AutopackError], words: str
) -> None:
    counter.a_run(state)

    with pytest.raises(error, match=words):
        await counter.control().add_note("R1", text, "tool", ANN)


# ── models ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_override_lists_the_future_phases_that_change_and_undoing_it_changes_them_back(
    counter: Counter,
) -> None:
    counter.a_run("running", model_map=await pinned_map(counter))
    for index, row in enumerate(
        ({"state": "building", "attempt": 1}, {}, {"complexity": "low"}, {"task_category": "ui"})
    ):
        counter.write(lambda connection, index=index, row=row: insert_phase(connection, index + 1, **row))
    control = counter.control()
    wish = OverrideWish("builder", "gen*", "*", HAIKU, "run", "R1")

    chosen = await control.override(wish, BOB)
    undone = await control.override(replace(wish, undo=True, model=""), ANN)
    nothing = await control.override(replace(wish, undo=True, model=""), ANN)

    assert [(change.phase_id, change.role, change.from_model, change.to_model) for change in chosen.changes] == [
        ("P2", "builder", "gpt-6.1-sol", HAIKU),
        ("P3", "builder", "gpt-6-luna", HAIKU),
    ]
    assert chosen.message == f"builder gen*:* in run R1 will use {HAIKU}. 2 future choice(s) change."
    assert [(change.phase_id, change.from_model) for change in undone.changes] == [("P2", HAIKU), ("P3", HAIKU)]
    assert undone.message == "1 override(s) withdrawn: builder gen*:* in run R1. 2 future choice(s) change."
    assert (nothing.changes, nothing.message) == (
        (),
        "There was no such override: builder gen*:* in run R1. No future phase changes its model.",
    )
    [row] = counter.read(lambda connection: connection.execute(select(overrides)).all())
    assert (row.author, row.client, row.override_id) == ("bob", "a phone", chosen.override_id)


@pytest.mark.parametrize(
    "state, phases", [("paused", ["P2"]), ("budget_paused", ["P1", "P2"]), ("needs_attention", ["P1", "P2"])]
)
async def test_a_run_that_stopped_for_want_of_a_model_changes_the_phase_in_hand_as_well(
    counter: Counter, state: str, phases: list[str]
) -> None:
    counter.a_run(state, model_map=await pinned_map(counter))
    counter.write(lambda connection: insert_phase(connection, 1, state="auditing", attempt=1))
    counter.write(lambda connection: insert_phase(connection, 2))

    chosen = await counter.control().override(OverrideWish("auditor", "*", "*", HAIKU, "run", "R1"), ANN)

    assert [change.phase_id for change in chosen.changes] == phases


async def test_an_override_ends_when_it_expires(counter: Counter, clock: ManualClock) -> None:
    counter.a_run("running", model_map=await pinned_map(counter))
    counter.write(insert_phase)
    until = NOON + timedelta(hours=1)
    wish = OverrideWish("builder", "*", "*", HAIKU, "run", "R1", expires_at=until)
    control = counter.control()

    await control.override(wish, ANN)
    clock.advance(3599)
    before = await counter.house.autopack.summaries.explain("builder", "general", "medium", "R1")
    clock.advance(1)
    after = await counter.house.autopack.summaries.explain("builder", "general", "medium", "R1")
    late = pytest.raises(OverrideRefused, match="would already have expired at 2026-11-18 13:00 UTC")

    assert (before.row.model, after.row.model) == (HAIKU, "gpt-6.1-sol")
    with late:
        await control.override(wish, ANN)


async def test_a_global_override_touches_only_runs_that_start_later(
    counter: Counter, repository: Path, tmp_path: Path
) -> None:
    file, control = written_plan(tmp_path, a_plan(repository)), counter.control()
    early = await control.start_file(file, ANN, is_rehearsal=True)
    chosen = await control.override(OverrideWish("builder", "*", "*", HAIKU, "global"), ANN)
    late = await control.start_file(file, ANN, is_rehearsal=True)

    models = [
        (await counter.house.autopack.summaries.explain("builder", "general", "medium", started.run_id)).row.model
        for started in (early, late)
    ]
    assert models == ["gpt-6.1-sol", HAIKU]
    assert chosen.changes == ()
    assert chosen.message == (
        f"builder *:* in runs started from now on will use {HAIKU}. Runs in progress keep the models they started with."
    )


@pytest.mark.parametrize(
    "wish, words",
    [
        (
            OverrideWish("builder", "*", "*", "llm-9", "run", "R1"),
            "No model 'llm-9' in the catalog. Known: claude-haiku",
        ),
        (OverrideWish("builder", "*", "*", "gpt-9", "run", "R1"), "'gpt-9' is neither in the catalog nor in the price"),
        (
            OverrideWish("boss", "*", "*", HAIKU, "run", "R1"),
            "No role 'boss'. Roles are builder, auditor, agent:<name>",
        ),
        (OverrideWish("builder", "uix*", "*", HAIKU, "run", "R1"), "No category matches 'uix*'. Known: core_backend"),
        (OverrideWish("builder", "*", "tiny", HAIKU, "run", "R1"), "No complexity matches 'tiny'. Known: high, low"),
        (OverrideWish("builder", "*", "*", HAIKU, "run"), "needs a run_id. Or use scope 'global'."),
        (OverrideWish("builder", "*", "*", HAIKU, "global", "R1"), "A global override has no run_id. It touches every"),
        (OverrideWish("builder", "*", "*", HAIKU, "run", "R1", NOON), "already have expired at 2026-11-18 12:00 UTC"),
        (
            OverrideWish("builder", "*", "*", HAIKU, "run", "done"),
            "'override' is not possible while the run is 'failed'",
        ),
    ],
    ids=[
        "model",
        "model of a family",
        "role",
        "category",
        "complexity",
        "no run",
        "global of a run",
        "expired",
        "ended run",
    ],
)
async def test_an_override_that_means_nothing_is_refused_with_what_there_is(
    counter: Counter, wish: OverrideWish, words: str
) -> None:
    counter.a_run("running")
    counter.write(lambda connection: insert_run_row(connection, "done", state="failed"))

    with pytest.raises((OverrideRefused, IllegalTransition)) as caught:
        await counter.control().override(wish, ANN)
    assert words in str(caught.value)
    assert counter.read(count_of, overrides) == 0


async def test_an_override_of_what_has_gone_from_the_settings_can_still_be_undone(counter: Counter) -> None:
    counter.a_run("running", model_map=await pinned_map(counter))
    wish = OverrideWish("builder", "ui", "*", HAIKU, "run", "R1")
    control = counter.control()
    await control.override(wish, ANN)
    counter.changed_settings = {"category_models": {}}

    with pytest.raises(OverrideRefused, match="No category matches 'ui'"):
        await control.override(wish, ANN)
    assert "1 override(s) withdrawn" in (await control.override(replace(wish, undo=True), ANN)).message


async def pinned_map(counter: Counter) -> dict[str, Any]:
    """The model map of the settings, as a run that starts now pins it."""
    return dict(model_map_to_json(current_model_map(counter.house.autopack.settings(), ())))
