"""The benchmark of cancelling, with few runs: real servers, and processes that resist; nothing of them is left."""

from __future__ import annotations

import asyncio
import sys

import pytest

from benchmarks.cancel import measure


@pytest.mark.skipif(sys.platform != "linux", reason="it looks for what is left in /proc")
def test_nothing_of_a_cancelled_run_lives_on_in_any_sandbox_of_this_machine() -> None:
    rows = asyncio.run(measure(cancels=2))

    assert [row["sandbox"] for row in rows][-1] == "plain"
    assert [(row["cancels"], row["orphans"]) for row in rows] == [(2, 0)] * len(rows)
    assert all(isinstance(row["p99_ms"], int) for row in rows)
