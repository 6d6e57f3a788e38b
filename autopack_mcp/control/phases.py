"""What a person wishes with one phase of a run, checked before anything is written down.

It owns which words may be given, and who may name a command that this machine will run. What the wish comes to is
``runs.phase_wishes``'s to say. ``requests`` takes the result.
"""

from __future__ import annotations

from collections.abc import Mapping

from autopack_mcp.errors import RequestRefused
from autopack_mcp.plans.phases import COMMAND_LIMIT, DESCRIPTION_LIMIT, checked_command
from autopack_mcp.runs.phase_wishes import PhaseWish
from autopack_mcp.runs.plan_edits import PhaseEdit
from autopack_mcp.sections import text_objection

_HINTS = {
    "description": "It is what the builder is asked to do.",
    "verify": "To go without verification, say none.",
}
REASON_LIMIT = 500  # Characters of a reason to skip a phase; it stands in every status of the run.


def checked_wish(wish: PhaseWish, *, may_set_commands: bool) -> PhaseWish:
    """The wish with its words as a plan would have them.

    Raises:
        RequestRefused: something is missing, empty or too long, or a command is named where none may be.
    """
    if wish.phase_id is None and wish.action != "retry":
        raise RequestRefused(f"{wish.action} needs a phase.", hint="Give its phase_id; a wrong one lists them.")
    if wish.action == "skip":
        reason = _text("reason", wish.reason, REASON_LIMIT, "Say why: it is shown wherever the phase is.")
        return PhaseWish("skip", wish.phase_id, reason=" ".join(reason.split()))
    if wish.action == "edit":
        return PhaseWish("edit", wish.phase_id, edit=_checked_edit(wish.edit, may_set_commands=may_set_commands))
    return PhaseWish("retry", wish.phase_id)


def _checked_edit(edit: PhaseEdit, *, may_set_commands: bool) -> PhaseEdit:
    if edit.description is None and edit.verify is None:
        raise RequestRefused("Nothing to edit is given.", hint="Give a description, a verify command or both.")
    return checked_words(edit, "edit", _HINTS, may_set_commands=may_set_commands)


def checked_words(edit: PhaseEdit, verb: str, hints: Mapping[str, str], *, may_set_commands: bool) -> PhaseEdit:
    """The new words of a phase as a plan would have them; ``verb`` is the command that may set any of them.

    Args:
        hints: what to do about an unusable ``description`` or ``verify``.

    Raises:
        RequestRefused: one is empty or too long, or a command is named where none may be.
    """
    if edit.verify is not None and not may_set_commands:
        raise RequestRefused(
            "A verify command cannot be set from a chat, because this machine runs it.",
            hint=f"Use autopack-mcp {verb} --verify on the machine, or set allow_inline_plans: true.",
        )
    description, verify = edit.description, edit.verify
    if description is not None:
        description = _text("description", description, DESCRIPTION_LIMIT, hints["description"])
    if verify is not None:
        verify = _text("verify", verify, COMMAND_LIMIT, hints["verify"])
    return PhaseEdit(description, checked_command(verify))


def _text(what: str, text: str, limit: int, hint: str) -> str:
    objection = text_objection(text, limit, allow_lines=True)
    if objection is not None:
        raise RequestRefused(f"{what} {objection}", hint=hint)
    return text
