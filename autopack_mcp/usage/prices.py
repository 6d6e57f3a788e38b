"""What tokens cost: integer nano-dollars from the genai-prices list, or from a person's own price in models.yaml.

It owns dated prices, long-context steps and the dearest case of a call; an unknown price is None, never 0. It is pure
apart from loading the list at the first question (0.2 s, so never at import). ``llm_service`` and the router's "is it
dearer?" ask it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

from autopack_mcp.config.settings import ModelPrice
from autopack_mcp.money import NANO_PER_USD
from autopack_mcp.usage.event import Processing, ReportedUsage, TokenCounts

if TYPE_CHECKING:
    from genai_prices import types as listed

# Prices are dollars per million tokens, so one token costs this many nano-dollars per dollar of price.
_NANO_PER_TOKEN = Decimal(NANO_PER_USD // 1_000_000)
_NANO_PER_THOUSANDTH = Decimal(NANO_PER_USD // 1_000)

# Our provider ids in the words of the list. Z.AI prices GLM in dollars and is the dearer one; Zhipu's own list
# (converted from yuan) fills the models it lacks. Any other provider is looked up by its base_url, or by an id that is
# exactly the list's own: a name that merely contains "openai" may be a server in somebody's cellar.
_LISTS: Mapping[str, tuple[str, ...]] = {
    "openai": ("openai",),
    "anthropic": ("anthropic",),
    "google": ("google",),
    "glm": ("zai", "zhipuai"),
}

# Anthropic bills the tokens of a call that it computed in the US at 1.1 times their price, and its answer says so; the
# list does not know that. A workspace may ask for it by its settings, so a bound must hold it; models up to 4.5 cannot
# be asked. Source: "Data residency" in Anthropic's documentation, 2026-11.
_GEO_FACTORS: Mapping[tuple[str, str], Decimal] = {("anthropic", "us"): Decimal("1.1")}
_WITHOUT_GEO = re.compile(r"claude-(v1|[123]\b|(opus|sonnet|haiku)-4-[0-5]\b)")

ENTRIES_KEPT = 1_024  # Models whose place in the list is remembered; a gateway may answer with any name.

# What a provider appends to the name we asked for: a date, or "latest". Anything else is another model.
_DATED = re.compile(r"[-@:](latest|\d{8}|\d{4}-\d{2}-\d{2})")


@dataclass(frozen=True, slots=True)
class Price:
    """Integer nano-dollars, and the name of the price they come from (enough to look it up again years later)."""

    cost_nano: int
    version: str


@dataclass(frozen=True, slots=True)
class UnitPrices:
    """Dollars per million uncached input and output tokens of a short, standard call: for comparing models."""

    input_usd: Decimal
    output_usd: Decimal


@dataclass(frozen=True, slots=True)
class _Rate:
    """Dollars per million tokens; a call whose input exceeds a step's start pays that price for all of its tokens."""

    base: Decimal
    steps: tuple[tuple[int, Decimal], ...] = ()

    def at(self, total_input: int) -> Decimal:
        reached = [price for start, price in self.steps if total_input > start]
        return reached[-1] if reached else self.base

    def dearest(self, total_input_bound: int) -> Decimal:
        return max([self.base, *(price for start, price in self.steps if total_input_bound > start)])


@dataclass(frozen=True, slots=True)
class _Rates:
    """Everything one model charges for; a missing rate falls back to the one it is a part of (cache to input)."""

    version: str
    input: _Rate | None
    output: _Rate | None
    cache_read: _Rate | None = None
    cache_write: _Rate | None = None
    cache_write_1h: _Rate | None = None
    reasoning: _Rate | None = None
    usd_per_thousand_calls: Decimal = Decimal(0)
    usd_per_thousand_web_searches: Decimal | None = None
    token_factor: Decimal = Decimal(1)


@dataclass(frozen=True, slots=True)
class _Serving:
    """How a call was served, as far as that has a price of its own: the words of ``PriceBook.price``."""

    service_tier: str | None = None
    processing: Processing = "sync"
    inference_geo: str | None = None


