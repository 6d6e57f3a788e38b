"""The verbs that read, as a person and as a program meet them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from autopack_mcp.cli.main import cli, main


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new AUTOPACK_HOME without keys."""
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AUTOPACK_DATABASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    # Set, not deleted: the option --config writes it, and only what was set here is put back afterwards.
    monkeypatch.setenv("AUTOPACK_CONFIG", "")
    monkeypatch.setenv("AUTOPACK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


@pytest.mark.parametrize("arguments", [("status",), ("runs",)], ids=["status", "runs"])
def test_without_any_run_the_answer_says_how_to_start_one(home: Path, arguments: tuple[str, ...]) -> None:
    assert "autopack-mcp start" in run(*arguments).output


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("status",), "runs"),
        (("runs",), "runs"),
        (("usage",), "providers"),
        (("usage", "--period", "month", "--offset", "-1"), "providers"),
        (("models",), "rows"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_every_reading_verb_answers_in_json(home: Path, arguments: tuple[str, ...], key: str) -> None:
    assert key in json.loads(run(*arguments, "--json").output)


def test_piped_tables_are_lines_of_tab_separated_cells(home: Path) -> None:
    lines = [line.split("\t") for line in run("usage").output.splitlines()[1:]]
    header, *rows = lines[: next(number for number, cells in enumerate(lines) if cells[0] == "cap")]

    assert header[:3] == ["provider", "tokens", "cap"]
    assert {len(row) for row in rows} == {len(header)}


def test_an_unknown_run_is_one_line_and_exit_code_one(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main(["status", "r-none"])

    assert exit_code.value.code == 1
    assert capsys.readouterr().err.startswith("error: No run 'r-none'.")


def test_the_default_config_is_written_once_and_then_left_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(home / "models.yaml") in run("config", "init").output
    (home / "models.yaml").write_text("providers: {}\n", encoding="utf-8")

    with pytest.raises(SystemExit):
        main(["config", "init"])

    assert "left alone" in capsys.readouterr().err
    assert (home / "models.yaml").read_text(encoding="utf-8") == "providers: {}\n"


def test_config_check_names_every_problem_with_its_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.mkdir()
    (home / "models.yaml").write_text("providers:\n  openai:\n    autopack_share: 7\n    wekly_cap_tokens: 1\n")

    with pytest.raises(SystemExit):
        main(["config", "check"])

    said = capsys.readouterr().err
    assert "models.yaml:3" in said
    assert "models.yaml:4" in said


@pytest.mark.parametrize("verb", ["status", "runs"])
def test_a_config_that_cannot_be_used_is_told_beside_the_answer(home: Path, verb: str) -> None:
    home.mkdir()
    (home / "models.yaml").write_text("providers:\n  openai:\n    autopack_share: 7\n", encoding="utf-8")

    answer = run(verb)
    assert (answer.exit_code, answer.stdout.count("Notice")) == (0, 0)
    assert f"Notice: The configuration cannot be used: {home / 'models.yaml'}:3: error: " in answer.stderr


def test_config_check_says_which_keys_are_missing_and_never_shows_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")

    said = run("config", "check").output

    assert "openai: has a key" in said
    assert "anthropic: lacks ANTHROPIC_API_KEY" in said
    assert "very-secret" not in said


def test_a_named_config_wins_over_the_one_in_the_home(home: Path, tmp_path: Path) -> None:
    run("config", "init")
    other = tmp_path / "other.yaml"
    other.write_text((home / "models.yaml").read_text(encoding="utf-8"), encoding="utf-8")

    assert str(other) in run("--config", str(other), "config", "check").output


def test_a_read_only_database_is_one_clear_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.mkdir()
    (home / "autopack.db").write_text("this is no database, it is a text that somebody put here\n" * 40)

    with pytest.raises(SystemExit) as exit_code:
        main(["status"])

    assert exit_code.value.code == 1
    assert "not a database" in capsys.readouterr().err


def test_every_verb_of_the_readme_exists_and_explains_itself(home: Path) -> None:
    for verb in ("serve", "stdio", "start", "runs", "status", "pause", "resume", "cancel", "raise-cap", "note", "usage",
                 "models", "override", "order", "orders", "config", "demo", "token", "stop"):  # fmt: skip
        assert run(verb, "--help").output.startswith("Usage: ")
