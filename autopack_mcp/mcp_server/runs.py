"""The reading tools about runs: ``get_run_status`` and ``list_runs``.

It owns what a status says in the little room a chat has: everything that was promised, and of phases and notes those
that matter now. The numbers are the summary's; the whole of it is a resource.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

from mcp.types import CallToolResult
from pydantic import Field

from autopack_mcp.mcp_server.answers import Answer, first_that_fits, how_many_fit, known, numbered, result_of, short
from autopack_mcp.mcp_server.orders import alerts_shown, orders_shown
from autopack_mcp.mcp_server.tool import StrictTool, tool_of
from autopack_mcp.summary.shown import plain, tokens_text, usd_text

if TYPE_CHECKING:
    from autopack_mcp.summary.needs import NeedsYou
    from autopack_mcp.summary.run import NoteView, PhaseView, RunLine, RunList, RunSummary
    from autopack_mcp.summary.summaries import Summaries

CURSOR_CHARS = 110  # As long as the longest cursor: sixteen digits and a run id of 64 characters, in base64.
NAME_BYTES = 60  # Of a plan's name in a list.
NOTICE_BYTES = 400  # Of what is wrong with the configuration, in a list.
RUNS_AT_FIRST = 10  # Of a list, unless asked for more: a chat wants the newest.

# Promised by name (docs/mcp.md): always there, null included. The names are texts, and cut to the room.
NAMES = ("current_tier_name", "current_phase_name")
NUMBERS = (
    "current_tier_index", "current_phase_index", "total_tiers", "total_phases", "completed_tiers", "completed_phases",
    "percent_complete", "tokens_used", "token_cap", "minor_issues_count", "major_issues_count", "cost_usd",
    "cost_cap_usd",
)  # fmt: skip
# Their siblings: there when they say something.
SIBLINGS = (
    "tokens_reserved", "unpriced_calls", "is_rehearsal", "current_attempt",
    "aliases", "created_at", "started_at", "finished_at", "updated_at",
    "forked_from",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Room:
    """How much of the growing parts is shown: phases, notes, requests, orders (and alerts), and bytes of a text."""

    phases: int
    notes: int
    requests: int
    orders: int
    text: int


# From generous to what fits whatever people and models have written.
ROOMS = (Room(8, 5, 5, 3, 400), Room(6, 4, 3, 3, 200), Room(5, 3, 2, 2, 140), Room(3, 2, 1, 1, 60))


class RunTools:
    """The two tools; a status that has not changed since it was last asked for is not built again."""

    def __init__(self, summaries: Summaries) -> None:
        self._summaries = summaries
        self._last: tuple[RunSummary, CallToolResult] | None = None

    def tools(self) -> list[StrictTool]:
        """Both, the status first."""
        return [
            tool_of(self.get_run_status, title="Run status"),
            tool_of(self.list_runs, title="Runs"),
        ]

    async def get_run_status(
        self, run_id: Annotated[str | None, Field(description="Default: the current run")] = None
    ) -> CallToolResult:
        """How a run stands: state, tier and phase, percent, tokens and cost against caps, notes, what needs the person.

        Without run_id it is the current run, or a list of the unfinished ones when there are several. The summary's
        type is imported late (server.py).
        """
        from autopack_mcp.summary.run import RunList

        found = await (self._summaries.current() if run_id is None else self._summaries.run(run_id))
        if isinstance(found, RunList):
            return result_of(_unfinished(found))
        if self._last is None or self._last[0] is not found:
            self._last = (found, result_of(run_status(found)))
        return self._last[1]

    async def list_runs(
        self,
        limit: Annotated[int, Field(description="1 to 100")] = RUNS_AT_FIRST,
        cursor: Annotated[str | None, Field(description="next_cursor of the answer before")] = None,
    ) -> Answer:
        """Runs, newest first, with state, percent, tokens and cost."""
        while True:
            found = await self._summaries.runs(limit, cursor)
            fitting = how_many_fit(partial(_run_list, found), len(found.runs))
            if fitting == len(found.runs):
                return _run_list(found, fitting)
            # Asked again for as many as fit, so that next_cursor continues exactly there.
            limit = max(fitting, 1)


def run_status(run: RunSummary) -> Answer:
    """A run's status in at most ``RESULT_BYTES``; ``truncated`` says what was left out and where it stands."""
    return first_that_fits(lambda room: _status(run, room), ROOMS)


def _status(run: RunSummary, room: Room) -> Answer:
    notes = [note for note in run.notes if note.in_force]
    phases = phases_that_matter(run.phases, run.current_phase_id, room.phases)
    return {
        "headline": _headline(run, room),
        "run_id": run.run_id,
        "state": run.state,
        **{name: _short(getattr(run, name), room) for name in NAMES},
        **{name: plain(getattr(run, name)) for name in NUMBERS},
        "needs_you": _needs_you(run.needs_you, room),
        **known(
            notice=short(run.notice, room.text),
            why=short(run.why, room.text),
            current_phase_state=run.current_phase_words,
            **{name: plain(getattr(run, name)) for name in SIBLINGS},
            last_summary=_short(run.last_summary, room),
            pending_requests=[
                {"action": request.action, "author": short(request.author, room.text)}
                for request in run.pending_requests[: room.requests]
            ],
            notes=[_note(note, room) for note in notes[len(notes) - room.notes :]],
            notes_in_force=len(notes),
            orders=orders_shown(run.orders, room.orders, room.text),
            alerts=alerts_shown(run.alerts, room.orders, room.text),
            phases=[_phase(phase, room) for phase in phases],
            plan_name=short(run.plan_name, room.text),
            branch=short(run.branch, room.text),
            supervisor=short(run.supervisor, room.text),
            truncated=_truncated(run, room, len(phases), len(notes)),
        ),
    }


