"""A database that tells somebody before each read and around each write: where a crash or another process may step in.

It changes nothing by itself; what happens at a moment is the test's business.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from autopack_mcp.database.engine import BUSY_TIMEOUT_S, Database

Operation = Callable[..., Any]
Moment = Callable[[Operation, tuple[Any, ...]], Awaitable[None]]


async def _nothing(operation: Operation, arguments: tuple[Any, ...]) -> None:
    pass


class WatchedDatabase(Database):
    """Like the database at ``url``, with its own connections, as another process has them."""

    def __init__(
        self,
        url: str,
        *,
        before_read: Moment = _nothing,
        before: Moment = _nothing,
        after: Moment = _nothing,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        super().__init__(url, busy_timeout_s=busy_timeout_s)
        self._before_read = before_read
        self._before = before
        self._after = after

    async def read(self, query: Operation, *args: Any, **kwargs: Any) -> Any:
        await self._before_read(query, args)
        return await super().read(query, *args, **kwargs)

    async def write(self, operation: Operation, *args: Any, **kwargs: Any) -> Any:
        await self._before(operation, args)
        result = await super().write(operation, *args, **kwargs)
        await self._after(operation, args)
        return result


@asynccontextmanager
async def watching(url: str, *, before: Moment = _nothing, after: Moment = _nothing) -> AsyncIterator[WatchedDatabase]:
    """A watched database, closed at the end, however that comes."""
    database = WatchedDatabase(url, before=before, after=after)
    try:
        yield database
    finally:
        await database.close()


def name_of(operation: Operation, arguments: tuple[Any, ...]) -> str:
    """What a write of a run's driver or of its calls is about, in a few words; "" for the supervisor's own."""
    match operation.__name__:
        case "claim":
            return "claimed"
        case "move_run":
            return {"start": "started", "boundary": "paused"}[arguments[1]]
        case "begin_attempt":
            return f"{arguments[2].phase_id} begun"
        case "reserve":
            return f"{arguments[0].scope.phase_id} {arguments[0].scope.role} reserved"
        case "_settle_delivered":
            return f"{arguments[0].phase_id} {arguments[0].role} settled"
        case "write_outcome":
            outcome = type(arguments[2]).__name__.removeprefix("Was").lower()
            return outcome if outcome == "prepared" else f"{arguments[1].phase_id} {outcome}"
        case "heed_firings":
            return "heeded"
        case "cancel_run":
            return "cancelled"
        case "close_run":
            return "closed"
        case _:
            return ""
