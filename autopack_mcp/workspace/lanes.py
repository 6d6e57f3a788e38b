"""From the edits of one file to its new text: exactly, for a diff with git's consent, or likely where a plan says so.

It owns in which lane an edit goes and that a diff counts only when git, with the real ``git apply``, comes to the same
outcome as we do. It writes nothing into the checkout: git gets a copy of the file under a name of ours, so no path, no
attribute and no pattern of the repository has a say. The workspace is its only caller.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autopack_mcp.errors import EditMisfit, Misfit
from autopack_mcp.replies.diffs import FileDiff
from autopack_mcp.replies.edited import AppliedHow, edited_text, fuzzily_edited_text, how_applied
from autopack_mcp.replies.edits import Edit
from autopack_mcp.replies.hunks import placed, rendered
from autopack_mcp.text_safety import visible
from autopack_mcp.workspace.git import Git

LANES: tuple[AppliedHow, ...] = ("files", "blocks", "diff", "fuzzy")  # From the plainest to the one to look at closest.
_SCRATCH = "autopack-diff"  # In .git, where no command of a plan and no builder gets to.
_COPY = "file"


@dataclass(frozen=True, slots=True)
class NewText:
    """What a file will contain, None when it is gone, and by which lane."""

    text: str | None
    how: AppliedHow


async def new_text(
    git_dir: Path, label: str, existing: str | None, edits: Sequence[Edit], *, allow_fuzzy: bool
) -> NewText:
    """What one file contains after ``edits``, which all name it.

    Args:
        git_dir: of the run's workspace; git works on a copy of the file in it.
        existing: the file's text, None when there is none; of the file that it renames, for a diff that does.

    Raises:
        EditMisfit: the edits do not fit the file as it is, also not likely enough where ``allow_fuzzy``.
        UnusableReply: they cannot be done at all.
    """
    try:
        text = edited_text(existing, edits)
        if isinstance(edits[0], FileDiff):
            await _agree(git_dir, label, existing, edits[0], text)
        return NewText(text, how_applied(edits))
    except EditMisfit:
        if not allow_fuzzy:
            raise
        return NewText(fuzzily_edited_text(existing, edits), "fuzzy")


async def _agree(git_dir: Path, label: str, existing: str | None, diff: FileDiff, ours: str | None) -> None:
    """
    Raises:
        EditMisfit: git refuses the diff, or makes something else of it than we do.
    """
    refusal = await _git_refusal(git_dir, label, existing, diff, ours)
    if refusal is not None:
        shown = "".join(map(str, diff.hunks))
        raise EditMisfit((Misfit(diff.path, f"git does not take the diff of {diff.path!r}: {refusal}", shown),))


async def _git_refusal(
    git_dir: Path, label: str, existing: str | None, diff: FileDiff, ours: str | None
) -> str | None:  # fmt: skip
    if not diff.hunks:
        return None  # A file without lines comes, goes or is renamed; git has nothing to find.
    scratch = git_dir / _SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    copy = scratch / _COPY
    try:
        if existing is not None:
            copy.write_bytes(existing.encode())
        git = Git(git_dir, work_tree=scratch, label=label)
        # Our counts are true; --recount makes git count for itself all the same.
        patch = rendered(placed(existing, diff), _COPY)
        answer = await git.ask("apply", "--recount", "--whitespace=nowarn", "-p1", "-", stdin=patch)
        if answer.exit_code != 0:
            return visible(answer.errors.strip(), 300)
        theirs = copy.read_bytes() if copy.exists() else None
        return None if theirs == (None if ours is None else ours.encode()) else "it comes to another outcome"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
