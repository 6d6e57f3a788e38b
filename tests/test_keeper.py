"""What a keeper adds to a command: nothing of it escapes, it ends with us, and it keeps to its limits."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from autopack_mcp import keeper
from autopack_mcp.processes import CommandLimits, PassedLimit, run_command
from tests.commands import ENVIRONMENT, HIDDEN_CHILD, PROMPT_S, STUBBORN_CHILD, is_alive, our_zombies, pid_in, run

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not keeper.is_possible(), reason="keepers need Linux and ctypes"),
]

AMPLE = CommandLimits(cpu_s=60, memory_mb=2_000, output_mb=10, processes=100)
ROOT = Path(__file__).parents[1]
PYTHON = f'"{sys.executable}" -S -c'

# Runs one command in a folder, for somebody to kill it meanwhile.
COMMANDER = """
import asyncio, sys
from tests.commands import run
from tests.test_keeper import AMPLE
from pathlib import Path
asyncio.run(run(sys.argv[1], Path(sys.argv[2]), timeout_s=600, limits=AMPLE))
"""
SPINNING = "while :; do :; done"
MANY_SHORT_ONES = "while :; do sh -c 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done'; done"
HELD_TOGETHER = (
    f"for i in 1 2 3; do {PYTHON} 'import time; held = bytes([1]) * 40_000_000; time.sleep(600)' & done; wait"
)
SHARED = f"""{PYTHON} '
import os, time
held = bytes([1]) * 60_000_000
for _ in range(4):
    if os.fork() == 0:
        time.sleep(0.4)
        os._exit(0)
for _ in range(4):
    os.wait()
'"""
MANY_AT_ONCE = "i=0; while [ $i -lt 40 ]; do sleep 600 & i=$((i+1)); done; wait"
# Each starts two more, six times over: as fast as a fork bomb, and 127 at the most whatever becomes of the limit.
DOUBLING = "double() { if [ $1 -gt 0 ]; then double $(($1 - 1)) & double $(($1 - 1)) & fi; sleep 60; }; double 6"


@pytest.fixture(autouse=True)
def nothing_of_a_test_survives(tmp_path: Path) -> Iterator[None]:
    yield
    for file in tmp_path.glob("*.pid"):
        pid = int(file.read_text())
        if is_alive(pid):
            os.killpg(pid, signal.SIGKILL)


# Its end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "exit_code", "output"),
    [
        ("echo out; echo err >&2", 0, "out\nerr\n"),
        ("exit 3", 3, ""),
        ("kill -9 $$", -9, ""),
        ("kill -TERM 0; kill -HUP $PPID; kill -USR1 $PPID; kill -TERM $PPID; echo on", -15, ""),
        ("trap '' TERM; kill -TERM 0; kill -HUP $PPID; kill -USR1 $PPID; kill -TERM $PPID; echo on", 0, "on\n"),
        ("yes | head -n 1", 0, "y\n"),
    ],
    ids=["green", "red", "killed", "signals its group", "signals its parent", "is told of a closed pipe"],
)
async def test_a_kept_command_ends_as_it_would_alone(tmp_path: Path, script: str, exit_code: int, output: str) -> None:
    result = await run(script, tmp_path, limits=AMPLE)

    assert (result.exit_code, result.output, result.passed) == (exit_code, output, None)


async def test_a_kept_command_has_exactly_the_environment_that_it_was_given(tmp_path: Path) -> None:
    settings = {"PATH": os.environ["PATH"], "ODD": "a=b\nc\udcff"}

    kept, alone = [
        set((await run("env -0 | tr -d '\\n' | tr '\\0' '\\n'", tmp_path, env=settings, **options)).output.splitlines())
        for options in ({"limits": AMPLE}, {})
    ]

    marks = {line for line in kept | alone if line.startswith(keeper.MARK_VARIABLE)}
    assert kept - marks == alone - marks
    assert not any(mark.endswith(keeper.KEEPER_MARK) for mark in marks)


async def test_a_kept_program_that_does_not_exist_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program-here"):
        await run_command(["no-such-program-here"], cwd=tmp_path, env=ENVIRONMENT, timeout_s=PROMPT_S, limits=AMPLE)


async def test_a_keeper_that_cannot_start_is_no_end_of_a_command(tmp_path: Path) -> None:
    # A loader that a broken installation names is missing; so it is for whoever starts Python.
    broken = {**ENVIRONMENT, "PYTHONHOME": str(tmp_path)}
    assert (await run("true", tmp_path, env=broken, limits=AMPLE)).exit_code == 0  # Python's own wishes do not count.

    with pytest.raises(ChildProcessError, match="should keep 'sh' ended with 1"):
        await run("true", tmp_path, limits=replace(AMPLE, cpu_s="much"))  # type: ignore[arg-type]


# Nothing escapes ------------------------------------------------------------------------------------------------


