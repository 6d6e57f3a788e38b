"""What calls cost: against the price list itself, against hand calculation, and at every boundary."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from itertools import cycle, product
from typing import Any

import genai_prices
import pytest
from genai_prices.data_snapshot import get_snapshot
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.config.settings import ModelPrice
from autopack_mcp.usage.event import ReportedUsage, TokenCounts, UsageLine
from autopack_mcp.usage.prices import Price, PriceBook

AT = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)
BOOK = PriceBook({})
LISTED = f"genai-prices {genai_prices.__version__}"
OWN = ModelPrice(input=Decimal(2), output=Decimal(8), cache_read=Decimal("0.5"), cache_write=Decimal("2.5"))


def cost(provider: str, model: str, counts: TokenCounts, at: datetime = AT, **more) -> int | None:
    price = BOOK.price(provider, model, counts, at, **more)
    return price.cost_nano if price else None


# --- the list


SAMPLES = [
    TokenCounts(uncached_input=1),
    TokenCounts(output=1),
    TokenCounts(uncached_input=1234, output=567, reasoning=89),
    TokenCounts(uncached_input=10, cache_read=2000, cache_write_5m=300, cache_write_1h=40, output=50),
    TokenCounts(uncached_input=10, cache_write_other=777, output=5),
    TokenCounts(uncached_input=250_000, cache_read=60_000, output=4000, reasoning=4000),
    TokenCounts(uncached_input=1_000_000, cache_write_1h=5, output=100_000),
]
CONTEXTS: list[tuple[dict[str, str], dict[str, str]]] = [
    ({}, {}),
    ({"processing": "batch"}, {"processing": "batch"}),
    ({"service_tier": "flex"}, {"service_tier": "flex"}),
    ({"service_tier": "priority"}, {"service_tier": "priority"}),
    ({"service_tier": "default"}, {"service_tier": "default"}),
]


@pytest.mark.parametrize("vendor_id", ["openai", "anthropic", "google", "deepseek", "moonshotai", "x-ai"])
def test_every_listed_model_costs_what_the_list_calculates(vendor_id: str) -> None:
    """Ours is a calculation of its own (several times as fast, and exact), so it is held against the list's."""
    vendor = next(vendor for vendor in get_snapshot().providers if vendor.id == vendor_id)
    times = cycle([AT, datetime(2025, 1, 15, 3, 0, tzinfo=UTC), datetime(2027, 2, 1, 7, 0, tzinfo=UTC)])
    models = [model for model in vendor.models if model.prices != [] and vendor.find_model(model.id) is model]
    compared = 0
    for model, counts, (ours, theirs) in product(models, SAMPLES, CONTEXTS):
        at = next(times)
        found = cost(vendor_id, model.id, counts, at, **ours)
        if found is not None:
            assert found == listed_nano(vendor_id, model.id, counts, at, theirs), (model.id, counts, ours, at)
            compared += 1
    assert compared > 100


def listed_nano(vendor: str, model: str, counts: TokenCounts, at: datetime, context: dict[str, str]) -> int:
    usage = genai_prices.Usage(
        input_tokens=counts.total_input,
        cache_read_tokens=counts.cache_read,
        cache_write_tokens=counts.cache_write,
        cache_write_5m_tokens=counts.cache_write_5m,
        cache_write_1h_tokens=counts.cache_write_1h,
        output_tokens=counts.output,
        output_reasoning_tokens=counts.reasoning,
    )
    price = genai_prices.calc_price(
        usage, model, provider_id=vendor, genai_request_timestamp=at, price_context=context or None
    )
    return int((price.total_price * 10**9).to_integral_value())


def test_cost_is_exact_by_hand() -> None:
    counts = TokenCounts(uncached_input=1000, cache_read=10_000, cache_write_5m=2000, cache_write_1h=500, output=300)

    # Claude Sonnet 5: 2 in, 0.2 read, 2.5 write, 4 write for an hour, 10 out, dollars per million.
    by_hand = 1000 * 2000 + 10_000 * 200 + 2000 * 2500 + 500 * 4000 + 300 * 10_000
    assert BOOK.price("anthropic", "claude-sonnet-5", counts, AT) == Price(
        by_hand, f"{LISTED} anthropic/claude-sonnet-5"
    )


