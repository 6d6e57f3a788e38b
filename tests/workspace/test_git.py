"""Git's complaints become errors that a person can act on, and nothing it says is cut silently."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopack_mcp.errors import WorkspaceError
from autopack_mcp.processes import CommandResult
from autopack_mcp.workspace import git as git_module
from autopack_mcp.workspace.git import Git, add_lines, complaint, git_dir_of, run_git

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("errors", "message", "hint"),
    [
        pytest.param(
            "warning: x\nfatal: write error: No space left on device\n",
            "git commit failed: fatal: write error: No space left on device.",
            "Free some space",
            id="disk full",
        ),
        pytest.param(
            "error: a: Permission denied\n", "git commit failed: error: a: Permission denied.", "readable", id="rights"
        ),
        pytest.param("strange\x1b[2J words", "git commit failed: strange\\x1b[2J words.", "", id="hostile"),
        pytest.param("", "git commit failed: exit code 128.", "", id="silent"),
    ],
)
async def test_a_complaint_says_what_git_said_and_what_to_do(errors: str, message: str, hint: str) -> None:
    error = complaint("commit", CommandResult(128, False, "", False, 0.0, errors))

    assert error.message == message
    assert hint in error.hint
    assert bool(error.hint) is bool(hint)


async def test_a_missing_git_and_a_missing_folder_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WorkspaceError, match=r"folder .* is gone"):
        await run_git("version", cwd=tmp_path / "gone")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WorkspaceError, match="git is not installed"):
        await run_git("version", cwd=tmp_path)


async def test_a_git_that_takes_too_long_or_says_too_much_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WorkspaceError, match=r"git hash-object .* took longer than 0 s"):
        await run_git("hash-object", "--stdin-paths", cwd=tmp_path, timeout_s=0)
    monkeypatch.setattr(git_module, "GIT_OUTPUT_CAP_BYTES", 10)
    with pytest.raises(WorkspaceError, match=r"git help .* printed more than can be kept"):
        await run_git("help", "-a", cwd=tmp_path)


async def test_a_repository_is_not_looked_for_in_parent_folders(tmp_path: Path) -> None:
    assert (await run_git("init", "-q", cwd=tmp_path)).exit_code == 0
    inside = tmp_path / "inside"
    inside.mkdir()

    assert git_dir_of(tmp_path) == tmp_path / ".git"
    assert git_dir_of(inside) is None
    with pytest.raises(WorkspaceError, match="not a git repository"):
        await Git(inside / ".git", work_tree=inside).run("rev-parse", "HEAD")


def test_lines_are_added_once_and_never_to_the_end_of_another(tmp_path: Path) -> None:
    file = tmp_path / "info" / "exclude"
    add_lines(file, ["a", "b"])
    file.write_text("a\nlast without a break")

    add_lines(file, ["a", "b", "two\nlines"])
    add_lines(file, ["b"])

    assert file.read_text() == "a\nlast without a break\nb\n"
