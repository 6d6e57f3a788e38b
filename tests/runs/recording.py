"""A run that nothing disturbed, with a copy of its whole world aside at every point, to be put back and gone on from.

It owns the copying (database, workspace, repository); which points there are and what must come of each is a test's.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Recording:
    """A run that nothing disturbed, and a copy of its world at every point."""

    folder: Path
    copies: Path
    run_id: str = ""
    points: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    tree: str = ""
    _last: str = ""

    def take(self, point: str) -> None:
        """Copy the world aside, unless it is still as it was at the point before."""
        world = self._fingerprint()
        if world == self._last:
            self.left_out.append(point)
            return
        self._last = world
        self.points.append(point)
        copy = self.copies / point
        shutil.copytree(self.folder, copy, symlinks=True, ignore=shutil.ignore_patterns("autopack.db*"))
        _copy_database(self.folder / "home/autopack.db", copy / "home/autopack.db")

    def put_back(self, point: str) -> None:
        """The world as it was at a point, where it was."""
        shutil.rmtree(self.folder)
        shutil.copytree(self.copies / point, self.folder, symlinks=True)

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for file in sorted(self.folder.rglob("*")):
            # The index holds times of files besides their names, and the databases are compared by what is in them.
            if file.is_file() and not file.is_symlink() and file.name != "index" and "autopack.db" not in file.name:
                digest.update(f"{file.relative_to(self.folder)}\0".encode() + file.read_bytes())
        with sqlite3.connect(self.folder / "home/autopack.db") as connection:
            for line in connection.iterdump():
                digest.update(line.encode())
        connection.close()
        return digest.hexdigest()


def _copy_database(source: Path, target: Path) -> None:
    read, write = sqlite3.connect(source), sqlite3.connect(target)
    read.backup(write)
    read.close()
    write.close()
