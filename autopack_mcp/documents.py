"""A YAML or JSON text as plain data, with the line of every key.

It owns the safety of reading what a person or a stranger wrote: bounds on size, depth and count, no objects, no doubled
keys, numbers without floats. It refuses to know what the data means; ``sections`` reads it for ``config`` and ``plan``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TypeAlias

import yaml

from autopack_mcp.errors import Problem

Value: TypeAlias = "bool | int | Decimal | str | list[Value] | dict[str, Value] | None"
KeyPath: TypeAlias = "tuple[str | int, ...]"

DOCUMENT_BYTES = 8 * 1024 * 1024  # A plan of 1,000 phases is about 1 MB; beyond this somebody points at the wrong file.
DOCUMENT_DEPTH = 32  # The deepest key of a plan stands eight levels down.
DOCUMENT_VALUES = 250_000  # 1,000 phases are about 30,000 values; aliases count as what they repeat.

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_WORDS: Mapping[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_NUMBER_START = frozenset("+-.0123456789")
# A leading zero makes a text ("007" is a name), and the lengths keep a hostile number from costing time or memory.
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]{0,24})\Z")
_DECIMAL = re.compile(r"[-+]?(?:[0-9]{1,18}\.[0-9]{0,18}|\.[0-9]{1,18}|[0-9]{1,18}(?=[eE]))(?:[eE][-+]?[0-9]{1,2})?\Z")
_JSON_ESCAPE = re.compile(r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|.)", re.DOTALL)
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.:@+*-]{1,80}\Z")
_TEXT_TAGS = ("!", "tag:yaml.org,2002:str")
_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


@dataclass(frozen=True, slots=True)
class Document:
    """What a text says. ``data`` is None when it is empty or cannot be read; in that case ``problems`` says why.

    Numbers are ``int`` or ``Decimal``, never float; the words yes, no, on and off are text, as in YAML 1.2.
    """

    source: str
    data: Value
    lines: Mapping[KeyPath, int]
    problems: tuple[Problem, ...] = ()

    def line(self, path: KeyPath) -> int:
        """The 1-based line of a key or list item; of the nearest thing around it when the path is not in the text."""
        while path not in self.lines:
            path = path[:-1]
        return self.lines[path]


def read_document(text: str, source: str) -> Document:
    """Read a YAML or JSON text; never raises for what stands in it.

    Args:
        source: what the problems name as their file.
    """
    tree = _Tree(source)
    obstacle = _obstacle(text, source)
    if obstacle is not None:
        return Document(source, None, tree.lines, (obstacle,))
    text = _joined_surrogates(text.removeprefix("\ufeff"))
    try:
        # Events, not nodes: PyYAML's compose() recurses in C and dies of a text that is nothing but brackets.
        for event in yaml.parse(text, Loader=_LOADER):
            tree.feed(event)
    except yaml.YAMLError as error:
        tree.problems.append(_syntax_problem(error, text, source))
    except _Unreadable as error:
        tree.problems.append(Problem(error.message, source, error.line))
    return Document(source, None if tree.problems and tree.is_open else tree.root, tree.lines, tuple(tree.problems))


def file_text(path: Path) -> str | Problem:
    """The UTF-8 text of a file of at most ``DOCUMENT_BYTES``, or why it cannot be had. Line ends stay as they are."""
    try:
        if path.exists() and not path.is_file():
            return Problem("is not a file.", str(path))
        with path.open("rb") as file:
            raw = file.read(DOCUMENT_BYTES + 1)
    except OSError as error:
        return Problem(f"cannot be read: {error.strerror or error}.", str(path))
    if len(raw) > DOCUMENT_BYTES:
        return _oversize(str(path))
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return Problem("is not UTF-8 text. Save it as UTF-8.", str(path), line)


def _oversize(source: str) -> Problem:
    return Problem(f"is larger than {DOCUMENT_BYTES // 1024**2} MiB, the most that is read.", source)


def _obstacle(text: str, source: str) -> Problem | None:
    """What makes parsing pointless: too much text, or characters that belong in no text file."""
    if len(text) > DOCUMENT_BYTES or len(text.encode("utf-8", "surrogatepass")) > DOCUMENT_BYTES:
        return _oversize(source)
    found = _CONTROL.search(text)
    if found is None:
        return None
    line = text.count("\n", 0, found.start()) + 1
    return Problem(f"has the control character {found.group()!r}, which a text file must not hold.", source, line)


def _joined_surrogates(text: str) -> str:
    r"""JSON writes an emoji as two escapes (\ud83d\ude00), which YAML refuses: make them one (\U0001f600)."""
    if "\\ud" not in text and "\\uD" not in text:
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text  # Not JSON, so a backslash need not be an escape.
    return _JSON_ESCAPE.sub(_joined, text)


def _joined(match: re.Match[str]) -> str:
    high, low = match.groups()
    if high is None:
        return match.group()
    return f"\\U{0x10000 + (int(high, 16) - 0xD800) * 0x400 + int(low, 16) - 0xDC00:08x}"


def _syntax_problem(error: yaml.YAMLError, text: str, source: str) -> Problem:
    if not isinstance(error, yaml.MarkedYAMLError):
        return Problem(f"not valid YAML: {shown(str(error), 200)}.", source)
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else None
    lines = text.splitlines()
    rest = lines[mark.line][mark.column :] if mark and mark.line < len(lines) else ""
    if rest.startswith("\t"):
        return Problem("a tab stands where only spaces may indent.", source, line)
    what = error.problem or "it cannot be read"
    around = f" {error.context}" if error.context else ""
    return Problem(f"not valid YAML{around}: {what}.", source, line)


class _Unreadable(Exception):
    """The rest of the text cannot be read, or not safely."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


