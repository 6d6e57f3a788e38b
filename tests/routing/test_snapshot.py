"""Snapshots: what a choice depends on is read at one moment, kept while it holds, and is what the tools show."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from decimal import Decimal
from itertools import product

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine

from autopack_mcp.budgets.caps import RunCaps
from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.clock import ManualClock
from autopack_mcp.config.settings import FallbackStrategy, ProviderSettings, Settings, WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import NoRoute
from autopack_mcp.routing.model_map import current_model_map, model_map_to_json
from autopack_mcp.routing.model_router import RoutingSnapshot, choose
from autopack_mcp.routing.overrides import add_override
from autopack_mcp.routing.snapshot import (
    KEPT_LIMIT,
    KEPT_S,
    TRUSTED_S,
    KeptSnapshots,
    RunRules,
    SnapshotReader,
    read_snapshot,
)
from autopack_mcp.runs.rules import run_rules
from autopack_mcp.summary.explanation import explain_model
from autopack_mcp.summary.outlook import RoutingSources
from autopack_mcp.usage.prices import UnitPrices
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
from tests.routing.snapshots import override, snapshot

CAPPED = settings(
    provider_settings(WindowCap("week", tokens=1_000)),
    fallback_strategy=FallbackStrategy(default=("claude", "gpt-small")),
)
ALIKE = UnitPrices(Decimal(1), Decimal(1))


def has_every_key(_provider: ProviderSettings) -> bool:
    return True


def has_no_key(_provider: ProviderSettings) -> bool:
    return False


def same_price(_model: str) -> UnitPrices:
    return ALIKE


def rules(**overrides: object) -> RunRules:
    values = {"run_id": "R1", "model_map": current_model_map(CAPPED, ()), "overrides": (), "caps": RunCaps()}
    return RunRules(**{**values, "is_rehearsal": False, **overrides})  # type: ignore[arg-type]  # by name


# --- reading


def test_outside_any_run_the_map_is_that_of_the_settings_with_the_overrides_for_all(database: Database) -> None:
    database.write_now(add_override, override("claude", "ui:*", scope="global"), "test")
    of = database.read_now(read_snapshot, CAPPED, NOON, has_every_key, same_price)
    assert choose(of, "builder", "ui", "low").rule == "global override"
    assert choose(of, "builder", "general", "low").model == "gpt-small"


def test_a_run_brings_its_pinned_map_and_its_own_overrides(database: Database) -> None:
    database.write_now(add_override, override("claude", scope="global"), "test")
    mine = rules(overrides=(override("gpt-small", "ui:*"),))
    of = database.read_now(read_snapshot, CAPPED, NOON, has_every_key, same_price, mine)
    assert choose(of, "builder", "ui", "high").rule == "run override"
    assert choose(of, "builder", "general", "high").rule == "complexity"


@pytest.mark.parametrize("is_rehearsal, missing", [(False, "OPENAI_API_KEY"), (True, None)])
def test_a_rehearsal_needs_no_key(database: Database, is_rehearsal: bool, missing: str | None) -> None:
    mine = rules(is_rehearsal=is_rehearsal)
    of = database.read_now(read_snapshot, CAPPED, NOON, has_no_key, same_price, mine)
    assert of.standings["openai"].missing_key_variable == missing


def test_a_price_is_worked_out_once_per_snapshot(database: Database) -> None:
    asked: list[str] = []

    def price(model: str) -> UnitPrices:
        asked.append(model)
        return ALIKE

    database.write_now(book_external, usage_event(counts=token_counts(output=900)), held_against(), NOON)
    of = database.read_now(read_snapshot, CAPPED, NOON, has_every_key, price)
    answers = {choose(of, "builder", category, "high").model for category in ("a", "b", "c")}
    assert (answers, sorted(asked)) == ({"claude"}, ["claude", "gpt-big"])


def test_a_reader_takes_the_settings_that_its_caller_holds_on_to(database: Database, clock: ManualClock) -> None:
    newer = replace(CAPPED, models={})
    reader = SnapshotReader(settings=lambda: newer, clock=clock, has_key=has_every_key, unit_price=same_price)
    assert database.read_now(reader.read).models == {}
    assert database.read_now(reader.read, None, CAPPED).models == CAPPED.models


# --- choosing is showing


@hypothesis_settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    used=st.integers(0, 1_100),
    keys=st.sets(st.sampled_from(["openai", "anthropic"])),
    run_wide=st.booleans(),
    for_all=st.booleans(),
)
def test_what_is_shown_is_what_would_be_used(
    ledger_in_memory: Engine, used: int, keys: set[str], run_wide: bool, for_all: bool
) -> None:
    with ledger_in_memory.connect() as connection:
        _write(connection, used, run_wide=run_wide, for_all=for_all)
        for run_id, role, category in product((None, "R1"), ("builder", "auditor", "agent:planner"), ("general", "ui")):
            assert _shown(connection, keys, run_id, role, category) == _used(connection, keys, run_id, role, category)
        connection.rollback()


def _write(connection: Connection, used: int, *, run_wide: bool, for_all: bool) -> None:
    insert_run(connection, model_map=model_map_to_json(current_model_map(CAPPED, ())))
    insert_phase(connection, task_category="ui")
    counts = token_counts(uncached_input=used, output=0)
    book_external(connection, usage_event(counts=counts, scope=call_scope(run_id="R0")), held_against(), NOON)
    if run_wide:
        add_override(connection, override("gpt-small", "ui:*", "builder", run_id="R1"), "test")
    if for_all:
        add_override(connection, override("claude", "*:low", "builder", scope="global"), "test")


def _shown(connection: Connection, keys: set[str], run_id: str | None, role: str, category: str) -> object:
    sources = RoutingSources(_known(CAPPED), lambda account: account.provider in keys, same_price)
    row = explain_model(connection, sources, NOON, role, category, "low", run_id).row
    # Whether the ledger would let a call pass is no choice; tests/summary/test_outlook.py compares that.
    return row.error or (row.model, row.provider, row.rule, row.reasons, row.replaces)


def _used(connection: Connection, keys: set[str], run_id: str | None, role: str, category: str) -> object:
    mine = run_rules(connection, run_id, NOON) if run_id else None
    of = read_snapshot(connection, _known(CAPPED), NOON, lambda account: account.provider in keys, same_price, mine)
    try:
        found = choose(of, role, category, "low")
    except NoRoute as error:
        return str(error)
    return found.model, found.provider, found.rule, found.reasons, found.replaces


def _known(config: Settings) -> Settings:
    """With the category "ui", which only a phase of the run knows otherwise."""
    return replace(config, category_models={**config.category_models, "ui": config.high_risk})


# --- keeping


class Kept:
    """KeptSnapshots over a version and a time that a test sets, counting what was read."""

    def __init__(self) -> None:
        self.version: Hashable = 1
        self.now = 100.0
        self.reads: list[str | None] = []
        self.snapshots = KeptSnapshots(self._read, lambda: self.version, lambda: self.now)

    def _read(self, run_id: str | None) -> RoutingSnapshot:
        self.reads.append(run_id)
        return snapshot()

    def get(self, run_id: str | None = None) -> RoutingSnapshot:
        return self.snapshots.get(run_id)


def test_a_snapshot_is_kept_while_nothing_changes() -> None:
    kept = Kept()
    first = kept.get()
    kept.now += KEPT_S / 2
    assert kept.get() is first
    assert kept.reads == [None]


def test_a_change_is_seen_at_the_next_look() -> None:
    kept = Kept()
    kept.get()
    kept.version = 2
    kept.now += TRUSTED_S / 2
    kept.get()
    assert len(kept.reads) == 1
    kept.now += TRUSTED_S
    kept.get()
    assert len(kept.reads) == 2


def test_a_snapshot_ends_by_the_clock_alone_because_overrides_expire() -> None:
    kept = Kept()
    kept.get()
    kept.now += KEPT_S
    kept.get()
    assert len(kept.reads) == 2


def test_looking_does_not_make_a_snapshot_younger() -> None:
    kept = Kept()
    for _ in range(5):
        kept.get()
        kept.now += KEPT_S / 4
    assert len(kept.reads) == 2


def test_without_a_version_every_look_is_a_read() -> None:
    kept = Kept()
    kept.version = None
    kept.get()
    kept.now += TRUSTED_S
    kept.get()
    assert len(kept.reads) == 2


def test_each_run_has_its_own_and_only_so_many_are_kept() -> None:
    kept = Kept()
    for number in range(KEPT_LIMIT + 1):
        kept.get(f"R{number}")
    kept.get(f"R{KEPT_LIMIT}")
    kept.get("R0")
    assert kept.reads.count("R0") == 2
    assert kept.reads.count(f"R{KEPT_LIMIT}") == 1
