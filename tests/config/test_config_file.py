"""Which models.yaml is in force, and what happens when it changes under a running program."""

from __future__ import annotations

import hashlib
import itertools
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from autopack_mcp.clock import ManualClock
from autopack_mcp.config.config_file import DEFAULT_SOURCE, ConfigFile, find_config
from autopack_mcp.errors import ConfigError
from autopack_mcp.home import Home

GOOD = "providers: {openai: {weekly_cap_tokens: 100}}\n"
OTHER = "providers: {openai: {weekly_cap_tokens: 999}}\n"
BAD = "providers: {openai: {weekly_cap_tokens: 000}}\n"


_times = itertools.count(1_000_000_000, 1_000)


def write(path: Path, text: str) -> None:
    """Write a file whose time differs from all others: two tests in one step of the file system's clock would not."""
    path.write_text(text)
    now = next(_times)
    os.utime(path, (now, now))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.ensure()
    return home


@pytest.fixture
def later() -> ManualClock:
    """Long after any file of these tests was written, so that only its stamp can tell that it changed."""
    return ManualClock(datetime(2200, 1, 1, tzinfo=UTC))


def cap_of(config: ConfigFile) -> int | None:
    return config.current().providers["openai"].caps[0].tokens


def test_without_any_file_the_packaged_default_is_in_force(home: Home, later: ManualClock) -> None:
    config = find_config(None, home, clock=later)
    assert config.current().source == DEFAULT_SOURCE
    assert config.current() is config.current()
    assert config.problem is None


def test_the_file_of_the_home_comes_before_the_default(home: Home, later: ManualClock) -> None:
    write(home.models_file, GOOD)
    config = find_config(None, home, clock=later)
    assert cap_of(config) == 100
    assert config.current().source == str(home.models_file)


def test_an_explicit_file_comes_before_the_one_of_the_home(home: Home, later: ManualClock, tmp_path: Path) -> None:
    write(home.models_file, BAD)
    (tmp_path / "mine.yaml").write_text(GOOD)
    assert cap_of(find_config(tmp_path / "mine.yaml", home, clock=later)) == 100


def test_the_current_folder_is_never_looked_at(
    home: Home, later: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models.yaml").write_text(GOOD)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "models.yaml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    assert find_config(None, home, clock=later).current().source == DEFAULT_SOURCE


def test_an_explicit_file_that_is_not_there_is_an_error_and_no_default(
    home: Home, later: ManualClock, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"mine\.yaml: error: cannot be read: No such file"):
        find_config(tmp_path / "mine.yaml", home, clock=later).current()


def test_a_file_that_appears_in_the_home_takes_over_from_the_default(home: Home, later: ManualClock) -> None:
    config = find_config(None, home, clock=later)
    config.current()
    write(home.models_file, GOOD)
    assert cap_of(config) == 100


def test_a_change_is_in_force_at_the_next_question(home: Home, later: ManualClock) -> None:
    write(home.models_file, GOOD)
    config = find_config(None, home, clock=later)
    first = config.current()
    assert config.current() is first
    write(home.models_file, OTHER)
    assert cap_of(config) == 999


def test_a_file_that_was_replaced_is_read_even_with_the_same_size_and_time(
    home: Home, later: ManualClock, tmp_path: Path
) -> None:
    write(home.models_file, GOOD)
    os.utime(home.models_file, ns=(1, 1))
    config = find_config(None, home, clock=later)
    config.current()
    (tmp_path / "new").write_text(OTHER)
    os.utime(tmp_path / "new", ns=(1, 1))
    (tmp_path / "new").replace(home.models_file)
    assert cap_of(config) == 999


def test_a_file_that_changed_just_now_is_read_again_even_behind_the_same_stamp(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home.models_file, GOOD)
    stamp = home.models_file.stat()
    just_now = ManualClock(datetime.fromtimestamp(stamp.st_mtime + 1, UTC))
    config = find_config(None, home, clock=just_now)
    config.current()
    write(home.models_file, OTHER)
    # What a second change within one step of the file system's clock looks like: other bytes, the same stamp.
    monkeypatch.setattr(type(home.models_file), "stat", lambda path, **_: stamp)
    assert cap_of(config) == 999


def test_touching_a_file_changes_nothing(home: Home, later: ManualClock) -> None:
    write(home.models_file, GOOD)
    config = find_config(None, home, clock=later)
    first = config.current()
    os.utime(home.models_file, ns=(5, 5))
    assert config.current() is first


def test_a_bad_file_leaves_the_last_good_settings_and_says_why(home: Home, later: ManualClock) -> None:
    write(home.models_file, GOOD)
    config = find_config(None, home, clock=later)
    first = config.current()
    write(home.models_file, BAD)
    assert config.current() is first
    assert config.problem is not None
    assert "weekly_cap_tokens: must be a whole number, not '000'" in str(config.problem)
    said = config.problem
    assert config.current() is first
    assert config.problem is said


def test_a_file_that_became_bad_is_logged_once(
    home: Home, later: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    write(home.models_file, GOOD)
    config = find_config(None, home, clock=later)
    config.current()
    write(home.models_file, BAD)
    for _ in range(3):
        config.current()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"the last good configuration stays in force: {home.models_file}")


@pytest.mark.parametrize("mended", [GOOD, OTHER], ids=["as it was", "otherwise"])
def test_a_mended_file_is_in_force_and_the_problem_is_gone(home: Home, later: ManualClock, mended: str) -> None:
    write(home.models_file, GOOD)
    config = find_config(None, home, clock=later)
    config.current()
    write(home.models_file, BAD)
    config.current()
    write(home.models_file, mended)
    assert cap_of(config) == (100 if mended is GOOD else 999)
    assert config.problem is None


def test_a_program_that_starts_with_a_bad_file_is_told_each_time(home: Home, later: ManualClock) -> None:
    write(home.models_file, BAD)
    config = find_config(None, home, clock=later)
    for _ in range(2):
        with pytest.raises(ConfigError):
            config.current()
    write(home.models_file, GOOD)
    assert cap_of(config) == 100


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "of the home"])
def test_a_file_that_disappears_leaves_what_it_said_in_force(home: Home, later: ManualClock, explicit: bool) -> None:
    write(home.models_file, GOOD)
    config = find_config(home.models_file if explicit else None, home, clock=later)
    config.current()
    home.models_file.unlink()
    assert cap_of(config) == 100
    assert config.problem is not None
    write(home.models_file, GOOD)
    assert cap_of(config) == 100
    assert config.problem is None


def test_a_folder_in_place_of_the_file_is_an_error_and_no_default(home: Home, later: ManualClock) -> None:
    home.models_file.mkdir()
    with pytest.raises(ConfigError, match=r"models\.yaml: error: is not a file"):
        find_config(None, home, clock=later).current()


def test_the_digest_is_that_of_the_bytes(home: Home, later: ManualClock) -> None:
    home.models_file.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    config = ConfigFile(home.models_file, home, clock=later)
    assert config.current().digest == hashlib.sha256(home.models_file.read_bytes()).hexdigest()
