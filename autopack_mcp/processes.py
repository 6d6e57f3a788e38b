"""Starts a command, bounds it, and ends its whole process tree: deadline, output cap, nothing left behind.

It owns groups, marks and limits; it knows no git, no run and no plan, and it does not judge what a command said.
The workspace and the verification run everything through ``run_command``, confined by ``sandbox`` where needed; what a
plan names also gets limits and, on Linux, a ``keeper`` that nothing of it escapes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

import anyio

from autopack_mcp import keeper
from autopack_mcp.capture import Capture, standard_input
from autopack_mcp.keeper import DRAIN_GRACE_S, KEEPER_MARK, KILL_PATIENCE_S, MARK_VARIABLE, TERM_GRACE_S

log = logging.getLogger(__name__)

OUTPUT_CAP_BYTES = 1_000_000  # What is kept of a command's output: the first and the last half of it.
FLOOD_FACTOR = 256  # A command that writes this many times its cap will not stop by itself; at 256 MB it is ended.
KEEPER_PATIENCE_S = TERM_GRACE_S + 0.3  # A keeper that needs longer was stopped or killed, and we do its work.
MEGABYTE = 1_000_000

PS_TIMEOUT_S = 5.0  # Where there is no /proc; listing processes takes 20 ms.

_POLL_S = 0.01
_REPORT_BYTES = 200
_PS = ("ps", "-A", "-E", "-ww", "-o", "pid=", "-o", "ppid=", "-o", "pgid=", "-o", "stat=", "-o", "command=")
_MARK_AMONG_WORDS = re.compile(rf"(?<!\S){MARK_VARIABLE}=\S*")
_LABEL = re.compile(r"[A-Za-z0-9._-]*")
# Variables that are or unlock secrets, that are ours, or that would point the command's git at another repository.
_UNWANTED = re.compile(
    r".*(?:API_?KEY|TOKEN|SECRET|SECRET_KEY|ACCESS_KEY|PASSWORD|PASSPHRASE|CREDENTIALS)|AUTOPACK_.*|SSH_AUTH_SOCK"
    r"|GIT_(?:DIR|WORK_TREE|INDEX_FILE|COMMON_DIR|NAMESPACE|PREFIX|ASKPASS|CONFIG.*|(?:ALTERNATE_)?OBJECT_DIRECTOR.*)",
    re.IGNORECASE,
)

Ending = Literal["exited", "timed out", "flooded", "interrupted"]
LimitName = Literal["cpu_s", "memory_mb", "output_mb", "processes"]


@dataclass(frozen=True, slots=True)
class CommandLimits:
    """What a command and all it starts may use together: processor time, memory, output of a stream, processes.

    A megabyte is 1,000,000 bytes. Output is bounded everywhere, the others where commands have a keeper.
    """

    cpu_s: int
    memory_mb: int
    output_mb: int
    processes: int


@dataclass(frozen=True, slots=True)
class PassedLimit:
    """The limit that ended a command, and how much was used when that was seen, in the unit of the limit."""

    name: LimitName
    used: int


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended.

    ``exit_code`` is negative when a signal ended it, and None when we did. ``output`` is decoded as UTF-8, what is not
    UTF-8 replaced, with a line in the middle that says how many bytes were left out. ``errors`` is empty unless they
    were asked for apart; ``flooded`` is True when it was ended because it would not stop writing, and ``passed`` is the
    limit that ended it, the one of its output included.
    """

    exit_code: int | None
    timed_out: bool
    output: str
    output_truncated: bool
    duration_s: float
    errors: str = ""
    flooded: bool = False
    passed: PassedLimit | None = None


