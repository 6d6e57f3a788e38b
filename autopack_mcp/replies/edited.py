"""What a file contains after a builder's edits: whole files, search/replace blocks, hunks, each exactly or not at all.

It owns the arithmetic of text, line endings and sizes, all of it pure; it reads no reply and touches no disk. The
workspace and library callers use it; a block or a hunk that does not fit exactly once is refused with what stands there
instead, unless the plan takes the likely place for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from autopack_mcp.errors import EditMisfit, Misfit, UnusableReply
from autopack_mcp.replies.diffs import FileDiff, HunkLine
from autopack_mcp.replies.edits import DeleteFile, Edit, SearchReplace, WholeFile
from autopack_mcp.replies.fuzzy import LINES_LIMIT, Span, hunk_of, likely_spans
from autopack_mcp.replies.hunks import excerpts, lines_of, occurrences, placed
from autopack_mcp.text_safety import visible

FILE_LIMIT_BYTES = (
    1_000_000  # One file of a reply; no model writes more by hand, and a diff of it could not be audited.
)

AppliedHow = Literal["files", "blocks", "diff", "fuzzy"]


def edited_text(existing: str | None, edits: Sequence[Edit]) -> str | None:
    """What one file contains after ``edits``, which all name it; None when it is gone.

    Line endings are kept: a file that uses CRLF gets CRLF, whatever the model wrote.

    Args:
        existing: the file's text with its own line endings, None when there is no such file. For a diff that renames,
            the text of the file that it renames.

    Raises:
        EditMisfit: a block or a hunk fits nowhere or twice, some overlap, or there is no file to change.
        UnusableReply: there is no file to delete, or the outcome is no text or too large.
    """
    first = edits[0]
    if isinstance(first, WholeFile):
        return _checked(first.path, _in_line_endings_of(existing, first.content))
    if isinstance(first, FileDiff):
        after = placed(existing, first).after
        return None if after is None else _checked(first.path, after)
    if isinstance(first, DeleteFile):
        if existing is None:
            raise UnusableReply(f"{_shown(first.path)} does not exist, so it cannot be deleted.")
        return None
    return _checked(first.path, _replaced(_existing(first.path, existing), _blocks(edits)))


def fuzzily_edited_text(existing: str | None, edits: Sequence[Edit]) -> str | None:
    """Like ``edited_text``, but a block or a hunk whose lines are only similar goes where it most likely belongs.

    Raises:
        EditMisfit, UnusableReply: as ``edited_text``, also when no place is likely enough.
    """
    try:
        return edited_text(existing, edits)
    except EditMisfit as misfit:
        spans = None if existing is None else _likely_spans(existing, edits)
        if existing is None or spans is None:
            raise misfit from None
        return _checked(edits[0].path, _with_spans(existing, spans))


def how_applied(edits: Sequence[Edit]) -> AppliedHow:
    """The lane of exact edits: the one that asks for the most care, when there are several."""
    if any(isinstance(edit, FileDiff) for edit in edits):
        return "diff"
    return "blocks" if any(isinstance(edit, SearchReplace) for edit in edits) else "files"


def unified_diff(path: str, before: str | None, after: str | None) -> str:
    """The change of one file as git would show it, for those who have texts and no git; None is "no such file"."""
    header = [f"diff --git a/{path} b/{path}\n"]
    header += ["new file mode 100644\n"] if before is None else []
    header += ["deleted file mode 100644\n"] if after is None else []
    hunks = difflib.unified_diff(
        lines_of(before or ""),
        lines_of(after or ""),
        "/dev/null" if before is None else f"a/{path}",
        "/dev/null" if after is None else f"b/{path}",
    )
    body = [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in hunks]
    return "".join(header + body) if before != after else ""


# Search and replace ----------------------------------------------------------------------------------------------


def _blocks(edits: Sequence[Edit]) -> list[SearchReplace]:
    return [edit for edit in edits if isinstance(edit, SearchReplace)]


def _existing(path: str, existing: str | None) -> str:
    if existing is None:
        why = f"{_shown(path)} does not exist, so it cannot be changed. Use *** WRITE for a new file."
        raise EditMisfit((Misfit(path, why, ""),))
    return existing


def _replaced(text: str, blocks: Sequence[SearchReplace]) -> str:
    lines = _bare_lines(text)
    spans: list[Span] = []
    misfits: list[Misfit] = []
    for block in blocks:
        wanted = _bare_lines(block.search)
        found = occurrences(lines, wanted) if any(line.strip() for line in wanted) else []
        if len(found) == 1:
            spans.append(Span(found[0], found[0] + len(wanted), _bare_lines(block.replace)))
        else:
            around = excerpts([f"{line}\n" for line in lines], [f"{line}\n" for line in wanted], found)
            misfits.append(Misfit(block.path, _misfit(lines, wanted, block, found), block.search, around))
    if misfits:
        raise EditMisfit(tuple(misfits))
    _refuse_overlap(blocks[0].path, spans)
    return _with_spans(text, spans)


def _misfit(lines: Sequence[str], wanted: Sequence[str], block: SearchReplace, found: Sequence[int]) -> str:
    if not any(line.strip() for line in wanted):
        return f"A SEARCH block for {_shown(block.path)} is blank. Use *** WRITE to replace a whole file."
    subject = f"The SEARCH lines for {_shown(block.path)} that begin with {visible(wanted[0].strip(), 80)!r}"
    if found:
        places = ", ".join(str(i + 1) for i in found[:5])
        return f"{subject} occur {len(found)} times (lines {places}). Include more lines around the right place."
    nearly = occurrences([line.strip() for line in lines], [line.strip() for line in wanted])
    if nearly:
        return f"{subject} occur at line {nearly[0] + 1}, but with other white space. Copy them exactly."
    return f"{subject} do not occur in the file as whole lines. Copy them exactly as they are, or use *** WRITE."


def _refuse_overlap(path: str, spans: Sequence[Span]) -> None:
    for before, after in pairwise(sorted(spans, key=lambda span: span.start)):
        if after.start < before.end:
            why = f"Two SEARCH blocks for {_shown(path)} overlap at line {after.start + 1}. Join them."
            raise EditMisfit((Misfit(path, why, ""),))


# Likely places ---------------------------------------------------------------------------------------------------


def _likely_spans(text: str, edits: Sequence[Edit]) -> list[Span] | None:
    """Every span that the edits of a file most likely replace; None when one is not plain or two overlap."""
    lines, spans = _bare_lines(text), list[Span]()
    if any(isinstance(edit, SearchReplace) and edit.search.count("\n") > LINES_LIMIT for edit in edits):
        return None
    for hunk, must_end_the_file in _bare_hunks(edits):
        found = likely_spans(lines, hunk)
        if not found or (must_end_the_file and found[-1].end != len(lines)):
            return None
        spans += found
    spans.sort(key=lambda span: span.start)
    return spans if spans and all(first.end <= second.start for first, second in pairwise(spans)) else None


def _bare_hunks(edits: Sequence[Edit]) -> list[tuple[list[HunkLine], bool]]:
    """The hunks of edits, lines without breaks, and whether one may only stand at the end of the file."""
    first = edits[0]
    if isinstance(first, FileDiff):
        hunks = first.hunks if first.kind == "change" else ()
        return [
            ([HunkLine(line.sign, line.text.rstrip("\r\n")) for line in hunk.lines], hunk.lines[-1].sign != " ")
            for hunk in hunks
        ]
    return [(hunk_of(_bare_lines(block.search), _bare_lines(block.replace)), False) for block in _blocks(edits)]


# Text ------------------------------------------------------------------------------------------------------------


def _bare_lines(text: str) -> list[str]:
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def _with_spans(text: str, spans: Sequence[Span]) -> str:
    """The text with spans of its lines replaced, in its own line endings; a last line break stays as it is."""
    lines = text.removesuffix("\n").split("\n")
    carriage_return = "\r" if _uses_crlf(text) else ""
    for span in sorted(spans, key=lambda span: span.start, reverse=True):
        new = [line + carriage_return for line in span.new]
        if new and span.end == len(lines) and not text.endswith("\n"):
            new[-1] = new[-1].removesuffix("\r")
        lines[span.start : span.end] = new
    return "\n".join(lines) + ("\n" if lines and text.endswith("\n") else "")


def _in_line_endings_of(existing: str | None, content: str) -> str:
    if existing is None or "\r" in content or not _uses_crlf(existing):
        return content
    return content.replace("\n", "\r\n")


def _uses_crlf(text: str) -> bool:
    return text.count("\r\n") * 2 > text.count("\n")


def _checked(path: str, text: str) -> str:
    """``text`` if it can be a text file of bearable size."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise UnusableReply(f"The content of {_shown(path)} is not valid Unicode text.") from None
    if "\0" in text:
        raise UnusableReply(f"The content of {_shown(path)} has a NUL character; only text files can be written.")
    if size > FILE_LIMIT_BYTES:
        raise UnusableReply(
            f"The content of {_shown(path)} is {size} bytes; at most {FILE_LIMIT_BYTES} are taken. Split the file."
        )
    return text


def _shown(path: str) -> str:
    return repr(visible(path, 200))
