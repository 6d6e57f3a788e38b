"""The most that a call may weigh: what is reserved for it before it leaves, and what is said when that does not fit.

It owns the bound by bytes, and whether a count of the prompt could turn a denial. It counts nothing (the providers do)
and denies nothing (the ledger does); what no number here would bound is refused. ``calls`` asks it for every try.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal
from unicodedata import is_normalized, normalize

from autopack_mcp.budgets.measures import amount
from autopack_mcp.config.settings import ProviderSettings
from autopack_mcp.errors import Denial, RequestRefused
from autopack_mcp.providers.base import ChatMessage, InputCount, format_tokens, is_at_vendor

# Some tokenizers normalize first (Claude's published one to NFKC, Qwen's to NFC), which can make a text longer: one
# Arabic ligature of 3 bytes becomes 33.
_FORMS: tuple[Literal["NFC", "NFKC"], ...] = ("NFC", "NFKC")

# What these models do by themselves is billed by other things than the tokens of the text that is asked and answered.
_UNBOUNDED: Mapping[str, str] = {
    "*-search-preview*": "searches the web",
    "*-search-api*": "searches the web",
    "*deep-research*": "searches the web",
    "*:online": "searches the web",
    "*-image*": "draws pictures",
    "*-audio*": "speaks",
    "*-realtime*": "speaks",
}


@dataclass(frozen=True, slots=True)
class CallBounds:
    """Tokens that a call cannot exceed."""

    input_tokens: int
    output_tokens: int


def bounds_of(messages: Sequence[ChatMessage], max_output_tokens: int, count: InputCount | None = None) -> CallBounds:
    """The bounds of a call that sends this: by bytes, and tighter where a ``count`` of the prompt is.

    No tokenizer that splits bytes, or falls back to them, makes more tokens than there are bytes. ``max_output_tokens``
    is always sent, and all that is billed as output counts towards it, thinking included (docs/accounting.md says
    where, and where that is not certain).

    Raises:
        RequestRefused: a message holds what cannot be sent.
    """
    by_bytes = sum(_bytes(message.content) for message in messages) + format_tokens(messages)
    return CallBounds(by_bytes if count is None else min(by_bytes, count.tokens), max_output_tokens)


def _bytes(text: str) -> int:
    """UTF-8 bytes of a text, in whichever form it has most of them."""
    if text.isascii():
        return len(text)
    try:
        sizes = [len(text.encode())]
    except UnicodeEncodeError as error:
        raise RequestRefused(
            f"A message holds half a character ({text[error.start]!a}), which cannot be sent.",
            hint="Decode what you read as UTF-8, with errors='replace'.",
        ) from None
    return max(sizes + [len(normalize(form, text).encode()) for form in _FORMS if not is_normalized(form, text)])


@lru_cache(256)  # Every call asks, about the few models there are.
def why_unbounded(model: str) -> str | None:
    """Why no reservation would bound what a model costs, as the end of a sentence; None for a model of text alone."""
    does = next((does for pattern, does in _UNBOUNDED.items() if fnmatchcase(model.lower(), pattern)), None)
    return None if does is None else f"{model!r} {does} by itself, and no number of tokens bounds what that costs."


def may_write_cache(account: ProviderSettings) -> bool:
    """Whether a call there may be billed for writing a prompt cache, which costs up to twice the input.

    Anthropic writes one only where it is asked to (``cache_control``), which we never do; others do so by themselves.
    """
    return not (account.sdk == "anthropic" and is_at_vendor(account.sdk, account.base_url))


def can_be_turned(denial: Denial, of_answer: int | None) -> bool:
    """Whether a tighter count of the prompt could make a denied call fit, at the latest when calls in flight are over.

    ``of_answer`` is what the longest answer alone takes, in the unit of the denial; None when its price is unknown.
    """
    return of_answer is not None and denial.used - denial.in_flight + of_answer < denial.allowance


def in_parts(denial: Denial, of_answer: int | None, count: InputCount | None) -> Denial:
    """The same denial, which also says how much of what the call may need is for its answer and how much its prompt."""
    if of_answer is None or denial.wanted <= of_answer:
        return denial
    answer, prompt = amount(denial.unit, of_answer), amount(denial.unit, denial.wanted - of_answer)
    known_by = count.by if count is not None else "its bytes"
    why = f"{denial.why} Of that, {answer} are for the longest answer and {prompt} for the prompt, by {known_by}."
    if denial.used - denial.in_flight + of_answer > denial.allowance:
        why += " The answer alone does not fit: ask for a shorter one (max_output_tokens)."
    return replace(denial, why=why)
