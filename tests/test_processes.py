"""Commands are bounded in time and output, and nothing of theirs is left when they end; real processes throughout."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from autopack_mcp import processes
from autopack_mcp.processes import clean_environment, kill_leftovers, run_command
from tests.commands import ENVIRONMENT, PROMPT_S, STUBBORN, STUBBORN_CHILD, is_alive, our_zombies, pid_in, run

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def nothing_of_a_test_survives(tmp_path: Path) -> Iterator[None]:
    yield
    for file in tmp_path.glob("*.pid"):
        pid = int(file.read_text())
        if is_alive(pid):
            os.killpg(pid, signal.SIGKILL)


async def test_a_command_answers_with_its_exit_code_and_both_its_streams(tmp_path: Path) -> None:
    result = await run("echo out; echo err >&2; exit 3", tmp_path)

    assert (result.exit_code, result.output, result.errors) == (3, "out\nerr\n", "")
    assert not result.timed_out
    assert not result.output_truncated
    assert result.duration_s < PROMPT_S


async def test_the_errors_can_be_kept_apart(tmp_path: Path) -> None:
    result = await run("echo out; echo err >&2", tmp_path, errors_apart=True)

    assert (result.output, result.errors) == ("out\n", "err\n")


async def test_a_command_reads_its_input_to_the_end_and_nothing_otherwise(tmp_path: Path) -> None:
    big = b"0123456789" * 20_000

    assert (await run("wc -c", tmp_path, stdin=big)).output.strip() == "200000"
    assert (await run("wc -c", tmp_path)).output.strip() == "0"
    assert (await run("true", tmp_path, stdin=big)).exit_code == 0


async def test_a_command_ended_by_a_signal_has_a_negative_exit_code(tmp_path: Path) -> None:
    assert (await run("kill -9 $$", tmp_path)).exit_code == -9


async def test_a_program_that_does_not_exist_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await run_command(["no-such-program-here"], cwd=tmp_path, env=ENVIRONMENT, timeout_s=1)


@pytest.mark.parametrize("size", [99, 100, 101], ids=["below the cap", "at the cap", "above the cap"])
async def test_output_beyond_the_cap_keeps_head_and_tail_and_says_how_much_is_missing(
    tmp_path: Path, size: int
) -> None:
    (tmp_path / "text").write_text("".join(chr(ord("a") + i % 26) for i in range(size)))
    text = (tmp_path / "text").read_text()

    result = await run("cat text", tmp_path, output_cap_bytes=100)

    assert result.output_truncated is (size > 100)
    assert result.output == (text if size <= 100 else f"{text[:50]}\n… 1 bytes left out …\n{text[-50:]}")


async def test_a_long_output_keeps_exactly_its_two_ends(tmp_path: Path) -> None:
    result = await run("seq 1 10000", tmp_path, output_cap_bytes=1000)

    assert result.output.startswith("1\n2\n3\n")
    assert result.output.endswith("\n9999\n10000\n")
    assert len(result.output) < 1100


async def test_output_that_is_not_utf8_is_shown_with_replacements(tmp_path: Path) -> None:
    assert (await run(r"printf 'a\377b'", tmp_path)).output == "a\ufffdb"


async def test_a_flood_is_ended_and_does_not_grow(tmp_path: Path) -> None:
    result = await run("yes & yes", tmp_path, output_cap_bytes=2000)

    assert result.flooded
    assert result.exit_code is None
    assert not result.timed_out
    assert len(result.output) < 2200
    assert result.output.endswith("… ended: it wrote more than 512000 bytes …\n")


async def test_a_deadline_kills_the_tree_and_keeps_what_was_said(tmp_path: Path) -> None:
    result = await run("echo started; exec sleep 600", tmp_path, timeout_s=0.1)

    assert result.timed_out
    assert result.exit_code is None
    assert result.output == "started\n"


async def test_a_deadline_reaches_a_grandchild_that_left_the_group_and_ignores_signals(tmp_path: Path) -> None:
    result = await run(STUBBORN_CHILD + "sleep 600", tmp_path, timeout_s=0.6)

    assert result.timed_out
    assert not is_alive(await pid_in(tmp_path / "child.pid"))
    assert our_zombies() == []


async def test_cancelling_kills_the_whole_tree_in_well_under_a_second(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(run(STUBBORN_CHILD + "sleep 600", tmp_path, timeout_s=600))
    pid = await pid_in(tmp_path / "child.pid")

    asked = loop.time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert loop.time() - asked < 1
    assert not is_alive(pid)
    assert our_zombies() == []


async def test_cancelling_twice_still_waits_until_nothing_is_left(tmp_path: Path) -> None:
    task = asyncio.ensure_future(run(STUBBORN_CHILD + "sleep 600", tmp_path, timeout_s=600))
    pid = await pid_in(tmp_path / "child.pid")

    task.cancel()
    await asyncio.wait([task], timeout=0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not is_alive(pid)


async def test_a_cancelled_scope_also_waits_until_nothing_is_left(tmp_path: Path) -> None:
    pids: list[int] = []
    async with anyio.create_task_group() as group:
        group.start_soon(run, STUBBORN_CHILD + "sleep 600", tmp_path)
        pids.append(await pid_in(tmp_path / "child.pid"))
        group.cancel_scope.cancel()

    assert [pid for pid in pids if is_alive(pid)] == []


async def test_what_a_command_left_in_the_background_ends_with_it(tmp_path: Path) -> None:
    result = await run(STUBBORN_CHILD + "echo done", tmp_path)

    assert result.exit_code == 0
    # A shell between us and the child may live long enough to report its death.
    assert result.output.removesuffix("Killed\n") == "done\n"
    assert not is_alive(await pid_in(tmp_path / "child.pid"))


async def test_a_stopped_process_is_killed_too(tmp_path: Path) -> None:
    result = await run("echo $$ > stopped.pid; kill -STOP $$", tmp_path, timeout_s=0.1)

    assert result.timed_out
    assert not is_alive(await pid_in(tmp_path / "stopped.pid"))


async def test_a_polite_process_gets_the_chance_to_tidy_up(tmp_path: Path) -> None:
    # A shell runs its trap only after the command in the foreground; `wait` is interrupted at once.
    script = "trap 'echo tidied > tidied; exit' TERM; echo ready; sleep 600 & wait"

    await run(script, tmp_path, timeout_s=0.2)

    assert (tmp_path / "tidied").read_text() == "tidied\n"


async def test_leftovers_of_a_dead_process_are_found_by_their_label(tmp_path: Path) -> None:
    for name, label in {"mine": "run-1", "mine-too": "run-1", "other": "run-10"}.items():
        await run(f"{STUBBORN}stubborn {name}.pid", tmp_path, label=label, sweep=False)
    pids = {name: await pid_in(tmp_path / f"{name}.pid") for name in ("mine", "mine-too", "other")}

    assert await kill_leftovers("run-1") >= 2
    assert {name for name, pid in pids.items() if is_alive(pid)} == {"other"}
    assert await kill_leftovers("run-1") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="here ps and /proc can be compared")
async def test_processes_are_listed_alike_with_and_without_proc(tmp_path: Path) -> None:
    task = asyncio.ensure_future(run(STUBBORN_CHILD + "sleep 600", tmp_path, label="two-ways"))
    pid = await pid_in(tmp_path / "child.pid")

    columns = [word for name in ("pid", "ppid", "pgid", "stat", "command") for word in ("-o", f"{name}=")]
    from_proc = {seen.pid: seen for seen in processes._from_proc()}
    from_ps = {seen.pid: seen for seen in processes._from_ps(["ps", "axeww", *columns])}
    task.cancel()
    await asyncio.wait([task])

    assert ":two-ways/" in from_proc[pid].mark
    assert from_ps[pid] == from_proc[pid]


def test_a_command_gets_no_keys_and_nothing_of_ours() -> None:
    environ = {
        "PATH": "/bin", "HOME": "/home/ada", "LANG": "de_DE.UTF-8", "GIT_SSL_CAINFO": "/etc/ca.pem",
        "OPENAI_API_KEY": "k", "anthropic_api_key": "k", "GH_TOKEN": "k", "APP_SECRET": "k", "PGPASSWORD": "k",
        "AWS_SECRET_ACCESS_KEY": "k", "AUTOPACK_HOME": "/data", "SSH_AUTH_SOCK": "/run/agent", "GIT_DIR": "/other/.git",
        "GIT_CONFIG_GLOBAL": "/other", "ZHIPU": "k",
    }  # fmt: skip

    cleaned = clean_environment(environ, key_variables=["ZHIPU"])

    assert set(cleaned) - {"TERM", "NO_COLOR", "GIT_TERMINAL_PROMPT"} == {"PATH", "HOME", "LANG", "GIT_SSL_CAINFO"}
    assert clean_environment(cleaned) == cleaned
