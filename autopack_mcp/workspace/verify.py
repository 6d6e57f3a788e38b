"""Runs a plan's own commands in a run's workspace, confined and bounded, and says whether the change is green.

It owns what such a command may see, reach and use, and what its end means; it does not decide what follows from red.
The executor verifies through it, and the workspace runs its set-up through it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from autopack_mcp.errors import WorkspaceError
from autopack_mcp.plans.plan import DEFAULT_LIMITS, UNVERIFIED, PlanLimits
from autopack_mcp.processes import (
    MEGABYTE,
    OUTPUT_CAP_BYTES,
    CommandLimits,
    CommandResult,
    LimitName,
    clean_environment,
    run_command,
)
from autopack_mcp.sandbox import Reach, Sandbox
from autopack_mcp.text_safety import redact, visible, without_terminal_codes

VerifyOutcome = Literal["green", "red", "timeout", "unverified"]

CPU_S = 3_600  # Unless the plan says otherwise, or gives a command longer than this: no deadline is met by it.
MEMORY_SHARE = 2  # Unless the plan says otherwise a command may hold half of what the machine has.
WORKSPACES = "workspaces"  # The folder of AUTOPACK_HOME that holds one clone per run.
# Where package managers keep their registry and its credentials: set-up needs them, a model's code never gets them.
_PACKAGE_SETTINGS = (
    ".cargo/config.toml", ".cargo/credentials.toml", ".config/pip", ".config/uv", ".gem/credentials", ".netrc",
    ".m2/settings.xml", ".npmrc", ".pip", ".yarnrc", ".yarnrc.yml",
)  # fmt: skip
# The capped output and the line that says what was left out; only binary output grows beyond it, by its escapes.
SHOWN_LIMIT = OUTPUT_CAP_BYTES + 1_000
_LONGEST_ESCAPE = 10  # \U0010ffff
_CONTAINER_MEMORY = Path("/sys/fs/cgroup/memory.max")  # Of a container; "max" where there is no limit.
_USED: dict[LimitName, tuple[str, str]] = {
    "cpu_s": ("used", " s of processor time"),
    "memory_mb": ("held", " MB of memory"),
    "output_mb": ("wrote", " MB"),
    "processes": ("had", " processes"),
}
_ALTERNATES_DEPTH = 5  # Git's own limit for repositories that borrow objects from each other.


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What a verification came to: exit code 0 is green, any other end red, and no command is unverified.

    ``exit_code`` is None when we ended the command or there was none; ``output`` is both streams, fit to be shown and
    without anything that looks like a key; ``sandbox`` says how the command was confined. ``ending`` completes "the
    command …" in words, the limit that ended it and its key included.
    """

    outcome: VerifyOutcome
    exit_code: int | None
    output: str
    duration_s: float
    sandbox: str
    ending: str = "was not run"


async def verify(
    command: str,
    workspace: Path,
    *,
    timeout_s: float,
    network: bool,
    sandbox: Sandbox,
    environ: Mapping[str, str],
    secret_variables: Sequence[str] = (),
    label: str = "",
    limits: PlanLimits = DEFAULT_LIMITS,
) -> VerifyResult:
    """Run a verification command in a workspace and say what it came to; ``none`` runs nothing.

    Args:
        command: for ``sh -c``.
        timeout_s: seconds until its whole process tree is killed.
        limits: what the plan allows it; passing one is red.
        environ: our environment; the command gets it without keys, see ``clean_environment``.
        secret_variables: further variables that hold keys.
        label: whose processes these are, see ``run_command``.

    Raises:
        WorkspaceError: the workspace is gone, or the sandbox could not start; this is no verdict on the change.
    """
    if command == UNVERIFIED:
        return VerifyResult("unverified", None, "", 0.0, sandbox.description)
    reach = reach_of(workspace, network=network, protect_ours=True)
    result = await run_plan_command(
        command, workspace, timeout_s=timeout_s, reach=reach, sandbox=sandbox, environ=environ,
        secret_variables=secret_variables, label=label, limits=limits,
    )  # fmt: skip
    outcome: VerifyOutcome = "timeout" if result.timed_out else "green" if result.exit_code == 0 else "red"
    ending = ending_of(result, timeout_s, limits)
    return VerifyResult(outcome, result.exit_code, shown_output(result), result.duration_s, sandbox.description, ending)


