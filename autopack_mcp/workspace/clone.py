"""A run's own clone: made from a pinned commit, changed only as a builder may, its commits brought back to the person.

It owns the clone, its set-up and what edits do to it; it leaves the person's repository to ``repository``, and runs no
verification. The executor works in it, ``control`` pins the base; docs/workspace.md says what it promises and why.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from autopack_mcp.errors import EditMisfit, Misfit, UnusableReply, WorkspaceError
from autopack_mcp.plans.plan import DEFAULT_LIMITS, PlanLimits
from autopack_mcp.plans.repository_url import is_url
from autopack_mcp.replies.edited import FILE_LIMIT_BYTES, AppliedHow, edited_text
from autopack_mcp.replies.edits import DeleteFile, Edit, by_path, source_of
from autopack_mcp.replies.path_rules import check_allowed, check_path, is_allowed, matches
from autopack_mcp.sandbox import Sandbox
from autopack_mcp.text_safety import visible
from autopack_mcp.workspace.files import delete_file, read_file, write_file
from autopack_mcp.workspace.git import CLONE_TIMEOUT_S, Git, add_lines, commit_of, complaint, run_git
from autopack_mcp.workspace.lanes import LANES, new_text
from autopack_mcp.workspace.remote import RemoteRepository, remote_base
from autopack_mcp.workspace.repository import OURS, Repository, trailer_value
from autopack_mcp.workspace.verify import ending_of, package_settings, reach_of, run_plan_command, shown_output

SETUP_TIMEOUT_S = 1_800  # Installing dependencies from a slow network; verification has its own, shorter deadline.
CONTEXT_FILES_LIMIT = 200  # Files shown to a builder at most, whatever they weigh.
MESSAGE_LIMIT = 4_000  # Characters of a commit message.
SUBJECT_LIMIT = 100  # Of its first line.

MIRRORS = ".mirrors"  # Beside the workspaces: no run's id begins with a dot.

_MADE, _SET_UP = "autopack-workspace", "autopack-setup"  # Files in .git that say what is done; written last.
# Written by tools, long, and never by a builder: shown only when a plan asks for them.
_GENERATED = {
    "Cargo.lock", "Gemfile.lock", "composer.lock", "go.sum", "package-lock.json", "pnpm-lock.yaml", "poetry.lock",
    "uv.lock", "yarn.lock",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class AppliedChange:
    """A change as git sees it: its diff against the parent, the tree a commit will hold, and the files that differ.

    ``how`` is the lane of its edits, of several the one to look at closest; None for what no edit of ours made.
    """

    diff: str
    tree: str
    files: tuple[str, ...]
    how: AppliedHow | None = None


@dataclass(frozen=True, slots=True)
class _Planned:
    """What edits will do: content by path, None to delete; new files that are executable; and the lane."""

    contents: Mapping[str, bytes | None]
    executables: frozenset[str]
    how: AppliedHow


async def pin_base(repository: Path | str, run_id: str, base: str) -> str:
    """Pin what a run starts from in the person's repository; returns the commit, the same one every time.

    Writes ``refs/autopack/<run_id>/base`` and, once, a line in ``info/exclude``; nothing else. Behind a URL nothing is
    written yet: the commit is looked up, and whoever makes the workspace puts the run's branch there.

    Raises:
        WorkspaceError: no repository there, no such base, no commit at all, or a branch in the way.
    """
    if is_url(str(repository)):
        return await remote_base(str(repository), base)
    return await Repository(Path(repository), run_id).pin_base(base)


class Workspace:
    """The clone of one run. Owned by whoever holds the run's lease: two at once is a broken invariant.

    Args:
        path: where the clone is or will be.
        repository: the person's repository, a path or a URL.
        run_id: names the refs in it; letters, digits, dots and dashes.
    """

    def __init__(self, path: Path, repository: Path | str, run_id: str) -> None:
        self.path = path
        self.repository = repository
        self.run_id = run_id
        self._git = Git(path / ".git", work_tree=path, label=run_id)

    def exists(self) -> bool:
        """True when the clone was made completely."""
        return (self.path / ".git" / _MADE).is_file()

    async def create(self, base_commit: str) -> None:
        """Make the clone, checked out at ``base_commit``; one that is sound is kept as it is.

        It is made beside its place and moved there when it is complete, so a crash leaves either none or a whole one.

        Raises:
            WorkspaceError: the repository is gone, or git refused.
        """
        repository = self._home()
        if isinstance(repository, RemoteRepository):
            repository = await repository.fetch(base_commit)
        if await self._is_sound(base_commit):
            return
        await asyncio.to_thread(self._remove_remains)
        part = self.path.with_name(f".{self.run_id}.{secrets.token_hex(4)}.part")
        await self._clone(part, repository, base_commit)
        part.rename(self.path)

    async def run_setup(
        self,
        command: str,
        sandbox: Sandbox,
        environ: Mapping[str, str],
        *,
        secret_variables: Sequence[str] = (),
        timeout_s: float = SETUP_TIMEOUT_S,
        limits: PlanLimits = DEFAULT_LIMITS,
    ) -> None:
        """Run the plan's set-up once per workspace; what it makes stays for the whole run and enters no commit.

        It has the network and the settings of package managers, and runs before any model's code does. A set-up that
        was cut off is done anew from a clean checkout.

        Raises:
            WorkspaceError: it failed; the message has the end of its output.
        """
        marker = self.path / ".git" / _SET_UP
        if marker.is_file() and json.loads(marker.read_text())["command"] == command:
            return
        await self._git.run("clean", "-ffdxq", "-e", f"/{OURS}/")
        reach = reach_of(self.path, network=True, protect_ours=False, also_readable=package_settings(environ))
        result = await run_plan_command(
            command, self.path, timeout_s=timeout_s, reach=reach, sandbox=sandbox, environ=environ,
            secret_variables=secret_variables, label=self.run_id, limits=limits,
        )  # fmt: skip
        if result.exit_code != 0:
            how = ending_of(result, timeout_s, limits)
            said = shown_output(result)[-2_000:].strip()
            raise WorkspaceError(
                f"The plan's set-up command {how}: {said}", hint="Mend the command or the machine, then resume the run."
            )
        made = await self._untracked()
        add_lines(self.path / ".git" / "info" / "exclude", [_anchored(path) for path in made])
        _write_whole(marker, json.dumps({"command": command, "paths": made}))

    async def reset(self, commit: str) -> None:
        """Make the checkout exactly ``commit``; only what git ignores and what set-up made stays beside it.

        Doing it twice changes nothing; locks that a killed git left behind are removed.

        Raises:
            WorkspaceError: the commit is unknown, or git refused.
        """
        if not self.exists():
            raise WorkspaceError(
                f"The workspace {str(self.path)!r} is gone.", hint="Resume the run; it is made again from its branch."
            )
        self._remove_locks(self.path / ".git")
        # HEAD itself, wherever it points: a verification command may have switched to a branch of its own.
        await self._git.run("update-ref", "--no-deref", "HEAD", commit)
        answer = await self._git.ask("reset", "--hard", "--quiet")
        if answer.exit_code != 0:
            # A power cut can leave half an index; git can write a whole one from nothing.
            (self.path / ".git" / "index").unlink(missing_ok=True)
            await self._git.run("reset", "--hard", "--quiet")
        await self._git.run("clean", "-ffdq")

    async def check(self, edits: Sequence[Edit], allowed_paths: Sequence[str], *, allow_fuzzy: bool = False) -> None:
        """Nothing, when the edits may be made and fit the checkout as it is; nothing is written either way.

        Raises:
            EditMisfit: some do not fit; it shows each with what stands there.
            UnusableReply: one is not allowed, or cannot be done.
        """
        await self._planned(by_path(edits), allowed_paths, allow_fuzzy=allow_fuzzy)

    async def apply(
        self, edits: Sequence[Edit], allowed_paths: Sequence[str], *, allow_fuzzy: bool = False
    ) -> AppliedChange:
        """Apply a builder's edits to the current commit and stage exactly them.

        Every edit is checked before the first is written. ``allow_fuzzy`` lets what is only similar go where it most
        likely belongs; the change then says so.

        Raises:
            UnusableReply: an edit is not allowed, fits nowhere (``EditMisfit``), or all of them together change
                nothing; nothing was written, and the reason is for the model.
            WorkspaceError: git refused.
        """
        await self.reset((await self._git.run("rev-parse", "HEAD")).strip())
        planned = await self._planned(by_path(edits), allowed_paths, allow_fuzzy=allow_fuzzy)
        try:
            return replace(await self._staged(planned.contents, planned.executables), how=planned.how)
        except BaseException:
            with contextlib.suppress(WorkspaceError):
                await self.reset("HEAD")
            raise

    async def commit(
        self, tree: str, parent: str, message: str, trailers: Mapping[str, str], at: datetime
    ) -> str:  # fmt: skip
        """Make the commit object of a tree; the same arguments make the same commit, so twice is once.

        The checkout and every branch stay as they are: ``publish`` and ``reset`` move them. Whatever in the message
        could pass for one of our trailers, or for its end, is set off by a blank.
        """
        stamp = f"{int(at.timestamp())} +0000"
        dates = {"GIT_AUTHOR_DATE": stamp, "GIT_COMMITTER_DATE": stamp}
        text = _message(message, trailers)
        return (await self._git.run("commit-tree", tree, "-p", parent, stdin=text, environ=dates)).strip()

    async def publish(self, commit: str) -> None:
        """Bring ``commit`` and its history to the branch ``autopack/<run_id>`` of the repository, forward only.

        To a URL it is pushed, from a mirror that no command of a run can reach. For a path the objects are fetched from
        the workspace, then the branch is moved if it is still where it was. The ref is moved by itself rather than by a
        push: that works in a bare repository and when the person has the branch checked out (their files stay as they
        are), and it runs none of their hooks.

        Raises:
            WorkspaceError: the repository has moved away, or its branch has commits that are not ours.
        """
        await self._home().publish(commit, self.path / ".git")

    async def find_phase_commit(self, phase_id: str, attempt: int | None = None) -> str | None:
        """The newest commit of a phase on the run's branch in the repository, None when there is none.

        ``attempt`` asks for that attempt only: a phase that a person retries has an older commit already.
        """
        wanted = {"Autopack-Run": self.run_id, "Autopack-Phase": phase_id}
        if attempt is not None:
            wanted["Autopack-Attempt"] = str(attempt)
        return await self._home().find_commit(wanted)

    async def read_context(
        self, allowed_paths: Sequence[str], context_paths: Sequence[str], limit_bytes: int
    ) -> dict[str, str]:
        """Text files to show to a builder, path to text: first what it may write, then its context, each by name.

        Links, binary files, names that no builder may use and what does not fit any more are left out. When anything
        may be written, all files follow, but for lock files and their like.
        """
        ranked = sorted(
            (rank, path)
            for path in await self._tracked_files()
            if (rank := _rank(path, allowed_paths, context_paths)) is not None
        )
        shown: dict[str, str] = {}
        left = limit_bytes
        for _, path in ranked:
            text = self._text_of(path, left)
            if text is not None and len(shown) < CONTEXT_FILES_LIMIT:
                shown[path] = text
                left -= len(text.encode())
        return shown

    async def list_files(self, limit: int) -> tuple[str, ...]:
        """The first ``limit`` files of the current commit, by name."""
        return tuple(sorted(await self._tracked_files())[:limit])

    def _home(self) -> Repository | RemoteRepository:
        if is_url(str(self.repository)):
            return RemoteRepository(str(self.repository), self.run_id, self.path.parent / MIRRORS)
        return Repository(Path(self.repository), self.run_id)

    # Making the clone --------------------------------------------------------------------------------------------

    async def _is_sound(self, base_commit: str) -> bool:
        marker = self.path / ".git" / _MADE
        if not self.exists() or marker.read_text() != self._made_from(base_commit):
            return False
        return (await commit_of(self._git, "HEAD")) is not None and await commit_of(self._git, base_commit) is not None

    def _made_from(self, base_commit: str) -> str:
        return json.dumps({"base": base_commit, "repository": str(self.repository)})

    def _remove_remains(self) -> None:
        """Of an earlier clone that a crash left half made, or that no longer fits."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for part in (*self.path.parent.glob(f".{self.run_id}.*.part"), self.path):
            if part.exists():
                shutil.rmtree(part)

    async def _clone(self, part: Path, repository: Repository, base_commit: str) -> None:
        words = ("clone", "--shared", "--no-checkout", "--single-branch", "--template=", "--quiet", "--")
        source = str(repository.folder)
        result = await run_git(
            *words, source, str(part), cwd=part.parent, timeout_s=CLONE_TIMEOUT_S, label=self.run_id
        )  # fmt: skip
        if result.exit_code != 0:
            raise complaint("clone", result)
        git = Git(part / ".git", work_tree=part, label=self.run_id)
        if await commit_of(git, base_commit) is None:
            # A shallow repository cannot be shared; git has copied one branch of it instead.
            await git.run("fetch", "--quiet", "--no-tags", source, repository.base_ref, timeout_s=CLONE_TIMEOUT_S)
        # Without a remote, no command in the workspace can push to the person's repository by accident.
        await git.run("remote", "remove", "origin")
        await git.run("config", "gc.auto", "0")
        add_lines(part / ".git" / "info" / "exclude", [f"/{OURS}/"])
        # A change could hide itself from the auditor with "* -diff" in .gitattributes; this outranks it.
        add_lines(part / ".git" / "info" / "attributes", ["* !diff"])
        (part / OURS).mkdir()
        await git.run("update-ref", "--no-deref", "HEAD", base_commit)
        await git.run("reset", "--hard", "--quiet", timeout_s=CLONE_TIMEOUT_S)
        _write_whole(part / ".git" / _MADE, self._made_from(base_commit))

    async def _untracked(self) -> list[str]:
        """What stands in the checkout beside the commit, ignored or not; folders end with ``/``."""
        listing = await self._git.run("ls-files", "--others", "--directory", "--no-empty-directory", "-z")
        return [path for path in _words(listing) if path != f"{OURS}/"]

    @staticmethod
    def _remove_locks(git_dir: Path) -> None:
        """Only the owner of the lease works here, so whoever made a lock is dead."""
        for lock in (*git_dir.glob("*.lock"), *(git_dir / "refs").rglob("*.lock")):
            lock.unlink(missing_ok=True)

    # Applying edits ----------------------------------------------------------------------------------------------

    async def _planned(
        self, groups: Mapping[str, Sequence[Edit]], allowed_paths: Sequence[str], *, allow_fuzzy: bool
    ) -> _Planned:  # fmt: skip
        """What the edits come to; refuses the whole reply when one of them cannot be, and names all that do not fit."""
        tracked = await self._tracked()
        made_by_setup = self._made_by_setup()
        for path in groups:
            check_path(path)
            check_allowed(path, allowed_paths)
            _refuse_foreign_ground(path, tracked, made_by_setup, groups)
        contents: dict[str, bytes | None] = {}
        hows: list[AppliedHow] = []
        misfits: list[Misfit] = []
        for path, group in groups.items():
            try:
                contents[path], how = await self._new_content(path, group, tracked, allow_fuzzy=allow_fuzzy)
                hows.append(how)
            except EditMisfit as misfit:
                misfits += misfit.misfits
        if misfits:
            raise EditMisfit(tuple(misfits))
        return _Planned(contents, _executables(groups, tracked), max(hows, key=LANES.index, default="files"))

    async def _new_content(
        self, path: str, group: Sequence[Edit], tracked: Mapping[str, str], *, allow_fuzzy: bool
    ) -> tuple[bytes | None, AppliedHow]:
        source = source_of(path, group[0])
        found = read_file(self.path, source, FILE_LIMIT_BYTES)
        # What earlier commands left beside the commit is not part of the project, whatever its name.
        existing = found if source in tracked else None
        if isinstance(group[0], DeleteFile):
            edited_text("" if existing is not None else None, group)
            return None, "files"
        if source != path and path in tracked:
            raise UnusableReply(f"The diff renames a file to {visible(path, 200)!r}, which exists.")
        text = None if existing is None else _decoded(source, existing)
        new = await new_text(self.path / ".git", self.run_id, text, group, allow_fuzzy=allow_fuzzy)
        return None if new.text is None else new.text.encode(), new.how

    async def _staged(
        self, contents: Mapping[str, bytes | None], executables: frozenset[str] = frozenset()
    ) -> AppliedChange:
        for path, content in contents.items():
            if content is None:
                delete_file(self.path, path)
            else:
                write_file(self.path, path, content, is_executable=path in executables)
        # By exact name from a list: no pathspec, however it is spelled, and no ignore rule has a say in it.
        listing = "".join(f"{path}\0" for path in contents)
        await self._git.run("update-index", "--add", "--remove", "-z", "--stdin", stdin=listing)
        tree = (await self._git.run("write-tree")).strip()
        if tree == (await self._git.run("rev-parse", "--verify", "HEAD^{tree}")).strip():
            raise UnusableReply("The edits change nothing: every file already has the content that was asked for.")
        # Plumbing, which heeds no setting of diff. The "--" tells HEAD from a file of that name.
        options = ("diff-index", "--cached", "--no-color", "--no-ext-diff", "--no-textconv")
        diff = await self._git.run(*options, "-p", "-M", "HEAD", "--")
        files = await self._git.run(*options, "--name-only", "--no-renames", "-z", "HEAD", "--")
        return AppliedChange(diff, tree, tuple(_words(files)))

    def _made_by_setup(self) -> tuple[str, ...]:
        marker = self.path / ".git" / _SET_UP
        return tuple(json.loads(marker.read_text())["paths"]) if marker.is_file() else ()

    # Reading -----------------------------------------------------------------------------------------------------

    async def _tracked(self) -> dict[str, str]:
        """Path to mode of everything in the current commit; 120000 is a link, 160000 a submodule."""
        listing = await self._git.run("ls-tree", "-r", "-z", "--full-tree", "HEAD")
        entries = (entry.partition("\t") for entry in _words(listing))
        return {path: facts.partition(" ")[0] for facts, _, path in entries}

    async def _tracked_files(self) -> list[str]:
        return [path for path, mode in (await self._tracked()).items() if mode in ("100644", "100755")]

    def _text_of(self, path: str, limit_bytes: int) -> str | None:
        with contextlib.suppress(UnusableReply):
            content = read_file(self.path, path, limit_bytes)
            return None if content is None else _decoded(path, content)
        return None


