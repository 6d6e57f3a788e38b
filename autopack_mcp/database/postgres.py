"""PostgreSQL underneath a ``Database``: addresses people paste, one writer at a time, a notice with every commit.

It owns what only PostgreSQL has, its complaints included, and knows no table; ``engine`` is its only caller. psycopg is
imported where it is used: it is an extra, and nobody on SQLite pays for it. docs/postgres.md explains it to people.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, event

from autopack_mcp.errors import DatabaseBusy, DatabaseError, DatabaseUnusable

if TYPE_CHECKING:
    from psycopg.abc import Dumper

# One writing transaction at a time in a database, as BEGIN IMMEDIATE does it on SQLite. Whoever holds the lock sees, at
# READ COMMITTED, everything that was committed before; and with no two writers there is no deadlock, so counters are
# moved in whatever order is convenient. The number is ours for ever: it spells "autopack" in ASCII.
WRITE_LOCK_KEY = 0x6175_746F_7061_636B

# A process that was stopped in the middle of a transaction (SIGSTOP, a laptop that sleeps) holds the lock until the
# server ends its session. Half of what the others wait for it, so that they get their turn instead of an error.
IDLE_LIMIT_S = 5.0

CHANNEL = "autopack"  # Every transaction that changed something notifies it; ``listening`` hears that.

# What an address need not say. TCP alone notices a dead network after a quarter of an hour, and the writer thread would
# hang for as long; with these it takes half a minute.
_DEFAULTS: Mapping[str, str] = {
    "connect_timeout": "10",  # seconds
    "keepalives_idle": "10",  # seconds without a word until the other side is asked
    "keepalives_interval": "5",  # seconds until it is asked again
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",  # milliseconds until what was sent must have arrived
    "fallback_application_name": "autopack-mcp",  # How pg_stat_activity names us.
}

_DRIVERS = ("postgres", "postgresql", "postgresql+psycopg")
_INSTALL = 'Install it: pip install "autopack-mcp[postgres]".'
_ADDRESS = "Look at AUTOPACK_DATABASE_URL (docs/postgres.md)."
_NOTHING_LOST = "Nothing was lost; mend the database server and try again."
_LATER = "Nothing was lost; try again when it is back."
_LOST = (
    "The connection to the database server was lost.",
    "It is opened again by itself. Whether the last write arrived is not known; look before repeating it.",
)
_REFUSED_USER = (
    "The database server refuses the user or the password.",
    "Check both in AUTOPACK_DATABASE_URL; write characters such as @ or % of a password as %40 or %25.",
)

# By SQLSTATE, the longest beginning first; postgresql.org/docs, appendix "PostgreSQL Error Codes".
_BY_STATE: Mapping[str, tuple[str, str]] = {
    "08": _LOST,
    "25006": ("The database is read-only.", "Name the server that is written to, not a standby of it."),
    "25P03": ("The server ended a write that stood still.", "Nothing of it was written; try again."),
    "28": _REFUSED_USER,
    "3D000": ("There is no such database.", f"Create it, for example with createdb. {_ADDRESS}"),
    "42501": (
        "The user may not do that in this database.",
        "Make the user the owner of the database (docs/postgres.md).",
    ),
    "53100": ("The disk of the database server is full.", _NOTHING_LOST),
    "53200": ("The database server is out of memory.", _NOTHING_LOST),
    "53300": ("The database server has no connection to spare.", "End other programs or raise its max_connections."),
    "57P": _LOST,
    "58": ("The disk of the database server reports an error.", _NOTHING_LOST),
    "XX001": ("The database is damaged.", "Restore a backup; nothing was changed."),
    "XX002": ("An index of the database is damaged.", "REINDEX the database; nothing was changed."),
}

# Before there is a session the driver knows no SQLSTATE, only words: the server's, in English unless it was told to
# speak otherwise; then the general sentence is said, which quotes them.
_BY_WORD: Mapping[str, tuple[str, str]] = {
    "authentication failed": _REFUSED_USER,
    "no password supplied": _REFUSED_USER,
    "no pg_hba.conf entry": _REFUSED_USER,
    'FATAL:  role "': _REFUSED_USER,
    'FATAL:  database "': _BY_STATE["3D000"],
    "too many clients": _BY_STATE["53300"],
    "remaining connection slots": _BY_STATE["53300"],
    "the database system is": ("The database server is starting or stopping.", _LATER),
}
_NEVER_BEGAN = ("connection failed", "connection is bad", "failed to resolve", "connection timeout")
_BAD_OPTION = ("invalid connection option", "bad value for", "invalid sslmode value", "invalid integer value")


def checked(url: URL, hint: str) -> URL:
    """The address as psycopg takes it; ``postgres://`` and ``postgresql://``, as people paste them, mean psycopg.

    Raises:
        DatabaseUnusable: it asks for another driver, or its password has to be written in another way.
    """
    if url.drivername not in _DRIVERS:
        raise DatabaseUnusable(f"The driver {url.get_driver_name()!r} is not supported.", hint=hint)
    if "@" in (url.host or ""):
        # What stands before that @ is the end of a password, so nothing of it is repeated.
        raise DatabaseUnusable(
            "The address of the database cannot be read.", hint="Write @ inside a user or password as %40."
        )
    missing = {name: value for name, value in _DEFAULTS.items() if name not in url.query}
    return url.set(drivername="postgresql+psycopg").update_query_dict(missing)


def no_driver(error: ImportError) -> DatabaseUnusable:
    """What to say when psycopg, or the library underneath it, is not there."""
    if error.name is not None and error.name.partition(".")[0] == "psycopg":
        return DatabaseUnusable("PostgreSQL needs the driver psycopg, which is not installed.", hint=_INSTALL)
    # psycopg without its compiled part, where the system has no libpq.
    return DatabaseUnusable(f"The driver psycopg cannot be used: {_first_line(str(error))}", hint=_INSTALL)


def prepare(engine: Engine, *, writes: bool, busy_timeout_s: float) -> None:
    """Make every connection of ``engine`` one that takes its turn to write, or one that cannot write at all."""

    dialect: Any = engine.dialect

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: object) -> None:
        dialect.get_driver_connection(connection).adapters.register_dumper(str, _text_dumper())
        if writes:
            # Each statement sees what is committed when it begins, so after the lock there is nothing stale to see.
            dialect.set_isolation_level(connection, "READ COMMITTED")
            _set_limits(connection, busy_timeout_s)
        else:
            # One question sees one moment, as on SQLite; a transaction that only reads is never refused for that.
            dialect.set_isolation_level(connection, "REPEATABLE READ")
            dialect.set_readonly(connection, True)

    if writes:
        event.listen(engine, "begin", _take_turn)
        event.listen(engine, "commit", _notify)


def _set_limits(connection: Any, busy_timeout_s: float) -> None:
    cursor = connection.cursor()
    cursor.execute(
        "SELECT set_config('lock_timeout', %s, false), set_config('idle_in_transaction_session_timeout', %s, false)",
        (f"{round(busy_timeout_s * 1000)}ms", f"{round(IDLE_LIMIT_S * 1000)}ms"),
    )
    cursor.close()
    connection.commit()


def _take_turn(connection: Connection) -> None:
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (WRITE_LOCK_KEY,)).close()


def _notify(connection: Connection) -> None:
    # Only a transaction that has changed something has a number; the others would wake everybody for nothing.
    changed = "pg_current_xact_id_if_assigned() IS NOT NULL"
    connection.exec_driver_sql(f"SELECT pg_notify('{CHANNEL}', '') WHERE {changed}").close()


@cache
def _text_dumper() -> type[Dumper]:
    """Stores U+FFFD where a text has the character NUL: PostgreSQL has none, and a model's reply or a command may."""
    from psycopg.types.string import StrDumperUnknown

    class TextWithoutNul(StrDumperUnknown):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\N{REPLACEMENT CHARACTER}"))

    return TextWithoutNul


