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

from autopack_mcp.budgets.call_rules import RulesOf
from autopack_mcp.budgets.caps import CallScope
from autopack_mcp.budgets.ledger import Ledger, Reservation, RunFence, settle
from autopack_mcp.budgets.standings import CapStanding
from autopack_mcp.clock import Clock
from autopack_mcp.config.settings import ModelSettings, ProviderSettings, Settings
from autopack_mcp.database.batch import takes_part
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import (
    AutopackError,
    Denial,
    MissingKey,
    ProviderError,
    ProviderUnavailable,
    QuotaExhausted,
    StandingOrderFired,
)
from autopack_mcp.notes import Note, mark_delivered, notes_in_force
from autopack_mcp.providers.base import CallObservation, ChatMessage, Provider, ProviderCall, ProviderReply
from autopack_mcp.providers.pacing import RetryPolicy, retried
from autopack_mcp.providers.scripted import ScriptedProvider
from autopack_mcp.routing.model_router import RouteDecision, RoutingSnapshot, choose
from autopack_mcp.routing.snapshot import RunRules, SnapshotReader
from autopack_mcp.usage.event import Purpose, ReportedUsage, Status, TokenCounts, UsageEvent, UsageSource
from autopack_mcp.usage.prices import PriceBook

T = TypeVar("T")

CALL_TIMEOUT_S = 600.0  # One answer, however long: builders write whole files.
LEASE_MARGIN_S = 60.0  # After the deadline, before a call counts as lost: time to settle on a busy machine.
WAIT_FOR_FLIGHT_S = 10.0  # Contract 16: how long a caller waits when only calls in flight fill the cap.
LOOK_AGAIN_S = 0.1  # How often a waiting caller asks again; each look is a few short transactions.
LOOKS_LIMIT = 1 + round(WAIT_FOR_FLIGHT_S / LOOK_AGAIN_S)
PROMPT_OVERHEAD_TOKENS = 64  # What the wire format adds to a prompt: roles, separators, the reply's priming.
MESSAGE_OVERHEAD_TOKENS = 16  # The same, per message.
ERROR_SHOWN_CHARS = 500


@dataclass(frozen=True, slots=True)
class Ask:
    """One question to some model: who asks, about what, and on whose account.

    ``fence`` proves that the asker still owns the run; ``rehearsed_reply`` is the scripted answer for a rehearsal.
    ``timeout_s`` None means the door's own.
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

    It is mutable on purpose: its tries follow each other, and the last one answers for all of them.
    """

    ask: Ask
    timeout_s: float
    undelivered: tuple[int, ...]
    booked: list[UsageEvent] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Try:
    """One attempt at a provider call, between its reservation and its row."""

    asking: _Asking
    decision: RouteDecision
    provider: ProviderSettings
    reservation: Reservation
    reserved_at: datetime
    started_at: datetime
    observation: CallObservation = field(default_factory=CallObservation)


