"""What a verification comes to, and what its command can see and reach; real commands, and bubblewrap where it is."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest

from autopack_mcp.errors import WorkspaceError
from autopack_mcp.keeper import MARK_VARIABLE
from autopack_mcp.plans.plan import DEFAULT_LIMITS, UNVERIFIED, PlanLimits
from autopack_mcp.sandbox import Sandbox, detect_sandbox, plain_sandbox
from autopack_mcp.workspace.clone import Workspace, pin_base
from autopack_mcp.workspace.verify import VerifyResult, limits_in_force, package_settings, verify
from tests.projects import a_phase, a_plan, make_repository
from tests.runs.house import open_house

pytestmark = pytest.mark.anyio

PLAIN = plain_sandbox("this is a test")
REAL = detect_sandbox(os.environ)
needs_bubblewrap = pytest.mark.skipif(REAL.kind == "plain", reason=REAL.description)


async def run(
    command: str,
    folder: Path,
    *,
    sandbox: Sandbox = PLAIN,
    timeout_s: float = 10,
    network: bool = False,
    environ: Mapping[str, str] = os.environ,
    limits: PlanLimits = DEFAULT_LIMITS,
) -> VerifyResult:
    return await verify(
        command,
        folder,
        timeout_s=timeout_s,
        network=network,
        sandbox=sandbox,
        environ=environ,
        secret_variables=["ZHIPU"],
        label="r-1",
        limits=limits,
    )


@pytest.mark.parametrize(
    ("command", "outcome", "exit_code", "output"),
    [
        ("echo fine", "green", 0, "fine\n"),
        ("echo bad; exit 1", "red", 1, "bad\n"),
        ("no-such-command-here 2>/dev/null", "red", 127, ""),
        ("kill -9 $$", "red", -9, ""),
        (UNVERIFIED, "unverified", None, ""),
    ],
    ids=["green", "red", "not found", "killed", "none"],
)
async def test_a_verification_is_judged_by_its_exit_code(
    tmp_path: Path, command: str, outcome: str, exit_code: int | None, output: str
) -> None:
    result = await run(command, tmp_path)

    assert (result.outcome, result.exit_code, result.output) == (outcome, exit_code, output)
    assert result.sandbox == PLAIN.description


async def test_a_deadline_is_neither_green_nor_red_and_keeps_what_was_said(tmp_path: Path) -> None:
    result = await run("echo begun; sleep 600", tmp_path, timeout_s=0.1)

    assert (result.outcome, result.exit_code, result.output) == ("timeout", None, "begun\n")


BEYOND = "was ended because it and all it started {}, beyond the limit of {} (`limits: {}` in the plan)"


@pytest.mark.parametrize(
    ("command", "timeout_s", "ending"),
    [
        ("true", 30, "succeeded"),
        ("exit 3", 30, "failed with exit code 3"),
        ("kill -9 $$", 30, "failed with exit code -9"),
        ("sleep 600", 0.5, "ran into its deadline of 0.5 s"),
        ("while :; do :; done", 30, BEYOND.format("used 2 s of processor time", 1, "cpu_s")),
        ("yes", 30, BEYOND.format("wrote 2 MB", 1, "output_mb")),
        ("sleep 600 & sleep 600 & sleep 600 & wait", 30, BEYOND.format("had 4 processes", 3, "processes")),
        (UNVERIFIED, 30, "was not run"),
    ],
    ids=["green", "red", "killed", "deadline", "processor", "output", "processes", "none"],
)
async def test_how_a_command_ended_is_said_in_words_with_the_limit_and_its_key(
    tmp_path: Path, command: str, timeout_s: float, ending: str
) -> None:
    limits = PlanLimits(cpu_s=1, output_mb=1, processes=3)

    result = await run(command, tmp_path, timeout_s=timeout_s, limits=limits)

    assert result.ending == ending
    assert (result.outcome == "red") is ("failed" in ending or "was ended" in ending)


@pytest.mark.parametrize(
    ("limits", "timeout_s", "cpu_s"),
    [(PlanLimits(), 600, 3_600), (PlanLimits(), 7_200.5, 7_201), (PlanLimits(cpu_s=5), 7_200, 5)],
    ids=["default", "longer than its deadline would be pointless", "the plan's"],
)
def test_processor_time_is_limited_by_the_plan_or_at_no_less_than_the_deadline(
    limits: PlanLimits, timeout_s: float, cpu_s: int
) -> None:
    assert limits_in_force(limits, timeout_s).cpu_s == cpu_s


def test_memory_is_limited_by_the_plan_or_to_half_of_the_machine() -> None:
    machine_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1_000_000

    assert limits_in_force(PlanLimits(memory_mb=7), 600).memory_mb == 7
    assert 0 < limits_in_force(PlanLimits(), 600).memory_mb <= machine_mb / 2


async def test_a_command_runs_in_the_workspace_by_a_shell(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here\n")

    assert (await run("cat file | tr a-z A-Z && pwd", tmp_path)).output == f"HERE\n{tmp_path}\n"


async def test_a_command_gets_neither_keys_nor_anything_of_ours(tmp_path: Path) -> None:
    environ = {
        "PATH": os.environ["PATH"], "HOME": "/home/ada", "OPENAI_API_KEY": "k1", "ZHIPU": "k2", "AUTOPACK_HOME": "/x",
        "GIT_DIR": "/y",
    }  # fmt: skip

    seen = {line.partition("=")[0] for line in (await run("env", tmp_path, environ=environ)).output.splitlines()}

    assert seen - {"PWD", "OLDPWD", "SHLVL", "_", MARK_VARIABLE} == {
        "PATH", "HOME", "TERM", "NO_COLOR", "GIT_TERMINAL_PROMPT"
    }  # fmt: skip


async def test_output_is_fit_to_be_stored_and_shown(tmp_path: Path) -> None:
    script = r"printf '\033[31mred\033[0m nul\000 bidi\342\200\256 key sk-abcdefgh12345678\r\n\tnext\n'"

    assert (await run(script, tmp_path)).output == "red nul\\x00 bidi\\u202e key ‹redacted›\n\tnext\n"


async def test_a_flood_keeps_head_and_tail_within_a_megabyte(tmp_path: Path) -> None:
    result = await run("echo first; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo last", tmp_path)

    assert result.outcome == "green"
    assert result.output.startswith("first\nxxx")
    assert result.output.endswith("xxx\nlast\n")
    assert "\n… 2000012 bytes left out …\n" in result.output
    assert len(result.output) < 1_001_000


async def test_binary_output_cannot_grow_beyond_its_bound_when_it_is_made_visible(tmp_path: Path) -> None:
    result = await run("echo first; head -c 900000 /dev/zero; echo; echo last", tmp_path)

    assert len(result.output) < 1_002_000
    assert result.output.startswith("first\n\\x00\\x00")
    assert result.output.endswith("\\x00\\x00\nlast\n")


async def test_a_lost_workspace_is_no_red_verification(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="cannot be started"):
        await run("true", tmp_path / "gone")


async def test_a_sandbox_that_cannot_start_is_no_red_verification(tmp_path: Path) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: Creating new namespace failed' >&2; exit 1\n")
    fake.chmod(0o755)

    with pytest.raises(WorkspaceError, match=r"could not start: bwrap: Creating new namespace failed"):
        await run("true", tmp_path, sandbox=Sandbox("bubblewrap", "broken", str(fake)))


def test_only_settings_that_exist_are_shown_to_package_managers(tmp_path: Path) -> None:
    (tmp_path / ".npmrc").touch()
    (tmp_path / ".config" / "pip").mkdir(parents=True)

    assert package_settings({"HOME": str(tmp_path)}) == (tmp_path / ".config" / "pip", tmp_path / ".npmrc")
    assert package_settings({}) == ()


# In a whole run ---------------------------------------------------------------------------------------------------


async def test_a_limit_of_the_plan_reaches_its_commands_and_the_runs_reason(
    tmp_path: Path, empty_database_file: Path
) -> None:
    repository = make_repository(tmp_path / "project")
    floods = a_phase("a", verify="echo begun; yes")
    plan = a_plan(repository, [floods], limits={"output_mb": 1}, attempts_limit=1)

    async with open_house(tmp_path, empty_database_file) as house, house.supervising():
        run = await house.stopped(await house.start(plan))

    assert run.state == "needs_attention"
    assert BEYOND.format("wrote 2 MB", 1, "output_mb") in run.phases[0].why


# In bubblewrap ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A real clone below an AUTOPACK_HOME below a person's home, and the project beside it."""
    home = tmp_path_factory.mktemp("person")
    repository, data = home / "project", home / "data"
    repository.mkdir()
    (repository / "file").write_text("here\n")
    person = ("-c", "user.name=Ada", "-c", "user.email=ada@localhost", "-c", "commit.gpgSign=false")
    for words in (["init", "-q"], ["add", "file"], [*person, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *words], cwd=repository, check=True)
    (data / "workspaces" / "other").mkdir(parents=True)
    (data / "env").write_text("OPENAI_API_KEY=k\n")
    (data / "autopack.db").write_text("ledger\n")
    (home / ".npmrc").write_text("token\n")

    async def made() -> Workspace:
        commit = await pin_base(repository, "r-1", "HEAD")
        workspace = Workspace(data / "workspaces" / "r-1", repository, "r-1")
        await workspace.create(commit)
        return workspace

    return anyio.run(made)


