"""Laying down a standing order, or taking one back.

It reads what a person means, refuses what could never hold, and says what will happen and whether it is so already;
keeping the order is the ledger's. ``Control`` calls it for the MCP tools and the command line alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from autopack_mcp.budgets.call_rules import caps_of_run
from autopack_mcp.budgets.caps import CallScope, RunCaps
from autopack_mcp.budgets.counters import scope_use
from autopack_mcp.budgets.measures import Measure, amount, measures
from autopack_mcp.budgets.standing_orders import (
    LaidDown,
    OrderAction,
    OrderSubject,
    StandingOrder,
    in_words,
    lay_down,
    order_by_id,
    order_caps,
    orders_in_force,
    withdraw_order,
)
from autopack_mcp.clock import Clock
from autopack_mcp.config.settings import Settings, Window, WindowCap, provider_id
from autopack_mcp.control.amounts import read_amount
from autopack_mcp.control.person import Person
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import IllegalTransition, RequestRefused
from autopack_mcp.runs.progress import current_phase
from autopack_mcp.runs.records import RunRecord
from autopack_mcp.runs.states import RUN_ENDED
from autopack_mcp.runs.store import phases_of_run, run_by_id
from autopack_mcp.text_safety import visible

SHOWN_CHARS = 60  # Of a provider's name that does not exist, when it is repeated.
ORDERS_NAMED = 10  # Orders in force that a refusal lists.
EARLY = "It may fire up to one call early: until a call has ended, it counts with the most that it may use."
_SUBJECTS: Mapping[str, OrderSubject] = {"run": "run", "phase": "phase", "all": "global"}


@dataclass(frozen=True, slots=True)
class OrderWish:
    """What a person wants: do ``action`` when ``when`` reaches ``reaches``.

    ``when`` is a provider's name, ``run``, ``phase`` or ``all``; ``reaches`` an amount as ``read_amount`` takes it.
    ``period`` is the window of a provider or of all calls, None for the week. ``run_id`` is the run that is meant, None
    for every run.
    """

    action: OrderAction
    when: str
    reaches: str
    period: Window | None = None
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class OrderOutcome:
    """An order in force, as a sentence in ``order``. ``is_new`` is false when it stood already and has not fired."""

    order_id: int
    order: str
    message: str
    is_new: bool


def concerns_runs(action: OrderAction, when: str) -> bool:
    """Whether such an order is about a run, or any: only telling about a provider or about all calls is not."""
    return action != "tell" or _subject(when) in ("run", "phase")


class Orders:
    """Lays orders down and takes them back. Every part is given by name; safe for concurrent callers."""

    def __init__(self, *, database: Database, clock: Clock, settings: Callable[[], Settings]) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings

    async def set_order(self, wish: OrderWish, person: Person) -> OrderOutcome:
        """Put an order in force, from the very next call on; see ``lay_down`` for one that says what another does.

        Raises:
            RequestRefused: an amount that cannot be read, a provider that does not exist, a percentage of a cap that is
                not configured, or an order that contradicts itself. RunNotFound.
            IllegalTransition: the run has ended.
        """
        order = self._drafted(wish, person)
        run = None if wish.run_id is None else await self._database.read(run_by_id, wish.run_id)
        if run is not None and run.state in RUN_ENDED:
            raise IllegalTransition(run.state, "order")
        if order.unit == "percent":
            await self._database.read(_check_cap, order, self._settings())
        laid = await self._database.write(lay_down, order)
        measured = await self._database.read(self._measured, laid.order, run)
        said = [_laid_words(laid), *(_now_words(laid.order, measure) for measure in measured)]
        if order.action != "tell" and all(measure.used < measure.allowance for measure in measured):
            said.append(EARLY)
        message = " ".join(said)
        return OrderOutcome(laid.order.order_id, in_words(laid.order), message, laid.is_new)

    async def remove_order(self, order_id: int) -> str:
        """Take an order out of force; what it has done stays done.

        Raises:
            RequestRefused: no order of this number is in force; the hint lists those that are.
        """
        known = await self._database.read(order_by_id, order_id)
        if known is None or not await self._database.write(withdraw_order, order_id, self._clock.now()):
            in_force = await self._database.read(orders_in_force)
            raise RequestRefused(f"No standing order {order_id} is in force.", hint=_listed(in_force))
        return f"Standing order {order_id} is removed: {in_words(known)}."

    def _drafted(self, wish: OrderWish, person: Person) -> StandingOrder:
        size = read_amount(wish.reaches)
        subject = _subject(wish.when)
        provider = _known_provider(wish.when.strip(), self._settings()) if subject == "provider" else None
        is_windowed = subject in ("provider", "global")
        _check_fit(wish, is_windowed=is_windowed)
        return StandingOrder(
            order_id=0,
            action=wish.action,
            subject=subject,
            unit=size.unit,
            threshold=size.count,
            run_id=wish.run_id,
            author=person.author,
            client=person.client,
            created_at=self._clock.now(),
            provider=provider,
            period=(wish.period or "week") if is_windowed else None,
        )

    def _measured(self, connection: Connection, order: StandingOrder, run: RunRecord | None) -> list[Measure]:
        """How far what the order measures is now; nothing when that is no single thing, as with any run."""
        now = self._clock.now()
        call, run_caps = _call_of(connection, order, run)
        found = [one.cap for one in order_caps((order,), self._settings(), call, run_caps, now)]
        return [measure for cap in found for measure in measures(cap, scope_use(connection, call, cap, now))]


def _call_of(connection: Connection, order: StandingOrder, run: RunRecord | None) -> tuple[CallScope, RunCaps]:
    """A call as the order would measure it: of its run, in the phase that is in hand there."""
    if run is None:
        return CallScope(order.provider or "", "", "run"), RunCaps()
    phase = current_phase(phases_of_run(connection, run.run_id))
    phase_id = None if phase is None else phase.phase_id
    call = CallScope(order.provider or "", "", "rehearsal" if run.is_rehearsal else "run", run.run_id, phase_id)
    return call, caps_of_run(connection, run.run_id, phase_id) or RunCaps()


# ── what could never hold ────────────────────────────────────────────────────────────────────────────────────────────


def _subject(when: str) -> OrderSubject:
    return _SUBJECTS.get(when.strip().lower(), "provider")


def _known_provider(name: str, settings: Settings) -> str:
    known = provider_id(name)
    if known not in settings.providers:
        raise RequestRefused(
            f"{visible(name, SHOWN_CHARS)!r} is no provider.",
            hint=f"Providers are {', '.join(sorted(settings.providers))}; or say run, phase or all.",
        )
    return known


def _check_fit(wish: OrderWish, *, is_windowed: bool) -> None:
    if not is_windowed and wish.period is not None:
        raise RequestRefused(
            f"A {wish.when} is counted as long as it lasts, so this order takes no period.",
            hint="Only a provider and all calls together are counted by day, week or month.",
        )
    if wish.run_id is not None and not concerns_runs(wish.action, wish.when):
        raise RequestRefused(
            f"Telling about {visible(wish.when, SHOWN_CHARS)} concerns no single run.", hint="Leave the run out."
        )


def _check_cap(connection: Connection, order: StandingOrder, settings: Settings) -> None:
    """
    Raises:
        RequestRefused: the order is in percent of a cap that is not configured.
    """
    if order.subject == "provider":
        name = str(order.provider)
        _check_window(name, order, settings.providers[name].caps, _capped_windows(settings))
    elif order.subject == "global":
        _check_window("everything together", order, settings.global_caps, _capped_windows(settings))
    elif order.run_id is not None and not _has_own_cap(connection, order, order.run_id):
        what = f"Run {order.run_id}" if order.subject == "run" else f"No phase of run {order.run_id}"
        has = "has no cap" if order.subject == "run" else "has a cap"
        raise RequestRefused(f"{what} {has}: percent of what?", hint="Name dollars or tokens, or give it a cap first.")


def _check_window(whose: str, order: StandingOrder, caps: Sequence[WindowCap], configured: Sequence[str]) -> None:
    if order.period not in [cap.window for cap in caps]:
        known = f"Configured are {', '.join(configured)}." if configured else "No cap is configured."
        raise RequestRefused(
            f"{whose[:1].upper()}{whose[1:]} has no cap of the {order.period}: percent of what?",
            hint=f"{known} Or name dollars or tokens.",
        )


def _capped_windows(settings: Settings) -> list[str]:
    of_providers = [f"{one.provider}'s {cap.window}" for one in settings.providers.values() for cap in one.caps]
    return [*of_providers, *(f"the {cap.window} of all calls" for cap in settings.global_caps)]


def _has_own_cap(connection: Connection, order: StandingOrder, run_id: str) -> bool:
    phases = (phase.phase_id for phase in phases_of_run(connection, run_id)) if order.subject == "phase" else (None,)
    found = (caps_of_run(connection, run_id, phase_id) or RunCaps() for phase_id in phases)
    if order.subject == "run":
        return any(caps.tokens is not None or caps.nano_usd is not None for caps in found)
    return any(caps.phase_tokens is not None or caps.phase_nano_usd is not None for caps in found)


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _laid_words(laid: LaidDown) -> str:
    order = laid.order
    says = (
        f"Standing order {order.order_id} {'is in force' if laid.is_new else 'says that already'}: {in_words(order)}."
    )
    if laid.replaced_id is None:
        return says
    return f"{says} It takes the place of standing order {laid.replaced_id}, which said the same and has fired."


def _now_words(order: StandingOrder, measure: Measure) -> str:
    """Where what is measured stands, and what that means when it is there already."""
    used = measure.settled if order.action == "tell" else measure.used
    of = f"{amount(measure.unit, used)} of {amount(measure.unit, measure.allowance)} are used now"
    if used < measure.allowance:
        return f"{of[:1].upper()}{of[1:]}."
    if order.action == "tell":
        return f"That is so already: {of}."
    whose = f"run {order.run_id}" if order.run_id else "any run"
    done = "paused" if order.action == "pause" else "cancelled"
    return f"That is so already: {of}, so the next call of {whose} will be denied and the run {done}."


def _listed(orders: Sequence[StandingOrder]) -> str:
    if not orders:
        return "No standing order is in force."
    more = f" and {len(orders) - ORDERS_NAMED} more" if len(orders) > ORDERS_NAMED else ""
    return f"In force are {'; '.join(f'{one.order_id}: {in_words(one)}' for one in orders[:ORDERS_NAMED])}{more}."
