"""What a call is decided on is never older than the last commit before it, and read no more often than that takes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection

from autopack_mcp.budgets.standings import provider_standings
from autopack_mcp.call_facts import KEPT_FOR, KEPT_LIMIT, CallFactsReader
from autopack_mcp.clock import ManualClock
from autopack_mcp.config.settings import FallbackStrategy, ProviderSettings, RoleModels, Settings
from autopack_mcp.database.engine import Database
from autopack_mcp.notes import add_note, withdraw_note
from autopack_mcp.routing.model_router import RouteDecision, RoutingSnapshot, choose
from autopack_mcp.routing.overrides import add_override, withdraw_overrides
from autopack_mcp.routing.snapshot import Asker, RunRules, SnapshotReader, StandingsOnDemand
from autopack_mcp.runs.rules import run_rules
from tests.doors import a_map, bound_of, capped, open_scene, question, says, spend
from tests.factories import NOON, insert_run, settings
from tests.routing.snapshots import override

pytestmark = pytest.mark.anyio
on_sqlite = pytest.mark.parametrize("engine", ["sqlite"])  # Elsewhere it is read for every question.


class CountedReader(SnapshotReader):
    """Reads as ever, and counts."""

    reads = 0

    def read(
        self, connection: Connection, rules: RunRules | None = None, settings: Settings | None = None
    ) -> RoutingSnapshot:
        self.reads += 1
        return super().read(connection, rules, settings)

    def read_on_demand(
        self,
        connection: Connection,
        ask: Asker,
        rules: RunRules | None,
        settings: Settings,
        likely: Sequence[str] = (),
    ) -> RoutingSnapshot:
        self.reads += 1
        return super().read_on_demand(connection, ask, rules, settings, likely)


class World:
    """The reader, and what a test may change about what it reads."""

    def __init__(self, database: Database, clock: ManualClock) -> None:
        self.config = settings()
        self.keys = {"OPENAI_API_KEY", "ANTHROPIC_API_KEY"}
        self.snapshots = CountedReader(
            settings=lambda: self.config, clock=clock, has_key=self.has_key, unit_price=lambda model: None
        )
        self.reader = CallFactsReader(
            database=database,
            clock=clock,
            snapshots=self.snapshots,
            run_rules=run_rules,
            visible_keys=lambda config: tuple(map(self.has_key, config.providers.values())),
        )

    def has_key(self, account: ProviderSettings) -> bool:
        return account.api_key_env in self.keys

    async def decision(self, run_id: str | None = None) -> RouteDecision:
        facts = await self.reader.facts(self.config, run_id, None, None)
        return choose(facts.snapshot, "builder", "ui", "low")


@pytest.fixture
def world(database: Database, clock: ManualClock) -> Iterator[World]:
    world = World(database, clock)
    yield world
    world.reader.close()


# --- what was committed before the question is seen, on every engine


async def test_an_override_is_seen_by_the_very_next_question_and_so_is_its_end(
    world: World, database: Database
) -> None:
    found = [(await world.decision()).model]
    for model in ("claude", "gpt-big"):
        await database.write(add_override, override(model, "ui:*", scope="global"), "test")
        found.append((await world.decision()).model)
    await database.write(withdraw_overrides, override("", "ui:*", scope="global"), NOON)
    found.append((await world.decision()).model)
    assert found == ["gpt-small", "claude", "gpt-big", "gpt-small"]


async def test_an_override_of_a_run_is_seen_by_its_next_question(world: World, database: Database) -> None:
    await database.write(insert_run, model_map=a_map())
    before = (await world.decision("R1")).model
    await database.write(add_override, override("claude", "ui:*", run_id="R1"), "test")
    assert (before, (await world.decision("R1")).model, (await world.decision()).model) == (
        "gpt-small",
        "claude",
        "gpt-small",
    )


@on_sqlite
async def test_an_override_of_another_process_is_seen(world: World, database: Database) -> None:
    before = (await world.decision()).model
    row = ("global", "*", "ui", "*", "claude", "ada", "elsewhere", int(NOON.timestamp() * 1e6))
    names = "scope, role, category, complexity, model, author, client, created_at"
    assert database.url.database is not None
    with sqlite3.connect(database.url.database) as elsewhere:
        elsewhere.execute(f"INSERT INTO overrides ({names}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    elsewhere.close()
    assert (before, (await world.decision()).model) == ("gpt-small", "claude")


async def test_an_override_ends_when_it_expires_though_nobody_commits(
    world: World, database: Database, clock: ManualClock
) -> None:
    ends = NOON + timedelta(milliseconds=500)
    await database.write(add_override, override("claude", "ui:*", scope="global", expires_at=ends), "test")
    found = [(await world.decision()).model]
    clock.advance(0.5)
    assert [*found, (await world.decision()).model] == ["claude", "gpt-small"]


async def test_notes_are_those_in_force_at_the_question(world: World, database: Database) -> None:
    await database.write(insert_run, model_map=a_map())
    found = [await world.reader.notes("R1")]
    note_id = await database.write(add_note, "R1", "Be quick.", "tool", "ada", NOON)
    found.append(await world.reader.notes("R1"))
    await database.write(withdraw_note, "R1", note_id, NOON)
    found.append(await world.reader.notes("R1"))
    assert [[note.text for note in notes] for notes in found] == [[], ["Be quick."], []]
    assert await world.reader.notes(None) == ()


async def test_the_soft_limit_is_judged_with_the_process_own_last_booking(
    database: Database, clock: ManualClock
) -> None:
    config = capped(2 * bound_of(question()), fallback_strategy=FallbackStrategy(default=("claude",)))
    async with open_scene(database, clock, says(), config=config) as scene:
        before = await scene.ask()
        spend(database, 2 * bound_of(question()))
        after = await scene.ask()
    assert (before.decision.model, after.decision.model) == ("gpt-big", "claude")


# --- what else it depends on


async def test_other_settings_and_keys_hold_at_once(world: World) -> None:
    first = await world.decision()
    world.keys.clear()
    without = await world.decision()
    world.keys.add("OPENAI_API_KEY")
    world.config = settings(complexity_models={"low": RoleModels("gpt-big", "claude")})
    assert (first.blocked_by, without.blocked_by) == (None, "no API key: OPENAI_API_KEY is not set")
    assert (await world.decision()).model == "gpt-big"


@on_sqlite
async def test_a_new_day_is_a_new_window(world: World, database: Database, clock: ManualClock) -> None:
    midnight = datetime(2026, 11, 23, tzinfo=UTC)  # Of a Monday.
    clock.set(midnight - timedelta(microseconds=1))
    world.config = capped(100, fallback_strategy=FallbackStrategy(default=("claude",)))
    spend(database, 100)
    found = [(await world.decision()).blocked_by]
    clock.set(midnight)
    found.append((await world.decision()).blocked_by)
    assert (found[0] is None, found[1]) == (False, None)


# --- and no more often


@on_sqlite
async def test_an_account_is_added_up_only_when_a_choice_looks_at_it(
    world: World, database: Database, clock: ManualClock
) -> None:
    facts = await world.reader.facts(world.config, None, None, None)
    standings = facts.snapshot.standings
    assert isinstance(standings, StandingsOnDemand)
    assert (list(standings), len(standings), "openai" in standings, "nobody" in standings) == (
        list(world.config.providers), 2, True, False,
    )  # fmt: skip
    assert list(standings.read_already) == []
    choose(facts.snapshot, "builder", "ui", "low")
    assert list(standings.read_already) == ["openai"]
    assert dict(standings) == database.read_now(provider_standings, world.config, clock.now(), world.has_key)
    with pytest.raises(KeyError):
        standings["nobody"]


@on_sqlite
async def test_an_account_that_was_looked_at_is_read_again_with_the_rest(world: World, database: Database) -> None:
    await world.decision()
    spend(database, 7)
    standings = (await world.reader.facts(world.config, None, None, None)).snapshot.standings
    assert isinstance(standings, StandingsOnDemand)
    assert list(standings.read_already) == ["openai"]


@on_sqlite
async def test_a_rehearsal_looks_at_its_own_shadow_and_needs_no_key(
    world: World, database: Database, clock: ManualClock
) -> None:
    await database.write(insert_run, is_rehearsal=True, model_map=a_map())
    world.keys.clear()
    facts = await world.reader.facts(world.config, "R1", "P1", 1)
    wanted = database.read_now(
        provider_standings, world.config, clock.now(), lambda account: True, purpose="rehearsal", run_id="R1"
    )
    assert dict(facts.snapshot.standings) == wanted


@on_sqlite
async def test_while_nobody_commits_it_is_read_once(world: World, database: Database, clock: ManualClock) -> None:
    for _ in range(5):
        await world.decision()
    assert world.snapshots.reads == 1
    await database.write(lambda connection: None)  # Changes nothing, so nobody need look.
    await world.decision()
    spend(database, 1)
    await world.decision()
    assert world.snapshots.reads == 2


@on_sqlite
@pytest.mark.parametrize("seconds, reads", [(KEPT_FOR.total_seconds() - 1e-6, 1), (1.0, 2), (-1.0, 2)])
async def test_it_is_kept_for_a_second_and_never_into_the_past(
    world: World, clock: ManualClock, seconds: float, reads: int
) -> None:
    await world.decision()
    clock.advance(seconds)
    await world.decision()
    assert world.snapshots.reads == reads


@on_sqlite
async def test_only_so_many_are_kept(world: World) -> None:
    for number in range(KEPT_LIMIT + 1):
        await world.decision(f"label {number}")
    await world.decision("label 1")
    assert world.snapshots.reads == KEPT_LIMIT + 1
    await world.decision("label 0")
    assert world.snapshots.reads == KEPT_LIMIT + 2