def complaint(error: BaseException, waited_s: float) -> DatabaseError | None:
    """What PostgreSQL or psycopg says, as one of our errors; None when it is nothing but the statement's."""
    state = getattr(error, "sqlstate", None) or ""
    if state == "55P03" or state.startswith("40"):
        return DatabaseBusy(waited_s)
    for beginning, (sentence, hint) in _BY_STATE.items():
        if state.startswith(beginning):
            return DatabaseUnusable(sentence, hint=hint)
    return None if state else _without_state(error)


def _without_state(error: BaseException) -> DatabaseError | None:
    from psycopg import OperationalError

    text = str(error)
    if any(sign in text for sign in _BAD_OPTION):
        return DatabaseUnusable(f"The address of the database cannot be used: {_first_line(text)}.", hint=_ADDRESS)
    for sign, (sentence, hint) in _BY_WORD.items():
        if sign in text:
            return DatabaseUnusable(sentence, hint=hint)
    if any(sign in text for sign in _NEVER_BEGAN):
        said = f"The database server cannot be reached: {_first_line(text)}."
        return DatabaseUnusable(said, hint=f"Nothing was lost; is it running? {_ADDRESS}")
    return DatabaseUnusable(_LOST[0], hint=_LOST[1]) if isinstance(error, OperationalError) else None


def _first_line(text: str) -> str:
    """The first line of what somebody else says; what follows are guesses and repetitions."""
    return text.strip().partition("\n")[0]
