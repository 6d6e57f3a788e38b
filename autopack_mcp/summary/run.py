"""One run as people see it: where it stands, what needs a person, what it has cost, and what was said to it.

It owns RunSummary and the list of runs, and what each of their numbers means. It changes nothing and words no tool's
answer; ``Summaries`` reads it for the tools, the page, the card and the command line, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, Literal

from sqlalchemy import Connection

from autopack_mcp.budgets.caps import CallScope, ScopeCap, shadow_prefix
from autopack_mcp.budgets.counters import ScopeUse, scope_use
from autopack_mcp.config.settings import RunSettings, Settings
from autopack_mcp.money import usd
from autopack_mcp.notes import NOTE_LIMIT, Note, notes_of_run
from autopack_mcp.runs.overview import (
    AttemptModels,
    phases_with_models,
    supervisors_known,
)
from autopack_mcp.runs.own_caps import PhaseCaps, caps_of_phases
from autopack_mcp.runs.progress import current_phase, progress_of
from autopack_mcp.runs.records import PhaseRecord, RunEventRecord, RunRecord
from autopack_mcp.runs.requests import RequestRecord, pending_requests
from autopack_mcp.runs.states import PHASE_ACTIVE, RUN_ENDED, PhaseState, RunState
from autopack_mcp.runs.store import events_of_run, run_by_id
from autopack_mcp.runs.supervision import SupervisorRecord
from autopack_mcp.summary.alerts import AlertView, alerts_of_run
from autopack_mcp.summary.needs import NeedsYou, needs_you_now, usable
from autopack_mcp.summary.notices import config_notice
from autopack_mcp.summary.orders import OrderView, orders_of_run
from autopack_mcp.summary.waiting import advancers, why_it_waits
from autopack_mcp.text_safety import visible
from autopack_mcp.usage.service import spent_by_phase
from autopack_mcp.usage.sums import Spent

EVENTS_SHOWN = 10  # The newest; the whole log is the page's business.
NAME_LIMIT = 120  # Characters of a name that a plan or a person gave.
PATH_LIMIT = 400  # Characters of a path.
WHY_LIMIT = 500  # Characters of a reason.
TEXT_LIMIT = 2_000  # Characters of a model's summary.

Verification = Literal["verified", "unverified"]


@dataclass(frozen=True, slots=True)
class RequestView:
    """Something a person asked of the run that nobody has answered yet."""

    request_id: str
    action: str
    author: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NoteView:
    """A person's words to the run. ``delivered`` is a sentence: "first in phase p2, 3 prompts so far"."""

    note_id: int
    text: str
    source: str
    author: str
    created_at: datetime
    in_force: bool
    delivered: str


@dataclass(frozen=True, slots=True)
class PhaseView:
    """One phase. ``attempt`` is 0 before the first try; models are those its newest attempt has asked.

    ``tokens_used`` is what counts against caps (see RunSummary); ``cost_usd`` is None when nothing of it has a price,
    and without the ``unpriced_calls`` otherwise. ``token_cap`` and ``cost_cap_usd`` are its own caps, None without one.
    ``is_waiting`` is true of a phase in hand whose run stands still: it goes on at that step.
    """

    phase_id: str
    name: str
    tier_index: int
    tier_name: str
    state: PhaseState
    why: str
    attempt: int
    task_category: str
    complexity: str
    is_verified: Verification | None
    commit: str | None
    minor_issues: int
    major_issues: int
    builder_model: str | None
    auditor_model: str | None
    tokens_used: int
    cost_usd: Decimal | None
    started_at: datetime | None
    finished_at: datetime | None
    unpriced_calls: int = 0
    token_cap: int | None = None
    cost_cap_usd: Decimal | None = None
    is_waiting: bool = False

    @property
    def state_words(self) -> str:
        """Its state for a person: "building", or "building (paused)" while it waits."""
        return _state_words(self.state, is_waiting=self.is_waiting)


