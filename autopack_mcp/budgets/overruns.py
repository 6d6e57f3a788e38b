"""Caps in force that stand exceeded, each explained to the token: calls made elsewhere, truths above their promise.

What neither explains can only be a cap that was lowered, or first set, after it was spent; nobody writes down what caps
were. It reads and changes nothing. ``check`` reports what it finds as notes: the ledger is right, the cap is passed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, case, func, or_, select

from autopack_mcp.budgets.caps import CallScope, RunCaps, ScopeCap, own_caps_of_call, provider_caps, shared_caps
from autopack_mcp.budgets.counter_names import CounterName, read_counter_name
from autopack_mcp.budgets.counters import ScopeUse, scope_use
from autopack_mcp.budgets.measures import Measure, amount, in_words, measures
from autopack_mcp.config.settings import Settings
from autopack_mcp.database.tables import breaches, phase_caps, reservations, runs, usage_events
from autopack_mcp.usage.true_sums import total

_EVENT = usage_events.c


@dataclass(frozen=True, slots=True)
class Overrun:
    """One cap in one of its units that stands exceeded, and what explains ``measure.used - measure.allowance``.

    ``elsewhere`` came from calls made elsewhere, ``above_promise`` from calls that cost more than was promised for
    them, ``later_cap`` is the rest. ``breaches`` counts how often the ledger has written this down.
    """

    cap: ScopeCap
    measure: Measure
    elsewhere: int
    above_promise: int
    later_cap: int
    breaches: int

    def __str__(self) -> str:
        unit, excess = self.measure.unit, self.measure.used - self.measure.allowance
        parts = (
            (self.elsewhere, "from calls made elsewhere"),
            (self.above_promise, "from calls that cost more than was promised for them"),
            (self.later_cap, "because the cap was lowered, or first set, after it was spent"),
        )
        why = ", ".join(f"{amount(unit, part)} {reason}" for part, reason in parts if part)
        return (
            f"{in_words(self.cap, self.measure)} and {amount(unit, self.measure.used)} are used:"
            f" {amount(unit, excess)} too many, {why} (breaches on record: {self.breaches})."
        )


def overruns(
    connection: Connection, settings: Settings, now: datetime, uses: Mapping[str, ScopeUse]
) -> Iterator[Overrun]:
    """Every cap in force that stands exceeded: by its counter (``uses``, by scope), else by what the ledger says."""
    for cap in _caps_in_force(connection, settings, now):
        counter = read_counter_name(cap.scope)
        assert counter is not None, "caps are named as counters are"
        use = uses.get(cap.scope) or scope_use(connection, counter.call, cap, now)
        for measure in measures(cap, use):
            if measure.used > measure.allowance:
                yield _explained(connection, cap, counter, measure)


def _caps_in_force(connection: Connection, settings: Settings, now: datetime) -> Iterator[ScopeCap]:
    for provider in settings.providers.values():
        yield from provider_caps(provider, now)
    yield from shared_caps(settings, now)
    has_cap = or_(runs.c.token_cap.is_not(None), runs.c.cost_cap_nano.is_not(None))
    found = select(runs.c.run_id, runs.c.is_rehearsal, runs.c.token_cap, runs.c.cost_cap_nano).where(has_cap)
    for run_id, is_rehearsal, tokens, nano in connection.execute(found).all():
        yield from own_caps_of_call(_any_call(run_id, None, is_rehearsal=is_rehearsal), RunCaps(tokens, nano))
    rows = select(runs.c.is_rehearsal, phase_caps).join_from(phase_caps, runs, runs.c.run_id == phase_caps.c.run_id)
    for is_rehearsal, run_id, phase_id, tokens, nano in connection.execute(rows).all():
        own = RunCaps(phase_tokens=tokens, phase_nano_usd=nano)
        yield from own_caps_of_call(_any_call(run_id, phase_id, is_rehearsal=is_rehearsal), own)


def _any_call(run_id: str, phase_id: str | None, *, is_rehearsal: bool) -> CallScope:
    return CallScope("", "", "rehearsal" if is_rehearsal else "run", run_id, phase_id)


def _explained(connection: Connection, cap: ScopeCap, counter: CounterName, measure: Measure) -> Overrun:
    elsewhere, above = _unpromised(connection, counter, measure)
    excess = measure.used - measure.allowance
    of_elsewhere = min(excess, elsewhere)
    of_above = min(excess - of_elsewhere, above)
    mine = (breaches.c.scope == cap.scope, breaches.c.unit == measure.unit)
    written = connection.execute(select(func.count()).select_from(breaches).where(*mine)).scalar_one()
    return Overrun(cap, measure, of_elsewhere, of_above, excess - of_elsewhere - of_above, written)


def _unpromised(connection: Connection, counter: CounterName, measure: Measure) -> tuple[int, int]:
    """What calls of this counter were charged without a promise: all that was made elsewhere, and what is above one."""
    if measure.unit == "tokens":
        charged, promised = _EVENT.charged_tokens, reservations.c.bound_input + reservations.c.bound_output
    else:
        charged, promised = _EVENT.charged_nano, func.coalesce(reservations.c.bound_nano, 0)
    is_elsewhere = reservations.c.call_id.is_(None)
    above = case((charged > promised, charged - promised), else_=0)
    both = usage_events.outerjoin(reservations, reservations.c.call_id == _EVENT.call_id)
    sums = (total(case((is_elsewhere, charged), else_=0)), total(case((is_elsewhere, 0), else_=above)))
    elsewhere, above_promise = connection.execute(
        select(*sums).select_from(both).where(_is_counted_by(counter))
    ).one()  # fmt: skip
    return elsewhere, above_promise


def _is_counted_by(counter: CounterName) -> ColumnElement[bool]:
    call, is_rehearsed = counter.call, _EVENT.purpose == "rehearsal"
    mine = [is_rehearsed if call.purpose == "rehearsal" else ~is_rehearsed]
    if call.run_id is not None:
        mine.append(_EVENT.run_id == call.run_id)
    if call.phase_id is not None:
        mine.append(_EVENT.phase_id == call.phase_id)
    if call.provider:
        mine.append(_EVENT.provider == call.provider)
    if call.role:
        mine.append(_EVENT.role == call.role)
    if counter.span is not None:
        mine += [_EVENT.occurred_at >= counter.span.start, _EVENT.occurred_at < counter.span.end]
    return and_(*mine)
