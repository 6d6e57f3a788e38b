"""``models`` on the command line: the whole map, a part of it, and one question in full."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from autopack_mcp.app import open_autopack
from autopack_mcp.cli.main import cli, main
from autopack_mcp.library import UsageRecorder
from autopack_mcp.routing.model_map import current_model_map, model_map_to_json
from tests.factories import call_scope, insert_run, settings, usage_event

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty AUTOPACK_HOME with a key for each account of the packaged configuration."""
    for account in ("OPENAI", "ANTHROPIC", "GLM", "GOOGLE"):
        monkeypatch.setenv(f"{account}_API_KEY", "sk-for-no-call")
    monkeypatch.delenv("AUTOPACK_DATABASE_URL", raising=False)
    monkeypatch.setenv("AUTOPACK_CONFIG", "")
    monkeypatch.setenv("AUTOPACK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def test_one_question_is_explained_in_sections() -> None:
    said = run("models", "--role", "builder", "--complexity", "low").output
    sections = ["Rules, highest first:", "Caps that such a call must fit; it promises at least",
                "What if:", "Fallbacks at the soft limit:", "May be chosen:"]  # fmt: skip
    assert [section for section in sections if section not in said] == []
    assert "  complexity decides: complexity low uses" in said
    assert "80 % of openai's cap of the week: rerouted:" in said


def test_a_denial_says_what_becomes_of_the_run() -> None:
    said = run("models", "--role", "builder", "--category", "security_auth_change").output
    assert "100 % of anthropic's cap of the week: denied: category security_auth_change never falls back" in said
    assert "  Denied: The run becomes budget_paused" in said
    assert "  never asked: Category security_auth_change never falls back." in said


def test_one_question_is_answered_in_json_as_well() -> None:
    answer = json.loads(run("models", "--role", "auditor", "--json").output)
    assert answer["row"]["role"] == "auditor"
    assert {rule["rule"] for rule in answer["rules"]} >= {"run override", "complexity"}


def test_the_map_can_be_narrowed() -> None:
    rows = json.loads(run("models", "--category", "docs", "--complexity", "low", "--json").output)["rows"]
    assert {row["role"] for row in rows} == {"builder", "auditor"}
    assert all("docs" in (row["category"], *row["also"]) for row in rows)


def test_a_run_that_has_ended_says_what_it_used(home: Path) -> None:
    pinned = model_map_to_json(current_model_map(settings(), ()))
    with UsageRecorder() as recorder:
        recorder.record_usage(usage_event(scope=call_scope()))
    autopack = open_autopack()
    for run_id, state in (("R1", "succeeded"), ("R2", "cancelled")):
        autopack.database.write_now(partial(insert_run, run_id=run_id, state=state, model_map=pinned))
    autopack.database.close_now()

    ended = "has no phase left that would ask a model."
    assert run("models", "--run", "R1").output == (
        f"Run R1 {ended}\nIt used:\nmodel\tprovider\tcalls\ttokens\tcost\ngpt-4o\topenai\t1\t100\t$0.0005\n"
    )
    assert run("models", "--run", "R2").output == f"Run R2 {ended} It asked none.\n"
    assert json.loads(run("models", "--run", "R1", "--json").output)["rows"] == []


@pytest.mark.parametrize("arguments", [("--role", "painter"), ("--category", "poetry"), ("--complexity", "huge")])
def test_a_word_that_means_nothing_is_one_line_with_what_exists(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main(["models", *arguments])
    assert exit_code.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: Unknown {arguments[0].removeprefix('--')} '{arguments[1]}'.")
    assert "Known are " in told
