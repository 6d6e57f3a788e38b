"""The reading tool about choices: ``explain_model``, which model answers, why, what if, and what else may be chosen.

It asks the router's own function, by way of the summaries, and owns only how much of the answer a chat is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from autopack_mcp.mcp_server.answers import Answer, first_that_fits, how_many_fit, known, numbered, short
from autopack_mcp.mcp_server.tool import StrictTool, tool_of
from autopack_mcp.summary.shown import plain

if TYPE_CHECKING:
    from autopack_mcp.summary.caps import CapView
    from autopack_mcp.summary.explanation import ModelExplanation, WhatIf
    from autopack_mcp.summary.models import ModelMapping, ModelRow, StandingView
    from autopack_mcp.summary.summaries import Summaries

NAME_BYTES = 60  # Of a model's or provider's name.
DEFAULT_CATEGORY, DEFAULT_COMPLEXITY = "general", "medium"


@dataclass(frozen=True, slots=True)
class Room:
    """How much of an explanation is shown: bytes of one sentence, and rows of each list."""

    words: int
    choices: int
    rows: int


# Tried from the most to what fits whatever was configured.
ROOMS = (Room(300, 60, 40), Room(300, 15, 20), Room(200, 8, 12), Room(140, 5, 8), Room(100, 4, 5), Room(50, 2, 2))


class ModelTools:
    """The one tool."""

    def __init__(self, summaries: Summaries) -> None:
        self._summaries = summaries

    def tools(self) -> list[StrictTool]:
        """It, in a list."""
        return [tool_of(self.explain_model, title="Which model, and why")]

    async def explain_model(
        self,
        role: Annotated[str | None, Field(description="builder, auditor, agent:NAME; default: all")] = None,
        category: str | None = None,
        complexity: str | None = None,
        run_id: Annotated[str | None, Field(description="Default: a run started now")] = None,
    ) -> Answer:
        """Which model answers (by default general, medium), why, its caps, what happens at their limits, other choices.

        Without a role it answers for the whole run, or the whole map; a category or a complexity then narrows that.
        """
        if role is None:
            return mapping_answer(await self._summaries.models(run_id, category, complexity))
        asked = (role, category or DEFAULT_CATEGORY, complexity or DEFAULT_COMPLEXITY)
        found = await self._summaries.explain(*asked, run_id)
        return first_that_fits(partial(_answer, found), ROOMS)


# ── one question ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _answer(found: ModelExplanation, room: Room) -> Answer:
    row = found.row
    return {
        "headline": _headline(found),
        **known(run_id=found.run_id, phase_id=short(found.phase_id or "", NAME_BYTES)),
        "role": short(row.role, NAME_BYTES),
        "category": short(row.category, NAME_BYTES),
        "complexity": row.complexity,
        "model": _short(row.model),
        "provider": _short(row.provider),
        "rule": row.rule,
        "reasons": [short(reason, room.words) for reason in _first_and_last(row.reasons, room.rows)],
        **known(
            blocked_by=short(row.blocked_by or "", max(room.words, 140)),
            replaces=_short(row.replaces),
            error=short(row.error or "", room.words),
            provider_state=None if found.standing is None else _standing(found.standing),
        ),
        "rules": [{"rule": one.rule, "outcome": one.outcome, "why": short(one.why, room.words)} for one in found.rules],
        **known(
            caps=[_cap(cap, room) for cap in _fullest(found.caps)[: room.rows]],
            orders=[{"order": one.says, "percent_reached": one.percent_reached} for one in found.orders[: room.rows]],
            least_tokens=found.least_tokens,
            what_if=[_what_if(one, room) for one in found.what_ifs[: room.rows]],
            when_denied=found.when_denied,
            chain=[
                {"model": short(one.model, NAME_BYTES), "objection": short(one.objection or "", room.words) or None}
                for one in found.chain[: room.rows]
            ],
            chain_note=short(found.chain_note or "", room.words),
        ),
        "choices": [
            {"model": short(choice.model, NAME_BYTES), "state": short(choice.state, NAME_BYTES)}
            for choice in found.choices[: room.choices]
        ],
        **known(truncated=_left_out(found, room)),
    }


def _headline(found: ModelExplanation) -> str:
    row = found.row
    what = f"{short(row.role, NAME_BYTES)} for {short(row.category, NAME_BYTES)}, {row.complexity}"
    where = "a run started now" if found.run_id is None else f"run {found.run_id}"
    if row.model is None:
        return f"In {where}, no model answers {what}."
    instead = f" in place of {short(row.replaces, NAME_BYTES)}" if row.replaces else ""
    blocked = " A call would fail right now." if row.blocked_by else ""
    return f"In {where}, {short(row.model, NAME_BYTES)} answers {what}{instead}.{blocked}"


def _left_out(found: ModelExplanation, room: Room) -> str | None:
    lists = (found.row.reasons, found.caps, found.orders, found.what_ifs, found.chain)
    if len(found.choices) > room.choices:
        return f"Shown are {room.choices} of {len(found.choices)} choices; all are in the resource autopack://models."
    if any(len(rows) > room.rows for rows in lists):
        return "Shown is a part; `autopack-mcp models --role …` prints all of it."
    return None


def _cap(cap: CapView, room: Room) -> Answer:
    return known(
        cap=short(cap.label, room.words),
        percent_of_cap=cap.percent_of_cap,
        used_tokens=cap.used_tokens if cap.cap_tokens is not None else None,
        reserved_tokens=cap.reserved_tokens if cap.cap_tokens is not None else None,
        cap_tokens=cap.cap_tokens,
        percent_of_cap_usd=cap.percent_of_cap_usd,
        used_usd=plain(cap.used_usd) if cap.cap_usd is not None else None,
        cap_usd=plain(cap.cap_usd),
        soft_limit_percent=cap.soft_limit_percent,
        resets_at=plain(cap.resets_at),
    )


def _what_if(one: WhatIf, room: Room) -> Answer:
    return {
        "at_percent": one.percent,
        "of": [short(cap, room.words) for cap in one.caps[: room.rows]],
        "happens": one.happens,
        **known(model=_short(one.model), is_reached=one.is_reached),
        "why": short(one.why, room.words),
    }


def _standing(standing: StandingView) -> Answer:
    return {
        "state": standing.state,
        **known(
            missing_key_variable=standing.missing_key_variable,
            caps=[
                {"period": cap.period, "percent_of_cap": cap.percent_of_cap, "resets_at": plain(cap.resets_at)}
                for cap in standing.caps
            ],
        ),
    }


def _fullest(caps: Sequence[CapView]) -> list[CapView]:
    return sorted(caps, key=lambda cap: -max(cap.percent_of_cap or 0.0, cap.percent_of_cap_usd or 0.0))


def _first_and_last(reasons: Sequence[str], room: int) -> Sequence[str]:
    """What was asked first and what came of it; of a long chain the middle goes."""
    return reasons if len(reasons) <= room else (reasons[0], "…", *reasons[2 - room :])


# ── a whole run, or the whole map ────────────────────────────────────────────────────────────────────────────────────


def mapping_answer(found: ModelMapping) -> Answer:
    """As many rows as fit, in the order of the plan."""
    return _mapping(found, how_many_fit(partial(_mapping, found), max(len(found.rows), len(found.overrides))))


def _mapping(found: ModelMapping, count: int) -> Answer:
    where = "autopack://models" if found.run_id is None else f"autopack://runs/{found.run_id}/models"
    left_out = f"Shown are {count} of {numbered(len(found.rows), 'row')}; all are in the resource {where}."
    return {
        "headline": _headline_of_all(found),
        **known(run_id=found.run_id),
        "rows": [_row(row) for row in found.rows[:count]],
        **known(
            overrides=[
                {
                    "scope": one.scope,
                    "role": short(one.role, NAME_BYTES),
                    "pattern": short(one.pattern, NAME_BYTES),
                    "model": short(one.model, NAME_BYTES),
                }
                for one in found.overrides[:count]
            ],
            truncated=left_out if count < max(len(found.rows), len(found.overrides)) else None,
        ),
    }


def _headline_of_all(found: ModelMapping) -> str:
    rows = found.rows
    where = "a run started now" if found.run_id is None else f"what is left of run {found.run_id}"
    if not rows:
        return f"In {where}, nothing asks a model."
    by_role: dict[str, list[str]] = {}
    for row in rows:
        by_role.setdefault(row.role, []).append(row.model or "no model")
    said = "; ".join(f"{short(role, NAME_BYTES)}: {_names(models)}" for role, models in list(by_role.items())[:4])
    failing = sum(row.model is None or row.blocked_by is not None for row in rows)
    warning = f" {failing} of {numbered(len(rows), 'row')} would fail right now." if failing else ""
    return f"In {where}: {said}.{warning}"


def _names(models: Sequence[str]) -> str:
    names = list(dict.fromkeys(short(model, NAME_BYTES) for model in models))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _row(row: ModelRow) -> Answer:
    return {
        "role": short(row.role, NAME_BYTES),
        "category": short(row.category, NAME_BYTES),
        **known(also=[short(name, NAME_BYTES) for name in row.also[:8]]),
        "complexity": row.complexity,
        "model": _short(row.model),
        **known(
            rule=row.rule,
            replaces=_short(row.replaces),
            blocked_by=short(row.blocked_by or "", 140),
            error=short(row.error or "", 140),
            phases=len(row.phase_ids),
        ),
    }


def _short(text: str | None) -> str | None:
    return None if text is None else short(text, NAME_BYTES)