class PriceBook:
    """Answers what tokens cost. Safe to share between threads; it only remembers which list entry a model is.

    Args:
        overrides: prices from models.yaml by model name; they win over the list and over every tier and batch discount.
        base_urls: where providers are reached, by provider id; an address the list knows decides whose prices apply.
    """

    def __init__(self, overrides: Mapping[str, ModelPrice], base_urls: Mapping[str, str] | None = None) -> None:
        self._overrides = {name.lower(): price for name, price in overrides.items()}
        self._base_urls = dict(base_urls or {})
        self._entry = lru_cache(ENTRIES_KEPT)(self._find_entry)

    def price(
        self,
        provider: str,
        model: str,
        counts: TokenCounts,
        at: datetime,
        service_tier: str | None = None,
        processing: Processing = "sync",
        tool_calls: Mapping[str, int] | None = None,
        inference_geo: str | None = None,
    ) -> Price | None:
        """What one usage line cost at ``at`` (aware), or None when the list does not know or has no price for a part.

        ``service_tier`` is the one the provider reported ("flex", "priority", Anthropic's "fast"), ``inference_geo``
        where it says that it computed; ``tool_calls`` adds web searches. Rounded once, half to even, to the nearest
        nano-dollar: the error has no sign that could add up.
        """
        rates = self._rates(provider, model, at, _Serving(service_tier, processing, inference_geo))
        cost = None if rates is None else _exact_nano(rates, counts, tool_calls or {})
        return None if rates is None or cost is None else Price(_nearest(cost), rates.version)

    def price_usage(
        self, provider: str, model: str, usage: ReportedUsage, at: datetime, processing: Processing = "sync"
    ) -> Price | None:
        """What a whole call cost: the sum over its lines, each by its own model; None when any line is unpriced.

        ``model`` is the one we asked for. It prices a line that names no model. A call with one line is priced by it,
        too, when a person set its price or the list does not know the name that came back: it is what we asked to buy.
        Versions of several models are joined with " + ".
        """
        prices: list[Price] = []
        for line in usage.lines:
            searches = {} if prices else usage.tool_calls  # They belong to the call, so they are counted once.
            priced = (
                self.price(
                    provider, name, line.counts, at, usage.service_tier, processing, searches, usage.inference_geo
                )
                for name in self._names(model, line.model, is_only_line=len(usage.lines) == 1)
            )
            found = next((price for price in priced if price is not None), None)
            if found is None:
                return None
            prices.append(found)
        return _joined(prices)

    def upper_bound_nano(
        self,
        provider: str,
        model: str,
        input_tokens_bound: int,
        output_tokens_bound: int,
        at: datetime,
        *,
        may_write_cache: bool = True,
    ) -> int | None:
        """The most that a call within these bounds can cost, rounded up; None when no price is known.

        Takes the dearest way the list knows to bill the input (a 1 hour cache write often costs twice the input), the
        dearest long-context step within reach, and the dearest place to compute. Not in it, because we never ask for
        them: priority and fast processing, and searches by the provider's own tools; nor writing a cache, where
        ``may_write_cache`` says that nobody asks for that either.
        """
        rates = self._rates(provider, model, at, _Serving())
        if rates is None or rates.input is None or rates.output is None:
            return None
        of_input = [rates.input, rates.cache_read]
        of_input += [rates.cache_write, rates.cache_write_1h] if may_write_cache else []
        of_output = [rates.output, rates.reasoning]
        tokens = _dearest(of_input, input_tokens_bound) * input_tokens_bound
        tokens += _dearest(of_output, input_tokens_bound) * output_tokens_bound
        exact = tokens * _NANO_PER_TOKEN * self._dearest_place(provider, model)
        exact += rates.usd_per_thousand_calls * _NANO_PER_THOUSANDTH
        return int(exact.to_integral_value(ROUND_CEILING))

    def unit_prices(self, provider: str, model: str, at: datetime) -> UnitPrices | None:
        """Prices per million tokens for comparing two models; None when either is unknown."""
        rates = self._rates(provider, model, at, _Serving())
        if rates is None or rates.input is None or rates.output is None:
            return None
        return UnitPrices(rates.input.base, rates.output.base)

    def _names(self, asked: str, answered: str, *, is_only_line: bool) -> tuple[str, ...]:
        """Under which names to look a line up, in order."""
        if not is_only_line or not answered:
            return (answered or asked,)
        return (asked, answered) if self._override(asked.lower()) else (answered, asked)

    def _dearest_place(self, provider: str, model: str) -> Decimal:
        entry = None if self._override(model.lower()) else self._entry(provider, model)
        if entry is None or _WITHOUT_GEO.match(entry.model.id):
            return Decimal(1)
        return max(
            (factor for (vendor, _), factor in _GEO_FACTORS.items() if vendor == entry.list_id), default=Decimal(1)
        )

    def _rates(self, provider: str, model: str, at: datetime, serving: _Serving) -> _Rates | None:
        override = self._override(model.lower())
        if override is not None:
            return _rates_of_override(override)
        entry = self._entry(provider, model)
        if entry is None:
            return None
        moment = at.astimezone(UTC)
        if entry.has_hours:
            return _rates_at(entry, moment, serving)
        return _rates_of_day(entry, moment.date(), serving)

    def _override(self, model: str) -> ModelPrice | None:
        """A person's price for this name, or for the name this one is a dated version of."""
        if model in self._overrides:
            return self._overrides[model]
        undated = (name for name in self._overrides if model.startswith(name) and _DATED.fullmatch(model[len(name) :]))
        longest = max(undated, key=len, default=None)
        return None if longest is None else self._overrides[longest]

    def _find_entry(self, provider: str, model: str) -> _Entry | None:
        return _find_entry(provider, model, self._base_urls.get(provider))


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """One model in the list. ``is_own`` is False when another vendor's prices stand in; then variants do not apply.

    ``has_hours`` says that a price of it holds for a part of each day only. Each entry is equal to itself alone.
    """

    list_id: str
    model: listed.ModelInfo
    is_own: bool
    has_hours: bool


