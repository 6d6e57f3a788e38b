"""compare_runs: both runs, phase by phase, and no more of them than fits."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer

from autopack_mcp.database.engine import Database
from autopack_mcp.mcp_server.answers import RESULT_BYTES, result_bytes
from autopack_mcp.mcp_server.replays import ROOMS, comparison
from autopack_mcp.summary.comparison import ComparedPhase, ComparedRun, Comparison, PhaseSide, TreeDiff
from tests.factories import insert_attempt, insert_phase, insert_run
from tests.mcp_server.conftest import Connect

pytestmark = pytest.mark.anyio
REJECTED = {"approved": False, "summary": "Too\u200b late.", "issues": [{"severity": "major"}]}
RUN = ComparedRun(
    "r-1118-aaaaaa", "a plan", "succeeded", False, None, 2, 2, 12_345, Decimal("0.42"), 0, 1, 0, 61.5, "c" * 40
)  # fmt: skip
SIDE = PhaseSide("succeeded", 2, "approved", "Fine.", "gpt", "claude", 5_000, Decimal("0.2"), 1, 30.0)


async def called(connect: Connect, server: MCPServer, **arguments: str) -> Any:
    async with connect(server) as client:
        return await client.call_tool("compare_runs", arguments)


async def test_a_fork_is_shown_beside_the_run_that_it_came_from(
    connect: Connect, server: MCPServer, database: Database
) -> None:
    await database.write(insert_run, "R1")
    await database.write(insert_run, "R2", forked_from_run="R1", forked_from_phase="P2")
    for run_id in ("R1", "R2"):
        await database.write(insert_phase, 2, run_id, state="failed", attempt=1)
    await database.write(insert_attempt, "P2", 1, run_id="R2", state="rejected", verdict=REJECTED, builder_model="gpt")
    answer = (await called(connect, server, run_id="R2")).structured_content

    assert answer["headline"].startswith("a R1: ")
    assert "; b R2: " in answer["headline"]
    assert (answer["a"]["run_id"], answer["b"]["forked_from"]) == ("R1", "R1, phase P2")
    (phase,) = answer["phases"]
    assert phase["b"] == {
        "state": "failed", "attempts": 1, "verdict": "rejected (1 major)", "builder_model": "gpt",
        "auditor_said": "Too\\u200b late.",
    }  # fmt: skip
    assert "There is no git repository at" in answer["why_no_diff"]


async def test_a_run_that_is_no_fork_asks_for_the_other_one(
    connect: Connect, server: MCPServer, database: Database
) -> None:
    await database.write(insert_run, "R1")
    refused = await called(connect, server, run_id="R1")
    assert refused.is_error
    assert "Name the run to compare it with." in refused.content[0].text


def test_a_comparison_says_what_differs_and_fits_whatever_was_written() -> None:
    lines = '+\u202e"line\\\n' * 9_000
    phases = tuple(ComparedPhase(f"p{index}" * 40, "x", SIDE, SIDE if index > 8 else None) for index in range(40))
    found = Comparison(
        RUN, replace(RUN, run_id="r-b"), phases, ("builder of p: " + "x" * 900,) * 40,
        TreeDiff(lines, False, 3, 9_000, 1), None,
    )  # fmt: skip
    answer = comparison(found)

    assert result_bytes(answer) <= RESULT_BYTES
    assert answer["headline"] == (
        "a r-1118-aaaaaa: succeeded, 12,345 tokens, $0.42; b r-b: succeeded, 12,345 tokens, $0.42;"
        " the results differ in 3 files."
    )
    assert (answer["files_differ"], answer["lines_added"], answer["lines_removed"]) == (3, 9_000, 1)
    assert "phases and part of the diff; `autopack-mcp compare` has all of it." in str(answer["truncated"])
    shown = answer["phases"]
    assert isinstance(shown, list)
    # What only one of them has tells least.
    assert all(isinstance(phase, dict) and "b" in phase for phase in shown)
    assert len(shown) <= ROOMS[0][0]
    assert "truncated" not in comparison(Comparison(RUN, RUN, phases[9:11], (), TreeDiff("", False, 0, 0, 0), None))
