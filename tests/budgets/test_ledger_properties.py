"""The ledger against a model of a few lines, through any sequence of calls, lost calls, cap changes and clock jumps.

The model keeps every promise and every charge in a dictionary and adds up when asked. More examples than the default:
``LEDGER_EXAMPLES=2000 python -m pytest tests/budgets/test_ledger_properties.py``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import Connection, Engine, select

from autopack_mcp.budgets import ledger
from autopack_mcp.budgets.caps import (
    CallScope,
    RunCaps,
    ScopeCap,
    caps_of_call,
    scopes_of_call,
)
from autopack_mcp.budgets.ledger import Reservation, ScopeUse
from autopack_mcp.config.settings import FallbackStrategy, QuotaRouting, RoleModels, Settings, Window, WindowCap
from autopack_mcp.database.tables import alerts, breaches
from autopack_mcp.errors import Denial, UsageConflict
from autopack_mcp.usage.event import UsageEvent
from tests.factories import NOON, call_scope, cap_in_window_of, held_against, provider_settings, reservation, truth_of
from tests.ledger_truth import counters, everything, rollups, true_rollups

EXAMPLES = int(os.environ.get("LEDGER_EXAMPLES", "50"))
LEASE_S = 30
JUMPS_S = (1, 20, 31, 3_600, 43_200, 86_400, 604_800, 2_678_400, -1, -31, -43_200, -86_400)
REAL = [
    call_scope(run_id="R1", phase_id="P1"),
    call_scope(run_id="R1", phase_id="P2", role="auditor"),
    call_scope(run_id="R2", phase_id=None),
    call_scope(run_id=None, phase_id=None, role="agent:planner"),
]
LEVELS = (80, 90)
CAP = st.none() | st.integers(1, 600)
REHEARSED = [call_scope(purpose="rehearsal", run_id="H1")]


@dataclass
class Promise:
    """What the model knows of one reservation."""

    asked: Reservation
    reserved_at: datetime
    state: str = "held"
    truth: UsageEvent | None = None
    scopes: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.scopes = frozenset(scopes_of_call(self.asked.scope, self.reserved_at))


@dataclass(frozen=True)
class Weight:
    """Something that was charged: to whom, when, and how much."""

    scope: CallScope
    at: datetime
    tokens: int
    nano: int
    scopes: frozenset[str]


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.connection: Connection = engine.connect()
        self.now = NOON
        self.windows: dict[Window, tuple[int | None, int | None]] = {"day": (250, None), "week": (None, 400)}
        self.role_caps: dict[str, WindowCap] = {}
        self.global_cap: WindowCap | None = None
        self.run_caps = RunCaps(tokens=300)
        self.promises: dict[str, Promise] = {}
        self.charged: dict[str, Weight] = {}
        self.shadow_start: dict[str, ScopeUse] = {}

    # What a person and the world do

    @rule(
        window=st.sampled_from(["day", "week", "month"]), allowances=st.tuples(*[st.none() | st.integers(0, 600)] * 2)
    )
    def configure_a_window(self, window: Window, allowances: tuple[int | None, int | None]) -> None:
        self.windows[window] = allowances

    @rule(tokens=CAP, nano=CAP, phase_tokens=CAP, phase_nano=CAP)
    def configure_a_run(
        self, tokens: int | None, nano: int | None, phase_tokens: int | None, phase_nano: int | None
    ) -> None:
        self.run_caps = RunCaps(tokens, nano, phase_tokens, phase_nano)

    @rule(role=st.sampled_from(["builder", "auditor"]), window=st.sampled_from(["day", "month"]), tokens=CAP)
    def configure_a_role(self, role: str, window: Window, tokens: int | None) -> None:
        self.role_caps[role] = WindowCap(window, tokens)

    @rule(window=st.sampled_from(["day", "week"]), nano=CAP)
    def configure_all_calls(self, window: Window, nano: int | None) -> None:
        self.global_cap = WindowCap(window, None, nano)

    @rule(seconds=st.sampled_from(JUMPS_S))
    def let_the_clock_jump(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    # What calls do

    @rule(scope=st.sampled_from(REAL), bound=st.integers(1, 80))
    def reserve_as_most_calls_do(self, scope: CallScope, bound: int) -> None:
        self.reserve(scope, bound, nano=bound, late_s=0)

    @rule(
        scope=st.sampled_from(REAL + REHEARSED),
        bound=st.integers(0, 80),
        nano=st.none() | st.integers(0, 80),
        late_s=st.sampled_from([0, 86_400]),
    )
    def reserve(self, scope: CallScope, bound: int, nano: int | None, late_s: int) -> None:
        """``late_s``: the caps were worked out so long before the reservation."""
        caps = self.caps(scope, self.now - timedelta(seconds=late_s))
        asked = reservation(scope=scope, bound_input=bound // 2, bound_output=bound - bound // 2, bound_nano=nano,
                            lease_s=LEASE_S)  # fmt: skip
        # A list: every cap is asked, also after one said no, because asking starts a shadow.
        answers = [self.fits(cap, asked) for cap in self.anchored(caps, self.now)]
        fits = all(answers)
        outcome = ledger.reserve(self.connection, asked, held_against(*caps), None, self.now)
        assert isinstance(outcome, Denial) is not fits
        if fits:
            self.promises[asked.call_id] = Promise(asked, self.now)
            assert all(self.is_kept(cap, self.use(cap, scope)) for cap in self.anchored(caps, self.now))

    @precondition(lambda self: self.promises)
    @rule(
        which=st.integers(0, 9),
        tokens=st.integers(0, 100),
        nano=st.none() | st.integers(0, 100),
        source=st.sampled_from(["provider", "provider", "partial", "estimated"]),
        model=st.sampled_from("ab"),
    )
    def settle(self, which: int, tokens: int, nano: int | None, source: Any, model: str) -> None:
        """The truth about any call: one that is out, one that was lost, or one that is over already."""
        promise = self.pick(which)
        event = truth_of(promise.asked, tokens=tokens, cost_nano=nano, usage_source=source, model=model)
        caps = self.caps(promise.asked.scope, self.now)
        if promise.state not in ("held", "expired"):
            self.settle_again(promise, event, caps)
            return
        before = self.weight_of(promise)
        self.charged[event.call_id] = after = self.charge(promise, event)
        promise.state, promise.truth = "settled", event
        expected = self.expected_breaches(before, after, caps)
        rules_of = held_against(*caps, alert_levels_percent=LEVELS)
        assert self.new_breaches(lambda: ledger.settle(self.connection, event, rules_of, self.now)) == expected
        self.levels_are_on_record(caps, after)

    def settle_again(self, promise: Promise, event: UsageEvent, caps: tuple[ScopeCap, ...]) -> None:
        before = everything(self.connection)
        if promise.truth is not None and promise.truth.counts == event.counts:
            ledger.settle(self.connection, event, held_against(*caps), self.now)
        else:
            with pytest.raises(UsageConflict):
                ledger.settle(self.connection, event, held_against(*caps), self.now)
        assert everything(self.connection) == before

    @precondition(lambda self: self.promises)
    @rule(which=st.integers(0, 9))
    def release(self, which: int) -> None:
        promise = self.pick(which)
        assert ledger.release(self.connection, promise.asked.call_id, self.now) is (promise.state == "held")
        if promise.state == "held":
            promise.state = "released"

    @precondition(lambda self: self.held())
    @rule(after_s=st.sampled_from([0, LEASE_S, LEASE_S + 1]))
    def expire(self, after_s: int) -> None:
        self.now += timedelta(seconds=after_s)
        lost = [p for p in self.held() if p.reserved_at + timedelta(seconds=LEASE_S) < self.now]
        assert ledger.expire_overdue(self.connection, held_against(), self.now) == len(lost)
        for promise in lost:
            self.charged[promise.asked.call_id] = self.weight_of(promise)
            promise.state = "expired"

    @rule(scope=st.sampled_from(REAL), tokens=st.integers(0, 100), nano=st.none() | st.integers(0, 100),
          ago_s=st.sampled_from([0, 3_600, 604_800]))  # fmt: skip
    def book_a_call_made_elsewhere(self, scope: CallScope, tokens: int, nano: int | None, ago_s: int) -> None:
        occurred_at = self.now - timedelta(seconds=ago_s)
        event = truth_of(reservation(scope=scope), tokens=tokens, cost_nano=nano, status="external")
        event = replace(event, occurred_at=occurred_at)
        caps = self.caps(scope, self.now)
        self.charged[event.call_id] = after = Weight(
            scope, occurred_at, tokens, nano or 0, frozenset(scopes_of_call(scope, occurred_at))
        )
        expected = self.expected_breaches(replace(after, tokens=0, nano=0), after, caps)
        rules_of = held_against(*caps, alert_levels_percent=LEVELS)
        assert self.new_breaches(lambda: ledger.book_external(self.connection, event, rules_of, self.now)) == expected
        self.levels_are_on_record(caps, after)

    def levels_are_on_record(self, caps: tuple[ScopeCap, ...], after: Weight) -> None:
        """Every level that a booking has reached has its alert, and no other has one; the table keeps each unique."""
        rows = self.connection.execute(select(alerts)).mappings().all()
        assert all(row["used"] * 100 >= row["level_percent"] * row["allowance"] for row in rows)
        raised = {(row["scope"], row["unit"], row["level_percent"], row["allowance"]) for row in rows}
        for cap in self.anchored(caps, after.at):
            use = self.use(cap, after.scope)
            for unit, allowance, settled in (
                ("tokens", cap.allowance_tokens, use.settled_tokens),
                ("nano_usd", cap.allowance_nano, use.settled_nano),
            ):
                if allowance is not None:
                    reached = [level for level in LEVELS if settled * 100 >= level * allowance]
                    assert raised.issuperset((cap.scope, unit, level, allowance) for level in reached)

    # What must always hold

    @invariant()
    def counters_are_what_the_model_adds_up(self) -> None:
        for name, use in counters(self.connection).items():
            assert use == self.sum_of(name)

    def teardown(self) -> None:
        try:
            self.all_leases_end()
        finally:
            self.connection.rollback()
            self.connection.close()

    def all_leases_end(self) -> None:
        self.now = max([self.now, *(promise.reserved_at for promise in self.promises.values())]) + timedelta(days=1)
        self.expire(after_s=0)
        self.counters_are_what_the_model_adds_up()
        assert all((use.reserved_tokens, use.reserved_nano) == (0, 0) for use in counters(self.connection).values())
        assert rollups(self.connection) == true_rollups(self.connection)

    # The model

    def pick(self, which: int) -> Promise:
        """One of the calls, the newest first."""
        calls = list(self.promises.values())
        return calls[-1 - which % len(calls)]

    def held(self) -> list[Promise]:
        return [promise for promise in self.promises.values() if promise.state == "held"]

    def caps(self, scope: CallScope, at: datetime) -> tuple[ScopeCap, ...]:
        windows = (WindowCap(window, *both) for window, both in self.windows.items() if both != (None, None))
        roles = {role: (cap,) for role, cap in self.role_caps.items() if cap.tokens is not None}
        everything_together = (self.global_cap,) if self.global_cap and self.global_cap.nano_usd is not None else ()
        configured = Settings({"openai": provider_settings(*windows)}, {}, {}, {}, {}, FallbackStrategy(),
                              QuotaRouting(), RoleModels(), everything_together, roles)  # fmt: skip
        return caps_of_call(configured, scope, self.run_caps, at)

    def anchored(self, caps: Iterable[ScopeCap], at: datetime) -> list[ScopeCap]:
        return [cap_in_window_of(cap, at) for cap in caps]

    def fits(self, cap: ScopeCap, asked: Reservation) -> bool:
        use = self.use(cap, asked.scope)
        if cap.allowance_nano is not None and asked.bound_nano is None:
            return False
        return self.is_kept(
            cap,
            use.plus(ScopeUse(reserved_tokens=asked.bound_tokens, reserved_nano=asked.bound_nano or 0)),
        )

    def is_kept(self, cap: ScopeCap, use: ScopeUse) -> bool:
        tokens_fit = cap.allowance_tokens is None or use.used_tokens <= cap.allowance_tokens
        return tokens_fit and (cap.allowance_nano is None or use.used_nano <= cap.allowance_nano)

    def use(self, cap: ScopeCap, scope: CallScope) -> ScopeUse:
        """What a cap is used; asking for the first time fixes what a rehearsal's shadow starts from."""
        if scope.purpose == "rehearsal" and cap.window is not None and cap.scope not in self.shadow_start:
            real = self.sum_of(cap.scope.removeprefix(f"rehearsal/{scope.run_id}/"))
            self.shadow_start[cap.scope] = ScopeUse(settled_tokens=real.used_tokens, settled_nano=real.used_nano)
        return self.sum_of(cap.scope)

    def sum_of(self, name: str) -> ScopeUse:
        start = self.shadow_start.get(name, ScopeUse())
        spent = [weight for weight in self.charged.values() if name in weight.scopes]
        promised = [promise.asked for promise in self.held() if name in promise.scopes]
        return ScopeUse(
            start.settled_tokens + sum(weight.tokens for weight in spent),
            sum(asked.bound_tokens for asked in promised),
            start.settled_nano + sum(weight.nano for weight in spent),
            sum(asked.bound_nano or 0 for asked in promised),
        )

    def weight_of(self, promise: Promise) -> Weight:
        asked = promise.asked
        return Weight(asked.scope, promise.reserved_at, asked.bound_tokens, asked.bound_nano or 0, promise.scopes)

    def charge(self, promise: Promise, event: UsageEvent) -> Weight:
        promised = self.weight_of(promise)
        if event.usage_source == "provider":
            nano = promised.nano if event.cost_nano is None else event.cost_nano
            return replace(promised, tokens=event.counts.total, nano=nano)
        tokens = max(promised.tokens, event.counts.total)
        return replace(promised, tokens=tokens, nano=max(promised.nano, event.cost_nano or 0))

    def expected_breaches(self, before: Weight, after: Weight, caps: tuple[ScopeCap, ...]) -> set[tuple[Any, ...]]:
        for cap in self.anchored(caps, after.at):
            self.use(cap, after.scope)  # Every cap is looked at, and looking starts a shadow.
        if after.tokens <= before.tokens and after.nano <= before.nano:
            return set()
        found = set()
        for cap in self.anchored(caps, after.at):
            use = self.use(cap, after.scope)
            if after.tokens > before.tokens and cap.allowance_tokens is not None:
                found.add((cap.scope, "tokens", use.used_tokens, cap.allowance_tokens))
            if after.nano > before.nano and cap.allowance_nano is not None:
                found.add((cap.scope, "nano_usd", use.used_nano, cap.allowance_nano))
        return {breach for breach in found if breach[2] > breach[3]}

    def new_breaches(self, operation: Any) -> set[tuple[Any, ...]]:
        columns = (breaches.c.scope, breaches.c.unit, breaches.c.used, breaches.c.allowance)
        question = select(breaches.c.breach_id, *columns)
        before = set(self.connection.execute(question).all())
        operation()
        return {tuple(row[1:]) for row in set(self.connection.execute(question).all()) - before}


def test_whatever_happens_the_ledger_is_what_the_model_says(ledger_in_memory: Engine) -> None:
    class Machine(LedgerMachine):
        def __init__(self) -> None:
            super().__init__(ledger_in_memory)

    run_state_machine_as_test(Machine, settings=settings(max_examples=EXAMPLES, stateful_step_count=25, deadline=None))
