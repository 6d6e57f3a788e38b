"""Rebuilding: what is derived and was damaged is made anew, nothing else is touched, and it is said what changed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import ColumnElement, Connection, Executable, Table, delete, insert, select, update

from autopack_mcp.budgets import ledger
from autopack_mcp.budgets.check import check_ledger
from autopack_mcp.budgets.counters import scope_use
from autopack_mcp.budgets.rebuild import rebuild_ledger
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import (
    budget_scopes,
    pruned_phases,
    usage_days,
    usage_events,
    usage_hours,
    usage_phases,
)
from autopack_mcp.errors import RequestRefused
from autopack_mcp.usage import rebuild as rebuilding
from autopack_mcp.usage.rebuild import Rebuilt
from tests.budgets.lively import REHEARSED, capped_everywhere, live
from tests.factories import NOON, held_against, reservation, truth_of, window_cap
from tests.ledger_truth import everything

DERIVED = [usage_hours, usage_days, usage_phases]


@pytest.fixture
def lively(database: Database) -> Database:
    """A ledger that has seen everything, for two weeks."""
    live(database, days_ago=(0, 8))
    return database


def rebuilt(database: Database) -> list[Rebuilt]:
    return list(rebuild_ledger(database, NOON))


def damaged(database: Database, *statements: Executable) -> None:
    def damage(connection: Connection) -> None:
        for statement in statements:
            assert connection.execute(statement).rowcount != 0

    database.write_now(damage)


def adds_up(database: Database) -> bool:
    return database.read_now(check_ledger, capped_everywhere(), NOON).adds_up


def test_where_all_is_right_nothing_is_touched(lively: Database) -> None:
    before = lively.read_now(everything)

    assert rebuilt(lively) == []
    assert lively.read_now(everything) == before


@pytest.mark.parametrize("table", DERIVED, ids=lambda table: table.name)
@pytest.mark.parametrize("damage", ["changed", "missing", "spare", "emptied"])
def test_a_damaged_table_is_found_and_mended(lively: Database, table: Table, damage: str) -> None:
    before = lively.read_now(everything)
    first = select(*table.primary_key).order_by(*table.primary_key).limit(1)
    key = lively.read_now(lambda connection: connection.execute(first).one())
    is_first = [column == value for column, value in zip(table.primary_key, key, strict=True)]
    spare = select(table).where(*is_first).subquery()
    columns = [spare.c[column.name] if column.name != "model" else spare.c.model + "-x" for column in table.c]
    damaged(
        lively,
        {
            "changed": update(table).where(*is_first).values(calls=99, reasoning=1),
            "missing": delete(table).where(*is_first),
            "spare": insert(table).from_select([column.name for column in table.c], select(*columns)),
            "emptied": delete(table),
        }[damage],
    )
    assert not adds_up(lively)

    (found,) = rebuilt(lively)

    assert found.table == table.name
    assert damage == "emptied" or len(found.buckets) == 1
    assert lively.read_now(everything) == before
    assert adds_up(lively)


def test_what_was_made_anew_is_named(lively: Database) -> None:
    damaged(lively, update(usage_hours).values(calls=0), update(usage_phases).where(usage_phases.c.run_id == "R/2")
            .values(output=0))  # fmt: skip

    assert rebuilt(lively) == [
        Rebuilt("usage_hours", ("2026-11-10T12:00Z", "2026-11-18T12:00Z")),
        Rebuilt("usage_phases", ("R/2",)),
    ]


def test_every_counter_is_mended_but_for_the_start_of_a_rehearsals_window(lively: Database) -> None:
    is_shadow = budget_scopes.c.scope.like("rehearsal/H1/%/%/%")
    before = lively.read_now(_counters_but_for(is_shadow))
    wrong = {"settled_tokens": 1, "reserved_tokens": 2, "settled_nano": 3, "reserved_nano": 4}
    damaged(lively, update(budget_scopes).values(wrong))

    (found,) = rebuilt(lively)

    assert found.table == "counters"
    assert lively.read_now(_counters_but_for(is_shadow)) == before
    assert adds_up(lively)


def _counters_but_for(left_out: ColumnElement[bool]) -> Callable[[Connection], object]:
    rows = select(budget_scopes).where(~left_out).order_by(budget_scopes.c.scope)
    return lambda connection: connection.execute(rows).all()


def test_a_rehearsals_window_starts_anew_from_what_is_really_used(lively: Database) -> None:
    shadow = "rehearsal/H1/provider/openai/day/2026-11-18"
    damaged(lively, update(budget_scopes).where(budget_scopes.c.scope == shadow).values(settled_tokens=0))
    real = window_cap("day")
    use = lively.read_now(scope_use, REHEARSED, real, NOON)

    assert rebuilt(lively) == [Rebuilt("counters", (shadow,))]

    row = lively.read_now(lambda connection: connection.execute(
        select(budget_scopes.c.settled_tokens, budget_scopes.c.reserved_tokens)
        .where(budget_scopes.c.scope == shadow)).one())  # fmt: skip
    assert tuple(row) == (use.used_tokens + 10, 100)


def test_a_counter_of_nothing_is_dropped(lively: Database) -> None:
    before = lively.read_now(everything)
    nothing = {"settled_tokens": 0, "reserved_tokens": 0, "settled_nano": 0, "reserved_nano": 0}
    damaged(lively, insert(budget_scopes).values(scope="provider/openai/year/2026", **nothing))

    assert rebuilt(lively) == [Rebuilt("counters", ("provider/openai/year/2026",))]
    assert lively.read_now(everything) == before


def test_what_is_not_derived_is_left_as_it_is(lively: Database) -> None:
    damaged(lively, update(usage_events).values(price_version="made up", cost_nano=None))
    rebuilt(lively)
    events = lively.read_now(everything)["usage_events"]

    assert rebuilt(lively) == []
    assert not adds_up(lively)
    assert lively.read_now(everything)["usage_events"] == events


def test_a_call_that_comes_between_looking_and_mending_is_counted_once(
    lively: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "BUCKETS_PER_COMMIT", 1)
    damaged(lively, delete(usage_days), update(budget_scopes).values(settled_tokens=0))
    made = rebuild_ledger(lively, NOON)
    next(made)
    lively.write_now(_one_more_call)

    assert [found.table for found in made] == ["counters"]
    assert adds_up(lively)


def _one_more_call(connection: Connection) -> None:
    promise = reservation()
    ledger.reserve(connection, promise, held_against(), None, NOON + timedelta(seconds=1))
    ledger.settle(connection, truth_of(promise, tokens=70), held_against(), NOON + timedelta(seconds=2))


def test_sums_of_deleted_events_are_never_taken_for_wrong(lively: Database) -> None:
    """Without the note of what went by age, every sum over it would be emptied."""
    of_phases = [usage_phases.c[column.name] for column in pruned_phases.c]
    damaged(lively, insert(pruned_phases).from_select([c.name for c in pruned_phases.c], select(*of_phases)))
    before = lively.read_now(everything)

    with pytest.raises(RequestRefused, match="retention"):
        rebuilt(lively)

    assert lively.read_now(everything) == before
