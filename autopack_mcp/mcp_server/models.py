"""The reading tool about choices: ``explain_model``, which model would answer and why, and what else may be chosen.

It asks the router's own function, by way of the summaries, and words nothing of its own.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from autopack_mcp.mcp_server.answers import Answer, first_that_fits, known, short
from autopack_mcp.mcp_server.tool import StrictTool, tool_of
from autopack_mcp.summary.shown import plain

if TYPE_CHECKING:
    from autopack_mcp.summary.models import ModelExplanation, StandingView
    from autopack_mcp.summary.summaries import Summaries

REASON_BYTES = 300  # Of one reason in words.
NAME_BYTES = 60  # Of a model's or provider's name.
CHOICES_SHOWN = (60, 30, 15, 5)  # Of the models that may be chosen; tried from the most to what surely fits.


class ModelTools:
    """The one tool."""

    def __init__(self, summaries: Summaries) -> None:
        self._summaries = summaries

    def tools(self) -> list[StrictTool]:
        """It, in a list."""
        return [tool_of(self.explain_model, title="Which model, and why")]

    async def explain_model(
        self,
        role: Annotated[str, Field(description="builder, auditor or agent:NAME")],
        category: str = "general",
        complexity: str = "medium",
        run_id: Annotated[str | None, Field(description="Default: a run started now")] = None,
    ) -> Answer:
        """Which model would be used for this, why, and which others could be chosen."""
        found = await self._summaries.explain(role, category, complexity, run_id)
        return first_that_fits(partial(_answer, found), CHOICES_SHOWN)


def _answer(found: ModelExplanation, choices: int) -> Answer:
    row = found.row
    left_out = f"Shown are {choices} of {len(found.choices)} choices; all are in the resource autopack://models."
    return {
        "headline": _headline(found),
        **known(run_id=found.run_id),
        "role": short(row.role, NAME_BYTES),
        "category": short(row.category, NAME_BYTES),
        "complexity": row.complexity,
        "model": _short(row.model),
        "provider": _short(row.provider),
        "rule": row.rule,
        "reasons": [short(reason, REASON_BYTES) for reason in row.reasons],
        **known(
            blocked_by=short(row.blocked_by or "", REASON_BYTES),
            replaces=_short(row.replaces),
            error=short(row.error or "", REASON_BYTES),
            provider_state=None if found.standing is None else _standing(found.standing),
        ),
        "choices": [
            {"model": short(choice.model, NAME_BYTES), "state": short(choice.state, NAME_BYTES)}
            for choice in found.choices[:choices]
        ],
        **known(truncated=left_out if len(found.choices) > choices else None),
    }


def _headline(found: ModelExplanation) -> str:
    row = found.row
    what = f"{short(row.role, NAME_BYTES)} for {short(row.category, NAME_BYTES)}, {row.complexity}"
    where = "a run started now" if found.run_id is None else f"run {found.run_id}"
    if row.model is None:
        return f"In {where}, no model answers {what}."
    blocked = " A call would fail right now." if row.blocked_by else ""
    return f"In {where}, {short(row.model, NAME_BYTES)} answers {what}.{blocked}"


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


def _short(text: str | None) -> str | None:
    return None if text is None else short(text, NAME_BYTES)
