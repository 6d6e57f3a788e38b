"""The ledger: what fits is promised, what is promised is charged once, and what is denied leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection, select

from autopack_mcp.budgets import ledger as operations
from autopack_mcp.budgets.caps import ScopeCap
from autopack_mcp.budgets.ledger import Ledger, Reservation, RunFence, ScopeUse, scope_use
from autopack_mcp.clock import ManualClock
from autopack_mcp.config.settings import WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import breaches, reservations, usage_events
from autopack_mcp.errors import Denial, ImpossibleTokenCounts, LeaseLost, UnknownCall, UsageConflict
from autopack_mcp.usage.event import TokenCounts, UsageEvent
from tests.factories import (
    NOON,
    call_scope,
    cap_in_window_of,
    held_against,
    insert_run,
    provider_settings,
    reservation,
    run_cap,
    settings,
    token_counts,
    truth_of,
    usage_event,
    window_cap,
)
from tests.ledger_truth import assert_ledger_adds_up, everything

pytestmark = pytest.mark.anyio

MILLI = 1_000_000  # A thousandth of a dollar in nano-dollars: what the factory's reservation costs at most.
WEEK = "provider/openai/week/2026-W47"


class Book:
    """The ledger's operations on a database at a moment, without an event loop."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now = NOON

    def reserve(self, promise: Reservation, *caps: ScopeCap, fence: RunFence | None = None) -> datetime | Denial:
        return self.database.write_now(operations.reserve, promise, held_against(*caps), fence, self.now)

    def promised(self, promise: Reservation | None = None, *caps: ScopeCap) -> Reservation:
        promise = promise or reservation()
        assert self.reserve(promise, *caps) == self.now
        return promise

    def denied(self, promise: Reservation, *caps: ScopeCap) -> Denial:
        denial = self.reserve(promise, *caps)
        assert isinstance(denial, Denial)
        return denial

    def settle(self, event: UsageEvent, *caps: ScopeCap) -> None:
        self.database.write_now(operations.settle, event, held_against(*caps), self.now)

    def release(self, call_id: str) -> bool:
        return self.database.write_now(operations.release, call_id, self.now)

    def expire(self) -> int:
        return self.database.write_now(operations.expire_overdue, held_against(), self.now)

    def book_external(self, event: UsageEvent, *caps: ScopeCap) -> None:
        self.database.write_now(operations.book_external, event, held_against(*caps), self.now)

    def use(self, cap: ScopeCap, **scope: Any) -> ScopeUse:
        return self.database.read_now(scope_use, call_scope(**scope), cap, self.now)

    def state(self, call_id: str) -> str:
        question = select(reservations.c.state).where(reservations.c.call_id == call_id)
        return self.database.read_now(lambda connection: connection.execute(question).scalar_one())

    def event(self, call_id: str) -> dict[str, Any]:
        question = select(usage_events).where(usage_events.c.call_id == call_id)
        return dict(self.database.read_now(lambda connection: connection.execute(question).mappings().one()))

    def breaches(self) -> list[tuple[str, str, int, int]]:
        question = select(breaches.c.scope, breaches.c.unit, breaches.c.used, breaches.c.allowance)
        return self.database.read_now(lambda connection: [tuple(row) for row in connection.execute(question)])

    def everything(self) -> object:
        return self.database.read_now(everything)


@pytest.fixture
def book(database: Database) -> Iterator[Book]:
    opened = Book(database)
    yield opened
    # Whatever a test did, the books must balance in the end.
    database.read_now(assert_ledger_adds_up)


# Reserving


@pytest.mark.parametrize("cap_of", [window_cap, run_cap], ids=["provider", "run"])
@pytest.mark.parametrize("wanted, fits", [(39, True), (40, True), (41, False)], ids=["cap-1", "cap", "cap+1"])
def test_tokens_fit_up_to_the_cap_and_not_one_more(book: Book, cap_of: Any, wanted: int, *, fits: bool) -> None:
    cap = cap_of(tokens=140)
    book.promised(None, cap)
    outcome = book.reserve(reservation(bound_input=0, bound_output=wanted), cap)
    assert isinstance(outcome, datetime) is fits
    assert book.use(cap).used_tokens == (100 + wanted if fits else 100)