# Messages --------------------------------------------------------------------------------------------------------


def _message(message: str, trailers: Mapping[str, str]) -> str:
    subject, _, body = visible(message.strip(), MESSAGE_LIMIT, multiline=True).partition("\n")
    text = f"{visible(subject, SUBJECT_LIMIT) if subject else 'Change'}\n\n{body.strip()}".strip()
    # "---" ends a message for tools that read mails, and a trailer of ours in the words of a model would be a lie.
    harmless = re.sub(r"^(?=---|Autopack-[\w-]*\s*:)", " ", text, flags=re.MULTILINE | re.IGNORECASE)
    return f"{harmless}\n\n" + "".join(f"{key}: {trailer_value(value)}\n" for key, value in trailers.items())


# Small things ----------------------------------------------------------------------------------------------------


def _refuse_foreign_ground(
    path: str, tracked: Mapping[str, str], made_by_setup: Sequence[str], others: Mapping[str, object]
) -> None:
    above = ["/".join(path.split("/")[:depth]) for depth in range(1, path.count("/") + 1)]
    if any(tracked.get(place) == "160000" for place in (*above, path)):
        raise UnusableReply(f"{visible(path, 200)!r} belongs to a submodule, which is another repository.")
    if path in made_by_setup or any(f"{place}/" in made_by_setup for place in (*above, path)):
        raise UnusableReply(f"{visible(path, 200)!r} was made by the plan's set-up and is no part of the project.")
    clash = next((place for place in above if place in others), None)
    if clash is not None:
        raise UnusableReply(f"{visible(clash, 200)!r} cannot be both a file and a folder of {visible(path, 200)!r}.")


