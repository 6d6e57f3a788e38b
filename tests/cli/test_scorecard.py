"""``scorecard`` on the command line: every rate with its counts, and what is in none."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.cli.main import cli, main
from autopack_mcp.clock import SystemClock
from autopack_mcp.database.migrate import open_database
from tests.factories import call_scope, held_against, insert_attempt, insert_phase, insert_run, usage_event

HEADER = ["category", "builder", "approved", "first try", "sample", "low/medium/high", "tokens/phase", "cost/phase"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An AUTOPACK_HOME with one run: a phase begun yesterday, its second attempt approved, its first ended by hand."""
    monkeypatch.delenv("AUTOPACK_DATABASE_URL", raising=False)
    monkeypatch.setenv("AUTOPACK_CONFIG", "")
    monkeypatch.setenv("AUTOPACK_HOME", str(tmp_path))
    database = open_database(f"sqlite:///{tmp_path / 'autopack.db'}")
    now = SystemClock().now()
    database.write_now(insert_run)
    database.write_now(insert_phase, task_category="ui", started_at=now - timedelta(days=1))
    database.write_now(insert_attempt, "P1", 1, state="interrupted", builder_model="gpt-big")
    database.write_now(insert_attempt, "P1", 2, state="kept", builder_model="gpt-big", auditor_model="claude")
    database.write_now(book_external, usage_event(model="gpt-big", attempt=2, cost_nano=None), held_against(), now)
    tried = call_scope(purpose="experiment", run_id=None, phase_id=None)
    database.write_now(book_external, usage_event(scope=tried, model="claude"), held_against(), now)
    database.close_now()
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def test_builders_auditors_and_what_is_apart_are_printed(home: Path) -> None:
    lines = run("scorecard").output.splitlines()
    assert lines[0].split("\t") == HEADER
    assert lines[1].split("\t") == [
        "ui", "gpt-big", "1 of 1, 100 % (20.7 to 100)", "–", "small (1 attempt)", "0/1/0", "100", "unpriced",
    ]  # fmt: skip
    assert lines[3].split("\t")[:3] == ["claude", "0 of 1, 0 % (0 to 79.3)", "small (1 verdict)"]
    assert lines[4] == "experiments with claude: 100 tokens, $0.0005"
    assert lines[5] == "Attempts in no rate: 1 ended by a person."
    assert lines[-1].startswith("Rehearsals, experiments and auxiliary agents are not in these numbers.")


@pytest.mark.parametrize(
    "arguments, rows",
    [((), 1), (("--days", "3"), 1), (("--from", "2020-01-01", "--to", "2020-02-01"), 0), (("--category", "docs"), 0)],
    ids=["ever", "last days", "long ago", "another category"],
)
def test_a_part_can_be_asked_for_in_json(home: Path, arguments: tuple[str, ...], rows: int) -> None:
    assert len(json.loads(run("scorecard", *arguments, "--json").output)["builders"]) == rows


def test_nothing_judged_is_said(home: Path) -> None:
    assert run("scorecard", "--category", "docs").output.startswith("No attempt of a real run has been judged")


def test_a_stretch_that_does_not_exist_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main(["scorecard", "--days", "0"])
    assert exit_code.value.code == 1
    assert capsys.readouterr().err.startswith("error: The last 0 days are no stretch of time.")
