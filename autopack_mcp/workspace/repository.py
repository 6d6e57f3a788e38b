"""The person's repository, as far as a run may touch it: its own refs, and one line in ``info/exclude``.

It owns pinning the base, moving the run's branch, and finding a phase's commit on it; it never touches a checkout, an
index, a stash, a setting or anybody else's ref. The workspace calls it, and ``remote`` for the mirror of a URL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from autopack_mcp.errors import WorkspaceError
from autopack_mcp.text_safety import visible
from autopack_mcp.workspace.git import Git, add_lines, commit_of, complaint, git_dir_of

OURS = ".autopack"  # Notes and rules beside the checkout; never part of a commit.
TRAILER_LIMIT = 200  # Characters of a trailer's value.

_RUN_ID = re.compile(r"(?!.*\.\.)(?!.*\.lock\Z)[A-Za-z0-9][A-Za-z0-9._-]{0,99}(?<!\.)")
_NO_COMMIT = "0" * 40  # How git spells "there must be none yet".


class Repository:
    """A repository and the refs of one run in it: ``refs/autopack/<run_id>/base`` and ``refs/heads/autopack/<run_id>``.

    Raises:
        WorkspaceError: the folder is gone, is no repository, or the run id cannot be part of a ref.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        if not _RUN_ID.fullmatch(run_id):
            raise WorkspaceError(f"The run id {run_id!r} cannot be part of a branch name.")
        self.folder = folder.absolute()
        self.run_id = run_id
        self.base_ref = f"refs/autopack/{run_id}/base"
        self.branch_ref = f"refs/heads/autopack/{run_id}"
        self._git = Git(_existing_git_dir(self.folder), label=run_id)

    async def pin_base(self, base: str) -> str:
        """See ``workspace.pin_base``."""
        if (pinned := await commit_of(self._git, self.base_ref)) is not None:
            return pinned
        commit = await commit_of(self._git, base)
        if commit is None:
            raise await self._unknown_base(base)
        await self._refuse_branch_in_the_way()
        exclude = await self._git.run("rev-parse", "--git-path", "info/exclude")
        add_lines(self._git.folder / exclude.strip(), [f"{OURS}/"])
        await self._set_ref(self.base_ref, commit, _NO_COMMIT)
        return commit

    async def publish(self, commit: str, source: Path) -> None:
        """Bring ``commit`` from the clone with the git folder ``source``, and move the run's branch forward to it.

        Raises:
            WorkspaceError: this is another repository, or its branch has commits that are not ours.
        """
        if await commit_of(self._git, self.base_ref) is None:
            raise WorkspaceError(
                f"{str(self.folder)!r} is not the repository that this run started from: it has no {self.base_ref}.",
                hint="Put the repository back in its place, then resume the run.",
            )
        current = await commit_of(self._git, self.branch_ref)
        if current == commit:
            return
        await self._git.run("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", str(source), commit)
        if current is not None and not await self._is_ancestor(current, commit):
            raise WorkspaceError(
                f"The branch autopack/{self.run_id} of {str(self.folder)!r} has commits that are not this run's.",
                hint=f"Rename it (git branch -m autopack/{self.run_id} other-name), then resume the run.",
            )
        await self._set_ref(self.branch_ref, commit, current or _NO_COMMIT)

    async def find_commit(self, trailers: Mapping[str, str]) -> str | None:
        """The newest commit of the run's branch, since its base if known, with exactly these values of trailers."""
        if await commit_of(self._git, self.branch_ref) is None:
            return None
        keys = "%x00".join(f"%(trailers:key={key},valueonly,separator=%x1f)" for key in trailers)
        is_pinned = await commit_of(self._git, self.base_ref) is not None
        since = f"{self.base_ref}..{self.branch_ref}" if is_pinned else self.branch_ref
        log = await self._git.run("log", f"--format=%H%x00{keys}", since, "--")
        values = [trailer_value(value) for value in trailers.values()]
        found = (line.split("\0") for line in log.splitlines())
        return next((fields[0] for fields in found if fields[1:] == values), None)

    async def _is_ancestor(self, older: str, newer: str) -> bool:
        return (await self._git.ask("merge-base", "--is-ancestor", older, newer)).exit_code == 0

    async def _unknown_base(self, base: str) -> WorkspaceError:
        if not (await self._git.run("rev-list", "--all", "--max-count=1")).strip():
            return WorkspaceError(
                f"The repository {str(self.folder)!r} has no commit yet.", hint="Commit something first."
            )
        newest = ("--count=5", "--sort=-committerdate", "--format=%(refname:short)", "refs/heads")
        branches = [visible(name, 80) for name in (await self._git.run("for-each-ref", *newest)).split()]
        return WorkspaceError(
            f"The repository {str(self.folder)!r} has no commit {visible(base, 80)!r}.",
            hint=f"Set base in the plan to a branch, tag or commit. Newest branches: {', '.join(branches) or 'none'}.",
        )

    async def _refuse_branch_in_the_way(self) -> None:
        for ref in (await self._git.run("for-each-ref", "--format=%(refname)", "refs/heads/autopack")).split():
            if ref in ("refs/heads/autopack", self.branch_ref) or ref.startswith(f"{self.branch_ref}/"):
                name = ref.removeprefix("refs/heads/")
                raise WorkspaceError(
                    f"The branch {name!r} is in the way of the run's own, autopack/{self.run_id}.",
                    hint=f"Rename it: git branch -m {name} other-name.",
                )

    async def _set_ref(self, ref: str, commit: str, expected: str) -> None:
        """Move one of our own refs, if it still is where it was."""
        words = ("update-ref", "-m", "autopack-mcp", ref, commit, expected)
        answer = await self._git.ask(*words)
        if answer.exit_code != 0 and "File exists" in answer.errors:
            # Nobody but the owner of the lease moves this ref: the lock was left by a power cut.
            lock = await self._git.run("rev-parse", "--git-path", f"{ref}.lock")
            (self._git.folder / lock.strip()).unlink(missing_ok=True)
            answer = await self._git.ask(*words)
        if answer.exit_code != 0:
            raise complaint("update-ref", answer)


def trailer_value(value: str) -> str:
    """A value as it stands behind a trailer's name."""
    return visible(value.strip(), TRAILER_LIMIT)


def _existing_git_dir(folder: Path) -> Path:
    if not folder.is_dir():
        raise WorkspaceError(
            f"The repository {str(folder)!r} is not there.",
            hint="Put it back in its place, or mend the path in the plan.",
        )
    git_dir = git_dir_of(folder)
    if git_dir is None:
        above = next((parent for parent in folder.parents if git_dir_of(parent)), None)
        hint = f"It lies inside {str(above)!r}: name that folder." if above else "Run `git init` there and commit."
        raise WorkspaceError(f"{str(folder)!r} is not a git repository.", hint=hint)
    return git_dir
