"""model_scorecard: rates with their counts, the sentence at the top, and no more than fits."""

from __future__ import annotations

from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer

from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.database.engine import Database
from autopack_mcp.mcp_server.answers import RESULT_BYTES, result_bytes
from autopack_mcp.money import NANO_PER_USD
from tests.factories import NOON, held_against, insert_attempt, insert_phase, insert_run, token_counts, usage_event
from tests.mcp_server.conftest import Connect

pytestmark = pytest.mark.anyio


async def asked(connect: Connect, server: MCPServer, **arguments: Any) -> dict[str, Any]:
    async with connect(server) as client:
        result = await client.call_tool("model_scorecard", arguments)
    assert not result.is_error, result.content
    answer: dict[str, Any] = result.structured_content
    return answer


async def judge(database: Database, index: int, state: str, model: str = "gpt-big", category: str = "ui") -> None:
    """A phase of run R1 with one attempt that claude judged."""
    await database.write(insert_phase, index, task_category=category, started_at=NOON)
    verdict = {"approved": state == "kept"}
    row = {"state": state, "builder_model": model, "auditor_model": "claude", "verdict": verdict}
    await database.write(insert_attempt, f"P{index}", 1, **row)


async def test_rates_come_with_counts_and_their_range(connect: Connect, server: MCPServer, database: Database) -> None:
    await database.write(insert_run)
    for index, state in enumerate(["kept", "kept", "kept", "rejected"], start=1):
        await judge(database, index, state)
    counts = token_counts(uncached_input=3_000, output=0)
    await database.write(
        book_external, usage_event(model="gpt-big", counts=counts, cost_nano=NANO_PER_USD), held_against(), NOON
    )
    answer = await asked(connect, server)
    assert answer["headline"] == ("In the last 90 days, in ui: gpt-big 3 of 4 approved (75 %, small sample).")
    rate = {"count": "3 of 4", "percent": 75.0, "range_percent": [30.1, 95.4]}
    assert answer["builders"] == [
        {
            "category": "ui",
            "model": "gpt-big",
            "sample": "small (4 attempts)",
            "approved": rate,
            "first_try": rate,
            "tokens_per_approved_phase": 1_000,
            "cost_usd_per_approved_phase": 0.333333,
            "complexities": {"medium": 4},
        }
    ]
    assert answer["auditors"][0]["rejected"]["count"] == "1 of 4"
    assert answer["since"] == "2026-08-20T12:00:00Z"


async def test_several_categories_are_summed_up_in_words_only(
    connect: Connect, server: MCPServer, database: Database
) -> None:
    await database.write(insert_run)
    await judge(database, 1, "kept")
    await judge(database, 2, "kept", "gpt-small", "docs")
    answer = await asked(connect, server, since_days=0)
    assert answer["headline"] == (
        "So far, 2 models made 2 judged attempts in 2 categories; 2 of 2 rows are small samples."
    )
    assert "since" not in answer
    narrowed = await asked(connect, server, category="docs")
    assert [row["model"] for row in narrowed["builders"]] == ["gpt-small"]


async def test_nothing_judged_is_an_answer(connect: Connect, server: MCPServer) -> None:
    answer = await asked(connect, server, category="docs", since_days=1)
    assert answer["headline"] == "In the last 1 day, no attempt was judged in docs."
    assert (answer["builders"], answer["auditors"]) == ([], [])


async def test_stretch_that_does_not_exist_is_refused(connect: Connect, server: MCPServer) -> None:
    async with connect(server) as client:
        result = await client.call_tool("model_scorecard", {"since_days": -1})
    assert result.is_error
    assert "Ask for 1 to 3,660 days." in result.content[0].text  # type: ignore[union-attr]


async def test_rows_with_the_most_attempts_are_shown_when_not_all_fit(
    connect: Connect, server: MCPServer, database: Database
) -> None:
    await database.write(insert_run)
    long = "é\u200b" * 80
    for index in range(1, 61):
        await judge(database, index, "kept", f"{long}{index}", f"c{index:02}")
    await judge(database, 61, "kept", "gpt-big", "zz")
    await judge(database, 62, "kept", "gpt-big", "zz")
    answer = await asked(connect, server)
    assert result_bytes(answer) <= RESULT_BYTES
    assert answer["truncated"].endswith("of 61 rows; `autopack-mcp scorecard` prints all.")
    assert answer["builders"][-1]["category"] == "zz"