def _find_entry(provider: str, model: str, base_url: str | None) -> _Entry | None:
    from genai_prices.data_snapshot import get_snapshot  # Lazy: 30,000 lines of prices.

    vendors = get_snapshot().providers
    for vendor in _vendors_of(provider, base_url, vendors):
        try:
            found = vendor.find_model(model, all_providers=vendors)
        except (LookupError, ValueError):
            continue
        if found is not None:
            return _Entry(vendor.id, found, any(found is own for own in vendor.models), _has_hours(found))
    return None


def _has_hours(model: listed.ModelInfo) -> bool:
    dated = [*(model.prices if isinstance(model.prices, list) else ()), *(model.price_variants or ())]
    return any(hasattr(price.constraint, "start_time") for price in dated)


def _vendors_of(provider: str, base_url: str | None, vendors: Iterable[listed.Provider]) -> list[listed.Provider]:
    vendors = list(vendors)
    by_address = [vendor for vendor in vendors if base_url and re.match(vendor.api_pattern, base_url)]
    if by_address:
        return by_address
    ids = _LISTS.get(provider, (provider,))
    return [vendor for wanted in ids for vendor in vendors if vendor.id == wanted]


def _context(entry: _Entry, serving: _Serving) -> Mapping[str, str]:
    """What selects a variant in the list. Batch is a tier in Anthropic's answers, and its fast mode is a speed."""
    if not entry.is_own:
        return {}
    if serving.processing == "batch" or serving.service_tier == "batch":
        return {"processing": "batch"}
    if serving.service_tier == "fast" and entry.list_id == "anthropic":
        return {"speed": "fast"}
    return {"service_tier": serving.service_tier} if serving.service_tier else {}


@lru_cache(
    maxsize=1_024
)  # Some models, their tiers, and a year of days: pricing history asks for each a thousand times.
def _rates_of_day(entry: _Entry, day: date, serving: _Serving) -> _Rates | None:
    return _rates_at(entry, datetime.combine(day, time(), UTC), serving)


def _rates_at(entry: _Entry, at: datetime, serving: _Serving) -> _Rates | None:
    try:
        return _rates_of_entry(entry, at, serving)
    except (LookupError, ValueError, ArithmeticError):
        return None  # The list contradicts itself for this model; unpriced is the honest answer.


