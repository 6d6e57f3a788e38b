"""What the operations of one transaction have worked out and not written yet.

Of 32 bookings in a transaction most move the same few counters and sums; kept in memory, each row is written once and
not 32 times (benchmarks/ledger.py). It owns *when* they are written: before the commit, and before any operation that
does not take part and might read those rows. What is kept is its keepers' business: the counters and the rollups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection

_KEY = "autopack_batch"  # Where a connection carries its batch, for the length of one transaction.


class Keeper(Protocol):
    """Rows in memory. ``flush`` writes what has changed and forgets everything."""

    def flush(self, connection: Connection) -> None:
        """Write what has changed, and forget what was read."""
        ...


K = TypeVar("K", bound=Keeper)
F = TypeVar("F", bound=Callable[..., Any])


class Batch:
    """The keepers of one transaction, made when they are first asked for."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._keepers: dict[type[Any], Keeper] = {}

    def keeper(self, kind: type[K]) -> K:
        """The only one of its kind in this transaction."""
        found = self._keepers.get(kind)
        if found is None:
            found = self._keepers[kind] = kind()
        return found  # type: ignore[return-value]  # it was made by this very kind

    def flush(self) -> None:
        """Write everything that was kept."""
        for keeper in self._keepers.values():
            keeper.flush(self._connection)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """For an operation that does not take part: it finds every row written, and writes its own itself."""
        self.flush()
        del self._connection.info[_KEY]
        yield
        self._connection.info[_KEY] = self


def takes_part(operation: F) -> F:
    """Mark an operation that reads and moves the rows of keepers only through them."""
    operation.takes_part_in_batch = True  # type: ignore[attr-defined]  # functions carry what is said of them
    return operation


def does_take_part(operation: Callable[..., Any]) -> bool:
    """Whether an operation is marked by ``takes_part``."""
    return getattr(operation, "takes_part_in_batch", False)


@contextmanager
def batch_on(connection: Connection) -> Iterator[Batch]:
    """Keep rows in memory until the block ends well; whatever goes wrong, the next transaction starts without them."""
    batch = connection.info[_KEY] = Batch(connection)
    try:
        yield batch
        batch.flush()
    finally:
        connection.info.pop(_KEY, None)


def batch_of(connection: Connection) -> Batch | None:
    """The batch that this connection's transaction belongs to; None where every row is written at once."""
    found: Batch | None = connection.info.get(_KEY)
    return found


def flush_batch(connection: Connection) -> None:
    """Write what is kept, for whoever is about to read these rows with SQL."""
    batch = batch_of(connection)
    if batch is not None:
        batch.flush()
