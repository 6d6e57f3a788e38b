"""Reading names of counters back: what a call is counted under says whose it is and when; nothing else is a name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.budgets.caps import CallScope, scopes_of_call
from autopack_mcp.budgets.counter_names import read_counter_name
from tests.factories import call_scope

# What people and models call things: slashes and percent signs make a name look like a longer path.
NAMES = st.text(alphabet="ab/%:2é .-", min_size=1, max_size=6)
DAYS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  As it wants them.


@given(
    provider=NAMES,
    role=NAMES,
    purpose=st.sampled_from(["run", "rehearsal"]),
    run_id=st.none() | NAMES,
    phase_id=st.none() | NAMES,
    at=DAYS,
)
def test_every_name_that_a_call_counts_under_is_read_back(at: datetime, **scope: Any) -> None:
    call = CallScope(**scope)
    for name in scopes_of_call(call, at):
        counter = read_counter_name(name)

        assert counter is not None
        assert counter.name == counter.cap().scope == name
        assert counter.call.purpose == call.purpose
        assert counter.call.provider in ("", call.provider)
        assert counter.call.role in ("", call.role)
        assert counter.call.run_id in (None, call.run_id, "library")
        assert counter.span is None or counter.span.start <= at < counter.span.end


@pytest.mark.parametrize("days", range(0, 800, 37))
def test_windows_are_read_back_around_the_ends_of_years(days: int) -> None:
    at = datetime(2024, 12, 25, tzinfo=UTC) + timedelta(days=days)
    spans = [read_counter_name(name).span for name in scopes_of_call(call_scope(run_id=None), at)]  # type: ignore[union-attr]

    assert all(span is not None and span.start <= at < span.end for span in spans)


@pytest.mark.parametrize(
    "name",
    [
        "", "run", "run/a/b", "run/a%", "run/a%2fb", "phase/a", "global", "global/day/yesterday",
        "provider/openai/year/2026", "provider/openai/week/2026-W54", "provider/openai/day/2026-02-30",
        "provider/openai/day/2026-2-3", "role/day/2026-11-18", "rehearsal/H1", "rehearsal/H1/else/day/2026-11-18",
        "account/openai/day/2026-11-18",
    ],
)  # fmt: skip
def test_what_no_call_counts_under_is_nobodys_name(name: str) -> None:
    assert read_counter_name(name) is None
