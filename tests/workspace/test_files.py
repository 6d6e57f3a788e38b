"""Files below one folder are reached by real folders only, whatever lies in the way."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

import pytest

from autopack_mcp.errors import UnusableReply
from autopack_mcp.workspace.files import delete_file, read_file, write_file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a way out by a link, beside a secret."""
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "real" / "file").write_text("here")
    (root / "out").symlink_to(tmp_path)
    (root / "direct").symlink_to(tmp_path / "secret")
    (root / "dangling").symlink_to(tmp_path / "made")
    os.mkfifo(root / "pipe")
    return root


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("out/secret", "'out' is a symbolic link"),
        ("direct", "'direct' is a symbolic link"),
        ("dangling", "'dangling' is a symbolic link"),
        ("real", "'real' is a folder"),
        ("real/file/x", "'real/file' is a file"),
        ("pipe", "'pipe' is no ordinary file"),
        ("../secret", "leaves the workspace"),
        ("/etc/passwd", "is not relative"),
    ],
)
def test_nothing_is_read_or_written_by_another_way(root: Path, path: str, reason: str) -> None:
    with pytest.raises(UnusableReply) as reading:
        read_file(root, path, 100)
    with pytest.raises(UnusableReply) as writing:
        write_file(root, path, b"gotcha")

    assert reason in reading.value.reason
    assert reason in writing.value.reason
    assert (root.parent / "secret").read_text() == "secret"
    assert not (root.parent / "made").exists()


def test_deleting_goes_no_other_way_either(root: Path) -> None:
    for path in ("out/secret", "../secret"):
        with pytest.raises(UnusableReply):
            delete_file(root, path)
    delete_file(root, "direct")
    delete_file(root, "none/at/all")

    assert (root.parent / "secret").exists()
    assert not (root / "direct").is_symlink()


def test_a_file_is_read_whole_or_not_at_all(root: Path) -> None:
    assert read_file(root, "real/file", 4) == b"here"
    assert read_file(root, "none", 4) is None
    assert read_file(root, "none/at/all", 4) is None
    with pytest.raises(UnusableReply, match="has 4 bytes; at most 3"):
        read_file(root, "real/file", 3)


def test_a_file_is_written_with_the_mode_it_had_and_nothing_else_is_left(root: Path) -> None:
    (root / "real" / "file").chmod(0o750)

    write_file(root, "real/file", b"new")
    write_file(root, "new/deep/file", b"made")

    assert stat.S_IMODE((root / "real" / "file").stat().st_mode) == 0o750
    assert (root / "real" / "file").read_text() == "new"
    assert (root / "new/deep/file").read_text() == "made"
    assert [path.name for path in (root / "real").iterdir()] == ["file"]


def test_no_descriptor_stays_open(root: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))

    for path in ("real/file", "none/x", "out/secret", "real"):
        for _ in range(3):
            with contextlib.suppress(UnusableReply):
                read_file(root, path, 100)
                write_file(root, path, b"x")

    assert len(list(Path("/proc/self/fd").iterdir())) == before