@pytest.mark.parametrize("cap_of", [window_cap, run_cap], ids=["provider", "run"])
@pytest.mark.parametrize("wanted, fits", [(39, True), (40, True), (41, False)], ids=["cap-1", "cap", "cap+1"])
def test_dollars_fit_up_to_the_cap_and_not_one_nano_more(book: Book, cap_of: Any, wanted: int, *, fits: bool) -> None:
    cap = cap_of(nano_usd=MILLI + 40)
    book.promised(None, cap)
    outcome = book.reserve(reservation(bound_nano=wanted), cap)
    assert isinstance(outcome, datetime) is fits
    assert book.use(cap).used_nano == (MILLI + wanted if fits else MILLI)


def test_a_cap_of_zero_denies_everything_but_a_call_that_needs_nothing(book: Book) -> None:
    cap = window_cap(tokens=0)
    assert book.denied(reservation(bound_input=0, bound_output=1), cap).used == 0
    book.promised(reservation(bound_input=0, bound_output=0), cap)


def test_a_call_without_caps_is_promised_whatever_it_needs(book: Book) -> None:
    book.promised(reservation(bound_input=10**12, bound_output=10**12, bound_nano=None))


def test_a_call_must_fit_every_cap_or_none_of_them_counts_it(book: Book) -> None:
    wide, narrow = window_cap("month", tokens=1_000), run_cap(tokens=150)
    book.promised(None, wide, narrow)
    before = book.everything()
    assert book.denied(reservation(), wide, narrow).scope == "run/R1"
    assert book.everything() == before


def test_a_denial_says_in_numbers_and_words_which_cap_said_no(book: Book) -> None:
    cap = window_cap(tokens=1_150)
    book.settle(truth_of(book.promised(reservation(bound_output=940)), tokens=1_000))
    book.promised()
    assert book.denied(reservation(), cap) == Denial(
        scope=WEEK,
        unit="tokens",
        used=1_100,
        in_flight=100,
        wanted=100,
        allowance=1_150,
        resets_at=datetime(2026, 11, 23, tzinfo=UTC),
        why="Openai's cap of the week is 1,150 tokens: 1,100 tokens are used (100 tokens of it by calls in flight)"
        " and this call may need 100 tokens.",
    )


@pytest.mark.parametrize("settled, waits", [(50, True), (51, False)], ids=["fits when they are free", "never fits"])
def test_a_denial_knows_whether_calls_in_flight_are_the_reason(book: Book, settled: int, *, waits: bool) -> None:
    cap = window_cap(tokens=150)
    book.settle(truth_of(book.promised(), tokens=settled))
    book.promised(reservation(bound_input=0, bound_output=50))
    assert book.denied(reservation(), cap).is_due_to_calls_in_flight is waits


def test_of_two_denials_the_one_that_waiting_cannot_help_is_told(book: Book) -> None:
    busy, too_small = window_cap(tokens=150), run_cap(tokens=99)
    book.promised()
    assert book.denied(reservation(), busy).is_due_to_calls_in_flight
    assert book.denied(reservation(), busy, too_small).scope == "run/R1"


def test_an_unknown_price_is_denied_by_a_dollar_cap_and_waits_for_nobody(book: Book) -> None:
    cap = window_cap(nano_usd=10**12)
    book.promised(None, cap)
    denial = book.denied(reservation(model="new-model", bound_nano=None), cap)
    assert (denial.unit, denial.is_due_to_calls_in_flight) == ("nano_usd", False)
    assert "the price of 'new-model' is unknown" in denial.why
    assert denial.why.startswith("Openai's cap of the week is $1,000.00")


def test_an_unknown_price_is_no_matter_where_only_tokens_are_capped(book: Book) -> None:
    book.promised(reservation(bound_nano=None), window_cap(tokens=100))


@pytest.mark.parametrize("bound", ["bound_input", "bound_output", "bound_nano"])
def test_a_negative_promise_cannot_be_made(bound: str) -> None:
    overrides: dict[str, Any] = {bound: -1}
    with pytest.raises(ImpossibleTokenCounts):
        reservation(**overrides)