async def run_command(
    argv: Sequence[str],
    *,
    cwd: Path | str,
    env: Mapping[str, str],
    timeout_s: float,
    output_cap_bytes: int = OUTPUT_CAP_BYTES,
    stdin: bytes | None = None,
    label: str = "",
    errors_apart: bool = False,
    sweep: bool = True,
    limits: CommandLimits | None = None,
) -> CommandResult:
    """Run ``argv`` in a process group of its own until it ends, its deadline passes or it has used too much.

    When this returns or raises, cancelled included, no process of its tree is left: its group, and every process that
    carries the mark we put into its environment, get SIGTERM and 0.2 s later SIGKILL. A command that has ended by
    itself is over together with what it left in the background.

    Args:
        argv: program and arguments; wrap them with ``Sandbox.wrap`` first to confine the command.
        env: the whole environment of the command; see ``clean_environment``.
        timeout_s: seconds until the tree is killed.
        output_cap_bytes: how much output is kept, per stream.
        stdin: what it reads on standard input; nothing by default.
        label: names whose command it is, so that ``kill_leftovers`` finds it after a crash of this process.
        errors_apart: keep standard error in ``errors`` instead of in ``output``.
        sweep: False trusts a command that ended by itself to have left nothing behind, and saves looking.
        limits: what it may use; with them it gets a keeper where there is one, which adds 20 ms to its start. Then a
            process that sheds its mark and its parents is found too, and the tree also ends when we are killed.

    Raises:
        OSError: the program or ``cwd`` does not exist or may not be used. Nothing was started.
    """
    started = asyncio.get_running_loop().time()
    mark = _Mark(label)
    process: asyncio.subprocess.Process | None = None
    ending: Ending = "interrupted"
    flood_bytes = limits.output_mb * MEGABYTE if limits else max(output_cap_bytes, 2) * FLOOD_FACTOR
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(Capture(output_cap_bytes, flood_bytes))
        errors = stack.enter_context(Capture(output_cap_bytes, flood_bytes)) if errors_apart else None
        captures = [capture for capture in (output, errors) if capture is not None]
        leash = stack.enter_context(_Leash(limits)) if limits and keeper.is_possible() else None
        try:
            process = await asyncio.create_subprocess_exec(
                *(leash.argv(argv) if leash else argv),
                cwd=cwd,
                env={**env, MARK_VARIABLE: mark.value + (KEEPER_MARK if leash else "")},
                stdin=stack.enter_context(standard_input(stdin)),
                stdout=output.write_fd,
                stderr=errors.write_fd if errors else subprocess.STDOUT,
                pass_fds=leash.fds if leash else (),
                start_new_session=True,
            )
            for held in (*captures, leash):
                if held is not None:
                    held.close_theirs()
            ending = await _watch(process, captures, timeout_s)
        finally:
            await _uninterrupted(_end(process, mark, leash, sweep=sweep or ending != "exited"))
        for capture in captures:
            capture.drain()
        exit_code, passed = leash.outcome(process.returncode, argv[0]) if leash else (process.returncode, None)
        if limits is not None and ending == "flooded":
            passed = PassedLimit("output_mb", limits.output_mb + 1)  # The next one was begun.
        return CommandResult(
            exit_code=exit_code if ending == "exited" else None,
            timed_out=ending == "timed out",
            output=output.text(),
            output_truncated=output.is_truncated,
            duration_s=asyncio.get_running_loop().time() - started,
            errors=errors.text() if errors else "",
            flooded=ending == "flooded",
            passed=passed if ending in ("exited", "flooded") else None,
        )


async def kill_leftovers(label: str) -> int:
    """Kill what a dead process of ours left running under ``label``; returns how many processes were found.

    Only the rightful owner of the label may ask: a live command under the same label dies as well.
    """
    tree = _Tree(f":{_checked(label)}/")
    found = len(tree.pids())
    await _uninterrupted(_kill(tree))
    return found


def clean_environment(environ: Mapping[str, str], key_variables: Iterable[str] = ()) -> dict[str, str]:
    """What a plan's command may know of our environment: no keys, no tokens, nothing of ours, no colours.

    Args:
        environ: the environment to start from; PATH, HOME, LANG and the like are kept.
        key_variables: names that hold keys although they do not look like it (``api_key_env`` of the config).
    """
    refused = set(key_variables)
    kept = {name: value for name, value in environ.items() if name not in refused and not _UNWANTED.fullmatch(name)}
    return {**kept, "TERM": "dumb", "NO_COLOR": "1", "GIT_TERMINAL_PROMPT": "0"}


