"""A repository behind a URL: its mirror on this machine, and the run's branch over there.

It owns what is fetched and pushed, and refuses to overwrite what somebody else has put on the branch; how a clone is
made and what a commit holds is the workspace's. Only the mirror ever talks to the URL: it stands where no command of a
run can write, for git takes programs to run from a repository's own settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import secrets
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from autopack_mcp.errors import WorkspaceError
from autopack_mcp.processes import CommandResult
from autopack_mcp.text_safety import visible
from autopack_mcp.workspace.git import CLONE_TIMEOUT_S, Git, commit_of, complaint, run_git
from autopack_mcp.workspace.repository import Repository

NETWORK_WAITS_S = (1.0, 4.0)  # Between tries: a name server or a route that fails for a moment should stop no run.
BRANCHES_SHOWN = 5

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_FOR_A_MOMENT = (
    "Could not resolve host", "Connection timed out", "Connection refused", "Connection reset", "Operation timed out",
    "Network is unreachable", "early EOF", "hung up unexpectedly", "RPC failed", "The requested URL returned error: 5",
)  # fmt: skip
# The person's own settings are in force on the way out, and may ask for more than we do.
_ONLY_THIS_FETCH = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-prune", "--no-recurse-submodules")
_ONLY_THIS_PUSH = (
    "--quiet", "--porcelain", "--no-verify", "--no-follow-tags", "--no-signed", "--recurse-submodules=no",
)  # fmt: skip


async def remote_base(url: str, base: str) -> str:
    """The commit that ``base`` (HEAD, a branch, a tag, a whole commit id) names behind a URL.

    Raises:
        WorkspaceError: it cannot be reached, or has nothing of that name.
    """
    if _COMMIT.fullmatch(base):
        return base
    # Not in any repository of this machine: its settings would count.
    answer = await tried("ls-remote", lambda: run_git("ls-remote", "--", url, cwd=Path("/"), reaches_out=True))
    refs = _refs(answer.output)
    # As git reads a short name; a tag's own commit stands behind ^{}.
    names = (base, f"refs/tags/{base}^{{}}", f"refs/tags/{base}", f"refs/heads/{base}")
    found = next((refs[name] for name in names if name in refs), None)
    if found is None:
        raise _unknown_base(url, base, refs)
    return found


class RemoteRepository:
    """The repository of one run behind a URL that ``plans.repository_url`` has let pass.

    Args:
        mirrors: the folder of mirrors, each of them one URL's, shared by all runs of this machine.
    """

    def __init__(self, url: str, run_id: str, mirrors: Path) -> None:
        self.url = url
        self.run_id = run_id
        self._mirror = mirrors / f"{hashlib.sha256(url.encode()).hexdigest()[:20]}.git"
        self._git = Git(self._mirror, label=run_id)

    async def fetch(self, base_commit: str) -> Repository:
        """The mirror, with the run's base and all that its branch holds; a branch that is not there begins at the base.

        That the branch can be pushed is known with this, before anything is paid for.

        Raises:
            WorkspaceError: the URL cannot be reached, refuses us, or no longer has the commit.
        """
        mirror = await self._opened()
        if await commit_of(self._git, mirror.base_ref) is None:
            if await commit_of(self._git, base_commit) is None:
                await self._fetch(base_commit)
            await mirror.pin_base(base_commit)
        tip = await self._fetched_tip(mirror)
        if tip is None:
            await self._push(mirror, base_commit, "")
        elif (await self._git.ask("merge-base", "--is-ancestor", base_commit, tip)).exit_code != 0:
            raise self._moved(tip, base_commit)
        return mirror

    async def publish(self, commit: str, source: Path) -> None:
        """Push ``commit`` from the clone with the git folder ``source`` to the run's branch, one step forward.

        Raises:
            WorkspaceError: the branch is not where this run left it, or cannot be reached.
        """
        mirror = await self._opened()
        await self._git.run("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", str(source), commit)
        await self._push(mirror, commit, await commit_of(self._git, f"{commit}^") or "")

    async def find_commit(self, trailers: Mapping[str, str]) -> str | None:
        """The newest commit of the run's branch behind the URL with exactly these values of these trailers."""
        mirror = await self._opened()
        if await self._fetched_tip(mirror) is None:
            return None
        return await mirror.find_commit(trailers)

    async def _opened(self) -> Repository:
        if not self._mirror.is_dir():
            await self._make_mirror()
        return Repository(self._mirror, self.run_id)

    async def _make_mirror(self) -> None:
        self._mirror.parent.mkdir(parents=True, exist_ok=True)
        part = self._mirror.with_name(f".{self._mirror.name}.{secrets.token_hex(4)}.part")
        words = ("init", "--bare", "--quiet", "--template=", "--", str(part))
        made = await run_git(*words, cwd=self._mirror.parent, label=self.run_id)
        if made.exit_code != 0:
            raise complaint("init", made)
        try:
            part.rename(self._mirror)
        except OSError:
            # Another run made it in the same moment.
            await asyncio.to_thread(shutil.rmtree, part)
            if not self._mirror.is_dir():
                raise

    async def _fetched_tip(self, mirror: Repository) -> str | None:
        """Where the branch stands behind the URL, with its commits in the mirror; None when it is not there."""
        tip = await self._tip(mirror)
        if tip is not None and await commit_of(self._git, mirror.branch_ref) != tip:
            await self._fetch(f"+{mirror.branch_ref}:{mirror.branch_ref}")
        return tip

    async def _tip(self, mirror: Repository) -> str | None:
        words = ("ls-remote", "--", self.url, mirror.branch_ref)
        answer = await tried("ls-remote", lambda: self._git.ask(*words, reaches_out=True))
        return _refs(answer.output).get(mirror.branch_ref)

    async def _fetch(self, what: str) -> None:
        words = ("fetch", *_ONLY_THIS_FETCH, "--", self.url, what)
        await tried("fetch", lambda: self._git.ask(*words, timeout_s=CLONE_TIMEOUT_S, reaches_out=True))

    async def _push(self, mirror: Repository, commit: str, expected: str) -> None:
        """Move the branch behind the URL from ``expected`` ("" for none yet) to ``commit``, or not at all."""
        lease = f"--force-with-lease={mirror.branch_ref}:{expected}"
        words = ("push", *_ONLY_THIS_PUSH, lease, "--", self.url, f"{commit}:{mirror.branch_ref}")
        with contextlib.suppress(Stale):
            await tried("push", lambda: self._git.ask(*words, timeout_s=CLONE_TIMEOUT_S, reaches_out=True))
            return
        # It may have arrived before, without its answer: in a try before this one, or before a crash.
        tip = await self._tip(mirror)
        if tip != commit:
            raise self._moved(tip, expected or commit)

    def _moved(self, tip: str | None, expected: str | None) -> WorkspaceError:
        hint = f"Put it back to {expected or 'where the run left it'}, then resume the run; or cancel the run."
        what = "is gone" if tip is None else f"was moved by somebody else, to {tip[:12]}"
        return WorkspaceError(f"The branch autopack/{self.run_id} of {visible(self.url, 200)} {what}.", hint=hint)


