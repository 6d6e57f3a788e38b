"""UsageRecorder: calls made elsewhere are priced, counted against every cap, and booked once (contract 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Connection, RowMapping, select

from autopack_mcp.budgets.breaches import count_breaches
from autopack_mcp.budgets.caps import ScopeCap
from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.clock import ManualClock
from autopack_mcp.config.settings import ModelPrice
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import usage_events, usage_lines
from autopack_mcp.errors import UsageConflict
from autopack_mcp.usage.event import UsageEvent, UsageLine
from autopack_mcp.usage.prices import PriceBook
from autopack_mcp.usage.recorder import UsageRecorder
from autopack_mcp.usage.windows import window_at
from tests.factories import NOON, held_against, token_counts, usage_event, window_cap
from tests.ledger_truth import assert_ledger_adds_up, everything

OWN = PriceBook({"gpt-4o": ModelPrice(Decimal(2), Decimal(10)), "gpt-4o-mini": ModelPrice(Decimal(1), Decimal(1))})
LIST = PriceBook({})
Opened = Callable[..., UsageRecorder]


@pytest.fixture
def opened(database: Database, clock: ManualClock) -> Opened:
    """A recorder over this test's database, with these prices and caps."""

    def open_recorder(prices: PriceBook = OWN, *caps: ScopeCap) -> UsageRecorder:
        def book(event: UsageEvent) -> None:
            database.write_now(book_external, event, held_against(*caps), clock.now())

        return UsageRecorder(book, lambda: prices)

    return open_recorder


def unpriced(call_id: str | None = None, **overrides: Any) -> UsageEvent:
    """60 tokens in, 40 out, of a call whose cost nobody has worked out."""
    return usage_event(call_id, **{"cost_nano": None, "price_version": None, **overrides})


def rows(connection: Connection) -> list[RowMapping]:
    return list(connection.execute(select(usage_events)).mappings())


def test_a_call_is_booked_as_external_with_its_cost(database: Database, opened: Opened) -> None:
    booked = opened().record_usage(unpriced("call-1"))
    (row,) = database.read_now(rows)
    assert (row["status"], row["cost_nano"], row["charged_tokens"]) == ("external", 60 * 2_000 + 40 * 10_000, 100)
    assert (booked.status, booked.cost_nano, booked.price_version) == ("external", 520_000, row["price_version"])
    database.read_now(assert_ledger_adds_up)


def test_a_cost_that_the_caller_knows_stands(database: Database, opened: Opened) -> None:
    opened().record_usage(usage_event(cost_nano=7, price_version="by contract"))
    (row,) = database.read_now(rows)
    assert (row["cost_nano"], row["price_version"]) == (7, "by contract")


def test_each_line_is_priced_by_its_own_model(database: Database, opened: Opened) -> None:
    lines = (UsageLine("gpt-4o", token_counts(output=0)), UsageLine("gpt-4o-mini", token_counts(uncached_input=0)))
    booked = opened().record_usage(unpriced(lines=lines))
    assert booked.cost_nano == 60 * 2_000 + 40 * 1_000
    found = database.read_now(lambda connection: connection.execute(select(usage_lines.c.model)).scalars().all())
    assert sorted(found) == ["gpt-4o", "gpt-4o-mini"]


def test_tier_batch_and_searches_are_in_the_price(opened: Opened) -> None:
    recorder = opened(LIST)

    def cost(**overrides: object) -> int:
        model = {
            "provider": "anthropic",
            "model": "claude-sonnet-4-5",
            "counts": token_counts(uncached_input=1_000_000),
        }
        found = recorder.record_usage(replace(unpriced(), **{**model, **overrides})).cost_nano  # type: ignore[arg-type]
        assert found is not None
        return found

    assert cost(processing="batch") * 2 == cost()
    assert cost(service_tier="batch") * 2 == cost()
    assert cost(tool_calls={"web_search_requests": 10}) == cost() + 100_000_000


def test_an_unknown_price_is_unknown_and_never_nothing(database: Database, opened: Opened) -> None:
    assert opened(LIST).record_usage(unpriced(model="model-of-somebody")).cost_nano is None
    assert [row["cost_nano"] for row in database.read_now(rows)] == [None]


@pytest.mark.parametrize("name", ["OpenAI", "openai"])
def test_two_spellings_of_one_account_are_one_account(database: Database, opened: Opened, name: str) -> None:
    opened().record_usage(unpriced(provider=name))
    assert [row["provider"] for row in database.read_now(rows)] == ["openai"]


def test_a_call_that_nobody_prices_names_no_price(database: Database, opened: Opened) -> None:
    booked = opened(LIST).record_usage(unpriced(model="a-new-model", price_version="somebody's list"))
    (row,) = database.read_now(rows)
    assert (booked.cost_nano, booked.price_version, row["price_version"]) == (None, None, None)


def test_raw_usage_is_kept_as_any_database_can_hold_it(database: Database, opened: Opened) -> None:
    opened().record_usage(unpriced(raw_usage={"cost": float("nan"), "note": "\ud800"}))
    (row,) = database.read_now(rows)
    assert row["raw_usage"] == {"cost": "nan", "note": "\ufffd"}


def test_repeating_a_call_changes_nothing(database: Database, opened: Opened) -> None:
    opened().record_usage(unpriced("call-1"))
    before = database.read_now(everything)
    opened(LIST).record_usage(unpriced("call-1"))
    assert database.read_now(everything) == before


def test_the_same_call_with_other_numbers_is_a_conflict_and_the_first_stands(
    database: Database, opened: Opened
) -> None:
    opened().record_usage(unpriced("call-1"))
    before = database.read_now(everything)
    with pytest.raises(UsageConflict, match="100 tokens before, 101 now"):
        opened().record_usage(unpriced("call-1", counts=token_counts(output=41)))
    assert database.read_now(everything) == before


@pytest.mark.parametrize("allowance, breaches", [(99, 1), (100, 0), (101, 0)])
def test_a_cap_that_a_call_passes_is_recorded_as_breached(
    database: Database, opened: Opened, allowance: int, breaches: int
) -> None:
    opened(OWN, window_cap(tokens=allowance)).record_usage(unpriced())
    span = window_at("day", NOON)
    assert database.read_now(count_breaches, span.start, span.end) == breaches
    assert len(database.read_now(rows)) == 1