def test_a_stale_fence_reserves_nothing(book: Book) -> None:
    book.database.write_now(insert_run, "R1", lease_token=2)
    book.promised(None, run_cap(tokens=1_000))
    before = book.everything()
    with pytest.raises(LeaseLost, match="R1"):
        book.reserve(reservation(), run_cap(tokens=1_000), fence=RunFence("R1", 1))
    assert book.everything() == before
    assert book.reserve(reservation(), run_cap(tokens=1_000), fence=RunFence("R1", 2)) == NOON


# Settling


@pytest.mark.parametrize("truth", [0, 99, 100], ids=["nothing", "less", "the promise"])
def test_a_settled_call_weighs_what_it_was_and_gives_the_rest_back(book: Book, truth: int) -> None:
    cap = window_cap(tokens=100, nano_usd=MILLI)
    promise = book.promised(None, cap)
    book.settle(truth_of(promise, tokens=truth, cost_nano=truth), cap)
    assert book.use(cap) == ScopeUse(settled_tokens=truth, settled_nano=truth)
    assert book.breaches() == []
    assert book.state(promise.call_id) == "settled"


def test_a_truth_above_its_promise_is_charged_and_is_no_breach_while_the_cap_holds(book: Book) -> None:
    cap = window_cap(tokens=130, nano_usd=2 * MILLI)
    book.settle(truth_of(book.promised(None, cap), tokens=130, cost_nano=2 * MILLI), cap)
    assert book.use(cap) == ScopeUse(settled_tokens=130, settled_nano=2 * MILLI)
    assert book.breaches() == []


def test_a_truth_that_passes_a_cap_is_charged_and_recorded_as_a_breach(book: Book) -> None:
    cap, run = window_cap(tokens=120, nano_usd=MILLI), run_cap(tokens=1_000)
    promise = book.promised(None, cap, run)
    book.settle(truth_of(promise, tokens=121, cost_nano=MILLI + 1), cap, run)
    assert book.breaches() == [(WEEK, "tokens", 121, 120), (WEEK, "nano_usd", MILLI + 1, MILLI)]


@pytest.mark.parametrize("source", ["partial", "estimated"])
def test_a_call_of_which_only_a_part_is_known_weighs_its_whole_promise(book: Book, source: Any) -> None:
    cap = window_cap(tokens=100)
    event = truth_of(book.promised(None, cap), tokens=70, cost_nano=7, status="cut", usage_source=source)
    book.settle(event, cap)
    assert book.use(cap) == ScopeUse(settled_tokens=100, settled_nano=MILLI)
    row = book.event(event.call_id)
    assert (row["uncached_input"], row["output"], row["charged_tokens"], row["charged_nano"]) == (30, 40, 100, MILLI)


def test_a_part_that_is_more_than_the_promise_weighs_what_it_is(book: Book) -> None:
    cap = window_cap(tokens=100)
    book.settle(truth_of(book.promised(None, cap), tokens=105, status="cut", usage_source="partial"), cap)
    assert book.use(cap).settled_tokens == 105
    assert book.breaches() == [(WEEK, "tokens", 105, 100)]


def test_a_call_whose_cost_nobody_knows_weighs_what_it_might_have_cost(book: Book) -> None:
    cap = window_cap(nano_usd=MILLI)
    event = truth_of(book.promised(None, cap), tokens=10, cost_nano=None)
    book.settle(event, cap)
    assert book.use(cap).settled_nano == MILLI
    assert book.event(event.call_id)["cost_nano"] is None


def test_settling_twice_with_the_same_numbers_changes_nothing(book: Book) -> None:
    event = truth_of(book.promised(), tokens=70)
    book.settle(event)
    before = book.everything()
    book.settle(event)
    assert book.everything() == before


def test_settling_twice_with_other_numbers_is_a_conflict_and_the_first_stands(book: Book) -> None:
    promise = book.promised()
    book.settle(truth_of(promise, tokens=70))
    before = book.everything()
    with pytest.raises(UsageConflict, match="70 tokens before, 71 now"):
        book.settle(truth_of(promise, tokens=71))
    assert book.everything() == before


