"""explain_model: the router's own answer, with its reasons and the other choices."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer

from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.clock import ManualClock
from autopack_mcp.config.settings import FallbackStrategy, RoleModels, Settings, WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.mcp_server.answers import RESULT_BYTES, result_bytes
from autopack_mcp.mcp_server.server import create_mcp_server
from autopack_mcp.routing.model_map import current_model_map, model_map_to_json
from autopack_mcp.summary.summaries import Summaries
from autopack_mcp.usage.prices import UnitPrices
from tests.factories import (
    NOON,
    held_against,
    insert_phase,
    insert_run,
    model_settings,
    provider_settings,
    settings,
    token_counts,
    usage_event,
)
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
    answer = await explained(connect, server_over(database, clock, many), role="builder")
    assert result_bytes(answer) <= RESULT_BYTES
    assert answer["truncated"].endswith("of 301 choices; all are in the resource autopack://models.")


async def test_explanation_has_rules_caps_ifs_and_the_chain(
    connect: Connect, database: Database, clock: ManualClock
) -> None:
    of = settings(provider_settings(WindowCap("week", 1_000_000)), fallback_strategy=FallbackStrategy(("claude",)))
    await database.write(book_external, usage_event(), held_against(), NOON)
    answer = await explained(connect, server_over(database, clock, of), role="builder")
    assert [(rule["rule"], rule["outcome"]) for rule in answer["rules"]][-1] == ("complexity", "decided")
    assert answer["caps"] == [
        {
            "cap": "openai's cap of the week",
            "used_tokens": 100,
            "cap_tokens": 1_000_000,
            "soft_limit_percent": 80.0,
            "resets_at": "2026-11-23T00:00:00Z",
        }
    ]
    assert answer["what_if"] == [
        {
            "at_percent": percent,
            "of": ["openai's cap of the week"],
            "happens": "rerouted",
            "model": "claude",
            "why": "claude takes over from gpt-big",
        }
        for percent in (80.0, 100.0)
    ]
    assert answer["chain"] == [{"model": "claude", "objection": None}]
    assert answer["least_tokens"] == 16_000
    assert "budget_paused" in answer["when_denied"]


async def test_reroute_is_said_in_the_headline(connect: Connect, database: Database, clock: ManualClock) -> None:
    of = settings(provider_settings(WindowCap("week", 100)), fallback_strategy=FallbackStrategy(("claude",)))
    await database.write(book_external, usage_event(), held_against(), NOON)
    answer = await explained(connect, server_over(database, clock, of), role="builder")
    assert answer["headline"] == "In a run started now, claude answers builder for general, medium in place of gpt-big."
    assert answer["replaces"] == "gpt-big"


async def test_without_a_role_the_whole_map_is_answered_in_short(connect: Connect, server: MCPServer) -> None:
    answer = await explained(connect, server)
    assert answer["headline"] == (
        "In a run started now: builder: gpt-small, gpt-big, claude; auditor: claude; agent:planner: gpt-big."
    )
    assert answer["rows"][0] == {
        "role": "builder", "category": "general", "complexity": "low", "model": "gpt-small", "rule": "complexity",
    }  # fmt: skip
    narrowed = await explained(connect, server, category="security", complexity="low")
    assert [(row["role"], row["category"]) for row in narrowed["rows"]] == [
        ("builder", "security"), ("auditor", "general"),
    ]  # fmt: skip


async def test_without_a_role_a_run_is_answered_phase_by_phase_kind(
    connect: Connect, server: MCPServer, database: Database
) -> None:
    await database.write(insert_run, model_map=model_map_to_json(current_model_map(settings(), ())), token_cap=1)
    await database.write(insert_phase)
    await database.write(insert_phase, 2, state="succeeded", complexity="low")
    answer = await explained(connect, server, run_id="R1")
    assert answer["headline"] == (
        "In what is left of run R1: builder: gpt-big; auditor: claude. 2 of 2 rows would fail right now."
    )
    assert [(row["role"], row["model"], row["phases"]) for row in answer["rows"]] == [
        ("builder", "gpt-big", 1), ("auditor", "claude", 1),
    ]  # fmt: skip
    assert answer["rows"][0]["blocked_by"] is not None


async def test_finished_run_asks_nothing(connect: Connect, server: MCPServer, database: Database) -> None:
    await database.write(insert_run, state="succeeded", model_map=model_map_to_json(current_model_map(settings(), ())))
    answer = await explained(connect, server, run_id="R1")
    assert (answer["headline"], answer["rows"]) == ("In what is left of run R1, nothing asks a model.", [])


async def test_whatever_is_configured_fits(connect: Connect, database: Database, clock: ManualClock) -> None:
    long = "é\u200b" * 60
    names = [f"{long}-{number}" for number in range(80)]
    caps = tuple(WindowCap(window, 10**6, 10**9) for window in ("day", "week", "month"))
    accounts = [provider_settings(*caps), *(provider_settings(*caps, provider=f"{long}{n}") for n in range(3))]
    of = settings(
        *accounts,
        models={name: model_settings(name, accounts[number % 4].provider) for number, name in enumerate(names)},
        complexity_models={"medium": RoleModels(names[0], names[1])},
        category_models={name: RoleModels(names[number], None) for number, name in enumerate(names)},
        fallback_strategy=FallbackStrategy(tuple(names)),
        agent_models={},
        global_caps=caps,
        role_caps={"builder": caps},
    )
    counts = token_counts(uncached_input=900_000)
    await database.write(book_external, usage_event(counts=counts), held_against(), NOON)
    for question in ({"role": "builder"}, {}):
        answer = await explained(connect, server_over(database, clock, of), **question)
        assert result_bytes(answer) <= RESULT_BYTES
        assert answer["truncated"]


def server_over(database: Database, clock: ManualClock, of: Settings) -> MCPServer:
    """A server whose models all cost the same."""
    summaries = Summaries(
        database=database,
        settings=lambda: of,
        clock=clock,
        has_key=lambda provider: True,
        unit_price=lambda model: UnitPrices(Decimal(1), Decimal(4)),
    )
    return create_mcp_server(summaries=summaries, control=None, version="1")
