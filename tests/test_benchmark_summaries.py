"""The benchmark of summaries on a ledger of a few days: its answers are those of the events, and it prints its keys."""

from __future__ import annotations

from benchmarks.summaries import EVENTS_PER_RUN, Load, measure


def test_its_small_brother_gives_every_number_it_promises() -> None:
    # It compares the sums with those of a scan itself.
    found = measure((Load(6 * EVENTS_PER_RUN, 8), Load(8 * EVENTS_PER_RUN, 8)), questions=1)
    numbers = ("week_ms_1m", "run_ms_1m", "scan_ms_1m", "week_ms_10m", "growth", "quota_us")
    assert all(isinstance(found[name], float) and found[name] for name in numbers), found
    assert found["events"] == [3_000, 4_000]
