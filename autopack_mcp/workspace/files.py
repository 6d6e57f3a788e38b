"""Reads, writes and deletes files below one folder without ever following a link out of it, or any link at all.

It owns the way down, name by name from an open folder, so that nothing swapped in meanwhile can divert it; which names
are welcome is said by ``replies.path_rules``. The workspace is its only caller; every refusal is worded for the model.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from autopack_mcp.errors import UnusableReply
from autopack_mcp.replies.path_rules import check_path
from autopack_mcp.text_safety import visible


def read_file(root: Path, path: str, limit_bytes: int) -> bytes | None:
    """The bytes of a file below ``root``, None when there is none.

    Raises:
        UnusableReply: a link, a folder, something special, or larger than ``limit_bytes``.
    """
    check_path(path)
    *folders, name = path.split("/")
    with _folder(root, folders) as folder:
        found = None if folder is None else _stat(folder, name)
        if folder is None or found is None:
            return None
        _refuse_unless_file(path, found)
        if found.st_size > limit_bytes:
            raise UnusableReply(f"{_shown(path)} has {found.st_size} bytes; at most {limit_bytes} can be edited.")
        with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder), "rb") as file:  # noqa: PTH123  # A descriptor has no path.
            return file.read(limit_bytes + 1)


def write_file(root: Path, path: str, content: bytes, *, is_executable: bool = False) -> None:
    """Put ``content`` into a file below ``root``, making folders as needed; an existing one keeps its mode.

    ``is_executable`` is for a new one, which a rename brings from elsewhere.

    The file is replaced, not overwritten: a hard link to it elsewhere (a package cache) keeps its content.

    Raises:
        UnusableReply: there is a link or a folder in the way.
    """
    check_path(path)
    *folders, name = path.split("/")
    with _folder(root, folders, create=True) as folder:
        assert folder is not None, "folders are made when missing"
        found = _stat(folder, name)
        if found is not None:
            _refuse_unless_file(path, found)
        part = f".autopack-{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        mode = 0o777 if is_executable else 0o666
        with open(os.open(part, flags, mode, dir_fd=folder), "wb") as file:  # noqa: PTH123  # A descriptor has no path.
            if found is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(found.st_mode) & 0o777)
            file.write(content)
        os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)


def delete_file(root: Path, path: str) -> None:
    """Remove a file below ``root``; one that is gone already stays gone."""
    check_path(path)
    *folders, name = path.split("/")
    with _folder(root, folders) as folder:
        if folder is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)


@contextlib.contextmanager
def _folder(root: Path, folders: Sequence[str], *, create: bool = False) -> Iterator[int | None]:
    """A descriptor of a folder below ``root``, reached name by name through real folders only; None when missing."""
    descriptor: int | None = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for depth, name in enumerate(folders):
            assert descriptor is not None
            found = _stat(descriptor, name)
            if found is None and not create:
                os.close(descriptor)
                descriptor = None
                break
            if found is None:
                os.mkdir(name, dir_fd=descriptor)
            else:
                _refuse_unless_folder("/".join(folders[: depth + 1]), found)
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _stat(folder: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _refuse_unless_folder(path: str, found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise UnusableReply(f"{_shown(path)} is a symbolic link; nothing is read or written through it.")
    if not stat.S_ISDIR(found.st_mode):
        raise UnusableReply(f"{_shown(path)} is a file, so there can be nothing below it.")


def _refuse_unless_file(path: str, found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise UnusableReply(f"{_shown(path)} is a symbolic link; nothing is read or written through it.")
    if stat.S_ISDIR(found.st_mode):
        raise UnusableReply(f"{_shown(path)} is a folder, not a file.")
    if not stat.S_ISREG(found.st_mode):
        raise UnusableReply(f"{_shown(path)} is no ordinary file.")


def _shown(path: str) -> str:
    return repr(visible(path, 200))