def _headline(run: RunSummary, room: Room) -> str:
    kind = "Rehearsal" if run.is_rehearsal else "Run"
    where = ""
    if run.current_phase_name is not None and run.finished_at is None:
        where = (
            f", tier {run.current_tier_index} of {run.total_tiers}, phase {run.current_phase_index} of"
            f" {run.total_phases} {short(run.current_phase_name, room.text // 4)!r}"
        )
    cap = "" if run.token_cap is None else f" of {tokens_text(run.token_cap)}"
    needs = "" if run.needs_you is None else f" Needs you: say {short(run.needs_you.say, room.text)!r}."
    spent = f"{tokens_text(run.tokens_used)}{cap} tokens, {usd_text(run.cost_usd, run.unpriced_calls)}"
    bought = " (rehearsed, nothing was bought)" if run.is_rehearsal else ""
    return f"{kind} {run.run_id}: {run.state}, {run.percent_complete:g} %{where}; {spent}{bought}.{needs}"


def phases_that_matter(phases: Sequence[PhaseView], current_id: str | None, most: int) -> Sequence[PhaseView]:
    """Up to ``most`` phases in plan order: all, or the failed ones and those around the current one."""
    if len(phases) <= most:
        return phases
    current = next((index for index, phase in enumerate(phases) if phase.phase_id == current_id), len(phases) - 1)

    def rank(index: int) -> tuple[bool, bool, int]:
        # The current phase before everything, then what failed, then what is near; of two neighbours the later one.
        return index != current, phases[index].state != "failed", abs(2 * (index - current) - 1)

    return [phases[index] for index in sorted(sorted(range(len(phases)), key=rank)[:most])]


def _phase(phase: PhaseView, room: Room) -> Answer:
    return known(
        phase_id=short(phase.phase_id, room.text // 4),
        name=short(phase.name, room.text // 4),
        state=phase.state_words,
        attempt=phase.attempt,
        token_cap=phase.token_cap,
        cost_cap_usd=plain(phase.cost_cap_usd),
        why=short(phase.why, room.text // 2),
        is_verified=phase.is_verified,
        builder_model=short(phase.builder_model or "", room.text // 4),
        commit=(phase.commit or "")[:10],
    )


def _note(note: NoteView, room: Room) -> Answer:
    return {
        "note_id": note.note_id,
        "text": short(note.text, room.text // 2),
        "author": short(note.author, room.text // 4),
        "delivered": short(note.delivered, room.text // 2),
    }


def _needs_you(needs: NeedsYou | None, room: Room) -> Answer | None:
    return None if needs is None else {"what": short(needs.what, room.text), "say": short(needs.say, room.text)}


def _short(text: str | None, room: Room) -> str | None:
    return None if text is None else short(text, room.text)


def _truncated(run: RunSummary, room: Room, phases: int, notes_in_force: int) -> str | None:
    left_out = [
        f"{shown} of {numbered(total, noun)}"
        for shown, total, noun in (
            (phases, len(run.phases), "phase"),
            (room.notes, notes_in_force, "note"),
            (room.orders, len(run.orders), "standing order"),
            (room.orders, len(run.alerts), "alert"),
        )
        if shown < total
    ]
    if not left_out:
        return None
    return f"Shown are {', '.join(left_out)}; all of it is the resource autopack://runs/{run.run_id}."


# ── lists ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _run_list(found: RunList, count: int) -> Answer:
    return {
        "headline": found.hint,
        "runs": [_run_line(run) for run in found.runs[:count]],
        "total": found.total,
        # A placeholder as long as any cursor, while it is still being measured how many fit.
        "next_cursor": found.next_cursor if count == len(found.runs) else "x" * CURSOR_CHARS,
        **known(notice=short(found.notice, NOTICE_BYTES)),
    }


def _unfinished(found: RunList) -> Answer:
    """The runs among which only a person can choose; without any, how to start one."""

    def build(count: int) -> Answer:
        left_out = f"{found.total - count} more unfinished runs; list_runs shows them." if count < found.total else None
        return {
            "headline": found.hint,
            "runs": [_run_line(run) for run in found.runs[:count]],
            "total": found.total,
            **known(notice=short(found.notice, NOTICE_BYTES), truncated=left_out),
        }

    return build(how_many_fit(build, len(found.runs)))


def _run_line(run: RunLine) -> Answer:
    return {
        "run_id": run.run_id,
        "plan_name": short(run.plan_name, NAME_BYTES),
        "state": run.state,
        "percent_complete": run.percent_complete,
        "tokens_used": run.tokens_used,
        "cost_usd": plain(run.cost_usd),
        "created_at": plain(run.created_at),
        **known(needs_you=run.needs_you, is_rehearsal=run.is_rehearsal, unpriced_calls=run.unpriced_calls),
    }