async def _watch(process: asyncio.subprocess.Process, captures: Sequence[Capture], timeout_s: float) -> Ending:
    exited: asyncio.Task[object] = asyncio.ensure_future(process.wait())
    waited: list[asyncio.Future[object]] = [exited, *(capture.flooded for capture in captures)]
    try:
        done, _ = await asyncio.wait(waited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            return "timed out"
        if exited not in done:
            return "flooded"
        await asyncio.wait([capture.ended for capture in captures], timeout=DRAIN_GRACE_S)
        return "exited"
    finally:
        exited.cancel()


async def _end(
    process: asyncio.subprocess.Process | None, mark: _Mark, leash: _Leash | None, *, sweep: bool
) -> None:  # fmt: skip
    if process is not None and leash is not None and await _is_ended_by_keeper(process, leash):
        return
    if sweep:
        await _kill(_Tree(mark.entry, process.pid if process else None))
    if process is not None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), KILL_PATIENCE_S)


async def _is_ended_by_keeper(process: asyncio.subprocess.Process, leash: _Leash) -> bool:
    """Let the keeper end its command; its report is the kernel's word that nothing is left, so nobody need look."""
    leash.let_go()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), KEEPER_PATIENCE_S)
    return process.returncode is not None and leash.has_report()


async def _uninterrupted(work: Coroutine[object, object, None]) -> None:
    """Finish ``work`` even when the caller is cancelled meanwhile, and only then let the cancellation through."""
    cancellation: asyncio.CancelledError | None = None
    task = asyncio.ensure_future(work)
    with anyio.CancelScope(shield=True):  # Without it a cancelled anyio scope would wake us again on every turn.
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError as error:
                cancellation = error
    task.result()
    if cancellation is not None:
        raise cancellation


# The process tree ------------------------------------------------------------------------------------------------


class _Mark:
    """A word in the environment of a command, inherited by all it starts: what ``setsid`` and ``nohup`` cannot shed."""

    def __init__(self, label: str) -> None:
        self.entry = f":{_checked(label)}/{secrets.token_hex(8)}"
        # A command of ours that runs us again (our own tests, say) passes its own mark on, so both can find the child.
        self.value = os.environ.get(MARK_VARIABLE, "") + self.entry


def _checked(label: str) -> str:
    assert _LABEL.fullmatch(label), f"a label is letters, digits, dots and dashes: {label!r}"
    return label


@dataclass(frozen=True, slots=True)
class _Seen:
    pid: int
    parent: int
    leader: int
    mark: str


class _Tree:
    """Everything that descends from a command: by its mark, by the group leader it was born under, or by parent."""

    def __init__(self, entry: str, leader: int | None = None) -> None:
        self._entry = entry
        self._leader = leader

    def pids(self) -> set[int]:
        """Living members now, ourselves never among them."""
        seen = _list_processes()
        children: dict[int, list[int]] = {}
        for process in seen:
            children.setdefault(process.parent, []).append(process.pid)
        found: set[int] = set()
        waiting = [process.pid for process in seen if self._entry in process.mark or process.leader == self._leader]
        while waiting:
            pid = waiting.pop()
            if pid not in found and pid != os.getpid():
                found.add(pid)
                waiting += children.get(pid, [])
        # A keeper that died first would let go of whom only it knows.
        keepers = {process.pid for process in seen if process.mark.endswith(KEEPER_MARK)}
        return {pid for pid in found if pid not in keepers or found.isdisjoint(children.get(pid, ()))}

    def bury(self, dead: Iterable[int]) -> None:
        """Where orphans become our children (we are process 1 of a container) nobody else takes their exit status.

        The leader is left to asyncio, which waits for it.
        """
        for pid in dead:
            if pid != self._leader:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)


async def _kill(tree: _Tree) -> None:
    victims = tree.pids()
    if not victims:
        return
    _signal(victims, signal.SIGTERM)
    if not await _gone(tree, victims, TERM_GRACE_S) and not await _gone(tree, victims, KILL_PATIENCE_S, signal.SIGKILL):
        log.warning("processes %s outlive SIGKILL: the kernel is waiting for a device", sorted(tree.pids()))
    tree.bury(victims)


