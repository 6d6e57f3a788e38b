"""Where the hunks of a diff belong, and what the file then contains: each where its lines stand, and nowhere else.

It owns the rule that a hunk must fit at exactly one place: which of two was meant is not for us to guess, and the line
numbers in a reply decide nothing. ``edited`` and the workspace use it; the latter has git apply the same hunks, and
takes the outcome only when both agree.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from autopack_mcp.errors import EditMisfit, Excerpt, Misfit
from autopack_mcp.replies.diffs import FileDiff, Hunk, HunkLine
from autopack_mcp.text_safety import visible

EXCERPT_AROUND_LINES = 8  # Before and after the lines that were meant: enough to see where one is.
EXCERPTS_LIMIT = 3  # Places that are shown for one hunk.
EXCERPT_LIMIT_CHARS = 8_000
PLACES_NAMED = 5
OCCURRENCES_LIMIT = 100  # Two are one too many already; the rest is for the words of a refusal.
COMMON_LINE = 200  # A line that stands in a file so often says nothing about a place, and costs time to count.


@dataclass(frozen=True, slots=True)
class PlacedHunk:
    """A hunk and the line of the file at which it begins, counted from 0."""

    hunk: Hunk
    start: int

    @property
    def end(self) -> int:
        """The first line behind it."""
        return self.start + len(self.hunk.old)


@dataclass(frozen=True, slots=True)
class PlacedDiff:
    """A file's diff with the line endings of the file, and the places of its hunks from top to bottom."""

    diff: FileDiff
    before: str | None
    hunks: tuple[PlacedHunk, ...]

    @property
    def after(self) -> str | None:
        """What the file contains afterwards, None when it is gone."""
        if self.diff.kind == "deletion":
            return None
        lines = lines_of(self.before or "")
        for placed in reversed(self.hunks):
            lines[placed.start : placed.end] = placed.hunk.new
        return "".join(lines)


def placed(before: str | None, diff: FileDiff) -> PlacedDiff:
    """Where each hunk belongs in the text of a file, None when there is no such file.

    Raises:
        EditMisfit: a hunk fits nowhere or at several places, hunks overlap, or the file is there and should not be, or
            the other way round; it names every such hunk.
    """
    if before is None and not (diff.kind == "new" or (diff.kind == "change" and diff.starts_from_nothing)):
        raise _misfit(diff.path, f"{_shown(diff.path)} does not exist, so a diff cannot change it. Use *** WRITE.")
    if before is not None and diff.kind == "new":
        raise _misfit(diff.path, f"The diff makes the new file {_shown(diff.path)}, but it exists.", before)
    fitted = _in_line_endings_of(before or "", diff)
    lines = lines_of(before or "")
    places = sorted(_places(lines, fitted), key=lambda place: place.start)
    for first, second in pairwise(places):
        if second.start < first.end:
            line = second.start + 1
            raise _misfit(diff.path, f"Two hunks for {_shown(diff.path)} overlap at line {line}. Join them.", before)
    if fitted.kind == "deletion" and sum(len(place.hunk.old) for place in places) != len(lines):
        raise _misfit(diff.path, f"The diff deletes {_shown(diff.path)}, but not all of its lines.", before)
    return PlacedDiff(fitted, before, tuple(places))


def rendered(placed_diff: PlacedDiff, name: str) -> str:
    """The same diff as git reads it, about a file called ``name``, with the places and counts that are true."""
    diff, before = placed_diff.diff, placed_diff.before
    lines = [f"diff --git a/{name} b/{name}\n"]
    lines += ["new file mode 100644\n"] if before is None else []
    lines += ["deleted file mode 100644\n"] if diff.kind == "deletion" else []
    lines.append("--- /dev/null\n" if before is None else f"--- a/{name}\n")
    lines.append("+++ /dev/null\n" if diff.kind == "deletion" else f"+++ b/{name}\n")
    moved = 0
    for one in placed_diff.hunks:
        old, new = len(one.hunk.old), len(one.hunk.new)
        lines.append(f"@@ -{one.start + bool(old)},{old} +{one.start + moved + bool(new)},{new} @@\n")
        lines += [_marked(line) for line in one.hunk.lines]
        moved += new - old
    return "".join(lines)


def lines_of(text: str) -> list[str]:
    """The lines of a text, each with its line break; only the last may have none."""
    return [line for line in re.split(r"(?<=\n)", text) if line]


