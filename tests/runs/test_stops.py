"""Which of its own caps has stopped a run: as real denials of the ledger leave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from autopack_mcp.budgets.call_rules import RulesInForce
from autopack_mcp.budgets.ledger import Reservation, RunFence, reserve
from autopack_mcp.config.settings import Settings, WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import Denial
from autopack_mcp.plans.plan import PhaseSpec
from autopack_mcp.runs.cap_needs import CapNeed
from autopack_mcp.runs.own_caps import NewCaps, insert_phase_caps, set_caps
from autopack_mcp.runs.records import RunRecord
from autopack_mcp.runs.states import RunState
from autopack_mcp.runs.stops import CapStop, cap_stop, facts_of
from autopack_mcp.runs.store import run_by_id
from tests.factories import NOON, call_scope, insert_run, provider_settings, reservation, settings

MINE = RunFence("R1", 1)
DOLLAR = 1_000_000_000  # Nano-dollars.


def a_call(tokens: int = 600, nano_usd: int | None = DOLLAR // 100) -> Reservation:
    scope = call_scope(run_id="R1", phase_id="P-1.a")
    return reservation(scope=scope, bound_input=tokens - 1, bound_output=1, bound_nano=nano_usd)


def reserved(database: Database, call: Reservation, under: Settings | None = None) -> Denial | None:
    found = database.write_now(reserve, call, RulesInForce(under or settings()), None, NOON)
    return found if isinstance(found, Denial) else None


def a_run(database: Database, of_run: Mapping[str, Any], of_phase: Mapping[str, Any]) -> None:
    database.write_now(lambda connection: insert_run(connection, **of_run))
    database.write_now(insert_phase_caps, "R1", (PhaseSpec("P-1.a", "", "", **of_phase),))


def stopped(database: Database, denial: Denial, state: RunState = "budget_paused") -> RunRecord:
    return replace(database.read_now(run_by_id, "R1"), state=state, why=denial.why, stopped_by=facts_of(denial))


@pytest.mark.parametrize(
    "of_run, of_phase, sizes, expected, say",
    [
        pytest.param(
            {"token_cap": 1_000}, {}, (600, 600), CapStop("R1", "tokens", 1_200, 600),
            "raise the cap of run R1 to at least 1,200 tokens", id="tokens of the run",
        ),
        pytest.param(
            {"token_cap": 12_345_678}, {}, (9_876_543, 9_876_543), CapStop("R1", "tokens", 19_753_086, 9_876_543),
            "raise the cap of run R1 to at least 20,000,000 tokens", id="many tokens, said in two figures",
        ),
        pytest.param(
            {}, {"token_cap": 7}, (8,), CapStop("R1", "tokens", 8, 8, "P-1.a"),
            "raise the cap of phase P-1.a of run R1 to at least 8 tokens", id="tokens of the phase",
        ),
    ],
)  # fmt: skip
def test_a_cap_in_tokens_says_exactly_how_large_it_must_be(
    database: Database,
    of_run: dict[str, int],
    of_phase: dict[str, int],
    sizes: tuple[int, ...],
    expected: CapStop,
    say: str,
) -> None:
    a_run(database, of_run, of_phase)
    denials = [reserved(database, a_call(size)) for size in sizes]
    assert denials[:-1] == [None] * (len(sizes) - 1)
    assert denials[-1] is not None
    stop = cap_stop(stopped(database, denials[-1]))
    assert stop == expected
    assert CapNeed(stop).say == say
    for tokens, fits in ((stop.needed - 1, False), (stop.needed, True)):
        database.write_now(set_caps, MINE, NewCaps(tokens=tokens, phase_id=stop.phase_id), NOON)
        assert (reserved(database, a_call(sizes[-1])) is None) == fits


@pytest.mark.parametrize("phase_id", [None, "P-1.a"], ids=["of the run", "of the phase"])
@pytest.mark.parametrize(
    "spent, wanted",
    [(0, 1), (49_999, 49_999), (1_234 * DOLLAR + 567_850_001, 3 * DOLLAR + 50_000)],
    ids=["a nano-dollar", "less than is said", "thousands"],
)
def test_a_cap_in_dollars_says_exactly_how_large_as_well(
    database: Database, phase_id: str | None, spent: int, wanted: int
) -> None:
    caps = {"cost_cap_nano": max(1, spent)}
    a_run(database, {} if phase_id else caps, caps if phase_id else {})
    if spent:
        assert reserved(database, a_call(nano_usd=spent)) is None
    denial = reserved(database, a_call(nano_usd=wanted + (not spent)))
    assert denial is not None
    stop = cap_stop(stopped(database, denial))

    assert stop is not None
    assert (stop.unit, stop.phase_id) == ("nano_usd", phase_id)
    assert stop.needed == spent + wanted + (not spent)
    database.write_now(set_caps, MINE, NewCaps(nano_usd=stop.needed, phase_id=phase_id), NOON)
    assert reserved(database, a_call(nano_usd=wanted + (not spent))) is None


@pytest.mark.parametrize(
    "unit, needed, said",
    [
        ("tokens", 9, "9 tokens"),
        ("tokens", 99, "99 tokens"),
        ("tokens", 101, "110 tokens"),
        ("tokens", 34_620, "35,000 tokens"),
        ("tokens", 99_001, "100,000 tokens"),
        ("nano_usd", DOLLAR // 1_000, "$0.0010"),
        ("nano_usd", 2 * DOLLAR, "$2.00"),
        ("nano_usd", 123 * DOLLAR + 1, "$130.00"),
        ("nano_usd", 1_230 * DOLLAR, "$1,300.00"),
    ],
)
def test_what_to_say_is_rounded_up_to_two_figures(unit: Any, needed: int, said: str) -> None:
    assert CapNeed(CapStop("R1", unit, needed)).say == f"raise the cap of run R1 to at least {said}"


@pytest.mark.parametrize(
    "under",
    [
        pytest.param(settings(provider_settings(WindowCap("week", 10))), id="an account's"),
        pytest.param(settings(role_caps={"builder": (WindowCap("day", 10),)}), id="a role's"),
        pytest.param(settings(global_caps=(WindowCap("month", None, 10),)), id="that of all calls"),
    ],
)
def test_a_cap_that_is_not_the_runs_own_is_no_stop_of_its_own(database: Database, under: Settings) -> None:
    a_run(database, {"token_cap": 10_000}, {"cost_cap_nano": DOLLAR})
    denial = reserved(database, a_call(), under)
    assert denial is not None
    assert cap_stop(stopped(database, denial)) is None


def test_a_cap_that_no_amount_helps_because_a_price_is_unknown_is_no_stop_to_raise(database: Database) -> None:
    a_run(database, {"cost_cap_nano": DOLLAR}, {})
    denial = reserved(database, a_call(nano_usd=None))
    assert denial is not None
    assert cap_stop(stopped(database, denial)) is None


@pytest.mark.parametrize("state", ["running", "paused", "needs_attention", "cancelled"])
def test_a_run_that_no_cap_has_stopped_has_no_stop(database: Database, state: RunState) -> None:
    a_run(database, {"token_cap": 1}, {})
    denial = reserved(database, a_call())
    assert denial is not None
    assert cap_stop(stopped(database, denial, state)) is None
    assert cap_stop(replace(stopped(database, denial), run_id="R2")) is None
