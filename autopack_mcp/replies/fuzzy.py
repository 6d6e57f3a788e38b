"""The place that a part of a change most likely means, when its lines do not stand in the file exactly as written.

It owns how far from exact a place may be, and it rather finds none: every line that goes must be there, white space
aside, and where new lines come in, the lines around must stand together. Only plans that say ``allow_fuzzy`` get here
(``edited`` asks), and whoever reviews the change is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise

from autopack_mcp.replies.diffs import HunkLine, Sign
from autopack_mcp.replies.hunks import COMMON_LINE

MATCHED_SHARE = 0.7  # Of the lines that should be there, blank ones aside; with less another place is as likely.
SECOND_BEST_SHARE = 0.75  # Of the best place's lines that another place may have, before nobody knows which is meant.
PLACES_TRIED = 12  # Those with the most equal lines.
SLACK_LINES = 3  # That may be missing or too many in a hunk.
LINES_LIMIT = (
    400  # Of one hunk; comparing longer ones takes seconds, and what is so long and off is better asked again.
)


@dataclass(frozen=True, slots=True)
class Span:
    """Lines ``start`` up to and without ``end`` of a file, which the new ones replace."""

    start: int
    end: int
    new: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a hunk, and the line of the file that it is; None when there is no such line."""

    sign: Sign
    text: str
    position: int | None


def hunk_of(search: Sequence[str], replace: Sequence[str]) -> list[HunkLine]:
    """A search/replace block as the lines of a hunk: what both have is kept."""
    lines: list[HunkLine] = []
    for tag, start, end, new_start, new_end in SequenceMatcher(None, search, replace, autojunk=False).get_opcodes():
        if tag == "equal":
            lines += [HunkLine(" ", line) for line in search[start:end]]
            continue
        lines += [HunkLine("-", line) for line in search[start:end]]
        lines += [HunkLine("+", line) for line in replace[new_start:new_end]]
    return lines


def likely_spans(lines: Sequence[str], hunk: Sequence[HunkLine]) -> list[Span] | None:
    """What a hunk most likely replaces; None when that is not plain. No line, here or in the answer, has a line break.

    Added lines are indented as the file is, where all of the hunk is off by the same.
    """
    aligned = _aligned(lines, hunk) if len(hunk) <= LINES_LIMIT else None
    if aligned is None:
        return None
    reworded = _Rewording.of(lines, aligned)
    spans = [_span(lines, aligned, start, end) for start, end in _groups(aligned)]
    if reworded is None or any(span is None for span in spans):
        return None
    found = [Span(span.start, span.end, [reworded.of_line(line) for line in span.new]) for span in spans if span]
    return found if all(first.end <= second.start for first, second in pairwise(found)) else None


def _aligned(lines: Sequence[str], hunk: Sequence[HunkLine]) -> list[_Line] | None:
    """The hunk with the position of each of its old lines, at the one place where most of them stand."""
    wanted = [line.text.strip() for line in hunk if line.sign != "+"]
    keys = [line.strip() for line in lines]
    tried = sorted((_positions(keys, wanted, place) for place in _places(keys, wanted)), key=_Weight(wanted))
    if not tried:
        return None
    weight, best = _Weight(wanted), tried[-1]
    if weight(best) < MATCHED_SHARE * sum(map(bool, wanted)):
        return None
    if any(weight(other) > SECOND_BEST_SHARE * weight(best) for other in tried if _differs(wanted, other, best)):
        return None
    positions = iter(best)
    return [_Line(line.sign, line.text, None if line.sign == "+" else next(positions)) for line in hunk]


class _Weight:
    """How many of the wanted lines stand there; blank ones say nothing about a place."""

    def __init__(self, wanted: Sequence[str]) -> None:
        self._wanted = wanted

    def __call__(self, positions: Sequence[int | None]) -> int:
        return sum(position is not None and bool(text) for text, position in zip(self._wanted, positions, strict=True))


def _places(keys: Sequence[str], wanted: Sequence[str]) -> list[int]:
    positions: dict[str, list[int]] = {}
    for number, key in enumerate(keys):
        positions.setdefault(key, []).append(number)
    votes: Counter[int] = Counter()
    for offset, key in enumerate(wanted):
        found = positions.get(key, [])
        if key and len(found) <= COMMON_LINE:
            votes.update(number - offset for number in found)
    return [place for place, _ in votes.most_common(PLACES_TRIED)]


def _positions(keys: Sequence[str], wanted: Sequence[str], place: int) -> list[int | None]:
    start = max(0, place - SLACK_LINES)
    window = keys[start : place + len(wanted) + SLACK_LINES]
    found: list[int | None] = [None] * len(wanted)
    for block in SequenceMatcher(None, wanted, window, autojunk=False).get_matching_blocks():
        for offset in range(block.size):
            found[block.a + offset] = start + block.b + offset
    return found


def _differs(wanted: Sequence[str], positions: Sequence[int | None], best: Sequence[int | None]) -> bool:
    return any(text and one != other for text, one, other in zip(wanted, positions, best, strict=True))


def _groups(aligned: Sequence[_Line]) -> Iterator[tuple[int, int]]:
    """The runs of lines that go or come, as start and end in the hunk."""
    start = None
    for number, line in enumerate(aligned):
        if line.sign != " " and start is None:
            start = number
        if line.sign == " " and start is not None:
            yield start, number
            start = None
    if start is not None:
        yield start, len(aligned)


def _span(lines: Sequence[str], aligned: Sequence[_Line], start: int, end: int) -> Span | None:
    """What one run replaces; None when a line that goes is not there, or the lines around it do not stand together."""
    new = [line.text for line in aligned[start:end] if line.sign == "+"]
    gone = [line.position for line in aligned[start:end] if line.sign == "-"]
    above = aligned[start - 1].position if start else -1
    below = aligned[end].position if end < len(aligned) else len(lines)
    if gone:
        first = gone[0]
        if first is None or gone != list(range(first, first + len(gone))):
            return None
        # A line beside the change that is not in the file may be an added one that lost its sign.
        touches_above = start == 0 or above == first - 1
        touches_below = end == len(aligned) or below == first + len(gone)
        return Span(first, first + len(gone), new) if touches_above and touches_below else None
    return None if above is None or below is None or above + 1 != below else Span(below, below, new)


@dataclass(frozen=True, slots=True)
class _Rewording:
    """How white space of the hunk becomes that of the file: an indentation that comes or goes, blanks at the end."""

    added: str
    removed: str
    drops_trailing: bool

    @classmethod
    def of(cls, lines: Sequence[str], aligned: Sequence[_Line]) -> _Rewording | None:
        """What all lines that were found have in common; None when they differ in different ways."""
        pairs = [(line.text, lines[line.position]) for line in aligned if line.position is not None]
        pairs = [(written, found) for written, found in pairs if found.strip()]
        shifts = {_shift(_indentation(written), _indentation(found)) for written, found in pairs}
        if len(shifts) != 1:
            return None
        shift = shifts.pop()
        drops = any(written != written.rstrip() and found == found.rstrip() for written, found in pairs)
        return None if shift is None else cls(*shift, drops)

    def of_line(self, line: str) -> str:
        """An added line as the file would have it."""
        text = line.rstrip() if self.drops_trailing else line
        return self.added + text.removeprefix(self.removed) if text.strip() else text


def _indentation(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _shift(written: str, found: str) -> tuple[str, str] | None:
    """What must be put in front and what taken away, one of them empty."""
    if found.endswith(written):
        return found[: len(found) - len(written)], ""
    return ("", written[: len(written) - len(found)]) if written.endswith(found) else None
