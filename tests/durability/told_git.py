"""A git that says before and after each of its commands what it does, and waits until somebody has looked.

It is the real git behind a script that comes first on PATH, so nothing of ours is patched: where the product starts a
command, a crash may come. It owns the script and the two pipes; what happens at a command is the test's business.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

Moment = Callable[[Literal["before", "after"], str], None]
# Options that take the next word along; what then comes first is the command.
_WITH_A_WORD = {"-c", "-C", "--git-dir", "--work-tree"}
_SCRIPT = """#!/bin/sh
say() {{ printf '%s %s\\n' "$1" "$2" > '{said}'; read -r heard < '{heard}'; }}
words=$(printf '%s ' "$@" | tr '\\n' ' ')
say before "$words"
'{git}' "$@"
code=$?
say after "$words"
exit $code
"""


@contextmanager
def told_git(folder: Path, monkeypatch: pytest.MonkeyPatch, at: Moment) -> Iterator[None]:
    """While this is open, ``at`` is called around every git command of this process; git waits for it to return."""
    real = shutil.which("git")
    assert real is not None
    said, heard = folder / "said", folder / "heard"
    for pipe in (said, heard):
        os.mkfifo(pipe)
    script = folder / "git"
    script.write_text(_SCRIPT.format(said=said, heard=heard, git=real))
    script.chmod(0o755)
    # Read and write, so that neither side ever waits for the other to open it.
    listening, answering = os.open(said, os.O_RDWR | os.O_NONBLOCK), os.open(heard, os.O_RDWR)

    def on_word() -> None:
        for line in os.read(listening, 65_536).decode(errors="replace").splitlines():
            when, _, words = line.partition(" ")
            assert when in ("before", "after")
            at(when, _command(words.split()))  # type: ignore[arg-type]  # just checked
            os.write(answering, b"\n")

    loop = asyncio.get_running_loop()
    loop.add_reader(listening, on_word)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        try:
            yield
        finally:
            loop.remove_reader(listening)
            os.close(listening)
            os.close(answering)


def _command(words: list[str]) -> str:
    """``reset`` of ``-c core.x=y --git-dir=… reset --hard``."""
    takes_next = False
    for word in words:
        if takes_next:
            takes_next = False
        elif word in _WITH_A_WORD:
            takes_next = True
        elif not word.startswith("-"):
            return word
    return "git"
