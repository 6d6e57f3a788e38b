"""AUTOPACK_HOME: the folder that holds a person's database, config and keys, and where each of them stands in it.

It owns the names of files and the reading of API keys; it keeps no state and never shows a key. The command line and
``app`` find the home, everything else receives a path or ``Keys`` from there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from threading import Lock

import platformdirs

from autopack_mcp.errors import DatabaseUnusable, Problem

DATABASE_VARIABLE = "AUTOPACK_DATABASE_URL"  # Another database than the file in the home (docs/postgres.md).
CONFIG_VARIABLE = "AUTOPACK_CONFIG"  # A models.yaml that wins over the one in the home (contract 6).
ENV_FILE_BYTES = 64 * 1024  # A handful of keys; beyond this it is another file.
MACHINE_VARIABLE = "AUTOPACK_MACHINE"  # A name for this machine that outlasts its host name, as a container needs one.
_PRIVATE_FOLDER = 0o700
_OTHERS = 0o077  # Permission bits of everybody but the owner.


@dataclass(frozen=True, slots=True)
class Home:
    """The folder and what stands in it. ``database`` is a URL that replaces the file in the folder, when one is set."""

    path: Path
    database: str | None = field(default=None, repr=False)  # It may hold a password.

    @property
    def database_url(self) -> str:
        """A SQLAlchemy URL: ``database``, or ``autopack.db`` in the folder."""
        return self.database or f"sqlite:///{self.path / 'autopack.db'}"

    @property
    def models_file(self) -> Path:
        """The person's models.yaml, which need not exist."""
        return self.path / "models.yaml"

    @property
    def env_file(self) -> Path:
        """Lines of ``NAME=value`` (keys, the database), for processes that are started with a bare environment."""
        return self.path / "env"

    @property
    def token_file(self) -> Path:
        """The bearer token of the local HTTP endpoint."""
        return self.path / "token"

    @property
    def workspaces(self) -> Path:
        """One clone per run."""
        return self.path / "workspaces"

    @property
    def plans(self) -> Path:
        """Where plans are looked up by name when the config names no folder."""
        return self.path / "plans"

    @property
    def log_file(self) -> Path:
        """What a detached ``serve`` says."""
        return self.path / "serve.log"

    @property
    def lock_file(self) -> Path:
        """Held by the one supervisor of this home."""
        return self.path / "supervisor.lock"

    def ensure(self) -> None:
        """Make the folder, closed to others (0700); one that exists keeps its mode.

        Raises:
            DatabaseUnusable: it cannot be made or written.
        """
        if "?" in str(self.path):
            raise DatabaseUnusable(f"The folder {str(self.path)!r} has a '?' in its name.", hint=_MOVE)
        try:
            self.path.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
            # Asked by writing, because permission bits say nothing about a read-only disk.
            probe = self.path / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            why = error.strerror or str(error)
            raise DatabaseUnusable(f"The folder {str(self.path)!r} cannot be written: {why}.", hint=_MOVE) from error


_MOVE = "Mend it, or set AUTOPACK_HOME to a folder that you can write."


def find_home(environ: Mapping[str, str]) -> Home:
    """The home that an environment names: ``AUTOPACK_HOME``, else the person's data folder for this program.

    Its database is the one of ``AUTOPACK_DATABASE_URL``, from the environment, else from the home's file ``env``: chat
    clients start us with a bare environment, and must not end up with another database than everybody else.
    """
    named = environ.get("AUTOPACK_HOME")
    path = (
        Path(named).expanduser().absolute() if named else platformdirs.user_data_path("autopack-mcp", appauthor=False)
    )
    return Home(path, environ.get(DATABASE_VARIABLE) or _database_in(Home(path).env_file))


def _database_in(env_file: Path) -> str | None:
    # Most homes name none, and must not pay for the parser at every start.
    try:
        if DATABASE_VARIABLE.encode() not in env_file.read_bytes()[:ENV_FILE_BYTES]:
            return None
    except OSError:
        return None
    return _read_env_file(env_file)[0].get(DATABASE_VARIABLE)


class Keys:
    """API keys by the name of their variable: from the process first, then from AUTOPACK_HOME/env, re-read on change.

    Safe for concurrent use. An empty value counts as no key.
    """

    def __init__(self, environ: Mapping[str, str], env_file: Path) -> None:
        self._environ = environ
        self._file = env_file
        self._lock = Lock()
        self._stamp: tuple[int, ...] | None = None
        self._from_file: Mapping[str, str] = {}
        self._warnings: tuple[Problem, ...] = ()

    def __repr__(self) -> str:
        return f"Keys(env_file={str(self._file)!r})"

    def get(self, api_key_env: str) -> str | None:
        """The key that the variable holds, None when it is nowhere."""
        return self._environ.get(api_key_env) or self._file_keys().get(api_key_env) or None

    def present(self, names: Iterable[str]) -> frozenset[str]:
        """Those of ``names`` that hold a key."""
        return frozenset(name for name in names if self.get(name) is not None)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is wrong with the file, without a word of what stands in it."""
        self._file_keys()
        return self._warnings

    def _file_keys(self) -> Mapping[str, str]:
        with self._lock:
            stamp = _stamp(self._file)
            if stamp != self._stamp:
                self._stamp = stamp
                self._from_file, self._warnings = ({}, ()) if stamp is None else _read_env_file(self._file)
            return self._from_file


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Changes when a file does: its times, size, number and mode; None when there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino, stat.st_mode


def _read_env_file(path: Path) -> tuple[Mapping[str, str], tuple[Problem, ...]]:
    """The assignments of a dotenv file, and what is wrong with it."""
    file = str(path)
    try:
        if not path.is_file():
            return {}, (Problem("is not a file; no key is read from it.", file, severity="warning"),)
        with path.open("rb") as stream:
            raw = stream.read(ENV_FILE_BYTES + 1)
        mode = path.stat().st_mode
    except OSError as error:
        return {}, (Problem(f"cannot be read: {error.strerror or error}.", file, severity="warning"),)
    if len(raw) > ENV_FILE_BYTES:
        return {}, (
            Problem(f"is larger than {ENV_FILE_BYTES // 1024} KiB; no key is read from it.", file, None, "", "warning"),
        )
    keys, warnings = _assignments(raw.decode("utf-8", "replace"), file)
    if os.name == "posix" and mode & _OTHERS:
        open_to = f"others on this machine may read it (mode {mode & 0o777:04o}). Run `chmod 600` on it."
        warnings = (Problem(open_to, file, severity="warning"), *warnings)
    return keys, warnings


def _assignments(text: str, file: str) -> tuple[Mapping[str, str], tuple[Problem, ...]]:
    # Only a home with keys in a file pays for this import.
    from dotenv.parser import parse_stream

    keys: dict[str, str] = {}
    warnings = []
    for binding in parse_stream(StringIO(text.removeprefix("\ufeff"))):
        if binding.error:
            # The line is not repeated: it may be a key.
            message = "this line is not NAME=key and is skipped."
            warnings.append(Problem(message, file, binding.original.line, severity="warning"))
        elif binding.key is not None and binding.value:
            keys[binding.key] = binding.value
    return keys, tuple(warnings)
