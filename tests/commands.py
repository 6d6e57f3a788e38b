"""Shell commands for tests of what starts and ends them, and how their processes are looked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio

from autopack_mcp.processes import CommandResult, run_command

ENVIRONMENT: Mapping[str, str] = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
PROMPT_S = 5  # Generous for a loaded machine; every test that works takes milliseconds.

# Leaves its group, ignores every polite signal, holds standard output, and says that it is ready with its process id.
STUBBORN = """
stubborn() {
  setsid sh -c 'trap "" TERM INT HUP; echo $$ > "$1.part"; mv "$1.part" "$1"; while :; do sleep 600; done' sh "$1" &
}
"""
STUBBORN_CHILD = STUBBORN + "stubborn child.pid; while [ ! -e child.pid ]; do :; done\n"

# The same without our mark in its environment, and its parent has ended: only a keeper still knows whose it is.
HIDDEN_CHILD = """
(env -i PATH="$PATH" setsid sh -c '
  trap "" TERM INT HUP; echo $$ > child.part; mv child.part child.pid; while :; do sleep 600; done' &)
while [ ! -e child.pid ]; do :; done
"""


async def run(script: str, folder: Path, **options: Any) -> CommandResult:
    settings = {"cwd": folder, "env": ENVIRONMENT, "timeout_s": PROMPT_S, **options}
    return await run_command(["sh", "-c", script], **settings)


async def pid_in(file: Path) -> int:
    """The process id that a command of the test writes once it is ready."""
    with anyio.fail_after(PROMPT_S):
        while not file.exists():  # noqa: ASYNC110  # What is waited for is another process.
            await anyio.sleep(0.002)
    return int(file.read_text())


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def our_zombies() -> list[str]:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in children if not is_alive(int(pid))]
