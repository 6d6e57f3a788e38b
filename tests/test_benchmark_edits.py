"""The benchmark of spoilt diffs counts every diff once, in both lanes."""

from __future__ import annotations

import pytest

from benchmarks.edits import measure
from tests.corrupted_diffs import KINDS

pytestmark = pytest.mark.anyio


async def test_every_kind_is_counted_in_both_lanes_and_the_strict_one_is_never_wrong() -> None:
    found = await measure(2)

    assert set(found) == {"strict", "fuzzy"}
    for kinds in found.values():
        assert {kind: sum(counted.values()) for kind, counted in kinds.items()} == dict.fromkeys(KINDS, 2)
    assert sum(counted["wrong"] for counted in found["strict"].values()) == 0
