"""Which paths a builder may name: the rules for hostile ones, and what allowed path patterns mean.

It owns words and patterns only and looks at no disk; ``workspace.files`` reaches what they name. The workspace, patches
in memory and rehearsals ask it before anything is written, and every refusal is worded for the model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from autopack_mcp.errors import UnusableReply
from autopack_mcp.text_safety import visible

PATH_LIMIT_BYTES = 1_000
NAME_LIMIT_BYTES = 255  # Of one folder or file; file systems take no more.

# Letters that HFS+ ignores in names, so that ".g\u200cit" opens .git there (git's own list, utf8.c: next_hfs_char).
_IGNORED_BY_HFS = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
# NTFS finds .git and .autopack under these as well: a short name, trailing dots and blanks, a stream of the folder.
_RESERVED = re.compile(r"(?:\.git|git~\d+|\.autopack|autopa~\d+)[. ]*(?::.*)?", re.IGNORECASE)


def check_path(path: str) -> None:
    """Nothing, when ``path`` is a plain relative path of a file that may exist in a repository.

    Raises:
        UnusableReply: it is absolute, leaves the workspace, points into ``.git`` or ``.autopack`` under any spelling,
            or is no name that every file system takes.
    """
    objection = _objection(path)
    if objection:
        raise UnusableReply(f"The path {visible(path, 200)!r} {objection}. Nothing was written.")


def check_allowed(path: str, patterns: Sequence[str]) -> None:
    """Nothing, when a pattern matches ``path``.

    Raises:
        UnusableReply: none does; the reason names what is allowed.
    """
    if not is_allowed(path, patterns):
        allowed = visible(", ".join(patterns), 500)
        raise UnusableReply(f"The path {visible(path, 200)!r} is not allowed in this phase. Allowed: {allowed}.")


def is_allowed(path: str, patterns: Sequence[str]) -> bool:
    """True when a pattern matches, or when there are none.

    ``*`` and ``?`` stay within a name, ``[a-z]`` is one character of a set, ``**`` is any number of folders. A pattern
    that is literally the path or a folder above it matches too, so ``src`` means everything below ``src`` and
    ``app/[id]`` may be a folder of that very name. Case counts, hidden files are files like others.
    """
    return not patterns or any(matches(path, pattern) for pattern in patterns)


def matches(path: str, pattern: str) -> bool:
    """True when one pattern matches; see ``is_allowed``."""
    tidy = re.sub(r"\A(?:\./+)+", "", pattern).rstrip("/")
    if not tidy:
        return False
    return path == tidy or path.startswith(f"{tidy}/") or _glob(tidy).fullmatch(path) is not None


def _objection(path: str) -> str | None:
    names = path.split("/")
    if not path.strip():
        return "is empty"
    if not path.isprintable():
        return "has a control or hidden character in it"
    if path.startswith(("/", "~")) or re.match(r"[A-Za-z]:", path):
        return "is not relative to the project's top folder"
    if "\\" in path:
        return "has a backslash; write / between folders"
    if ".." in names:
        return "leaves the workspace"
    if "" in names or "." in names:
        return "has an empty or '.' part, or ends with /"
    if any(_RESERVED.fullmatch(_IGNORED_BY_HFS.sub("", name)) for name in names):
        return "points into a folder that is not the builder's"
    if len(path.encode()) > PATH_LIMIT_BYTES or any(len(name.encode()) > NAME_LIMIT_BYTES for name in names):
        return "is too long"
    return None


@lru_cache(maxsize=256)
def _glob(pattern: str) -> re.Pattern[str]:
    expression, rest = "", re.sub(r"(?:\*\*/)+", "**/", pattern)  # Repeats mean the same and cost backtracking.
    at_start_of_name = True
    while rest:
        token = re.match(r"\*\*/|\*\*\Z|\*+|\?|\[!?+\]?+[^]/]*\]|.", rest, re.DOTALL)
        assert token is not None
        expression += _translated(token[0], at_start_of_name)
        at_start_of_name = token[0].endswith("/")
        rest = rest[token.end() :]
    return re.compile(expression, re.DOTALL)


def _translated(token: str, at_start_of_name: bool) -> str:  # noqa: FBT001
    if token == "**/" and at_start_of_name:
        return "(?:[^/]+/)*"
    if token == "**" and at_start_of_name:
        return ".+"
    if token.startswith("*"):
        return "[^/]*" + ("/" if token.endswith("/") else "")
    if token == "?":
        return "[^/]"
    return _set(token) if len(token) > 1 else re.escape(token)


def _set(token: str) -> str:
    """``[a-c]`` or ``[!a-c]``; a range that runs backwards holds no character, as in a shell."""
    is_negated = token[1] == "!"
    members = re.findall("(.)-(.)|(.)", token[1:-1].removeprefix("!"), re.DOTALL)
    ranges = ((first or single, last or single) for first, last, single in members)
    inside = "".join(f"{re.escape(first)}-{re.escape(last)}" for first, last in ranges if first <= last)
    if not inside:
        return "[^/]" if is_negated else "(?!)"
    return f"(?!/)[{'^' if is_negated else ''}{inside}]"
