"""The verbs that try again and compare, as a person types them beside a running product."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from autopack_mcp.cli.main import cli
from autopack_mcp.cli.replaying import seconds_text
from autopack_mcp.errors import RequestRefused
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


async def test_a_fork_and_its_comparison_are_two_lines_to_type(house: House, tmp_path: Path) -> None:
    plan = a_plan(make_repository(tmp_path / "project"), [a_phase("a"), a_phase("b", verify="false")], attempts_limit=1)
    async with house.supervising():
        run = await house.stopped(await house.start(plan))
        forked = await typed("fork", run.run_id, "b", "--verify", "true", "--note", "Mind the tests.", "--wait")
        (fork_id,) = [one.run_id for one in (await house.autopack.summaries.runs()).runs if one.run_id != run.run_id]
        compared = await typed("compare", fork_id)
        brief = await typed("compare", run.run_id, fork_id, "--no-diff")
        whole = json.loads((await typed("compare", run.run_id, fork_id, "--json")).output)

    assert forked.exit_code == 0
    assert f"Forked from {run.run_id}, phase b" in forked.output
    assert "Note 1: Mind the tests." in forked.output
    lines = compared.output.splitlines()
    assert lines[0] == f"\t{run.run_id}\t{fork_id}"
    assert lines[2:5] == [
        "state\tneeds_attention\tsucceeded", f"forked from\t–\t{run.run_id}, phase b", "phases\t1 of 2\t1 of 1"
    ]  # fmt: skip
    (row,) = [line.split("\t") for line in lines if line.startswith("b\t")]
    assert (row[1], row[6]) == ("failed, red", "succeeded, approved")
    assert "From A to B: 1 files, 1 lines added, 0 removed." in compared.output
    assert compared.output.endswith("+b\n\n")
    assert "+b" not in brief.output
    assert (whole["b"]["forked_from"], whole["diff"]["added_lines"]) == (f"{run.run_id}, phase b", 1)


async def test_a_fork_that_fails_makes_waiting_fail(house: House, tmp_path: Path) -> None:
    async with house.supervising():
        run = await house.stopped(await house.start(a_plan(make_repository(tmp_path / "project"), [a_phase("a")])))
        asked = await typed("fork", run.run_id, "a", "--verify", "false", "--rehearse", "--wait")
        refused = await typed("fork", run.run_id, "z")

    assert asked.exit_code == 1
    assert isinstance(refused.exception, RequestRefused)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "–"), (0.04, "0.0 s"), (59.9, "59.9 s"), (60, "1 min 0 s"), (3_599, "59 min 59 s"), (7_500, "2 h 5 min")],
)
def test_a_duration_is_said_in_its_own_size(seconds: float | None, said: str) -> None:
    assert seconds_text(seconds) == said
