"""Reads what a provider says it used and turns it into our token buckets, by the rules of docs/accounting.md.

It owns every vendor's spelling of usage; it never guesses a split, knows no price and books nothing. The provider
adapters call it on each usage that arrives, and so does whoever imports bodies that others recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Literal, TypeGuard

from autopack_mcp.errors import ImpossibleTokenCounts
from autopack_mcp.text_safety import whole
from autopack_mcp.usage.event import ReportedUsage, TokenCounts, UsageLine
from autopack_mcp.usage.raw_usage import ITEMS_LIMIT, kept_usage

UsageApi = Literal["openai.chat", "openai.responses", "anthropic.messages", "google.generate_content"]

JsonObject = Mapping[str, object]

# No context window is near this; a larger number is a broken counter, and would not fit our integer columns for long.
TOKENS_LIMIT = 10**12

NAME_LIMIT = 512  # Characters of a name (of a model, an answer, a tier); vendors' longest have about a hundred.


class _Unreadable(Exception):
    """The body has no usage that could be booked; never leaves this module."""


def read_usage(api: UsageApi, body: JsonObject) -> ReportedUsage | None:
    """What the provider says this call used, or None when it says nothing that can be booked.

    Args:
        api: whose shape the body has; compatible servers use the shape they imitate.
        body: the whole answer, or the part of it with ``model``, ``service_tier`` and the usage object. Of a stream:
            what has arrived so far, later numbers written over earlier ones.

    Returns:
        One line per model that billed (``model`` is "" where the body names none), and the usage object as it came, cut
        where it is larger than any vendor's.
        None, so that the caller keeps its reservation, when

        - there is no usage object, or it is empty or null;
        - a number without which input or output is unknown is missing (``prompt_tokens``; ``completion_tokens`` where
          there is no ``total_tokens`` either; ``input_tokens`` and ``output_tokens``; ``promptTokenCount``);
        - any number that we read is not one: text, a boolean, a fraction, negative, or beyond ``TOKENS_LIMIT``;
        - a part is larger than its whole: more cached than the prompt, more reasoning than output, more in the 5 minute
          and 1 hour caches than in all caches.

        A missing or null *part* of a whole that is there counts as zero: providers leave out what did not happen.

    Source: docs/accounting.md, "Reading usage".
    """
    try:
        return _READERS[api](body)
    except (_Unreadable, ImpossibleTokenCounts):
        return None


def read_own_usage(api: UsageApi, body: JsonObject) -> ReportedUsage | None:
    """As ``read_usage``, of a call that we sent ourselves: it had input, so all zeros mean "unknown", and give None.

    Servers that do not count send zeros, and a stream may open with zeros before it knows.
    """
    usage = read_usage(api, body)
    return usage if usage is not None and usage.counts.total > 0 else None


def read_inference_geo(usage: JsonObject) -> str | None:
    """Where a usage object (also one that was recorded) says that the call was computed, lower case.

    Anthropic's word; "global" and "not_available" are no place, and give None.
    """
    place = (_text(usage.get("inference_geo")) or "").lower()
    return None if place in ("", "global", "not_available") else place


def _read_chat(body: JsonObject) -> ReportedUsage:
    usage = _object(body, "usage")
    return _reported(body, usage, _openai_counts(usage, _output_with_hidden_thinking))


def _read_responses(body: JsonObject) -> ReportedUsage:
    usage = _object(body, "usage")
    return _reported(body, usage, _openai_counts(usage, _output_as_said))


def _openai_counts(usage: JsonObject, output_of: Callable[[int | None, int | None], int]) -> TokenCounts:
    """Cached tokens, read and written, are inside the prompt; reasoning is inside the output."""
    prompt = _required(_count(usage, "prompt_tokens", "input_tokens"))
    total = _count(usage, "total_tokens")
    output = output_of(_count(usage, "completion_tokens", "output_tokens"), None if total is None else total - prompt)
    of_prompt = _part(usage, "prompt_tokens_details", "input_tokens_details", "input_token_details")
    of_output = _part(usage, "completion_tokens_details", "output_tokens_details", "output_token_details")
    cache_read = _cache_read(usage, of_prompt)
    cache_write = _count(of_prompt, "cache_write_tokens") or 0
    return TokenCounts(
        uncached_input=prompt - cache_read - cache_write,
        cache_read=cache_read,
        cache_write_other=cache_write,
        output=output,
        reasoning=_count(of_output, "reasoning_tokens") or 0,
    )


def _cache_read(usage: JsonObject, of_prompt: JsonObject) -> int:
    """The details win; DeepSeek and Moonshot say it beside the totals when they send no details.

    ``num_cached_tokens``, which Mistral sends, is left alone on purpose: it counts what the engine found in its prefix
    cache (9 of 10 tokens of a prompt nobody sent before), not what is billed as cached.
    """
    in_details = _count(of_prompt, "cached_tokens")
    if in_details is not None:
        return in_details
    return _count(usage, "prompt_cache_hit_tokens", "cached_tokens") or 0


def _output_with_hidden_thinking(said: int | None, beyond_prompt: int | None) -> int:
    """Compatible servers may leave thinking out of ``completion_tokens``; the total still has it."""
    known = [count for count in (said, beyond_prompt) if count is not None]
    if not known:
        raise _Unreadable
    return max(known)


def _output_as_said(said: int | None, beyond_prompt: int | None) -> int:
    return _required(said if said is not None else beyond_prompt)


def _read_messages(body: JsonObject) -> ReportedUsage:
    """Iterations (compaction, advisor) are billed and not in the top-level numbers, so they replace them."""
    usage = _object(body, "usage")
    lines = tuple(_iteration_lines(usage, _text(body.get("model")) or ""))
    return _reported_lines(body, usage, lines) if lines else _reported(body, usage, _messages_counts(usage))


def _iteration_lines(usage: JsonObject, model: str) -> Iterator[UsageLine]:
    iterations = usage.get("iterations")
    if not iterations:
        return
    if not isinstance(iterations, (list, tuple)):
        raise _Unreadable
    for iteration in iterations:
        if not _is_object(iteration):
            raise _Unreadable
        yield UsageLine(_text(iteration.get("model")) or model, _messages_counts(iteration))


def _messages_counts(usage: JsonObject) -> TokenCounts:
    """Anthropic counts cached tokens beside ``input_tokens``, never inside it; thinking is inside the output."""
    split = _part(usage, "cache_creation")
    for_5m = _count(split, "ephemeral_5m_input_tokens") or 0
    for_1h = _count(split, "ephemeral_1h_input_tokens") or 0
    written = _count(usage, "cache_creation_input_tokens")
    return TokenCounts(
        uncached_input=_required(_count(usage, "input_tokens")),
        cache_read=_count(usage, "cache_read_input_tokens") or 0,
        cache_write_5m=for_5m,
        cache_write_1h=for_1h,
        cache_write_other=0 if written is None else written - for_5m - for_1h,
        output=_required(_count(usage, "output_tokens")),
        reasoning=_count(_part(usage, "output_tokens_details"), "thinking_tokens") or 0,
    )


def _read_generate_content(body: JsonObject) -> ReportedUsage:
    """Gemini counts cached tokens inside the prompt, but tool results and thoughts beside prompt and candidates."""
    usage = _object(body, "usageMetadata", "usage_metadata")
    prompt = _required(_count(usage, "promptTokenCount", "prompt_token_count"))
    for_tools = _count(usage, "toolUsePromptTokenCount", "tool_use_prompt_token_count") or 0
    cache_read = _count(usage, "cachedContentTokenCount", "cached_content_token_count") or 0
    answer = _count(
        usage, "candidatesTokenCount", "candidates_token_count", "responseTokenCount", "response_token_count"
    )
    thoughts = _count(usage, "thoughtsTokenCount", "thoughts_token_count") or 0
    if cache_read > prompt:
        raise _Unreadable
    return _reported(
        body,
        usage,
        TokenCounts(
            uncached_input=prompt + for_tools - cache_read,
            cache_read=cache_read,
            output=(answer or 0) + thoughts,
            reasoning=thoughts,
        ),
    )


_READERS: Mapping[UsageApi, Callable[[JsonObject], ReportedUsage]] = {
    "openai.chat": _read_chat,
    "openai.responses": _read_responses,
    "anthropic.messages": _read_messages,
    "google.generate_content": _read_generate_content,
}


def _reported(body: JsonObject, usage: JsonObject, counts: TokenCounts) -> ReportedUsage:
    model = _text(body.get("model")) or _text(body.get("modelVersion")) or _text(body.get("model_version")) or ""
    return _reported_lines(body, usage, (UsageLine(model, counts),))


def _reported_lines(body: JsonObject, usage: JsonObject, lines: tuple[UsageLine, ...]) -> ReportedUsage:
    return ReportedUsage(
        lines,
        service_tier=_service_tier(body, usage),
        inference_geo=read_inference_geo(usage),
        tool_calls=_tool_calls(usage),
        raw=kept_usage(usage),
    )


def _service_tier(body: JsonObject, usage: JsonObject) -> str | None:
    """The tier that was billed, lower case.

    Anthropic's ``speed: fast`` is a price of its own, so it stands for the tier. Vertex writes its tier into
    ``trafficType`` (ON_DEMAND_FLEX).
    """
    if usage.get("speed") == "fast":
        return "fast"
    for place, name in ((body, "service_tier"), (usage, "service_tier"), (usage, "serviceTier")):
        if tier := _text(place.get(name)):
            return tier.lower()
    traffic = _text(usage.get("trafficType")) or ""
    return traffic.removeprefix("ON_DEMAND").removeprefix("_").lower() or None


def _tool_calls(usage: JsonObject) -> Mapping[str, int]:
    """Calls that the provider made for us and bills by the piece, such as ``web_search_requests``; zeros left out."""
    made = usage.get("server_tool_use")
    if not _is_object(made):
        return {}
    counted = ((whole(name)[:NAME_LIMIT], count) for name, count in made.items() if _is_count(count) and count > 0)
    return dict(islice(counted, ITEMS_LIMIT))


def _object(body: JsonObject, *names: str) -> JsonObject:
    """The first non-empty object under one of these names; without one there is nothing to read."""
    for name in names:
        found = body.get(name)
        if _is_object(found) and found:
            return found
    raise _Unreadable


def _part(usage: JsonObject, *names: str) -> JsonObject:
    """The details under the first of these names; missing, null and empty all mean "nothing to add"."""
    for name in names:
        if found := usage.get(name):
            if not _is_object(found):
                raise _Unreadable
            return found
    return {}


def _count(where: JsonObject, *names: str) -> int | None:
    """The first of these that is there and not null; anything but a whole, sane number makes the body unreadable."""
    for name in names:
        value = where.get(name)
        if value is None:
            continue
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # Some gateways write 12.0 for 12.
        if not _is_count(value):
            raise _Unreadable
        return value
    return None


def _required(count: int | None) -> int:
    if count is None or count < 0:
        raise _Unreadable
    return count


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= TOKENS_LIMIT


def _is_object(value: object) -> TypeGuard[JsonObject]:
    return isinstance(value, Mapping)


def _text(value: object) -> str | None:
    return whole(value)[:NAME_LIMIT] if isinstance(value, str) and value else None
