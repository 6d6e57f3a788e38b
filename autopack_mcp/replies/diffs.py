"""A foreign unified diff: found in a reply, read line by line, and refused wherever it could be understood in two ways.

It owns what a diff says, not whether it fits: ``hunks`` finds its places, and git applies it in a workspace. Line
numbers and counts that models write are taken for hints, so everything here guards against a diff that was cut off or
lost its first column, for then a smaller change than was meant would fit as well. ``edits`` is its only caller.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from autopack_mcp.errors import EditMisfit
from autopack_mcp.replies.diff_headers import DiffHeader, doubt, is_header_start, read_header
from autopack_mcp.text_safety import visible

HUNKS_LIMIT = 500  # Of one reply; a change of more could not be audited.
Sign = Literal[" ", "-", "+"]
_SIGNS: tuple[Sign, ...] = (" ", "-", "+")

_FENCE = re.compile(r"(`{3,}|~{3,})[\w.+#-]*[ \t\r]*")
_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@(?: .*|)", re.DOTALL)
# What models write who know that they cannot count: "@@", "@@ @@", "@@ ... @@", each with a heading behind it or not.
_HUNK_WITHOUT_NUMBERS = re.compile(r"@@(?:[ .…]*@@(?:[ \t].*)?)?[ \t\r]*")
_TELLS_OF_A_DIFF = re.compile(r"^(?:diff --git |--- \S[^\n]*\n\+\+\+ \S|@@ )", re.MULTILINE)
_CUT_OFF = "The diff looks cut off: {}. Nothing of it was used."


@dataclass(frozen=True, slots=True)
class HunkLine:
    """One line of a hunk: kept, taken away or added; ``text`` is of the file, with its line break if it has one."""

    sign: Sign
    text: str


@dataclass(frozen=True, slots=True)
class Hunk:
    """One place of a file that changes. ``stated_line`` is where the diff says it stands; None when it says nothing."""

    lines: tuple[HunkLine, ...]
    stated_line: int | None = None

    @property
    def old(self) -> list[str]:
        """The lines that the file must have."""
        return [line.text for line in self.lines if line.sign != "+"]

    @property
    def new(self) -> list[str]:
        """The lines that it has there afterwards."""
        return [line.text for line in self.lines if line.sign != "-"]

    def __str__(self) -> str:
        return "".join(f"{line.sign}{line.text}" for line in self.lines)


@dataclass(frozen=True, slots=True)
class FileDiff:
    """What a diff says about one file; ``renamed_from`` names where its text came from, if that was another file."""

    path: str
    hunks: tuple[Hunk, ...]
    kind: Literal["change", "new", "deletion"] = "change"
    renamed_from: str | None = None

    @property
    def starts_from_nothing(self) -> bool:
        """True when it fits a file that is empty or not there: one hunk at line 0, which only adds."""
        return len(self.hunks) == 1 and not self.hunks[0].old and self.hunks[0].stated_line == 0


def holds_diff(text: str) -> bool:
    """True when a text has lines that begin like those of a unified diff."""
    return _TELLS_OF_A_DIFF.search(text) is not None


def parse_diff(text: str) -> tuple[FileDiff, ...]:
    """Every file of the diff in a reply, whose line breaks are plain; prose and fences around it are ignored.

    Raises:
        EditMisfit: not a diff that can mean only one thing, or cut off; another one may be better.
        UnusableReply: one that does what no builder may.
    """
    regions = _regions(text.removesuffix("\n").split("\n"), is_cut=not text.endswith("\n"))
    found = [diff for region in regions for diff in _Reader(region, is_last=region is regions[-1]).read()]
    if not found:
        raise doubt("The reply has hunks of a diff, but nothing says of which file.")
    if sum(len(diff.hunks) for diff in found) > HUNKS_LIMIT:
        raise doubt(f"The diff has more than {HUNKS_LIMIT} hunks. Make a smaller change.")
    return tuple(found)


# Regions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Region:
    """Lines that hold a diff: inside a fence there is nothing else, outside there may be prose around it.

    ``is_cut`` says that the last line has no line break, so there may have been more of it.
    """

    lines: Sequence[str]
    is_fenced: bool = False
    is_cut: bool = False


def _regions(lines: Sequence[str], *, is_cut: bool) -> list[_Region]:
    """The fenced parts that hold a diff, or, where no fence does, the whole reply."""
    fenced: list[_Region] = []
    outside: list[str] = []
    position = 0
    while position < len(lines):
        opening = _FENCE.fullmatch(lines[position])
        if opening is None:
            outside.append(lines[position])
            position += 1
            continue
        inside = _until_closed(lines[position + 1 :], opening[1])
        position += len(inside) + 2
        if not holds_diff("\n".join(inside)):
            continue
        if position > len(lines):
            raise doubt(_CUT_OFF.format("the fence around it is never closed"))
        fenced.append(_Region(inside, is_fenced=True))
    if fenced and holds_diff("\n".join(outside)):
        raise doubt("A part of the diff stands in a fence and a part outside. Put all of it into one.")
    return fenced or [_Region(lines, is_cut=is_cut)]


def _until_closed(lines: Sequence[str], fence: str) -> list[str]:
    return list(takewhile(lambda line: line.rstrip(" \t\r") != fence, lines))


# Files and hunks -------------------------------------------------------------------------------------------------


class _Reader:
    """Walks over the lines of a region once. ``is_last`` says that the reply may have been cut off in it."""

    def __init__(self, region: _Region, *, is_last: bool) -> None:
        self._lines = region.lines
        self._is_fenced = region.is_fenced
        self._is_cut = region.is_cut
        self._is_last = is_last and not region.is_fenced
        self._position = 0

    def read(self) -> list[FileDiff]:
        """The files of the region, in their order."""
        found: list[FileDiff] = []
        while self._position < len(self._lines):
            if is_header_start(self._lines, self._position):
                header = read_header(self._lines, self._position)
                self._position = header.end
                found.append(self._file(header))
            else:
                self._pass_over(is_inside=bool(found) or self._is_fenced)
        return found

    def _pass_over(self, *, is_inside: bool) -> None:
        """One line of prose; among files, a line that could belong to one is refused, for it may be a lost part."""
        line = self._lines[self._position]
        if line.startswith("@@") or (is_inside and line[:1] in ("+", "-", " ", "\\") and line.strip()):
            raise self._misplaced("belongs to no hunk of any file")
        if self._is_fenced and line.strip() and not _precedes_a_header(line):
            raise self._misplaced("is no line of a diff")
        self._position += 1

    def _file(self, header: DiffHeader) -> FileDiff:
        hunks: list[Hunk] = []
        while self._position < len(self._lines) and self._lines[self._position].startswith("@@"):
            hunks.append(self._hunk(strips_cr=header.has_carriage_returns))
        _refuse_incomplete(header, hunks)
        return FileDiff(header.path, tuple(hunks), header.kind, header.renamed_from)

    def _hunk(self, *, strips_cr: bool) -> Hunk:
        heading = self._lines[self._position].removesuffix("\r")
        numbers = _HUNK.fullmatch(heading)
        if numbers is None and not _HUNK_WITHOUT_NUMBERS.fullmatch(heading):
            raise self._misplaced("is no heading of a hunk")
        self._position += 1
        start = self._position
        while self._position < len(self._lines) and self._is_body(self._position):
            self._position += 1
        body = _without_blank_end(self._lines[start : self._position])
        counts = None if numbers is None else (int(numbers[2] or 1), int(numbers[4] or 1))
        end = start + self._checked_length(body, self._lines[start : self._position], counts)
        lines = _hunk_lines(self._lines[start:end], strips_cr=strips_cr)
        if not any(line.sign != " " for line in lines):
            raise doubt(f"The hunk {visible(heading, 80)!r} changes nothing, or was cut off.")
        self._refuse_half_a_line(end)
        return Hunk(lines, None if numbers is None else int(numbers[1]))

    def _is_body(self, position: int) -> bool:
        line = self._lines[position]
        # An empty line is a blank one that lost its leading space, which mails and editors do to it.
        return (line[:1] in (" ", "-", "+", "\\") or line in ("", "\r")) and not is_header_start(self._lines, position)

    def _checked_length(self, body: Sequence[str], run: Sequence[str], counts: tuple[int, int] | None) -> int:
        """How many of the lines that look like a hunk's are its own.

        Raises:
            EditMisfit: where it ends cannot be known, so a part of it may be missing.
        """
        if counts is not None:
            length = next((size for size in range(len(body), len(run) + 1) if _counted(run[:size]) == counts), None)
            if length is not None and self._ends_clearly(len(run) > length):
                return length
        if not self._is_at_boundary():
            raise self._misplaced("follows a hunk whose counts do not say where it ends")
        if not self._is_fenced and any(line in ("", "\r") for line in body):
            # Behind an empty line may stand a list of a sentence's points, which looks like lines that come or go.
            raise doubt("The counts of a hunk and its empty lines do not say where it ends. Put it in a fence.")
        if self._is_last and self._position >= len(self._lines):
            self._refuse_cut_off(body, counts)
        return len(body)

    def _refuse_cut_off(self, body: Sequence[str], counts: tuple[int, int] | None) -> None:
        if counts is None:
            raise doubt(_CUT_OFF.format("its last hunk has no line numbers, and no fence shows its end"))
        old, new = _counted(body)
        if old < counts[0] or new < counts[1]:
            raise doubt(_CUT_OFF.format("its last hunk has fewer lines than its heading says"))

    def _ends_clearly(self, has_blank_end: bool) -> bool:  # noqa: FBT001
        """Whether nothing that was lost could stand behind a hunk whose counts are right."""
        return self._is_at_boundary() or has_blank_end

    def _is_at_boundary(self) -> bool:
        if self._position >= len(self._lines):
            return True
        return self._lines[self._position].startswith("@@") or is_header_start(self._lines, self._position)

    def _refuse_half_a_line(self, end: int) -> None:
        """Only of an added line can nobody see that its end is missing: the others must be in the file."""
        if self._is_cut and end == len(self._lines) and self._lines[end - 1].startswith("+"):
            raise doubt(_CUT_OFF.format("it ends in an added line without a line break"))

    def _misplaced(self, why: str) -> EditMisfit:
        line = visible(self._lines[self._position], 80)
        return doubt(f"In the diff, {line!r} {why}. Write the whole diff again, or use *** WRITE.")


def _precedes_a_header(line: str) -> bool:
    """Lines of other tools before a file's header: svn, cvs, and our own commands."""
    return line.startswith(("Index: ", "=====", "diff ", "Only in "))


