"""What calls weighed: those of one rehearsal, and how long a person's own answers were, for an estimate.

It owns two questions asked of the ledger; what they come to in dollars and against caps is ``summary.estimate``'s.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, and_, select

from autopack_mcp.database.tables import phases, reservations, usage_events

CALLS_READ = 2_000  # The newest answers; older ones are of other models and other work.


@dataclass(frozen=True, slots=True)
class RehearsedCall:
    """One call of a rehearsal, in the order it was asked. ``bound_*`` are what was reserved for it."""

    phase_id: str
    role: str
    attempt: int
    provider: str
    model: str
    bound_input: int
    bound_output: int
    bound_nano: int | None


@dataclass(frozen=True, slots=True)
class PastAnswer:
    """How many tokens a real answer to a phase had."""

    role: str
    category: str
    complexity: str
    output: int


def rehearsed_calls(connection: Connection, run_id: str) -> tuple[RehearsedCall, ...]:
    """The calls of a rehearsed run about its phases."""
    columns = [reservations.c[name] for name in RehearsedCall.__dataclass_fields__]
    mine = and_(reservations.c.run_id == run_id, reservations.c.purpose == "rehearsal", reservations.c.attempt > 0)
    found = select(*columns).where(mine, reservations.c.phase_id.is_not(None))
    rows = connection.execute(found.order_by(reservations.c.reserved_at, reservations.c.call_id))
    return tuple(RehearsedCall(*row) for row in rows)


def past_answers(connection: Connection) -> tuple[PastAnswer, ...]:
    """The newest answers of real builders and auditors whose tokens the provider has counted."""
    columns = usage_events.c
    same = and_(phases.c.run_id == columns.run_id, phases.c.phase_id == columns.phase_id)
    answered = and_(columns.purpose == "run", columns.status == "ok", columns.usage_source == "provider")
    found = (
        select(columns.role, phases.c.task_category, phases.c.complexity, columns.output)
        .select_from(usage_events.join(phases, same))
        .where(answered, columns.role.in_(("builder", "auditor")))
        .order_by(columns.occurred_at.desc())
        .limit(CALLS_READ)
    )
    return tuple(PastAnswer(*row) for row in connection.execute(found))
