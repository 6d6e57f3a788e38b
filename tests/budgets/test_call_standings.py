"""Where one call stands: every cap that it must fit, the orders that would stop its run, and both at a fuller cap."""

from __future__ import annotations

from decimal import Decimal

import pytest

from autopack_mcp.budgets.caps import CallScope
from autopack_mcp.budgets.counters import ScopeUse
from autopack_mcp.budgets.denials import Wanted
from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.budgets.standing_orders import StandingOrder, add_order
from autopack_mcp.budgets.standings import CallStandings, CapStanding, call_standings, capped_phases, provider_standings
from autopack_mcp.config.settings import Settings, WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.plans.plan import PhaseSpec
from autopack_mcp.runs.own_caps import insert_phase_caps
from tests.factories import (
    NOON,
    call_scope,
    held_against,
    insert_phase,
    insert_run,
    provider_settings,
    run_cap,
    settings,
    usage_event,
    window_cap,
)

EVERYWHERE = settings(
    provider_settings(WindowCap("week", 1_000)),
    provider_settings(WindowCap("day", 1_000), provider="anthropic", api_key_env=None),
    global_caps=(WindowCap("month", 1_000),),
    role_caps={"builder": (WindowCap("day", 1_000),), "auditor": (WindowCap("day", 1_000),)},
)
HALF = Decimal("0.5")


def standings(database: Database, call: CallScope, of: Settings = EVERYWHERE) -> CallStandings:
    return database.read_now(call_standings, of, call, NOON)


def begin(database: Database) -> None:
    database.write_now(insert_run, token_cap=1_000)
    database.write_now(insert_phase)
    database.write_now(insert_phase_caps, "R1", (PhaseSpec("P1", "", "", token_cap=1_000), PhaseSpec("P2", "", "")))
    database.write_now(book_external, usage_event(), held_against(), NOON)


def order(action: str = "pause", run_id: str | None = None) -> StandingOrder:
    return StandingOrder(
        0, action, "provider", "tokens", 150, run_id, "ann", "test", NOON, provider="openai", period="week"  # type: ignore[arg-type]  # one of its words
    )  # fmt: skip


@pytest.mark.parametrize(
    "call, kinds",
    [
        (call_scope(), ["provider", "role", "global", "run", "phase"]),
        (call_scope(phase_id="P2"), ["provider", "role", "global", "run"]),
        (call_scope(role="agent:planner", phase_id=None), ["provider", "global", "run"]),
        (call_scope(provider="glm", run_id=None, phase_id=None), ["role", "global"]),
    ],
    ids=["a capped phase", "a phase without a cap", "an agent", "no run, an account without a cap"],
)
def test_a_call_has_the_caps_of_all_that_it_belongs_to(database: Database, call: CallScope, kinds: list[str]) -> None:
    begin(database)
    of = settings(*EVERYWHERE.providers.values(), provider_settings(provider="glm"), global_caps=EVERYWHERE.global_caps,
                  role_caps=EVERYWHERE.role_caps)  # fmt: skip
    found = standings(database, call, of).caps
    assert [cap.cap.kind for cap in found] == kinds
    used = {cap.cap.kind: cap.used_tokens for cap in found if call.provider == "openai" and call.role == "builder"}
    assert set(used.values()) <= {100, 0}
    assert used.get("run", 100) == 100
    assert [cap.has_soft_limit for cap in found] == [kind == "provider" for kind in kinds]


def test_a_full_cap_of_all_calls_is_no_reason_to_leave_an_account(database: Database) -> None:
    full = settings(global_caps=(WindowCap("month", 100),))
    database.write_now(book_external, usage_event(), held_against(), NOON)
    account = database.read_now(provider_standings, full, NOON, lambda _: True)["openai"]
    assert (account.caps, account.soft_cap, account.exhausted_cap) == ((), None, None)


