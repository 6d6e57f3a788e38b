"""What stands above the hunks of a diff: which file, under which name before and after, and of which kind.

It owns the spellings of names and refuses by name what no builder may do with a file: links, submodules, modes, binary
content, names in quotes. It judges no path (``path_rules`` does); ``diffs`` is its only caller.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from autopack_mcp.errors import EditMisfit, Misfit, UnusableReply
from autopack_mcp.text_safety import visible

# Lines that git writes between "diff --git" and "---", by what they begin with.
_EXTENDED = (
    "old mode ", "new mode ", "new file mode ", "deleted file mode ", "similarity index ", "dissimilarity index ",
    "rename from ", "rename to ", "copy from ", "copy to ", "index ",
)  # fmt: skip
_FILE_MODES = ("100644", "100755")
_SPECIAL_MODES = {"120000": "a symbolic link", "160000": "a submodule", "040000": "a folder", "40000": "a folder"}
_NOWHERE = "/dev/null"
_EMPTY_BLOB = "e69de29"  # How git names an empty file; nothing else says that a new one is meant to be empty.


@dataclass(frozen=True, slots=True)
class DiffHeader:
    """One file's header. ``end`` is the position behind it.

    ``is_complete_alone`` says that it means something without any hunk; ``has_carriage_returns`` that whoever carried
    the diff put them there, and not the file.
    """

    path: str
    kind: Literal["change", "new", "deletion"]
    renamed_from: str | None
    end: int
    is_complete_alone: bool
    has_carriage_returns: bool


def doubt(why: str) -> EditMisfit:
    """The refusal of a diff that could mean several things: nothing is wrong with asking for a plainer one."""
    return EditMisfit((Misfit("", why, ""),))


def is_header_start(lines: Sequence[str], position: int) -> bool:
    """True at ``diff --git``, and at ``---`` when ``+++`` and a hunk follow."""
    line = lines[position]
    if line.startswith("diff --git "):
        return True
    if not line.startswith("--- ") or position + 1 >= len(lines) or not lines[position + 1].startswith("+++ "):
        return False
    # In a hunk, these are a removed "-- x" and an added "++ y"; then no heading follows.
    return position + 2 >= len(lines) or lines[position + 2].startswith("@@") or not lines[position + 2].strip()


def read_header(lines: Sequence[str], position: int) -> DiffHeader:
    """The header that starts at ``position``.

    Raises:
        EditMisfit: it contradicts itself or is not whole.
        UnusableReply: it does something that a diff may not do here.
    """
    facts = _Facts(dict(_extended(lines, position)), lines[position])
    end = position + facts.length
    if facts.is_git and end < len(lines):
        _refuse_binary(lines[end])
    has_names = end + 1 < len(lines) and lines[end].startswith("--- ") and lines[end + 1].startswith("+++ ")
    if not facts.is_git or has_names:
        facts.old, facts.new = _name(lines[end], "--- "), _name(lines[end + 1], "+++ ")
        end += 2
    elif end < len(lines) and lines[end].startswith(("--- ", "+++ ")):
        raise doubt(f"The diff has {visible(lines[end], 120)!r} without its other half.")
    return facts.header(end, has_carriage_returns=lines[position].endswith("\r"))


@dataclass(slots=True)
class _Facts:
    """What the lines of a header say, as they are found."""

    extended: Mapping[str, str]
    first_line: str
    old: str | None = None
    new: str | None = None

    @property
    def is_git(self) -> bool:
        return self.first_line.startswith("diff --git ")

    @property
    def length(self) -> int:
        """Lines before the pair of names."""
        return len(self.extended) + 1 if self.is_git else 0

    def header(self, end: int, *, has_carriage_returns: bool) -> DiffHeader:
        self._refuse_modes()
        before, after = self._names()
        renamed_from = self._renamed_from(before, after)
        is_new = before is None or "new file mode " in self.extended
        is_gone = after is None or "deleted file mode " in self.extended
        path = after or before
        if path is None or (is_new and is_gone):
            raise doubt("A file of the diff is /dev/null before and after.")
        return DiffHeader(
            path=path,
            kind="new" if is_new else "deletion" if is_gone else "change",
            renamed_from=renamed_from,
            end=end,
            is_complete_alone=self._is_complete_alone(renamed_from),
            has_carriage_returns=has_carriage_returns,
        )

    def _names(self) -> tuple[str | None, str | None]:
        """The file before and after, None for "no such file"; a, b and nothing in front of both mean the same."""
        if self.old is None or self.new is None:
            name = self._only_name()
            return name, name
        before, after = _without_prefixes(self.old, self.new)
        source, target = before or after, after or before
        if self.is_git and self._git_names() not in (f"a/{source} b/{target}", f"{source} {target}"):
            raise doubt(f"The headers of {visible(target or '', 200)!r} in the diff name different files.")
        return before, after

    def _git_names(self) -> str:
        return _spelled(self.first_line.removeprefix("diff --git "))

    def _only_name(self) -> str:
        """The name in ``diff --git`` when nothing else names the file: both halves of the line are the same."""
        if "rename to " in self.extended:
            return _spelled(self.extended["rename to "])
        halves = self._git_names()
        middle = len(halves) // 2
        left, right = halves[:middle], halves[middle + 1 :]
        if left.removeprefix("a/") != right.removeprefix("b/") or halves[middle : middle + 1] != " ":
            raise doubt(f"The diff's {visible(self.first_line, 200)!r} does not say which file it is about.")
        return left.removeprefix("a/")

    def _renamed_from(self, before: str | None, after: str | None) -> str | None:
        said = (self.extended.get("rename from "), self.extended.get("rename to "))
        if said == (None, None):
            if before is not None and after is not None and before != after:
                names = f"{visible(before, 200)!r} and {visible(after, 200)!r}"
                raise doubt(f"The diff names {names} for one file, and no rename. Say which file it is about.")
            return None
        source, target = said
        if source is None or target is None or target != after or (before not in (source, after)):
            raise doubt(f"The diff renames {visible(after or '', 200)!r}, but its names contradict each other.")
        return _spelled(source)

    def _is_complete_alone(self, renamed_from: str | None) -> bool:
        if renamed_from is not None:
            return self.extended.get("similarity index ") == "100%"
        is_made_or_gone = {"new file mode ", "deleted file mode "} & self.extended.keys()
        return bool(is_made_or_gone) and _EMPTY_BLOB in self.extended.get("index ", "")

    def _refuse_modes(self) -> None:
        """
        Raises:
            UnusableReply: anything but an ordinary file that keeps its mode.
        """
        modes = [words for key, words in self.extended.items() if "mode " in key]
        modes += self.extended.get("index ", "").split(" ")[1:2]
        for mode in modes:
            if mode in _SPECIAL_MODES:
                raise UnusableReply(f"The diff is about {_SPECIAL_MODES[mode]} (mode {mode}); only files are changed.")
            if mode not in _FILE_MODES:
                raise UnusableReply(f"The diff has the mode {visible(mode, 40)!r}, which no file here has.")
        if "old mode " in self.extended or "new mode " in self.extended:
            raise UnusableReply("The diff changes the mode of a file, which is not taken. Change its content only.")
        if self.extended.get("new file mode ") == "100755":
            raise UnusableReply("The diff makes an executable file (mode 100755); new files are made as 100644.")
        if "copy from " in self.extended or "copy to " in self.extended:
            raise UnusableReply("The diff copies a file. Use *** WRITE with the whole content instead.")


def _extended(lines: Sequence[str], position: int) -> Iterator[tuple[str, str]]:
    if not lines[position].startswith("diff --git "):
        return
    seen: set[str] = set()
    for line in lines[position + 1 :]:
        key = next((key for key in _EXTENDED if line.startswith(key)), None)
        if key is None:
            return
        if key in seen:
            raise doubt(f"A file of the diff has {key.strip()!r} twice.")
        seen.add(key)
        yield key, line.removeprefix(key).rstrip("\r")


def _refuse_binary(line: str) -> None:
    if line.startswith("GIT binary patch") or re.match(r"Binary files .* differ", line):
        raise UnusableReply("The diff has binary content, which is not taken. Only text files can be changed.")


def _name(line: str, marker: str) -> str:
    """A name behind ``---`` or ``+++``; a time stamp follows behind a tab."""
    return _spelled(line.removeprefix(marker).partition("\t")[0])


def _spelled(words: str) -> str:
    words = words.rstrip("\r").rstrip(" ")
    if '"' in words:
        shown = visible(words, 200)
        raise UnusableReply(f"The diff has a name in quotes, {shown}. Use *** WRITE or *** EDIT for this file.")
    return words


def _without_prefixes(old: str, new: str) -> tuple[str | None, str | None]:
    before, after = (None if name == _NOWHERE else name for name in (old, new))
    has_prefixes = (before is None or before.startswith("a/")) and (after is None or after.startswith("b/"))
    if not has_prefixes:
        return before, after
    return before and before[2:], after and after[2:]