async def test_cancelling_reaches_whoever_has_shed_its_mark_its_group_and_its_parent(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(run(HIDDEN_CHILD + "sleep 600", tmp_path, timeout_s=600, limits=AMPLE))
    pid = await pid_in(tmp_path / "child.pid")

    asked = loop.time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert loop.time() - asked < 1
    assert not is_alive(pid)
    assert our_zombies() == []


@pytest.mark.parametrize("child", [STUBBORN_CHILD, HIDDEN_CHILD], ids=["marked", "hidden"])
@pytest.mark.parametrize(("last", "exit_code"), [("exit 3", 3), ("sleep 600", None)], ids=["end", "deadline"])
async def test_what_a_command_left_behind_ends_with_it(
    tmp_path: Path, child: str, last: str, exit_code: int | None
) -> None:
    result = await run(child + last, tmp_path, timeout_s=1, limits=AMPLE)

    assert (result.exit_code, result.timed_out) == (exit_code, exit_code is None)
    assert not is_alive(await pid_in(tmp_path / "child.pid"))


async def test_a_command_does_not_outlive_us(tmp_path: Path) -> None:
    script = HIDDEN_CHILD + "echo $$ > sh.part; mv sh.part sh.pid; sleep 600"
    async with await anyio.open_process(
        [sys.executable, "-c", COMMANDER, script, str(tmp_path)], cwd=ROOT
    ) as commander:
        pids = [await pid_in(tmp_path / name) for name in ("child.pid", "sh.pid")]
        commander.kill()

    with anyio.fail_after(PROMPT_S):
        while any(map(is_alive, pids)):  # noqa: ASYNC110  # What is waited for is other processes.
            await anyio.sleep(0.01)


async def test_a_reader_of_the_output_may_finish_after_the_command(tmp_path: Path) -> None:
    script = "mkfifo pipe; (cat pipe; sleep 0.1; echo read) & exec > pipe; echo written"

    assert (await run(script, tmp_path, limits=AMPLE)).output == "written\nread\n"


@pytest.mark.parametrize("signal_name", ["KILL", "STOP"])
async def test_without_its_keeper_a_command_is_still_ended_by_its_marks(tmp_path: Path, signal_name: str) -> None:
    loop = asyncio.get_running_loop()
    script = STUBBORN_CHILD + f"echo $$ > sh.part; mv sh.part sh.pid; kill -{signal_name} $PPID; sleep 600"
    asked = loop.time()

    result = await run(script, tmp_path, timeout_s=1, limits=AMPLE)

    assert result.exit_code == (-9 if signal_name == "KILL" else None)
    assert loop.time() - asked < PROMPT_S
    assert [pid for name in ("child.pid", "sh.pid") if is_alive(pid := await pid_in(tmp_path / name))] == []


# Its limits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "limits", "name"),
    [
        pytest.param(SPINNING, {"cpu_s": 1}, "cpu_s", id="one process that computes"),
        pytest.param(MANY_SHORT_ONES, {"cpu_s": 1}, "cpu_s", id="many that have ended"),
        pytest.param(HELD_TOGETHER, {"memory_mb": 100}, "memory_mb", id="memory of several together"),
        pytest.param(MANY_AT_ONCE, {"processes": 20}, "processes", id="processes"),
        pytest.param(DOUBLING, {"processes": 50}, "processes", id="processes that double"),
        pytest.param("yes", {"output_mb": 1}, "output_mb", id="output"),
    ],
)
async def test_a_command_that_passes_a_limit_is_ended_and_the_limit_named(
    tmp_path: Path, script: str, limits: dict[str, int], name: str
) -> None:
    result = await run(HIDDEN_CHILD + script, tmp_path, timeout_s=30, limits=replace(AMPLE, **limits))

    assert result.passed is not None
    assert (result.passed.name, result.exit_code, result.timed_out) == (name, None, False)
    assert result.passed.used > limits[name]
    assert not is_alive(await pid_in(tmp_path / "child.pid"))


async def test_memory_that_processes_share_counts_once(tmp_path: Path) -> None:
    # Five processes with 60 MB each to look at, and one time 60 MB to hold.
    result = await run(SHARED, tmp_path, limits=replace(AMPLE, memory_mb=150))

    assert (result.exit_code, result.passed) == (0, None)


def test_what_hides_whom_it_shares_memory_with_counts_in_full() -> None:
    nobody = 2**31 - 1

    assert keeper._share_of_memory(nobody, 7) == 7
    assert keeper._share_of_memory(os.getpid(), 7) > 1_000_000


async def test_a_deadline_is_told_apart_from_a_limit(tmp_path: Path) -> None:
    result = await run("sleep 600", tmp_path, timeout_s=0.2, limits=AMPLE)

    assert (result.timed_out, result.passed) == (True, None)


async def test_a_limit_is_told_apart_from_a_flood_that_nobody_limited(tmp_path: Path) -> None:
    limited = await run("yes", tmp_path, output_cap_bytes=2_000, limits=replace(AMPLE, output_mb=1))

    assert limited.passed == PassedLimit("output_mb", 2)
    assert limited.output.endswith("… ended: it wrote more than 1000000 bytes …\n")
    assert (await run("yes", tmp_path, output_cap_bytes=2_000)).passed is None


async def test_when_the_machine_has_no_memory_left_the_command_goes_first(tmp_path: Path) -> None:
    mine = Path("/proc/self/oom_score_adj").read_text().strip()
    # The keeper takes its own word back once the command has begun.
    script = f"cat /proc/self/oom_score_adj; until grep -qx -e {mine} /proc/$PPID/oom_score_adj; do :; done"

    result = await run(script, tmp_path, limits=AMPLE)

    assert (result.exit_code, result.output) == (0, "1000\n")


def test_descendants_are_found_with_and_without_the_kernels_lists() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 600 & sleep 600 & echo ready; wait"], stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        shell.stdout.readline()
        by_list, by_asking_all = keeper._listed_children(shell.pid), keeper._all_children()(shell.pid)
        found = keeper.descendants()
        for pid in (*by_list, shell.pid):
            os.kill(pid, signal.SIGKILL)

    assert len(by_list) == 2
    assert sorted(by_list) == sorted(by_asking_all)
    assert {shell.pid, *by_list} <= set(found)
