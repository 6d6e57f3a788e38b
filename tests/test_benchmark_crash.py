"""The benchmark of random kills on its smallest scale: a server is killed, nothing is lost or doubled."""

from __future__ import annotations

import asyncio

from benchmarks.crash import PHASES, measure


def test_a_killed_server_leaves_no_unrecorded_call_no_second_commit_and_no_gap() -> None:
    rows = asyncio.run(measure(homes=1, kills=1))
    assert [row["database"] for row in rows][:1] == ["sqlite"]
    for row in rows:
        assert (row["kills"], row["unrecorded"], row["double_commits"], row["skipped"]) == (1, 0, 0, 0), row
        assert isinstance(row["phases"], int)
        assert row["phases"] >= PHASES
        # A builder and an auditor for each phase, and what was in flight again.
        assert isinstance(row["billed"], int)
        assert row["billed"] >= 2 * row["phases"]
        assert isinstance(row["redone_per_kill"], float)
