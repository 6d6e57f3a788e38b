"""What a prompt weighs before it is answered, as far as the model's own tokenizer can say.

It owns which of OpenAI's models split text by which ranks (extra ``tokens``), the patience with a vendor's count, and
the margin between a count and what is billed. A count that cannot be had is None and never an error: the bytes of the
prompt bound it anyway. The SDK adapters use it, when a cap is near.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Protocol

from autopack_mcp.clock import Clock
from autopack_mcp.errors import ProviderError
from autopack_mcp.providers.base import CallObservation
from autopack_mcp.providers.failures import Asked, answered

COUNT_TIMEOUT_S = 5.0  # A count comes in a fraction of a second; a caller at its cap is not kept longer for one.

# Anthropic calls its count an estimate that may be off by a small amount, and people who compared saw a few tokens up
# to some tens. A truth above even this is booked as it is, and recorded as a breach.
MARGIN_TOKENS = 64
MARGIN_PERCENT = 5

# By how a name begins, as the vendor's own list has it (tiktoken 0.14, tiktoken/model.py). What is not on it has no
# tokenizer here: a guess would be no bound.
_RANKS: Mapping[str, tuple[str, ...]] = {
    "o200k_base": ("gpt-5", "gpt-4.5-", "gpt-4.1-", "gpt-4o-", "chatgpt-4o-", "o1-", "o3-", "o4-mini-"),
    "cl100k_base": ("gpt-4-", "gpt-3.5-turbo-"),
}


class Tokenizer(Protocol):
    """Splits text and says into how many tokens."""

    def count(self, text: str) -> int:
        """Tokens of ``text``; what looks like a special token is text like any other."""
        ...


def openai_tokens(model: str, texts: Sequence[str]) -> int | None:
    """Tokens of these texts for one of OpenAI's models; None when its tokenizer is not known or not installed."""
    ranks = ranks_of(model)
    found = None if ranks is None else tokenizer(ranks)
    return None if found is None else sum(found.count(text) for text in texts)


def ranks_of(model: str) -> str | None:
    """The name of the ranks by which one of OpenAI's models splits text, None when the vendor has not said."""
    # The dash lets "gpt-4o" begin like "gpt-4o-mini", and keeps "gpt-4" from beginning like "gpt-4.1".
    return next((ranks for ranks, stems in _RANKS.items() if f"{model}-".startswith(stems)), None)


@cache
def tokenizer(ranks: str) -> Tokenizer | None:
    """The tokenizer with these ranks, None without the extra ``tokens``."""
    try:
        # Lazy: 0.4 s and 100 MB, which nobody pays whose caps are far. Its public face refuses texts beyond a million
        # characters and builds a second table of all ranks; the binding below it does neither.
        from bpe_openai import _bindings
    except ImportError:
        return None
    found: Tokenizer = _bindings.tokenizer_for_encoding(ranks)
    return found


async def count_in_time(asked: Asked, clock: Clock, count: Callable[[Asked], Awaitable[object]]) -> int | None:
    """The ``input_tokens`` that a vendor's count answers; None when it answers anything else, or not soon."""
    timeout_s = min(COUNT_TIMEOUT_S, asked.call.timeout_s)
    brief = replace(asked, call=replace(asked.call, timeout_s=timeout_s))
    try:
        told = await answered(brief, CallObservation(), clock, lambda: count(brief))
    except ProviderError:
        return None
    tokens = told.get("input_tokens") if isinstance(told, Mapping) else None
    return tokens if type(tokens) is int and tokens > 0 else None


def with_margin(tokens: int) -> int:
    """What may be billed at most where the vendor counted ``tokens`` and calls that an estimate."""
    return tokens + -(-tokens * MARGIN_PERCENT // 100) + MARGIN_TOKENS
