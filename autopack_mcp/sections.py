"""One mapping of a document, read key by key: each reader checks one shape and writes down what is wrong, and where.

It owns the wording of "must be …" and "is not known here", so that models.yaml and plans complain alike, and it never
raises: a bad value reads as if it were not there. It knows no key; ``models_yaml`` and ``plan_file`` name those.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Literal, TypeVar

from autopack_mcp.documents import Document, KeyPath, Value, dotted, shown
from autopack_mcp.errors import Problem
from autopack_mcp.money import NANO_PER_USD

C = TypeVar("C", bound=str)

TEXT_LIMIT = 4_000  # Characters of an ordinary text: a command, a criterion, a description of a category.
LIST_LIMIT = 1_000  # Entries of an ordinary list.
_LINES_SHOWN = 6  # Of a warning that stands on many lines.
WHOLE_LIMIT = 2**63 - 1  # What a database column of ours can hold.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


class Findings:
    """Collects the problems of one document, in the order they are found."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._problems = list(document.problems)
        self._repeated: dict[str, list[KeyPath]] = {}

    def add(self, path: KeyPath, message: str, severity: Literal["error", "warning"] = "error") -> None:
        """Note one problem with what stands at ``path``."""
        document = self.document
        self._problems.append(Problem(message, document.source, document.line(path), dotted(path), severity))

    def warn_once(self, path: KeyPath, message: str) -> None:
        """Note a warning that a thousand phases may share: it is said once, with the lines of the others."""
        self._repeated.setdefault(message, []).append(path)

    @property
    def has_errors(self) -> bool:
        """True when the document cannot be used."""
        return any(problem.severity == "error" for problem in self._problems)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything found, by line; at one line errors stand before warnings."""
        problems = [*self._problems, *(self._shared(*repeated) for repeated in self._repeated.items())]
        return tuple(sorted(problems, key=lambda problem: (problem.line or 0, problem.severity)))

    def _shared(self, message: str, paths: list[KeyPath]) -> Problem:
        document = self.document
        lines = [document.line(path) for path in paths]
        if len(lines) > 1:
            others = ", ".join(map(str, lines[1:_LINES_SHOWN]))
            more = f" and {len(lines) - _LINES_SHOWN} more" if len(lines) > _LINES_SHOWN else ""
            message = f"{message} (Also on line {others}{more}.)"
        return Problem(message, document.source, lines[0], dotted(paths[0]), "warning")

    def root(self) -> Section | None:
        """The document's own mapping; None, with a problem said, when it is something else."""
        data = self.document.data
        if isinstance(data, dict):
            return Section(self, (), data)
        if not self._problems:
            self.add((), "is empty." if data is None else f"must hold keys and values, but holds {_noun(data)}.")
        return None


