"""Keeps one command: all it starts stays below this process, within its limits, and is gone before this process ends.

A program of its own between ``processes``, which starts it, and the command; it owns the command's descendants and
nothing else, and imports only what starts at once. Linux alone: the kernel gives orphans back to it (prctl(2),
PR_SET_CHILD_SUBREAPER), so neither ``setsid`` nor ``env -i`` nor the death of a parent takes a process from its sight.
"""

# pathlib alone would take as long to load as all the rest.
# ruff: noqa: PTH110, PTH113, PTH123, PTH208

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

MARK_VARIABLE = "AUTOPACK_COMMAND_MARK"  # In the environment of whatever we start; see ``processes``.
KEEPER_MARK = "+keeper"  # Ends the mark of a keeper: it is to be killed after all that stands below it.

TERM_GRACE_S = 0.2  # Cancelling must end in a second; what has not obeyed SIGTERM by now gets SIGKILL.
KILL_PATIENCE_S = 2.0  # SIGKILL needs milliseconds; beyond this the kernel itself is stuck (a dead disk or mount).
DRAIN_GRACE_S = 0.2  # `exec > >(tee log)`: a reader may still be writing when the shell has gone.

_LOOK_S = 0.1  # How often limits are looked at: a process gets half a gigabyte further in between.
_LOOK_SHARE = 20  # With thousands of processes a look takes long; at most a twentieth of a processor goes into looking.
_END_LOOK_S = 0.01
_NICENESS = 5  # Of a command, above ours: a third of the processor when somebody else wants it as well.
_WORST_TO_KEEP = (
    "1000"  # The kernel's own choice when memory ends: the command, and neither us nor the person's desktop.
)
_OOM = "/proc/self/oom_score_adj"
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of <linux/prctl.h>.
_MEGABYTE = 1_000_000

# What a report begins with; it is the last word of a keeper, said when nothing is left of its command.
ENDED, PASSED, LET_GO, FAILED = "ended", "passed", "let-go", "failed"


def is_possible() -> bool:
    """Whether commands can have a keeper here."""
    # Lazy: a keeper itself, which asks for nothing of the kind, starts in less time without the import.
    from importlib.util import find_spec

    is_startable = bool(sys.executable) and os.path.isfile(__file__)  # Not so inside an archive.
    return sys.platform == "linux" and is_startable and find_spec("_ctypes") is not None


def keeper_argv(leash_fd: int, limits: Sequence[int], argv: Sequence[str]) -> list[str]:
    """What starts a keeper of ``argv``.

    Args:
        leash_fd: a socket that it inherits: it ends the command when the other side is closed, and reports through it.
        limits: of the command and all it starts together: seconds of processor time, megabytes, processes.
    """
    # Without site and the environment's own wishes it starts in half the time, and nothing of a plan runs in it.
    return [sys.executable, "-I", "-S", __file__, str(leash_fd), *map(str, limits), *argv]


class _Limits:
    """What a command and all it starts may use together."""

    def __init__(self, cpu_s: int, memory_mb: int, processes: int) -> None:
        self._cpu_s = cpu_s
        self._memory_mb = memory_mb
        self._processes = processes

    def passed(self) -> str | None:
        """The limit that our descendants have passed, with what they used; None while they keep to all."""
        pids = descendants(self._processes + 1)
        if len(pids) > self._processes:
            return f"processes {len(pids)}"
        used = {pid: usage for pid in pids if (usage := _usage_of(pid))}
        cpu_s = _buried_cpu_s() + sum(cpu_s for cpu_s, _ in used.values())
        if cpu_s > self._cpu_s:
            return f"cpu_s {int(cpu_s) + 1}"
        if sum(resident for _, resident in used.values()) <= self._memory_mb * _MEGABYTE:
            return None
        # Pages that several processes share were counted several times; looking closer is dear, and seldom necessary.
        memory_mb = sum(_share_of_memory(pid, resident) for pid, (_, resident) in used.items()) // _MEGABYTE
        return f"memory_mb {memory_mb}" if memory_mb > self._memory_mb else None


