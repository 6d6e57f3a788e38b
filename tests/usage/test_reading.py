"""Every vendor's spelling of usage, in our buckets: hand-made bodies here, recorded ones where they are at hand."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.usage.event import TokenCounts
from autopack_mcp.usage.reading import TOKENS_LIMIT, read_own_usage, read_usage

ROOT = Path(__file__).resolve().parents[2]
BODIES = ROOT / "tests" / "data" / "usage_bodies"
RECORDED = Path(os.environ.get("AUTOPACK_GOLDEN", ROOT / ".." / "shared" / "golden")) / "usage_bodies.dev.jsonl"
BUCKETS = [field.name for field in fields(TokenCounts)]


def bodies(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (BODIES / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("case", bodies("readable.jsonl"), ids=lambda case: case["name"])
def test_body_is_read_into_our_buckets(case: dict[str, Any]) -> None:
    usage = read_usage(case["api"], case["body"])
    expected = dict(case["expected"])
    tier, tools, models = (expected.pop(name, None) for name in ("service_tier", "tool_calls", "models"))

    assert usage is not None
    assert {name: getattr(usage.counts, name) for name in BUCKETS} == dict.fromkeys(BUCKETS, 0) | expected
    assert usage.service_tier == tier
    assert usage.tool_calls == (tools or {})
    assert [line.model for line in usage.lines] == (models or [named_model(case["body"])])
    assert usage.raw in case["body"].values()


def named_model(body: dict[str, Any]) -> str:
    return next((str(body[name]) for name in ("model", "modelVersion", "model_version") if name in body), "")


@pytest.mark.parametrize("case", bodies("unreadable.jsonl"), ids=lambda case: case["name"])
def test_unusable_usage_is_unknown_and_never_guessed(case: dict[str, Any]) -> None:
    assert read_usage(case["api"], case["body"]) is None


def test_every_recorded_body_gives_the_expected_numbers() -> None:
    if not RECORDED.is_file():
        pytest.skip(f"no recorded bodies at {RECORDED}: set AUTOPACK_GOLDEN to their folder")
    recorded = [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]
    wrong = []
    for case in recorded:
        usage = read_usage(case["api"], case["body"])
        found = usage and {name: getattr(usage.counts, name) for name in case["expected"]}
        if found != case["expected"]:
            wrong.append((case["recorded_in"], case["body"], case["expected"], found))

    assert len(recorded) >= 500
    assert wrong == []


@pytest.mark.parametrize(
    "said, geo",
    [("us", "us"), ("US", "us"), ("global", None), ("not_available", None), ("", None), (None, None), (7, None)],
)
def test_where_a_call_was_computed_is_read_where_it_has_a_price(said: object, geo: str | None) -> None:
    usage = read_usage("anthropic.messages", {"usage": {"input_tokens": 1, "output_tokens": 1, "inference_geo": said}})

    assert usage is not None
    assert usage.inference_geo == geo


def test_raw_usage_is_a_copy_that_the_stream_cannot_change_any_more() -> None:
    usage = {"input_tokens": 3, "output_tokens": 1}
    read = read_usage("anthropic.messages", {"model": "m", "usage": usage})
    usage["output_tokens"] = 99

    assert read is not None
    assert read.raw == {"input_tokens": 3, "output_tokens": 1}


@pytest.mark.parametrize("limit, is_read", [(TOKENS_LIMIT, True), (TOKENS_LIMIT + 1, False)])
def test_largest_number_that_is_believed(limit: int, is_read: bool) -> None:
    body = {"model": "m", "usage": {"input_tokens": limit, "output_tokens": 0}}

    assert (read_usage("openai.responses", body) is not None) is is_read


@pytest.mark.parametrize("usage, is_known", [((0, 0), False), ((1, 0), True), ((0, 1), True)])
def test_zeros_of_a_call_that_we_sent_are_unknown(usage: tuple[int, int], is_known: bool) -> None:
    body = {"model": "m", "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]}}

    assert (read_own_usage("openai.chat", body) is not None) is is_known
    assert read_usage("openai.chat", body) is not None


NAMES = [
    *("model", "usage", "usageMetadata", "prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"),
    *("cached_tokens", "cache_write_tokens", "completion_tokens_details", "reasoning_tokens", "input_tokens"),
    *("output_tokens", "iterations", "cache_creation", "cache_creation_input_tokens", "ephemeral_5m_input_tokens"),
    *("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "cachedContentTokenCount", "server_tool_use"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=20,
)
COUNTS = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 50) | JSON, max_size=10)


@given(usage=COUNTS | JSON, api=st.sampled_from(["openai.chat", "openai.responses", "anthropic.messages"]))
def test_any_json_is_read_or_refused_and_never_raises(usage: object, api: Any) -> None:
    read = read_usage(api, {"model": "m", "usage": usage})

    assert read is None or read.counts.total == read.counts.total_input + read.counts.output


@given(usage=COUNTS | JSON)
def test_any_json_of_gemini_is_read_or_refused_and_never_raises(usage: object) -> None:
    read = read_usage("google.generate_content", {"usageMetadata": usage})

    assert read is None or read.counts.reasoning <= read.counts.output


@given(
    uncached=st.integers(0, 10**6),
    read=st.integers(0, 10**6),
    written=st.integers(0, 10**6),
    output=st.integers(0, 10**6),
)
def test_openai_and_anthropic_say_the_same_call_differently(
    uncached: int, read: int, written: int, output: int
) -> None:
    whole = uncached + read + written
    details = {"cached_tokens": read, "cache_write_tokens": written}
    as_chat = {"prompt_tokens": whole, "completion_tokens": output, "prompt_tokens_details": details}
    as_message = {
        "input_tokens": uncached,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "output_tokens": output,
    }
    by_chat = read_usage("openai.chat", {"model": "m", "usage": as_chat})
    by_message = read_usage("anthropic.messages", {"model": "m", "usage": as_message})

    assert by_chat is not None
    assert by_message is not None
    assert by_chat.counts == by_message.counts
    assert by_chat.counts.total_input == whole