def test_the_same_total_in_other_buckets_is_a_conflict_too(book: Book) -> None:
    promise = book.promised()
    book.settle(truth_of(promise, tokens=70))
    with pytest.raises(UsageConflict):
        book.settle(truth_of(promise, tokens=70, counts=TokenCounts(cache_read=30, output=40)))


def test_a_call_that_was_never_reserved_cannot_be_settled_or_released(book: Book) -> None:
    with pytest.raises(UnknownCall):
        book.settle(usage_event("never"))
    with pytest.raises(UnknownCall):
        book.release("never")


def test_the_reservation_says_who_pays_whatever_the_event_says(book: Book) -> None:
    promise = book.promised()
    elsewhere = call_scope(provider="anthropic", role="auditor", run_id="R2", phase_id=None)
    book.settle(usage_event(promise.call_id, scope=elsewhere, occurred_at=NOON - timedelta(days=40)))
    row = book.event(promise.call_id)
    assert (row["provider"], row["role"], row["run_id"], row["phase_id"]) == ("openai", "builder", "R1", "P1")
    assert row["occurred_at"] == NOON
    assert book.use(window_cap(tokens=1)).settled_tokens == 100


def test_a_settle_that_is_undone_leaves_the_promise_held(book: Book) -> None:
    def settle_and_fail(connection: Connection, event: UsageEvent) -> None:
        operations.settle(connection, event, held_against(), NOON)
        raise RuntimeError("the machine stops here")

    promise = book.promised()
    before = book.everything()
    with pytest.raises(RuntimeError):
        book.database.write_now(settle_and_fail, truth_of(promise, tokens=70))
    assert book.everything() == before


# Releasing and expiring


def test_a_released_promise_is_as_if_it_had_never_been_made(book: Book) -> None:
    cap = window_cap(tokens=100, nano_usd=MILLI)
    promise = book.promised(None, cap)
    assert book.release(promise.call_id)
    assert book.use(cap) == ScopeUse()
    assert book.state(promise.call_id) == "released"
    book.promised(None, cap)


def test_only_a_held_promise_can_be_released(book: Book) -> None:
    settled, expired = book.promised(), book.promised(reservation(lease_s=1))
    book.settle(truth_of(settled, tokens=10))
    book.now += timedelta(seconds=2)
    assert book.expire() == 1
    before = book.everything()
    assert not book.release(settled.call_id)
    assert not book.release(expired.call_id)
    assert book.everything() == before


def test_a_truth_about_a_released_call_is_a_conflict(book: Book) -> None:
    promise = book.promised()
    book.release(promise.call_id)
    with pytest.raises(UsageConflict, match="released as not billed"):
        book.settle(truth_of(promise, tokens=10))


@pytest.mark.parametrize("after_s, expired", [(59, 0), (60, 0), (60.000001, 1)], ids=["before", "at", "after"])
def test_a_promise_expires_when_its_lease_has_passed(book: Book, after_s: float, expired: int) -> None:
    promise = book.promised(reservation(lease_s=60))
    book.now += timedelta(seconds=after_s)
    assert book.expire() == expired
    assert book.state(promise.call_id) == ("expired" if expired else "held")


def test_an_expired_call_is_charged_in_full_and_has_its_event(book: Book) -> None:
    cap = window_cap(tokens=100, nano_usd=MILLI)
    promise = book.promised(None, cap)
    book.now += timedelta(hours=2)
    assert (book.expire(), book.expire()) == (1, 0)
    assert book.use(cap) == ScopeUse(settled_tokens=100, settled_nano=MILLI)
    row = book.event(promise.call_id)
    assert (row["status"], row["usage_source"], row["cost_nano"]) == ("expired", "expired", MILLI)
    assert (row["occurred_at"], row["recorded_at"]) == (NOON, book.now)
    assert "never reported back" in row["error"]


