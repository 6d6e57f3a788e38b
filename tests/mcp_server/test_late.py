"""Late parts: opened once, with the first question, and tried again when that failed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from autopack_mcp.errors import ConfigError, Problem
from autopack_mcp.mcp_server.late import LateParts, Parts
from autopack_mcp.mcp_server.server import create_mcp_server
from tests.mcp_server.conftest import Connect

if TYPE_CHECKING:
    from autopack_mcp.control.control import Control
    from autopack_mcp.summary.summaries import Summaries

pytestmark = pytest.mark.anyio


async def test_nothing_is_opened_before_the_first_question(
    connect: Connect, summaries: Summaries, control: Control
) -> None:
    opened_on = []
    closed = []

    async def close() -> None:
        closed.append(True)

    def open_parts() -> Parts:
        opened_on.append(threading.current_thread())
        return Parts(summaries, control, close)

    late = LateParts(open_parts)
    async with connect(create_mcp_server(summaries=late.summaries, control=late.control, version="1")) as client:
        await client.list_tools()
        await client.list_resources()
        assert opened_on == []
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(client.call_tool, "get_run_status", {})
        assert (await client.call_tool("control_run", {"action": "pause", "run_id": "R9"})).is_error
    await late.close()
    assert len(opened_on) == 1
    assert opened_on[0] is not threading.main_thread()
    assert closed == [True]


async def test_failed_opening_is_the_answer_and_is_tried_again(
    connect: Connect, summaries: Summaries, control: Control
) -> None:
    problems = [Problem("is no mapping.", "models.yaml", 3)]

    def open_parts() -> Parts:
        if problems:
            raise ConfigError((problems.pop(),))
        return Parts(summaries, control, anyio.sleep_forever)

    late = LateParts(open_parts)
    async with connect(create_mcp_server(summaries=late.summaries, control=late.control, version="1")) as client:
        refused = await client.call_tool("get_run_status", {})
        assert refused.is_error
        assert "models.yaml:3: error: is no mapping." in refused.content[0].text  # type: ignore[union-attr]
        assert not (await client.call_tool("get_run_status", {})).is_error


async def test_closing_what_was_never_opened_opens_nothing() -> None:
    await LateParts(lambda: cast("Parts", pytest.fail("opened"))).close()
