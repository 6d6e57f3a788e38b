"""The tools' machinery: strict, small, and finished even when nobody waits."""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal

import anyio
import pytest
from mcp.client import Client
from mcp.server.mcpserver import Context, MCPServer
from pydantic import Field

from autopack_mcp.errors import RunNotFound
from autopack_mcp.mcp_server.answers import Answer
from autopack_mcp.mcp_server.tool import small_schema, tool_of
from tests.mcp_server.conftest import Connect

pytestmark = pytest.mark.anyio


async def look(
    run_id: Annotated[str | None, Field(description="which")] = None,
    period: Literal["day", "week"] = "week",
    limit: int = 3,
) -> Answer:
    """Look at
    something.

    For readers of the code.
    """
    return {"run_id": run_id, "period": period, "limit": limit}


async def tell(*, context: Context[Any, Any], note: str) -> Answer:
    """Say something."""
    return {"note": note, "asked": context.request_id != ""}


async def miss(run_id: str) -> Answer:
    """Find nothing."""
    raise RunNotFound(run_id)


async def stumble() -> Answer:
    """Do it wrong."""
    raise KeyError("secret/path")


@pytest.fixture
def small_server() -> MCPServer:
    return MCPServer("small", tools=[tool_of(fn, title="T") for fn in (look, tell, miss, stumble)])


async def refusal(client: Client, tool: str, arguments: dict[str, Any]) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    assert result.structured_content is None
    return str(result.content[0].text)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"runid": "r"}, "There is no argument 'runid'. Did you mean 'run_id'?"),
        ({"id": "r"}, "There is no argument 'id'. Did you mean 'run_id'?"),
        ({"colour": 1}, "There is no argument 'colour'."),
        ({"period": "weekly"}, "period cannot be 'weekly'; it is one of 'day' or 'week'. Did you mean 'week'?"),
        ({"limit": "many"}, "limit cannot be 'many': Input should be a valid integer"),
        ({"run_id": 7}, "run_id cannot be 7: Input should be a valid string."),
    ],
    ids=["typo", "part of a name", "invented", "near a choice", "not a number", "not a text"],
)
async def test_wrong_argument_is_refused_in_words(
    small_server: MCPServer, connect: Connect, arguments: dict[str, Any], said: str
) -> None:
    async with connect(small_server) as client:
        lines = (await refusal(client, "look", arguments)).splitlines()
    assert lines[0].startswith(said)
    assert lines[-1] == "look takes: run_id, period, limit."


async def test_everything_wrong_is_said_at_once(small_server: MCPServer, connect: Connect) -> None:
    async with connect(small_server) as client:
        said = await refusal(client, "tell", {"nota": "x"})
    assert said.splitlines() == [
        "The argument 'note' is missing.",
        "There is no argument 'nota'. Did you mean 'note'?",
        "tell takes: note (required).",
    ]


async def test_hostile_argument_is_shown_harmlessly(small_server: MCPServer, connect: Connect) -> None:
    async with connect(small_server) as client:
        said = await refusal(client, "look", {"\u202erun\x1b[0m" + "x" * 500: 1})
    assert "\u202e" not in said
    assert "\x1b" not in said
    assert len(said) < 200


@pytest.mark.parametrize("note", ['{"a": 1}', "[1, 2]", "null", "7", "true"])
async def test_text_that_looks_like_json_stays_text(small_server: MCPServer, connect: Connect, note: str) -> None:
    async with connect(small_server) as client:
        result = await client.call_tool("tell", {"note": note})
    assert result.structured_content == {"note": note, "asked": True}


async def test_null_stands_for_an_argument_left_out(small_server: MCPServer, connect: Connect) -> None:
    async with connect(small_server) as client:
        result = await client.call_tool("look", {"run_id": None, "limit": 5})
    assert result.structured_content == {"run_id": None, "period": "week", "limit": 5}


async def test_our_errors_are_told_without_a_prefix(small_server: MCPServer, connect: Connect) -> None:
    async with connect(small_server) as client:
        assert (await refusal(client, "miss", {"run_id": "r-9"})).startswith("No run 'r-9'.\nThere are no runs yet.\n")


async def test_defect_is_logged_and_not_told(
    small_server: MCPServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(small_server) as client:
        said = await refusal(client, "stumble", {})
    assert said.startswith("stumble failed because of a defect in autopack-mcp")
    assert "secret" not in said
    assert [record.exc_info is not None for record in caplog.records if record.levelno == logging.ERROR] == [True]


def test_description_is_the_first_paragraph_on_one_line() -> None:
    assert tool_of(look, title="Look").description == "Look at something."


def test_hints_say_what_a_tool_may_do() -> None:
    reading = tool_of(look, title="Look").annotations
    acting = tool_of(tell, title="Tell", is_acting=True, is_destructive=True).annotations
    assert reading is not None
    assert acting is not None
    assert (reading.read_only_hint, reading.destructive_hint, reading.idempotent_hint) == (True, False, True)
    assert (acting.read_only_hint, acting.destructive_hint, acting.open_world_hint) == (False, True, False)


def test_schema_says_only_what_a_model_needs() -> None:
    assert tool_of(look, title="Look").parameters == {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "run_id": {"type": "string", "description": "which"},
            "period": {"type": "string", "enum": ["day", "week"], "default": "week"},
            "limit": {"type": "integer", "default": 3},
        },
    }


def test_request_is_no_argument() -> None:
    assert list(tool_of(tell, title="Tell").parameters["properties"]) == ["note"]


def test_argument_called_title_would_stay() -> None:
    schema = {"type": "object", "title": "A", "properties": {"title": {"type": "string", "title": "Title"}}}
    assert small_schema(schema) == {"type": "object", "properties": {"title": {"type": "string"}}}


async def test_act_is_finished_when_its_caller_has_gone() -> None:
    begun, go_on = anyio.Event(), anyio.Event()
    done = []

    async def act() -> Answer:
        """Act."""
        begun.set()
        await go_on.wait()
        done.append("written")
        return {}

    server = MCPServer("acting", tools=[tool_of(act, title="Act", is_acting=True)])
    with anyio.fail_after(5):
        async with Client(server, mode="legacy") as client:
            async with anyio.create_task_group() as group:
                group.start_soon(client.call_tool, "act", {})
                await begun.wait()
                group.cancel_scope.cancel()
            await client.list_tools()  # Once this is answered, the server has been told that nobody waits for the act.
            go_on.set()
    assert done == ["written"]


async def test_reading_stops_when_its_caller_has_gone() -> None:
    begun, stopped = anyio.Event(), anyio.Event()

    async def read() -> Answer:
        """Read."""
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()
        return {}

    server = MCPServer("reading", tools=[tool_of(read, title="Read")])
    with anyio.fail_after(5):
        async with Client(server, mode="legacy") as client:
            async with anyio.create_task_group() as group:
                group.start_soon(client.call_tool, "read", {})
                await begun.wait()
                group.cancel_scope.cancel()
            await stopped.wait()
