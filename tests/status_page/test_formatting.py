"""Single values in words: never rounded up, never a colour alone."""

from __future__ import annotations

from datetime import timedelta
from typing import get_args

import pytest

from autopack_mcp.runs.states import PhaseState, RunState
from autopack_mcp.status_page.formatting import (
    Sign,
    age_text,
    clock_text,
    counted,
    iso_text,
    level_sign,
    moment_text,
    percent_text,
    phase_sign,
    run_sign,
    span_text,
    standing_sign,
)
from autopack_mcp.summary.caps import Level
from tests.factories import NOON


@pytest.mark.parametrize(
    "percent, text",
    [(0.0, "0 %"), (62.0, "62 %"), (62.5, "62.5 %"), (99.9, "99.9 %"), (112.0, "112 %"), (1234.5, "1,234.5 %")],
)
def test_percents_show_a_decimal_only_when_there_is_one(percent: float, text: str) -> None:
    assert percent_text(percent) == text


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.4, "just now"),
        (1, "1 s ago"),
        (59.9, "59 s ago"),
        (60, "1 min ago"),
        (3_599, "59 min ago"),
        (3_600, "1 h ago"),
        (7_500, "2 h 5 min ago"),
        (86_399, "23 h 59 min ago"),
        (86_400, "1 day ago"),
        (172_799, "1 day ago"),
        (172_800, "2 days ago"),
        (-90, "in 1 min"),
    ],
)
def test_ages_are_rough_and_never_rounded_up(seconds: float, text: str) -> None:
    assert age_text(NOON - timedelta(seconds=seconds), NOON) == text


@pytest.mark.parametrize(
    "before, text", [(timedelta(minutes=1), "11:59:00"), (timedelta(hours=13), "11-17 23:00")], ids=["today", "before"]
)
def test_time_of_another_day_says_which(before: timedelta, text: str) -> None:
    assert clock_text(NOON - before, NOON) == text


def test_moments_say_that_they_are_utc() -> None:
    assert (moment_text(NOON), iso_text(NOON)) == ("2026-11-18 12:00 UTC", "2026-11-18T12:00:00Z")


def test_a_span_of_nothing_is_no_seconds() -> None:
    assert span_text(timedelta(0)) == "0 s"


@pytest.mark.parametrize(
    "count, text", [(0, "0 phases"), (1, "1 phase"), (1_000, "1,000 phases")], ids=["none", "one", "many"]
)
def test_counts_have_their_plural(count: int, text: str) -> None:
    assert counted(count, "phase") == text


def test_every_state_and_level_has_a_word_and_a_shape() -> None:
    signs = [
        *map(run_sign, get_args(RunState)),
        *map(phase_sign, get_args(PhaseState)),
        *map(level_sign, get_args(Level)),
        *map(standing_sign, ("ok", "over its soft limit", "cap reached", "no key", "some state of tomorrow")),
    ]
    assert all(sign.word and sign.shape for sign in signs)


def test_a_phase_whose_run_stands_still_is_not_shown_at_work() -> None:
    assert phase_sign("building", True) == Sign("building (paused)", "pause", "warn")


def test_no_two_states_of_a_run_share_a_word() -> None:
    words = [run_sign(state).word for state in get_args(RunState)]
    assert len(set(words)) == len(words)