async def run_plan_command(
    command: str,
    workspace: Path,
    *,
    timeout_s: float,
    reach: Reach,
    sandbox: Sandbox,
    environ: Mapping[str, str],
    secret_variables: Sequence[str],
    label: str,
    limits: PlanLimits,
) -> CommandResult:
    """Run a command that a plan names, with a clean environment, confined to ``reach`` and within its limits.

    Raises:
        WorkspaceError: it could not be started at all.
    """
    env = clean_environment(environ, secret_variables)
    # Its own /tmp and home lie in memory, where nobody but the kernel sees how much is in them.
    argv = sandbox.wrap(["sh", "-c", command], replace(reach, scratch_mb=limits.memory_mb), env)
    try:
        result = await run_command(
            argv, cwd=workspace, env=env, timeout_s=timeout_s, label=label, limits=limits_in_force(limits, timeout_s)
        )
    except OSError as error:
        raise WorkspaceError(f"The command cannot be started in {str(workspace)!r}: {error}.") from error
    # Nothing was tried, so nothing is red: an attempt must not be spent on it.
    if sandbox.kind == "bubblewrap" and result.exit_code == 1 and result.output.startswith("bwrap: "):
        said = visible(result.output.strip(), 300)
        raise WorkspaceError(
            f"The sandbox could not start: {said}.", hint="Mend bubblewrap or uninstall it, then resume."
        )
    return result


def limits_in_force(limits: PlanLimits, timeout_s: float) -> CommandLimits:
    """What a command may use: what its plan says, else half of the memory, and processor time for its deadline."""
    return CommandLimits(
        cpu_s=limits.cpu_s or max(CPU_S, math.ceil(timeout_s)),
        memory_mb=limits.memory_mb or _memory_bytes() // MEMORY_SHARE // MEGABYTE,
        output_mb=limits.output_mb,
        processes=limits.processes,
    )


def ending_of(result: CommandResult, timeout_s: float, limits: PlanLimits) -> str:
    """How a command ended, as the rest of a sentence that begins with it; a limit with its number and its key."""
    if result.timed_out:
        return f"ran into its deadline of {timeout_s:g} s"
    if result.passed is None:
        return f"failed with exit code {result.exit_code}" if result.exit_code else "succeeded"
    name = result.passed.name
    did, unit = _USED[name]
    allowed = getattr(limits_in_force(limits, timeout_s), name)
    return (
        f"was ended because it and all it started {did} {result.passed.used:,}{unit}, "
        f"beyond the limit of {allowed:,} (`limits: {name}` in the plan)"
    )


def _memory_bytes() -> int:
    """Of this machine, or of the container that we are in."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(_CONTAINER_MEMORY.read_text()))
    except (OSError, ValueError):
        return machine


def reach_of(
    workspace: Path, *, network: bool, protect_ours: bool, also_readable: Sequence[Path] = ()
) -> Reach:  # fmt: skip
    """What a command in a workspace may touch: the workspace, and the objects that its clone borrows, to read.

    ``protect_ours`` keeps what is not the command's from being written: the clone's history and configuration, and the
    folder of a person's notes, where a line that a model's code adds would be taken for the person's.
    """
    home = [workspace.parent.parent] if workspace.parent.name == WORKSPACES else []
    ours = [folder for name in (".git", ".autopack") if (folder := workspace / name).is_dir()]
    return Reach(
        writable=(workspace,),
        readable=(*_borrowed_objects(workspace / ".git" / "objects", _ALTERNATES_DEPTH), *also_readable),
        protected=tuple(ours) if protect_ours else (),
        hidden=tuple(home),
        network=network,
    )


def package_settings(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The files in a person's home that tell package managers where to look, those that exist."""
    home = Path(environ.get("HOME") or os.devnull)
    return tuple(file for name in _PACKAGE_SETTINGS if (file := home / name).exists())


def shown_output(result: CommandResult) -> str:
    """A command's output, fit to be stored, shown and put into a prompt; its head and tail when it is too long."""
    text = redact(without_terminal_codes(result.output))
    shown = visible(text, _LONGEST_ESCAPE * len(text) + 1, multiline=True)
    if len(shown) <= SHOWN_LIMIT:
        return shown
    half = SHOWN_LIMIT // 2
    return f"{shown[:half]}\n… {len(shown) - 2 * half} characters left out …\n{shown[-half:]}"


def _borrowed_objects(objects: Path, depth: int) -> Iterator[Path]:
    try:
        lines = (objects / "info" / "alternates").read_text().splitlines()
    except OSError:
        return
    for folder in (Path(line) for line in lines if line.startswith("/") and depth):
        if folder.is_dir():
            yield folder
            yield from _borrowed_objects(folder, depth - 1)
