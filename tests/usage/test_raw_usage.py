"""What is kept of a usage object as it came: a vendor's whole, of a hostile one no more than a database can take."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.usage.raw_usage import DEPTH_LIMIT, ITEMS_LIMIT, TEXT_LIMIT, kept_usage

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def test_what_a_vendor_sends_is_kept_as_it_came() -> None:
    usage = {"input_tokens": 3, "cost": 0.5, "tier": "é", "none": None, "flag": True, "parts": [{"a": [1, 2]}, []]}

    assert kept_usage(usage) == usage


def test_a_copy_is_no_part_of_what_came() -> None:
    usage: dict[str, Any] = {"iterations": [{"input_tokens": 3}]}
    kept = kept_usage(usage)
    usage["iterations"][0]["input_tokens"] = 99

    assert kept == {"iterations": [{"input_tokens": 3}]}


@pytest.mark.parametrize(
    "value, kept",
    [
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        ("a\ud800b", "a\ufffdb"),
        ("x" * (TEXT_LIMIT + 1), "x" * TEXT_LIMIT),
        ({1: 2}, {"1": 2}),
        (object, str(object)),
    ],
    ids=["no number", "beyond all", "half a character", "too long", "a key that is no text", "no JSON at all"],
)
def test_what_a_database_would_refuse_is_kept_as_text(value: object, kept: object) -> None:
    assert kept_usage({"it": value}) == {"it": kept}


def test_what_is_too_deep_is_left_out() -> None:
    deep: dict[str, Any] = {}
    for _ in range(900):
        deep = {"in": deep}

    assert json.dumps(kept_usage(deep)).count("in") == DEPTH_LIMIT


def test_what_is_too_much_is_left_out() -> None:
    kept = kept_usage({f"part {number}": [0] * 10 for number in range(10 * ITEMS_LIMIT)})

    assert sum(1 + len(part) for part in kept.values() if isinstance(part, list)) <= ITEMS_LIMIT


@given(usage=st.dictionaries(st.text(), JSON))
def test_anything_is_kept_as_json_that_every_database_takes(usage: dict[str, Any]) -> None:
    json.dumps(kept_usage(usage), allow_nan=False).encode()