def person_of(workspace: Workspace) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(Path(workspace.repository).parent)}


@needs_bubblewrap
@pytest.mark.parametrize(
    ("command", "outcome"),
    [
        pytest.param("cat file && echo x > made", "green", id="works in its workspace"),
        pytest.param("git log --oneline && git status && git describe --always", "green", id="git reads its history"),
        pytest.param("git config core.fsmonitor evil", "red", id="git's settings are not its own"),
        pytest.param("touch .git/hooks-of-mine", "red", id="nor anything in .git"),
        pytest.param("echo '- obey' >> .autopack/human_notes.md", "red", id="it leaves no notes in a person's name"),
        pytest.param("cat ../../env", "red", id="it sees no keys"),
        pytest.param("cat ../../autopack.db", "red", id="nor the ledger"),
        pytest.param("ls .. | grep other", "red", id="nor other workspaces"),
        pytest.param("cat ~/project/file", "red", id="nor the person's checkout"),
        pytest.param("cat ~/.npmrc", "red", id="nor tokens of package managers"),
    ],
)
async def test_a_confined_verification(workspace: Workspace, command: str, outcome: str) -> None:
    result = await run(command, workspace.path, sandbox=REAL, environ=person_of(workspace))

    assert result.outcome == outcome, result.output
    assert result.sandbox == REAL.description


@needs_bubblewrap
async def test_a_confined_deadline_leaves_nothing_running(workspace: Workspace) -> None:
    command = "setsid env -i sleep 4243 & echo begun; wait; sleep 600"

    result = await run(command, workspace.path, sandbox=REAL, environ=person_of(workspace), timeout_s=0.3)

    listing = subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True)  # noqa: ASYNC221
    assert (result.outcome, result.output) == ("timeout", "begun\n")
    assert "sleep 4243" not in listing.stdout


@needs_bubblewrap
async def test_a_confined_set_up_has_what_package_managers_need_and_keeps_what_it_makes(workspace: Workspace) -> None:
    command = "cat ~/.npmrc && git config some.setting x && mkdir -p venv && touch venv/made && ! cat ../../env"

    await workspace.run_setup(command, REAL, person_of(workspace))
    await workspace.reset("HEAD")

    assert (workspace.path / "venv" / "made").exists()
