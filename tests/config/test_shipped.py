"""The files that ship: the example plan is real, and rehearsing it by hand ends green."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from autopack_mcp.config.models_yaml import load_settings
from autopack_mcp.config.shipped import default_config_text, example_plan_text, example_repository
from autopack_mcp.home import Home
from autopack_mcp.plans.plan import Plan
from autopack_mcp.plans.plan_file import load_plan

SETTINGS = load_settings(default_config_text(), "models.yaml", home=Home(Path("/home/ada")))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """The example repository as the demo finds it."""
    (tmp_path / ".git").mkdir()
    write(tmp_path, example_repository())
    return tmp_path


@pytest.fixture
def plan(workspace: Path) -> Plan:
    return load_plan(
        example_plan_text(), "plan.example.yaml", known_categories=SETTINGS.categories, repository=workspace
    )


def write(folder: Path, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")


def succeeds(command: str, folder: Path) -> bool:
    # The person's own shell command, as a run executes it.
    done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, timeout=60, check=False)
    return done.returncode == 0


def test_the_example_repository_is_small_and_complete() -> None:
    assert sorted(example_repository()) == [".gitignore", "tally/__init__.py", "tally/text.py", "tests/test_text.py"]


def test_the_example_plan_loads_without_a_word(plan: Plan) -> None:
    assert plan.warnings == ()
    assert [len(tier.phases) for tier in plan.tiers] == [2, 3]
    assert len({(phase.task_category, phase.complexity) for phase in plan.phases}) == 5
    assert [phase.phase_id for phase in plan.phases if phase.rehearsal and phase.rehearsal.reject_first] == [
        "top-words"
    ]


def test_the_example_plan_has_caps_that_leave_room_for_the_largest_call(plan: Plan) -> None:
    largest = max(model.max_output_tokens for model in SETTINGS.models.values())
    assert plan.token_cap is not None
    assert plan.token_cap > 4 * largest
    assert plan.cost_cap_nano is not None


def test_every_phase_of_the_example_keeps_to_its_allowed_paths(plan: Plan) -> None:
    for phase in plan.phases:
        assert phase.rehearsal is not None
        for path in phase.rehearsal.files:
            assert any(Path(path).match(pattern.replace("**", "*")) for pattern in phase.allowed_paths), path


def test_the_example_is_red_at_first_and_green_after_every_phase(plan: Plan, workspace: Path) -> None:
    assert not succeeds(plan.verify, workspace)
    for phase in plan.phases:
        assert phase.rehearsal is not None
        assert phase.rehearsal.files
        write(workspace, phase.rehearsal.files)
        assert succeeds(phase.verify or plan.verify, workspace), phase.phase_id


def test_the_readme_of_the_example_shows_what_the_command_prints(plan: Plan, workspace: Path) -> None:
    for phase in plan.phases:
        assert phase.rehearsal is not None
        write(workspace, phase.rehearsal.files)
    block = [line[4:] for line in (workspace / "README.md").read_text().splitlines() if line.startswith("    ")]
    command = block[0].removeprefix("$ ").replace("python ", "python3 ")
    done = subprocess.run(["sh", "-c", command], cwd=workspace, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == block[1:]


def test_every_phase_of_the_example_changes_something(plan: Plan) -> None:
    files = dict(example_repository())
    for phase in plan.phases:
        assert phase.rehearsal is not None
        changed = {**files, **phase.rehearsal.files}
        assert changed != files, phase.phase_id
        files = changed