class Stale(Exception):
    """The branch was not where a push expected it."""


async def tried(
    verb: str, attempt: Callable[[], Awaitable[CommandResult]], waits_s: Sequence[float] = NETWORK_WAITS_S
) -> CommandResult:
    """What git answers, asked again when the network failed for a moment.

    Raises:
        Stale: a push found its branch elsewhere. WorkspaceError: git refused, or the network stays away.
    """
    for wait_s in (*waits_s, None):
        answer = await attempt()
        if answer.exit_code == 0:
            return answer
        said = f"{answer.output}\n{answer.errors}"
        if "stale info" in said or "fetch first" in said or "non-fast-forward" in said:
            raise Stale
        if wait_s is None or not any(phrase in said for phrase in _FOR_A_MOMENT):
            break
        await asyncio.sleep(wait_s)
    raise complaint(verb, answer)


def _refs(listing: str) -> dict[str, str]:
    """Ref to commit, of what ls-remote prints."""
    lines = (line.split("\t", 1) for line in listing.splitlines() if "\t" in line)
    return {name: commit for commit, name in lines if _COMMIT.fullmatch(commit)}


def _unknown_base(url: str, base: str, refs: Mapping[str, str]) -> WorkspaceError:
    shown = visible(url, 200)
    if not refs:
        return WorkspaceError(f"The repository {shown} has no commit yet.", hint="Push something there first.")
    heads = [visible(name.removeprefix("refs/heads/"), 80) for name in refs if name.startswith("refs/heads/")]
    known = ", ".join(heads[:BRANCHES_SHOWN]) or "none"
    return WorkspaceError(
        f"The repository {shown} has no branch or tag {visible(base, 80)!r}.",
        hint=f"Set base in the plan to a branch, a tag or a whole commit id. Branches: {known}.",
    )
