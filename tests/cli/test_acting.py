"""The verbs that act, as a person types them beside a running product."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from autopack_mcp.cli.main import cli
from autopack_mcp.errors import AutopackError
from tests.factories import insert_run
from tests.projects import a_phase, a_plan, make_repository
from tests.runs.house import House, open_house

pytestmark = pytest.mark.anyio


@pytest.fixture
async def house(tmp_path: Path, empty_database_file: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """A product in the AUTOPACK_HOME of this process, so that a verb finds it."""
    for variable, value in (("AUTOPACK_CONFIG", ""), ("AUTOPACK_HOME", str(tmp_path / "home"))):
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv("AUTOPACK_DATABASE_URL", raising=False)
    async with open_house(tmp_path, empty_database_file) as opened:
        yield opened


async def typed(*words: str) -> Result:
    """What a verb answers. In a thread: a verb has an event loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, cli, words)


async def test_a_cap_is_raised_and_the_run_goes_on(house: House, tmp_path: Path) -> None:
    plan = a_plan(make_repository(tmp_path / "project"), token_cap=1_000)
    async with house.supervising():
        stopped = await house.stopped(await house.start(plan))
        waits = (await typed("status", stopped.run_id)).output
        answer = await typed("raise-cap", stopped.run_id, "--tokens", "9000000", "--usd", "$1,000.50")
        run = await house.stopped(stopped.run_id)

    assert (stopped.state, answer.exit_code) == ("budget_paused", 0)
    assert waits.count(stopped.why) == 1
    assert f"  Or type: autopack-mcp raise-cap {run.run_id} --tokens " in waits
    assert (
        f"The cap of run {run.run_id} is now 9,000,000 tokens (before: 1,000 tokens); 0 tokens are used."
        in answer.output
    )
    assert f"The cap of run {run.run_id} is now $1,000.50 (there was none); $0.00 are used." in answer.output
    assert "The run goes on where it paused." in answer.output
    assert run.state == "succeeded"


@pytest.mark.parametrize(
    "words, said",
    [
        (("R1",), "No cap is given. Say the new total: tokens, dollars or both."),
        (("R1", "--tokens", "0"), "A cap is from 1 to 9,223,372,036,854,775,807 tokens, not 0."),
        (("R1", "--tokens", "-5"), "tokens, not -5."),
        (("R1", "--usd", "nan"), "not NaN."),
        (("R1", "--usd", "-1"), "not -1."),
        (("R1", "--tokens", "5", "--phase", "x"), "Run R1 has no phase 'x'."),
        (("R2", "--tokens", "5"), "No run 'R2'."),
        (("done", "--tokens", "5"), "'raise_cap' is not possible while the run is 'failed'."),
    ],
)
async def test_a_cap_that_cannot_be_is_refused_in_words(house: House, words: tuple[str, ...], said: str) -> None:
    house.autopack.database.write_now(insert_run)
    house.autopack.database.write_now(lambda connection: insert_run(connection, "done", state="failed"))

    error = (await typed("raise-cap", *words)).exception
    assert isinstance(error, AutopackError)
    assert said in str(error)


@pytest.mark.parametrize(
    ("text", "tokens"), [("18k", "18,000"), ("1.5M", "1,500,000"), ("18000", "18,000"), ("200,000 tokens", "200,000")]
)
async def test_a_cap_in_tokens_is_written_as_in_an_order(house: House, tmp_path: Path, text: str, tokens: str) -> None:
    async with house.supervising():
        stopped = await house.stopped(await house.start(a_plan(make_repository(tmp_path / "p"), token_cap=1)))
        answer = await typed("raise-cap", stopped.run_id, "--tokens", text)
    assert f"is now {tokens} tokens (before: 1 token)" in answer.output


@pytest.mark.parametrize(
    "words", [("R1", "--usd", "five"), ("R1", "--tokens", "$5"), ("R1", "--tokens", "1.5"), ("R1", "--token", "x"), ()]
)
async def test_a_cap_that_cannot_be_read_is_wrong_usage(house: House, words: tuple[str, ...]) -> None:
    answer = await typed("raise-cap", *words)
    assert (answer.exit_code, "Usage: " in answer.output) == (2, True)


async def test_help_says_that_a_cap_is_a_total(house: House) -> None:
    assert "the new total, not what is added" in (await typed("raise-cap", "--help")).output


async def test_a_phase_is_edited_skipped_and_retried_and_a_run_given_up(house: House, tmp_path: Path) -> None:
    phases = [a_phase("a", verify="false"), a_phase("b", verify="false")]
    async with house.supervising():
        run_id = await house.start(a_plan(make_repository(tmp_path / "project"), phases, attempts_limit=1))
        await house.stopped(run_id)
        edited = await typed("edit", run_id, "a", "--verify", "true", "--description", "Write it.")
        retried = await typed("retry", run_id, "a")
        await house.until(run_id, lambda run: run.phases[1].state == "failed")
        skipped = await typed("skip", run_id, "b", "--reason", "no time")
        run = await house.stopped(run_id)
        given_up = (await typed("give-up", run_id)).exception

    # A command may be set here, for whoever types may run any command anyway.
    assert "Phase a has another description and verification command now. Retry phase a" in edited.output
    assert "Phase a begins anew" in retried.output
    assert "Phase b is skipped and counts as completed (no time)." in skipped.output
    assert (run.state, run.phases[0].attempt) == ("succeeded", 2)
    assert "'give_up' is not possible while the run is 'succeeded'" in str(given_up)


@pytest.mark.parametrize("words", [("skip", "R1", "a"), ("skip", "R1"), ("edit", "R1"), ("retry",), ("give-up",)])
async def test_a_phase_that_is_not_fully_named_is_wrong_usage(house: House, words: tuple[str, ...]) -> None:
    answer = await typed(*words)
    assert (answer.exit_code, "Usage: " in answer.output) == (2, True)


async def test_what_cannot_be_done_with_a_phase_is_refused_in_words(house: House) -> None:
    house.autopack.database.write_now(insert_run)

    error = (await typed("retry", "R1", "z")).exception
    assert isinstance(error, AutopackError)
    assert "Run R1 has no phase 'z'." in str(error)