def test_only_a_providers_window_is_ever_over_a_soft_limit() -> None:
    of_window, of_run = (
        CapStanding(cap, ScopeUse(900), HALF) for cap in (window_cap(tokens=1_000), run_cap(tokens=1_000))
    )
    assert (of_window.is_over_soft, of_run.is_over_soft) == (True, False)


@pytest.mark.parametrize("share, used", [("0.8", 801), ("1", 1_001), ("0", 0)])
def test_a_cap_can_be_supposed_at_any_share_in_both_its_units(share: str, used: int) -> None:
    cap = CapStanding(window_cap(tokens=1_001, nano_usd=1_001), ScopeUse(5, 7, 11, 13), Decimal("0.8"))
    supposed = cap.filled_to(Decimal(share))
    assert supposed.use == ScopeUse(used, 0, used, 0)
    assert (supposed.is_over_soft, supposed.is_exhausted) == (used >= 801, used == 1_001)


def test_orders_that_stop_the_run_are_there_until_they_have_acted_and_orders_to_tell_never(database: Database) -> None:
    begin(database)
    for one in (order(), order("tell"), order("cancel", "R1"), order("cancel", "R2")):
        database.write_now(add_order, one)
    assert [one.found.order.order_id for one in standings(database, call_scope()).orders] == [1, 3]
    assert [one.found.order.order_id for one in standings(database, call_scope(run_id=None)).orders] == [1]


def test_what_the_ledger_would_say_names_the_order_first(database: Database) -> None:
    begin(database)
    database.write_now(add_order, order())
    found = standings(database, call_scope())
    assert found.denial(Wanted("", "gpt-big", 50, 0)) is None
    denial = found.denial(Wanted("", "gpt-big", 5_000, 0))
    assert denial is not None
    assert (denial.order_id, denial.why.split(":")[0]) == (
        1, "Standing order 1 (pause any run when openai reaches 150 tokens in a week)",
    )  # fmt: skip


def test_an_order_sees_the_counter_that_is_supposed_to_stand_elsewhere(database: Database) -> None:
    begin(database)
    database.write_now(add_order, order())
    found = standings(database, call_scope())
    week = found.caps[0]
    supposed = found.supposing(week.filled_to(HALF))
    assert [one.use.used_tokens for one in supposed.orders] == [500]
    assert [cap.used_tokens for cap in supposed.caps if cap.cap.scope == week.cap.scope] == [500]
    assert supposed.caps[1:] == found.caps[1:]
    # A call to another account does not count for what the order measures, and yet it is stopped.
    elsewhere = standings(database, call_scope(provider="anthropic")).supposing(week.filled_to(HALF))
    denial = elsewhere.denial(Wanted("", "claude", 1, 0))
    assert denial is not None
    assert denial.order_id == 1


def test_only_caps_in_dollars_ask_for_a_price(database: Database) -> None:
    begin(database)
    assert not standings(database, call_scope()).count_dollars
    in_dollars = settings(provider_settings(WindowCap("week", None, 10)))
    assert standings(database, call_scope(), in_dollars).count_dollars


def test_phases_with_a_cap_of_their_own_are_known(database: Database) -> None:
    begin(database)
    assert database.read_now(capped_phases, "R1") == {"P1"}
    assert database.read_now(capped_phases, "R2") == frozenset()


def test_a_cap_that_is_used_up_says_so_shortly_unless_what_lacks_is_a_price(database: Database) -> None:
    full = settings(provider_settings(WindowCap("week", None, 500_000)))
    database.write_now(book_external, usage_event(), held_against(), NOON)
    found = standings(database, call_scope(run_id=None), full)
    denial = found.denial(Wanted("", "gpt-big", 1, 1))
    assert denial is not None
    assert denial.why == "openai's cap of the week is used up (100%)"
    unpriced = found.denial(Wanted("", "gpt-big", 1, None))
    assert unpriced is not None
    assert "the price of 'gpt-big' is unknown" in unpriced.why
