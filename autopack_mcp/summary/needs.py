"""What a run waits for that only a person can give, and the phrase to say in a chat that gives it.

It owns NeedsYou: each stop is told by what really helps, so "resume" is offered only where the run would go on. It
decides nothing and moves nothing. The summary of a run holds the answer; a list asks only whether there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from shlex import quote

from sqlalchemy import Connection

from autopack_mcp.budgets.call_rules import RulesInForce
from autopack_mcp.budgets.caps import CallScope, window_caps_of_call
from autopack_mcp.budgets.counters import scope_use
from autopack_mcp.budgets.measures import measures
from autopack_mcp.budgets.standing_orders import OrderCap, has_acted
from autopack_mcp.config.settings import Settings
from autopack_mcp.errors import ConfigError
from autopack_mcp.runs.cap_needs import CapNeed, need_of
from autopack_mcp.runs.progress import current_phase
from autopack_mcp.runs.records import PhaseRecord, RunRecord
from autopack_mcp.runs.states import RUN_ACTIVE
from autopack_mcp.runs.stops import OrderStop, SharedCapStop, cap_stop, order_stop, shared_cap_stop
from autopack_mcp.text_safety import visible

ID_LIMIT = 64  # Characters of a phase's id, as long as a plan may make one.
OVERRULE = "Resume to go on: the order that paused it does not stop it again; lay down another one if it should."


@dataclass(frozen=True, slots=True)
class NeedsYou:
    """What waits for a person: ``what`` helps, in a sentence or two, and the phrase to ``say`` ("resume run r-…").

    Why the run stands where it does is its ``why``, and not said here again. ``command`` is the same to type at a
    terminal, "" where only waiting helps.
    """

    what: str
    say: str
    command: str = ""


def waits_for_person(run: RunRecord, *, is_supervised: bool) -> bool:
    """Whether a run waits for something that only a person can give.

    ``is_supervised`` says whether any supervisor is alive to advance it.
    """
    if run.state in ("paused", "budget_paused", "needs_attention"):
        return True
    return run.state in RUN_ACTIVE and not is_supervised


def needs_you_now(
    connection: Connection,
    run: RunRecord,
    phases: Sequence[PhaseRecord],
    now: datetime,
    settings: Callable[[], Settings] | None,
    *,
    is_supervised: bool,
) -> NeedsYou | None:
    """What a run waits for; None while it goes on by itself or has ended.

    ``settings`` are asked for only where a shared cap or an order has stopped the run. None, or a file that cannot be
    used: then it is not known whether there is room again, and a cap is taken as it was until it resets.
    """
    if not waits_for_person(run, is_supervised=is_supervised):
        return None
    if run.state == "paused":
        return _paused(connection, run, phases, now, settings)
    if run.state == "budget_paused":
        return _stopped(connection, run, phases, now, settings)
    if run.state == "needs_attention":
        return _needs_attention(run, current_phase(phases))
    # Any request brings a supervisor up (contract 29), so the words for a chat are the same.
    return _resume(run, "Nobody advances it: no supervisor is running.")


def _resume(run: RunRecord, what: str) -> NeedsYou:
    return NeedsYou(what, f"resume run {run.run_id}", f"autopack-mcp resume {quote(run.run_id)}")


def _needs_attention(run: RunRecord, phase: PhaseRecord | None) -> NeedsYou:
    """First what costs least, then everything else that a person may say about the phase in question."""
    if phase is None:
        return _resume(run, "It cannot go on by itself.")
    name = f"phase {visible(phase.phase_id, ID_LIMIT)}"
    others = f"skip {name} because …, edit {name}: …, another model for {name}, cancel run {run.run_id}"
    if phase.state == "failed":
        command = f"autopack-mcp retry {quote(run.run_id)} {quote(visible(phase.phase_id, ID_LIMIT))}"
        first = f"Retrying gives {name} a full set of attempts."
        return NeedsYou(_attention(first, others), f"retry {name} of run {run.run_id}", command)
    if phase.state == "queued":
        return _resume(run, _attention(f"Resuming tries again to begin with {name}.", others))
    first = f"Resuming goes on with {name} where it stopped; retry drops its attempt."
    return _resume(run, _attention(first, others))


def _attention(first: str, others: str) -> str:
    return f"It cannot go on by itself. {first} Or say: {others}."


# ── a cap ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _stopped(
    connection: Connection,
    run: RunRecord,
    phases: Sequence[PhaseRecord],
    now: datetime,
    settings: Callable[[], Settings] | None,
) -> NeedsYou:
    own, shared = cap_stop(run), shared_cap_stop(run)
    if own is not None:
        return _raise(need_of(connection, run, own, phases))
    if shared is None:
        return _resume(run, "Resuming helps when what stopped it has changed.")
    if _has_room(connection, shared, now, usable(settings)):
        return _resume(run, "There is room again below the cap that stopped it: it goes on where it paused.")
    return _wait(run, shared)


def _raise(need: CapNeed) -> NeedsYou:
    whose = "Its own cap" if need.stop.phase_id is None else "The cap of its phase"
    what = f"{whose} must be at least {need.least}; then it goes on where it paused.{need.outlook}"
    return NeedsYou(what, need.say, need.command)


def _wait(run: RunRecord, stop: SharedCapStop) -> NeedsYou:
    when = f"{stop.resets_at:%Y-%m-%d %H:%M} UTC"
    other = f", or choose models of another provider than {stop.counter.call.provider} for it"
    other = other if stop.counter.kind == "provider" else ""
    what = f"Resuming does not help before the cap resets at {when}: wait, raise the cap in models.yaml{other}."
    return NeedsYou(what, f"resume run {run.run_id} after {when}")


def _has_room(connection: Connection, stop: SharedCapStop, now: datetime, settings: Settings | None) -> bool:
    """Whether the denied call would fit now: the window is over, or the cap was raised, or others gave tokens back."""
    if settings is None:
        return now >= stop.resets_at
    call = stop.counter.call
    caps = [cap for cap in window_caps_of_call(settings, call, now) if cap.scope == stop.counter.name]
    return all(
        measure.unit != stop.unit or measure.used + stop.wanted <= measure.allowance
        for cap in caps
        for measure in measures(cap, scope_use(connection, call, cap, now))
    )


def usable(settings: Callable[[], Settings] | None) -> Settings | None:
    """The settings in force; None where there are none to ask for, or the file was never good."""
    try:
        return None if settings is None else settings()
    except ConfigError:
        return None


# ── a pause ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _paused(
    connection: Connection,
    run: RunRecord,
    phases: Sequence[PhaseRecord],
    now: datetime,
    settings: Callable[[], Settings] | None,
) -> NeedsYou:
    stop = order_stop(run)
    if stop is None:
        return _resume(run, "It is paused, and goes on when it is resumed.")
    in_force = usable(settings)
    others = [] if in_force is None else list(_next_stops(connection, run, phases, now, in_force, stop))
    if not others:
        return _resume(run, OVERRULE)
    named = " and ".join(str(number) for number in others)
    orders, stops = ("order", "stops") if len(others) == 1 else ("orders", "stop")
    what = f"Resuming does not help: standing {orders} {named} {stops} it at its next call."
    removing = "".join(f"autopack-mcp order remove {number} && " for number in others)
    then = _resume(run, "")
    return NeedsYou(what, f"remove standing {orders} {named}, then {then.say}", f"{removing}{then.command}")


def _next_stops(
    connection: Connection,
    run: RunRecord,
    phases: Sequence[PhaseRecord],
    now: datetime,
    settings: Settings,
    stop: OrderStop,
) -> Iterator[int]:
    """The other orders that would deny the same call again, and have not acted on this run yet."""
    phase = current_phase(phases)
    call = CallScope(
        "", "", "rehearsal" if run.is_rehearsal else "run", run.run_id, None if phase is None else phase.phase_id
    )
    for found in RulesInForce(settings)(connection, call, now).stops:
        if not has_acted(connection, found, run.run_id) and _denies(connection, found, call, now, stop):
            yield found.order.order_id


def _denies(connection: Connection, found: OrderCap, call: CallScope, now: datetime, stop: OrderStop) -> bool:
    # Which provider the call goes to is not known: an order about one is in the way for certain when it is reached.
    is_counted = found.order.subject != "provider"
    return any(
        measure.used + (stop.wanted or 0) > measure.allowance
        if is_counted and measure.unit == stop.unit
        else measure.used >= measure.allowance
        for measure in measures(found.cap, scope_use(connection, call, found.cap, now))
    )
