"""Git, hardened: our own configuration, no hooks, no prompts, no guessing where a repository might be.

It owns how git is started and what its complaints mean to a person; it knows no run. The workspace and the repository,
here or behind a URL, are its only callers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from autopack_mcp.errors import WorkspaceError
from autopack_mcp.processes import CommandResult, run_command
from autopack_mcp.text_safety import visible

GIT_TIMEOUT_S = 120.0  # Everything but a clone takes milliseconds; a stuck disk shows itself within two minutes.
CLONE_TIMEOUT_S = 600.0  # A shared clone copies no objects, but a large checkout writes every file.
GIT_OUTPUT_CAP_BYTES = 64_000_000  # A listing of a million files fits; what does not is refused, never cut.

_CONFIG = Path(__file__).with_name("hardened.gitconfig")
# A repository's own configuration outranks ours (husky sets hooksPath there), and only options outrank that.
_OPTIONS = (
    "-c", "core.hooksPath=/dev/null",
    "-c", "core.fsmonitor=false",
    "-c", "gc.auto=0",
    "-c", "maintenance.auto=false",
    "-c", "submodule.recurse=false",
    "-c", "fetch.recurseSubmodules=false",
    "-c", "fetch.writeCommitGraph=false",
    "-c", "core.alternateRefsCommand=true",
)  # fmt: skip
_IDENTITY = ("autopack-mcp", "autopack-mcp@localhost")
# What a person has set up for reaching repositories, and nothing else of theirs: keys, agents, proxies, certificates.
_FOR_THE_NETWORK = (
    "HOME", "XDG_CONFIG_HOME", "SSH_AUTH_SOCK", "GIT_SSH", "GIT_SSH_COMMAND", "HTTPS_PROXY", "https_proxy", "ALL_PROXY",
    "all_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO",
)  # fmt: skip
_NO_ACCESS = (
    "Give the account that runs autopack-mcp access (credential helper, ~/.netrc or ssh key), then resume the run."
)
# What git says → what a person can do about it.
_HINTS = {
    "Authentication failed": _NO_ACCESS,
    "could not read Username": _NO_ACCESS,
    "Permission denied (publickey": _NO_ACCESS,
    "Host key verification failed": "Connect once by hand (ssh HOST) as the account of autopack-mcp, then resume.",
    "remote rejected": "The server refuses branches named autopack/…; allow them for this account, then resume.",
    "No space left on device": "Free some space on that disk, then resume the run.",
    "Permission denied": "Make the folder readable and writable for the account that runs autopack-mcp.",
    "Read-only file system": "The disk is mounted read-only; mount it writable, then resume the run.",
    "File exists": "Another git holds this lock. If none is running, delete the file it names, then resume the run.",
    "unable to find alternate": "The repository has moved. Put it back where the run found it, then resume.",
    "bad object": "Objects of the repository are missing; `git fsck` there says which.",
}


class Git:
    """Git on one repository, named by its git folder, so that nothing is ever looked for in parent folders.

    Args:
        git_dir: the ``.git`` folder or file, or a bare repository.
        work_tree: the checkout to work on, None for what needs none.
        label: whose processes these are, see ``run_command``.

    ``folder`` is where git runs and what the relative paths in its answers start from.
    """

    def __init__(self, git_dir: Path, *, work_tree: Path | None = None, label: str = "") -> None:
        self._git_dir = git_dir
        self.folder = work_tree or (git_dir if git_dir.is_dir() else git_dir.parent)
        self._where = [f"--git-dir={git_dir}"] + ([f"--work-tree={work_tree}"] if work_tree else [])
        self._label = label

    async def run(
        self, *words: str, stdin: str | None = None, environ: Mapping[str, str] | None = None,
        timeout_s: float = GIT_TIMEOUT_S,
    ) -> str:  # fmt: skip
        """What git prints.

        Raises:
            WorkspaceError: it failed; the message is git's own complaint.
        """
        result = await self.ask(*words, stdin=stdin, environ=environ, timeout_s=timeout_s)
        if result.exit_code != 0:
            raise complaint(words[0], result)
        return result.output

    async def ask(
        self, *words: str, stdin: str | None = None, environ: Mapping[str, str] | None = None,
        timeout_s: float = GIT_TIMEOUT_S, reaches_out: bool = False,
    ) -> CommandResult:  # fmt: skip
        """How git ended, where "no" is an answer and not a failure; for ``reaches_out`` see ``run_git``."""
        return await run_git(
            *self._where, *words, cwd=self.folder, stdin=stdin, environ=environ, timeout_s=timeout_s, label=self._label,
            reaches_out=reaches_out,
        )  # fmt: skip


async def run_git(
    *words: str,
    cwd: Path,
    stdin: str | None = None,
    environ: Mapping[str, str] | None = None,
    timeout_s: float = GIT_TIMEOUT_S,
    label: str = "",
    reaches_out: bool = False,
) -> CommandResult:
    """Git without a repository yet (``clone``, ``ls-remote``); everything else goes through ``Git``.

    With ``reaches_out`` it may use https and ssh, and reads the person's own settings and credentials for them: never
    on a repository that a command of a run can write to, whose settings could name a program to run.

    Raises:
        WorkspaceError: git is not installed, took too long, or printed more than can be kept.
    """
    try:
        result = await run_command(
            ["git", "--literal-pathspecs", *_OPTIONS, *words],
            cwd=cwd,
            env={**_environment(reaches_out=reaches_out), **(environ or {})},
            timeout_s=timeout_s,
            output_cap_bytes=GIT_OUTPUT_CAP_BYTES,
            stdin=None if stdin is None else stdin.encode("utf-8", "surrogateescape"),
            label=label,
            errors_apart=True,
            sweep=False,  # Ours start nothing in the background: no hooks, no maintenance.
        )
    except FileNotFoundError as error:
        missing = "git is not installed, or not on PATH." if cwd.is_dir() else f"The folder {str(cwd)!r} is gone."
        raise WorkspaceError(missing) from error
    if result.exit_code is None or result.output_truncated:
        why = f"took longer than {timeout_s:.0f} s" if result.timed_out else "printed more than can be kept"
        raise WorkspaceError(f"git {_verb(words)} in {str(cwd)!r} {why}.")
    return result


def git_dir_of(folder: Path) -> Path | None:
    """The git folder of a checkout (``.git``, which is a file in a linked worktree) or of a bare repository."""
    if (folder / ".git").exists():
        return folder / ".git"
    return folder if (folder / "HEAD").is_file() and (folder / "objects").is_dir() else None


def complaint(verb: str, result: CommandResult) -> WorkspaceError:
    """Git's failure as an error that a person can act on."""
    lines = [line for line in (result.errors or result.output).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines
    said = visible(" ".join(telling[:3]), 500) or f"exit code {result.exit_code}"
    hint = next((hint for phrase, hint in _HINTS.items() if phrase in result.errors), "")
    return WorkspaceError(f"git {verb} failed: {said.rstrip('.')}.", hint=hint)


async def commit_of(git: Git, name: str) -> str | None:
    """The commit that a branch, a tag, a ref or an abbreviation names; None when there is none."""
    answer = await git.ask("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    return answer.output.strip() if answer.exit_code == 0 else None


def add_lines(file: Path, lines: Sequence[str]) -> None:
    """Append to a list of git's (exclude, attributes) those lines that it does not have yet."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = file.read_text(errors="surrogateescape") if file.exists() else ""
    missing = [line for line in lines if line not in text.split("\n") and "\n" not in line]
    if missing:
        start = "" if not text or text.endswith("\n") else "\n"
        with file.open("a", errors="surrogateescape") as stream:
            stream.write(start + "".join(f"{line}\n" for line in missing))


def _verb(words: tuple[str, ...]) -> str:
    return next((word for word in words if not word.startswith("-")), "")


def _environment(*, reaches_out: bool) -> dict[str, str]:
    """Nothing of ours but where programs and temporary files are; above all no GIT_DIR, and no HOME without need."""
    name, email = _IDENTITY
    settings = {"GIT_CONFIG_GLOBAL": str(_CONFIG), "GIT_CONFIG_NOSYSTEM": "1", "GIT_ALLOW_PROTOCOL": "file"}
    if reaches_out:
        settings = {name: os.environ[name] for name in _FOR_THE_NETWORK if name in os.environ}
        settings["GIT_ALLOW_PROTOCOL"] = "https:ssh:file"
    return {
        **settings,
        **{name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ},
        "LC_ALL": "C",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_AUTHOR_NAME": name,
        "GIT_AUTHOR_EMAIL": email,
        "GIT_COMMITTER_NAME": name,
        "GIT_COMMITTER_EMAIL": email,
    }