@pytest.mark.parametrize("truth", [0, 70, 100], ids=["nothing", "less", "the promise"])
def test_a_late_truth_lowers_the_charge_once(book: Book, truth: int) -> None:
    cap = window_cap(tokens=100, nano_usd=MILLI)
    promise = book.promised(None, cap)
    book.now += timedelta(hours=2)
    book.expire()
    book.settle(truth_of(promise, tokens=truth, cost_nano=truth), cap)
    assert book.use(cap) == ScopeUse(settled_tokens=truth, settled_nano=truth)
    assert book.breaches() == []
    assert book.event(promise.call_id)["status"] == "ok"

    before = book.everything()
    book.settle(truth_of(promise, tokens=truth, cost_nano=truth), cap)
    assert book.everything() == before
    with pytest.raises(UsageConflict):
        book.settle(truth_of(promise, tokens=truth + 1), cap)
    assert book.everything() == before


def test_a_late_truth_above_the_promise_is_added_and_may_breach(book: Book) -> None:
    cap = window_cap(tokens=100)
    promise = book.promised(None, cap)
    book.now += timedelta(hours=2)
    book.expire()
    book.settle(truth_of(promise, tokens=130), cap)
    assert book.use(cap).settled_tokens == 130
    assert book.breaches() == [(WEEK, "tokens", 130, 100)]


def test_a_late_truth_that_knows_only_a_part_still_weighs_the_promise(book: Book) -> None:
    cap = window_cap(tokens=100)
    promise = book.promised(None, cap)
    book.now += timedelta(hours=2)
    book.expire()
    book.settle(truth_of(promise, tokens=70, status="cut", usage_source="partial"), cap)
    assert book.use(cap).settled_tokens == 100
    assert book.event(promise.call_id)["status"] == "cut"


def test_a_late_truth_may_name_another_model_and_category(book: Book) -> None:
    promise = book.promised()
    book.now += timedelta(hours=2)
    book.expire()
    book.settle(truth_of(promise, tokens=70, model="gpt-4o-2026-08-06", category="tests"))
    # That no empty sum is left behind for the old name is checked when the books are balanced.
    assert book.event(promise.call_id)["model"] == "gpt-4o-2026-08-06"


def test_a_call_that_ends_after_its_lease_but_before_anybody_looked_is_simply_settled(book: Book) -> None:
    promise = book.promised(reservation(lease_s=1))
    book.now += timedelta(seconds=5)
    book.settle(truth_of(promise, tokens=70))
    assert book.expire() == 0
    assert book.state(promise.call_id) == "settled"


# Windows


def test_a_call_counts_in_the_windows_of_its_reservation_also_when_it_ends_after_midnight(book: Book) -> None:
    book.now = datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC)
    sunday, last_week = window_cap("day", tokens=100, at=book.now), window_cap("week", tokens=100, at=book.now)
    promises = [book.promised(reservation(bound_input=20, bound_output=0), sunday, last_week) for _ in range(4)]
    settled, released, expired, held = promises

    book.now = datetime(2026, 11, 23, 0, 5, tzinfo=UTC)
    monday, this_week = window_cap("day", tokens=100, at=book.now), window_cap("week", tokens=100, at=book.now)
    book.promised(reservation(bound_input=1, bound_output=0, lease_s=900), monday, this_week)
    book.settle(truth_of(settled, tokens=15), sunday, last_week)
    book.release(released.call_id)
    assert book.expire() == 2
    book.settle(truth_of(expired, tokens=7), sunday, last_week)

    assert book.state(held.call_id) == "expired"
    for cap in (sunday, last_week):
        assert book.use(cap) == ScopeUse(15 + 7 + 20, 0, 2 * 500_000 + MILLI, 0)
    for cap in (monday, this_week):
        assert book.use(cap) == ScopeUse(0, 1, 0, MILLI)


def test_caps_worked_out_before_midnight_are_kept_in_the_window_after_it(book: Book) -> None:
    book.now = datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC)
    cap = window_cap("day", tokens=150, at=book.now)
    book.promised(None, cap)
    book.now += timedelta(seconds=2)
    book.promised(None, cap)
    denial = book.denied(reservation(), cap)
    assert (denial.scope, denial.used) == ("provider/openai/day/2026-11-23", 100)
    assert denial.resets_at == datetime(2026, 11, 24, tzinfo=UTC)