def _rates_of_entry(entry: _Entry, at: datetime, serving: _Serving) -> _Rates:
    context = _context(entry, serving)
    prices = entry.model.get_prices(at, context or None).__dict__
    applied = list(context.values()) if context and prices != entry.model.get_prices(at).__dict__ else []
    factor = _GEO_FACTORS.get((entry.list_id, serving.inference_geo or ""), Decimal(1))
    if factor != 1:
        applied.append(f"computed in {serving.inference_geo}")
    calls, searches = prices.get("requests_kcount"), prices.get("web_searches_kcount")
    return _Rates(
        version=_version(entry, at, applied),
        input=_rate(prices.get("input_mtok")),
        output=_rate(prices.get("output_mtok")),
        cache_read=_rate(prices.get("cache_read_mtok")),
        cache_write=_rate(prices.get("cache_write_mtok")),
        cache_write_1h=_rate(prices.get("cache_write_1h_mtok")),
        reasoning=_rate(prices.get("output_reasoning_mtok")),
        usd_per_thousand_calls=calls if isinstance(calls, Decimal) else Decimal(0),
        usd_per_thousand_web_searches=searches if isinstance(searches, Decimal) else None,
        token_factor=factor,
    )


def _rate(price: Decimal | listed.TieredPrices | None) -> _Rate | None:
    if price is None or isinstance(price, Decimal):
        return None if price is None else _Rate(price)
    return _Rate(price.base, tuple((tier.start, tier.price) for tier in price.tiers))


def _version(entry: _Entry, at: datetime, applied: list[str]) -> str:
    """For example "genai-prices 0.2.3 openai/gpt-5.6-luna from 2026-07-30 (flex)"."""
    from genai_prices import __version__  # Lazy, as above.

    since = f" from {started}" if (started := _price_start(entry.model, at)) else ""
    variant = f" ({', '.join(applied)})" if applied else ""
    return f"genai-prices {__version__} {entry.list_id}/{entry.model.id}{since}{variant}"


def _price_start(model: listed.ModelInfo, at: datetime) -> str | None:
    """The date, or the hours of the day, since when the price in force at ``at`` holds; None when it is not dated."""
    if not isinstance(model.prices, list):
        return None
    for dated in reversed(model.prices):
        if dated.constraint is None or dated.constraint.active(at):
            started = getattr(dated.constraint, "start_date", None) or getattr(dated.constraint, "start_time", None)
            return None if started is None else str(started.isoformat())
    return None


@lru_cache(ENTRIES_KEPT)
def _rates_of_override(price: ModelPrice) -> _Rates:
    """Where a person gave no cache price, cached tokens cost as much as any other input."""
    numbers = "/".join(str(number) for number in (price.input, price.output, price.cache_read, price.cache_write))
    return _Rates(
        version=f"models.yaml:{hashlib.sha256(numbers.encode()).hexdigest()[:12]}",
        input=_Rate(price.input),
        output=_Rate(price.output),
        cache_read=None if price.cache_read is None else _Rate(price.cache_read),
        cache_write=None if price.cache_write is None else _Rate(price.cache_write),
    )


def _exact_nano(rates: _Rates, counts: TokenCounts, tool_calls: Mapping[str, int]) -> Decimal | None:
    """The exact cost, or None when something was used that has no price."""
    write = rates.cache_write or rates.input
    charged = (
        (counts.uncached_input, rates.input),
        (counts.cache_read, rates.cache_read or rates.input),
        (counts.cache_write_5m + counts.cache_write_other, write),
        (counts.cache_write_1h, rates.cache_write_1h or write),
        (counts.output - counts.reasoning, rates.output),
        (counts.reasoning, rates.reasoning or rates.output),
    )
    of_tokens = Decimal(0)
    for tokens, rate in charged:
        if tokens == 0:
            continue
        if rate is None:
            return None
        of_tokens += rate.at(counts.total_input) * tokens * _NANO_PER_TOKEN
    cost = of_tokens * rates.token_factor + rates.usd_per_thousand_calls * _NANO_PER_THOUSANDTH
    if rates.usd_per_thousand_web_searches is not None:
        cost += tool_calls.get("web_search_requests", 0) * rates.usd_per_thousand_web_searches * _NANO_PER_THOUSANDTH
    return cost


def _dearest(rates: Iterable[_Rate | None], total_input_bound: int) -> Decimal:
    return max(rate.dearest(total_input_bound) for rate in rates if rate is not None)


def _nearest(nano: Decimal) -> int:
    return int(nano.to_integral_value(ROUND_HALF_EVEN))


def _joined(prices: list[Price]) -> Price | None:
    if not prices:
        return None
    versions = dict.fromkeys(price.version for price in prices)
    return Price(sum(price.cost_nano for price in prices), " + ".join(versions))
