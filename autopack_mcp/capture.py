"""What goes into a command and comes out of it: input from a file, output through a pipe, the middle of it left out.

It owns pipes and how much of a stream is kept; it starts and ends nothing. ``processes`` gives each command its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import IO

_READ_BYTES = 65_536
_DRAIN_READS = 64  # Four times what Linux lets a pipe hold: somebody who still writes cannot keep us reading.


@contextlib.contextmanager
def standard_input(content: bytes | None) -> Iterator[int | IO[bytes]]:
    """A file, not a pipe: a command that never reads it cannot keep us waiting."""
    if content is None:
        yield subprocess.DEVNULL
        return
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        yield file


class Capture:
    """Reads one stream of a command as it comes and keeps its head and its tail.

    A pipe of our own rather than a file: a flood waits for us instead of filling the disk, a writer that outlives us
    gets SIGPIPE, and a grandchild that keeps the stream open holds nobody up, for we stop reading when the command has
    ended.
    """

    def __init__(self, cap_bytes: int, flood_bytes: int) -> None:
        self._half = max(cap_bytes // 2, 1)
        self._flood_bytes = flood_bytes
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0

    def __enter__(self) -> Capture:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[object] = self._loop.create_future()
        self.flooded: asyncio.Future[object] = self._loop.create_future()
        self._read_fd, self.write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        self._loop.add_reader(self._read_fd, self._read_some)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()
        self.close_theirs()
        os.close(self._read_fd)
        self.flooded.cancel()

    def close_theirs(self) -> None:
        """The command has its own copy now; while we hold one too, the stream never ends."""
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def drain(self) -> None:
        """Take what still lies in the pipe after the command has ended."""
        for _ in range(_DRAIN_READS):
            if self.ended.done() or not self._read_some():
                return

    @property
    def is_truncated(self) -> bool:
        """True when the middle is missing."""
        return self._total > 2 * self._half

    def text(self) -> str:
        """What was kept, with a line in the middle that says how many bytes are missing."""
        tail = self._tail[-self._half :]
        if not self.is_truncated:
            return (self._head + tail).decode("utf-8", "replace")
        left_out = self._total - len(self._head) - len(tail)
        gap = f"\n… {left_out} bytes left out …\n"
        ending = f"\n… ended: it wrote more than {self._flood_bytes} bytes …\n" if self.flooded.done() else ""
        return self._head.decode("utf-8", "replace") + gap + tail.decode("utf-8", "replace") + ending

    def _read_some(self) -> bool:
        try:
            chunk = os.read(self._read_fd, _READ_BYTES)
        except BlockingIOError:
            return False
        self._keep(chunk)
        if not chunk or self._total > self._flood_bytes:
            self._stop()
        return bool(chunk)

    def _keep(self, chunk: bytes) -> None:
        self._total += len(chunk)
        room = self._half - len(self._head)
        self._head += chunk[:room]
        self._tail += chunk[room:]
        if len(self._tail) > 2 * self._half + _READ_BYTES:  # Seldom, so that keeping the tail costs no copying.
            del self._tail[: -self._half]

    def _stop(self) -> None:
        self._loop.remove_reader(self._read_fd)
        if not self.ended.done():
            self.ended.set_result(None)
        if self._total > self._flood_bytes and not self.flooded.done():
            self.flooded.set_result(None)