@pytest.mark.parametrize(
    "total_input, nano_per_token",
    [(199_999, 3000), (200_000, 3000), (200_001, 6000)],
    ids=["below", "at", "above"],
)
def test_long_context_step_prices_the_whole_call(total_input: int, nano_per_token: int) -> None:
    read = TokenCounts(uncached_input=total_input)

    assert cost("anthropic", "claude-sonnet-4-5-20250929", read) == total_input * nano_per_token


def test_long_context_step_counts_cached_tokens_too() -> None:
    counts = TokenCounts(uncached_input=1, cache_read=200_000, output=1)

    assert cost("anthropic", "claude-sonnet-4-5", counts) == 6000 + 200_000 * 600 + 22_500


@pytest.mark.parametrize(
    "at, nano, since",
    [
        (datetime(2026, 7, 29, 23, 59, 59, tzinfo=UTC), 1000, ""),
        (datetime(2026, 7, 30, 0, 0, tzinfo=UTC), 200, " from 2026-07-30"),
    ],
    ids=["the second before", "from midnight UTC"],
)
def test_price_is_the_one_of_its_day(at: datetime, nano: int, since: str) -> None:
    price = BOOK.price("openai", "gpt-5.6-luna", TokenCounts(uncached_input=1), at)

    assert price == Price(nano, f"{LISTED} openai/gpt-5.6-luna{since}")


def test_day_of_a_price_is_the_utc_day() -> None:
    in_tokyo = datetime(2026, 7, 30, 8, 59, tzinfo=timezone(timedelta(hours=9)))

    assert cost("openai", "gpt-5.6-luna", TokenCounts(uncached_input=1), in_tokyo) == 1000


@pytest.mark.parametrize(
    "provider, model, more, nano, variant",
    [
        ("openai", "gpt-5", {}, 1250, ""),
        ("openai", "gpt-5", {"service_tier": "default"}, 1250, ""),
        ("openai", "gpt-5", {"service_tier": "flex"}, 625, " (flex)"),
        ("openai", "gpt-5", {"service_tier": "priority"}, 2500, " (priority)"),
        ("openai", "gpt-5", {"service_tier": "a tier from the future"}, 1250, ""),
        ("anthropic", "claude-opus-5", {"service_tier": "standard"}, 5000, ""),
        ("anthropic", "claude-opus-5", {"service_tier": "fast"}, 10_000, " (fast)"),
        ("anthropic", "claude-opus-5", {"service_tier": "batch"}, 2500, " (batch)"),
        ("anthropic", "claude-opus-5", {"processing": "batch"}, 2500, " (batch)"),
    ],
)
def test_tier_and_batch_have_their_own_price(
    provider: str, model: str, more: dict[str, Any], nano: int, variant: str
) -> None:
    price = BOOK.price(provider, model, TokenCounts(uncached_input=1), AT, **more)

    assert price == Price(nano, f"{LISTED} {provider}/{model}{variant}")


@pytest.mark.parametrize(
    "provider, model, tier, nano, variant",
    [
        ("anthropic", "claude-opus-5", None, 5500, " (computed in us)"),
        ("anthropic", "claude-opus-5", "fast", 11_000, " (fast, computed in us)"),
        ("anthropic", "claude-opus-5", "batch", 2750, " (batch, computed in us)"),
        ("openai", "gpt-5", None, 1250, ""),
    ],
)
def test_computing_in_the_us_costs_a_tenth_more_at_anthropic(
    provider: str, model: str, tier: str | None, nano: int, variant: str
) -> None:
    price = BOOK.price(provider, model, TokenCounts(uncached_input=1), AT, tier, inference_geo="us")

    assert price == Price(nano, f"{LISTED} {provider}/{model}{variant}")


@pytest.mark.parametrize("geo", ["global", "not_available", "eu", None])
def test_computing_elsewhere_costs_what_is_listed(geo: str | None) -> None:
    assert cost("anthropic", "claude-opus-5", TokenCounts(uncached_input=1), inference_geo=geo) == 5000