class CallDoor:
    """Asks a model and books what it cost. Safe for any number of concurrent callers; close it once.

    Every part is given by name (``app`` wires them). ``run_rules`` reads what a run of the database adds to a choice
    and answers None for an id that is only a caller's label; ``price_book`` prices under the settings in force;
    ``call_timeout_s`` is the deadline of a call whose ``Ask`` names none; ``wait`` waits that many seconds, before a
    retry or another look at a full cap.
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
        wait: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._clock = clock
        self._settings = settings
        self._price_book = price_book
        self._key_of = key_of
        self._snapshots = snapshots
        self._run_rules = run_rules
        self._open_provider = open_provider
        self._retry = retry
        self._call_timeout_s = call_timeout_s
        self._rehearsal_pause = rehearsal_pause
        self._wait = wait
        self._providers: dict[tuple[str | None, ...], Provider] = {}

    async def notes(self, run_id: str | None) -> tuple[Note, ...]:
        """The notes that the next prompt of a run must quote."""
        return await self._database.read(notes_in_force, run_id) if run_id else ()

    async def ask(self, ask: Ask, notes: Sequence[Note] = ()) -> Answer:
        """Choose a model, reserve, call and settle; retry what may help, each try with its own reservation and row.

        ``notes`` are those quoted in the messages; they are marked delivered, once, with the first try that a model may
        have read.

        Raises:
            QuotaExhausted: a hard cap denies it, also after waiting for calls in flight; or a category that never falls
                back stops at its soft limit. Nothing was sent.
            StandingOrderFired: a standing order denies it and asks for the run to stop. Nothing was sent.
            NoRoute, OverrideRefused, MissingKey: no model can be called for this question. Nothing was sent.
            ProviderError: the provider did not answer, after bounded retries. What it may have billed is booked.
            LeaseLost: another process owns the run.
        """
        timeout_s = self._call_timeout_s if ask.timeout_s is None else ask.timeout_s
        asking = _Asking(ask, timeout_s, tuple(note.note_id for note in notes))

        async def try_once(_number: int) -> Answer:
            one = await self._reserved(asking)
            reply = await self._call(one)
            return Answer(reply.text, reply.finish_reason, one.decision, tuple(asking.booked))

        return await retried(try_once, self._retry, wait=self._wait)

    async def close(self) -> None:
        """Give every provider's connections back."""
        providers, self._providers = self._providers, {}
        for provider in providers.values():
            await provider.close()

    # ── choosing and reserving ───────────────────────────────────────────────────────────────────────────────────────

    async def _reserved(self, asking: _Asking) -> _Try:
        """A reservation with the first model that may and can answer, after waiting for calls in flight if need be."""
        looks = 0
        while True:
            looks += 1
            outcome = await self._first_that_fits(asking, will_wait=looks < LOOKS_LIMIT)
            if isinstance(outcome, _Try):
                return outcome
            if looks == LOOKS_LIMIT or not any(denial.is_due_to_calls_in_flight for denial in outcome):
                raise QuotaExhausted(outcome[-1])
            if looks == 1:
                # Nobody waits for the dead: where no supervisor runs, no one else charges the calls of lost processes.
                await self._ledger.expire_overdue()
            await self._wait(LOOK_AGAIN_S)

    async def _first_that_fits(self, asking: _Asking, *, will_wait: bool) -> _Try | list[Denial]:
        """Go down the fallback chain once: a reservation, or every denial on the way, that of the wanted model last.

        Raises:
            StandingOrderFired: whoever laid the order down wants the run to stop, not to go on with another model.
        """
        settings = self._settings()
        snapshot, rules = await self._database.read(self._read, asking.ask, settings)
        denials: list[Denial] = []
        while True:
            ask = asking.ask
            decision = choose(snapshot, ask.role, ask.category, ask.complexity, ask.run_context)
            denial = _stopped(decision, snapshot)
            if denial is None:
                outcome = await self._reserve(asking, decision, snapshot, settings, rules, will_wait=will_wait)
                if isinstance(outcome, _Try):
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

    def _read(self, connection: Connection, ask: Ask, settings: Settings) -> tuple[RoutingSnapshot, RunRules | None]:
        rules = (
            self._run_rules(connection, ask.run_id, self._clock.now(), ask.phase_id, ask.attempt)
            if ask.run_id
            else None
        )
        return self._snapshots.read(connection, rules, settings), rules

    async def _reserve(
        self,
        asking: _Asking,
        decision: RouteDecision,
        snapshot: RoutingSnapshot,
        settings: Settings,
        rules: RunRules | None,
        *,
        will_wait: bool,
    ) -> _Try | Denial:
        model = snapshot.find_model(decision.model)
        assert model is not None, "the router only names models it has found"
        purpose: Purpose = "rehearsal" if rules is not None and rules.is_rehearsal else "run"
        reservation = self._bounded(asking, model, purpose)
        outcome = await self._reserve_or_release(reservation, asking.ask.fence, will_wait=will_wait)
        if isinstance(outcome, Denial):
            return outcome
        provider = settings.providers[model.provider]
        return _Try(asking, decision, provider, reservation, outcome, self._clock.now())

    async def _reserve_or_release(
        self, reservation: Reservation, fence: RunFence | None, *, will_wait: bool
    ) -> datetime | Denial:
        writing = asyncio.ensure_future(self._ledger.reserve(reservation, fence, will_wait=will_wait))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            # Cancelled while the writer had it: nothing was sent, so nothing may stay promised (contract 30).
            await _finished(self._released(writing, reservation.call_id))
            raise

    async def _released(self, writing: Awaitable[datetime | Denial], call_id: str) -> None:
        with suppress(AutopackError):  # Then nothing was promised, and nobody is left to be told why.
            if isinstance(await writing, datetime):
                await self._ledger.release(call_id)

    def _bounded(self, asking: _Asking, model: ModelSettings, purpose: Purpose) -> Reservation:
        ask = asking.ask
        bound_input, bound_output = _bounds(ask, model)
        now = self._clock.now()
        return Reservation(
            call_id=f"c-{secrets.token_hex(8)}",
            scope=CallScope(model.provider, ask.role, purpose, ask.run_id, ask.phase_id),
            model=model.name,
            bound_input=bound_input,
            bound_output=bound_output,
            bound_nano=self._price_book().upper_bound_nano(model.provider, model.name, bound_input, bound_output, now),
            lease_s=asking.timeout_s + LEASE_MARGIN_S,
            attempt=ask.attempt,
            category=ask.category,
        )

    # ── calling and settling ─────────────────────────────────────────────────────────────────────────────────────────

    async def _call(self, one: _Try) -> ProviderReply:
        """Send one reserved call; whatever happens, its row is booked before this returns or raises."""
        await self._check_lease(one)
        asking = one.asking
        call = ProviderCall(one.decision.model, asking.ask.messages, one.reservation.bound_output, asking.timeout_s)
        try:
            reply = await self._provider(one).complete(call, one.observation)
        except ProviderError as error:
            await self._book(one, self._failed_event(one, error))
            raise
        except BaseException as error:
            # Cancelled, or a bug on the way: what was sent may be billed all the same.
            await _finished(self._book_cut(one, error))
            raise
        await self._book(one, self._answered_event(one, reply))
        return reply

    async def _check_lease(self, one: _Try) -> None:
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

    def _provider(self, one: _Try) -> Provider:
        settings = one.provider
        if one.reservation.scope.purpose == "rehearsal":
            reply = one.asking.ask.rehearsed_reply or ""
            return ScriptedProvider(lambda call: reply, pause=self._rehearsal_pause)
        key = self._key_of(settings)
        # Without its caps, which may be edited often and concern no connection.
        account = (settings.provider, settings.sdk, settings.api, settings.base_url, settings.api_key_env, key)
        known = self._providers.get(account)
        if known is None:
            known = self._providers[account] = self._open_provider(settings, key)
        return known

    async def _book(self, one: _Try, event: UsageEvent) -> None:
        asking = one.asking
        asking.booked.append(event)
        # A try that provably reached no model delivered nothing.
        delivered = asking.undelivered if event.counts.total else ()
        asking.undelivered = asking.undelivered if not delivered else ()
        # In one transaction, and once handed over it is written: a caller who gives up now still leaves a settled row.
        rules_of = self._ledger.rules()
        await self._database.write(_settle_delivered, event, rules_of, delivered, self._clock.now())

    async def _book_cut(self, one: _Try, error: BaseException) -> None:
        if not one.observation.sent:
            await self._ledger.release(one.reservation.call_id)
            return
        # The words of a foreign error may quote anything; its name says enough.
        is_cancelled = isinstance(error, asyncio.CancelledError)
        reason = "interrupted" if is_cancelled else f"internal error: {type(error).__name__}"
        await self._book(one, self._unfinished_event(one, "cut", reason))

    def _answered_event(self, one: _Try, reply: ProviderReply) -> UsageEvent:
        one.observation.response_id = reply.response_id
        one.observation.request_id = reply.request_id
        one.observation.usage = reply.usage
        if reply.usage is None:
            # An answer without a usage report is charged in full rather than guessed.
            return self._unfinished_event(one, "ok", "the provider reported no usage")
        return self._priced(one, "ok", "provider", reply.usage)

    def _failed_event(self, one: _Try, error: ProviderError) -> UsageEvent:
        reason = str(error)[:ERROR_SHOWN_CHARS]
        seen = one.observation
        if error.billed == "no" and seen.usage is None:
            event = _event(one, "failed", "provider", TokenCounts())
            return replace(event, cost_nano=0, error=reason)
        return self._unfinished_event(one, "cut" if seen.response_id or seen.usage else "failed", reason)

    def _unfinished_event(self, one: _Try, status: Status, reason: str) -> UsageEvent:
        """A call whose truth is at best half known: what was seen, or its whole reservation (docs/accounting.md)."""
        if one.observation.usage is not None:
            return replace(self._priced(one, status, "partial", one.observation.usage), error=reason)
        bound = one.reservation
        counts = TokenCounts(uncached_input=bound.bound_input, output=bound.bound_output)
        return replace(_event(one, status, "estimated", counts), cost_nano=bound.bound_nano, error=reason)

    def _priced(self, one: _Try, status: Status, source: UsageSource, usage: ReportedUsage) -> UsageEvent:
        event = _event(one, status, source, usage.counts)
        price = self._price_book().price_usage(event.provider, event.model, usage, one.reserved_at)
        return replace(
            event,
            cost_nano=price.cost_nano if price else None,
            price_version=price.version if price else None,
            service_tier=usage.service_tier,
            tool_calls=usage.tool_calls,
            raw_usage=usage.raw,
            lines=usage.lines,
        )


