"""How errors are read and what their text may show."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from autopack_mcp.config.settings import ProviderSettings
from autopack_mcp.errors import ProviderRefused, ProviderUnavailable
from autopack_mcp.providers.base import ChatMessage, ProviderCall
from autopack_mcp.providers.failures import TEXT_LIMIT, Asked, clean, retry_after_s, told_in_stream, translated

NOW = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)
KEY = "q7Rk2-unusual-key-Zx81pLm"


def asked(prompt: str = "Please write the parser.", base_url: str | None = None) -> Asked:
    call = ProviderCall("model-asked", (ChatMessage("user", prompt),), max_output_tokens=9, timeout_s=1)
    return Asked(ProviderSettings("acme", "openai", "chat", base_url=base_url), call, KEY)


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({}, None),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
        ({"retry-after": "Wed, 18 Nov 2026 12:01:00 GMT"}, 60.0),
        ({"retry-after": "Wed, 18 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 18 Nov 2026 12:01:00 GMT", "date": "Wed, 18 Nov 2026 12:00:50 GMT"}, 10.0),
        ({"retry-after": "Wed, 18 Nov 2026 12:01:00 -0000"}, None),
    ],
)
def test_retry_after_is_read_in_every_spelling(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, NOW) == seconds


@pytest.mark.parametrize(
    "text, shown",
    [
        ("All is well.", "All is well."),
        ("two\nlines\tand\x00\x1b[31m a colour", "two lines and [31m a colour"),
        ("a \u202etrick", "a trick"),
        (f"Incorrect key: {KEY}!", "Incorrect key: [key]!"),
        ("Incorrect key: q7Rk2-****1pLm.", "Incorrect key: [key]"),
        ("Incorrect key: q7Rk2-unusual-", "Incorrect key: [key]"),
        ("Incorrect key: ...-key-Zx81pLm", "Incorrect key: [key]"),
        ("Incorrect key: ****81pLm", "Incorrect key: [key]"),
        ("Header was Bearer abc.def", "Header was [key]"),
        ("sk-proj-ab********yz is wrong", "[key] is wrong"),
        ("key AIzaSyA1234567890abcdef", "key [key]"),
        ("0123456789abcdef0123456789abcdef.SecretPart1 is wrong", "[key] is wrong"),
        ("Why: Please write the parser. is odd", "(its words quote the prompt and are left out)"),
        ("x" * 1000, "x" * (TEXT_LIMIT - 1) + "…"),
    ],
)
def test_words_of_a_provider_are_cleaned_before_they_are_shown(text: str, shown: str) -> None:
    assert clean(text, asked()) == shown


def test_short_key_is_taken_out_where_it_stands_whole() -> None:
    call = ProviderCall("model-asked", (), max_output_tokens=9, timeout_s=1)
    shown = clean("The key 'abc123' is wrong", Asked(ProviderSettings("acme", "openai", "chat"), call, "abc123"))

    assert shown == "The key '[key]' is wrong"


def test_piece_of_a_long_prompt_is_recognised_anywhere() -> None:
    prompt = " ".join(f"word{number}" for number in range(500))
    for start in range(1000, 1020):
        shown = clean(f"Bad input near '{prompt[start : start + 31]}', sorry", asked(prompt))
        assert shown == "(its words quote the prompt and are left out)"


def test_key_that_the_shortening_would_cut_in_two_does_not_leak() -> None:
    shown = clean("y" * (TEXT_LIMIT - 10) + " " + KEY, asked())

    assert KEY[:6] not in shown


@pytest.mark.parametrize(
    "body, expected, says",
    [
        ({"error": {"type": "overloaded_error", "message": "Busy"}}, ProviderUnavailable, "overloaded_error"),
        ({"type": "invalid_request_error", "message": "No"}, ProviderRefused, "invalid_request_error"),
        ({"code": 502, "message": "Upstream"}, ProviderUnavailable, "502"),
        ({"code": 403, "message": "Not you"}, ProviderRefused, "403"),
        ({"code": KEY, "message": "odd"}, ProviderUnavailable, "odd"),
        ("just words", ProviderUnavailable, "just words"),
        (None, ProviderUnavailable, "broke off"),
        ([1, 2], ProviderUnavailable, "broke off"),
    ],
    ids=repr,
)
def test_error_in_a_stream_is_understood_in_any_shape(body: object, expected: type, says: str) -> None:
    error = told_in_stream(asked(), body)

    assert type(error) is expected
    assert error.billed == "unknown"
    assert says in str(error)
    assert KEY not in str(error)


@pytest.mark.parametrize(
    "base_url, host",
    [
        (None, "acme"),
        ("http://user:password@gateway.example:8080/v1?token=abc", "gateway.example:8080"),
        ("nonsense", "acme"),
    ],
)
def test_place_in_a_message_has_no_credentials(base_url: str | None, host: str) -> None:
    assert asked(base_url=base_url).host == host


def test_broken_json_names_no_content() -> None:
    error = translated(ValueError("Expecting value: Please write the parser."), asked(), NOW)

    assert isinstance(error, ProviderUnavailable)
    assert "parser" not in str(error)
    assert error.billed == "unknown"
