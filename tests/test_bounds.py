"""No text has more tokens than are reserved for it, and a denial says what the bound is made of."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.bounds import CallBounds, bounds_of, can_be_turned, in_parts, may_write_cache, why_unbounded
from autopack_mcp.config.settings import ProviderSettings
from autopack_mcp.errors import Denial, RequestRefused
from autopack_mcp.providers.base import ChatMessage, InputCount
from autopack_mcp.providers.counts import Tokenizer, tokenizer
from tests.conftest import require_in_ci

FORMAT = 64 + 16  # Of one message.
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>system",
    "<|fim_prefix|>",
    "</s>",
    "[INST]",
    "\u2581",
    "\0",
    "\ufeff",
    "\ufffd",
]
# What tokenizers are worst at: scripts and symbols that no merge knows, bytes that begin nothing, text in odd forms.
HOSTILE = [
    "\ufdfa",  # One character that NFKC turns into eighteen.
    "\U0001d1c0",  # One that NFC turns into three.
    "\U0001f9d1\u200d\U0001f680",
    "\u1e9b\u0323",
    "\ud7ff",
    "\U0010ffff",
    "\u0e33" * 7,
    "Z\u0351\u036b\u0343",
    "\u202e",
    "\U000e0041",
]


def of(*texts: str, limit: int = 0, count: InputCount | None = None) -> CallBounds:
    return bounds_of([ChatMessage("user", text) for text in texts], limit, count)


def denial(*, used: int, wanted: int, allowance: int, in_flight: int = 0) -> Denial:
    return Denial("scope", "tokens", used, in_flight, wanted, allowance, None, "The cap is full.")


# --- by bytes


def test_a_prompt_weighs_its_bytes_and_its_format() -> None:
    assert of("four", "f\u00fcnf", limit=100) == CallBounds(4 + 5 + 64 + 2 * 16, 100)
    assert of("") == CallBounds(FORMAT, 0)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_tokenizer_that_normalizes_first_still_finds_no_more_bytes_than_the_bound(text: str) -> None:
    bound = of(text * 50).input_tokens - FORMAT
    assert all(bound >= len(unicodedata.normalize(form, text * 50).encode()) for form in ("NFC", "NFKC"))
    assert bound >= len((text * 50).encode())


@pytest.mark.parametrize("text", ["\ud800", "fine so far \udfff"])
def test_half_a_character_is_refused_by_name(text: str) -> None:
    with pytest.raises(RequestRefused, match=r"half a character \('\\ud"):
        of(text)


def test_a_count_replaces_the_bytes_only_where_it_is_the_tighter_bound() -> None:
    assert of("x" * 100, count=InputCount(90, "somebody")).input_tokens == 90
    assert of("x" * 100, count=InputCount(10**6, "somebody")).input_tokens == 100 + FORMAT


# --- against real tokenizers

TEXTS = st.one_of(
    st.text(),
    st.text(alphabet=st.characters(min_codepoint=0x3000, codec="utf-8")),
    st.lists(st.sampled_from(SPECIAL + HOSTILE)).map("".join),
    st.builds(lambda text, times: text * times, st.text(min_size=1, max_size=4), st.integers(1, 400)),
)


@pytest.fixture(scope="module", params=["o200k_base", "cl100k_base"])
def ranks(request: pytest.FixtureRequest) -> Tokenizer:
    return tokenizer(request.param) or require_in_ci("the extra 'tokens' is not installed")


@given(text=TEXTS)
def test_no_text_has_more_tokens_than_its_bound(ranks: Tokenizer, text: str) -> None:
    assert ranks.count(text) <= of(text).input_tokens - FORMAT


@given(texts=st.lists(TEXTS, max_size=5))
def test_texts_of_a_prompt_together_neither(ranks: Tokenizer, texts: Sequence[str]) -> None:
    # Responses and Messages take the system's texts joined.
    assert ranks.count("\n\n".join(texts)) <= of(*texts).input_tokens


# --- models that do more than write


@pytest.mark.parametrize(
    "model",
    ["gpt-4o-search-preview", "gpt-5-search-api", "o3-deep-research", "GPT-4o-Audio-Preview", "gemini-3.1-flash-image"],
)
def test_a_model_that_does_more_than_write_has_no_bound(model: str) -> None:
    assert "no number of tokens bounds" in (why_unbounded(model) or "")


@pytest.mark.parametrize("model", ["gpt-6.1-sol", "claude-opus-5-5", "imagine-1", "research-7b"])
def test_a_model_of_text_alone_has_one(model: str) -> None:
    assert why_unbounded(model) is None


# --- what a dollar bound need not hold


@pytest.mark.parametrize(
    "sdk, base_url, may",
    [
        ("anthropic", None, False),
        ("anthropic", "https://api.anthropic.com", False),
        ("anthropic", "https://api.anthropic.com.example", True),
        ("anthropic", "http://127.0.0.1:8080", True),
        ("openai", None, True),
        ("openai", "https://api.openai.com/v1", True),
    ],
)
def test_only_at_anthropic_itself_no_cache_is_ever_written_unasked(
    sdk: Literal["openai", "anthropic"], base_url: str | None, may: bool
) -> None:
    assert may_write_cache(ProviderSettings("a", sdk, "chat", base_url)) == may


# --- denials


@pytest.mark.parametrize(
    "used, in_flight, of_answer, is_worth_it",
    [
        (800, 0, 199, True),
        (800, 0, 200, False),  # Not even a prompt of one token would fit.
        (1_000, 200, 199, True),  # It would, once the calls in flight are over.
        (800, 0, None, False),  # Nobody knows what the answer costs.
    ],
)
def test_a_prompt_is_counted_only_where_that_could_turn_the_denial(
    used: int, in_flight: int, of_answer: int | None, is_worth_it: bool
) -> None:
    found = denial(used=used, wanted=500, allowance=1_000, in_flight=in_flight)
    assert can_be_turned(found, of_answer) == is_worth_it


def test_a_denial_says_how_much_is_answer_and_how_much_is_prompt_and_who_says_so() -> None:
    found = denial(used=0, wanted=1_500, allowance=1_000)
    by_bytes, counted = in_parts(found, 300, None), in_parts(found, 300, InputCount(1_200, "Anthropic's own count"))
    parts = "Of that, 300 tokens are for the longest answer and 1,200 tokens for the prompt, by"
    assert by_bytes.why == f"The cap is full. {parts} its bytes."
    assert counted.why == f"The cap is full. {parts} Anthropic's own count."


def test_a_denial_says_when_the_answer_alone_is_too_long() -> None:
    fits, does_not = (
        in_parts(denial(used=0, wanted=1_500, allowance=1_000), answer, None) for answer in (1_000, 1_001)
    )
    assert "The answer alone does not fit: ask for a shorter one (max_output_tokens)." in does_not.why
    assert "alone" not in fits.why


def test_a_denial_for_want_of_a_price_is_left_as_it_is() -> None:
    found = denial(used=0, wanted=1_001, allowance=1_000)
    assert in_parts(found, None, None) is found
