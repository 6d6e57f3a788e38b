"""get_run_status and list_runs: everything that was promised, in little room."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp.server.mcpserver import MCPServer
from sqlalchemy import Connection

from autopack_mcp.clock import ManualClock
from autopack_mcp.database.engine import Database
from autopack_mcp.mcp_server.answers import RESULT_BYTES, result_bytes
from autopack_mcp.mcp_server.runs import phases_that_matter, run_status
from autopack_mcp.notes import add_note, mark_delivered
from autopack_mcp.summary.needs import NeedsYou
from autopack_mcp.summary.run import RequestView
from tests.factories import NOON, insert_phase, insert_run, insert_supervisor
from tests.mcp_server.conftest import Connect
from tests.mcp_server.samples import PROMISED, note_view, phase_view, run_view

pytestmark = pytest.mark.anyio

HOSTILE = st.one_of(
    st.text(max_size=400),
    st.text(alphabet='\u202e\x1b\u200b"\\\n😀ж', min_size=300, max_size=400),
    st.just("x" * 400),
)


def two_phases(connection: Connection) -> None:
    insert_supervisor(connection)
    insert_run(connection, token_cap=50_000)
    insert_phase(connection, 1, state="succeeded", commit_sha="c" * 40, is_verified=True)
    insert_phase(connection, 2, state="building", attempt=2, why="the tests are red")


async def status(connect: Connect, server: MCPServer, **arguments: Any) -> dict[str, Any]:
    async with connect(server) as client:
        result = await client.call_tool("get_run_status", arguments)
    assert not result.is_error, result.content
    answer: dict[str, Any] = result.structured_content
    assert json.loads(result.content[0].text) == answer  # type: ignore[union-attr]
    return answer


async def test_status_has_every_promised_field(connect: Connect, server: MCPServer, database: Database) -> None:
    await database.write(two_phases)
    answer = await status(connect, server)
    assert {name: answer[name] for name in PROMISED} == {
        "run_id": "R1",
        "state": "running",
        "current_tier_name": "tier 1",
        "current_phase_name": "phase 2",
        "current_tier_index": 1,
        "current_phase_index": 2,
        "total_tiers": 1,
        "total_phases": 2,
        "completed_tiers": 0,
        "completed_phases": 1,
        "percent_complete": 50.0,
        "tokens_used": 0,
        "token_cap": 50_000,
        "minor_issues_count": 0,
        "major_issues_count": 0,
    }
    assert answer["aliases"] == ["in_progress", "TIER_IN_PROGRESS"]
    assert answer["needs_you"] is None
    assert answer["phases"][1] == {
        "phase_id": "P2",
        "name": "phase 2",
        "state": "building",
        "attempt": 2,
        "why": "the tests are red",
    }


def test_a_phase_in_hand_of_a_paused_run_says_that_it_waits_and_its_own_caps() -> None:
    phase = phase_view(2, state="building", is_waiting=True, token_cap=1_000, cost_cap_usd=Decimal("0.5"))
    answer: dict[str, Any] = run_status(run_view(state="paused", phases=(phase,)))
    (shown,) = answer["phases"]
    assert (shown["state"], shown["token_cap"], shown["cost_cap_usd"]) == ("building (paused)", 1_000, 0.5)
    assert answer["current_phase_state"] == "building (paused)"


def test_a_configuration_that_cannot_be_used_is_told_beside_the_status() -> None:
    assert run_status(run_view(notice="models.yaml:3: error: no"))["notice"] == "models.yaml:3: error: no"
    assert "notice" not in run_status(run_view())


def test_promised_fields_are_there_when_they_are_unknown() -> None:
    nothing = dict.fromkeys(PROMISED[2:6], None)
    answer = run_status(run_view(**nothing, token_cap=None, cost_usd=None, phases=(), total_phases=0))
    assert answer.keys() >= {*PROMISED, "needs_you", "cost_usd", "cost_cap_usd"}
    assert (answer["token_cap"], answer["current_phase_name"], answer["cost_usd"]) == (None, None, None)


def test_headline_alone_answers_the_usual_question() -> None:
    assert run_status(run_view())["headline"] == (
        "Run r-1118-abc123: running, 50 %, tier 1 of 1, phase 2 of 2 'phase 2'; 12,345 of 50,000 tokens, $0.42."
    )
    needs = NeedsYou("It is paused.", "resume run r-1118-abc123")
    paused = run_status(run_view(state="paused", is_rehearsal=True, token_cap=None, needs_you=needs))
    assert str(paused["headline"]).startswith("Rehearsal r-1118-abc123: paused, 50 %")
    assert str(paused["headline"]).endswith(
        "12,345 tokens, $0.42 (rehearsed, nothing was bought). Needs you: say 'resume run r-1118-abc123'."
    )
    assert paused["needs_you"] == {"what": "It is paused.", "say": "resume run r-1118-abc123"}


async def test_delivery_of_a_note_is_said(connect: Connect, server: MCPServer, database: Database) -> None:
    await database.write(two_phases)
    note_id = await database.write(add_note, "R1", "Skip the UI tests.", "tool", "ann", NOON)
    assert (await status(connect, server))["notes"][0]["delivered"] == "not delivered yet"
    await database.write(mark_delivered, [note_id], "P2", NOON)
    assert (await status(connect, server))["notes"] == [
        {
            "note_id": note_id,
            "text": "Skip the UI tests.",
            "author": "ann",
            "delivered": "first in phase P2, 1 prompt so far",
        }
    ]


async def test_without_a_run_it_says_how_to_start_one(connect: Connect, server: MCPServer) -> None:
    answer = await status(connect, server)
    assert (answer["runs"], answer["total"]) == ([], 0)
    assert "autopack-mcp start" in answer["headline"]


async def test_several_unfinished_runs_are_listed(connect: Connect, server: MCPServer, database: Database) -> None:
    for number, state in enumerate(("running", "paused", "succeeded"), start=1):
        await database.write(insert_run, f"R{number}", state=state, created_at=NOON + timedelta(seconds=number))
    answer = await status(connect, server)
    assert [run["run_id"] for run in answer["runs"]] == ["R2", "R1"]
    assert answer["headline"] == "2 runs are unfinished; name the one you mean."
    assert (await status(connect, server, run_id="R3"))["state"] == "succeeded"


async def test_unknown_run_is_answered_with_those_that_exist(
    connect: Connect, server: MCPServer, database: Database
) -> None:
    await database.write(insert_run)
    async with connect(server) as client:
        result = await client.call_tool("get_run_status", {"run_id": "R9"})
    assert result.is_error
    assert "Known runs, newest first: R1." in result.content[0].text  # type: ignore[union-attr]


async def test_change_is_seen_at_once(connect: Connect, server: MCPServer, database: Database) -> None:
    await database.write(two_phases)
    before = await status(connect, server)
    assert await status(connect, server) == before
    await database.write(insert_phase, 3)
    assert (await status(connect, server))["total_phases"] == 3


async def test_death_of_the_supervisor_is_seen_without_a_commit(
    connect: Connect, server: MCPServer, database: Database, clock: ManualClock
) -> None:
    await database.write(two_phases)
    assert (await status(connect, server))["needs_you"] is None
    clock.advance(7)
    assert (await status(connect, server))["needs_you"] is not None


async def test_status_of_a_thousand_phases_is_small_and_says_where_the_rest_is(
    connect: Connect, server: MCPServer, database: Database
) -> None:
    def many(connection: Connection) -> None:
        insert_run(connection)
        for index in range(1, 1_001):
            insert_phase(connection, index, state="succeeded" if index < 500 else "queued", name="ж" * 400)
        for number in range(30):
            add_note(connection, "R1", f"{number} " + "😀" * 1_000, "tool", "ann", NOON)

    await database.write(many)
    answer = await status(connect, server)
    assert result_bytes(answer) <= RESULT_BYTES
    assert answer["total_phases"] == 1_000
    assert "P500" in [phase["phase_id"] for phase in answer["phases"]]
    assert answer["notes"][-1]["text"].startswith("29 ")
    assert answer["truncated"].endswith("autopack://runs/R1.")


@given(text=HOSTILE, phases=st.integers(0, 1_000), notes=st.integers(0, 50), finished=st.booleans())
@settings(deadline=None, max_examples=60)
def test_status_is_small_whatever_people_and_models_wrote(text: str, phases: int, notes: int, finished: bool) -> None:
    words = dict.fromkeys(("current_tier_name", "current_phase_name", "why", "plan_name", "branch", "supervisor"), text)
    run = run_view(
        **words,
        last_summary=text * 5,
        needs_you=NeedsYou(text * 2, text),
        pending_requests=tuple(RequestView(text, "pause", text, NOON) for _ in range(10)),
        notes=tuple(note_view(number, text=text * 10, author=text, delivered=text) for number in range(notes)),
        phases=tuple(phase_view(n, name=text, why=text, state="failed", builder_model=text) for n in range(phases)),
        finished_at=NOON if finished else None,
    )
    answer = run_status(run)
    assert result_bytes(answer) <= RESULT_BYTES
    assert not {"\u202e", "\x1b", "\u200b"} & set(json.dumps(answer, ensure_ascii=False))


@pytest.mark.parametrize(
    "current, failed, shown",
    [
        (5, (), [4, 5, 6]),
        (0, (), [0, 1, 2]),
        (9, (), [7, 8, 9]),
        (5, (1, 8), [1, 5, 8]),
        (None, (), [7, 8, 9]),
    ],
    ids=["around the current one", "at the start", "at the end", "failed ones first", "no current one"],
)
def test_phases_that_matter_are_shown_in_plan_order(
    current: int | None, failed: tuple[int, ...], shown: list[int]
) -> None:
    phases = [phase_view(index, state="failed" if index in failed else "queued") for index in range(10)]
    current_id = None if current is None else f"P{current}"
    assert [phase.phase_id for phase in phases_that_matter(phases, current_id, 3)] == [f"P{index}" for index in shown]


def test_short_plan_is_shown_whole() -> None:
    phases = [phase_view(index) for index in range(3)]
    assert phases_that_matter(phases, "P1", 3) == phases
    assert "truncated" not in run_status(run_view())


async def test_list_is_paged_until_every_run_was_seen_once(
    connect: Connect, server: MCPServer, database: Database
) -> None:
    def many(connection: Connection) -> None:
        for number in range(60):
            created_at = NOON + timedelta(seconds=number)
            insert_run(connection, f"R{number}", plan_name="ж" * 200, created_at=created_at, state="succeeded")

    await database.write(many)
    seen: list[str] = []
    cursor = None
    async with connect(server) as client:
        while cursor is not None or not seen:
            result = await client.call_tool("list_runs", {"limit": 100, "cursor": cursor})
            answer: dict[str, Any] = result.structured_content
            assert result_bytes(answer) <= RESULT_BYTES
            assert answer["total"] == 60
            seen += [run["run_id"] for run in answer["runs"]]
            cursor = answer["next_cursor"]
    assert seen == [f"R{number}" for number in reversed(range(60))]


async def test_list_shows_ten_unless_asked(connect: Connect, server: MCPServer, database: Database) -> None:
    for number in range(12):
        await database.write(insert_run, f"R{number}", state="succeeded")
    async with connect(server) as client:
        answer: dict[str, Any] = (await client.call_tool("list_runs", {})).structured_content
    assert len(answer["runs"]) == 10
    assert answer["headline"] == "10 of 12 runs are shown; pass next_cursor as cursor to see older ones."
    assert answer["runs"][0] == {
        "run_id": "R0",
        "plan_name": "a plan",
        "state": "succeeded",
        "percent_complete": 0.0,
        "tokens_used": 0,
        "cost_usd": 0.0,
        "created_at": "2026-11-18T12:00:00Z",
    }


@pytest.mark.parametrize(
    "arguments, said",
    [({"limit": 0}, "A list of 0 runs cannot be asked for. Ask for 1 to 100."), ({"cursor": "x"}, "not a cursor")],
    ids=["limit", "cursor"],
)
async def test_wrong_page_is_refused(connect: Connect, server: MCPServer, arguments: dict[str, Any], said: str) -> None:
    async with connect(server) as client:
        result = await client.call_tool("list_runs", arguments)
    assert result.is_error
    assert said in result.content[0].text.replace("\n", " ")  # type: ignore[union-attr]
