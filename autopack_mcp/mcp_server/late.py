"""Summaries and control that are opened with the first question instead of before the first answer.

It owns the moment of opening, so that ``stdio`` greets a client as fast as an empty server would; what is opened is the
caller's. A failed opening (a newer database, a broken models.yaml) becomes the answer to the question that needed it,
and is tried again with the next one: a chat shows that, while it hides the log of a server that did not start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from autopack_mcp.control.control import Control
    from autopack_mcp.summary.summaries import Summaries


@dataclass(frozen=True, slots=True)
class Parts:
    """What a server asks, and how to give it back."""

    summaries: Summaries
    control: Control
    close: Callable[[], Awaitable[None]]


class LateParts:
    """Stands in for parts until somebody asks; ``summaries`` and ``control`` have the asynchronous methods of both."""

    def __init__(self, open_parts: Callable[[], Parts]) -> None:
        """
        Args:
            open_parts: may import and read files for as long as it needs; it is called on a thread.
        """
        self.summaries = cast("Summaries", _Late(self, "summaries"))
        self.control = cast("Control", _Late(self, "control"))
        self._open = open_parts
        self._parts: Parts | None = None
        self._lock = asyncio.Lock()

    async def opened(self) -> Parts:
        """The parts, opened once."""
        async with self._lock:
            if self._parts is None:
                self._parts = await asyncio.to_thread(self._open)
            return self._parts

    async def close(self) -> None:
        """Give back what was opened, if anything was."""
        if self._parts is not None:
            await self._parts.close()


class _Late:
    """One part: every method of it can be awaited here, and opens the parts first."""

    def __init__(self, late: LateParts, name: str) -> None:
        self._late = late
        self._name = name

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        async def ask(*args: Any, **kwargs: Any) -> Any:
            part = getattr(await self._late.opened(), self._name)
            return await getattr(part, method)(*args, **kwargs)

        return ask