def test_place_of_a_call_prices_every_bucket_but_no_search() -> None:
    counts = TokenCounts(uncached_input=10, cache_read=10, cache_write_5m=10, cache_write_1h=10, output=10)
    searches = {"web_search_requests": 1}

    plain = cost("anthropic", "claude-sonnet-5", counts)
    assert plain is not None
    found = cost("anthropic", "claude-sonnet-5", counts, tool_calls=searches, inference_geo="us")
    assert found == plain * 11 // 10 + 10_000_000


def test_own_price_is_the_same_wherever_the_call_was_computed() -> None:
    price = PriceBook({"claude-opus-5": OWN}).price(
        "anthropic", "claude-opus-5", TokenCounts(output=1), AT, inference_geo="us"
    )

    assert price is not None
    assert price.cost_nano == 8000


def test_fast_and_place_are_anthropics_words_at_its_address_whatever_the_account_is_called() -> None:
    book = PriceBook({}, {"work": "https://api.anthropic.com"})
    price = book.price("work", "claude-opus-5", TokenCounts(uncached_input=1), AT, "fast", inference_geo="us")

    assert price is not None
    assert price.cost_nano == 11_000


def test_half_a_nano_dollar_is_rounded_to_even_once_per_line() -> None:
    # Gemini 1.5 Flash 8B: 0.0375 dollars per million, so 37.5 nano-dollars a token.
    costs = [cost("google", "gemini-flash-1.5-8b", TokenCounts(uncached_input=tokens)) for tokens in (1, 2, 3)]

    assert costs == [38, 75, 112]


def test_web_searches_are_billed_by_the_piece() -> None:
    counts = TokenCounts(uncached_input=1)

    assert cost("anthropic", "claude-sonnet-5", counts, tool_calls={"web_search_requests": 3}) == 2000 + 3 * 10_000_000


# --- which list


@pytest.mark.parametrize(
    "provider, model, entry",
    [
        ("glm", "glm-4.6", "zai/GLM-4.6"),
        ("glm", "glm-4-plus", "zhipuai/GLM-4-Plus"),
        ("google", "gemini-2.5-pro", "google/gemini-2.5-pro"),
        ("google", "claude-sonnet-5", "google/claude-sonnet-5"),
        ("deepseek", "deepseek-chat", "deepseek/deepseek-chat"),
        ("openai", "gpt-4o-2024-08-06", "openai/gpt-4o"),
    ],
)
def test_provider_ids_are_translated(provider: str, model: str, entry: str) -> None:
    price = BOOK.price(provider, model, TokenCounts(output=1), AT)

    assert price is not None
    assert entry in price.version


@pytest.mark.parametrize(
    "provider, model",
    [
        ("ollama", "qwen3:14b"),
        ("openai-in-the-cellar", "gpt-5"),
        ("openai", "my-own-model"),
        ("anthropic", "gpt-5"),
        ("openai", ""),
        ("", "gpt-5"),
        ("google", "gemma-3-27b"),
        ("openai", "tts-1"),
    ],
)
def test_unknown_price_is_none_and_never_zero(provider: str, model: str) -> None:
    assert BOOK.price(provider, model, TokenCounts(uncached_input=5, output=5), AT) is None
    assert BOOK.upper_bound_nano(provider, model, 5, 5, AT) is None
    assert BOOK.unit_prices(provider, model, AT) is None


@pytest.mark.parametrize(
    "base_url, nano",
    [
        ("https://open.bigmodel.cn/api/paas/v4", 276),
        ("https://api.z.ai/api/paas/v4", 600),
        ("http://localhost/v1", 600),
    ],
)
def test_known_address_decides_whose_prices_apply(base_url: str, nano: int) -> None:
    book = PriceBook({}, {"glm": base_url})
    price = book.price("glm", "glm-4.7", TokenCounts(uncached_input=1), AT)

    assert price is not None
    assert price.cost_nano == nano


def test_provider_of_any_name_is_priced_by_a_known_address() -> None:
    book = PriceBook({}, {"work-account": "https://api.deepseek.com/v1"})

    assert book.unit_prices("work-account", "deepseek-chat", AT) is not None
    assert book.unit_prices("other-account", "deepseek-chat", AT) is None


