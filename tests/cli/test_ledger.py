"""The verbs that care for the ledger, as a person and as a program meet them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Executable, delete, update

from autopack_mcp.budgets import ledger
from autopack_mcp.cli.main import cli, main
from autopack_mcp.database.engine import Database
from autopack_mcp.database.migrate import open_database
from autopack_mcp.database.tables import usage_days, usage_events, usage_phases
from autopack_mcp.traces.spans import Span, spans_of_run, write_span
from autopack_mcp.traces.texts import Words, newest_kept, pack, write_words
from tests.factories import held_against, insert_run, reservation, token_counts, truth_of, usage_event

NOW = datetime.now(UTC)  # The verbs ask the machine's clock.


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new AUTOPACK_HOME without keys."""
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AUTOPACK_DATABASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AUTOPACK_CONFIG", "")
    monkeypatch.setenv("AUTOPACK_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def spent(home: Path, empty_database_file: Path) -> Iterator[Database]:
    """Two calls of gpt-5 in the home's ledger: one of today, one of 500 days ago."""
    (home / "autopack.db").write_bytes(empty_database_file.read_bytes())
    database = open_database(f"sqlite:///{home / 'autopack.db'}")
    for number, days in enumerate((0, 500)):
        at = NOW - timedelta(days=days)
        promise = reservation(f"c-{number}", model="gpt-5")
        truth = truth_of(promise, tokens=100, counts=token_counts(uncached_input=10**6, output=0), cost_nano=10**9)
        database.write_now(ledger.reserve, promise, held_against(), None, at)
        database.write_now(ledger.settle, truth, held_against(), at)
    yield database
    database.close_now()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ("usage", *arguments), catch_exceptions=False)


def changed(database: Database, statement: Executable) -> None:
    database.write_now(lambda connection: connection.execute(statement))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit_code:
        main(["usage", *arguments])
    assert exit_code.value.code == 1
    return capsys.readouterr().err


# check


def test_a_ledger_that_adds_up_is_one_line_and_code_zero(spent: Database) -> None:
    found = run("check")

    assert found.output == "All 2 events, 2 reservations, 0 counters add up.\n"
    assert found.exit_code == 0


def test_each_difference_is_a_line_and_the_code_is_one(spent: Database) -> None:
    changed(spent, update(usage_days).values(calls=2))

    found = run("check")

    first, second, last = found.output.splitlines()
    assert first.endswith("calls is 2, must be 1")
    assert second.startswith("usage_days ")
    assert last.startswith("2 differences in 2 events, 2 reservations, 0 counters.")
    assert "usage rebuild" in last
    assert found.exit_code == 1


def test_a_check_answers_in_json(spent: Database) -> None:
    assert json.loads(run("check", "--json").output)["adds_up"] is True
    changed(spent, delete(usage_days))

    found = run("check", "--json")

    said = json.loads(found.output)
    assert (said["adds_up"], said["difference_count"], len(said["differences"])) == (False, 2, 2)
    assert set(said["differences"][0]) == {"where", "what", "found", "expected"}
    assert found.exit_code == 1


def test_a_cap_that_stands_exceeded_is_a_note_and_no_difference(spent: Database, home: Path) -> None:
    (home / "models.yaml").write_text("providers:\n  openai:\n    sdk: openai\n    weekly_cap_tokens: 10\n")

    found = run("check")

    assert "note: Openai's cap of the week is 10 tokens and 1,000,000 tokens are used" in found.output
    assert found.exit_code == 0


def test_names_that_others_gave_show_what_they_hide(spent: Database) -> None:
    changed(spent, update(usage_days).values(calls=2, role="builder\u202e\x1b[2J"))

    assert "builder\\u202e\\x1b[2J" in run("check").output


# rebuild


def test_rebuilding_says_what_it_made_anew(spent: Database) -> None:
    assert run("rebuild").output.startswith("Nothing to rebuild")
    changed(spent, delete(usage_days))

    assert run("rebuild").output.startswith("usage_days: made 2 anew (")
    assert run("check").exit_code == 0
    assert json.loads(run("rebuild", "--json").output) == {"rebuilt": []}


# prune


def test_what_would_go_is_said_and_then_goes(spent: Database) -> None:
    old = f"{NOW - timedelta(days=500):%Y-%m-%d}"
    what = f"1 call (reserved {old} to {old}), 0 lines, 1 reservation; their sums by hour, day and run are kept."

    assert run("prune", "--older-than", "400d", "--dry-run").output == f"Would delete {what}\n"
    assert json.loads(run("prune", "--older-than", "400d", "--dry-run", "--json").output)["events"] == 1
    first, second = run("prune", "--older-than", "400d").output.splitlines()
    assert first == f"Deleted {what}"
    assert "VACUUM" in second
    assert run("prune", "--older-than", "400d").output.endswith("nothing was deleted.\n")
    assert run("check").output == "All 1 event, 1 reservation, 0 counters add up.\n"


