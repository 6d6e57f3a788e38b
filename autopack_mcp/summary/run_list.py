"""Runs in a list, page by page, and the run that is meant when a person names none.

It owns the order of the list and its cursor; what one run looks like is ``run``'s. ``Summaries`` reads it.
"""

from __future__ import annotations

import re
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy import Connection

from autopack_mcp.clock import from_us, to_us
from autopack_mcp.config.settings import Settings
from autopack_mcp.errors import RequestRefused
from autopack_mcp.runs.overview import PhaseCounts, phase_counts, runs_after, supervisors_known
from autopack_mcp.runs.records import RunRecord
from autopack_mcp.runs.store import count_runs, unfinished_runs
from autopack_mcp.summary.needs import waits_for_person
from autopack_mcp.summary.notices import config_notice
from autopack_mcp.summary.run import NAME_LIMIT, RunLine, RunList, RunSummary, run_summary
from autopack_mcp.summary.waiting import advancers
from autopack_mcp.text_safety import visible
from autopack_mcp.usage.service import spent_by_run
from autopack_mcp.usage.sums import Spent

RUNS_SHOWN = 20  # Of a list, unless asked for more.
RUNS_LIMIT = 100  # One answer stays readable, and small enough for a chat.
NO_RUNS = "There are no runs yet. Start one with a plan: `autopack-mcp start PLAN`, or say which plan to start."

_CURSOR = re.compile(r"(?P<created_us>[0-9]{1,16}) (?P<run_id>[A-Za-z0-9._-]{1,64})")
_NO_PHASES = PhaseCounts()
_NOTHING = Spent()


def list_runs(connection: Connection, now: datetime, limit: int = RUNS_SHOWN, cursor: str | None = None) -> RunList:
    """Up to ``limit`` runs (1 to ``RUNS_LIMIT``), newest first, from where ``cursor`` says.

    Raises:
        RequestRefused: the limit is out of range, or the cursor is not one of ours.
    """
    if not 1 <= limit <= RUNS_LIMIT:
        raise RequestRefused(f"A list of {limit} runs cannot be asked for.", hint=f"Ask for 1 to {RUNS_LIMIT}.")
    found = runs_after(connection, limit + 1, None if cursor is None else _read_cursor(cursor))
    shown, total = found[:limit], count_runs(connection)
    next_cursor = _cursor(shown[-1]) if len(found) > limit else None
    if total == 0:
        hint = NO_RUNS
    elif next_cursor is None:
        hint = f"These are the oldest of {total:,} runs." if cursor else _all_shown(total)
    else:
        hint = f"{len(shown)} of {total} runs are shown; pass next_cursor as cursor to see older ones."
    return RunList(_run_lines(connection, shown, now), total, next_cursor, hint)


def _all_shown(total: int) -> str:
    return "There is 1 run." if total == 1 else f"All {total:,} runs are shown."


def current_run_id(connection: Connection) -> str | None:
    """The run that is meant when none is named: the only unfinished one, or the newest when all have ended.

    None when there is no run at all, or when several are unfinished: then only a person can say.
    """
    unfinished = unfinished_runs(connection)
    candidates = unfinished or runs_after(connection, 1)
    return candidates[0].run_id if len(candidates) == 1 else None


def current_run(
    connection: Connection, now: datetime, settings: Callable[[], Settings] | None = None
) -> RunSummary | RunList:
    """The run that is meant when none is named, or the list of unfinished runs when there are several.

    Without any run it is an empty list whose hint says how to start one. ``settings`` as for ``run_summary``.
    """
    run_id = current_run_id(connection)
    if run_id is not None:
        return run_summary(connection, run_id, now, settings)
    unfinished = unfinished_runs(connection)
    if not unfinished:
        return RunList((), 0, None, NO_RUNS, config_notice(settings))
    shown = unfinished[:RUNS_LIMIT]
    hint = f"{len(unfinished)} runs are unfinished; name the one you mean."
    return RunList(_run_lines(connection, shown, now), len(unfinished), None, hint, config_notice(settings))


def _run_lines(connection: Connection, runs: Sequence[RunRecord], now: datetime) -> tuple[RunLine, ...]:
    counts = phase_counts(connection, [run.run_id for run in runs])
    spent = spent_by_run(connection, {run.run_id: run.is_rehearsal for run in runs})
    alive = [one for one in supervisors_known(connection) if one.is_alive(now)]
    return tuple(
        RunLine(
            run_id=run.run_id,
            plan_name=visible(run.plan_name, NAME_LIMIT),
            state=run.state,
            percent_complete=counts.get(run.run_id, _NO_PHASES).percent_complete,
            is_rehearsal=run.is_rehearsal,
            needs_you=waits_for_person(run, is_supervised=bool(advancers(run, alive, now))),
            created_at=run.created_at,
            tokens_used=spent.get(run.run_id, _NOTHING).charged_tokens,
            cost_usd=spent.get(run.run_id, _NOTHING).cost_usd,
            unpriced_calls=spent.get(run.run_id, _NOTHING).unpriced_calls,
        )
        for run in runs
    )


def _cursor(run: RunRecord) -> str:
    return urlsafe_b64encode(f"{to_us(run.created_at)} {run.run_id}".encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[datetime, str]:
    try:
        text = b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:
        text = ""
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise RequestRefused(
            f"{visible(cursor, NAME_LIMIT)!r} is not a cursor of this list.",
            hint="Pass next_cursor of the page before unchanged, or none for the first page.",
        )
    return from_us(int(found["created_us"])), found["run_id"]
