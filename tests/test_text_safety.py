"""Hostile text: what is hidden becomes visible, what is secret becomes a mark, and nothing grows without a bound."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.text_safety import CUT_MARK, REDACTED, redact, visible, whole, without_terminal_codes

HOSTILE = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("\x1b\x00\x07\r\n\t\u200b\u202e\u2066\ufeff\u2028\u00ad\u3164\ue000\U000e0041\ufe0f\\xu"),
        st.characters(categories=["Cs"]),
    )
)
HIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("plain words, ümläute, 日本語, 🎉", "plain words, ümläute, 日本語, 🎉", id="ordinary text stays"),
        pytest.param("\x1b[31mred", "\\x1b[31mred", id="terminal escape"),
        pytest.param("a\u202eb", "a\\u202eb", id="right-to-left override"),
        pytest.param("a\u200bb\ufeffc", "a\\u200bb\\ufeffc", id="zero width"),
        pytest.param("a\U000e0041b", "a\\U000e0041b", id="invisible tag letters"),
        pytest.param("a\u3164b\ufe01c", "a\\u3164b\\ufe01c", id="letters and marks that draw nothing"),
        pytest.param("❤\ufe0f", "❤\ufe0f", id="an emoji keeps its selector"),
        pytest.param("a\x00\x7f\x85b", "a\\x00\\x7f\\x85b", id="control characters"),
        pytest.param("a\ud800b", "a\\ud800b", id="lone surrogate"),
        pytest.param("a\nb\tc\rd", "a\\nb\\tc\\rd", id="line breaks on one line"),
        pytest.param("a\u2028b\u2029c", "a\\u2028b\\u2029c", id="line separators"),
        pytest.param("a\u00a0b\u3000c", "a\u00a0b\u3000c", id="wide and fixed spaces are seen as spaces"),
    ],
)
def test_what_is_hidden_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert visible(text, 100) == shown


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", ""),
        ("é 😀 \x00", "é 😀 \x00"),
        ("a\ud800b", "a\ufffdb"),
        ("\udc00\ud800", "\ufffd\ufffd"),
        ("\ud83d" + "\ude00", "😀"),
        ("\ud83d\ud83d\ude00", "\ufffd😀"),
    ],
    ids=["nothing", "whole already", "a first half", "halves the wrong way round", "two halves", "one too many"],
)
def test_halves_of_characters_are_joined_or_replaced(text: str, kept: str) -> None:
    assert whole(text) == kept
    kept.encode()


def test_many_lines_keep_their_breaks_and_tabs_and_lose_their_carriage_returns() -> None:
    assert visible("a\r\n\tb\nc\rd\x1b", 100, multiline=True) == "a\n\tb\nc\\rd\\x1b"


@pytest.mark.parametrize(
    ("limit", "shown"),
    [(6, "abcdef"), (5, "abcd…"), (1, "…")],
    ids=["fits exactly", "one too long", "only the mark"],
)
def test_a_text_longer_than_the_limit_ends_with_a_mark(limit: int, shown: str) -> None:
    assert visible("abcdef", limit) == shown


def test_a_cut_never_leaves_half_an_escape() -> None:
    assert visible("ab\u202ecd", 6) == "ab" + CUT_MARK


@given(HOSTILE, st.integers(1, 40), st.booleans())
def test_nothing_hidden_is_left_and_the_limit_holds(text: str, limit: int, multiline: bool) -> None:
    shown = visible(text, limit, multiline=multiline)

    kept = "\n\t" if multiline else ""
    assert len(shown) <= limit
    assert [c for c in shown if unicodedata.category(c) in HIDDEN_CATEGORIES and c not in kept] == []
    shown.encode()


@given(HOSTILE, st.integers(1, 40), st.booleans())
def test_showing_twice_changes_nothing(text: str, limit: int, multiline: bool) -> None:
    shown = visible(text, limit, multiline=multiline)

    assert visible(shown, limit, multiline=multiline) == shown


def test_terminal_codes_go_and_words_stay() -> None:
    assert without_terminal_codes("\x1b[1;31mFAILED\x1b[0m a\x1b]0;title\x07b \x1b[2Kc") == "FAILED ab c"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("key=sk-abcdefgh12345678", f"key={REDACTED}", id="openai"),
        pytest.param("key=sk-ant-api03-abc_DEF-123456", f"key={REDACTED}", id="anthropic"),
        pytest.param("AIza" + "a1B2" * 9, REDACTED, id="google"),
        pytest.param("Authorization: Bearer abcdefghijk.lmn", f"Authorization: Bearer {REDACTED}", id="bearer"),
        pytest.param("ghp_" + "a1" * 18, REDACTED, id="github"),
        pytest.param("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n", REDACTED, id="private key without its end"),
        pytest.param(
            "a task-force and a risk-averse desk-lamp", "a task-force and a risk-averse desk-lamp", id="words"
        ),
    ],
)
def test_what_looks_like_a_key_is_redacted(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_the_longest_known_secret_is_redacted_first() -> None:
    assert redact("x hunter2-extra y hunter2 z", ["hunter2", "hunter2-extra"]) == f"x {REDACTED} y {REDACTED} z"


def test_an_empty_or_tiny_secret_does_not_shred_the_text() -> None:
    assert redact("a cat sat", ["", "a", "cat"]) == "a cat sat"


SECRETS = st.text(st.sampled_from("abcxyz0189+/$.*"), min_size=6, max_size=12)


@given(st.lists(SECRETS, min_size=1, max_size=4), st.lists(st.text(max_size=5), min_size=5, max_size=5))
def test_no_known_secret_survives(secrets: list[str], between: list[str]) -> None:
    text = "".join(part + secret for part, secret in zip(between, secrets, strict=False))

    redacted = redact(text, secrets)

    assert [secret for secret in secrets if secret in redacted] == []
    assert redact(redacted, secrets) == redacted