@dataclass(slots=True)
class _Open:
    """A list or mapping not ended yet; ``key`` waits for its value, which is dropped if ``is_again``."""

    value: list[Value] | dict[str, Value]
    path: KeyPath
    anchor: str | None
    count_before: int
    key: str | None = None
    is_again: bool = False


class _Tree:
    """Grows plain data from parser events, without recursion."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.root: Value = None
        self.lines: dict[KeyPath, int] = {(): 1}
        self.problems: list[Problem] = []
        self._open: list[_Open] = []
        self._anchored: dict[str, Value] = {}
        self._anchored_counts: dict[str, int] = {}
        self._count = 0
        self._documents = 0

    @property
    def is_open(self) -> bool:
        """True while something was begun and not ended: the text broke off."""
        return bool(self._open)

    def feed(self, event: yaml.Event) -> None:
        assert event.start_mark is not None, "PyYAML marks every event that it parses"
        line = event.start_mark.line + 1
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event, line)
        elif isinstance(event, yaml.MappingStartEvent):
            self._begin({}, event, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._begin([], event, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end()
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event, line)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise _Unreadable("a second document begins (---); only one is read.", line)

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        self._counted(1, line)
        self._check_tag(event.tag, line)
        if self._awaits_key():
            self._take_key(event.value, line, is_plain=not event.style)
            return
        value: Value = event.value if event.style or event.tag else _plain_value(event.value)
        self._add(value, line)
        self._remember(event.anchor, value, 1)

    def _begin(self, value: list[Value] | dict[str, Value], event: yaml.CollectionStartEvent, line: int) -> None:
        if self._awaits_key():
            raise _Unreadable("a key must be a word, not a list or a mapping.", line)
        if len(self._open) == DOCUMENT_DEPTH:
            raise _Unreadable(f"is nested deeper than {DOCUMENT_DEPTH} levels.", line)
        self._check_tag(event.tag, line)
        before = self._count
        self._counted(1, line)
        self._open.append(_Open(value, self._add(value, line), event.anchor, before))

    def _end(self) -> None:
        done = self._open.pop()
        # Only a finished value may be repeated, so an alias can never stand inside its own anchor.
        self._remember(done.anchor, done.value, self._count - done.count_before)

    def _alias(self, event: yaml.AliasEvent, line: int) -> None:
        if self._awaits_key():
            raise _Unreadable("a key must be a word, not an alias.", line)
        name = event.anchor
        if name not in self._anchored:
            raise _Unreadable(f"the alias *{name} has no finished anchor &{name} before it.", line)
        self._counted(self._anchored_counts[name], line)
        self._add(self._anchored[name], line)

    def _remember(self, anchor: str | None, value: Value, count: int) -> None:
        if anchor is not None:
            self._anchored[anchor] = value
            self._anchored_counts[anchor] = count

    def _counted(self, values: int, line: int) -> None:
        self._count += values
        if self._count > DOCUMENT_VALUES:
            raise _Unreadable(f"holds more than {DOCUMENT_VALUES:,} values, aliases counted as what they repeat.", line)

    def _check_tag(self, tag: str | None, line: int) -> None:
        if tag is not None and tag not in _TEXT_TAGS:
            short = tag.replace("tag:yaml.org,2002:", "!!")
            self.problems.append(
                Problem(f"tags such as {short!r} are not read; write plain values.", self.source, line)
            )

    def _awaits_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].value, dict) and self._open[-1].key is None

    def _take_key(self, key: str, line: int, *, is_plain: bool) -> None:
        top = self._open[-1]
        assert isinstance(top.value, dict), "only mappings have keys"
        path = (*top.path, key)
        if key in top.value:
            first = self.lines[path]
            message = f"the key {key!r} stands here again; it is already on line {first}."
            self.problems.append(Problem(message, self.source, line))
        elif not key:
            self.problems.append(Problem("a key is empty.", self.source, line))
        elif key == "<<" and is_plain:
            self.problems.append(Problem("merge keys (<<) are not read; write the keys out.", self.source, line))
        self.lines.setdefault(path, line)
        top.key, top.is_again = key, key in top.value

    def _add(self, value: Value, line: int) -> KeyPath:
        """Put a value where it belongs and say where that is."""
        if not self._open:
            self.root = value
            self.lines[()] = line
            return ()
        top = self._open[-1]
        if isinstance(top.value, list):
            path = (*top.path, len(top.value))
            self.lines[path] = line
            top.value.append(value)
            return path
        assert top.key is not None, "a value follows its key"
        key, top.key = top.key, None
        if top.is_again:
            return (*top.path, key, "again")  # No place in the data; the first value stands.
        top.value[key] = value
        return (*top.path, key)


def _plain_value(text: str) -> Value:
    """What an unquoted word means: nothing, true or false, a number, or itself."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMBER_START:
        return text
    if _INTEGER.match(text):
        return int(text.replace("_", ""))
    return Decimal(text) if _DECIMAL.match(text) else text


def shown(value: Value, limit: int = 60) -> str:
    """A value as an error message quotes it: on one line, never longer than ``limit``."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = str(value) if isinstance(value, int | Decimal) else repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def dotted(path: KeyPath) -> str:
    """A key path as a person writes it: ``tiers[0].phases[2].id``."""
    return "".join(_dotted_parts(path)).removeprefix(".")


def _dotted_parts(path: KeyPath) -> Iterator[str]:
    for key in path:
        if isinstance(key, int):
            yield f"[{key}]"
        else:
            yield f".{key}" if _PLAIN_KEY.match(key) else f".{shown(key, 80)}"
