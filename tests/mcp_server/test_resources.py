"""Resources: the whole of what the tools cut, and nothing that is not there."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS
from sqlalchemy import Connection

from autopack_mcp.database.engine import Database
from autopack_mcp.notes import add_note, withdraw_note
from autopack_mcp.routing.model_map import current_model_map, model_map_to_json
from tests.factories import NOON, insert_phase, insert_run, settings
from tests.mcp_server.conftest import Connect

pytestmark = pytest.mark.anyio

ADDRESSES = [
    "autopack://models",
    "autopack://runs",
    "autopack://runs/{run_id}",
    "autopack://runs/{run_id}/context",
    "autopack://runs/{run_id}/models",
    "autopack://runs/{run_id}/notes",
    "autopack://runs/{run_id}/usage",
    "autopack://usage/{period}",
]


@pytest.fixture
def with_run(database: Database) -> None:
    def rows(connection: Connection) -> None:
        insert_run(connection, model_map=model_map_to_json(current_model_map(settings(), ())))
        for index in range(1, 31):
            insert_phase(connection, index)
        gone = add_note(connection, "R1", "Never mind.", "tool", "ann", NOON)
        withdraw_note(connection, "R1", gone, NOON)
        add_note(connection, "R1", "Skip the UI tests.", "tool", "ann", NOON)

    database.write_now(rows)


async def read(connect: Connect, server: MCPServer, uri: str) -> tuple[str | None, str]:
    async with connect(server) as client:
        (content,) = (await client.read_resource(uri)).contents
    return content.mime_type, content.text  # type: ignore[union-attr]


async def read_json(connect: Connect, server: MCPServer, uri: str) -> Any:
    media_type, text = await read(connect, server, uri)
    assert media_type == "application/json"
    return json.loads(text)


async def test_every_address_is_listed_with_its_title(connect: Connect, server: MCPServer) -> None:
    async with connect(server) as client:
        fixed = (await client.list_resources()).resources
        patterns = (await client.list_resource_templates()).resource_templates
    assert sorted([*(one.uri for one in fixed), *(one.uri_template for one in patterns)]) == ADDRESSES
    assert all(one.title for one in (*fixed, *patterns))


@pytest.mark.usefixtures("with_run")
async def test_run_is_told_whole(connect: Connect, server: MCPServer) -> None:
    run = await read_json(connect, server, "autopack://runs/R1")
    assert (run["run_id"], len(run["phases"]), len(run["notes"])) == ("R1", 30, 2)
    assert [run["run_id"] for run in (await read_json(connect, server, "autopack://runs"))["runs"]] == ["R1"]


@pytest.mark.usefixtures("with_run")
async def test_notes_are_told_with_the_withdrawn_ones(connect: Connect, server: MCPServer) -> None:
    notes = await read_json(connect, server, "autopack://runs/R1/notes")
    assert [(note["text"], note["in_force"]) for note in notes] == [
        ("Never mind.", False),
        ("Skip the UI tests.", True),
    ]


@pytest.mark.usefixtures("with_run")
async def test_context_block_is_markdown(connect: Connect, server: MCPServer) -> None:
    media_type, text = await read(connect, server, "autopack://runs/R1/context")
    assert media_type == "text/markdown"
    assert text.startswith("# Run `R1`: running, 0 %")


@pytest.mark.usefixtures("with_run")
async def test_models_are_those_of_the_run_or_of_a_new_one(connect: Connect, server: MCPServer) -> None:
    of_run = await read_json(connect, server, "autopack://runs/R1/models")
    assert (of_run["run_id"], of_run["rows"][0]["model"]) == ("R1", "gpt-big")
    assert (await read_json(connect, server, "autopack://models"))["run_id"] is None


@pytest.mark.parametrize(
    "asked, label",
    [
        ("day", "2026-11-18"),
        ("week", "2026-W47"),
        ("week-1", "2026-W46"),
        ("month-11", "2025-12"),
        ("2026-11-01..2026-11-15", "2026-11-01 to 2026-11-15"),
        ("2026-11-17T22:00Z..2026-11-18T02:00Z", "2026-11-17 22:00 to 2026-11-18 02:00"),
    ],
)
async def test_usage_is_told_of_any_time(connect: Connect, server: MCPServer, asked: str, label: str) -> None:
    assert (await read_json(connect, server, f"autopack://usage/{asked}"))["window_label"] == label


@pytest.mark.usefixtures("with_run")
async def test_usage_of_a_run_is_told_by_tier_and_phase(connect: Connect, server: MCPServer) -> None:
    usage = await read_json(connect, server, "autopack://runs/R1/usage")
    assert (usage["run_id"], len(usage["tiers"]), len(usage["phases"])) == ("R1", 1, 30)


@pytest.mark.parametrize(
    "uri, said",
    [
        ("autopack://runs/R9", "There are no runs yet."),
        ("autopack://runs/R9/context", "There are no runs yet."),
        ("autopack://runs/R9/notes", "There are no runs yet."),
        ("autopack://runs/R9/models", "There are no runs yet."),
        ("autopack://runs/R9/usage", "There are no runs yet."),
        ("autopack://usage/year", "Periods are day, week, month"),
        ("autopack://usage/week-9999999", "Periods are day, week, month"),
        ("autopack://usage/2026-11-15..2026-11-01", "To must come after from"),
        ("autopack://bills", "Unknown resource"),
        ("autopack://runs/..%2Fsecret", "Unknown resource"),
    ],
)
async def test_what_is_not_there_is_said_with_what_is(connect: Connect, server: MCPServer, uri: str, said: str) -> None:
    async with connect(server) as client:
        with pytest.raises(MCPError, match=said) as caught:
            await client.read_resource(uri)
    assert caught.value.code == INVALID_PARAMS
