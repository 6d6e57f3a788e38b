"""What a builder's reply says should change: the format we ask for, and how it is read.

It owns the reply format and never guesses what was meant; it touches no disk and knows no allowed path, and what a file
then contains is worked out by ``edited``. The builder's prompt, the workspace, library callers and the scripted
rehearsal use it. A unified diff, which we do not ask for, is read by ``diffs`` when there is nothing else in a reply.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import PurePosixPath

from autopack_mcp.errors import UnusableReply
from autopack_mcp.replies.diffs import FileDiff, holds_diff, parse_diff
from autopack_mcp.text_safety import visible

FILES_LIMIT = 200  # Files of one reply; a phase that needs more should have been several.
SUMMARY_LIMIT = 2_000  # Characters of a summary that are kept.

EDIT_FORMAT = r"""
Answer with edits in exactly this format. Every marker stands alone at the beginning of a line.

*** SUMMARY One sentence: what you changed and why.

To create a file, or to replace all of it:
*** WRITE path/of/file.py
the whole new content of the file, nothing left out
*** END

To change a part of an existing file, with one or more blocks:
*** EDIT path/of/other.py
<<<<<<< SEARCH
whole lines of the file as they are now, copied exactly, that occur only once in it
=======
the lines that replace them
>>>>>>> REPLACE
*** END

To remove a file:
*** DELETE path/of/old.py

