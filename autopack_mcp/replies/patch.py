"""A builder's edits applied to texts in memory, as one unified diff: for callers who have no workspace.

It owns nothing but the loop over files; what an edit may touch is said by ``path_rules``, what it does by ``edited``. A
run never comes this way, because there git computes the diff.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autopack_mcp.errors import UnusableReply
from autopack_mcp.replies.edited import edited_text, unified_diff
from autopack_mcp.replies.edits import Edit, by_path, source_of
from autopack_mcp.replies.path_rules import check_allowed, check_path


def edited_files(
    files: Mapping[str, str], edits: Sequence[Edit], allowed_paths: Sequence[str]
) -> dict[str, str | None]:
    """The new text of every file that the edits change, None for a deleted one; ``files`` stays as it is.

    Raises:
        UnusableReply: an edit is not allowed or fits nowhere, or all of them together change nothing.
    """
    after: dict[str, str | None] = {}
    for path, group in by_path(edits).items():
        check_path(path)
        check_allowed(path, allowed_paths)
        text = edited_text(files.get(source_of(path, group[0])), group)
        if text != files.get(path):
            after[path] = text
    if not after:
        raise UnusableReply("The edits change nothing: every file already has the content that was asked for.")
    return after


def patch_of(before: Mapping[str, str], after: Mapping[str, str | None]) -> str:
    """The unified diff from ``before`` to ``after``, files in order of their names."""
    return "".join(unified_diff(path, before.get(path), after[path]) for path in sorted(after))
