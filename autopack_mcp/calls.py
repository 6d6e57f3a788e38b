"""The one door to paid tokens: route, reserve, call, settle.

It owns the life of a call, from the question to the booked row, and hands the answer on as text; it knows no plan, no
workspace and no state of a run. ``llm_service`` words the questions; nobody else opens a provider.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import ceil
from typing import Any, TypeVar

from sqlalchemy import Connection

from autopack_mcp.bounds import CallBounds, bounds_of, can_be_turned, in_parts, may_write_cache, why_unbounded
from autopack_mcp.budgets.call_rules import RulesOf
from autopack_mcp.budgets.caps import CallScope
from autopack_mcp.budgets.ledger import Ledger, Reservation, RunFence, foresee_settle, settle
from autopack_mcp.budgets.standings import CapStanding
from autopack_mcp.call_facts import CallFacts, CallFactsReader
from autopack_mcp.call_traces import CallTrace, trace_of, write_trace
from autopack_mcp.clock import Clock
from autopack_mcp.config.settings import ModelSettings, ProviderSettings, Settings
from autopack_mcp.database.batch import takes_part
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import (
    AutopackError,
    Denial,
    MissingKey,
    NoRoute,
    ProviderError,
    ProviderUnavailable,
    QuotaExhausted,
    StandingOrderFired,
)
from autopack_mcp.notes import Note, mark_delivered
from autopack_mcp.providers.base import ChatMessage, InputCount, InputCounter, Provider, ProviderCall, ProviderReply
from autopack_mcp.providers.pacing import RetryPolicy, retried
from autopack_mcp.providers.scripted import ScriptedProvider
from autopack_mcp.routing.model_router import RouteDecision, RoutingSnapshot, choose
from autopack_mcp.routing.snapshot import RunRules, SnapshotReader
from autopack_mcp.traces.experiments import Experiment
from autopack_mcp.traces.texts import WordKeeper
from autopack_mcp.tries import Try, answered_event, cut_event, failed_event
from autopack_mcp.usage.event import Purpose, UsageEvent
from autopack_mcp.usage.prices import PriceBook

T = TypeVar("T")

CALL_TIMEOUT_S = 600.0  # One answer, however long: builders write whole files.
LEASE_MARGIN_S = 60.0  # After the deadline, before a call counts as lost: time to settle on a busy machine.
WAIT_FOR_FLIGHT_S = 10.0  # Contract 16: how long a caller waits when only calls in flight fill the cap.
LOOK_AGAIN_S = 0.1  # How often a waiting caller asks again; each look is a few short transactions.
LOOKS_LIMIT = 1 + round(WAIT_FOR_FLIGHT_S / LOOK_AGAIN_S)


@dataclass(frozen=True, slots=True)
class Ask:
    """One question to some model: who asks, about what, and on whose account.

    ``fence`` proves that the asker still owns the run; ``rehearsed_reply`` is the scripted answer for a rehearsal.
    ``timeout_s`` None means the door's own. ``experiment`` says which call is being tried again, None for any other.
    """

    role: str
    messages: tuple[ChatMessage, ...]
    max_output_tokens: int
    category: str = "general"
    complexity: str = "medium"
    run_id: str | None = None
    phase_id: str | None = None
    attempt: int | None = None
    run_context: Mapping[str, Any] = field(default_factory=dict)
    fence: RunFence | None = None
    rehearsed_reply: str | None = None
    timeout_s: float | None = None
    experiment: Experiment | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, from whom and why from them, and every row that was booked on the way."""

    text: str
    finish_reason: str
    decision: RouteDecision
    booked: tuple[UsageEvent, ...]

    @property
    def prompt_tokens(self) -> int:
        """All input over all tries, cached included."""
        return sum(event.counts.total_input for event in self.booked)

    @property
    def completion_tokens(self) -> int:
        """All output over all tries."""
        return sum(event.counts.output for event in self.booked)

    @property
    def cost_nano(self) -> int | None:
        """Nano-dollars over all tries; None as soon as one of them is unpriced."""
        costs = [event.cost_nano for event in self.booked]
        return None if None in costs else sum(cost for cost in costs if cost is not None)