def test_a_breach_is_looked_for_in_the_window_of_the_reservation(book: Book) -> None:
    book.now = datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC)
    sunday = window_cap("day", tokens=100, at=book.now)
    promise = book.promised(None, sunday)
    book.now += timedelta(hours=1)
    book.settle(truth_of(promise, tokens=120), cap_in_window_of(sunday, book.now))
    assert book.breaches() == [("provider/openai/day/2026-11-22", "tokens", 120, 100)]


def test_a_clock_that_goes_back_counts_in_the_window_it_shows(book: Book) -> None:
    cap = window_cap("day", tokens=100)
    book.promised(None, cap)
    book.now -= timedelta(days=1)
    book.promised(None, cap)
    assert book.expire() == 0
    book.now += timedelta(days=1)
    assert book.denied(reservation(), cap).used == 100


# Caps that change


def test_a_cap_that_is_configured_late_starts_from_what_was_spent_and_promised(book: Book) -> None:
    book.settle(truth_of(book.promised(), tokens=70, cost_nano=7))
    book.promised(reservation(bound_input=5, bound_output=0, bound_nano=5))
    book.release(book.promised().call_id)
    book.settle(truth_of(book.promised(reservation(scope=call_scope(run_id="R2"))), tokens=11, cost_nano=1))
    book.promised(reservation(scope=call_scope(provider="anthropic", run_id="R3")))
    book.now -= timedelta(days=7)
    book.settle(truth_of(book.promised(), tokens=9))
    book.now = NOON

    week, run = window_cap(tokens=186), run_cap(tokens=1_000)
    assert book.use(week) == ScopeUse(81, 5, 8, 5)
    book.promised(None, week, run)
    assert book.use(week) == ScopeUse(81, 105, 8, 5 + MILLI)
    assert book.use(run) == ScopeUse(70 + 9, 105, 7 + 500_000, 5 + MILLI)
    assert book.denied(reservation(bound_input=1, bound_output=0), week).used == 186


def test_a_cap_that_is_configured_while_a_call_is_out_is_measured_by_its_truth(book: Book) -> None:
    promise, cap = book.promised(), window_cap(tokens=110)
    book.settle(truth_of(promise, tokens=120), cap)
    assert book.breaches() == [(WEEK, "tokens", 120, 110)]


def test_a_cap_lowered_below_what_is_spent_blocks_and_is_no_breach(book: Book) -> None:
    settled, held = (book.promised(None, window_cap(tokens=200)) for _ in range(2))
    lowered = window_cap(tokens=50)
    book.settle(truth_of(settled, tokens=70), lowered)
    assert book.denied(reservation(bound_input=0, bound_output=1), lowered).used == 170
    book.settle(truth_of(held, tokens=100), lowered)
    assert book.breaches() == []
    book.promised(reservation(bound_input=0, bound_output=30), window_cap(tokens=200))


def test_a_cap_that_was_away_for_a_while_is_right_when_it_comes_back(book: Book) -> None:
    cap = window_cap(tokens=300)
    book.promised(None, cap)
    book.settle(truth_of(book.promised(), tokens=70))
    assert book.use(cap) == ScopeUse(70, 100, 500_000, MILLI)


# Rehearsals


def shadow(cap: ScopeCap, run_id: str = "H1") -> ScopeCap:
    return ScopeCap(
        f"rehearsal/{run_id}/{cap.scope}", cap.kind, cap.label, cap.allowance_tokens, cap.allowance_nano,
        cap.window, cap.provider, cap.resets_at,
    )  # fmt: skip


def shadow_use(book: Book, cap: ScopeCap, run_id: str = "H1") -> ScopeUse:
    return book.use(shadow(cap, run_id), purpose="rehearsal", run_id=run_id)


def rehearsed(run_id: str = "H1", **overrides: Any) -> Reservation:
    return reservation(scope=call_scope(purpose="rehearsal", run_id=run_id), **overrides)


@pytest.fixture
def rehearsal_book(database: Database) -> Book:
    """Without the balance at the end: a shadow starts from use that is not its own."""
    return Book(database)


