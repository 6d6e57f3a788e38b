"""The acting tool about choices: ``override_model``, a person's model for part of a run or for all later runs.

It owns how the choice is put into arguments and the changes it answers with; checking and writing are ``control``'s.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mcp.server.mcpserver import Context
from pydantic import Field

from autopack_mcp.errors import OverrideRefused
from autopack_mcp.mcp_server.answers import Answer, how_many_fit, known, short
from autopack_mcp.mcp_server.asking import meant_run, person_of
from autopack_mcp.mcp_server.tool import StrictTool, tool_of

if TYPE_CHECKING:
    from autopack_mcp.control.control import Control
    from autopack_mcp.control.overrides import OverrideOutcome, OverrideWish
    from autopack_mcp.summary.models import PhaseModelChange
    from autopack_mcp.summary.summaries import Summaries

MESSAGE_BYTES = 1_500  # Of what happened, in words.
NAME_BYTES = 80  # Of a phase's or a model's name.


class OverrideTools:
    """The one tool."""

    def __init__(self, summaries: Summaries, control: Control) -> None:
        self._summaries = summaries
        self._control = control

    def tools(self) -> list[StrictTool]:
        """It, in a list."""
        return [tool_of(self.override_model, title="Choose a model", is_acting=True)]

    async def override_model(
        self,
        *,
        context: Context[Any, Any],
        role: Annotated[str, Field(description="builder, auditor, agent:NAME or *")],
        category: Annotated[str, Field(description="or a pattern: ui*")],
        complexity: Annotated[str, Field(description="low, medium, high or *")],
        model: Annotated[str | None, Field(description="Needed unless undo")] = None,
        scope: Literal["run", "global"] = "run",
        run_id: str | None = None,
        expires: Annotated[datetime | None, Field(description="UTC")] = None,
        undo: Annotated[bool, Field(description="Withdraw the like instead")] = False,
    ) -> Answer:
        """Use another model for future phases of one run, or (scope global) for runs started later. Lists the changes.

        The wish's type is imported late (server.py).
        """
        from autopack_mcp.control.overrides import OverrideWish

        if model is None and not undo:
            raise OverrideRefused("override_model needs a model.", hint="explain_model lists those to choose from.")
        run = await meant_run(self._summaries, run_id) if scope == "run" else run_id
        until = expires.replace(tzinfo=UTC) if expires is not None and expires.tzinfo is None else expires
        wish = OverrideWish(role, category, complexity, model or "", scope, run, until, undo)
        return _answer(await self._control.override(wish, person_of(context)), wish)


def _answer(done: OverrideOutcome, wish: OverrideWish) -> Answer:
    def build(count: int) -> Answer:
        more = f"{len(done.changes) - count} more changes; autopack://runs/{wish.run_id}/models shows all models."
        return {
            "message": short(done.message, MESSAGE_BYTES),
            **known(run_id=wish.run_id, override_id=done.override_id),
            "scope": wish.scope,
            "changes": [_change(change) for change in done.changes[:count]],
            **known(truncated=more if count < len(done.changes) else None),
        }

    return build(how_many_fit(build, len(done.changes)))


def _change(change: PhaseModelChange) -> Answer:
    return {
        "phase_id": short(change.phase_id, NAME_BYTES),
        "role": change.role,
        "from_model": _short(change.from_model),
        "to_model": _short(change.to_model),
    }


def _short(model: str | None) -> str | None:
    return None if model is None else short(model, NAME_BYTES)
