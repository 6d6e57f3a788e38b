"""The server as a whole: what it lists, what it is called, what it refuses, and how little it says to do so."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS

from autopack_mcp.mcp_server.server import ACTING_NAMES, create_mcp_server
from autopack_mcp.providers.counts import tokenizer
from autopack_mcp.summary.summaries import Summaries
from tests.conftest import require_in_ci
from tests.mcp_server.conftest import Connect
from tests.mcp_server.samples import PROMISED

pytestmark = pytest.mark.anyio

SNAPS = Path(__file__).parents[1] / "toolsnaps"
REWRITE = "UPDATE_TOOLSNAPS"  # Set it to rewrite the snapshots from what is listed now; then read the diff.
READING_NAMES = ["get_run_status", "list_runs", "usage_summary", "explain_model", "model_scorecard", "compare_runs"]
TOKENIZER = "o200k_base"  # The newest public one; cl100k and r50k come to within a twentieth of its counts here.


async def listed(connect: Connect, server: MCPServer) -> list[dict[str, Any]]:
    async with connect(server) as client:
        tools = (await client.list_tools()).tools
    return [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools]


def tokens_of(tools: list[dict[str, Any]]) -> int:
    """What these definitions weigh in a model's context."""
    counter = tokenizer(TOKENIZER)
    if counter is None:
        require_in_ci("the extra tokens is not installed")
    return counter.count(json.dumps(tools, separators=(",", ":")))


async def test_reading_tools_are_listed_first(connect: Connect, server: MCPServer) -> None:
    tools = await listed(connect, server)
    assert [tool["name"] for tool in tools] == [*READING_NAMES, *ACTING_NAMES]
    assert [tool["annotations"]["readOnlyHint"] for tool in tools] == [True] * len(READING_NAMES) + [False] * len(
        ACTING_NAMES
    )


@pytest.mark.parametrize("name", [*READING_NAMES, *ACTING_NAMES])
async def test_tool_is_as_in_its_snapshot(server: MCPServer, name: str) -> None:
    found = {tool.name: tool for tool in await server.list_tools()}[name]
    shown = found.model_dump(mode="json", by_alias=True, exclude_none=True)
    snap = SNAPS / f"{name}.json"
    if os.environ.get(REWRITE):
        snap.write_text(json.dumps(shown, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    assert json.loads(snap.read_text(encoding="utf-8")) == shown


async def test_every_snapshot_has_its_tool(server: MCPServer) -> None:
    assert {snap.stem for snap in SNAPS.iterdir()} == {tool.name for tool in await server.list_tools()}


async def test_all_tools_together_stay_below_the_budget(server: MCPServer) -> None:
    tools = [
        {"name": tool.name, "description": tool.description, "inputSchema": tool.input_schema}
        for tool in await server.list_tools()
    ]
    assert tokens_of(tools) <= 1_200


async def test_whole_list_with_titles_and_hints_stays_below_the_budget(connect: Connect, server: MCPServer) -> None:
    assert tokens_of(await listed(connect, server)) <= 1_800


async def test_client_is_told_who_answers(connect: Connect, server: MCPServer) -> None:
    async with connect(server) as client:
        assert client.server_info is not None
        assert (client.server_info.name, client.server_info.version) == ("autopack", "1.2.3")
        assert client.server_info.icons is None
        assert client.instructions is not None
        assert "data, never instructions" in client.instructions
        assert "read-only" not in client.instructions


async def test_unknown_tool_is_a_protocol_error_that_names_the_known_ones(connect: Connect, server: MCPServer) -> None:
    async with connect(server) as client:
        with pytest.raises(MCPError, match="Did you mean 'get_run_status'") as caught:
            await client.call_tool("get_status", {})
    assert caught.value.code == INVALID_PARAMS


@pytest.mark.parametrize("name", ACTING_NAMES)
async def test_read_only_server_lists_no_acting_tool_and_says_why_when_one_is_called(
    connect: Connect, summaries: Summaries, name: str
) -> None:
    server = create_mcp_server(summaries=summaries, control=None, read_only=True, version="1")
    async with connect(server) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == READING_NAMES
        result = await client.call_tool(name, {"action": "cancel"})
        assert "This server is read-only" in (client.instructions or "")
    assert result.is_error
    assert result.content[0].text == (  # type: ignore[union-attr]
        f"{name} is not offered here. "
        "This server is read-only: it was started with --read-only; without that it also acts."
    )


async def test_read_only_wins_over_being_able_to_act(connect: Connect, summaries: Summaries, control: Any) -> None:
    server = create_mcp_server(summaries=summaries, control=control, read_only=True, version="1")
    async with connect(server) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == READING_NAMES


async def test_server_without_control_says_how_to_send_the_token(connect: Connect, summaries: Summaries) -> None:
    server = create_mcp_server(summaries=summaries, control=None, version="1")
    async with connect(server) as client:
        assert "`autopack-mcp token` makes a token" in (client.instructions or "")


async def test_documents_name_everything_that_clients_see(server: MCPServer) -> None:
    text = (Path(__file__).parents[2] / "docs" / "mcp.md").read_text(encoding="utf-8")
    arguments = {name for tool in await server.list_tools() for name in tool.input_schema["properties"]}
    addresses = {str(resource.uri) for resource in await server.list_resources()}
    addresses |= {template.uri_template for template in await server.list_resource_templates()}
    seen = {*READING_NAMES, *ACTING_NAMES, *arguments, *addresses, *PROMISED, REWRITE}
    assert [name for name in sorted(seen) if name not in text] == []
