"""Standing orders as the ledger keeps them: never late, once, and only for whom they were laid down."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from autopack_mcp.budgets.ledger import Ledger
from autopack_mcp.budgets.standing_orders import (
    Firing,
    StandingOrder,
    add_order,
    firings_of,
    firings_of_run,
    in_words,
    mark_handled,
    named,
    orders_in_force,
    unhandled_firings,
    withdraw_order,
)
from autopack_mcp.clock import ManualClock
from autopack_mcp.config.settings import Settings, WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import budget_scopes, outbox, reservations
from autopack_mcp.errors import Denial
from tests.factories import NOON, call_scope, insert_run, provider_settings, reservation, settings, truth_of

pytestmark = pytest.mark.anyio
WEEK = timedelta(days=7)
DOLLAR = 1_000_000_000
SCOPE = {"provider", "run_id", "phase_id", "purpose"}


def order(**overrides: Any) -> StandingOrder:
    """Pause any run when openai reaches 1,000 tokens in a week."""
    values: dict[str, Any] = {
        "order_id": 0, "action": "pause", "subject": "provider", "unit": "tokens", "threshold": 1_000, "run_id": None,
        "author": "ann", "client": "a phone", "created_at": NOON,
    }  # fmt: skip
    if overrides.get("subject", "provider") == "provider":
        values |= {"provider": "openai", "period": "week"}
    return StandingOrder(**{**values, **overrides})


@dataclass(slots=True)
class Desk:
    """A ledger over runs R1 and R2, and the orders that a test lays down."""

    database: Database
    clock: ManualClock
    config: Settings
    ledger: Ledger

    def orders(self, **overrides: Any) -> int:
        return self.database.write_now(add_order, order(**overrides))

    async def asks(self, tokens: int, *, will_wait: bool = False, **overrides: Any) -> datetime | Denial:
        """What becomes of a call that may need so many tokens."""
        wish = {name: overrides.pop(name) for name in SCOPE & overrides.keys()}
        promise = reservation(scope=call_scope(**wish), bound_input=tokens, bound_output=0, **overrides)
        return await self.ledger.reserve(promise, will_wait=will_wait)

    async def spends(self, tokens: int, truth: int | None = None, *, nano: int = 0, **scope: Any) -> None:
        """A call of so many tokens that is answered; more than was promised when ``truth`` says so."""
        promise = reservation(scope=call_scope(**scope), bound_input=tokens, bound_output=0, bound_nano=nano)
        outcome = await self.ledger.reserve(promise)
        assert isinstance(outcome, datetime), outcome
        when = {"occurred_at": self.clock.now()}
        await self.ledger.settle(truth_of(promise, tokens=tokens if truth is None else truth, cost_nano=nano, **when))

    def acts(self) -> None:
        """What the supervisor does with every firing, as far as the ledger can see."""
        for firing in self.fired(unhandled_firings):
            self.database.write_now(mark_handled, firing.firing_id, "the run was paused", self.clock.now())

    def fired(self, question: Any = unhandled_firings, *arguments: Any) -> tuple[Firing, ...]:
        found: tuple[Firing, ...] = self.database.read_now(question, *arguments)
        return found

    def outbox(self) -> list[tuple[str, str | None, str]]:
        columns = (outbox.c.kind, outbox.c.run_id, outbox.c.text)
        rows = self.database.read_now(lambda connection: connection.execute(select(*columns)).all())
        return [tuple(row) for row in rows]


@pytest.fixture
def desk(database: Database, clock: ManualClock) -> Desk:
    for run_id in ("R1", "R2"):
        database.write_now(insert_run, run_id)
    database.write_now(insert_run, "rehearsed", is_rehearsal=True)
    config = settings(provider_settings(WindowCap("week", tokens=10_000), share="0.5"))
    opened = Desk(database, clock, config, Ledger(database, clock, lambda: opened.config))
    return opened


# ── the tables ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_order_is_in_force_until_it_is_withdrawn_once(desk: Desk) -> None:
    mine, every, other = desk.orders(run_id="R1"), desk.orders(), desk.orders(run_id="R2")

    assert [one.order_id for one in desk.database.read_now(orders_in_force)] == [mine, every, other]
    touching = desk.database.read_now(orders_in_force, "R1")
    assert touching == (order(order_id=mine, run_id="R1"), order(order_id=every))
    assert desk.database.write_now(withdraw_order, every, NOON)
    assert not desk.database.write_now(withdraw_order, every, NOON)
    assert not desk.database.write_now(withdraw_order, 99, NOON)
    assert [one.order_id for one in desk.database.read_now(orders_in_force)] == [mine, other]


@pytest.mark.parametrize(
    "wish, words",
    [
        ({"unit": "percent", "threshold": 80}, "pause any run when openai reaches 80 % of its cap of the week"),
        ({"run_id": "R1", "period": "day"}, "pause run R1 when openai reaches 1,000 tokens in a day"),
        ({"action": "tell"}, "tell when openai reaches 1,000 tokens in a week"),
        (
            {"action": "cancel", "subject": "run", "run_id": "R1", "unit": "nano_usd", "threshold": 5 * DOLLAR},
            "cancel run R1 when it reaches $5.00",
        ),
        ({"subject": "run", "unit": "percent", "threshold": 90}, "pause any run when it reaches 90 % of its cap"),
        ({"subject": "phase", "threshold": 200_000}, "pause any run when a phase of it reaches 200,000 tokens"),
        (
            {"action": "tell", "subject": "phase", "run_id": "R1"},
            "tell when a phase of run R1 reaches 1,000 tokens",
        ),
        (
            {"action": "tell", "subject": "run", "unit": "nano_usd", "threshold": 2_500_000},
            "tell when any run reaches $0.0025",
        ),
        (
            {"subject": "global", "period": "month", "unit": "nano_usd", "threshold": 1_234 * DOLLAR},
            "pause any run when everything together reaches $1,234.00 in a month",
        ),
    ],
    ids=lambda value: value[:50] if isinstance(value, str) else "",
)
def test_an_order_says_itself(wish: dict[str, Any], words: str) -> None:
    assert in_words(order(**wish)) == words


def test_a_reason_names_the_order() -> None:
    assert named(order(order_id=3)) == "Standing order 3 (pause any run when openai reaches 1,000 tokens in a week)"


# ── stopping ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "wish, spent, scope",
    [
        pytest.param({"unit": "percent", "threshold": 20}, {}, {}, id="a share of a provider's week"),
        pytest.param({}, {"run_id": None, "phase_id": None}, {}, id="a provider's week, whoever spent it"),
        pytest.param({"subject": "run", "run_id": "R1"}, {"phase_id": "P0"}, {}, id="a run"),
        pytest.param({"subject": "phase", "run_id": "R1"}, {}, {}, id="a phase"),
        pytest.param({"subject": "global", "period": "day"}, {"provider": "anthropic"}, {}, id="all calls"),
    ],
)
@pytest.mark.parametrize("wanted, is_denied", [(399, False), (400, False), (401, True)], ids=["-1", "0", "+1"])
async def test_the_call_that_would_pass_the_threshold_is_denied_and_fires(
    desk: Desk, wish: dict[str, Any], spent: dict[str, Any], scope: dict[str, Any], wanted: int, is_denied: bool
) -> None:
    await desk.spends(600, **spent)
    number = desk.orders(**wish)
    outcome = await desk.asks(wanted, call_id="c1", **scope)

    fired = desk.fired(firings_of, [number], 9)
    assert isinstance(outcome, Denial) == is_denied
    assert len(fired) == is_denied
    if isinstance(outcome, Denial):
        (firing,) = fired
        assert (outcome.order_id, outcome.used, outcome.allowance) == (number, 600, 1_000)
        assert (firing.run_id, firing.action, firing.call_id, firing.fired_at) == ("R1", "pause", "c1", NOON)
        assert (firing.unit, firing.threshold, firing.used, firing.did, firing.handled_at) == (
            "tokens", 1_000, 600, "", None
        )  # fmt: skip
        assert firing.why == outcome.why
        assert firing.why.startswith(f"Standing order {number} (")
        assert "That is 1,000 tokens: 600 tokens are used" in firing.why


async def test_a_call_that_an_order_denies_leaves_no_trace_in_any_budget(desk: Desk) -> None:
    await desk.spends(600)
    before = desk.database.read_now(lambda connection: connection.execute(select(budget_scopes)).all())
    desk.orders()
    await desk.asks(401, call_id="c1")

    after = desk.database.read_now(lambda connection: connection.execute(select(budget_scopes)).all())
    assert sorted(after) == sorted(before)
    promised = select(reservations).where(reservations.c.call_id == "c1")
    assert desk.database.read_now(lambda connection: connection.execute(promised).all()) == []


async def test_an_order_denies_until_somebody_has_acted_on_it_and_then_lets_every_call_pass(desk: Desk) -> None:
    number = desk.orders()
    outcomes = [await desk.asks(1_001) for _ in range(2)]
    assert [isinstance(outcome, Denial) for outcome in outcomes] == [True, True]
    (firing,) = desk.fired(firings_of, [number], 9)
    assert desk.outbox() == [("order", "R1", firing.why)]

    desk.acts()
    await desk.spends(1_001)
    assert len(desk.fired(firings_of, [number], 9)) == 1


async def test_a_new_window_is_a_new_reason_to_stop(desk: Desk) -> None:
    number = desk.orders()
    await desk.asks(1_001)
    desk.acts()
    desk.clock.advance(WEEK.total_seconds())
    assert isinstance(await desk.asks(1_001), Denial)
    weeks = [firing.scope.rpartition("/")[2] for firing in desk.fired(firings_of, [number], 9)]
    assert weeks == ["2026-W48", "2026-W47"]


async def test_each_phase_of_a_run_is_stopped_by_itself(desk: Desk) -> None:
    desk.orders(subject="phase", run_id="R1")
    assert isinstance(await desk.asks(1_001, phase_id="P1"), Denial)
    desk.acts()
    await desk.spends(1_001, phase_id="P1")
    assert isinstance(await desk.asks(1_001, phase_id="P2"), Denial)
    assert [firing.scope for firing in desk.fired(firings_of_run, "R1", 9)] == ["phase/R1/P2", "phase/R1/P1"]


async def test_an_order_for_every_run_stops_each_of_them_and_no_rehearsal(desk: Desk) -> None:
    desk.orders()
    for run_id in ("R1", "R2"):
        assert isinstance(await desk.asks(1_001, run_id=run_id), Denial)
    outcome = await desk.asks(1_001, run_id="rehearsed", purpose="rehearsal")
    assert isinstance(outcome, datetime)
    assert [firing.run_id for firing in desk.fired()] == ["R1", "R2"]


async def test_an_order_for_one_run_stops_no_other_and_a_rehearsal_that_it_names(desk: Desk) -> None:
    desk.orders(run_id="rehearsed")
    assert isinstance(await desk.asks(1_001), datetime)
    outcome = await desk.asks(4_000, run_id="rehearsed", purpose="rehearsal")
    assert isinstance(outcome, Denial)
    assert [firing.run_id for firing in desk.fired()] == ["rehearsed"]


@pytest.mark.parametrize("run_id", [None, "a label of a library caller"])
async def test_where_there_is_no_run_nothing_can_be_stopped(desk: Desk, run_id: str | None) -> None:
    desk.orders()
    assert isinstance(await desk.asks(1_001, run_id=run_id, phase_id=None), datetime)
    assert desk.fired() == ()


async def test_a_run_may_be_stopped_by_what_another_provider_has_used(desk: Desk) -> None:
    desk.orders(run_id="R1")
    await desk.spends(999, run_id="R2")
    assert isinstance(await desk.asks(5_000, provider="anthropic"), datetime)
    await desk.spends(1, run_id="R2")
    outcome = await desk.asks(1, provider="anthropic")
    assert isinstance(outcome, Denial)
    assert "1,000 tokens are used." in outcome.why


async def test_of_two_orders_the_graver_one_fires(desk: Desk) -> None:
    desk.orders()
    grave = desk.orders(action="cancel")
    outcome = await desk.asks(1_001)
    assert isinstance(outcome, Denial)
    assert outcome.order_id == grave
    assert [firing.action for firing in desk.fired()] == ["cancel"]


async def test_nothing_fires_while_only_calls_in_flight_are_in_the_way_of_a_caller_that_waits(desk: Desk) -> None:
    number = desk.orders()
    await desk.asks(900, run_id="R2")

    waiting = await desk.asks(101, will_wait=True)
    assert isinstance(waiting, Denial)
    assert waiting.is_due_to_calls_in_flight
    assert desk.fired() == ()
    assert isinstance(await desk.asks(101), Denial)
    assert [firing.order_id for firing in desk.fired()] == [number]


async def test_a_cap_that_denies_beside_an_order_does_not_keep_it_from_firing(desk: Desk) -> None:
    number = desk.orders(unit="percent", threshold=100)
    outcome = await desk.asks(5_001)
    assert isinstance(outcome, Denial)
    assert outcome.order_id == number


async def test_an_order_in_percent_rests_while_its_cap_is_not_configured(desk: Desk) -> None:
    configured, desk.config = desk.config, settings()
    desk.orders(unit="percent", threshold=20)
    await desk.spends(5_000)
    desk.config = configured
    assert isinstance(await desk.asks(1), Denial)


async def test_an_order_that_was_withdrawn_is_not_kept(desk: Desk) -> None:
    desk.database.write_now(withdraw_order, desk.orders(), NOON)
    assert isinstance(await desk.asks(1_001), datetime)


async def test_a_call_of_unknown_price_is_stopped_by_an_order_in_dollars_but_never_cancelled(desk: Desk) -> None:
    desk.orders(action="cancel", subject="run", run_id="R1", unit="nano_usd", threshold=5 * DOLLAR)
    outcome = await desk.asks(1, bound_nano=None)
    assert isinstance(outcome, Denial)
    assert "price" in outcome.why
    assert [firing.action for firing in desk.fired()] == ["pause"]


async def test_dollars_are_measured_to_the_nano_dollar(desk: Desk) -> None:
    desk.orders(subject="run", run_id="R1", unit="nano_usd", threshold=5 * DOLLAR)
    await desk.spends(10, nano=5 * DOLLAR - 1)
    assert isinstance(await desk.asks(10, bound_nano=1), datetime)
    outcome = await desk.asks(10, bound_nano=1)
    assert isinstance(outcome, Denial)
    assert Decimal(outcome.allowance) == 5 * DOLLAR


# ── telling ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_order_to_tell_fires_once_a_window_when_so_much_is_spent(desk: Desk) -> None:
    number = desk.orders(action="tell")
    await desk.spends(999)
    assert isinstance(await desk.asks(500), datetime)
    assert desk.outbox() == []

    await desk.spends(1)
    await desk.spends(1)
    (firing,) = desk.fired(firings_of, [number], 9)
    assert (firing.run_id, firing.did, firing.handled_at, firing.used) == ("", "told", NOON, 1_000)
    said = f"{named(order(order_id=number, action='tell'))}: 1,000 tokens are spent."
    assert desk.outbox() == [("order", None, said)]

    desk.clock.advance(WEEK.total_seconds())
    await desk.spends(1_000)
    assert len(desk.outbox()) == 2


async def test_an_order_to_tell_about_a_run_names_it_and_one_about_phases_tells_of_each(desk: Desk) -> None:
    desk.orders(action="tell", subject="run")
    desk.orders(action="tell", subject="phase", run_id="R2")
    await desk.spends(1_000, phase_id="P1")
    await desk.spends(1_000, run_id="R2", phase_id="P1")
    await desk.spends(1_000, run_id="R2", phase_id="P2")

    assert [run_id for _, run_id, _ in desk.outbox()] == ["R1", "R2", "R2", "R2"]
    assert [firing.scope for firing in desk.fired(firings_of_run, "R2", 9)] == ["phase/R2/P2", "phase/R2/P1", "run/R2"]


async def test_what_only_calls_in_flight_hold_tells_nobody(desk: Desk) -> None:
    desk.orders(action="tell")
    assert isinstance(await desk.asks(4_000), datetime)
    await desk.spends(10)
    assert desk.outbox() == []
