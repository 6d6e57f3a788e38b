"""models.yaml where it lies: which file is in force, and what it says now.

It owns the search (explicit path, AUTOPACK_HOME, packaged default; never the current folder: contract 6) and the
re-reading on change; it never writes the file. ``app`` makes one ConfigFile, everything else receives Settings from it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock

from autopack_mcp.clock import Clock, SystemClock
from autopack_mcp.config.models_yaml import load_settings
from autopack_mcp.config.settings import Settings
from autopack_mcp.config.shipped import default_config_text
from autopack_mcp.documents import file_text
from autopack_mcp.errors import ConfigError, Problem
from autopack_mcp.home import Home

DEFAULT_SOURCE = "packaged default"
# File systems stamp times in steps of up to 10 ms (and FAT of 2 s): a file changed twice within a step looks unchanged.
FRESH_FOR = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What changes when a file does."""

    modified_ns: int
    changed_ns: int
    size: int
    number: int

    def is_fresh(self, now: datetime) -> bool:
        """True while another change could hide behind the same stamp; also when the file's time is in the future."""
        return now - datetime.fromtimestamp(self.modified_ns / 1e9, UTC) < FRESH_FOR


log = logging.getLogger(__name__)


class ConfigFile:
    """The Settings in force. Ask ``current`` each time: it costs one stat while nothing changes. Safe for threads."""

    def __init__(self, path: Path, home: Home, *, has_default: bool = False, clock: Clock | None = None) -> None:
        """
        Args:
            has_default: the packaged default stands in while there is no file at ``path``.
        """
        self.path = path
        self.problem: ConfigError | None = None
        self._home = home
        self._has_default = has_default
        self._clock = clock or SystemClock()
        self._lock = Lock()
        self._settings: Settings | None = None
        self._stamp: _Stamp | None = None
        self._was_fresh = False
        self._tried_digest = ""

    def current(self) -> Settings:
        """The Settings in force. A file that became bad leaves the last good ones; then ``problem`` says what is wrong.

        Raises:
            ConfigError: the file is bad and there were no good Settings before it.
        """
        with self._lock:
            stamp = _stamp(self.path)
            if self._settings is None or stamp != self._stamp or self._was_fresh:
                self._read(stamp)
            assert self._settings is not None, "the first reading succeeds or raises"
            return self._settings

    def _read(self, stamp: _Stamp | None) -> None:
        self._stamp = stamp
        self._was_fresh = stamp is not None and stamp.is_fresh(self._clock.now())
        try:
            text, source = self._text()
            digest = hashlib.sha256(text.encode()).hexdigest()
            if self._settings is not None and digest == self._tried_digest:
                return
            self._tried_digest = digest
            self._settings = load_settings(text, source, home=self._home)
            self.problem = None
        except ConfigError as error:
            if self._settings is None:
                raise
            if str(error) != str(self.problem):
                # Once for each thing that is wrong: calls go on under the old settings, and whoever edits should know.
                log.warning("the last good configuration stays in force: %s", error)
            self.problem = error

    def _text(self) -> tuple[str, str]:
        """The text in force and the name of its source."""
        file = str(self.path)
        if not os.path.lexists(self.path) and self._has_default:
            if self._settings is None or self._settings.source == DEFAULT_SOURCE:
                return default_config_text(), DEFAULT_SOURCE
            self._tried_digest = ""
            raise ConfigError((Problem("is gone; what it said stays in force until the next start.", file),))
        text = file_text(self.path)
        if isinstance(text, Problem):
            self._tried_digest = ""
            raise ConfigError((text,))
        return text, file


def find_config(explicit: Path | None, home: Home, *, clock: Clock | None = None) -> ConfigFile:
    """The models.yaml to use: ``explicit``, else the one of AUTOPACK_HOME, else the packaged default (contract 6).

    With no explicit path, a models.yaml that appears in AUTOPACK_HOME later takes over from the default at once.
    """
    if explicit is not None:
        return ConfigFile(explicit.expanduser().absolute(), home, clock=clock)
    return ConfigFile(home.models_file, home, has_default=True, clock=clock)


def _stamp(path: Path) -> _Stamp | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return _Stamp(stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino)
