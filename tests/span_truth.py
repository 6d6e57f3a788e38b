"""What must hold of the spans of any run that has ended, however often its process was killed on the way."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import Connection, select

from autopack_mcp.database.tables import attempts, usage_events
from autopack_mcp.traces.spans import Span, spans_of_run


def assert_spans_add_up(connection: Connection, run_id: str) -> None:
    """One tree, all of it ended: a span for each attempt and each booked call, and for each step one of what counts."""
    found = spans_of_run(connection, run_id)
    ids = {span.span_id for span in found}
    assert [span for span in found if span.ended_at is None or span.ended_at < span.started_at] == []
    assert [span.kind for span in found if span.parent_id is None] == ["run"]
    assert [span for span in found if span.parent_id is not None and span.parent_id not in ids] == []
    assert len({span.trace_id for span in found}) == 1
    booked = connection.execute(select(usage_events.c.call_id).where(usage_events.c.run_id == run_id)).scalars()
    assert sorted(span.call_id or "" for span in found if span.kind == "llm_call") == sorted(booked)
    rows = select(attempts.c.phase_id, attempts.c.attempt).where(attempts.c.run_id == run_id)
    tried = [tuple(row) for row in connection.execute(rows)]
    assert sorted(_of_kind(found, "attempt")) == sorted(tried)


def steps_done(connection: Connection, run_id: str) -> Counter[str]:
    """How often each step of a run was done, by what its span is called; making the workspace ready is no step."""
    kinds = ("verification", "git")
    return Counter(span.name for span in spans_of_run(connection, run_id) if span.kind in kinds)


def _of_kind(found: tuple[Span, ...], kind: str) -> list[tuple[str | None, int | None]]:
    return [(span.phase_id, span.attempt) for span in found if span.kind == kind]