def occurrences(lines: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """The first ``OCCURRENCES_LIMIT`` positions at which ``wanted`` stands in ``lines``, overlapping ones too.

    Each line becomes one character, so that a file and a reply of thousands of equal lines take no time.
    """
    characters: dict[str, str] = {}
    text = "".join(characters.setdefault(line, _character(len(characters))) for line in lines)
    part = "".join(characters.get(line, "") for line in wanted)
    if len(part) < len(wanted):
        return []
    found: list[int] = []
    place = text.find(part)
    while place >= 0 and len(found) < OCCURRENCES_LIMIT:
        found.append(place)
        place = text.find(part, place + 1)
    return found


def _character(number: int) -> str:
    # Half characters (U+D800 to U+DFFF) are no text.
    return chr(number if number < 0xD800 else number + 0x800)


def excerpts(lines: Sequence[str], wanted: Sequence[str], places: Iterable[int] = ()) -> tuple[Excerpt, ...]:
    """The file around the places, or around where most of the wanted lines stand; nothing when none does."""
    known = list(places) or _likely_places(lines, wanted)
    found: list[Excerpt] = []
    for place in known[:EXCERPTS_LIMIT]:
        first = max(0, place - EXCERPT_AROUND_LINES)
        text = "".join(lines[first : place + len(wanted) + EXCERPT_AROUND_LINES])
        found.append(Excerpt(first + 1, text[:EXCERPT_LIMIT_CHARS]))
    return tuple(found)


def _likely_places(lines: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where the most lines stand as wanted, white space aside."""
    positions: dict[str, list[int]] = {}
    for number, line in enumerate(lines):
        positions.setdefault(line.strip(), []).append(number)
    votes: Counter[int] = Counter()
    for offset, line in enumerate(wanted):
        found = positions.get(line.strip(), [])
        if line.strip() and len(found) <= COMMON_LINE:
            votes.update(number - offset for number in found)
    return [max(0, place) for place, _ in votes.most_common(1)]


def _places(lines: Sequence[str], diff: FileDiff) -> list[PlacedHunk]:
    """
    Raises:
        EditMisfit: of all hunks that do not fit at exactly one place.
    """
    places: list[PlacedHunk] = []
    misfits: list[Misfit] = []
    for hunk in diff.hunks:
        found = [place for place in _candidates(lines, hunk) if _may_stand_at(lines, hunk, place)]
        if len(found) == 1:
            places.append(PlacedHunk(hunk, found[0]))
        else:
            why = _why_not(lines, diff.path, hunk, found)
            misfits.append(Misfit(diff.path, why, str(hunk), excerpts(lines, hunk.old, found)))
    if misfits:
        raise EditMisfit(tuple(misfits))
    return places


def _candidates(lines: Sequence[str], hunk: Hunk) -> list[int]:
    # Without a line of the file around them, added lines fit an empty file only.
    return occurrences(lines, hunk.old) if hunk.old or not lines else []


def _may_stand_at(lines: Sequence[str], hunk: Hunk, place: int) -> bool:
    """A hunk that ends in a change belongs to the file's end, as git has it; elsewhere something was lost behind it."""
    is_at_end = place + len(hunk.old) == len(lines)
    breaks = [line.endswith("\n") for line in hunk.new]
    return all(breaks[:-1]) and (is_at_end or (all(breaks) and hunk.lines[-1].sign == " "))


def _why_not(lines: Sequence[str], path: str, hunk: Hunk, found: Sequence[int]) -> str:
    if not hunk.old:
        return f"A hunk for {_shown(path)} has no line of the file around it, so it could stand anywhere."
    subject = f"The hunk for {_shown(path)} that begins with {visible(hunk.old[0].strip(), 80)!r}"
    if found:
        named = ", ".join(str(place + 1) for place in found[:PLACES_NAMED])
        return f"{subject} fits at {len(found)} places (lines {named}). Include more lines around the right one."
    everywhere = occurrences(lines, hunk.old)
    if everywhere:
        return f"{subject} ends in a change, but the file goes on at line {everywhere[0] + len(hunk.old) + 1}."
    nearly = occurrences([line.strip() for line in lines], [line.strip() for line in hunk.old])
    if nearly:
        return f"{subject} fits at line {nearly[0] + 1}, but with other white space. Copy the lines exactly."
    return f"{subject} fits nowhere: its lines do not stand in the file like that. Copy them exactly as they are."


def _in_line_endings_of(text: str, diff: FileDiff) -> FileDiff:
    """The diff with carriage returns where every line of the file has one and the diff shows none."""
    lines = text.count("\n")
    shows_any = any(line.text.endswith("\r\n") for hunk in diff.hunks for line in hunk.lines)
    if not lines or lines != text.count("\r\n") or shows_any:
        return diff
    hunks = tuple(Hunk(tuple(_with_cr(line) for line in hunk.lines), hunk.stated_line) for hunk in diff.hunks)
    return FileDiff(diff.path, hunks, diff.kind, diff.renamed_from)


def _with_cr(line: HunkLine) -> HunkLine:
    return HunkLine(line.sign, line.text[:-1] + "\r\n" if line.text.endswith("\n") else line.text)


def _marked(line: HunkLine) -> str:
    ending = "" if line.text.endswith("\n") else "\n\\ No newline at end of file\n"
    return f"{line.sign}{line.text}{ending}"


def _misfit(path: str, why: str, before: str | None = None) -> EditMisfit:
    around = excerpts(lines_of(before), [], [0]) if before else ()
    return EditMisfit((Misfit(path, why, "", around),))


def _shown(path: str) -> str:
    return repr(visible(path, 200))