@dataclass(frozen=True, slots=True)
class EventView:
    """Something that happened to the run; ``kind`` is "run", "phase" or what the writer called it."""

    occurred_at: datetime
    kind: str
    phase_id: str | None
    attempt: int | None
    from_state: str | None
    to_state: str | None
    why: str


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A whole run at one moment (contract 19, 25, 26). Indexes start at 1, percent is 0 to 100, times are aware UTC.

    ``tokens_used`` are the tokens charged to the run, input plus output over all its settled calls: exactly what weighs
    against ``token_cap``. A call whose truth is unknown (cut, lost) is charged its whole reservation, so this may
    exceed what providers report. ``tokens_reserved`` is promised to calls in flight and counts against the cap, too.
    ``cost_usd`` is the known cost: None when no call has a price, and without the ``unpriced_calls`` otherwise;
    ``charged_usd`` is what weighs against ``cost_cap_usd``. A rehearsal's numbers are rehearsed: nothing was bought.

    ``supervisor`` says who advances the run; ``sandbox`` how its commands are confined, None before the first one.
    ``notes`` are oldest first, ``recent_events`` newest first. ``aliases`` are the predecessor's words for ``state``.
    ``orders`` are the standing orders that may stop the run or tell of it, and those that have; ``alerts`` the newest
    ones about what it counts on; ``notice`` says when the configuration cannot be used, "" otherwise. ``forked_from``
    is the run that this one begins again from, and its phase. Texts are made visible and cut to a limit; what is longer
    ends in "…".
    """

    run_id: str
    state: RunState
    current_tier_name: str | None
    current_phase_name: str | None
    current_tier_index: int | None
    current_phase_index: int | None
    total_tiers: int
    total_phases: int
    completed_tiers: int
    completed_phases: int
    percent_complete: float
    tokens_used: int
    token_cap: int | None
    minor_issues_count: int
    major_issues_count: int
    why: str
    plan_name: str
    plan_source: str
    is_rehearsal: bool
    repository: str
    branch: str
    workspace: str
    sandbox: str | None
    supervisor: str
    needs_you: NeedsYou | None
    current_phase_id: str | None
    current_phase_state: PhaseState | None
    current_attempt: int | None
    cost_usd: Decimal | None
    charged_usd: Decimal
    unpriced_calls: int
    cost_cap_usd: Decimal | None
    tokens_reserved: int
    last_summary: str | None
    pending_requests: tuple[RequestView, ...]
    notes: tuple[NoteView, ...]
    phases: tuple[PhaseView, ...]
    recent_events: tuple[EventView, ...]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    aliases: tuple[str, ...]
    orders: tuple[OrderView, ...] = ()
    alerts: tuple[AlertView, ...] = ()
    notice: str = ""
    forked_from: str | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether it stands still with a phase in hand."""
        return _is_waiting(self.state, self.current_phase_state)

    @property
    def current_phase_words(self) -> str | None:
        """The state of the current phase for a person: "building", or "building (paused)" while it waits."""
        state = self.current_phase_state
        return None if state is None else _state_words(state, is_waiting=self.is_waiting)


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run in a list; its numbers mean what they mean in RunSummary."""

    run_id: str
    plan_name: str
    state: RunState
    percent_complete: float
    is_rehearsal: bool
    needs_you: bool
    created_at: datetime
    tokens_used: int
    cost_usd: Decimal | None
    unpriced_calls: int = 0


@dataclass(frozen=True, slots=True)
class RunList:
    """Some runs, newest first. ``next_cursor`` asks for the rest and is None at the end; ``hint`` says so in words.

    ``notice`` as in RunSummary.
    """

    runs: tuple[RunLine, ...]
    total: int
    next_cursor: str | None
    hint: str
    notice: str = ""


# The predecessor's words (contract 26), for whoever reads what a person typed.
STATE_ALIASES: Mapping[str, RunState] = {
    "in_progress": "running",
    "TIER_IN_PROGRESS": "running",
    "DONE_SUCCESS": "succeeded",
}
ACTION_ALIASES: Mapping[str, Literal["cancel"]] = {"stop": "cancel"}

_COUNTED = (
    "current_tier_index", "current_phase_index", "total_tiers", "total_phases", "completed_tiers", "completed_phases",
    "percent_complete",
)  # fmt: skip
_NOTHING = Spent()
_NO_CAPS = PhaseCaps()
_STANDING_STILL: frozenset[RunState] = frozenset({"paused", "budget_paused", "needs_attention"})


def run_summary(
    connection: Connection, run_id: str, now: datetime, settings: Callable[[], Settings] | None = None
) -> RunSummary:
    """One run as it stands. ``settings`` are asked for only while it waits for its turn or for what would help it on.

    Raises:
        RunNotFound: with the newest ids that do exist.
    """
    run = run_by_id(connection, run_id)
    known = advancers(run, supervisors_known(connection), now)
    alive = [one for one in known if one.is_alive(now)]
    waits = why_it_waits(connection, run, alive, partial(_limits, settings), now)
    found = phases_with_models(connection, run_id)
    spent = spent_by_phase(connection, run_id, is_rehearsal=run.is_rehearsal)
    phases = [phase for phase, _ in found]
    return RunSummary(
        **_identity(run if waits is None else replace(run, why=waits)),
        **_progress(phases),
        **_money(run, spent.values(), _use_of(connection, run, now)),
        supervisor=_supervisor(run, known, alive),
        needs_you=needs_you_now(connection, run, phases, now, settings, is_supervised=bool(alive)),
        pending_requests=tuple(map(_request_view, pending_requests(connection, (run_id,)))),
        notes=tuple(map(_note_view, notes_of_run(connection, run_id))),
        phases=_phase_views(connection, run, found, spent),
        recent_events=tuple(map(_event_view, events_of_run(connection, run_id, EVENTS_SHOWN))),
        orders=orders_of_run(connection, run),
        alerts=alerts_of_run(connection, run, now),
        notice=config_notice(settings),
    )


# ── one run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _identity(run: RunRecord) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "state": run.state,
        "why": visible(run.why, WHY_LIMIT),
        "plan_name": visible(run.plan_name, NAME_LIMIT),
        "plan_source": visible(run.plan_source, PATH_LIMIT),
        "is_rehearsal": run.is_rehearsal,
        "repository": visible(run.repository, PATH_LIMIT),
        "branch": run.branch,
        "workspace": visible(run.workspace, PATH_LIMIT),
        "sandbox": None if run.sandbox is None else visible(run.sandbox, WHY_LIMIT),
        "last_summary": None if run.last_summary is None else visible(run.last_summary, TEXT_LIMIT, multiline=True),
        "created_at": run.created_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "updated_at": run.updated_at,
        "forked_from": _origin(run),
        "aliases": tuple(word for word, state in STATE_ALIASES.items() if state == run.state),
    }


def _origin(run: RunRecord) -> str | None:
    if run.forked_from_run is None:
        return None
    return f"{run.forked_from_run}, phase {visible(run.forked_from_phase or '', NAME_LIMIT)}"


def _progress(phases: Sequence[PhaseRecord]) -> dict[str, Any]:
    progress = progress_of(phases)
    current = current_phase(phases)
    return {
        **{name: getattr(progress, name) for name in _COUNTED},
        "current_tier_name": None if current is None else visible(current.tier_name, NAME_LIMIT),
        "current_phase_name": None if current is None else visible(current.name, NAME_LIMIT),
        "current_phase_id": None if current is None else visible(current.phase_id, NAME_LIMIT),
        "current_phase_state": None if current is None else current.state,
        "current_attempt": None if current is None else current.attempt,
        "minor_issues_count": sum(phase.minor_issues for phase in phases),
        "major_issues_count": sum(phase.major_issues for phase in phases),
    }


def _money(run: RunRecord, spent: Collection[Spent], use: ScopeUse) -> dict[str, Any]:
    unpriced_calls = sum(part.unpriced_calls for part in spent)
    whole = Spent(sum(part.calls for part in spent), unpriced_calls, cost_nano=sum(part.cost_nano for part in spent))
    return {
        "tokens_used": use.settled_tokens,
        "tokens_reserved": use.reserved_tokens,
        "token_cap": run.token_cap,
        "cost_usd": whole.cost_usd,
        "charged_usd": usd(use.settled_nano),
        "unpriced_calls": unpriced_calls,
        "cost_cap_usd": None if run.cost_cap_nano is None else usd(run.cost_cap_nano),
    }


def _use_of(connection: Connection, run: RunRecord, now: datetime) -> ScopeUse:
    """The counter that the ledger compares with the run's cap; it exists, or is worked out, without a cap as well."""
    scope = CallScope("", "", "rehearsal" if run.is_rehearsal else "run", run.run_id)
    cap = ScopeCap(f"{shadow_prefix(scope)}run/{run.run_id}", "run", "", None, None)
    return scope_use(connection, scope, cap, now)


