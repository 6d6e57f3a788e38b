"""Reads the name of a counter back: what it counts, and when.

It is the way back of ``caps.scopes_of_call`` and owns no rule of its own; a name that does not come out the same again
is nobody's. Checking and rebuilding counters needs it, because a counter's row holds nothing but its name and numbers.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote

from autopack_mcp.budgets.caps import (
    CallScope,
    ScopeCap,
    ScopeKind,
    phase_scope,
    run_scope,
    shadow_prefix,
    window_scope,
)
from autopack_mcp.usage.event import Purpose
from autopack_mcp.usage.windows import WINDOWS, WindowSpan, window_at

_DAY_OF_LABEL = {"day": "%Y-%m-%d", "week": "%G-W%V-%u", "month": "%Y-%m-%d"}
_WINDOW_KINDS: tuple[ScopeKind, ...] = ("provider", "role", "global")
_FIRST_DAY = {"day": "", "week": "-1", "month": "-01"}


@dataclass(frozen=True, slots=True)
class CounterName:
    """What a counter counts: all calls like ``call`` in ``span``, or in all of a run or phase when that is None.

    ``call`` has only what matters to its ``kind`` (its provider, its role, its run and phase) and its purpose.
    """

    name: str
    kind: ScopeKind
    call: CallScope
    span: WindowSpan | None

    @property
    def is_shadow_window(self) -> bool:
        """Whether it is a rehearsal's window, which starts from what was really used when it was first asked for."""
        return self.span is not None and self.call.purpose == "rehearsal"

    def cap(self) -> ScopeCap:
        """The counter as a cap without an allowance, to ask how far it is used."""
        return ScopeCap(
            scope=self.name,
            kind=self.kind,
            label=self.name,
            allowance_tokens=None,
            allowance_nano=None,
            window=None if self.span is None else self.span.window,
            provider=self.call.provider or None,
            resets_at=None if self.span is None else self.span.end,
            role=self.call.role or None,
        )


def read_counter_name(name: str) -> CounterName | None:
    """What the counter of this name counts; None when no call is ever counted under it."""
    parts = [unquote(part) for part in name.split("/")]
    rehearsing = None
    if parts[0] == "rehearsal" and len(parts) > 2:
        rehearsing, parts = parts[1], parts[2:]
    found = _of_run(name, parts, rehearsing) if parts[0] in ("run", "phase") else _of_window(name, parts, rehearsing)
    return found if found is not None and _written(found) == name else None


def _of_run(name: str, parts: list[str], rehearsing: str | None) -> CounterName | None:
    kind: ScopeKind = "run" if parts[0] == "run" else "phase"
    if len(parts) != (2 if kind == "run" else 3):
        return None
    phase_id = parts[2] if kind == "phase" else None
    return CounterName(name, kind, CallScope("", "", _purpose(rehearsing), parts[1], phase_id), None)


def _of_window(name: str, parts: list[str], rehearsing: str | None) -> CounterName | None:
    kind: ScopeKind | None = next((kind for kind in _WINDOW_KINDS if kind == parts[0]), None)
    if kind is None or len(parts) != (3 if kind == "global" else 4):
        return None
    span = _span(parts[-2], parts[-1])
    if span is None:
        return None
    subject = "" if kind == "global" else parts[1]
    provider, role = (subject if kind == wanted else "" for wanted in ("provider", "role"))
    run_id = None if rehearsing == "library" else rehearsing
    return CounterName(
        name, kind, CallScope(provider, role, "run" if rehearsing is None else "rehearsal", run_id), span
    )


def _purpose(rehearsing: str | None) -> Purpose:
    return "run" if rehearsing is None else "rehearsal"


def _span(window_name: str, label: str) -> WindowSpan | None:
    window = next((window for window in WINDOWS if window == window_name), None)
    if window is None:
        return None
    with suppress(ValueError):
        first = datetime.strptime(label + _FIRST_DAY[window], _DAY_OF_LABEL[window]).replace(tzinfo=UTC)
        return window_at(window, first)
    return None


def _written(found: CounterName) -> str:
    prefix, call = shadow_prefix(found.call), found.call
    if found.span is not None:
        return window_scope(prefix, found.kind, call.provider or call.role, found.span)
    assert call.run_id is not None, "what has no window belongs to a run"
    if call.phase_id is None:
        return run_scope(prefix, call.run_id)
    return phase_scope(prefix, call.run_id, call.phase_id)