def test_a_rehearsal_starts_from_the_real_use_and_never_touches_it(rehearsal_book: Book) -> None:
    book, cap = rehearsal_book, window_cap(tokens=280)
    book.settle(truth_of(book.promised(None, cap), tokens=70, cost_nano=7))
    book.promised(reservation(bound_input=5, bound_output=0, bound_nano=5), cap)
    real = book.use(cap)

    promise = book.promised(rehearsed(), shadow(cap))
    assert shadow_use(book, cap) == ScopeUse(75, 100, 12, MILLI)
    book.settle(truth_of(promise, tokens=90, cost_nano=9), shadow(cap))
    assert shadow_use(book, cap) == ScopeUse(165, 0, 21, 0)
    assert book.denied(rehearsed(bound_output=60), shadow(cap)).used == 165
    assert book.use(cap) == real
    book.promised(reservation(bound_output=120), cap)


def test_real_calls_in_flight_are_no_reason_for_a_rehearsal_to_wait(rehearsal_book: Book) -> None:
    book, cap = rehearsal_book, window_cap(tokens=150)
    book.promised(None, cap)
    assert not book.denied(rehearsed(), shadow(cap)).is_due_to_calls_in_flight


def test_real_use_that_starts_its_counter_after_a_rehearsal_does_not_count_it(rehearsal_book: Book) -> None:
    book, cap, run = rehearsal_book, window_cap(tokens=100), run_cap("H1", tokens=100)
    book.settle(truth_of(book.promised(rehearsed()), tokens=90))
    book.promised(rehearsed())
    assert book.use(cap) == ScopeUse()
    assert book.use(run, run_id="H1") == ScopeUse()
    book.promised(None, cap)


def test_two_rehearsals_do_not_see_each_other(rehearsal_book: Book) -> None:
    book, cap = rehearsal_book, window_cap(tokens=100)
    book.promised(rehearsed("H1"), shadow(cap, "H1"))
    book.promised(rehearsed("H2"), shadow(cap, "H2"))


def test_a_cap_that_is_configured_during_a_rehearsal_counts_what_it_did_before(rehearsal_book: Book) -> None:
    book, cap, run = rehearsal_book, window_cap(tokens=300), run_cap("H1", tokens=300)
    book.settle(truth_of(book.promised(), tokens=10, cost_nano=1))
    book.settle(truth_of(book.promised(rehearsed()), tokens=90, cost_nano=9))
    book.promised(rehearsed(bound_input=5, bound_output=0, bound_nano=5))
    book.settle(truth_of(book.promised(rehearsed("H2")), tokens=33))
    for days in (-7, 7):
        book.now = NOON + timedelta(days=days)
        book.settle(truth_of(book.promised(rehearsed()), tokens=44))
    book.now = NOON
    assert shadow_use(book, cap) == ScopeUse(100, 5, 10, 5)
    assert shadow_use(book, run) == ScopeUse(90 + 88, 5, 9 + 1_000_000, 5)


# Calls made elsewhere


def external(call_id: str = "elsewhere", **overrides: Any) -> UsageEvent:
    return usage_event(call_id, **{"status": "external", **overrides})


def test_a_call_made_elsewhere_counts_against_every_cap(book: Book) -> None:
    week, run = window_cap(tokens=150), run_cap(tokens=1_000)
    book.promised(reservation(bound_input=1, bound_output=0), week, run)
    book.book_external(external(), week, run)
    assert book.use(week) == ScopeUse(100, 1, 500_000, MILLI)
    assert book.use(run) == ScopeUse(100, 1, 500_000, MILLI)
    assert book.breaches() == []
    assert book.denied(reservation(), week).used == 101


def test_a_call_made_elsewhere_that_passes_a_cap_is_booked_and_a_breach(book: Book) -> None:
    cap = window_cap(tokens=99)
    book.book_external(external(), cap)
    assert book.breaches() == [(WEEK, "tokens", 100, 99)]


