"""Whether a call made elsewhere is on record already: by its own id, or by its answer under another id.

It reads what is stored and what the transaction has booked and not written yet, for all operations of a batch
together. What to do about a repetition is the ledger's business.
"""

from __future__ import annotations

from sqlalchemy import Connection, bindparam

from autopack_mcp.database.bare import BareLookup
from autopack_mcp.database.batch import kept
from autopack_mcp.database.tables import usage_events
from autopack_mcp.usage.event import UsageEvent
from autopack_mcp.usage.rollup import KeptEvents

_Answer = tuple[str, str]

_CALLS = BareLookup((usage_events.c.call_id,), usage_events.c.call_id)
_ANSWERS = BareLookup(
    (usage_events.c.response_id,),
    usage_events.c.response_id,
    where=(usage_events.c.provider == bindparam("wanted_provider"),),
)


class KeptBookings:
    """Which calls and answers that the operations of one transaction name are stored."""

    def __init__(self) -> None:
        self._foreseen: dict[str, UsageEvent] = {}
        self._looked_up: set[str] = set()
        self._calls: set[str] = set()
        self._answers: set[_Answer] = set()

    def foresee(self, event: UsageEvent) -> None:
        """Look this one up together with whatever is looked up next."""
        self._foreseen[event.call_id] = event

    def holds(self, connection: Connection, event: UsageEvent) -> bool:
        """Whether the call, or its answer under whatever call id, is stored."""
        if event.call_id not in self._looked_up or self._foreseen.get(event.call_id) is not event:
            self._look_up(connection, {**self._foreseen, event.call_id: event})
        return event.call_id in self._calls or _answer_of(event) in self._answers

    def flush(self, connection: Connection) -> None:
        """Forget them: what was unknown may be stored now."""
        for known in (self._foreseen, self._looked_up, self._calls, self._answers):
            known.clear()

    def _look_up(self, connection: Connection, events: dict[str, UsageEvent]) -> None:
        self._calls.update(row[0] for row in _CALLS.rows(connection, events))
        by_provider: dict[str, set[str]] = {}
        for event in events.values():
            if event.response_id:
                by_provider.setdefault(event.provider, set()).add(event.response_id)
        for provider, answers in by_provider.items():
            rows = _ANSWERS.rows(connection, answers, wanted_provider=provider)
            self._answers.update((provider, row[0]) for row in rows)
        self._looked_up.update(events)


def is_booked(connection: Connection, event: UsageEvent) -> bool:
    """Whether a call, or its answer under whatever call id, is booked; asked by an operation that takes part."""
    return kept(connection, KeptEvents).holds(event) or kept(connection, KeptBookings).holds(connection, event)


def _answer_of(event: UsageEvent) -> _Answer:
    return event.provider, event.response_id or ""
