"""What the operations of one transaction have read together, worked out, and not written yet.

Of 32 bookings in a transaction most move the same few counters and sums; kept in memory, each row is read with all the
others and written once, not 32 times (benchmarks/ledger.py). It owns *when* that happens: what operations foresee to
need is read at the first need of any of them; what they moved is written before the commit, and before any operation
that does not take part and might read those rows. What is kept is its keepers' business: counters, rollups, events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection

_open: dict[Connection, Batch] = {}  # The batch of each connection that has one, for the length of one transaction.


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
        try:
            return self._keepers[kind]  # type: ignore[return-value]  # it was made by this very kind
        except KeyError:
            made = self._keepers[kind] = kind()
            return made

    def flush(self) -> None:
        """Write everything that was kept."""
        for keeper in self._keepers.values():
            keeper.flush(self._connection)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """For an operation that does not take part: it finds every row written, and writes its own itself."""
        self.flush()
        del _open[self._connection]
        yield
        _open[self._connection] = self


# Called with the batch and the arguments of its operation, before any operation of the batch runs.
Foresight = Callable[..., None]


def takes_part(foresee: Foresight) -> Callable[[F], F]:
    """Mark an operation that reads and moves the rows of keepers only through them.

    Called by itself it is a batch of one. ``foresee`` tells the keepers what the operation will ask them for, so that
    what the operations of a batch need is read together; it reads nothing itself.
    """

    def marked(operation: F) -> F:
        @wraps(operation)
        def in_batch(connection: Connection, *args: Any, **kwargs: Any) -> Any:
            if connection in _open:
                return operation(connection, *args, **kwargs)
            with batch_on(connection) as batch:
                foresee(batch, *args, **kwargs)
                return operation(connection, *args, **kwargs)

        in_batch.foresight = foresee  # type: ignore[attr-defined]  # functions carry what is said of them
        return in_batch  # type: ignore[return-value]  # it takes and returns the same

    return marked


def nothing(_batch: Batch, *_arguments: object, **_named: object) -> None:
    """The foresight of an operation that finds out only on its way what it needs."""


def foresight_of(operation: Callable[..., Any]) -> Foresight | None:
    """How an operation that is marked by ``takes_part`` foresees what it needs; None for any other."""
    found: Foresight | None = getattr(operation, "foresight", None)
    return found


@contextmanager
def batch_on(connection: Connection) -> Iterator[Batch]:
    """Keep rows in memory until the block ends well; whatever goes wrong, the next transaction starts without them."""
    batch = _open[connection] = Batch(connection)
    try:
        yield batch
        batch.flush()
    finally:
        _open.pop(connection, None)


def batch_of(connection: Connection) -> Batch | None:
    """The batch that this connection's transaction belongs to; None where every row is written at once."""
    return _open.get(connection)


def kept(connection: Connection, kind: type[K]) -> K:
    """The keeper of a kind in the batch of this connection; only for what an operation that takes part calls."""
    try:
        return _open[connection].keeper(kind)
    except KeyError:
        raise AssertionError("whoever moves kept rows is marked by takes_part") from None


def flush_batch(connection: Connection) -> None:
    """Write what is kept, for whoever is about to read these rows with SQL."""
    batch = batch_of(connection)
    if batch is not None:
        batch.flush()