def test_words_go_as_models_yaml_says_and_spans_with_the_calls(home: Path, spent: Database) -> None:
    (home / "models.yaml").write_text("providers: {openai: {}}\nruns: {keep_prompts_days: 10}\n", encoding="utf-8")
    words = pack(Words((("user", "Hello?"),), 9), {})
    spent.write_now(insert_run)
    for days in (1, 20, 500):
        at = NOW - timedelta(days=days)
        whose: dict[str, Any] = {"run_id": "R1", "phase_id": None, "role": "builder", "model": "gpt-5"}
        spent.write_now(write_words, words, call_id=f"c-{days}", **whose, at=at)
        spent.write_now(write_span, Span(f"s{days}", "R1", "git", "apply a", at, at))

    dry = json.loads(run("prune", "--older-than", "400d", "--dry-run", "--json").output)
    assert (dry["prompts"], dry["spans"]) == (2, 1)
    assert "Would delete the words of 2 calls and 1 span." in run("prune", "--older-than", "400d", "--dry-run").output
    assert "Deleted the words of 2 calls and 1 span." in run("prune", "--older-than", "400d").output
    assert spent.read_now(newest_kept) == ("c-1",)
    assert [span.span_id for span in spent.read_now(spans_of_run, "R1")] == ["s20", "s1"]


@pytest.mark.parametrize("days", ["400", "soon", "61d"])
def test_an_age_that_is_none_or_too_young_is_refused(home: Path, days: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "error: " in refused(capsys, "prune", "--older-than", days)


def test_an_age_must_be_given(home: Path) -> None:
    assert run("prune").exit_code == 2


# reprice


def test_a_price_of_ones_own_is_held_against_what_was_recorded(spent: Database, home: Path) -> None:
    model = "models:\n  gpt-5:\n    provider: openai\n    price: {input: 3, output: 1}\n"
    (home / "models.yaml").write_text(f"providers:\n  openai: {{sdk: openai}}\n{model}", encoding="utf-8")

    header, row, total = [line.split("\t") for line in run("reprice").output.splitlines()]

    assert header[2:6] == ["calls", "recorded", "today", "difference"]
    assert row[:6] == ["openai", "gpt-5", "2", "$2.00", "$6.00", "+$4.00"]
    assert row[6].startswith("models.yaml:")
    assert total[:6] == ["all", "all", "2", "$2.00", "$6.00", "+$4.00"]


def test_without_any_call_there_is_nothing_to_price_again(home: Path) -> None:
    said = "There were no calls in that time, so there is nothing to price again.\n"
    assert run("reprice").output == run("reprice", "--from", "2020-01-01", "--to", "2020-01-02").output == said


def test_unpriced_calls_are_said_and_never_zero(spent: Database) -> None:
    changed(spent, update(usage_events).values(model="a-new-model", cost_nano=None, price_version=None))

    row = run("reprice").output.splitlines()[1].split("\t")

    assert row[2:7] == ["2", "unpriced", "unpriced", "–", "–"]


def test_a_stretch_is_priced_alone_and_what_went_by_age_is_said(spent: Database) -> None:
    today = f"{NOW:%Y-%m-%d}"
    whole = json.loads(run("reprice", "--json").output)
    part = json.loads(run("reprice", "--from", today, "--json").output)
    run("prune", "--older-than", "400d")

    assert (whole["total"]["calls"], part["total"]["calls"]) == (2, 1)
    assert part["models"][0]["recorded_usd"] == 1.0
    assert "were deleted by age" in run("reprice").output
    assert "were deleted by age" not in run("reprice", "--from", today).output


def test_a_stretch_that_is_none_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no beginning" in refused(capsys, "reprice", "--to", "2026-01-01")


def test_a_list_of_runs_says_that_calls_had_no_price(spent: Database) -> None:
    spent.write_now(insert_run)
    changed(spent, update(usage_phases).values(unpriced_calls=1, calls=2))

    assert "$2.00 + 1 unpriced call\t" in CliRunner().invoke(cli, ["runs"], catch_exceptions=False).output


def test_every_verb_explains_itself(home: Path) -> None:
    listed = run("--help").output
    for verb in ("check", "rebuild", "prune", "reprice"):
        assert verb in listed
        assert run(verb, "--help").output.startswith("Usage: ")


def test_an_empty_ledger_is_answered_by_every_verb(home: Path) -> None:
    assert "add up" in run("check").output
    assert "Nothing to rebuild" in run("rebuild").output
    assert "nothing was deleted" in run("prune", "--older-than", "62d").output
    assert run("reprice").exit_code == 0


def test_an_external_call_is_checked_like_any(spent: Database) -> None:
    spent.write_now(ledger.book_external, usage_event(status="external", occurred_at=NOW), held_against(), NOW)

    assert run("check").output.startswith("All 3 events")