@dataclass(slots=True)
class _Asking:
    """One question on its way: every row booked for it so far, and the notes whose delivery is not on record yet.

    ``counts`` are what its prompt weighs, by model, where that was asked; None where nobody could say.

    It is mutable on purpose: its tries follow each other, and the last one answers for all of them.
    """

    ask: Ask
    timeout_s: float
    undelivered: tuple[int, ...]
    booked: list[UsageEvent] = field(default_factory=list)
    counts: dict[str, InputCount | None] = field(default_factory=dict)

    def bounds(self, model: ModelSettings) -> CallBounds:
        """What a try with this model weighs at most: by a count of the prompt where there is one, else by its bytes."""
        limit = min(self.ask.max_output_tokens, model.max_output_tokens)
        return bounds_of(self.ask.messages, limit, self.counts.get(model.name))

    def call(self, promise: Reservation) -> ProviderCall:
        """What is sent for a promise."""
        return ProviderCall(promise.model, self.ask.messages, promise.bound_output, self.timeout_s)


class CallDoor:
    """Asks a model and books what it cost. Safe for any number of concurrent callers; close it once.

    Every part is given by name (``app`` wires them). ``run_rules`` reads what a run of the database adds to a choice
    and answers None for an id that is only a caller's label; ``price_book`` prices under the settings in force;
    ``call_timeout_s`` is the deadline of a call whose ``Ask`` names none; ``wait`` waits that many seconds, before a
    retry or another look at a full cap; ``words`` keeps what was said, None keeps numbers alone.
    """

    def __init__(
        self,
        *,
        database: Database,
        ledger: Ledger,
        clock: Clock,
        settings: Callable[[], Settings],
        price_book: Callable[[], PriceBook],
        key_of: Callable[[ProviderSettings], str | None],
        snapshots: SnapshotReader,
        run_rules: Callable[[Connection, str, datetime, str | None, int | None], RunRules | None],
        open_provider: Callable[[ProviderSettings, str | None], Provider],
        retry: RetryPolicy,
        call_timeout_s: float = CALL_TIMEOUT_S,
        rehearsal_pause: Callable[[], Awaitable[None]] | None = None,
        words: WordKeeper | None = None,
        wait: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._clock = clock
        self._settings = settings
        self._price_book = price_book
        self._key_of = key_of
        self._facts = CallFactsReader(
            database=database,
            clock=clock,
            snapshots=snapshots,
            run_rules=run_rules,
            visible_keys=lambda settings: tuple(key_of(known) is not None for known in settings.providers.values()),
        )
        self._open_provider = open_provider
        self._retry = retry
        self._call_timeout_s = call_timeout_s
        self._rehearsal_pause = rehearsal_pause
        self._words = words
        self._wait = wait
        self._providers: dict[tuple[str | None, ...], Provider] = {}

    async def notes(self, run_id: str | None) -> tuple[Note, ...]:
        """The notes that the next prompt of a run must quote."""
        return await self._facts.notes(run_id)

    async def ask(self, ask: Ask, notes: Sequence[Note] = ()) -> Answer:
        """Choose a model, reserve, call and settle; retry what may help, each try with its own reservation and row.

        ``notes`` are those quoted in the messages; they are marked delivered, once, with the first try that a model may
        have read.

        Raises:
            QuotaExhausted: a hard cap denies it, also after waiting for calls in flight; or a category that never falls
                back stops at its soft limit. Nothing was bought.
            StandingOrderFired: a standing order denies it and asks for the run to stop. Nothing was bought.
            NoRoute, OverrideRefused, MissingKey: no model can be called for this question. Nothing was bought.
            ProviderError: the provider did not answer, after bounded retries. What it may have billed is booked.
            LeaseLost: another process owns the run.
        """
        timeout_s = self._call_timeout_s if ask.timeout_s is None else ask.timeout_s
        asking = _Asking(ask, timeout_s, tuple(note.note_id for note in notes))

        async def try_once(_number: int) -> Answer:
            one = await self._reserved(asking)
            reply = await self._call(asking, one)
            return Answer(reply.text, reply.finish_reason, one.decision, tuple(asking.booked))

        return await retried(try_once, self._retry, wait=self._wait)

    async def close(self) -> None:
        """Give every provider's connections back."""
        self._facts.close()
        providers, self._providers = self._providers, {}
        for provider in providers.values():
            await provider.close()

    # ── choosing and reserving ───────────────────────────────────────────────────────────────────────────────────────

    async def _reserved(self, asking: _Asking) -> Try:
        """A reservation with the first model that may and can answer, after waiting for calls in flight if need be."""
        looks = 0
        while True:
            looks += 1
            outcome = await self._first_that_fits(asking, will_wait=looks < LOOKS_LIMIT)
            if isinstance(outcome, Try):
                return outcome
            if looks == LOOKS_LIMIT or not any(denial.is_due_to_calls_in_flight for denial in outcome):
                raise QuotaExhausted(outcome[-1])
            if looks == 1:
                # Nobody waits for the dead: where no supervisor runs, no one else charges the calls of lost processes.
                await self._ledger.expire_overdue()
            await self._wait(LOOK_AGAIN_S)

    async def _first_that_fits(self, asking: _Asking, *, will_wait: bool) -> Try | list[Denial]:
        """Go down the fallback chain once: a reservation, or every denial on the way, that of the wanted model last.

        Raises:
            StandingOrderFired: whoever laid the order down wants the run to stop, not to go on with another model.
        """
        ask, settings = asking.ask, self._settings()
        facts = await self._facts.facts(settings, ask.run_id, ask.phase_id, ask.attempt)
        snapshot = facts.snapshot
        denials: list[Denial] = []
        while True:
            decision = choose(snapshot, ask.role, ask.category, ask.complexity, ask.run_context)
            denial = _stopped(decision, snapshot)
            if denial is None:
                outcome = await self._reserve(asking, decision, facts, settings, will_wait=will_wait)
                if isinstance(outcome, Try):
                    return outcome
                denial = outcome
            if denial.order_id is not None:
                if will_wait and denial.is_due_to_calls_in_flight:
                    return [denial]
                raise StandingOrderFired(denial)
            denials.append(denial)
            if decision.rule != "fallback":
                return denials
            snapshot = replace(snapshot, denied_models=snapshot.denied_models | {decision.model})

    async def _reserve(
        self, asking: _Asking, decision: RouteDecision, facts: CallFacts, settings: Settings, *, will_wait: bool
    ) -> Try | Denial:
        """Promise what the bytes of the prompt bound; when that does not fit, what a count of it does."""
        ask, model = asking.ask, facts.snapshot.find_model(decision.model)
        assert model is not None, "the router only names models it has found"
        if (why := why_unbounded(model.name)) is not None:
            raise NoRoute(ask.role, ask.category, ask.complexity, why)
        account = settings.providers[model.provider]
        purpose = _purpose(ask, facts)
        is_rough = purpose != "rehearsal" and model.name not in asking.counts
        promise = self._promise(asking, model, account, purpose, is_rough=is_rough)
        outcome = await self._promised(asking, promise, will_wait=will_wait)
        if isinstance(outcome, Denial) and is_rough:
            if can_be_turned(outcome, self._of_answer(outcome, promise)):
                asking.counts[model.name] = await self._counted(account, asking.call(promise))
            promise = self._promise(asking, model, account, purpose)
            outcome = await self._promised(asking, promise, will_wait=will_wait)
        if isinstance(outcome, Denial):
            return in_parts(outcome, self._of_answer(outcome, promise), asking.counts.get(model.name))
        return Try(decision, account, promise, outcome, self._clock.now())

    async def _counted(self, account: ProviderSettings, call: ProviderCall) -> InputCount | None:
        provider = self._opened(account)
        return await provider.count_input_tokens(call) if isinstance(provider, InputCounter) else None

    def _of_answer(self, denial: Denial, promise: Reservation) -> int | None:
        """What the longest answer alone takes, in the unit of the denial; None when nobody knows its price."""
        if denial.unit == "tokens":
            return promise.bound_output
        provider, model, at = promise.scope.provider, promise.model, self._clock.now()
        return self._price_book().upper_bound_nano(provider, model, 0, promise.bound_output, at)

    async def _promised(self, asking: _Asking, promise: Reservation, *, will_wait: bool) -> datetime | Denial:
        try:
            return await self._ledger.reserve(promise, asking.ask.fence, will_wait=will_wait)
        except asyncio.CancelledError:
            # Cancelled while the writer had it: nothing was sent, so nothing may stay promised (contract 30).
            await _finished(self._released(promise.call_id))
            raise

    async def _released(self, call_id: str) -> None:
        # The writer takes its operations in order: what was to be promised is, or is not, when it comes to this.
        with suppress(AutopackError):  # Then nothing was, and nobody is left to be told why.
            await self._ledger.release(call_id)

    def _promise(
        self,
        asking: _Asking,
        model: ModelSettings,
        account: ProviderSettings,
        purpose: Purpose,
        *,
        is_rough: bool = False,
    ) -> Reservation:
        ask, bounds = asking.ask, asking.bounds(model)
        weight = (model.provider, model.name, bounds.input_tokens, bounds.output_tokens, self._clock.now())
        return Reservation(
            call_id=f"c-{secrets.token_hex(8)}",
            scope=CallScope(model.provider, ask.role, purpose, ask.run_id, ask.phase_id),
            model=model.name,
            bound_input=bounds.input_tokens,
            bound_output=bounds.output_tokens,
            bound_nano=self._price_book().upper_bound_nano(*weight, may_write_cache=may_write_cache(account)),
            lease_s=asking.timeout_s + LEASE_MARGIN_S,
            attempt=ask.attempt,
            category=ask.category,
            is_rough=is_rough,
        )

    # ── calling and settling ─────────────────────────────────────────────────────────────────────────────────────────

    async def _call(self, asking: _Asking, one: Try) -> ProviderReply:
        """Send one reserved call; whatever happens, its row is booked before this returns or raises."""
        await self._check_lease(one)
        try:
            reply = await self._provider(asking, one).complete(asking.call(one.reservation), one.observation)
        except ProviderError as error:
            await self._book(asking, failed_event(one, error, self._price_book()), one)
            raise
        except BaseException as error:
            # Cancelled, or a bug on the way: what was sent may be billed all the same.
            await _finished(self._book_cut(asking, one, error))
            raise
        await self._book(asking, answered_event(one, reply, self._price_book()), one, reply)
        return reply

    async def _check_lease(self, one: Try) -> None:
        """Nothing, while a call that leaves now ends before its reservation counts as lost.

        Raises:
            ProviderUnavailable: this machine slept in between; the promise is given back and can be made anew.
        """
        slept_s = (one.started_at - one.reserved_at).total_seconds()
        if slept_s <= LEASE_MARGIN_S:
            return
        await self._ledger.release(one.reservation.call_id)
        raise ProviderUnavailable(
            f"This machine stood still for {slept_s:.0f} s between reserving and calling; nothing was sent.",
            provider=one.decision.provider,
            model=one.decision.model,
            billed="no",
        )

    def _provider(self, asking: _Asking, one: Try) -> Provider:
        if one.reservation.scope.purpose == "rehearsal":
            reply = asking.ask.rehearsed_reply or ""
            return ScriptedProvider(lambda call: reply, pause=self._rehearsal_pause)
        return self._opened(one.provider)

    def _opened(self, settings: ProviderSettings) -> Provider:
        key = self._key_of(settings)
        # Without its caps, which may be edited often and concern no connection.
        account = (settings.provider, settings.sdk, settings.api, settings.base_url, settings.api_key_env, key)
        known = self._providers.get(account)
        if known is None:
            known = self._providers[account] = self._open_provider(settings, key)
        return known

    async def _book(
        self, asking: _Asking, event: UsageEvent, one: Try, reply: ProviderReply | None = None
    ) -> None:  # fmt: skip
        asking.booked.append(event)
        # A try that provably reached no model delivered nothing.
        delivered = asking.undelivered if event.counts.total else ()
        asking.undelivered = asking.undelivered if not delivered else ()
        # In one transaction, and once handed over it is written: a caller who gives up now still leaves a settled row.
        rules_of, now = self._ledger.rules(), self._clock.now()
        # Worked out before it is handed over, without a pause in which the caller could be cancelled.
        trace = trace_of(
            event, asking.ask.messages, one.reservation.bound_output, reply,
            keeper=self._words, experiment=asking.ask.experiment, at=now,
        )  # fmt: skip
        await self._database.write(_settle_delivered, event, rules_of, delivered, now, trace)

    async def _book_cut(self, asking: _Asking, one: Try, error: BaseException) -> None:
        if one.observation.sent:
            await self._book(asking, cut_event(one, error, self._price_book()), one)
        else:
            await self._ledger.release(one.reservation.call_id)


@takes_part(foresee_settle)
def _settle_delivered(
    connection: Connection,
    event: UsageEvent,
    rules_of: RulesOf,
    note_ids: Sequence[int],
    now: datetime,
    trace: CallTrace | None,
) -> None:
    """Book a call, that it carried these notes, and what it leaves beside its numbers."""
    settle(connection, event, rules_of, now)
    mark_delivered(connection, note_ids, event.phase_id, now)
    if trace is not None:
        write_trace(connection, event, trace, now)


def _purpose(ask: Ask, facts: CallFacts) -> Purpose:
    if facts.rules is not None and facts.rules.is_rehearsal:
        return "rehearsal"
    return "run" if ask.experiment is None else "experiment"


def _stopped(decision: RouteDecision, snapshot: RoutingSnapshot) -> Denial | None:
    """Why a decision may not be tried, None when it may. A used-up cap is left to the ledger, which says it in numbers.

    Raises:
        MissingKey: nobody could be asked.
    """
    standing = snapshot.standings[decision.provider]
    if standing.missing_key_variable is not None:
        raise MissingKey(decision.provider, standing.missing_key_variable)
    if decision.blocked_by is None or standing.exhausted_cap is not None or standing.soft_cap is None:
        return None
    return _denial_at_soft_limit(standing.soft_cap, decision.blocked_by)


def _denial_at_soft_limit(soft: CapStanding, why: str) -> Denial:
    """For categories that stop at the soft limit: there it counts as the cap itself."""
    in_tokens = soft.is_over_soft_tokens
    allowance = soft.cap.allowance_tokens if in_tokens else soft.cap.allowance_nano
    return Denial(
        scope=soft.cap.scope,
        unit="tokens" if in_tokens else "nano_usd",
        used=soft.used_tokens if in_tokens else soft.used_nano,
        in_flight=soft.use.reserved_tokens if in_tokens else soft.use.reserved_nano,
        wanted=0,
        # Over it is whoever has reached it, so the most that is still under it is one less.
        allowance=ceil(soft.soft_limit_ratio * (allowance or 0)) - 1,
        resets_at=soft.cap.resets_at,
        why=f"{why[:1].upper()}{why[1:]}.",
    )


async def _finished(work: Awaitable[T]) -> T:
    """Wait for ``work`` to its end although this task is being cancelled."""
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            continue
    return task.result()
