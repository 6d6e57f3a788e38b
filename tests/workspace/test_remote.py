"""A repository behind a URL, tried with real git and two machines: what is pushed, and what is never overwritten."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from autopack_mcp.errors import WorkspaceError
from autopack_mcp.processes import CommandResult
from autopack_mcp.replies.edits import WholeFile
from autopack_mcp.workspace.clone import MIRRORS, Workspace, pin_base
from autopack_mcp.workspace.git import run_git
from autopack_mcp.workspace.remote import Stale, tried
from tests.projects import git, make_repository

pytestmark = pytest.mark.anyio

RUN = "r-1118-abc123"
BRANCH = f"autopack/{RUN}"
AT = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A bare repository as a host has it, with one commit on main."""
    make_repository(tmp_path / "first", {"README.md": "A project.\n"})
    git(tmp_path, "clone", "--quiet", "--bare", "first", "server.git")
    return tmp_path / "server.git"


def on_machine(name: str, server: Path, run_id: str = RUN) -> Workspace:
    return Workspace(server.parent / name / "workspaces" / run_id, f"file://{server}", run_id)


async def made_on(name: str, server: Path, run_id: str = RUN) -> Workspace:
    workspace = on_machine(name, server, run_id)
    await workspace.create(await pin_base(f"file://{server}", run_id, "HEAD"))
    return workspace


async def commit_in(workspace: Workspace, phase_id: str) -> str:
    parent = git(workspace.path, "rev-parse", "HEAD")
    change = await workspace.apply([WholeFile(f"{phase_id}.txt", "x\n")], ())
    trailers = {"Autopack-Run": workspace.run_id, "Autopack-Phase": phase_id, "Autopack-Attempt": "1"}
    return await workspace.commit(change.tree, parent, "Change it", trailers, AT)


def tip(server: Path, branch: str = BRANCH) -> str:
    return git(server, "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}")


async def test_the_runs_branch_begins_at_its_base_before_anything_is_built(server: Path) -> None:
    workspace = await made_on("desk", server)

    assert (workspace.path / "README.md").read_text() == "A project.\n"
    assert tip(server) == git(server, "rev-parse", "main") == git(workspace.path, "rev-parse", "HEAD")
    assert git(server, "for-each-ref", "--format=%(refname)").split() == [f"refs/heads/{BRANCH}", "refs/heads/main"]


async def test_another_machine_goes_on_from_what_was_pushed(server: Path) -> None:
    first = await made_on("desk", server)
    commit = await commit_in(first, "p1")
    await first.publish(commit)
    assert tip(server) == commit

    second = await made_on("lap", server)
    assert await second.find_phase_commit("p1", 1) == commit
    assert await second.find_phase_commit("p1", 2) is None
    await second.reset(commit)
    later = await commit_in(second, "p2")
    await second.publish(later)

    # And back again: a clone that is there already still needs what was pushed elsewhere.
    await first.create(await pin_base(f"file://{server}", RUN, "main"))
    await first.reset(later)
    assert (first.path / "p2.txt").exists()


async def test_publishing_again_after_a_crash_changes_nothing(server: Path) -> None:
    workspace = await made_on("desk", server)
    commit = await commit_in(workspace, "p1")

    await workspace.publish(commit)
    await workspace.publish(commit)

    assert tip(server) == commit


async def test_a_branch_that_somebody_moved_is_left_as_it_is_and_says_so(server: Path) -> None:
    workspace = await made_on("desk", server)
    commit = await commit_in(workspace, "p1")
    other = git(server, "commit-tree", "-m", "mine", "-p", BRANCH, f"{BRANCH}^{{tree}}")
    git(server, "update-ref", f"refs/heads/{BRANCH}", other)

    with pytest.raises(WorkspaceError, match=f"was moved by somebody else, to {other[:12]}") as refused:
        await workspace.publish(commit)

    assert refused.value.hint.startswith(f"Put it back to {git(server, 'rev-parse', 'main')}, then resume")
    assert tip(server) == other


async def test_a_branch_of_somebody_else_with_the_runs_name_is_not_taken_for_its_own(server: Path) -> None:
    base = await pin_base(f"file://{server}", RUN, "HEAD")
    other = git(server, "commit-tree", "-m", "mine", "main^{tree}")
    git(server, "update-ref", f"refs/heads/{BRANCH}", other)

    with pytest.raises(WorkspaceError, match="was moved by somebody else"):
        await on_machine("desk", server).create(base)

    assert tip(server) == other


