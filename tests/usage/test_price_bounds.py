"""The dollar bound against the whole price list: a call within its bounds never costs more than was promised."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from genai_prices.data_snapshot import get_snapshot

from autopack_mcp.usage.event import ReportedUsage, TokenCounts, UsageLine
from autopack_mcp.usage.prices import PriceBook

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
BOOK = PriceBook({})
# Both sides of the steps at which long context becomes dearer (128k, 200k, 272k), and calls of every size.
SIZES = (1, 90, 5_000, 128_001, 200_001, 272_001, 1_000_000)
VENDORS = sorted(vendor.id for vendor in get_snapshot().providers)


def splits(draw: random.Random) -> Iterator[TokenCounts]:
    """Each size, all in one bucket and spread over them at random."""
    for size in SIZES:
        for bucket in range(5):
            yield counts([size if part == bucket else 0 for part in range(5)], size, draw)
        cuts = sorted(draw.randint(0, size) for _ in range(4))
        parts = [end - start for start, end in zip([0, *cuts], [*cuts, size], strict=True)]
        yield counts(parts, draw.randint(0, size), draw)


def counts(parts: list[int], output: int, draw: random.Random) -> TokenCounts:
    """The five buckets of input, and an answer of which some was thought."""
    uncached, read, write_5m, write_1h, write_other = parts
    return TokenCounts(uncached, read, write_5m, write_1h, write_other, output, draw.randint(0, output))


def test_where_no_cache_is_written_its_price_is_not_promised() -> None:
    at_anthropic = ("anthropic", "claude-sonnet-4-5", 1_000, 0, AT)
    dearest = BOOK.upper_bound_nano(*at_anthropic)
    without = BOOK.upper_bound_nano(*at_anthropic, may_write_cache=False)
    plain = BOOK.price(*at_anthropic[:2], TokenCounts(uncached_input=1_000), AT)
    assert plain is not None
    assert (dearest, without) == (2 * plain.cost_nano, plain.cost_nano)


@pytest.mark.parametrize("vendor", VENDORS)
def test_no_listed_model_can_bill_more_than_its_bound(vendor: str) -> None:
    draw = random.Random(vendor)
    models = [model.id for provider in get_snapshot().providers if provider.id == vendor for model in provider.models]
    for model in models:
        for used in splits(draw):
            price = BOOK.price_usage(vendor, model, ReportedUsage((UsageLine("", used),)), AT)
            bound = BOOK.upper_bound_nano(vendor, model, used.total_input, used.output, AT)
            if bound is None:
                continue  # Then no cap in dollars lets the call pass.
            assert price is not None, (model, used)
            assert price.cost_nano <= bound, (model, used)
