"""Summaries shaped for drawing: what people look for first comes first, and bars do not lie."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.status_page.panels import (
    GROUP_LIMIT,
    QUEUED_LIMIT,
    cap_panels,
    phase_groups,
    run_cost_bar,
    run_token_bar,
    share_percent,
)
from tests.status_page.samples import cap_view, phase_view, queued_phase, run_summary


def test_phases_stand_in_the_order_in_which_people_look_for_them() -> None:
    phases = [
        phase_view("done"),
        phase_view("skipped", state="skipped"),
        phase_view("broken", state="failed"),
        phase_view("busy", state="auditing"),
        queued_phase("next"),
    ]
    found = [
        (group.title, [item.phase.phase_id for item in group.phases], group.is_folded) for group in phase_groups(phases)
    ]
    assert found == [
        ("Failed", ["broken"], False),
        ("Running", ["busy"], False),
        ("Queued", ["next"], False),
        ("Done", ["done", "skipped"], True),
    ]


def test_phases_keep_their_number_in_the_plan() -> None:
    groups = phase_groups([phase_view("p1"), phase_view("p2", state="failed"), phase_view("p3")])
    assert [(item.number, item.phase.phase_id) for group in groups for item in group.phases] == [
        (2, "p2"),
        (1, "p1"),
        (3, "p3"),
    ]


def test_what_is_done_stands_open_when_there_is_nothing_else() -> None:
    assert [group.is_folded for group in phase_groups([phase_view()])] == [False]


def test_long_groups_are_cut_and_say_how_many_there_are() -> None:
    phases = [queued_phase(f"q{n}") for n in range(QUEUED_LIMIT + 1)] + [
        phase_view(f"d{n}") for n in range(GROUP_LIMIT + 1)
    ]
    queued, done = phase_groups(phases)
    assert (queued.total, len(queued.phases)) == (QUEUED_LIMIT + 1, QUEUED_LIMIT)
    assert (done.total, len(done.phases)) == (GROUP_LIMIT + 1, GROUP_LIMIT)


def test_caps_stand_worst_first_by_the_level_that_the_server_says() -> None:
    caps = (
        cap_view("calm", percent_of_cap=99.0),
        cap_view("full", level="exceeded", percent_of_cap=101.0),
        cap_view("warned", level="warn", percent_of_cap=81.0),
        cap_view("in dollars", level="warn", percent_of_cap=None, cap_usd=Decimal(1), percent_of_cap_usd=85.0),
    )  # fmt: skip
    assert [panel.cap.provider for panel in cap_panels(caps)] == ["full", "in dollars", "warned", "calm"]


def test_a_cap_has_a_bar_for_each_unit_it_is_set_in() -> None:
    both = cap_view(cap_usd=Decimal(20), used_usd=Decimal("16.42"), percent_of_cap_usd=82.1)
    (panel,) = cap_panels([both])
    assert [(bar.unit, bar.words, bar.percent) for bar in panel.bars] == [
        ("tokens", "331,000 of 1,000,000 tokens", 33.1),
        ("dollars", "$16.42 of $20.00", 82.1),
    ]


@pytest.mark.parametrize(
    "values, shares",
    [
        pytest.param({}, (33.1, 0.0, 80.0), id="nothing in flight"),
        pytest.param({"used_tokens": 500_000, "reserved_tokens": 100_000}, (40.0, 10.0, 80.0), id="calls in flight"),
        pytest.param({"used_tokens": 2_000_000}, (100.0, 0.0, 40.0), id="twice the cap"),
        pytest.param({"used_tokens": 0, "cap_tokens": 0}, (100.0, 0.0, 80.0), id="a cap of nothing"),
    ],
)  # fmt: skip
def test_bars_show_settled_reserved_and_the_soft_limit(
    values: dict[str, Any], shares: tuple[float, float, float]
) -> None:
    (panel,) = cap_panels([cap_view(**values)])
    (bar,) = panel.bars
    assert (bar.settled_share, bar.reserved_share, bar.mark_share) == pytest.approx(shares)


def test_an_allowance_below_the_configured_cap_says_so() -> None:
    (panel,) = cap_panels([cap_view(configured_cap_tokens=2_000_000)])
    assert panel.bars[0].detail == "Our share of the 2,000,000 configured."


def test_an_uncapped_run_has_no_bar() -> None:
    run = run_summary(token_cap=None, cost_cap_usd=None)
    assert (run_token_bar(run), run_cost_bar(run)) == (None, None)


@pytest.mark.parametrize(
    "used, percent", [(119_999, 99.9), (120_000, 100.0), (120_001, 100.0), (132_000, 110.0)],
    ids=["one below", "exactly", "one above", "far above"],
)  # fmt: skip
def test_a_run_is_shown_at_its_cap_only_when_it_is_there(used: int, percent: float) -> None:
    bar = run_token_bar(run_summary(tokens_used=used, tokens_reserved=0, token_cap=120_000))
    assert bar is not None
    assert bar.percent == percent


def test_what_calls_in_flight_hold_counts_against_the_run_too() -> None:
    bar = run_token_bar(run_summary(tokens_used=30, tokens_reserved=20, token_cap=100))
    assert bar is not None
    assert (bar.percent, bar.settled_share, bar.reserved_share) == (50.0, 30.0, 20.0)


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(1, 10**12))
def test_no_bar_is_longer_than_its_place(settled: int, reserved: int, cap: int) -> None:
    bar = run_token_bar(run_summary(tokens_used=settled, tokens_reserved=reserved, token_cap=cap))
    assert bar is not None
    assert 0 <= bar.settled_share <= bar.settled_share + bar.reserved_share <= 100.000001


def test_a_share_of_nothing_is_nothing() -> None:
    assert share_percent(0, 0) == 0.0
