"""usage_summary: the users' words for what was spent, against the caps."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from mcp.server.mcpserver import MCPServer
from sqlalchemy import Connection

from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.clock import ManualClock
from autopack_mcp.config.settings import WindowCap
from autopack_mcp.control.control import Control
from autopack_mcp.database.engine import Database
from autopack_mcp.mcp_server.answers import RESULT_BYTES, result_bytes
from autopack_mcp.mcp_server.server import create_mcp_server
from autopack_mcp.mcp_server.usage import run_usage_answer, usage_address, usage_answer
from autopack_mcp.summary.run_usage import RunUsage, run_usage
from autopack_mcp.summary.summaries import Summaries
from autopack_mcp.summary.usage import UsageSummary, usage_summary
from tests.factories import (
    NOON,
    call_scope,
    held_against,
    insert_phase,
    insert_run,
    provider_settings,
    settings,
    token_counts,
    usage_event,
)
from tests.mcp_server.conftest import Connect

pytestmark = pytest.mark.anyio

CAPPED = settings(provider_settings(WindowCap("week", tokens=1_000), WindowCap("day", tokens=100), share="0.5"))


@pytest.fixture
def capped_server(database: Database, clock: ManualClock, control: Control) -> MCPServer:
    """Half of 1,000 tokens a week at openai, and half of 100 a day, are ours."""
    summaries = Summaries(
        database=database,
        settings=lambda: CAPPED,
        clock=clock,
        has_key=lambda provider: True,
        unit_price=lambda model: None,
    )
    return create_mcp_server(summaries=summaries, control=control, version="1")


async def usage(connect: Connect, server: MCPServer, **arguments: Any) -> dict[str, Any]:
    async with connect(server) as client:
        result = await client.call_tool("usage_summary", arguments)
    assert not result.is_error, result.content
    answer: dict[str, Any] = result.structured_content
    return answer


async def test_provider_is_measured_against_its_allowance(
    connect: Connect, capped_server: MCPServer, database: Database
) -> None:
    await database.write(
        book_external, usage_event(counts=token_counts(uncached_input=300, output=120)), held_against(), NOON
    )
    answer = await usage(connect, capped_server)
    assert answer["providers"][0] == {
        "provider": "openai",
        "period": "week",
        "prompt_tokens": 300,
        "completion_tokens": 120,
        "total_tokens": 420,
        "cap_tokens": 500,
        "percent_of_cap": 84.0,
        "resets_at": "2026-11-23T00:00:00Z",
        "level": "warn",
        "cost_usd": 0.0005,
        "configured_cap_tokens": 1_000,
        "pace": "At this pace it is reached on 2026-11-18 12:11 UTC: 420 tokens since 2026-11-18 12:00 UTC,"
        " 420 an hour.",
    }
    assert answer["models"] == [
        {
            "provider": "openai",
            "model": "gpt-4o",
            "prompt_tokens": 300,
            "completion_tokens": 120,
            "total_tokens": 420,
            "cost": 0.0005,
        }
    ]
    assert answer["headline"] == (
        "In week 2026-W47: 420 tokens, $0.0005; openai is at 84 % of its cap and reaches it on 2026-11-18 12:11 UTC at"
        " this pace."
    )
    assert (answer["window"], answer["roles"], answer["core_tokens"]) == ("2026-W47", {"builder": 420}, 420)
    assert (answer["categories"], answer["burn"]["tokens_per_hour"]) == ({"general": 420}, 420)
    assert answer["runs"] == [{"run_id": "R1", "total_tokens": 420, "cost_usd": 0.0005}]
    assert answer["days"] == {"2026-11-16": 0, "2026-11-17": 0, "2026-11-18": 420}


async def test_full_cap_of_another_period_is_mentioned(
    connect: Connect, capped_server: MCPServer, database: Database
) -> None:
    await database.write(
        book_external, usage_event(counts=token_counts(uncached_input=30, output=15)), held_against(), NOON
    )
    answer = await usage(connect, capped_server)
    assert answer["other_caps"] == [
        {
            "cap": "openai's cap of the day",
            "percent_of_cap": 90.0,
            "level": "critical",
            "resets_at": "2026-11-19T00:00:00Z",
        }
    ]


async def test_window_before_is_offset_minus_one(connect: Connect, server: MCPServer, database: Database) -> None:
    last_week = usage_event(occurred_at=NOON - timedelta(days=7))
    await database.write(book_external, last_week, held_against(), NOON - timedelta(days=7))
    assert (await usage(connect, server))["total_tokens"] == 0
    before = await usage(connect, server, period="week", offset=-1)
    assert (before["window"], before["total_tokens"]) == ("2026-W46", 100)


async def test_uncapped_provider_has_null_and_no_bar(connect: Connect, server: MCPServer) -> None:
    answer = await usage(connect, server, period="month")
    assert {(row["cap_tokens"], row["percent_of_cap"], row["level"]) for row in answer["providers"]} == {
        (None, None, None)
    }
    assert answer["headline"] == "In month 2026-11: nothing was spent; no cap is set for this period."


async def test_stretch_between_two_dates_has_no_cap(
    connect: Connect, capped_server: MCPServer, database: Database
) -> None:
    await database.write(book_external, usage_event(), held_against(), NOON)
    answer = await usage(connect, capped_server, **{"from": "2026-11-17", "to": "2026-11-18"})
    assert (answer["period"], answer["window"], answer["total_tokens"]) == (None, "2026-11-17 to 2026-11-18", 100)
    assert (answer["starts_at"], answer["ends_at"]) == ("2026-11-17T00:00:00Z", "2026-11-19T00:00:00Z")
    row = answer["providers"][0]
    assert [row[name] for name in ("period", "cap_tokens", "percent_of_cap", "resets_at", "level")] == [None] * 5
    assert answer["headline"] == "From 2026-11-17 to 2026-11-18: 100 tokens, $0.0005; no cap applies to it."


async def test_run_is_told_by_tier_and_phase_the_dearest_first(
    connect: Connect, server: MCPServer, database: Database
) -> None:
    def rows(connection: Connection) -> None:
        insert_run(connection)
        for index, output in ((1, 10), (2, 20), (3, 0)):
            insert_phase(connection, index, tier_index=(index + 1) // 2, tier_name=f"tier {(index + 1) // 2}")
            if output:
                scope = call_scope(phase_id=f"P{index}")
                event = usage_event(scope=scope, counts=token_counts(uncached_input=0, output=output))
                book_external(connection, event, held_against(), NOON)

    await database.write(rows)
    answer = await usage(connect, server, run_id="R1")
    assert answer["headline"] == "Run R1: 30 tokens, $0.0010."
    assert [(row["tier"], row["total_tokens"], row["cost_usd"]) for row in answer["tiers"]] == [
        (1, 30, 0.001),
        (2, 0, 0),
    ]
    assert [(row["phase_id"], row["total_tokens"]) for row in answer["phases"]] == [("P2", 20), ("P1", 10)]
    assert (answer["roles"], answer["models"][0]["model"]) == ({"builder": 30}, "gpt-4o")


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"period": "year"}, "period cannot be 'year'"),
        ({"offset": 1}, "Offset 1 names no past or present week."),
        ({"from": "yesterday"}, "'yesterday' is no date that can be asked for."),
        ({"from": "2026-11-15", "to": "2026-11-01"}, "No time lies from '2026-11-15' to '2026-11-01'."),
        ({"from": "2026-12-01"}, "begins in the future"),
        ({"from_": "2026-11-01"}, "There is no argument 'from_'. Did you mean 'from'?"),
        ({"run_id": "R9"}, "No run 'R9'."),
    ],
    ids=["unknown period", "window of the future", "no date", "swapped", "stretch of the future", "typo", "no run"],
)
async def test_wrong_window_is_refused(
    connect: Connect, server: MCPServer, arguments: dict[str, Any], said: str
) -> None:
    async with connect(server) as client:
        result = await client.call_tool("usage_summary", arguments)
    assert result.is_error
    assert said in result.content[0].text  # type: ignore[union-attr]


@pytest.fixture
def empty_usage(database: Database) -> UsageSummary:
    database.write_now(book_external, usage_event(), held_against(), NOON)
    return database.read_now(usage_summary, CAPPED, NOON)


def test_usage_of_many_models_is_small_and_says_where_the_rest_is(empty_usage: UsageSummary) -> None:
    @given(
        name=st.text(alphabet='a\u202e"\\😀', min_size=1, max_size=200),
        providers=st.integers(0, 40),
        models=st.integers(0, 200),
        days=st.integers(0, 400),
    )
    @limits(deadline=None, max_examples=40)
    def check(name: str, providers: int, models: int, days: int) -> None:
        many = replace(
            empty_usage,
            providers=(replace(empty_usage.providers[0], provider=name, total_tokens=10**15),) * providers,
            models=(replace(empty_usage.models[0], model=name, cost_usd=Decimal("123456.789012")),) * models,
            categories=(replace(empty_usage.categories[0], category=name),) * min(models, 20),
            days=tuple(replace(empty_usage.days[0], date=f"2026-{number:05}") for number in range(days)),
        )
        answer = usage_answer(many)
        assert result_bytes(answer) <= RESULT_BYTES
        shown = len(answer["providers"]) + len(answer["models"])  # type: ignore[arg-type]
        assert shown == providers + models or "autopack://usage/week" in str(answer["truncated"])

    check()


@pytest.mark.parametrize(
    "asked, address",
    [
        ({}, "autopack://usage/week"),
        ({"period": "month", "offset": -2}, "autopack://usage/month-2"),
        ({"from_": "2026-11-01", "to": "2026-11-15"}, "autopack://usage/2026-11-01..2026-11-15"),
        ({"from_": "2026-11-01T10:30Z", "to": "2026-11-01T12:00Z"},
         "autopack://usage/2026-11-01T10:00Z..2026-11-01T12:00Z"),
    ],
    ids=["present", "before", "dates", "hours"],
)  # fmt: skip
def test_what_is_left_out_stands_in_the_resource_that_is_named(
    database: Database, asked: dict[str, Any], address: str
) -> None:
    found = database.read_now(lambda connection: usage_summary(connection, CAPPED, NOON, **asked))
    assert usage_address(found) == address


@pytest.fixture
def run_of_one(database: Database) -> RunUsage:
    database.write_now(book_external, usage_event(), held_against(), NOON)
    return database.read_now(run_usage, "R1")


def test_run_of_many_phases_is_small_and_says_where_the_rest_is(run_of_one: RunUsage) -> None:
    @given(
        name=st.text(alphabet='a\u202e"\\😀', min_size=1, max_size=200),
        phases=st.integers(0, 1_000),
        tiers=st.integers(0, 200),
    )
    @limits(deadline=None, max_examples=20)
    def check(name: str, phases: int, tiers: int) -> None:
        many = replace(
            run_of_one,
            phases=(replace(run_of_one.phases[0], phase_id=name, name=name),) * phases,
            tiers=(replace(run_of_one.tiers[0], tier_name=name),) * tiers,
        )
        answer = run_usage_answer(many)
        assert result_bytes(answer) <= RESULT_BYTES
        shown = len(answer["phases"]) + len(answer["tiers"])  # type: ignore[arg-type]
        assert shown == phases + tiers or "autopack://runs/R1/usage" in str(answer["truncated"])

    check()