# --- a person's own price


@pytest.mark.parametrize(
    "counts, nano",
    [
        (TokenCounts(uncached_input=1), 2000),
        (TokenCounts(cache_read=1), 500),
        (TokenCounts(cache_write_5m=1), 2500),
        (TokenCounts(cache_write_1h=1), 2500),
        (TokenCounts(cache_write_other=1), 2500),
        (TokenCounts(output=1, reasoning=1), 8000),
        (TokenCounts(uncached_input=500_000, output=3), 1_000_024_000),
    ],
)
def test_own_price_wins_over_the_list(counts: TokenCounts, nano: int) -> None:
    price = PriceBook({"gpt-5": OWN}).price("openai", "gpt-5", counts, AT, service_tier="priority", processing="batch")

    assert price is not None
    assert price.cost_nano == nano
    assert price.version.startswith("models.yaml:")


def test_own_price_without_cache_prices_bills_cached_as_input() -> None:
    book = PriceBook({"local": ModelPrice(Decimal(1), Decimal(3))})
    counts = TokenCounts(uncached_input=1, cache_read=1, cache_write_1h=1, output=1)

    price = book.price("ollama", "local", counts, AT)

    assert price is not None
    assert price.cost_nano == 6000


@pytest.mark.parametrize("name, is_own", [
    ("gpt-5", True), ("GPT-5", True), ("gpt-5-2025-08-07", True), ("gpt-5-20250807", True), ("gpt-5@20250807", True),
    ("gpt-5:latest", True), ("gpt-5-mini", False), ("gpt-5.1", False), ("gpt-5-2025", False), ("my-gpt-5", False),
])  # fmt: skip
def test_own_price_covers_dated_versions_of_its_name_and_no_other_model(name: str, is_own: bool) -> None:
    price = PriceBook({"gpt-5": OWN}).price("openai", name, TokenCounts(output=1), AT)

    assert (price is not None and price.version.startswith("models.yaml:")) is is_own


def test_version_of_an_own_price_changes_with_every_number_of_it() -> None:
    prices = [
        OWN,
        ModelPrice(Decimal("2.1"), Decimal(8), Decimal("0.5"), Decimal("2.5")),
        ModelPrice(Decimal(2), Decimal(8), Decimal("0.5")),
        ModelPrice(Decimal(2), Decimal(8)),
        ModelPrice(Decimal(2), Decimal("8.1")),
    ]
    versions = {PriceBook({"m": price}).price("p", "m", TokenCounts(), AT) for price in prices}

    assert len(versions) == len(prices)


def test_free_is_a_price() -> None:
    book = PriceBook({"local": ModelPrice(Decimal(0), Decimal(0))})

    assert book.upper_bound_nano("ollama", "local", 10**6, 10**6, AT) == 0
    assert book.price("ollama", "local", TokenCounts(output=10**6), AT) is not None


# --- a whole call


def test_call_that_billed_two_models_is_the_sum_of_its_lines() -> None:
    lines = (
        UsageLine("claude-sonnet-5", TokenCounts(uncached_input=100, output=10)),
        UsageLine("claude-opus-5", TokenCounts(uncached_input=100, output=10)),
        UsageLine("claude-sonnet-5", TokenCounts(uncached_input=100)),
    )
    usage = ReportedUsage(lines, tool_calls={"web_search_requests": 1})
    price = BOOK.price_usage("anthropic", "claude-sonnet-5", usage, AT)

    by_hand = (200_000 + 100_000) + (500_000 + 250_000) + 200_000 + 10_000_000
    entries = f"{LISTED} anthropic/claude-sonnet-5 + {LISTED} anthropic/claude-opus-5"
    assert price == Price(by_hand, entries)


def test_one_unpriced_line_makes_the_call_unpriced() -> None:
    lines = (UsageLine("claude-sonnet-5", TokenCounts(output=1)), UsageLine("a-new-model", TokenCounts(output=1)))

    assert BOOK.price_usage("anthropic", "claude-sonnet-5", ReportedUsage(lines), AT) is None