Rules:
- Paths are relative to the project's top folder. Name each file once, with one of WRITE, EDIT or DELETE.
- All SEARCH blocks of a file are looked up in the file as it was shown to you, not as earlier blocks leave it.
- If SEARCH lines would occur more than once, include more lines around them. An empty replacement removes the lines.
- No diffs, no line numbers, no "rest unchanged", and no ``` fences around the content.
- A line of the content that itself looks like one of the markers gets a backslash in front: \*** END
- A file that must not end with a line break ends with *** END NO NEWLINE instead of *** END.
- What stands outside the markers is ignored.
""".strip()


@dataclass(frozen=True, slots=True)
class WholeFile:
    """The file shall have exactly this content, whether it exists or not."""

    path: str
    content: str


@dataclass(frozen=True, slots=True)
class SearchReplace:
    """These whole lines, which occur once, give way to those; a last line break more or less makes no difference."""

    path: str
    search: str
    replace: str


@dataclass(frozen=True, slots=True)
class DeleteFile:
    """The file shall be gone."""

    path: str


BlockEdit = WholeFile | SearchReplace | DeleteFile
Edit = BlockEdit | FileDiff


@dataclass(frozen=True, slots=True)
class BuilderReply:
    """A reply that can be used: at least one edit, and no path edited in two ways."""

    summary: str
    edits: tuple[Edit, ...]


def parse_edits(text: str) -> BuilderReply:
    """The edits in a builder's reply, content exactly as it was written.

    Prose and fences around the blocks are ignored; carriage returns are, too, when every line has one. A reply without
    blocks may be a unified diff instead.

    Raises:
        UnusableReply: no edits, cut off, malformed, or a file named in conflicting ways.
    """
    lines = _lines_of(text)
    reader = _Reader(lines)
    reader.read()
    edits = reader.edits or _diff_in("\n".join(lines))
    if not edits:
        raise UnusableReply(_no_edits(text))
    by_path(edits)
    summary = visible(reader.summary.strip(), SUMMARY_LIMIT, multiline=True) or _default_summary(edits)
    return BuilderReply(summary, tuple(edits))


def render_edits(edits: Iterable[BlockEdit], summary: str = "") -> str:
    """The reply that ``parse_edits`` reads back as these edits: what a scripted builder answers."""
    blocks = [f"*** SUMMARY {' '.join(summary.split())}\n"] if summary.strip() else []
    for (_, path), group in groupby(edits, key=lambda edit: (type(edit), edit.path)):
        blocks.append("".join(_rendered(path, list(group))))
    return "\n".join(blocks)


def by_path(edits: Iterable[Edit]) -> dict[str, list[Edit]]:
    """The edits of each file, in their order; a file that a diff renames is deleted under its old name.

    Raises:
        UnusableReply: a file is edited in two ways, or there are more than ``FILES_LIMIT``.
    """
    grouped: dict[str, list[Edit]] = {}
    for edit in chain.from_iterable(map(_one_by_one, edits)):
        group = grouped.setdefault(edit.path, [])
        if group and not (isinstance(edit, SearchReplace) and isinstance(group[0], SearchReplace)):
            raise UnusableReply(f"{_shown(edit.path)} is named twice. Name each file once: WRITE, EDIT or DELETE.")
        group.append(edit)
    if len(grouped) > FILES_LIMIT:
        raise UnusableReply(f"The reply changes {len(grouped)} files; at most {FILES_LIMIT} are taken at once.")
    return grouped


def source_of(path: str, edit: Edit) -> str:
    """The file whose text an edit of ``path`` starts from: another one where a diff renames it."""
    return edit.renamed_from or path if isinstance(edit, FileDiff) else path


# Reading ---------------------------------------------------------------------------------------------------------

_HEADER = re.compile(r"\*\*\* (WRITE|EDIT|DELETE|SUMMARY)(?:[ \t]+(.*?))?[ \t\r]*")
_END = re.compile(r"\*\*\* END( NO NEWLINE)?[ \t\r]*")
_SEARCH = re.compile(r"<{7} SEARCH[ \t\r]*")
_DIVIDER = re.compile(r"={7}[ \t\r]*")
_REPLACE = re.compile(r">{7} REPLACE[ \t\r]*")
_FENCE = re.compile(r"(`{3,})[\w.+#-]*[ \t\r]*")
# What a line of content may look like a marker with, and so carries a backslash for.
_ESCAPABLE = re.compile(
    r"(\\*)(?:\*\*\* (?:WRITE|EDIT|DELETE|SUMMARY|END)(?:[ \t].*)?|<{7} SEARCH|={7}|>{7} REPLACE)[ \t\r]*"
)
# In these a fence is likely to be content: nothing is taken off.
_MARKDOWN = {".md", ".markdown", ".mdx", ".qmd", ".rmd"}


def _lines_of(text: str) -> list[str]:
    every_line_has_one = text.count("\n") == text.count("\r\n")
    return (text.replace("\r\n", "\n") if every_line_has_one else text).split("\n")


@dataclass(slots=True)
class _Reader:
    """Walks over the lines of a reply once; outside of blocks everything but a marker is prose."""

    lines: list[str]
    position: int = 0
    summary: str = ""
    edits: list[Edit] = field(default_factory=list)

    def read(self) -> None:
        end_is_welcome = False  # Models like to close a DELETE or a SUMMARY, which need no END.
        for line in self._rest():
            if header := _HEADER.fullmatch(line):
                self._block(header[1], header[2] or "")
                end_is_welcome = header[1] in ("DELETE", "SUMMARY")
            elif _END.fullmatch(line) and not end_is_welcome:
                raise UnusableReply(
                    f"Line {self.position}: *** END without a block that it ends. A line of the content that looks "
                    "like a marker must have a backslash in front."
                )

    def _rest(self) -> Iterator[str]:
        while self.position < len(self.lines):
            self.position += 1
            yield self.lines[self.position - 1]

    def _block(self, verb: str, words: str) -> None:
        if verb == "SUMMARY":
            self.summary = self.summary or words or self._paragraph()
            return
        path = _read_path(words)
        if not path:
            raise UnusableReply(f"Line {self.position}: *** {verb} names no path.")
        if verb == "WRITE":
            self.edits.append(WholeFile(path, self._content(path)))
        elif verb == "EDIT":
            self.edits += self._search_replaces(path)
        else:
            self.edits.append(DeleteFile(path))

    def _paragraph(self) -> str:
        start = self.position
        while self.position < len(self.lines) and not _ESCAPABLE.fullmatch(self.lines[self.position]):
            self.position += 1
        return "\n".join(self.lines[start : self.position])

    def _content(self, path: str) -> str:
        lines: list[str] = []
        for line in self._rest():
            if end := _END.fullmatch(line):
                return _text(_unfenced(path, lines), ends_with_line_break=end[1] is None)
            self._refuse_header(line, "WRITE", path)
            lines.append(_unescaped(line))
        raise self._cut_off("WRITE", path)

    def _search_replaces(self, path: str) -> list[SearchReplace]:
        blocks: list[SearchReplace] = []
        for line in self._rest():
            if _END.fullmatch(line):
                if not blocks:
                    raise UnusableReply(f"The EDIT of {_shown(path)} has no <<<<<<< SEARCH block.")
                return blocks
            self._refuse_header(line, "EDIT", path)
            if _SEARCH.fullmatch(line):
                search = self._lines_until(_DIVIDER, "=======", path)
                blocks.append(SearchReplace(path, search, self._lines_until(_REPLACE, ">>>>>>> REPLACE", path)))
            elif line.strip() and not _FENCE.fullmatch(line):
                raise UnusableReply(
                    f"Line {self.position}: between the blocks of the EDIT of {_shown(path)} stands "
                    f"{visible(line, 80)!r}; only <<<<<<< SEARCH or *** END may."
                )
        raise self._cut_off("EDIT", path)

    def _lines_until(self, ending: re.Pattern[str], name: str, path: str) -> str:
        lines: list[str] = []
        for line in self._rest():
            if ending.fullmatch(line):
                return _text(lines)
            if _ESCAPABLE.fullmatch(line) and not line.startswith("\\"):
                raise UnusableReply(
                    f"Line {self.position}: {visible(line, 80)!r} where {name} was expected, in the EDIT of "
                    f"{_shown(path)}. A line of the file that looks like a marker must have a backslash in front."
                )
            lines.append(_unescaped(line))
        raise self._cut_off("EDIT", path)

    def _refuse_header(self, line: str, verb: str, path: str) -> None:
        if _HEADER.fullmatch(line):
            raise UnusableReply(
                f"Line {self.position}: {visible(line, 80)!r} before the {verb} of {_shown(path)} had its *** END. If "
                "it is a line of the content, put a backslash in front."
            )

    def _cut_off(self, verb: str, path: str) -> UnusableReply:
        return UnusableReply(
            f"The reply ends inside the {verb} of {_shown(path)}: it was cut off, or *** END is missing. "
            "Nothing of it was used."
        )


def _read_path(words: str) -> str:
    if words.startswith('"'):
        try:
            path = json.loads(words)
        except ValueError:
            raise UnusableReply(f"The path {visible(words, 200)} is not a JSON string.") from None
        return path if isinstance(path, str) else ""
    if len(words) > 2 and words[0] == words[-1] == "`":
        words = words[1:-1]
    return re.sub(r"\A(?:\./+)+", "", words.strip())


def _text(lines: Sequence[str], *, ends_with_line_break: bool = True) -> str:
    return "\n".join(lines) + ("\n" if lines and ends_with_line_break else "")


def _unescaped(line: str) -> str:
    marker = _ESCAPABLE.fullmatch(line)
    return line[1:] if marker and marker[1] else line


def _unfenced(path: str, lines: list[str]) -> list[str]:
    return lines[1:-1] if _is_fenced(path, lines) else lines


def _is_fenced(path: str, lines: Sequence[str]) -> bool:
    """True when one fence goes exactly around the whole content, so that the model and not the file put it there."""
    opening = _FENCE.fullmatch(lines[0]) if len(lines) >= 2 else None
    if opening is None or PurePosixPath(path).suffix.lower() in _MARKDOWN:
        return False
    fence = opening[1]
    return lines[-1].rstrip(" \t\r") == fence and not any(line.startswith(fence) for line in lines[1:-1])


def _diff_in(text: str) -> list[Edit]:
    return list(parse_diff(text)) if holds_diff(text) else []


def _one_by_one(edit: Edit) -> tuple[Edit, ...]:
    if isinstance(edit, FileDiff) and edit.renamed_from is not None:
        return edit, DeleteFile(edit.renamed_from)
    return (edit,)


def _no_edits(text: str) -> str:
    reason = "The reply contains no edits: no line begins with *** WRITE, *** EDIT or *** DELETE."
    if not text.strip():
        return "The reply is empty."
    return f"{reason} It begins: {visible(text.strip(), 200)!r}"


def _default_summary(edits: Sequence[Edit]) -> str:
    return visible(f"Changes {', '.join(by_path(edits))}.", 200)


def _shown(path: str) -> str:
    return repr(visible(path, 200))


# Writing ---------------------------------------------------------------------------------------------------------


def _rendered(path: str, group: Sequence[Edit]) -> Iterator[str]:
    is_plain = path.isprintable() and not path.startswith('"') and _read_path(path) == path
    name = path if is_plain else json.dumps(path)
    for edit in group:
        if isinstance(edit, WholeFile):
            yield f"*** WRITE {name}\n{_rendered_content(path, edit.content)}"
        elif isinstance(edit, DeleteFile):
            yield f"*** DELETE {name}\n"
    blocks = [edit for edit in group if isinstance(edit, SearchReplace)]
    if blocks:
        yield f"*** EDIT {name}\n"
        for block in blocks:
            search, replace = _escaped(_split(block.search)), _escaped(_split(block.replace))
            yield f"<<<<<<< SEARCH\n{search}=======\n{replace}>>>>>>> REPLACE\n"
        yield "*** END\n"


def _rendered_content(path: str, content: str) -> str:
    lines = _split(content)
    if _is_fenced(path, lines):
        # A second fence for the reader to take off, long enough that the first is plainly inside of it.
        fence = "`" * (max(len(line) - len(line.lstrip("`")) for line in lines) + 1)
        lines = [fence, *lines, fence]
    ending = "*** END\n" if content.endswith("\n") or not content else "*** END NO NEWLINE\n"
    return _escaped(lines) + ending


def _escaped(lines: Iterable[str]) -> str:
    return "".join(f"\\{line}\n" if _ESCAPABLE.fullmatch(line) else f"{line}\n" for line in lines)


def _split(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n") if text else []