def _phase_views(
    connection: Connection,
    run: RunRecord,
    found: Sequence[tuple[PhaseRecord, AttemptModels]],
    spent: Mapping[str, Spent],
) -> tuple[PhaseView, ...]:
    caps = caps_of_phases(connection, run.run_id)
    return tuple(
        _phase_view(run.state, phase, models, spent.get(phase.phase_id, _NOTHING), caps.get(phase.phase_id, _NO_CAPS))
        for phase, models in found
    )


def _phase_view(
    run_state: RunState, phase: PhaseRecord, models: AttemptModels, spent: Spent, caps: PhaseCaps
) -> PhaseView:
    return PhaseView(
        phase_id=visible(phase.phase_id, NAME_LIMIT),
        name=visible(phase.name, NAME_LIMIT),
        tier_index=phase.tier_index,
        tier_name=visible(phase.tier_name, NAME_LIMIT),
        state=phase.state,
        why=visible(phase.why, WHY_LIMIT),
        attempt=phase.attempt,
        task_category=visible(phase.task_category, NAME_LIMIT),
        complexity=visible(phase.complexity, NAME_LIMIT),
        is_verified=_verification(phase),
        commit=phase.commit_sha,
        minor_issues=phase.minor_issues,
        major_issues=phase.major_issues,
        builder_model=models.builder,
        auditor_model=models.auditor,
        tokens_used=spent.charged_tokens,
        cost_usd=spent.cost_usd,
        unpriced_calls=spent.unpriced_calls,
        started_at=phase.started_at,
        finished_at=phase.finished_at,
        token_cap=caps.tokens,
        cost_cap_usd=None if caps.nano_usd is None else usd(caps.nano_usd),
        is_waiting=_is_waiting(run_state, phase.state),
    )


