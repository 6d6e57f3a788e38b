"""The acting tool about runs: ``control_run``, which starts and ends them, and steers them and their phases.

It owns how a wish is put into arguments; what becomes of it is ``control``'s, which answers the command line alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mcp.server.mcpserver import Context
from pydantic import BeforeValidator, Field

from autopack_mcp.errors import RequestRefused
from autopack_mcp.mcp_server.answers import Answer, how_many_fit, known, short
from autopack_mcp.mcp_server.asking import meant_run, person_of
from autopack_mcp.mcp_server.tool import StrictTool, tool_of

if TYPE_CHECKING:
    from autopack_mcp.control.caps import CapWish
    from autopack_mcp.control.control import Control
    from autopack_mcp.control.forks import ForkWish
    from autopack_mcp.control.requests import RequestOutcome
    from autopack_mcp.control.starting import Started
    from autopack_mcp.runs.phase_wishes import PhaseWish
    from autopack_mcp.runs.requests import PhaseAction
    from autopack_mcp.summary.summaries import Summaries

MESSAGE_BYTES = 1_500  # Of what happened, in words.
WARNING_BYTES = 300  # Of one warning about a plan.


def known_action(said: Any) -> Any:
    """The action in our words; the predecessor's users say ``stop`` for cancel (contract 26)."""
    if not isinstance(said, str):
        return said
    word = re.sub(r"[ -]+", "_", said.strip().lower())
    return {"stop": "cancel"}.get(word, word)


Action = Annotated[
    Literal["start", "pause", "resume", "retry", "skip", "edit", "fork", "raise_cap", "cancel", "give_up"],
    BeforeValidator(known_action),
]
# Which actions take an argument; all but start take run_id.
TAKEN_BY: Mapping[str, frozenset[str]] = {
    "plan": frozenset({"start"}),
    "rehearse": frozenset({"start", "fork"}),
    "now": frozenset({"pause"}),
    "tokens": frozenset({"raise_cap"}),
    "cost_usd": frozenset({"raise_cap"}),
    "phase_id": frozenset({"raise_cap", "retry", "skip", "edit", "fork"}),
    "reason": frozenset({"skip"}),
    "description": frozenset({"edit", "fork"}),
    "verify": frozenset({"edit", "fork"}),
    "model": frozenset({"fork"}),
    "note": frozenset({"fork"}),
}


class ControlTools:
    """The one tool."""

    def __init__(self, summaries: Summaries, control: Control) -> None:
        self._summaries = summaries
        self._control = control

    def tools(self) -> list[StrictTool]:
        """It, in a list."""
        tool = tool_of(
            self.control_run,
            title="Control a run",
            is_acting=True,
            is_destructive=True,
            is_idempotent=False,
            is_open_world=True,
        )
        return [tool]

    async def control_run(
        self,
        *,
        context: Context[Any, Any],
        action: Action,
        run_id: str | None = None,
        plan: Annotated[str | None, Field(description="start: a plan the server knows")] = None,
        now: Annotated[bool, Field(description="pause: interrupt the step")] = False,
        rehearse: Annotated[bool, Field(description="start, fork: buys no tokens")] = False,
        tokens: Annotated[int | None, Field(description="raise_cap: new total")] = None,
        cost_usd: Annotated[float | None, Field(description="raise_cap")] = None,
        phase_id: Annotated[str | None, Field(description="retry, skip, edit, fork, raise_cap")] = None,
        reason: Annotated[str | None, Field(description="skip")] = None,
        description: Annotated[str | None, Field(description="edit, fork")] = None,
        verify: Annotated[str | None, Field(description="edit, fork")] = None,
        model: Annotated[str | None, Field(description="fork: builder")] = None,
        note: Annotated[str | None, Field(description="fork")] = None,
    ) -> Answer:
        """Start a run of a plan; steer it or one phase. resume also retries a failed phase; retry drops its attempt;
        fork starts anew from a phase, as another run; cancel is final.
        """
        words = {"reason": reason, "description": description, "verify": verify}
        caps = {"tokens": tokens, "cost_usd": cost_usd, "phase_id": phase_id}
        of_fork = {"rehearse": rehearse, "model": model, "note": note}
        _check_fit(action, {"run_id": run_id, "plan": plan, "now": now, **of_fork, **caps, **words})
        if action == "start":
            return await self._start(plan or "", context, is_rehearsal=rehearse)
        run, person = await meant_run(self._summaries, run_id), person_of(context)
        if action == "raise_cap":
            return _done(await self._control.raise_cap(run, _cap_wish(tokens, cost_usd, phase_id), person))
        if action == "retry" or action == "skip" or action == "edit":
            return _done(await self._control.about_phase(run, _phase_wish(action, phase_id, **words), person))
        if action == "fork":
            wish = _fork_wish(run, phase_id, description, verify, model, note, is_rehearsal=rehearse)
            return _started(await self._control.fork(wish, "tool", person), action)
        return _done(await self._control.request(run, action, person, now=now))

    async def _start(self, plan: str, context: Context[Any, Any], *, is_rehearsal: bool) -> Answer:
        # A plan in so many words has lines; a name has none.
        start = self._control.start_inline if "\n" in plan.strip() else self._control.start_named
        return _started(await start(plan, person_of(context), is_rehearsal=is_rehearsal))


