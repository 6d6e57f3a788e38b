"""What lies between two commits of a repository: git's diff and its counts, for whoever compares runs.

It owns how git is asked, so that no attribute, filter or setting of the repository takes part; it knows no run and
changes nothing. ``summary.comparison`` shows what it finds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autopack_mcp.errors import WorkspaceError
from autopack_mcp.workspace.git import Git, commit_of, git_dir_of

_PLAIN = ("diff-tree", "-r", "-M", "--no-color", "--no-ext-diff", "--no-textconv")


@dataclass(frozen=True, slots=True)
class CommitDiff:
    """From one commit to another: the unified diff as git prints it, files that differ, lines added and removed.

    Binary files count as files, not as lines.
    """

    text: str
    files: int
    added_lines: int
    removed_lines: int


async def diff_between(repository: Path, old: str, new: str) -> CommitDiff:
    """
    Raises:
        WorkspaceError: the repository or one of the commits is gone, or the diff is larger than can be kept.
    """
    git_dir = git_dir_of(repository) if repository.is_dir() else None
    if git_dir is None:
        raise WorkspaceError(f"There is no git repository at {str(repository)!r} on this machine.")
    git = Git(git_dir)
    for commit in (old, new):
        if await commit_of(git, commit) is None:
            raise WorkspaceError(f"The commit {commit[:10]} is not in {str(repository)!r} any more.")
    counts = await git.run(*_PLAIN, "--numstat", old, new)
    lines = [line.split("\t")[:2] for line in counts.splitlines()]
    added, removed = (sum(int(line[side]) for line in lines if line[side] != "-") for side in (0, 1))
    return CommitDiff(await git.run(*_PLAIN, "-p", old, new), len(lines), added, removed)