@pytest.mark.parametrize("answered", ["", "a-name-of-the-gateway", "gpt-5-2025-08-07"])
def test_name_that_came_back_does_not_hide_the_price_of_what_was_asked(answered: str) -> None:
    usage = ReportedUsage((UsageLine(answered, TokenCounts(output=1)),))
    price = BOOK.price_usage("openai", "gpt-5", usage, AT)

    assert price is not None
    assert price.cost_nano == 10_000


def test_own_price_of_what_was_asked_wins_over_the_listed_one_of_what_came_back() -> None:
    usage = ReportedUsage((UsageLine("gpt-5", TokenCounts(output=1)),))
    price = PriceBook({"house-model": OWN}).price_usage("openai", "house-model", usage, AT)

    assert price is not None
    assert price.cost_nano == 8000


def test_place_that_the_provider_reported_prices_the_call() -> None:
    lines = (UsageLine("claude-opus-5", TokenCounts(output=1)), UsageLine("claude-sonnet-5", TokenCounts(output=1)))
    usage = ReportedUsage(lines, inference_geo="us")
    price = BOOK.price_usage("anthropic", "claude-opus-5", usage, AT)

    assert price is not None
    assert price.cost_nano == 27_500 + 11_000


def test_tier_that_the_provider_reported_prices_the_call() -> None:
    usage = ReportedUsage((UsageLine("gpt-5", TokenCounts(output=1)),), service_tier="flex")

    assert BOOK.price_usage("openai", "gpt-5", usage, AT) == Price(5000, f"{LISTED} openai/gpt-5 (flex)")


# --- bounds


@pytest.mark.parametrize(
    "model, input_bound, nano_per_input",
    [
        ("claude-sonnet-5", 1000, 4400),
        ("claude-haiku-4-5", 1000, 2000),
        ("claude-3-5-haiku-latest", 1000, 1600),
        ("gpt-5", 1000, 1250),
        ("gpt-6-sol", 272_000, 2500),
        ("gpt-6-sol", 272_001, 5000),
    ],
    ids=["1 hour write in the US", "1 hour write", "an old 1 hour write", "no write", "at the step", "beyond the step"],
)
def test_bound_takes_the_dearest_way_to_bill(model: str, input_bound: int, nano_per_input: int) -> None:
    provider = "anthropic" if model.startswith("claude") else "openai"

    assert BOOK.upper_bound_nano(provider, model, input_bound, 0, AT) == input_bound * nano_per_input


def test_bound_is_rounded_up() -> None:
    bounds = [BOOK.upper_bound_nano("google", "gemini-flash-1.5-8b", tokens, 0, AT) for tokens in (1, 2, 3)]

    assert bounds == [38, 75, 113]


BUCKET = st.integers(0, 300_000)


@given(
    counts=st.builds(TokenCounts, BUCKET, BUCKET, BUCKET, BUCKET, BUCKET, BUCKET),
    model=st.sampled_from(
        [
            ("anthropic", "claude-sonnet-4-5"),
            ("anthropic", "claude-haiku-5-5"),
            ("openai", "gpt-6-sol"),
            ("google", "gemini-flash-1.5-8b"),
            ("glm", "glm-5.3-flash"),
            ("own", "own"),
        ]
    ),
    spare=st.integers(0, 1000),
    geo=st.sampled_from([None, "us", "eu"]),
)
def test_no_call_within_its_bounds_costs_more_than_its_bound(
    counts: TokenCounts, model: tuple[str, str], spare: int, geo: str | None
) -> None:
    book = PriceBook({"own": OWN})
    provider, name = model
    if provider == "anthropic" and name == "claude-sonnet-4-5":
        geo = None  # Too old to be asked where to compute.
    price = book.price(provider, name, counts, AT, inference_geo=geo)
    bound = book.upper_bound_nano(provider, name, counts.total_input + spare, counts.output, AT)

    assert price is not None
    assert bound is not None
    assert price.cost_nano <= bound


def test_unit_prices_are_dollars_per_million() -> None:
    prices = BOOK.unit_prices("anthropic", "claude-sonnet-4-5", AT)

    assert prices is not None
    assert (prices.input_usd, prices.output_usd) == (Decimal(3), Decimal(15))
