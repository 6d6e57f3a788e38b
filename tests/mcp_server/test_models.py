"""explain_model: the router's own answer, with its reasons and the other choices."""

from __future__ import annotations

from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer

from autopack_mcp.clock import ManualClock
from autopack_mcp.database.engine import Database
from autopack_mcp.mcp_server.answers import RESULT_BYTES, result_bytes
from autopack_mcp.mcp_server.server import create_mcp_server
from autopack_mcp.routing.model_map import current_model_map, model_map_to_json
from autopack_mcp.summary.summaries import Summaries
from tests.factories import insert_phase, insert_run, model_settings, settings
from tests.mcp_server.conftest import Connect

pytestmark = pytest.mark.anyio


async def explained(connect: Connect, server: MCPServer, **arguments: Any) -> dict[str, Any]:
    async with connect(server) as client:
        result = await client.call_tool("explain_model", arguments)
    assert not result.is_error, result.content
    answer: dict[str, Any] = result.structured_content
    return answer


async def test_choice_is_said_with_its_reasons_and_the_other_choices(connect: Connect, server: MCPServer) -> None:
    answer = await explained(connect, server, role="builder", complexity="low")
    assert (answer["model"], answer["provider"], answer["rule"]) == ("gpt-small", "openai", "complexity")
    assert answer["reasons"] == ["complexity low uses gpt-small as builder"]
    assert {choice["model"] for choice in answer["choices"]} == {"gpt-big", "gpt-small", "claude"}
    assert answer["headline"] == "In a run started now, gpt-small answers builder for general, low."


async def test_run_is_asked_for_its_own_models(connect: Connect, server: MCPServer, database: Database) -> None:
    await database.write(insert_run, model_map=model_map_to_json(current_model_map(settings(), ())))
    await database.write(insert_phase)
    answer = await explained(connect, server, role="auditor", run_id="R1")
    assert (answer["model"], answer["run_id"]) == ("claude", "R1")
    assert answer["headline"].startswith("In run R1, claude answers auditor")


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"role": "painter"}, "Unknown role 'painter'."),
        ({"role": "builder", "category": "poetry"}, "Unknown category 'poetry'."),
        ({"role": "builder", "complexity": "huge"}, "Known are low, medium, high."),
        ({"role": "builder", "run_id": "R9"}, "No run 'R9'."),
    ],
    ids=["role", "category", "complexity", "run"],
)
async def test_unknown_word_is_answered_with_the_known_ones(
    connect: Connect, server: MCPServer, arguments: dict[str, Any], said: str
) -> None:
    async with connect(server) as client:
        result = await client.call_tool("explain_model", arguments)
    assert result.is_error
    assert said in result.content[0].text  # type: ignore[union-attr]


async def test_large_catalog_is_cut(connect: Connect, database: Database, clock: ManualClock) -> None:
    names = ("gpt-big", *(f"gpt-{number}-{'x' * 200}" for number in range(300)))
    many = settings(models={name: model_settings(name) for name in names})
    summaries = Summaries(
        database=database,
        settings=lambda: many,
        clock=clock,
        has_key=lambda provider: True,
        unit_price=lambda model: None,
    )
    answer = await explained(connect, create_mcp_server(summaries=summaries, control=None, version="1"), role="builder")
    assert result_bytes(answer) <= RESULT_BYTES
    assert answer["truncated"].endswith("of 301 choices; all are in the resource autopack://models.")