def _event(one: _Try, status: Status, source: UsageSource, counts: TokenCounts) -> UsageEvent:
    scope, ask = one.reservation.scope, one.asking.ask
    return UsageEvent(
        call_id=one.reservation.call_id,
        provider=scope.provider,
        model=one.decision.model,
        role=scope.role,
        purpose=scope.purpose,
        status=status,
        usage_source=source,
        counts=counts,
        occurred_at=one.reserved_at,
        run_id=scope.run_id,
        phase_id=scope.phase_id,
        attempt=ask.attempt,
        category=ask.category,
        response_id=one.observation.response_id,
        request_id=one.observation.request_id,
        started_at=one.started_at,
    )


@takes_part
def _settle_delivered(
    connection: Connection, event: UsageEvent, rules_of: RulesOf, note_ids: Sequence[int], now: datetime
) -> None:
    """Book a call, and that it carried these notes."""
    settle(connection, event, rules_of, now)
    mark_delivered(connection, note_ids, event.phase_id, now)


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


def _bounds(ask: Ask, model: ModelSettings) -> tuple[int, int]:
    """(input, output): tokens the call cannot exceed, since no byte-level tokenizer makes more tokens than bytes."""
    size = sum(len(message.content.encode()) + MESSAGE_OVERHEAD_TOKENS for message in ask.messages)
    return size + PROMPT_OVERHEAD_TOKENS, min(ask.max_output_tokens, model.max_output_tokens)


async def _finished(work: Awaitable[T]) -> T:
    """Wait for ``work`` to its end although this task is being cancelled."""
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            continue
    return task.result()
