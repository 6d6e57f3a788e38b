"""The acting tool about words: ``add_human_note``, which every later prompt of a run will quote until it is withdrawn.

It owns the arguments and the reply (contract 25); keeping and delivering notes is ``notes``' and the run's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from mcp.server.mcpserver import Context
from pydantic import Field

from autopack_mcp.errors import RequestRefused
from autopack_mcp.mcp_server.answers import Answer, short
from autopack_mcp.mcp_server.asking import meant_run, person_of
from autopack_mcp.mcp_server.tool import StrictTool, tool_of
from autopack_mcp.summary.shown import plain

if TYPE_CHECKING:
    from autopack_mcp.control.control import Control
    from autopack_mcp.summary.summaries import Summaries

MESSAGE_BYTES = 1_000  # Of what happened, in words.
PATH_BYTES = 1_000  # Of the notes file's path.


class NoteTools:
    """The one tool."""

    def __init__(self, summaries: Summaries, control: Control) -> None:
        self._summaries = summaries
        self._control = control

    def tools(self) -> list[StrictTool]:
        """It, in a list."""
        return [tool_of(self.add_human_note, title="Leave a note", is_acting=True, is_idempotent=False)]

    async def add_human_note(
        self,
        *,
        context: Context[Any, Any],
        note: Annotated[str | None, Field(description="The person's words")] = None,
        run_id: str | None = None,
        withdraw: Annotated[int | None, Field(description="note_id to take back, instead of note")] = None,
    ) -> Answer:
        """Tell a run something in the person's words; every later prompt contains it. The status says when it arrived.

        It stays until it is withdrawn.
        """
        if (note is None) == (withdraw is None):
            raise RequestRefused("Give either note or withdraw.", hint="withdraw takes the note_id of an earlier note.")
        run = await meant_run(self._summaries, run_id)
        if withdraw is not None:
            message = await self._control.withdraw_note(run, withdraw)
            return {"message": short(message, MESSAGE_BYTES), "run_id": run, "note_id": withdraw, "in_force": False}
        added = await self._control.add_note(run, note or "", "tool", person_of(context))
        return {
            "message": short(added.message, MESSAGE_BYTES),
            "run_id": run,
            "note_id": added.note_id,
            "timestamp": plain(added.timestamp),
            "notes_file": short(added.notes_file, PATH_BYTES),
            "in_force": True,
        }