def _cap_wish(tokens: int | None, cost_usd: float | None, phase_id: str | None) -> CapWish:
    """The caps that a client wants; a number of JSON becomes the decimal that it was written as."""
    from autopack_mcp.control.caps import CapWish  # Late, as in asking.py.

    return CapWish(tokens, None if cost_usd is None else Decimal(repr(cost_usd)), phase_id)


def _phase_wish(
    action: PhaseAction, phase_id: str | None, *, reason: str | None, description: str | None, verify: str | None
) -> PhaseWish:
    from autopack_mcp.runs.phase_wishes import PhaseWish  # Late, as in asking.py.
    from autopack_mcp.runs.plan_edits import PhaseEdit

    return PhaseWish(action, phase_id, reason or "", PhaseEdit(description, verify))


def _fork_wish(
    run_id: str, phase_id: str | None, description: str | None, verify: str | None, model: str | None,
    note: str | None, *, is_rehearsal: bool,
) -> ForkWish:  # fmt: skip
    from autopack_mcp.control.forks import ForkWish  # Late, as in asking.py.
    from autopack_mcp.runs.plan_edits import PhaseEdit

    if phase_id is None:
        raise RequestRefused("fork needs a phase.", hint="Give its phase_id; a wrong one lists them.")
    return ForkWish(run_id, phase_id, PhaseEdit(description, verify), model, note=note, is_rehearsal=is_rehearsal)


def _done(done: RequestOutcome) -> Answer:
    return {
        "message": short(done.message, MESSAGE_BYTES),
        "run_id": done.run_id,
        "action": done.action,
        "state": done.state,
        "is_pending": done.is_pending,
    }


def _started(started: Started, action: str = "start") -> Answer:
    def build(count: int) -> Answer:
        more = f"{len(started.warnings) - count} more warnings; autopack-mcp start prints them all."
        return {
            "message": short(started.message, MESSAGE_BYTES),
            "run_id": started.run_id,
            "action": action,
            "state": started.state,
            "is_pending": True,
            **known(
                warnings=[short(warning, WARNING_BYTES) for warning in started.warnings[:count]],
                truncated=more if count < len(started.warnings) else None,
            ),
        }

    return build(how_many_fit(build, len(started.warnings)))


def _check_fit(action: str, given: Mapping[str, Any]) -> None:
    """
    Args:
        given: every argument but the action, as the client gave it or left it out.

    Raises:
        RequestRefused: an argument that another action takes, or none of those that this one needs.
    """
    has = {name for name, value in given.items() if value is not None and value is not False}
    if action == "start":
        if "run_id" in has:
            raise RequestRefused("start makes a new run, so it takes no run_id.", hint="To go on with one, use resume.")
        if not (given["plan"] or "").strip():
            raise RequestRefused("start needs a plan.", hint="Name one that the server knows; a wrong name lists them.")
    for name in given:
        takers = TAKEN_BY.get(name)
        if takers is not None and name in has and action not in takers:
            raise RequestRefused(f"{action} takes no {name}.", hint=f"It belongs to {', '.join(sorted(takers))}.")
