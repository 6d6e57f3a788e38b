"""AUTOPACK_HOME: where it is, what stands in it, and the keys that nobody gets to see."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from autopack_mcp.errors import DatabaseUnusable
from autopack_mcp.home import Home, Keys, find_home


def env_file(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    path = tmp_path / "env"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_variable_names_the_home(tmp_path: Path) -> None:
    assert find_home({"AUTOPACK_HOME": str(tmp_path)}) == Home(tmp_path)


@pytest.mark.parametrize("environ", [{}, {"AUTOPACK_HOME": ""}], ids=["unset", "empty"])
def test_without_it_the_home_is_in_the_persons_data_folder(environ: dict[str, str]) -> None:
    path = find_home(environ).path
    assert path.is_absolute()
    assert path.name == "autopack-mcp"


def test_a_relative_home_and_a_tilde_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_home({"AUTOPACK_HOME": "here"}).path == tmp_path / "here"
    assert find_home({"AUTOPACK_HOME": "~/there"}).path == Path.home() / "there"


def test_every_file_stands_in_the_home(tmp_path: Path) -> None:
    home = Home(tmp_path)
    files = [
        home.models_file,
        home.env_file,
        home.token_file,
        home.workspaces,
        home.plans,
        home.log_file,
        home.lock_file,
    ]
    assert {file.parent for file in files} == {tmp_path}
    assert len(set(files)) == len(files)
    assert home.database_url == f"sqlite:///{tmp_path}/autopack.db"


def test_another_database_is_used_and_its_password_not_shown() -> None:
    home = find_home({"AUTOPACK_HOME": "/h", "AUTOPACK_DATABASE_URL": "postgresql+psycopg://me:SECRET@db/autopack"})
    assert home.database_url == "postgresql+psycopg://me:SECRET@db/autopack"
    assert "SECRET" not in repr(home)


def test_the_database_may_be_named_in_the_file_for_programs_with_a_bare_environment(tmp_path: Path) -> None:
    env_file(tmp_path, "KEY=k\nexport AUTOPACK_DATABASE_URL='postgresql://me:SECRET@db/autopack'\n")
    bare = {"AUTOPACK_HOME": str(tmp_path)}
    assert find_home(bare).database_url == "postgresql://me:SECRET@db/autopack"
    assert find_home({**bare, "AUTOPACK_DATABASE_URL": "sqlite:///other.db"}).database_url == "sqlite:///other.db"
    assert find_home({**bare, "AUTOPACK_DATABASE_URL": ""}).database_url == "postgresql://me:SECRET@db/autopack"


@pytest.mark.parametrize("text", ["KEY=k\n", "# AUTOPACK_DATABASE_URL is set elsewhere\n", "AUTOPACK_DATABASE_URL=\n"])
def test_a_file_that_names_no_database_leaves_the_one_in_the_home(tmp_path: Path, text: str) -> None:
    env_file(tmp_path, text)
    assert find_home({"AUTOPACK_HOME": str(tmp_path)}).database_url == f"sqlite:///{tmp_path}/autopack.db"


def test_the_home_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "a" / "b")
    home.ensure()
    home.ensure()
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert list(home.path.iterdir()) == []


def test_a_home_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Home(tmp_path).ensure()
    assert tmp_path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("place", ["/proc", "/proc/nothing", "FILE", "FILE/below", "what?"])
def test_a_home_that_cannot_be_written_is_one_clear_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    path = Path(place.replace("FILE", str(tmp_path / "file"))) if place != "what?" else tmp_path / place
    with pytest.raises(DatabaseUnusable, match="AUTOPACK_HOME"):
        Home(path).ensure()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_home_is_one_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DatabaseUnusable, match="cannot be written: Permission denied"):
        Home(tmp_path).ensure()


# --- Keys ---


def test_a_key_comes_from_the_process_before_the_file(tmp_path: Path) -> None:
    keys = Keys({"A": "from process", "EMPTY": ""}, env_file(tmp_path, "A=from file\nB=b\nEMPTY=filled\n"))
    assert [keys.get(name) for name in ("A", "B", "EMPTY", "C")] == ["from process", "b", "filled", None]
    assert keys.present(["A", "B", "C"]) == {"A", "B"}
    assert keys.warnings == ()


def test_without_a_file_there_are_only_the_keys_of_the_process(tmp_path: Path) -> None:
    keys = Keys({"A": "a"}, tmp_path / "env")
    assert (keys.get("A"), keys.get("B"), keys.warnings) == ("a", None, ())


@pytest.mark.parametrize(
    "line, value",
    [
        ("K=v", "v"),
        ("export K='v w'", "v w"),
        ('K="v" # mine', "v"),
        ("K = v", "v"),
        ("K=$HOME", "$HOME"),
        ("K=", None),
        ("K", None),
        ("# K=v", None),
        ("\ufeffK=v", "v"),
    ],
)
def test_the_file_is_written_as_dotenv_files_are(tmp_path: Path, line: str, value: str | None) -> None:
    assert Keys({}, env_file(tmp_path, line + "\n")).get("K") == value


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = env_file(tmp_path, "K=one\n")
    keys = Keys({}, path)
    assert keys.get("K") == "one"
    path.write_text("K=other one\n")
    assert keys.get("K") == "other one"
    path.unlink()
    assert keys.get("K") is None


def test_a_variable_that_the_process_gains_later_is_seen(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    keys = Keys(environ, tmp_path / "env")
    assert keys.get("K") is None
    environ["K"] = "now"
    assert keys.get("K") == "now"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_file_that_others_may_read_is_a_warning_until_it_is_closed(tmp_path: Path, mode: int) -> None:
    path = env_file(tmp_path, "K=SECRET\n", mode)
    keys = Keys({}, path)
    (warning,) = keys.warnings
    assert "chmod 600" in warning.message
    assert warning.severity == "warning"
    assert keys.get("K") == "SECRET"
    path.chmod(0o600)
    assert keys.warnings == ()


def test_a_line_that_is_no_assignment_is_a_warning_that_does_not_repeat_it(tmp_path: Path) -> None:
    (warning,) = Keys({}, env_file(tmp_path, "A=1\n= SECRET!\nB=2\n")).warnings
    assert warning.line == 2
    assert "SECRET" not in str(warning)


@pytest.mark.parametrize(
    "prepare, expected",
    [
        (lambda path: path.mkdir(), "is not a file; no key is read from it."),
        (lambda path: path.write_text("K=" + "x" * 70_000), "is larger than 64 KiB; no key is read from it."),
    ],
    ids=["folder", "too large"],
)
def test_what_is_no_env_file_is_a_warning(tmp_path: Path, prepare: Callable[[Path], object], expected: str) -> None:
    prepare(tmp_path / "env")
    keys = Keys({}, tmp_path / "env")
    assert keys.get("K") is None
    assert [warning.message for warning in keys.warnings] == [expected]


def test_no_key_is_ever_shown(tmp_path: Path) -> None:
    keys = Keys({"A": "SECRET-1"}, env_file(tmp_path, "B=SECRET-2\n", 0o644))
    keys.get("B")
    assert "SECRET" not in f"{keys!r} {keys} {keys.warnings}"
