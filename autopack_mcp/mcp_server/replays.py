"""The reading tool about trying again: ``compare_runs`` shows two runs side by side.

It owns what of a comparison fits into a chat; the numbers are the summary's. The whole diff is the command line's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from autopack_mcp.mcp_server.answers import Answer, first_that_fits, known, numbered, short
from autopack_mcp.mcp_server.tool import StrictTool, tool_of
from autopack_mcp.summary.shown import plain, tokens_text, usd_text

if TYPE_CHECKING:
    from autopack_mcp.summary.comparison import ComparedPhase, ComparedRun, Comparison, PhaseSide
    from autopack_mcp.summary.summaries import Summaries

MESSAGE_BYTES = 1_500  # Of what happened, in words.
NAME_BYTES = 80  # Of a name that a plan gave.
SAID_BYTES = 120  # Of what an auditor said about a phase.
# Phases, sentences about models, and bytes of the diff: from generous to what fits whatever plans and models wrote.
ROOMS = ((12, 8, 1_500), (8, 5, 800), (5, 3, 300), (2, 1, 0))
# What a comparison says of a run and of a phase in it, when there is something to say.
_OF_RUN = (
    "is_rehearsal", "forked_from", "completed_phases", "total_phases", "tokens_used", "cost_usd", "unpriced_calls",
    "minor_issues_count", "major_issues_count", "duration_s",
)  # fmt: skip
_OF_PHASE = (
    "attempts", "verdict", "builder_model", "auditor_model", "tokens_used", "cost_usd", "unpriced_calls", "duration_s",
)  # fmt: skip


class CompareTools:
    """The one tool."""

    def __init__(self, summaries: Summaries) -> None:
        self._summaries = summaries

    def tools(self) -> list[StrictTool]:
        """It, in a list."""
        return [tool_of(self.compare_runs, title="Compare runs")]

    async def compare_runs(
        self,
        run_id: str,
        other: Annotated[str | None, Field(description="Default: what run_id was forked from")] = None,
    ) -> Answer:
        """Two runs side by side: verdicts, tokens, cost, time, models, diff of the results."""
        return comparison(await self._summaries.compare(run_id, other))


def comparison(found: Comparison) -> Answer:
    """Two runs in at most ``RESULT_BYTES``; ``truncated`` says what was left out and where it stands."""
    return first_that_fits(lambda room: _comparison(found, *room), ROOMS)


def _comparison(found: Comparison, phases: int, sentences: int, diff_bytes: int) -> Answer:
    shown = _most_telling(found.phases, phases)
    diff = found.diff
    left_out = len(found.phases) - len(shown)
    is_cut = diff is not None and (diff.is_cut or len(diff.text.encode()) > diff_bytes)
    more = [f"{numbered(left_out, 'phase')}"] if left_out else []
    more += ["part of the diff"] if is_cut else []
    return {
        "headline": _headline(found),
        "a": _run(found.a),
        "b": _run(found.b),
        "phases": [
            {"phase_id": short(phase.phase_id, NAME_BYTES), **known(a=_phase(phase.a), b=_phase(phase.b))}
            for phase in shown
        ],
        **known(
            models_differ=[short(sentence, 2 * NAME_BYTES) for sentence in found.models_differ[:sentences]],
            files_differ=0 if diff is None else diff.files,
            lines_added=0 if diff is None else diff.added_lines,
            lines_removed=0 if diff is None else diff.removed_lines,
            diff=short(diff.text, diff_bytes, multiline=True) if diff is not None and diff_bytes else "",
            why_no_diff=short(found.why_no_diff or "", MESSAGE_BYTES),
            truncated=f"Left out: {' and '.join(more)}; `autopack-mcp compare` has all of it." if more else None,
        ),
    }


def _headline(found: Comparison) -> str:
    sides = "; ".join(
        f"{name} {run.run_id}: {run.state}, {tokens_text(run.tokens_used)} tokens,"
        f" {usd_text(run.cost_usd, run.unpriced_calls)}"
        for name, run in (("a", found.a), ("b", found.b))
    )
    if found.diff is None:
        return f"{sides}."
    differ = f"the results differ in {numbered(found.diff.files, 'file')}" if found.diff.files else "same result"
    return f"{sides}; {differ}."


def _run(run: ComparedRun) -> Answer:
    return {
        "run_id": run.run_id,
        "plan_name": short(run.plan_name, NAME_BYTES),
        "state": run.state,
        **known(**{name: plain(getattr(run, name)) for name in _OF_RUN}, commit=run.commit[:10]),
    }


def _phase(side: PhaseSide | None) -> Answer | None:
    if side is None:
        return None
    return {
        "state": side.state,
        **known(
            **{name: plain(getattr(side, name)) for name in _OF_PHASE},
            auditor_said=short(side.auditor_said, SAID_BYTES),
        ),
    }


def _most_telling(phases: tuple[ComparedPhase, ...], most: int) -> list[ComparedPhase]:
    """Up to ``most`` phases in their order: those that both have tried before the others."""

    def rank(index: int) -> tuple[bool, int]:
        phase = phases[index]
        are_both = phase.a is not None and phase.b is not None and min(phase.a.attempts, phase.b.attempts) > 0
        return not are_both, index

    return [phases[index] for index in sorted(sorted(range(len(phases)), key=rank)[:most])]