def _counted(body: Sequence[str]) -> tuple[int, int]:
    """How many lines the old and the new file have in a hunk."""
    marked = sum(line.startswith("\\") for line in body)
    added = sum(line.startswith("+") for line in body)
    removed = sum(line.startswith("-") for line in body)
    return len(body) - marked - added, len(body) - marked - removed


def _without_blank_end(body: Sequence[str]) -> Sequence[str]:
    """A hunk without the empty lines behind it, which set it off from what follows; they would be context at most."""
    end = len(body)
    while end and body[end - 1] in ("", "\r"):
        end -= 1
    return body[:end]


def _hunk_lines(body: Sequence[str], *, strips_cr: bool) -> tuple[HunkLine, ...]:
    lines: list[HunkLine] = []
    for line in body:
        if line.startswith("\\"):
            if not lines:
                raise doubt("A hunk begins with the remark that a line break is missing.")
            lines[-1] = HunkLine(lines[-1].sign, lines[-1].text.removesuffix("\n"))
            continue
        text = line.removesuffix("\r") if strips_cr else line
        sign = next((sign for sign in _SIGNS if text.startswith(sign)), None)
        lines.append(HunkLine(sign or " ", f"{text if sign is None else text[1:]}\n"))
    return tuple(lines)


def _refuse_incomplete(header: DiffHeader, hunks: Sequence[Hunk]) -> None:
    """
    Raises:
        EditMisfit: a file is named, but nothing says completely what becomes of it.
    """
    if not hunks and not header.is_complete_alone:
        raise doubt(_CUT_OFF.format(f"it names {visible(header.path, 200)!r}, and then has no hunk for it"))
    if header.kind == "new" and any(hunk.old for hunk in hunks):
        raise doubt(f"The diff makes the new file {visible(header.path, 200)!r}, but has old lines of it.")
    if header.kind == "deletion" and any(hunk.new for hunk in hunks):
        raise doubt(f"The diff deletes {visible(header.path, 200)!r}, but leaves lines in it.")