async def test_a_branch_that_somebody_deleted_is_not_made_again_behind_their_back(server: Path) -> None:
    workspace = await made_on("desk", server)
    commit = await commit_in(workspace, "p1")
    git(server, "update-ref", "-d", f"refs/heads/{BRANCH}")

    with pytest.raises(WorkspaceError, match="is gone"):
        await workspace.publish(commit)


async def test_runs_that_begin_at_once_share_one_mirror(server: Path) -> None:
    names = [f"r-{number}" for number in range(4)]
    await asyncio.gather(*(made_on("desk", server, name) for name in names))

    mirrors = list((server.parent / "desk" / "workspaces" / MIRRORS).iterdir())
    assert [mirror.suffix for mirror in mirrors] == [".git"]
    assert {tip(server, f"autopack/{name}") for name in names} == {git(server, "rev-parse", "main")}


async def test_nothing_that_a_command_wrote_into_its_workspace_runs_on_the_way_out(
    server: Path, tmp_path: Path
) -> None:
    workspace = await made_on("desk", server)
    commit = await commit_in(workspace, "p1")
    ran = tmp_path / "ran"
    hook = workspace.path / ".git" / "hooks" / "pre-push"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {ran}\n")
    hook.chmod(0o755)
    rewritten = {f"url.ext::touch {ran} %.insteadOf": "file://", "protocol.ext.allow": "always"}
    settings = {**rewritten, "core.sshCommand": f"touch {ran}"}
    for name, value in settings.items():
        git(workspace.path, "config", name, value)

    await workspace.publish(commit)

    assert tip(server) == commit
    assert not ran.exists()


async def test_a_transport_that_is_a_program_is_refused_by_git_as_well(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    answer = await run_git("ls-remote", f"ext::touch {ran}", cwd=tmp_path, reaches_out=True)

    assert answer.exit_code != 0
    assert not ran.exists()


# ── the base ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_base_is_a_branch_a_tag_or_a_whole_commit(server: Path) -> None:
    commit = git(server, "rev-parse", "main")
    git(server, "tag", "--annotate", "--message=one", "v1", "main")
    git(server, "branch", "feature/x", "main")

    found = [await pin_base(f"file://{server}", RUN, base) for base in ("HEAD", "main", "feature/x", "v1", commit)]
    assert found == [commit] * 5


@pytest.mark.parametrize("base", ["nothing", "main~1", "\u202e"])
async def test_a_base_that_is_not_there_says_which_branches_are(server: Path, base: str) -> None:
    with pytest.raises(WorkspaceError, match="has no branch or tag") as refused:
        await pin_base(f"file://{server}", RUN, base)

    assert "Branches: main." in refused.value.hint
    assert "\u202e" not in str(refused.value)


async def test_a_repository_that_is_empty_or_gone_is_refused_in_words(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--bare", "empty.git")
    with pytest.raises(WorkspaceError, match="has no commit yet"):
        await pin_base(f"file://{tmp_path}/empty.git", RUN, "HEAD")
    with pytest.raises(WorkspaceError, match="git ls-remote failed"):
        await pin_base(f"file://{tmp_path}/gone.git", RUN, "HEAD")


async def test_a_base_that_was_never_there_is_refused_by_whoever_makes_the_workspace(server: Path) -> None:
    with pytest.raises(WorkspaceError, match="git fetch failed"):
        await on_machine("desk", server).create("1" * 40)


# ── the network ──────────────────────────────────────────────────────────────────────────────────────────────────────


def ended(exit_code: int, errors: str = "") -> CommandResult:
    return CommandResult(exit_code, timed_out=False, output="", output_truncated=False, duration_s=0.0, errors=errors)


async def test_a_network_that_fails_for_a_moment_is_tried_again() -> None:
    answers = [ended(128, "fatal: Could not resolve host: example.org"), ended(128, "error: RPC failed"), ended(0)]

    async def attempt() -> CommandResult:
        return answers.pop(0)

    assert (await tried("fetch", attempt, (0.0, 0.0))).exit_code == 0
    assert answers == []


@pytest.mark.parametrize(
    "said, error",
    [
        ("fatal: Authentication failed for 'https://example.org/'", WorkspaceError),
        ("! [rejected] (stale info)", Stale),
        ("! [rejected] (fetch first)", Stale),
    ],
)
async def test_what_waiting_does_not_mend_is_not_tried_again(said: str, error: type[Exception]) -> None:
    answers = [ended(1, said)]

    async def attempt() -> CommandResult:
        return answers.pop(0)

    with pytest.raises(error):
        await tried("push", attempt, (0.0, 0.0))