async def _gone(tree: _Tree, victims: set[int], patience_s: float, number: signal.Signals | None = None) -> bool:
    """Wait until the tree is empty, sending ``number`` to whatever is still there, newly born children included."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    while left := tree.pids():
        if loop.time() >= deadline:
            return False
        victims |= left
        if number is not None:
            _signal(left, number)
        await asyncio.sleep(_POLL_S)
    return True


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _list_processes() -> list[_Seen]:
    return list(_from_proc() if sys.platform == "linux" else _from_ps())


def _from_proc() -> Iterator[_Seen]:
    for folder in Path("/proc").glob("[0-9]*"):
        # A process may end while we look at it, or belong to somebody else; neither is ours to kill.
        with contextlib.suppress(OSError, ValueError):
            # "pid (any name, brackets too) state parent group leader …", see proc(5).
            stat = (folder / "stat").read_text(errors="replace")
            state, parent, _, leader = stat.rpartition(")")[2].split()[:4]
            if state not in "ZX":
                yield _Seen(int(folder.name), int(parent), int(leader), _mark_in(folder / "environ"))


def _mark_in(environ: Path) -> str:
    with contextlib.suppress(OSError):
        entries = environ.read_text(errors="replace").split("\0")
        return next((entry for entry in entries if entry.startswith(f"{MARK_VARIABLE}=")), "")
    return ""


def _from_ps(command: Sequence[str] = _PS) -> Iterator[_Seen]:
    listing = subprocess.run(command, capture_output=True, timeout=PS_TIMEOUT_S, check=False).stdout
    for line in listing.decode("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError):
            pid, parent, group, state, words = line.split(None, 4)
            if not state.startswith(("Z", "X")):
                yield _Seen(int(pid), int(parent), int(group), " ".join(_MARK_AMONG_WORDS.findall(words)))


class _Leash:
    """Our hold on a keeper: it ends its command when we let go of it or die, and reports when nothing is left."""

    def __init__(self, limits: CommandLimits) -> None:
        self._limits = limits
        self._report: list[str] = []

    def __enter__(self) -> _Leash:
        self._ours, self._theirs = socket.socketpair()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ours.close()
        self._theirs.close()

    @property
    def fds(self) -> tuple[int]:
        """What the keeper must inherit."""
        return (self._theirs.fileno(),)

    def argv(self, argv: Sequence[str]) -> list[str]:
        """``argv`` with its keeper before it."""
        limits = self._limits
        return keeper.keeper_argv(self.fds[0], (limits.cpu_s, limits.memory_mb, limits.processes), argv)

    def close_theirs(self) -> None:
        """The keeper has its own copy now."""
        self._theirs.close()

    def let_go(self) -> None:
        """Have the command ended; one that has ended already is not disturbed."""
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_WR)

    def has_report(self) -> bool:
        """Whether the keeper, which has exited, did so as it should."""
        with contextlib.suppress(OSError):
            self._report = self._report or self._ours.recv(_REPORT_BYTES, socket.MSG_DONTWAIT).decode().split()
        return bool(self._report)

    def outcome(self, keeper_code: int | None, program: str) -> tuple[int | None, PassedLimit | None]:
        """The command's exit code, and the limit that ended it.

        Raises:
            OSError: it was not started.
        """
        match self._report:
            case [keeper.ENDED, code]:
                return int(code), None
            case [keeper.PASSED, ("cpu_s" | "memory_mb" | "processes") as name, used]:
                return None, PassedLimit(name, int(used))
            case [keeper.FAILED, number]:
                raise OSError(int(number), os.strerror(int(number)), program)
            case [] if keeper_code is not None and keeper_code >= 0:
                raise ChildProcessError(f"the process that should keep {program!r} ended with {keeper_code}")
            case _:  # Somebody has killed the keeper, or we have let go of it.
                return keeper_code, None
