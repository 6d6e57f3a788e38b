"""The verb ``usage``: any span of time and any run, as a person and as a program ask for it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from autopack_mcp.cli.main import cli, main
from autopack_mcp.library import UsageRecorder
from autopack_mcp.usage.event import UsageEvent
from tests.factories import call_scope, usage_event


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose ledger has a call of run R1 on 18 November 2020, made elsewhere."""
    monkeypatch.delenv("AUTOPACK_DATABASE_URL", raising=False)
    monkeypatch.setenv("AUTOPACK_CONFIG", "")
    monkeypatch.setenv("AUTOPACK_HOME", str(tmp_path / "home"))
    with UsageRecorder() as recorder:
        recorder.record_usage(a_call())
    return tmp_path / "home"


def a_call() -> UsageEvent:
    return usage_event("call-1", scope=call_scope(), category="ui", occurred_at=datetime(2020, 11, 18, 12, tzinfo=UTC))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ("usage", *arguments), catch_exceptions=False)


def test_any_stretch_of_time_can_be_asked_for(home: Path) -> None:
    inside = json.loads(run("--from", "2020-11-01", "--to", "2020-11-15", "--json").output)
    assert (inside["period"], inside["window_label"]) == (None, "2020-11-01 to 2020-11-15")
    assert (inside["starts_at"], inside["ends_at"]) == ("2020-11-01T00:00:00Z", "2020-11-16T00:00:00Z")


def test_a_run_is_shown_by_tier_and_phase(home: Path) -> None:
    found = json.loads(run("--run", "R1", "--json").output)
    assert [(phase["phase_id"], phase["total_tokens"]) for phase in found["phases"]] == [("P1", 100)]
    said = run("--run", "R1").output
    assert said.startswith("R1: 100 tokens, $0.0005\n")
    assert "phase\ttier\tname\tin\tout\tcalls\tcost\nP1\t–\t\t60\t40\t1\t$0.0005\n" in said


def test_what_was_used_stands_by_model_role_and_category(home: Path) -> None:
    said = run("--from", "2020-11-18", "--to", "2020-11-18").output
    assert said.startswith("2020-11-18: 100 tokens, $0.0005; core 100, auxiliary 0\n")
    assert "model\tprovider\tin\tout\tcalls\tcost\ngpt-4o\topenai\t60\t40\t1\t$0.0005\n" in said
    assert "role\tin\tout\tcalls\tcost\nbuilder\t60\t40\t1\t$0.0005\n" in said
    assert "category\tin\tout\tcalls\tcost\nui\t60\t40\t1\t$0.0005\n" in said


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--from", "2020-11-15", "--to", "2020-11-01"), "error: No time lies from '2020-11-15' to '2020-11-01'."),
        (("--from", "tomorrow"), "error: 'tomorrow' is no date that can be asked for."),
        (("--from", "2999-01-01"), "error: The stretch begins in the future"),
        (("--to", "2020-11-15"), "error: The stretch has an end and no beginning."),
        (("--period", "day", "--from", "2020-11-15"), "error: A period and a stretch"),
        (("--offset", "1"), "error: Offset 1 names no past or present week."),
        (("--run", "R9"), "error: No run 'R9'."),
    ],
    ids=["swapped", "no date", "future", "no beginning", "both", "next week", "no run"],
)
def test_what_cannot_be_shown_is_one_clear_line(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main(["usage", *arguments])
    assert exit_code.value.code == 1
    assert capsys.readouterr().err.startswith(message)