def _is_waiting(run_state: RunState, phase_state: PhaseState | None) -> bool:
    return run_state in _STANDING_STILL and phase_state in PHASE_ACTIVE


def _state_words(state: PhaseState, *, is_waiting: bool) -> str:
    return f"{state} (paused)" if is_waiting else state


def _verification(phase: PhaseRecord) -> Verification | None:
    if phase.is_verified is None:
        return None
    return "verified" if phase.is_verified else "unverified"


def _request_view(request: RequestRecord) -> RequestView:
    return RequestView(request.request_id, request.action, visible(request.author, NAME_LIMIT), request.created_at)


def _note_view(note: Note) -> NoteView:
    return NoteView(
        note_id=note.note_id,
        text=visible(note.text, NOTE_LIMIT, multiline=True),
        source=note.source,
        author=visible(note.author, NAME_LIMIT),
        created_at=note.created_at,
        in_force=note.withdrawn_at is None,
        delivered=_delivery(note),
    )


def _delivery(note: Note) -> str:
    if note.delivered_count == 0:
        return "not delivered yet" if note.withdrawn_at is None else "withdrawn before it was delivered"
    where = (
        "outside any phase" if note.first_phase_id is None else f"in phase {visible(note.first_phase_id, NAME_LIMIT)}"
    )
    prompts = "1 prompt" if note.delivered_count == 1 else f"{note.delivered_count} prompts"
    return f"first {where}, {prompts} {'so far' if note.withdrawn_at is None else 'until it was withdrawn'}"


def _event_view(event: RunEventRecord) -> EventView:
    return EventView(
        occurred_at=event.occurred_at,
        kind=event.kind,
        phase_id=None if event.phase_id is None else visible(event.phase_id, NAME_LIMIT),
        attempt=event.attempt,
        from_state=event.from_state,
        to_state=event.to_state,
        why=visible(event.why, WHY_LIMIT),
    )


def _limits(settings: Callable[[], Settings] | None) -> RunSettings:
    found = usable(settings)
    return RunSettings() if found is None else found.runs


# ── who acts next ────────────────────────────────────────────────────────────────────────────────────────────────────


def _supervisor(run: RunRecord, known: Sequence[SupervisorRecord], alive: Sequence[SupervisorRecord]) -> str:
    if run.state in RUN_ENDED:
        return "none is needed, the run has ended"
    if alive:
        return "; ".join(map(_named, alive))
    if known:
        last = known[0]
        return (
            f"no supervisor is running; the one on {last.machine} was last alive at {last.lease_expires_at:%F %T} UTC"
        )
    return "no supervisor is running" if run.machine is None else f"no supervisor is running on {run.machine}"


def _named(one: SupervisorRecord) -> str:
    if one.kind == "worker":
        return f"the worker {one.machine} (process {one.pid})"
    return f"the supervisor on {one.machine} (process {one.pid}, {one.url})"
