"""The one thread of a process that writes: it drains what waits into one transaction and answers after the commit.

It owns the process's only writing connection (contract 28) and the grouping of commits (docs/accounting.md); what the
operations mean it does not know. ``Database.write`` is its only caller.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, get_running_loop
from asyncio import Future as AsyncioFuture
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from autopack_mcp.database.batch import Batch, batch_on
from autopack_mcp.errors import DatabaseError

T = TypeVar("T")

BATCH_LIMIT = 256  # Operations per transaction: enough to amortize one fsync, few enough to answer within milliseconds.
# At most so long a batch waits for the callers that the last one has just answered: they are about to ask again, and
# one transaction then takes all 32 of them instead of the first alone, then the rest (benchmarks/ledger.py).
LINGER_S = 0.001
RETRY_LIMIT = 5  # Serialization failures of PostgreSQL are retried at most this often.


class _Waiting(NamedTuple):
    """An operation, what it foresees to need when it takes part in the batch (see ``batch``), and whom to answer: a
    thread (``loop`` is None) or a task of an event loop.
    """

    operation: Callable[[Connection], Any]
    foresee: Callable[[Batch], None] | None
    answer: Future[Any] | AsyncioFuture[Any]
    loop: AbstractEventLoop | None = None


_Answered = tuple[_Waiting, Any, BaseException | None]


class _NobodyToBlameError(Exception):
    """The transaction could not begin, or nobody answered its commit: no operation is to blame, and none is repeated.

    After an unanswered commit the server may have kept everything; repeating it could do everything twice.
    """

    def __init__(self, reason: DBAPIError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Writer:
    """Runs operations in order, many to a transaction; starts its thread at the first one.

    ``keeps_connection`` keeps one connection out of the pool: right for a file, while a server that was restarted wants
    to be asked for a sign of life before each transaction.
    """

    def __init__(
        self, engine: Engine, *, translate: Callable[[DBAPIError], DatabaseError], keeps_connection: bool = False
    ) -> None:
        self._engine = engine
        self._translate = translate
        self._keeps_connection = keeps_connection
        self._connection: Connection | None = None
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._lock = Lock()
        self._thread: Thread | None = None
        self._is_closed = False
        self._has_resumed = Event()  # Whoever was answered in company has had the chance to ask again.
        self._has_resumed.set()

    def submit(
        self, operation: Callable[[Connection], T], *, foresee: Callable[[Batch], None] | None = None
    ) -> Future[T]:
        """Queue an operation; the future is done after the commit, or failed with nothing of the operation written.

        The future cannot be cancelled: what was asked to be written is written. ``foresee`` is given by an operation
        that reads and moves kept rows only through their keepers.

        Raises:
            DatabaseError: the database is closed.
        """
        answer: Future[T] = Future()
        # From here on ``cancel`` has no effect: a caller that gives up neither undoes the write nor trips the writer.
        answer.set_running_or_notify_cancel()
        self._enqueue(_Waiting(operation, foresee, answer))
        return answer

    def submit_from_loop(
        self, operation: Callable[[Connection], T], *, foresee: Callable[[Batch], None] | None = None
    ) -> AsyncioFuture[T]:
        """The same for the running event loop, which is woken once for a whole batch and not for each answer."""
        loop = get_running_loop()
        answer: AsyncioFuture[T] = loop.create_future()
        self._enqueue(_Waiting(operation, foresee, answer, loop))
        return answer

    def _enqueue(self, waiting: _Waiting) -> None:
        with self._lock:
            if self._is_closed:
                raise DatabaseError("The database is closed.", hint="Open it again before writing.")
            if self._thread is None:
                self._thread = Thread(target=self._run, name="database-writer", daemon=True)
                self._thread.start()
            self._queue.put(waiting)

    def close(self) -> None:
        """Write what is queued, then give the connection back; safe to call twice."""
        with self._lock:
            if self._thread is not None and not self._is_closed:
                self._queue.put(None)
            self._is_closed = True
        if self._thread is not None:
            self._thread.join()
        self._give_back()
        self._engine.dispose()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            self._has_resumed.wait(LINGER_S)
            batch, is_last = self._drain(first)
            self._commit(batch)
            if is_last:
                return

    def _drain(self, first: _Waiting) -> tuple[list[_Waiting], bool]:
        batch = [first]
        while len(batch) < BATCH_LIMIT:
            try:
                waiting = self._queue.get_nowait()
            except Empty:
                break
            if waiting is None:
                return batch, True
            batch.append(waiting)
        return batch, False

    def _commit(self, batch: list[_Waiting]) -> None:
        try:
            results = self._in_one_transaction(batch)
        except _NobodyToBlameError as error:
            # Those that waited for a lock all waited for the same; each alone would wait a batch of timeouts in all.
            self._answer([(waiting, None, self._translated(error.reason)) for waiting in batch])
        except BaseException as error:  # noqa: BLE001  Whatever an operation raises is its caller's; this thread lives on.
            if len(batch) == 1:
                self._answer([(batch[0], None, self._translated(error))])
                return
            # One of them failed and took the transaction along; alone, each stands or falls by itself.
            for waiting in batch:
                self._commit([waiting])
        else:
            self._answer([(waiting, result, None) for waiting, result in zip(batch, results, strict=True)])

    def _answer(self, answered: Sequence[_Answered]) -> None:
        """Hand every caller its result or its error; each event loop among them is woken once."""
        by_loop: dict[AbstractEventLoop, list[_Answered]] = {}
        for one in answered:
            loop = one[0].loop
            if loop is None:
                _hand_over([one])
            else:
                by_loop.setdefault(loop, []).append(one)
        for loop, theirs in by_loop.items():
            self._wake(loop, theirs)

    def _wake(self, loop: AbstractEventLoop, answered: Sequence[_Answered]) -> None:
        has_company = len(answered) > 1
        if has_company:
            self._has_resumed.clear()

        def in_loop() -> None:
            _hand_over(answered)
            if has_company:
                # Behind the tasks that were woken just now.
                loop.call_soon(self._has_resumed.set)

        try:
            loop.call_soon_threadsafe(in_loop)
        except RuntimeError:  # The loop was closed while it waited: nobody is left to be told.
            self._has_resumed.set()

    def _translated(self, error: BaseException) -> BaseException:
        return self._translate(error) if isinstance(error, DBAPIError) else error

    def _in_one_transaction(self, batch: list[_Waiting]) -> list[Any]:
        for remaining in reversed(range(RETRY_LIMIT)):
            has_begun = has_run = False
            try:
                with self._transaction() as connection:
                    has_begun = True
                    results = _results(connection, batch)
                    has_run = True
                return results
            except DBAPIError as error:
                if not has_begun or (has_run and error.connection_invalidated):
                    raise _NobodyToBlameError(error) from error
                if not (remaining and _is_serialization_failure(error)):
                    raise
        raise AssertionError("unreachable: the last try either returned or raised")

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        if not self._keeps_connection:
            with self._engine.begin() as connection:
                yield connection
            return
        if self._connection is None:
            self._connection = self._engine.connect()
        try:
            with self._connection.begin():
                yield self._connection
        except DBAPIError:
            self._give_back()  # What failed once is not used again.
            raise

    def _give_back(self) -> None:
        kept, self._connection = self._connection, None
        if kept is not None:
            kept.close()


def _results(connection: Connection, batch: list[_Waiting]) -> list[Any]:
    if len(batch) == 1:
        return [batch[0].operation(connection)]
    results = []
    with batch_on(connection) as kept:
        for waiting in batch:
            if waiting.foresee is not None:
                waiting.foresee(kept)
        for waiting in batch:
            if waiting.foresee is not None:
                results.append(waiting.operation(connection))
            else:
                with kept.suspended():
                    results.append(waiting.operation(connection))
    return results


def _hand_over(answered: Sequence[_Answered]) -> None:
    for waiting, result, error in answered:
        if waiting.answer.done():
            continue  # A task that was cancelled meanwhile; its write stands all the same.
        if error is None:
            waiting.answer.set_result(result)
        else:
            waiting.answer.set_exception(error)


def _is_serialization_failure(error: DBAPIError) -> bool:
    # SQLSTATE class 40: the server rolled back only because of a neighbour.
    return str(getattr(error.orig, "sqlstate", None) or "").startswith("40")