class Section:
    """A mapping at ``path``. Readers answer None, or their default, for what is missing, empty or wrong."""

    def __init__(self, findings: Findings, path: KeyPath, data: dict[str, Value]) -> None:
        self.findings = findings
        self.path = path
        self._data = data

    def __contains__(self, key: str) -> bool:
        return self._data.get(key) is not None

    def names(self) -> tuple[str, ...]:
        """Every key, in the order of the file."""
        return tuple(self._data)

    def value(self, key: str) -> Value:
        """The value as it stands there, unchecked."""
        return self._data.get(key)

    def line(self, key: str) -> int:
        """The 1-based line of a key."""
        return self.findings.document.line((*self.path, key))

    @property
    def source(self) -> str:
        """The file that it stands in, as problems name it."""
        return self.findings.document.source

    def error(self, key: str | None, message: str) -> None:
        """Say what is wrong with a key, or with the section itself."""
        self.findings.add(self.path if key is None else (*self.path, key), message)

    def warn(self, key: str | None, message: str) -> None:
        """Say what the person should know about a key, or about the section itself."""
        self.findings.add(self.path if key is None else (*self.path, key), message, "warning")

    def warn_once(self, key: str, message: str) -> None:
        """``warn``, for what may be the same on many lines; see ``Findings.warn_once``."""
        self.findings.warn_once((*self.path, key), message)

    def text(self, key: str, *, limit: int = TEXT_LIMIT, lines: bool = False) -> str | None:
        """A text of 1 to ``limit`` characters without control characters; on one line unless ``lines``."""
        return self._checked_text((*self.path, key), self._data.get(key), limit, allow_lines=lines)

    def texts(self, key: str, *, limit: int = TEXT_LIMIT, lines: bool = False) -> tuple[str, ...]:
        """A list of texts; wrong entries are left out."""
        return tuple(text for _, text in self.numbered_texts(key, limit=limit, lines=lines))

    def numbered_texts(self, key: str, *, limit: int = TEXT_LIMIT, lines: bool = False) -> Iterator[tuple[int, str]]:
        """Each good entry of a list of texts, with its index."""
        for index, value in enumerate(self.items(key)):
            text = self._checked_text((*self.path, key, index), value, limit, allow_lines=lines, may_be_missing=False)
            if text is not None:
                yield index, text

    def items(self, key: str, *, limit: int = LIST_LIMIT) -> list[Value]:
        """A list as it stands there; empty when it is missing or something else."""
        value = self._data.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.error(key, f"must be a list, not {_noun(value)}.")
            return []
        if len(value) > limit:
            self.error(key, f"has {len(value):,} entries; {limit:,} is the most.")
            return []
        return value

    def whole(self, key: str, *, least: int = 1, most: int = WHOLE_LIMIT, zero_hint: str = "") -> int | None:
        """A whole number from ``least`` to ``most``; ``zero_hint`` says what to do instead of writing 0."""
        value = self._data.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            self.error(key, f"must be a whole number, not {shown(value)}.")
        elif not least <= value <= most:
            bounds = f"from {least:,} to {most:,}"
            if most == WHOLE_LIMIT:  # Said only to somebody who has passed it.
                bounds = f"at least {least:,}" if value < least else f"at most {most:,}"
            self.error(key, f"must be {bounds}, not {value:,}.{f' {zero_hint}' if value == 0 else ''}".rstrip())
        else:
            return value
        return None

    def decimal(self, key: str) -> Decimal | None:
        """A number, exact to the digit."""
        value = self._data.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            self.error(key, f"must be a number, not {shown(value)}.")
            return None
        return Decimal(value)

    def nano_usd(self, key: str) -> int | None:
        """Dollars as a person writes them (2.50), in integer nano-dollars; smaller parts are cut off."""
        amount = self.decimal(key)
        if amount is None:
            return None
        nano_usd = int(amount * NANO_PER_USD)
        if 0 < nano_usd <= WHOLE_LIMIT:
            return nano_usd
        bounds = "above 0" if nano_usd <= 0 else f"of at most {WHOLE_LIMIT // NANO_PER_USD:,}"
        self.error(key, f"must be an amount of dollars {bounds}, not {shown(amount)}. For no cap leave the key out.")
        return None

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false, in these words."""
        value = self._data.get(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.error(key, f"must be true or false, not {shown(value)}.")
        return default

    def choice(self, key: str, allowed: Iterable[C], default: C) -> C:
        """One of a few words."""
        value = self._data.get(key)
        words = {str(word): word for word in allowed}
        if value is None or (isinstance(value, str) and value in words):
            return default if value is None else words[str(value)]
        self.error(key, f"must be {' or '.join(words)}, not {shown(value)}.")
        return default

    def section(self, key: str) -> Section:
        """The mapping under a key; an empty one when it is missing or something else."""
        value = self._data.get(key)
        if value is not None and not isinstance(value, dict):
            self.error(key, f"must hold keys and values, not {_noun(value)}.")
        return Section(self.findings, (*self.path, key), value if isinstance(value, dict) else {})

    def sections(self) -> Iterator[tuple[str, Section]]:
        """Every key with the mapping under it; a key with nothing after it has an empty one."""
        for key in self._data:
            yield key, self.section(key)

    def listed_sections(self, key: str, *, limit: int = LIST_LIMIT) -> Iterator[Section]:
        """Each mapping of a list of mappings."""
        for index, value in enumerate(self.items(key, limit=limit)):
            path = (*self.path, key, index)
            if isinstance(value, dict):
                yield Section(self.findings, path, value)
            else:
                self.findings.add(path, f"must hold keys and values, not {_noun(value)}.")

    def refuse_unknown(self, known: Iterable[str], *, unimplemented: Iterable[str] = ()) -> None:
        """Every key must be known; ``unimplemented`` ones are named in a warning and do nothing."""
        allowed = tuple(known)
        for key in self._data:
            if key in unimplemented:
                self.warn(key, "is not implemented here and does nothing.")
            elif key not in allowed:
                hint = nearest(key, allowed) or f" Known: {', '.join(allowed)}."
                self.error(key, f"is not known here.{hint}")

    def warn_unknown(self, known: Iterable[str]) -> None:
        """For files that other programs write: what is not known here is named in a warning and does nothing."""
        allowed = frozenset(known)
        for key in self._data:
            if key not in allowed:
                self.findings.warn_once((*self.path, key), f"{shown(key)} is not implemented here and does nothing.")

    def _checked_text(
        self, path: KeyPath, value: Value, limit: int, *, allow_lines: bool, may_be_missing: bool = True
    ) -> str | None:
        if value is None and may_be_missing:
            return None
        if isinstance(value, str):
            value = value.replace("\r\n", "\n") if allow_lines else value.strip()
        objection = text_objection(value, limit, allow_lines=allow_lines)
        if objection is None:
            return str(value)
        self.findings.add(path, objection)
        return None


def text_objection(value: Value, limit: int, *, allow_lines: bool) -> str | None:
    """Why a value is not a usable text; None when it is one."""
    if not isinstance(value, str):
        quotes = " Put it in quotes." if isinstance(value, int | Decimal) else ""
        return f"must be text, not {shown(value)}.{quotes}"
    if not value.strip():
        return "must not be empty."
    if len(value) > limit:
        return f"has {len(value):,} characters; {limit:,} is the most."
    if not allow_lines and ("\n" in value or "\t" in value):
        return "must stand on one line."
    found = _CONTROL.search(value)
    return None if found is None else f"must not hold the control character {found.group()!r}."


def spelled(sections: Sequence[Section], keys: Sequence[str]) -> tuple[Section, str]:
    """Where, and in which of its spellings, a key is given; two places that disagree are refused.

    When it is nowhere, the first section and the first spelling, so that what is said about its absence has a place.
    """
    given = [(section, key) for section in sections for key in keys if key in section]
    if not given:
        return sections[0], keys[0]
    first, first_key = given[0]
    for section, key in given[1:]:
        if section.value(key) != first.value(first_key):
            section.error(key, f"says something else than {first_key} on line {first.line(first_key)}. Keep one.")
    return given[0]


def nearest(word: str, known: Sequence[str]) -> str:
    """A sentence that names the known word most like ``word``, with a space before it; empty when none is alike."""
    # Only a file with a mistake pays for this import.
    from difflib import get_close_matches

    close = get_close_matches(word.lower()[:200], known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _noun(value: Value) -> str:
    if isinstance(value, dict | list):
        return "keys and values" if isinstance(value, dict) else "a list"
    return shown(value)