class Keeper:
    """Runs one command; ``run`` returns the report when it has ended together with everything it started."""

    def __init__(self, leash_fd: int, limits: _Limits) -> None:
        self._limits = limits
        self._child = 0
        self._exit_code: int | None = None
        self._wake_fd = _wakes_of_children()
        self._happens = _poll_of(leash_fd, self._wake_fd)
        self._children_happen = _poll_of(self._wake_fd)

    def run(self, argv: Sequence[str], ignored: Iterable[int]) -> str:
        """Start ``argv`` with the default answer to all ``ignored`` signals, and stay until nothing of it is left."""
        with _worst_to_keep():
            try:
                environment = _environment_of_command()
                self._child = os.posix_spawnp(argv[0], list(argv), environment, setsid=True, setsigdef=ignored)
            except OSError as error:
                return f"{FAILED} {error.errno}"
        # Whatever it starts yields to us, and to the heartbeats of who started us, when there is too little processor.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PGRP, self._child, os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS)
        why = self._watch()
        if why is None:
            self._wait_until_alone(DRAIN_GRACE_S)
            why = f"{ENDED} {self._exit_code}"
        # What has passed a limit may be doubling while we talk to it politely.
        if not why.startswith(PASSED):
            self._wait_until_alone(TERM_GRACE_S, signal.SIGTERM)
        self._wait_until_alone(KILL_PATIENCE_S, signal.SIGKILL)
        return why

    def _watch(self) -> str | None:
        """Wait until the command has ended by itself, or must end: then why."""
        while True:
            self._bury()
            if self._exit_code is not None:
                return None
            began_s = time.monotonic()
            passed = self._limits.passed()
            if passed is not None:
                return f"{PASSED} {passed}"
            pause_s = max(_LOOK_S, _LOOK_SHARE * (time.monotonic() - began_s))
            if any(fd != self._wake_fd for fd, _ in self._happens.poll(pause_s * 1_000)):
                return LET_GO
            self._forget_wakes()

    def _wait_until_alone(self, patience_s: float, number: signal.Signals | None = None) -> None:
        """Send ``number`` to all descendants and wait until there are none; SIGKILL goes to the newly born as well."""
        deadline_s = time.monotonic() + patience_s
        told = False
        while not self._bury() and time.monotonic() < deadline_s:
            if number is not None and (number == signal.SIGKILL or not told):
                self._tell(number)
                told = True
            self._children_happen.poll(_END_LOOK_S * 1_000)
            self._forget_wakes()

    def _tell(self, number: signal.Signals) -> None:
        """Send a signal to all descendants, by their groups: the kernel gives it to a group as one, births included.

        They all live in sessions that began below us, so nobody else is in their groups.
        """
        if self._exit_code is None:
            # Before looking around, which takes long where processes double: most of them stay in this group.
            _signal_group(self._child, number)
        for group in {facts[2] for pid in descendants() if (facts := _stat(pid))}:
            _signal_group(int(group), number)

    def _bury(self) -> bool:
        """Take the exit status of all dead children; True when there is none left, and so no descendant at all.

        Whoever loses its parent becomes our child, so the kernel's "no children" is no matter of looking fast enough.
        """
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return False
                if pid == self._child:
                    self._exit_code = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            return True

    def _forget_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_fd, 1_024):
                pass


def descendants(most: int = sys.maxsize) -> list[int]:
    """All processes below this one, the nearest first; about as many as ``most`` are enough."""
    children_of = _listed_children if os.path.exists(f"/proc/self/task/{os.getpid()}/children") else _all_children()
    found: list[int] = []
    known = {os.getpid()}
    waiting = [os.getpid()]
    while waiting and len(found) < most:
        born = [pid for pid in children_of(waiting.pop()) if pid not in known]
        known.update(born)
        found += born
        waiting += born
    return found