def test_reporting_a_call_made_elsewhere_again_changes_nothing(book: Book) -> None:
    cap = window_cap(tokens=99)
    book.book_external(external(), cap)
    before = book.everything()
    book.book_external(external(cost_nano=1), cap)
    assert book.everything() == before


def test_reporting_a_call_made_elsewhere_with_other_numbers_is_a_conflict(book: Book) -> None:
    book.book_external(external())
    with pytest.raises(UsageConflict, match="100 tokens before, 101 now"):
        book.book_external(external(counts=token_counts(output=41)))


def test_a_call_of_ours_cannot_be_booked_as_made_elsewhere_while_it_is_out(book: Book) -> None:
    promise = book.promised()
    with pytest.raises(UsageConflict, match="it was reserved here"):
        book.book_external(external(promise.call_id))
    book.settle(truth_of(promise, tokens=70))
    book.book_external(truth_of(promise, tokens=70, status="external"))
    with pytest.raises(UsageConflict):
        book.book_external(truth_of(promise, tokens=71, status="external"))


def test_a_call_made_elsewhere_last_week_counts_last_week(book: Book) -> None:
    last_week = NOON - timedelta(days=7)
    cap = window_cap(tokens=99)
    book.book_external(external(occurred_at=last_week), cap)
    assert book.use(cap) == ScopeUse()
    assert book.breaches() == [("provider/openai/week/2026-W46", "tokens", 100, 99)]


def test_a_call_made_elsewhere_without_a_price_is_unpriced(book: Book) -> None:
    cap = window_cap(tokens=1_000, nano_usd=MILLI)
    book.book_external(external(cost_nano=None), cap)
    assert book.use(cap) == ScopeUse(settled_tokens=100)


# Through the writer of a process


def ledger_of(database: Database, clock: ManualClock, week_tokens: int) -> Ledger:
    """A ledger under settings that cap openai's week."""
    config = settings(provider_settings(WindowCap("week", tokens=week_tokens)))
    return Ledger(database, clock, lambda: config)


async def test_callers_at_once_get_exactly_what_the_cap_holds(database: Database, clock: ManualClock) -> None:
    ledger, cap = ledger_of(database, clock, 1_050), window_cap(tokens=1_050)
    outcomes: list[datetime | Denial] = []

    async def ask() -> None:
        outcomes.append(await ledger.reserve(reservation()))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(40):
                tasks.start_soon(ask)
    assert sum(isinstance(outcome, datetime) for outcome in outcomes) == 10
    assert (await database.read(scope_use, call_scope(), cap, NOON)).used_tokens == 1_000


async def test_the_ledger_keeps_the_time_of_its_clock(database: Database, clock: ManualClock) -> None:
    ledger, cap = ledger_of(database, clock, 1_000), window_cap(tokens=1_000)
    settled, released, lost = reservation(), reservation(), reservation()
    with anyio.fail_after(10):
        for promise in (settled, released, lost):
            assert await ledger.reserve(promise) == clock.now()
        await ledger.settle(truth_of(settled, tokens=70))
        assert await ledger.release(released.call_id)
        clock.advance(61)
        assert await ledger.expire_overdue() == 1
        ledger.book_external(external())
        assert await database.read(scope_use, call_scope(), cap, NOON) == ScopeUse(270, 0, 500_000 * 2 + MILLI, 0)


async def test_a_conflict_does_not_disturb_those_who_settle_at_the_same_time(
    database: Database, clock: ManualClock
) -> None:
    ledger = Ledger(database, clock, settings)
    promises = [reservation() for _ in range(10)]
    refused: list[Exception] = []

    async def settle_wrongly() -> None:
        try:
            await ledger.settle(usage_event("never reserved"))
        except UnknownCall as error:
            refused.append(error)

    with anyio.fail_after(10):
        for promise in promises:
            await ledger.reserve(promise)
        async with anyio.create_task_group() as tasks:
            for promise in promises:
                tasks.start_soon(ledger.settle, truth_of(promise, tokens=10))
                tasks.start_soon(settle_wrongly)
        await database.read(assert_ledger_adds_up)
    assert len(refused) == 10
    assert (await database.read(scope_use, call_scope(), window_cap(tokens=1), NOON)).settled_tokens == 100