def _executables(groups: Mapping[str, Sequence[Edit]], tracked: Mapping[str, str]) -> frozenset[str]:
    """The new names of executable files that a diff renames."""
    sources = ((path, source_of(path, group[0])) for path, group in groups.items())
    return frozenset(path for path, source in sources if source != path and tracked.get(source) == "100755")


def _rank(path: str, allowed_paths: Sequence[str], context_paths: Sequence[str]) -> int | None:
    """What a builder needs first: 0 to write, 1 to know, 2 anything else; None is not shown."""
    if allowed_paths and is_allowed(path, allowed_paths):
        return 0
    if any(matches(path, pattern) for pattern in context_paths):
        return 1
    return None if allowed_paths or path.rpartition("/")[2] in _GENERATED else 2


def _decoded(path: str, content: bytes) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UnusableReply(f"{visible(path, 200)!r} is a binary file or not UTF-8; it can only be deleted.")
    return text


def _words(listing: str) -> list[str]:
    return [word for word in listing.split("\0") if word]


def _anchored(path: str) -> str:
    """A path as a pattern of an exclude file that matches only itself."""
    return "/" + re.sub(r"([\\*?\[ ])", r"\\\1", path)


def _write_whole(file: Path, text: str) -> None:
    """Write a file that is either there completely or not at all."""
    part = file.with_name(f"{file.name}.part")
    part.write_text(text)
    part.replace(file)