def _listed_children(pid: int) -> list[int]:
    """The children of a process, whichever of its threads started them."""
    return [int(child) for thread in _threads(pid) for child in _text(f"/proc/{pid}/task/{thread}/children").split()]


def _threads(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(f"/proc/{pid}/task")
    return []


def _all_children() -> Callable[[int], Sequence[int]]:
    """The same where the kernel keeps no such lists (CONFIG_PROC_CHILDREN), by asking everybody for its parent."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (facts := _stat(int(name))):
            children.setdefault(int(facts[1]), []).append(int(name))
    return lambda pid: children.get(pid, ())


def _usage_of(pid: int) -> tuple[float, int] | None:
    """Seconds of processor time, of buried children as well, and resident bytes; None when the process has gone."""
    facts = _stat(pid)
    if not facts:
        return None
    ticks = sum(int(word) for word in facts[11:15])  # utime, stime, cutime, cstime.
    return ticks / os.sysconf("SC_CLK_TCK"), int(facts[21]) * os.sysconf("SC_PAGE_SIZE")


def _stat(pid: int) -> list[str]:
    """The fields of proc_pid_stat(5) from the third on, the state; a name may contain blanks and brackets."""
    return _text(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _share_of_memory(pid: int, resident: int) -> int:
    """Bytes, with each shared page divided among those that share it; all that is ``resident`` when it hides that."""
    words = _text(f"/proc/{pid}/smaps_rollup").partition("\nPss:")[2].split(None, 1)
    return int(words[0]) * 1_024 if words else resident


def _buried_cpu_s() -> float:
    """Of all descendants that have ended and whose exit status somebody took."""
    times = os.times()
    return times.children_user + times.children_system


def _text(file: str) -> str:
    """A file of /proc; empty when its process has gone, or belongs to somebody else."""
    with contextlib.suppress(OSError), open(file, errors="replace") as opened:
        return opened.read()
    return ""


def _signal_group(group: int, number: signal.Signals) -> None:
    if group not in (0, os.getpgrp()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)


@contextlib.contextmanager
def _worst_to_keep() -> Iterator[None]:
    """What is started meanwhile is the first to go when the machine has no memory left."""
    mine = _text(_OOM)
    _write_if_allowed(_OOM, _WORST_TO_KEEP)
    yield
    _write_if_allowed(_OOM, mine)


def _write_if_allowed(file: str, text: str) -> None:
    with contextlib.suppress(OSError), open(file, "w") as opened:
        opened.write(text)


def _environment_of_command() -> dict[bytes, bytes]:
    """Ours without the sign of a keeper, as we were given it: Python adds a locale of its own when there is none."""
    with open("/proc/self/environ", "rb") as file:
        entries = dict(entry.split(b"=", 1) for entry in file.read().split(b"\0") if b"=" in entry)
    mark = MARK_VARIABLE.encode()
    return {**entries, mark: entries.get(mark, b"").removesuffix(KEEPER_MARK.encode())}


def _adopt_orphans() -> None:
    # Lazy: whoever imports this module to start a keeper has no use for it.
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "this kernel gives no orphans back")


def _poll_of(*fds: int) -> select.poll:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return poll


def _wakes_of_children() -> int:
    """The end of a pipe at which something can be read when a child has ended."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    os.set_blocking(write_fd, False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    return read_fd


def _ignored_signals() -> Sequence[int]:
    """Ignore all that can be: a command that signals its parent must not lose its keeper by it."""
    kept = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
    ignored = [number for number in signal.valid_signals() if number not in kept]
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    return ignored


def main(words: Sequence[str]) -> None:
    """Keep the command that ``keeper_argv`` was asked for."""
    leash_fd, *limits = map(int, words[:4])
    os.set_inheritable(leash_fd, False)
    ignored = _ignored_signals()
    _adopt_orphans()
    report = Keeper(leash_fd, _Limits(*limits)).run(words[4:], ignored)
    with contextlib.suppress(OSError):  # Nobody is there any more who would want to know.
        os.write(leash_fd, report.encode())


if __name__ == "__main__":
    main(sys.argv[1:])
