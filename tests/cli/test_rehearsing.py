"""The verb ``rehearse``, as a person and as a program meet it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from autopack_mcp.cli.main import cli
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


async def rehearsed(folder: Path, plan: str, *options: str) -> Result:
    """What the verb answers. In a thread: it has an event loop of its own."""
    file = folder / "plan.yaml"
    file.write_text(plan, encoding="utf-8")
    return await asyncio.to_thread(CliRunner().invoke, cli, ["rehearse", str(file), *options])


async def test_a_rehearsal_ends_with_an_estimate(house: House, tmp_path: Path) -> None:
    plan = a_plan(make_repository(tmp_path / "project"), [a_phase("a"), a_phase("b", task_category="docs")])
    async with house.supervising():
        shown = await rehearsed(tmp_path, plan)
        capped = await rehearsed(tmp_path, f"{plan}token_cap: 30000\n")
        whole = json.loads((await rehearsed(tmp_path, plan, "--json")).output)

    assert shown.exit_code == 0
    rows = [line.split("\t") for line in shown.output.splitlines() if line.startswith(("a\t", "b\t"))]
    assert [(row[0], row[1]) for row in rows] == [
        ("a", "builder"),
        ("a", "auditor"),
        ("b", "builder"),
        ("b", "auditor"),
    ]
    assert rows[0][4] == "500 / 2,000 / 16,000"
    assert rows[0][6] == "assumed: only 0 own answers (builder)"
    assert "No cap is in the way." in shown.output
    assert "- Every phase is tried once, in the high case 2 times." in shown.output
    assert "In the way: the run's own cap, 30,000 tokens left of 30,000 tokens:" in capped.output
    assert (whole["rehearsal"]["state"], len(whole["estimate"]["roles"])) == ("succeeded", 4)
    assert whole["estimate"]["tokens"]["low"] < whole["estimate"]["tokens"]["high"]


async def test_a_plan_that_does_not_get_through_its_rehearsal_has_no_estimate(house: House, tmp_path: Path) -> None:
    plan = a_plan(make_repository(tmp_path / "project"), [a_phase("a", verify="echo Broken; false")], attempts_limit=1)
    async with house.supervising():
        shown = await rehearsed(tmp_path, plan)
        whole = await rehearsed(tmp_path, plan, "--json")

    assert (shown.exit_code, whole.exit_code) == (1, 1)
    assert "needs_attention: phase a failed" in shown.output
    assert "Broken" in shown.output
    assert "Altogether" not in shown.output
    told = json.loads(whole.output)
    assert (told["estimate"], told["rehearsal"]["state"]) == (None, "needs_attention")
