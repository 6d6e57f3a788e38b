"""The reading tool about results: ``model_scorecard``, how each model did on the person's own work.

It owns how much of a scorecard a chat is given; what counts, and for whom, is ``summary.scorecard``'s.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from autopack_mcp.mcp_server.answers import Answer, how_many_fit, known, numbered, short
from autopack_mcp.mcp_server.tool import StrictTool, tool_of
from autopack_mcp.summary.shown import plain

if TYPE_CHECKING:
    from autopack_mcp.summary.scorecard import AuditorScore, BuilderScore, ModelScorecard, Rate
    from autopack_mcp.summary.summaries import Summaries

NAME_BYTES = 60  # Of a model's or a category's name.
SINCE_DAYS = 90  # By default: recent enough to be about the models of today, long enough to be more than a handful.
NAMED = 3  # Models in the sentence at the top, of a single category.


class ScorecardTools:
    """The one tool."""

    def __init__(self, summaries: Summaries) -> None:
        self._summaries = summaries

    def tools(self) -> list[StrictTool]:
        """It, in a list."""
        return [tool_of(self.model_scorecard, title="How the models did")]

    async def model_scorecard(
        self,
        category: str | None = None,
        since_days: Annotated[int, Field(description="0: ever")] = SINCE_DAYS,
    ) -> Answer:
        """How each model did here, by category: approvals, first tries, tokens and dollars per approved phase."""
        from autopack_mcp.summary.scorecard import ScorecardWish  # Lazy: it loads the database.

        wish = ScorecardWish(days=since_days or None, category=category)
        return scorecard_answer(await self._summaries.scorecard(wish), since_days)


def scorecard_answer(found: ModelScorecard, since_days: int) -> Answer:
    """As many rows as fit, those with the most attempts first where not all do."""
    rows = how_many_fit(partial(_answer, found, since_days), max(len(found.builders), len(found.auditors)))
    return _answer(found, since_days, rows)


def _answer(found: ModelScorecard, since_days: int, rows: int) -> Answer:
    builders = found.builders
    if rows < len(builders):
        most = sorted(builders, key=lambda one: -one.attempts)[:rows]
        builders = tuple(one for one in builders if one in most)
    left_out = f"Shown are {rows} of {numbered(len(found.builders), 'row')}; `autopack-mcp scorecard` prints all."
    return {
        "headline": _headline(found, since_days),
        **known(category=short(found.category or "", NAME_BYTES), since=plain(found.since)),
        "builders": [_builder(one) for one in builders],
        "auditors": [_auditor(one) for one in found.auditors[:rows]],
        **known(
            experiments=[
                {"model": short(one.model, NAME_BYTES), "calls": one.calls, "tokens": one.tokens,
                 "cost_usd": plain(one.cost_usd)}
                for one in found.experiments[:rows]
            ],
            interrupted_attempts=found.interrupted_attempts,
            unjudged_attempts=found.unjudged_attempts,
            open_attempts=found.open_attempts,
            uncounted_phases=found.uncounted_phases,
        ),
        "note": found.note,
        **known(truncated=left_out if rows < max(len(found.builders), len(found.auditors)) else None),
    }  # fmt: skip


def _headline(found: ModelScorecard, since_days: int) -> str:
    when = f"In the last {numbered(since_days, 'day')}" if since_days else "So far"
    categories = list(dict.fromkeys(one.category for one in found.builders))
    attempts = sum(one.attempts for one in found.builders)
    if not attempts:
        return f"{when}, no attempt was judged{_of(found.category)}."
    if len(categories) == 1:
        best = sorted(found.builders, key=lambda one: -one.attempts)
        more = f" and {len(best) - NAMED} more" if len(best) > NAMED else ""
        return f"{when}, in {short(categories[0], NAME_BYTES)}: {'; '.join(map(_in_words, best[:NAMED]))}{more}."
    models = len({one.model for one in found.builders})
    small = sum(one.is_small_sample for one in found.builders)
    caution = f"; {small} of {numbered(len(found.builders), 'row')} are small samples" if small else ""
    made = f"{numbered(models, 'model')} made {numbered(attempts, 'judged attempt')}"
    return f"{when}, {made} in {len(categories)} categories{caution}."


def _of(category: str | None) -> str:
    return "" if category is None else f" in {short(category, NAME_BYTES)}"


def _in_words(one: BuilderScore) -> str:
    caution = ", small sample" if one.is_small_sample else ""
    rate = "" if one.approval.percent is None else f" ({one.approval.percent:g} %{caution})"
    return f"{short(one.model, NAME_BYTES)} {one.approval.hits} of {one.approval.tries} approved{rate}"


def _builder(one: BuilderScore) -> Answer:
    return {
        "category": short(one.category, NAME_BYTES),
        "model": short(one.model, NAME_BYTES),
        "sample": one.sample,
        "approved": _rate(one.approval),
        "first_try": _rate(one.first_try),
        "tokens_per_approved_phase": one.tokens_per_approved_phase,
        "cost_usd_per_approved_phase": plain(one.cost_usd_per_approved_phase),
        "complexities": {name: count for name, count in one.attempts_by_complexity.items() if count},
        **known(
            unpriced_calls=one.unpriced_calls,
            interrupted_attempts=one.interrupted_attempts,
            unjudged_attempts=one.unjudged_attempts,
        ),
    }


def _auditor(one: AuditorScore) -> Answer:
    return {
        "model": short(one.model, NAME_BYTES),
        "sample": one.sample,
        "rejected": _rate(one.rejection),
        **known(unusable_verdicts=one.unusable_verdicts, unpriced_calls=one.unpriced_calls),
        "tokens_per_verdict": one.tokens_per_verdict,
    }


def _rate(rate: Rate) -> Answer:
    return {
        "count": f"{rate.hits} of {rate.tries}",
        "percent": rate.percent,
        "range_percent": None if rate.percent is None else [rate.low_percent, rate.high_percent],
    }
