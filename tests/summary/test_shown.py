"""Amounts in words and in numbers."""

from __future__ import annotations

import json
from decimal import Decimal

from autopack_mcp.money import usd
from autopack_mcp.runs.overview import PhaseCounts
from autopack_mcp.summary.needs import NeedsYou
from autopack_mcp.summary.shown import plain, tokens_text, usd_number, usd_text
from tests.factories import NOON


def test_an_unknown_price_is_said_and_never_zero() -> None:
    assert usd_text(None) == "unpriced"
    assert usd_text(Decimal("0.42"), 1) == "$0.42 + 1 unpriced call"
    assert usd_text(Decimal("0.42"), 3) == "$0.42 + 3 unpriced calls"
    assert usd_number(None) is None


def test_dollars_in_json_are_numbers_to_a_millionth() -> None:
    assert usd_number(Decimal("0.4200004999")) == 0.42
    assert usd_number(usd(1_500)) == 2e-06


def test_tokens_have_thousands() -> None:
    assert tokens_text(1_234_567) == "1,234,567"


def test_a_summary_becomes_json() -> None:
    value = {
        "needs": NeedsYou("what", "say"), "at": NOON, "cost": Decimal("0.42"), "none": None, "yes": True,
        "list": (PhaseCounts(2, 1),), "set": frozenset({"a"}),
    }  # fmt: skip
    assert json.loads(json.dumps(plain(value))) == {
        "needs": {"what": "what", "say": "say", "command": ""},
        "at": "2026-11-18T12:00:00Z",
        "cost": 0.42,
        "none": None,
        "yes": True,
        "list": [{"total": 2, "completed": 1}],
        "set": ["a"],
    }
