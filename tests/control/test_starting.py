"""Starting a run: what it keeps, and what is refused and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autopack_mcp.database.tables import runs
from autopack_mcp.errors import (
    AutopackError,
    MissingKey,
    PlanError,
    RequestRefused,
    SupervisorUnavailable,
    WorkspaceError,
)
from autopack_mcp.plans.plan import plan_from_json
from autopack_mcp.runs.store import plan_json_of_run, rules_of_run, run_by_id
from tests.control.counter import ALL_KEYS, BOB, Counter, count_of, written_plan
from tests.projects import a_phase, a_plan, git
from tests.runs.house import ANN

pytestmark = pytest.mark.anyio


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
