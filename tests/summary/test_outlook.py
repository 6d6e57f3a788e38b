"""What would come of a call, held against what comes of it: the router's choice and the ledger's own answer."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine

from autopack_mcp.budgets.call_rules import RulesInForce
from autopack_mcp.budgets.caps import CallScope
from autopack_mcp.budgets.ledger import book_external, reserve
from autopack_mcp.budgets.standing_orders import StandingOrder, add_order
from autopack_mcp.config.settings import FallbackStrategy, Settings, WindowCap
from autopack_mcp.errors import Denial
from autopack_mcp.llm_service import BUILDER_OUTPUT_TOKENS
from autopack_mcp.money import NANO_PER_USD
from autopack_mcp.plans.plan import PhaseSpec
from autopack_mcp.routing.model_map import current_model_map, model_map_to_json
from autopack_mcp.routing.snapshot import read_snapshot
from autopack_mcp.runs.own_caps import insert_phase_caps
from autopack_mcp.runs.rules import run_rules
from autopack_mcp.summary.outlook import Outlook, Question
from autopack_mcp.usage.prices import UnitPrices
from tests.factories import (
    NOON,
    call_scope,
    held_against,
    insert_phase,
    insert_run,
    model_settings,
    provider_settings,
    reservation,
    settings,
    token_counts,
    usage_event,
)

LEAST = 16_000  # What the catalog of ``settings`` allows an answer, which is less than a builder asks for.
ASKED = Question("builder", "general", "medium", "P1")


def price(model: str) -> UnitPrices | None:
    return None if model == "gpt-small" else UnitPrices(Decimal(1), Decimal(4))


def outlook_of(connection: Connection, of: Settings, run_id: str | None = "R1") -> Outlook:
    rules = run_rules(connection, run_id, NOON) if run_id else None
    snapshot = read_snapshot(connection, of, NOON, lambda account: True, price, rules)
    return Outlook(connection, of, snapshot, run_id)


def begin(
    connection: Connection,
    of: Settings,
    *,
    run_tokens: int | None = None,
    phase_tokens: int | None = None,
    spent: int = 0,
    orders: Sequence[StandingOrder] = (),
) -> None:
    """Run R1 with its phase P1, which has spent so much on openai."""
    model_map = model_map_to_json(current_model_map(of, ()))
    insert_run(connection, model_map=model_map, token_cap=run_tokens)
    insert_phase(connection)
    insert_phase_caps(connection, "R1", (PhaseSpec("P1", "", "", token_cap=phase_tokens),))
    counts = token_counts(uncached_input=spent, output=0)
    book_external(connection, usage_event(counts=counts, cost_nano=spent * 1_000), held_against(), NOON)
    for order in orders:
        add_order(connection, order)


def order(percent: int, action: str = "pause", provider: str = "openai") -> StandingOrder:
    return StandingOrder(
        0, action, "provider", "percent", percent, None, "ann", "test", NOON, provider=provider, period="week"  # type: ignore[arg-type]  # one of its words
    )  # fmt: skip


_caps = st.none() | st.integers(1, 3 * LEAST)
_dollars = st.none() | st.integers(1, NANO_PER_USD // 10)


@st.composite
def _configs(draw: st.DrawFn) -> Settings:
    drawn = [WindowCap(window, draw(_caps), draw(_dollars)) for window in ("day", "week")]
    windows = [cap for cap in drawn if cap.tokens is not None or cap.nano_usd is not None]
    shared = draw(st.none() | st.integers(1, 3 * LEAST))
    of_role = draw(st.none() | st.integers(1, 3 * LEAST))
    glm = provider_settings(provider="glm", api_key_env=None)
    base = settings(provider_settings(*windows), glm)
    chain = draw(st.lists(st.sampled_from(["gpt-small", "claude", "glm-cheap"]), unique=True).map(tuple))
    return settings(
        provider_settings(*windows),
        glm,
        models={**base.models, "glm-cheap": model_settings("glm-cheap", "glm")},
        fallback_strategy=FallbackStrategy(default=chain),
        global_caps=() if shared is None else (WindowCap("month", shared),),
        role_caps={} if of_role is None else {"builder": (WindowCap("day", of_role),)},
    )


@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    of=_configs(),
    spent=st.integers(0, 3 * LEAST),
    run_tokens=_caps,
    phase_tokens=_caps,
    orders=st.lists(
        st.builds(order, st.integers(1, 100), st.sampled_from(["pause", "cancel", "tell"]), st.just("openai")),
        max_size=2,
    ),
)
def test_what_is_foretold_is_what_the_ledger_says(
    ledger_in_memory: Engine,
    of: Settings,
    spent: int,
    run_tokens: int | None,
    phase_tokens: int | None,
    orders: list[StandingOrder],
) -> None:
    with ledger_in_memory.connect() as connection:
        begin(connection, of, run_tokens=run_tokens, phase_tokens=phase_tokens, spent=spent, orders=orders)
        outlook = outlook_of(connection, of)
        foretold = outlook.outcome(ASKED)
        decision = foretold.decision
        least = outlook.least(ASKED, decision.model, in_dollars=True)
        scope = CallScope(decision.provider, "builder", "run", "R1", "P1")
        asked = reservation(scope=scope, model=decision.model, bound_input=0, bound_output=least.tokens,
                            bound_nano=least.nano_usd)  # fmt: skip
        told = reserve(connection, asked, RulesInForce(of), None, NOON)
        assert isinstance(told, Denial) == (foretold.denial is not None)
        if isinstance(told, Denial) and foretold.denial is not None:
            assert (told.order_id is None) == (foretold.denial.order_id is None)
            assert foretold.blocked_by
        connection.rollback()


def capped(tokens: int | None = None, nano_usd: int | None = None, **overrides: object) -> Settings:
    return settings(provider_settings(WindowCap("week", tokens, nano_usd)), **overrides)


@pytest.mark.parametrize(
    "left, is_blocked", [(LEAST - 1, True), (LEAST, False), (LEAST + 1, False)], ids=["less", "just", "more"]
)
def test_a_cap_that_has_no_room_for_the_shortest_call_blocks_it_before_it_is_used_up(
    ledger_in_memory: Engine, left: int, is_blocked: bool
) -> None:
    of = capped(10 * LEAST, fallback_strategy=FallbackStrategy())
    with ledger_in_memory.connect() as connection:
        begin(connection, of, spent=10 * LEAST - left)
        blocked_by = outlook_of(connection, of).outcome(ASKED).blocked_by
        connection.rollback()
    assert (blocked_by is not None) == is_blocked
    if blocked_by is not None:
        assert "this call may need 16,000 tokens" in blocked_by


@pytest.mark.parametrize(
    "facts, label",
    [
        ({"run_tokens": 5_000}, "the cap of run R1 is used up (100%)"),
        ({"phase_tokens": 5_000}, "the cap of phase P1 of run R1 is used up (100%)"),
    ],
    ids=["run", "phase"],
)
def test_a_used_up_cap_of_the_run_or_its_phase_blocks(
    ledger_in_memory: Engine, facts: dict[str, Any], label: str
) -> None:
    with ledger_in_memory.connect() as connection:
        begin(connection, settings(), spent=5_000, **facts)
        blocked_by = outlook_of(connection, settings()).outcome(ASKED).blocked_by
        connection.rollback()
    assert blocked_by == label


@pytest.mark.parametrize(
    "overrides, label",
    [
        ({"global_caps": (WindowCap("day", 5_000),)}, "the cap of all calls of the day is used up (100%)"),
        ({"role_caps": {"builder": (WindowCap("week", 5_000),)}}, "the builder's cap of the week is used up (100%)"),
    ],
    ids=["all calls", "role"],
)
def test_a_used_up_cap_of_the_role_or_of_all_calls_blocks_and_reroutes_nothing(
    ledger_in_memory: Engine, overrides: dict[str, object], label: str
) -> None:
    of = settings(fallback_strategy=FallbackStrategy(default=("claude",)), **overrides)
    with ledger_in_memory.connect() as connection:
        begin(connection, of, spent=5_000)
        found = outlook_of(connection, of).outcome(ASKED)
        connection.rollback()
    assert (found.decision.model, found.decision.rule) == ("gpt-big", "complexity")
    assert found.blocked_by == label


def test_an_unpriced_model_under_a_cap_in_dollars_is_blocked_and_the_price_is_named_as_the_way_out(
    ledger_in_memory: Engine,
) -> None:
    of = capped(nano_usd=10 * NANO_PER_USD)
    with ledger_in_memory.connect() as connection:
        begin(connection, of)
        outlook = outlook_of(connection, of)
        assert outlook.outcome(Question("builder", "general", "high", "P1")).blocked_by is None
        blocked_by = outlook.outcome(Question("builder", "general", "low", "P1")).blocked_by
        connection.rollback()
    assert blocked_by == (
        "Openai's cap of the week is $10.00: the price of 'gpt-small' is unknown, so nothing can be promised."
        " Give it a price: in models.yaml."
    )


def test_no_price_is_asked_for_where_no_cap_is_in_dollars(ledger_in_memory: Engine) -> None:
    def no_price(model: str) -> UnitPrices:
        raise AssertionError(model)

    of = capped(1_000_000)
    with ledger_in_memory.connect() as connection:
        begin(connection, of)
        snapshot = read_snapshot(
            connection, of, NOON, lambda account: True, no_price, run_rules(connection, "R1", NOON)
        )
        assert Outlook(connection, of, snapshot, "R1").outcome(ASKED).blocked_by is None
        connection.rollback()


def test_a_fallback_that_the_ledger_would_deny_is_passed_over_as_the_door_does(ledger_in_memory: Engine) -> None:
    anthropic = provider_settings(WindowCap("day", LEAST - 1), provider="anthropic", api_key_env=None)
    glm = provider_settings(provider="glm", api_key_env=None)
    base = settings()
    of = settings(
        provider_settings(WindowCap("week", 10 * LEAST)),
        anthropic,
        glm,
        models={**base.models, "glm-cheap": model_settings("glm-cheap", "glm")},
        fallback_strategy=FallbackStrategy(default=("claude", "glm-cheap")),
    )
    with ledger_in_memory.connect() as connection:
        begin(connection, of, spent=8 * LEAST)
        outlook = outlook_of(connection, of)
        found = outlook.outcome(ASKED)
        chain = outlook.chain(ASKED, "gpt-big", None)
        connection.rollback()
    assert (found.decision.model, found.blocked_by) == ("glm-cheap", None)
    assert [(one.model, one.objection is None) for one in chain] == [("claude", False), ("glm-cheap", True)]
    assert "Anthropic's cap of the day is 15,999 tokens" in str(chain[0].objection)


def test_where_a_cap_of_the_run_denies_every_model_the_first_choice_is_shown(ledger_in_memory: Engine) -> None:
    of = capped(10 * LEAST, fallback_strategy=FallbackStrategy(default=("claude",)))
    with ledger_in_memory.connect() as connection:
        begin(connection, of, spent=8 * LEAST, run_tokens=8 * LEAST)
        found = outlook_of(connection, of).outcome(ASKED)
        connection.rollback()
    assert (found.decision.model, found.blocked_by) == ("claude", "the cap of run R1 is used up (100%)")
    assert not any(reason.startswith("not claude") for reason in found.decision.reasons)


@pytest.mark.parametrize("action", ["pause", "cancel"])
def test_a_standing_order_that_would_stop_the_run_is_named_with_its_number(
    ledger_in_memory: Engine, action: str
) -> None:
    of = capped(10 * LEAST, fallback_strategy=FallbackStrategy(default=("claude",)))
    with ledger_in_memory.connect() as connection:
        begin(connection, of, spent=8 * LEAST, orders=[order(80, action)])
        for run_id in ("R1", None):
            found = outlook_of(connection, of, run_id).outcome(Question("builder", "general", "medium"))
            # Claude would answer, of whom the order does not speak; but what it waits for has come.
            assert (found.decision.model, found.decision.rule) == ("claude", "fallback")
            assert found.blocked_by is not None
            assert found.blocked_by.startswith(f"Standing order 1 ({action} any run when openai reaches 80 %")
        connection.rollback()


def test_an_agent_promises_what_it_likes_so_that_only_a_used_up_cap_blocks_it(ledger_in_memory: Engine) -> None:
    of = capped(1_000, fallback_strategy=FallbackStrategy())
    with ledger_in_memory.connect() as connection:
        begin(connection, of, spent=999)
        found = outlook_of(connection, of).outcome(Question("agent:planner", "general", "medium"))
        connection.rollback()
    assert found.blocked_by is None


def test_a_builder_promises_no_more_than_its_model_can_answer(ledger_in_memory: Engine) -> None:
    with ledger_in_memory.connect() as connection:
        big = settings(models={"gpt-big": model_settings("gpt-big", max_output_tokens=10**6)})
        assert outlook_of(connection, big, None).least(ASKED, "gpt-big").tokens == BUILDER_OUTPUT_TOKENS
        assert outlook_of(connection, settings(), None).least(ASKED, "gpt-big").tokens == LEAST


def test_a_rehearsal_is_measured_against_its_own_shadow(ledger_in_memory: Engine) -> None:
    of = capped(10 * LEAST, fallback_strategy=FallbackStrategy())
    with ledger_in_memory.connect() as connection:
        insert_run(connection, is_rehearsal=True, model_map=model_map_to_json(current_model_map(of, ())))
        insert_phase(connection)
        rehearsed = call_scope(purpose="rehearsal")
        counts = token_counts(uncached_input=10 * LEAST, output=0)
        book_external(connection, usage_event(counts=counts, scope=rehearsed), held_against(), NOON)
        snapshot = read_snapshot(connection, of, NOON, lambda account: True, price, run_rules(connection, "R1", NOON))
        blocked = {
            purpose: Outlook(connection, of, snapshot, "R1", purpose).standings(ASKED, "openai").caps[0].is_exhausted
            for purpose in ("run", "rehearsal")
        }  # fmt: skip
        connection.rollback()
    assert blocked == {"run": False, "rehearsal": True}
