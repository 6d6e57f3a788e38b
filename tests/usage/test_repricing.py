"""Pricing history again: each call at its own date, by what is known today, and no row is changed."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from autopack_mcp.config.settings import ModelPrice
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import retention
from autopack_mcp.usage import repricing
from autopack_mcp.usage.event import ReportedUsage, TokenCounts, UsageEvent, UsageLine
from autopack_mcp.usage.prices import PriceBook
from autopack_mcp.usage.repricing import ModelRepricing, Repricing, reprice
from autopack_mcp.usage.rollup import Charge, book
from tests.factories import NOON, call_scope, usage_event
from tests.ledger_truth import everything

LIST = PriceBook({})
OWN = PriceBook({"gpt-5": ModelPrice(Decimal(2), Decimal(8))})
MILLION_IN = TokenCounts(uncached_input=1_000_000)


def booked(database: Database, **overrides: Any) -> UsageEvent:
    event = usage_event(
        **{"model": "gpt-5", "counts": MILLION_IN, "cost_nano": None, "price_version": None, **overrides}
    )
    database.write_now(book, event, Charge(event.counts.total, event.cost_nano or 0), NOON)
    return event


def repriced(database: Database, by: PriceBook = LIST, **span: Any) -> Repricing:
    return database.read_now(reprice, by, **span)


def only(database: Database, by: PriceBook = LIST) -> ModelRepricing:
    (found,) = repriced(database, by).models
    return found


def test_a_price_that_became_known_is_found(database: Database) -> None:
    booked(database)
    before = database.read_now(everything)

    found = only(database)

    assert (found.provider, found.model, found.calls) == ("openai", "gpt-5", 1)
    assert (found.recorded_usd, found.recorded_unpriced_calls) == (None, 1)
    assert (found.repriced_usd, found.difference_usd, found.unpriced_calls) == (Decimal("1.25"), Decimal("1.25"), 0)
    assert found.recorded_versions == ()
    assert "openai/gpt-5" in found.versions[0]
    assert database.read_now(everything) == before


def test_a_price_of_ones_own_wins_over_the_list(database: Database) -> None:
    booked(database, cost_nano=1_250_000_000, price_version="genai-prices 0.2.3 openai/gpt-5")

    found = only(database, OWN)

    assert (found.recorded_usd, found.repriced_usd, found.difference_usd) == (
        Decimal("1.25"),
        Decimal(2),
        Decimal("0.75"),
    )
    assert found.recorded_versions == ("genai-prices 0.2.3 openai/gpt-5",)
    assert found.versions[0].startswith("models.yaml:")


def test_a_call_is_priced_at_its_own_date(database: Database) -> None:
    """gpt-5.6-luna became cheaper on 2026-07-30: 1 dollar before, 20 cents from then on."""
    for days in (0, 200):
        counts = TokenCounts(uncached_input=100_000)
        booked(database, model="gpt-5.6-luna", counts=counts, occurred_at=NOON - timedelta(days=days))

    found = only(database)

    assert found.repriced_usd == Decimal("0.12")
    assert len(found.versions) == 2


def test_what_nobody_prices_stays_unpriced_and_is_never_zero(database: Database) -> None:
    booked(database, model="a-new-model")

    found = only(database)

    assert (found.repriced_usd, found.difference_usd, found.unpriced_calls) == (None, None, 1)


def test_every_line_of_a_call_is_priced_by_its_own_model(database: Database) -> None:
    lines = (UsageLine("claude-sonnet-5", MILLION_IN), UsageLine("claude-opus-5", MILLION_IN))
    scope = call_scope(provider="anthropic")
    booked(database, scope=scope, model="claude-sonnet-5", lines=lines, counts=lines[0].counts + lines[1].counts)

    assert only(database).repriced_usd == 7


@pytest.mark.parametrize(
    "facts, dollars",
    [
        ({"service_tier": "flex"}, "0.625"),
        ({"service_tier": "priority"}, "2.5"),
        ({"processing": "batch"}, "0.625"),
        ({"tool_calls": {"web_search_requests": 2}}, "1.27"),
    ],
    ids=["tier", "dear tier", "batch", "tool calls"],
)
def test_how_a_call_was_served_is_priced(database: Database, facts: dict[str, Any], dollars: str) -> None:
    booked(database, **facts)

    assert only(database).repriced_usd == Decimal(dollars)


def test_where_a_call_was_computed_is_read_from_what_was_recorded(database: Database) -> None:
    booked(database, scope=call_scope(provider="anthropic"), model="claude-opus-5", raw_usage={"inference_geo": "us"})

    assert only(database).repriced_usd == Decimal("5.5")


def test_the_name_that_came_back_is_found_in_the_recorded_price(database: Database) -> None:
    usage = ReportedUsage((UsageLine("gpt-5-2025-08-07", MILLION_IN),), service_tier="flex")
    price = LIST.price_usage("openai", "our-alias", usage, NOON)
    assert price is not None
    booked(database, model="our-alias", cost_nano=price.cost_nano, price_version=price.version, service_tier="flex")

    found = only(database)

    assert found.difference_usd == 0
    assert found.versions == found.recorded_versions == (price.version,)


@pytest.mark.parametrize("source, status", [("estimated", "failed"), ("expired", "expired")])
@pytest.mark.parametrize("recorded, dollars", [(None, 11), (7 * 10**9, 7)], ids=["without a price", "with one"])
def test_a_reservation_that_was_charged_stands_and_is_a_bound_where_it_had_no_price(
    database: Database, source: str, status: str, recorded: int | None, dollars: int
) -> None:
    scope = call_scope(provider="anthropic")
    booked(database, scope=scope, model="claude-opus-5", usage_source=source, status=status, cost_nano=recorded)

    found = only(database)

    # A 1 hour cache write costs twice the input, in the US a tenth more.
    assert found.repriced_usd == dollars
    assert found.versions == ()


def test_an_estimate_that_was_made_elsewhere_is_no_bound(database: Database) -> None:
    booked(database, usage_source="estimated", status="external")

    assert only(database).repriced_usd == Decimal("1.25")


def test_a_call_that_was_refused_cost_nothing_whoever_sells_the_model(database: Database) -> None:
    booked(database, model="a-new-model", status="failed", counts=TokenCounts(), cost_nano=0)

    found = only(database)

    assert (found.recorded_usd, found.repriced_usd, found.unpriced_calls) == (Decimal(0), Decimal(0), 0)


def test_rehearsals_bought_nothing(database: Database) -> None:
    booked(database, scope=call_scope(purpose="rehearsal"))

    assert repriced(database).total.calls == 0


def test_models_come_dearest_first_and_sum_up(database: Database) -> None:
    booked(database)
    booked(database, model="gpt-5-mini", cost_nano=10)
    booked(database, model="unheard-of")

    found = repriced(database)

    assert [row.model for row in found.models] == ["gpt-5", "gpt-5-mini", "unheard-of"]
    assert (found.total.calls, found.total.unpriced_calls, found.total.recorded_unpriced_calls) == (3, 1, 2)
    assert found.total.repriced_usd == Decimal("1.25") + Decimal("0.25")


def test_a_stretch_is_priced_alone_with_its_bounds(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repricing, "CALLS_AT_ONCE", 2)
    for hours in range(5):
        booked(database, occurred_at=NOON + timedelta(hours=hours))

    found = repriced(database, since=NOON + timedelta(hours=1), before=NOON + timedelta(hours=4))

    assert found.total.calls == 3
    assert (found.starts_at, found.ends_at) == (NOON + timedelta(hours=1), NOON + timedelta(hours=4))
    assert repriced(database).total.calls == 5


def test_it_says_from_when_on_there_are_events(database: Database) -> None:
    def note(connection: Connection) -> None:
        connection.execute(insert(retention).values(name="usage_events", pruned_before=NOON, pruned_at=NOON))

    assert repriced(database).events_from is None
    database.write_now(note)
    assert repriced(database).events_from == NOON


def test_versions_that_are_shown_are_bounded(database: Database) -> None:
    for number in range(repricing.VERSIONS_SHOWN + 5):
        booked(database, cost_nano=1, price_version=f"list {number:02}", occurred_at=NOON + timedelta(seconds=number))

    assert only(database).recorded_versions == tuple(f"list {number:02}" for number in range(repricing.VERSIONS_SHOWN))
