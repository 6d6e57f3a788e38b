"""Recomputes everything that the ledger promises, from its events and reservations, and says what does not add up.

It owns the rules between reservations, events and counters; what events prove alone stands in ``usage.check``. It reads
one moment of the database and changes nothing. The command line asks it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, Table, and_, case, func, not_, or_, select

from autopack_mcp.budgets.counter_names import read_counter_name
from autopack_mcp.budgets.counters import ScopeUse
from autopack_mcp.budgets.overruns import overruns
from autopack_mcp.budgets.true_uses import true_uses
from autopack_mcp.config.settings import Settings
from autopack_mcp.database.tables import budget_scopes, reservations, usage_events
from autopack_mcp.usage.check import Difference, differences_of_events

SHOWN_LIMIT = 1_000  # Differences that are kept; of a file damaged beyond that, the number says enough.

_EVENT = usage_events.c
_RESERVED = reservations.c


@dataclass(frozen=True, slots=True)
class LedgerCheck:
    """What was recomputed and what of it differs. ``notes`` are caps that stand exceeded for a reason that is known.

    ``differences`` are the first ``SHOWN_LIMIT`` of ``difference_count``.
    """

    events: int
    reservations: int
    counters: int
    difference_count: int
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    @property
    def adds_up(self) -> bool:
        """Whether there is no difference."""
        return self.difference_count == 0


def check_ledger(connection: Connection, settings: Settings, now: datetime) -> LedgerCheck:
    """Recompute every invariant of docs/accounting.md; one read, so all of it is of one moment.

    Only what differs is ever in memory, and the counters.
    """
    uses = _uses(connection)
    found = chain(differences_of_events(connection), _wrong_reservations(connection), _strangers(connection),
                  wrong_counters(connection, uses))  # fmt: skip
    shown = tuple(islice(found, SHOWN_LIMIT))
    return LedgerCheck(
        events=_count(connection, usage_events),
        reservations=_count(connection, reservations),
        counters=len(uses),
        difference_count=len(shown) + sum(1 for _ in found),
        differences=shown,
        notes=tuple(str(overrun) for overrun in overruns(connection, settings, now, uses)),
    )


def wrong_counters(connection: Connection, uses: dict[str, ScopeUse] | None = None) -> Iterator[Difference]:
    """Every counter that does not say what its events and held reservations say, in alphabetical order.

    Of a rehearsal's window nobody knows where it started: it must hold what is reserved, and no less than was spent.
    """
    uses = _uses(connection) if uses is None else uses
    truth = true_uses(connection, uses)
    for name, use in uses.items():
        counter = read_counter_name(name)
        if counter is None:
            yield Difference(f"counter {name}", "the name", "of nothing that is counted", "a provider's, a run's …")
            continue
        for number in ScopeUse._fields:
            found, true = getattr(use, number), getattr(truth[name], number)
            is_start_unknown = counter.is_shadow_window and number.startswith("settled")
            if found < true or (found > true and not is_start_unknown):
                least = "at least " if is_start_unknown else ""
                yield Difference(f"counter {name}", number, f"{found:,}", f"{least}{true:,}")


def _uses(connection: Connection) -> dict[str, ScopeUse]:
    counters = budget_scopes.c
    numbers = (counters[number] for number in ScopeUse._fields)
    rows = connection.execute(select(counters.scope, *numbers).order_by(counters.scope))
    return {name: ScopeUse(*use) for name, *use in rows}


def _count(connection: Connection, table: Table) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


# ── reservations and events ──────────────────────────────────────────────────────────────────────────────────────────

_IS_BILLED = _RESERVED.state.in_(("settled", "expired"))
_HAS_EVENT = _EVENT.call_id.is_not(None)
_PROMISE = _RESERVED.bound_input + _RESERVED.bound_output
_COUNTED = (
    _EVENT.uncached_input + _EVENT.cache_read + _EVENT.cache_write_5m + _EVENT.cache_write_1h
    + _EVENT.cache_write_other + _EVENT.output
)  # fmt: skip
_IS_KNOWN = _EVENT.usage_source == "provider"
_PROMISE_NANO = func.coalesce(_RESERVED.bound_nano, 0)
_LEAST_NANO = func.coalesce(_EVENT.cost_nano, 0)
# What a call is charged: its truth, or its whole promise while only a part of the truth is known.
_CHARGE = case((or_(_IS_KNOWN, _COUNTED > _PROMISE), _COUNTED), else_=_PROMISE)
_CHARGE_NANO = case(
    (and_(_IS_KNOWN, _EVENT.cost_nano.is_not(None)), _EVENT.cost_nano),
    (or_(_IS_KNOWN, _LEAST_NANO <= _PROMISE_NANO), _PROMISE_NANO),
    else_=_LEAST_NANO,
)
# Who pays, and when: decided when the call is reserved, whatever is reported later.
_ACCOUNT = ("provider", "role", "purpose", "run_id", "phase_id")


def _wrong_reservations(connection: Connection) -> Iterator[Difference]:
    """Reservations that were not resolved exactly once, and events that do not stand where their reservation does."""
    same_account = and_(
        *(_EVENT[name].is_not_distinct_from(_RESERVED[name]) for name in _ACCOUNT),
        _EVENT.occurred_at == _RESERVED.reserved_at,
    )
    rules = {
        "is_resolved_once": _IS_BILLED == _HAS_EVENT,
        "is_ended": (_RESERVED.state == "held") == _RESERVED.resolved_at.is_(None),
        "is_lost": or_(_EVENT.status.is_(None), _EVENT.status != "expired", _RESERVED.state == "expired"),
        "is_ours": or_(_EVENT.status.is_(None), _EVENT.status != "external"),
        "has_account": or_(not_(_HAS_EVENT), same_account),
        "has_charge": or_(not_(_HAS_EVENT), and_(_EVENT.charged_tokens == _CHARGE)),
        "has_charge_nano": or_(not_(_HAS_EVENT), and_(_EVENT.charged_nano == _CHARGE_NANO)),
    }
    seen = (_RESERVED.call_id, _RESERVED.state, _HAS_EVENT.label("has_event"), _EVENT.status, _EVENT.charged_tokens,
            _EVENT.charged_nano, _CHARGE.label("charge"), _CHARGE_NANO.label("charge_nano"))  # fmt: skip
    both = reservations.outerjoin(usage_events, _EVENT.call_id == _RESERVED.call_id)
    broken = [not_(rule).label(name) for name, rule in rules.items()]
    found = select(*seen, *broken).select_from(both).where(not_(and_(*rules.values()))).order_by(_RESERVED.call_id)
    for row in _streamed(connection, found):
        yield from _differences_of(row)


def _differences_of(row: RowMapping) -> Iterator[Difference]:
    where, state = f"reservation {row['call_id']}", row["state"]
    if row["is_resolved_once"]:
        has, wants = ("an event", "none") if row["has_event"] else ("no event", "one")
        yield Difference(where, f"what a {state} call left", has, wants)
    if row["is_ended"]:
        yield Difference(where, f"the end of a {state} call", *_MISSING_OR_NOT[state != "held"])
    if row["is_lost"]:
        yield Difference(where, "the state of a call that was lost", state, "expired")
    if row["is_ours"]:
        yield Difference(where, "the status of a call that was reserved", "external", "that of a call of ours")
    if row["has_account"]:
        yield Difference(f"event {row['call_id']}", "who pays and when", "not as reserved", "as reserved")
    if row["has_charge"]:
        yield Difference(
            f"event {row['call_id']}", "charged_tokens", f"{row['charged_tokens']:,}", f"{row['charge']:,}"
        )
    if row["has_charge_nano"]:
        charged, true = row["charged_nano"], row["charge_nano"]
        yield Difference(f"event {row['call_id']}", "charged_nano", f"{charged:,}", f"{true:,}")


_MISSING_OR_NOT = {True: ("unknown", "a time"), False: ("a time", "unknown")}


def _strangers(connection: Connection) -> Iterator[Difference]:
    """Events of calls that were never reserved: only calls made elsewhere may be, and they weigh what they say."""
    both = usage_events.outerjoin(reservations, _EVENT.call_id == _RESERVED.call_id)
    is_right = and_(_EVENT.status == "external", _EVENT.charged_tokens == _COUNTED, _EVENT.charged_nano == _LEAST_NANO)
    seen = (_EVENT.call_id, _EVENT.status, _EVENT.charged_tokens, _EVENT.charged_nano)
    found = select(*seen, _COUNTED.label("counted"), _LEAST_NANO.label("cost")).select_from(both)
    for row in _streamed(connection, found.where(_RESERVED.call_id.is_(None), not_(is_right)).order_by(_EVENT.call_id)):
        where = f"event {row['call_id']}"
        if row["status"] != "external":
            yield Difference(where, "its reservation", "missing", "there, or the status external")
        elif row["charged_tokens"] != row["counted"]:
            yield Difference(where, "charged_tokens", f"{row['charged_tokens']:,}", f"{row['counted']:,}")
        else:
            yield Difference(where, "charged_nano", f"{row['charged_nano']:,}", f"{row['cost']:,}")


def _streamed(connection: Connection, found: Select[Any]) -> Iterator[RowMapping]:
    yield from connection.execute(found.execution_options(yield_per=500)).mappings()
