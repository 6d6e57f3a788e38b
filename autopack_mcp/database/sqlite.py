"""SQLite underneath a ``Database``: its pragmas, how its transactions begin, and when its log is folded into the file.

It owns what only SQLite has, its complaints included, and knows no table; ``engine`` is its only caller.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing, suppress

from sqlalchemy import URL, Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError

from autopack_mcp.database.bare import BareStatement
from autopack_mcp.errors import DatabaseBusy, DatabaseError, DatabaseUnusable

WAL_RETRY_S = 0.01  # How often a new file is asked again for its journal mode while another process creates it.
LOG_LIMIT_BYTES = 4 * 1024 * 1024  # SQLite's own measure: a thousand pages of 4 KiB are folded in some milliseconds.
FOLD_WAIT_S = 1.0  # Transactions take milliseconds; whoever finds no gap in a second folds at a later one.

_BEGIN_TO_WRITE = BareStatement(lambda _: text("BEGIN IMMEDIATE"))
_BEGIN_TO_READ = BareStatement(lambda _: text("BEGIN"))

# The releases that mend the "WAL-reset" fault (sqlite.org/wal.html): the newest, and two of older lines.
_MENDED = ((3, 51, 3), (3, 50, 7), (3, 44, 6))

_BUSY = ("database is locked", "database table is locked")
_MEND_FOLDER = "Nothing was lost; mend the folder that AUTOPACK_HOME names."
_REPLACE_FILE = "Nothing was changed; restore a backup, move the file away, or point AUTOPACK_HOME at another folder."
_UNUSABLE: Mapping[str, tuple[str, str]] = {
    "readonly database": ("The database is read-only.", _MEND_FOLDER),
    "disk is full": ("The disk is full.", _MEND_FOLDER),
    "disk i/o error": ("The disk reports an error.", _MEND_FOLDER),
    "unable to open database file": ("The database file cannot be opened.", _MEND_FOLDER),
    "file is not a database": ("The file is not a database.", _REPLACE_FILE),
    "disk image is malformed": ("The database file is damaged.", _REPLACE_FILE),
}


def checked(url: URL, hint: str) -> URL:
    """The address, if it is one of a file.

    Raises:
        DatabaseUnusable: it names no file.
    """
    if url.database in (None, "", ":memory:"):
        # Each connection would see an empty database of its own: what the writer writes, no reader would find.
        raise DatabaseUnusable("The database must be a file; it cannot live in memory.", hint=hint)
    return url


def prepare(engine: Engine, *, writes: bool, busy_timeout_s: float) -> None:
    """Make every connection of ``engine`` one that writes durably, or one that cannot write at all."""
    log = _Log(min(FOLD_WAIT_S, busy_timeout_s))
    # Bare, because every call waits for two of these (benchmarks/llm_service.py).
    begin = _BEGIN_TO_WRITE if writes else _BEGIN_TO_READ

    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, _record: object) -> None:
        # The driver's own implicit BEGIN comes too late for BEGIN IMMEDIATE; from here on we begin ourselves.
        connection.isolation_level = None
        cursor = connection.cursor()
        if writes:
            _use_wal(cursor, busy_timeout_s)
            # FULL, not NORMAL: a reservation must be on disk before the request leaves (docs/accounting.md).
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.execute("PRAGMA foreign_keys = ON")
            log.follow(cursor)
        else:
            cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        if writes:
            log.fold_when_long(connection)
        # IMMEDIATE takes the write lock up front, so a read inside the transaction can never be stale at its write.
        begin.run(connection, {})


def _use_wal(cursor: sqlite3.Cursor, busy_timeout_s: float) -> None:
    # SQLite does not wait here: of two processes that create one file at once, the second is told "locked" immediately.
    deadline = time.monotonic() + busy_timeout_s
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not _is_busy(str(error)) or time.monotonic() >= deadline:
                raise
            time.sleep(WAL_RETRY_S)
        else:
            return


class _Log:
    """The write-ahead log of one file. Whoever is about to write folds it into the file when it has become long.

    Not SQLite's own way, which folds after a commit while others write: until 3.51.3 that can, very rarely, damage the
    file (sqlite.org/wal.html, "The WAL-Reset Bug"). The fault needs a commit during a fold, so we fold only while we
    hold the write lock, and no process of ours can commit. The last connection to close folds as well, alone by nature.
    """

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._file = ""
        self._again_at_bytes = LOG_LIMIT_BYTES

    def follow(self, cursor: sqlite3.Cursor) -> None:
        """Take the log of this connection's file out of SQLite's hands."""
        self._file = cursor.execute("PRAGMA database_list").fetchone()[2]
        cursor.execute("PRAGMA wal_autocheckpoint = 0")
        # After a fold the next writer begins the log anew and cuts its file to this size, so size tells what is inside.
        cursor.execute(f"PRAGMA journal_size_limit = {LOG_LIMIT_BYTES}")

    def fold_when_long(self, connection: Connection) -> None:
        """Fold, if enough was written since the last time; a reader that still needs old pages only defers the rest."""
        size_bytes = self._size_bytes()
        if size_bytes <= LOG_LIMIT_BYTES:
            self._again_at_bytes = LOG_LIMIT_BYTES
        elif size_bytes > self._again_at_bytes:
            # What goes wrong leaves the log longer and nothing else; a full disk says so at the write itself.
            with suppress(sqlite3.Error, DBAPIError), closing(self._write_lock()):
                self._again_at_bytes = size_bytes + LOG_LIMIT_BYTES
                # Not by the connection that holds the lock: its next write could then not begin the log anew.
                connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").close()

    def _size_bytes(self) -> int:
        try:
            return os.stat(f"{self._file}-wal").st_size  # noqa: PTH116  Before every transaction; a Path costs more.
        except OSError:
            return 0

    def _write_lock(self) -> sqlite3.Connection:
        holder = sqlite3.connect(self._file, timeout=self._wait_s, isolation_level=None)
        try:
            holder.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:
            holder.close()
            raise
        return holder


def complaint(said: str, waited_s: float) -> DatabaseError | None:
    """What SQLite says, as one of our errors; None when it is nothing of the machine's, but of the statement's."""
    if _is_busy(said):
        return DatabaseBusy(waited_s)
    for sign, (sentence, hint) in _UNUSABLE.items():
        if sign in said.lower():
            return DatabaseUnusable(sentence, hint=hint)
    return None


def _is_busy(said: str) -> bool:
    return any(sign in said for sign in _BUSY)


def known_fault(version: tuple[int, ...]) -> str | None:
    """What a person should know about this release of SQLite; None when it has the mended log."""
    newest = _MENDED[0]
    if version >= newest or any(version[:2] == mended[:2] and version >= mended for mended in _MENDED):
        return None
    name = ".".join(map(str, version))
    return (
        f"SQLite {name} can, very rarely, damage a database that several programs write (mended in 3.51.3)."
        " autopack-mcp avoids that among its own processes; let no other program write to autopack.db."
    )
