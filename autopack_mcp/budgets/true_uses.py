"""What the counters must say: all events that they count, and all reservations that are still held.

It owns that truth for any set of counters at once, in two passes over the events however many counters there are; it
changes nothing and asks no counter. ``check`` compares the counters with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, String, case, literal_column, null, select

from autopack_mcp.budgets.caps import CallScope, phase_scope, run_scope, scopes_of_call, shadow_prefix
from autopack_mcp.budgets.counters import ScopeUse
from autopack_mcp.database.tables import pruned_phases, reservations, usage_days, usage_events
from autopack_mcp.usage.true_sums import DAY_US, pruned_before, start_of, total, within

_EVENT = usage_events.c
# In the text and no parameter, for what is grouped by it (see ``true_sums``).
_REHEARSAL = literal_column("'rehearsal'", String)


@dataclass(slots=True)
class _Sums:
    """Uses by counter, growing; only counters that were asked for are kept."""

    uses: dict[str, ScopeUse]

    def add(self, names: Iterable[str], more: ScopeUse) -> None:
        for name in names:
            use = self.uses.get(name)
            if use is not None:
                self.uses[name] = ScopeUse(
                    use.settled_tokens + more.settled_tokens,
                    use.reserved_tokens + more.reserved_tokens,
                    use.settled_nano + more.settled_nano,
                    use.reserved_nano + more.reserved_nano,
                )


def true_uses(connection: Connection, names: Iterable[str]) -> Mapping[str, ScopeUse]:
    """What each of these counters must say; for a rehearsal's window only what the rehearsal added to its start.

    The events of closed windows may have gone by age; then the sums of their days stand for them.
    """
    sums = _Sums({name: ScopeUse() for name in names})
    for call, day, settled in _settled_by_day(connection):
        sums.add(_windows_of(call, day), settled)
    for call, settled in _settled_by_phase(connection):
        sums.add(_runs_of(call), settled)
    for call, reserved_at, promised in _held(connection):
        sums.add(scopes_of_call(call, reserved_at), promised)
    return sums.uses


def _windows_of(call: CallScope, day: datetime) -> Iterator[str]:
    """The windows alone: here a call names its run only where that decides whose shadow it counts in."""
    of_run = set(_runs_of(call))
    return (name for name in scopes_of_call(call, day) if name not in of_run)


def _runs_of(call: CallScope) -> Iterator[str]:
    prefix = shadow_prefix(call)
    if call.run_id is not None:
        yield run_scope(prefix, call.run_id)
        if call.phase_id is not None:
            yield phase_scope(prefix, call.run_id, call.phase_id)


def _settled_by_day(connection: Connection) -> Iterator[tuple[CallScope, datetime, ScopeUse]]:
    since = pruned_before(connection)
    found = [_days_of_events(since)] if since is None else [_days_of_events(since), _days_of_sums(since)]
    for query in found:
        for day, purpose, provider, role, run_id, tokens, nano in _streamed(connection, query):
            yield CallScope(provider, role, purpose, run_id), day, ScopeUse(settled_tokens=tokens, settled_nano=nano)


def _days_of_events(since: datetime | None) -> Select[Any]:
    day = start_of(_EVENT.occurred_at, DAY_US)
    rehearsing = case((_EVENT.purpose == _REHEARSAL, _EVENT.run_id))
    keys = (day, _EVENT.purpose, _EVENT.provider, _EVENT.role, rehearsing)
    sums = (total(_EVENT.charged_tokens), total(_EVENT.charged_nano))
    return select(*keys, *sums).where(*within(_EVENT.occurred_at, since, None)).group_by(*keys)


def _days_of_sums(before: datetime) -> Select[Any]:
    days = usage_days.c
    keys = (days.day_start, days.purpose, days.provider, days.role)
    sums = (total(days.charged_tokens), total(days.charged_nano))
    is_past = (days.day_start < before, days.purpose != _REHEARSAL)
    return select(*keys, null(), *sums).where(*is_past).group_by(*keys)


def _settled_by_phase(connection: Connection) -> Iterator[tuple[CallScope, ScopeUse]]:
    for table in (usage_events, pruned_phases):
        keys = (table.c.run_id, table.c.phase_id, table.c.purpose)
        sums = (total(table.c.charged_tokens), total(table.c.charged_nano))
        found = select(*keys, *sums).where(table.c.run_id.is_not(None)).group_by(*keys)
        for run_id, phase_id, purpose, tokens, nano in _streamed(connection, found):
            # In sums "" stands for no phase.
            call = CallScope("", "", purpose, run_id, phase_id or None)
            yield call, ScopeUse(settled_tokens=tokens, settled_nano=nano)


def _held(connection: Connection) -> Iterator[tuple[CallScope, datetime, ScopeUse]]:
    held = reservations.c
    bound = held.bound_input + held.bound_output
    columns = (held.provider, held.role, held.purpose, held.run_id, held.phase_id)
    found = select(*columns, held.reserved_at, bound, held.bound_nano).where(held.state == "held")
    for *scope, reserved_at, tokens, nano in _streamed(connection, found):
        yield CallScope(*scope), reserved_at, ScopeUse(reserved_tokens=tokens, reserved_nano=nano or 0)


def _streamed(connection: Connection, found: Select[Any]) -> Iterator[Any]:
    yield from connection.execute(found.execution_options(yield_per=500))
