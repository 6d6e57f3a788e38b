"""The verb ``usage``: any span of time and any run, as a person and as a program ask for it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from autopack_mcp.app import open_autopack
from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.cli.main import cli, main
from autopack_mcp.library import UsageRecorder
from autopack_mcp.usage.event import UsageEvent
from tests.factories import NOON, call_scope, held_against, usage_event


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


def test_rehearsals_are_mentioned_where_there_were_some(home: Path) -> None:
    on_that_day = ("--from", "2020-11-18", "--to", "2020-11-18")
    assert "Rehearsals" not in run(*on_that_day).output
    autopack = open_autopack()
    rehearsed = usage_event(scope=call_scope(purpose="rehearsal"), occurred_at=datetime(2020, 11, 18, 12, tzinfo=UTC))
    autopack.database.write_now(book_external, rehearsed, held_against(), NOON)
    autopack.database.close_now()
    assert "Rehearsals are not in these numbers: they buy no tokens. Calls rehearsed: 1.\n" in run(*on_that_day).output


def test_what_was_used_stands_by_model_role_and_category(home: Path) -> None:
    said = run("--from", "2020-11-18", "--to", "2020-11-18").output
    assert said.startswith("2020-11-18: 100 tokens, $0.0005; core 100, auxiliary 0\n")
    assert "model\tprovider\tin\tout\tcalls\tcost\ngpt-4o\topenai\t60\t40\t1\t$0.0005\n" in said
    assert "role\tin\tout\tcalls\tcost\nbuilder\t60\t40\t1\t$0.0005\n" in said
    assert "category\tin\tout\tcalls\tcost\nui\t60\t40\t1\t$0.0005\n" in said
    assert "run\tplan\tin\tout\tcalls\tcost\nR1\t–\t60\t40\t1\t$0.0005\n" in said


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


def test_export_goes_to_a_pipe_or_into_a_file(home: Path, tmp_path: Path) -> None:
    said = run("export", "--from", "2020-11-01", "--to", "2020-11-30")
    header, row = said.stdout_bytes.split(b"\r\n")[:2]
    assert header.startswith(b"occurred_at,call_id,provider,model,")
    assert row.startswith(b"2020-11-18T12:00:00Z,call-1,openai,gpt-4o,builder,ui,R1,P1,1,run,external,")
    file = tmp_path / "days.json"
    run("export", "--format", "json", "--rows", "days", "--from", "2020-11-18", "--to", "2020-11-18",
        "--output", str(file))  # fmt: skip
    assert [(row["day_start"], row["calls"]) for row in json.loads(file.read_text())] == [("2020-11-18T00:00:00Z", 1)]


def test_options_before_a_sub_verb_are_refused_and_not_ignored(home: Path) -> None:
    refused = run("--from", "2020-11-01", "export")
    assert refused.exit_code == 2
    assert "Write the options behind 'export', not before it." in refused.output


def test_export_of_a_run_has_its_calls_of_any_time(home: Path) -> None:
    assert run("export", "--run", "R1").stdout_bytes.count(b"\r\n") == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--run", "R9"), "error: No run 'R9'."),
        (("--run", "R1", "--rows", "hours"), "error: Of one run there are no rows of hours."),
        (("--from", "2020-11-30", "--to", "2020-11-01"), "error: No time lies from"),
        (
            ("--output", "/nowhere/usage.csv"),
            "error: '/nowhere/usage.csv' cannot be written: No such file or directory.",
        ),
    ],
    ids=["no run", "hours of a run", "swapped", "no folder"],
)
def test_export_that_cannot_be_is_one_clear_line(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main(["usage", "export", *arguments])
    assert exit_code.value.code == 1
    said = capsys.readouterr()
    assert (said.err.startswith(message), said.out) == (True, "")


def test_a_file_that_cannot_be_completed_leaves_the_old_one(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"
    file.write_text("the old one")
    (home / "autopack.db").write_bytes(b"no database" * 100)
    with pytest.raises(SystemExit):
        main(["usage", "export", "--run", "R1", "--output", str(file)])
    assert file.read_text() == "the old one"
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []
