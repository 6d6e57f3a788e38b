"""Summaries: servers and the command line are told the same, and asking costs no heavy import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.clock import ManualClock
from autopack_mcp.config.settings import ProviderSettings
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import AutopackError
from autopack_mcp.routing.model_map import current_model_map, model_map_to_json
from autopack_mcp.summary.run import RunSummary
from autopack_mcp.summary.shown import plain
from autopack_mcp.summary.summaries import Summaries
from tests.factories import NOON, held_against, insert_phase, insert_run, insert_supervisor, settings, usage_event

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


@pytest.fixture
def summaries(database: Database, clock: ManualClock) -> Summaries:
    def has_key(provider: ProviderSettings) -> bool:
        return False

    return Summaries(database=database, settings=settings, clock=clock, has_key=has_key, unit_price=lambda model: None)


@pytest.fixture
def run_id(database: Database) -> str:
    database.write_now(insert_run, model_map=model_map_to_json(current_model_map(settings(), ())))
    database.write_now(insert_phase)
    database.write_now(book_external, usage_event(), held_against(), NOON)
    return "R1"


async def test_servers_and_the_command_line_are_told_the_same(summaries: Summaries, run_id: str) -> None:
    assert await summaries.run(run_id) == summaries.run_now(run_id)
    assert await summaries.current() == summaries.current_now()
    assert await summaries.runs() == summaries.runs_now()
    assert await summaries.usage() == summaries.usage_now()
    assert await summaries.usage("day", -1) == summaries.usage_now("day", -1)
    assert await summaries.models() == summaries.models_now()
    assert await summaries.models(run_id) == summaries.models_now(run_id)
    question = ("builder", "general", "low", run_id)
    assert await summaries.explain(*question) == summaries.explain_now(*question)
    assert await summaries.context_block(run_id) == summaries.context_block_now(run_id)


async def test_every_summary_becomes_json(summaries: Summaries, run_id: str) -> None:
    run = plain(await summaries.run(run_id))
    assert isinstance(run, dict)
    assert run.keys() >= {"run_id", "percent_complete", "tokens_used", "needs_you", "phases"}
    for summary in (await summaries.runs(), await summaries.usage(), await summaries.models(run_id)):
        assert plain(summary)


async def test_the_clock_is_asked_at_every_question(summaries: Summaries, run_id: str, clock: ManualClock) -> None:
    assert (await summaries.usage("day")).total_tokens == 100
    clock.advance(86_400)
    assert (await summaries.usage("day")).total_tokens == 0


async def test_the_keys_of_the_living_supervisor_are_what_counts(
    summaries: Summaries, database: Database, clock: ManualClock
) -> None:
    async def lacking() -> set[str]:
        standings = (await summaries.models()).standings
        return {one.provider for one in standings if one.missing_key_variable is not None}

    assert await lacking() == {"openai", "anthropic"}  # Nobody is alive: this process is asked, and it has none.
    database.write_now(insert_supervisor, key_variables=["OPENAI_API_KEY"])
    assert await lacking() == {"anthropic"}
    clock.advance(7)
    assert await lacking() == {"openai", "anthropic"}


async def test_errors_reach_the_caller_as_they_are(summaries: Summaries) -> None:
    with pytest.raises(AutopackError, match="There are no runs yet"):
        await summaries.run("R9")
    with pytest.raises(AutopackError, match="Periods are day, week, month"):
        await summaries.usage("year")


async def test_the_current_run_is_a_summary(summaries: Summaries, run_id: str) -> None:
    current = await summaries.current()
    assert isinstance(current, RunSummary)
    assert current.run_id == run_id


def test_asking_imports_neither_sdks_nor_protocol_nor_validation() -> None:
    code = (
        "import sys, autopack_mcp.summary.summaries, autopack_mcp.summary.models, autopack_mcp.summary.usage\n"
        "print(sorted({'pydantic', 'mcp', 'openai', 'anthropic', 'genai_prices', 'yaml'} & sys.modules.keys()))"
    )
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert asked.stdout == "[]\n"
