"""What an auditor's reply decides: the format we ask for, and the verdict that is read from it.

It owns the verdict's shape and the rule that a major issue is never approved; it does not ask again and touches no run.
The auditor's prompt, the executor, library callers and the scripted rehearsal use it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeGuard

from autopack_mcp.errors import UnusableReply
from autopack_mcp.text_safety import visible

REPLY_LIMIT = 400_000  # Characters of a reply that are looked at; no verdict is this long.
ISSUES_LIMIT = 50
DESCRIPTION_LIMIT = 2_000
SUMMARY_LIMIT = 4_000
CATEGORY_LIMIT = 80
PATH_LIMIT = 300
_DECISION = re.compile(r'"approved"\s*:')
_STARTS_LIMIT = 2_000  # Opening braces that are tried; each try may read to the end of the reply.

VERDICT_FORMAT = """
Answer with one JSON object and nothing else:

{
  "approved": true or false,
  "summary": "one or two sentences: what the change does, and why you decided so",
  "issues": [
    {
      "severity": "minor" or "major",
      "category": "one or two words, such as correctness, security, tests, scope, style",
      "description": "what is wrong, and what must be done about it",
      "file_path": "path/of/file.py" or null,
      "line_number": a whole number or null
    }
  ]
}

Approve only a change that does what the phase asks, fulfils its acceptance criteria and breaks nothing. An issue is
major when the change must not be committed with it; one major issue means not approved. List nothing that is not in
this change.
""".strip()

Severity = Literal["minor", "major"]


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing an auditor found; ``line_number`` counts from 1, and unknown places are None."""

    severity: Severity
    category: str
    description: str
    file_path: str | None = None
    line_number: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """An auditor's decision. ``overruled`` is True when the model approved although it listed a major issue."""

    approved: bool
    issues: tuple[Issue, ...]
    summary: str
    overruled: bool = False

    def __post_init__(self) -> None:
        assert not (self.approved and self.major_issues_count), "a major issue is never approved (contract 3)"

    @property
    def major_issues_count(self) -> int:
        """How many issues forbid the commit."""
        return sum(issue.severity == "major" for issue in self.issues)

    @property
    def minor_issues_count(self) -> int:
        """How many issues may be committed with."""
        return len(self.issues) - self.major_issues_count


def parse_verdict(text: str) -> Verdict:
    """The verdict in an auditor's reply; prose or a fence around its one JSON object is ignored.

    Texts come back fit to be shown and cut to their limits. Of more than ``ISSUES_LIMIT`` issues the major ones are
    kept first, and the summary says how many are missing.

    Raises:
        UnusableReply: no verdict, several, or one with missing or wrong values. Nothing is guessed.
    """
    found = [candidate for candidate in _objects_in(text[:REPLY_LIMIT]) if "approved" in candidate.value]
    if not found:
        raise UnusableReply(f'The reply has no JSON object with "approved". It begins: {visible(text.strip(), 200)!r}')
    only = found[0]
    # A broken verdict may quote a sound one, of the change under audit for instance. Then nobody knows which counts.
    if _DECISION.search(text, only.end) or _DECISION.search(text, 0, only.start):
        raise UnusableReply("The reply has more than one verdict; there must be exactly one JSON object.")
    return _verdict(only.value)


def render_verdict(verdict: Verdict) -> str:
    """The reply that ``parse_verdict`` reads back as ``verdict``: what a scripted auditor answers."""
    issues = [
        {
            "severity": issue.severity,
            "category": issue.category,
            "description": issue.description,
            "file_path": issue.file_path,
            "line_number": issue.line_number,
        }
        for issue in verdict.issues
    ]
    return json.dumps({"approved": verdict.approved, "summary": verdict.summary, "issues": issues}, indent=2)


class _AmbiguousObject(Exception):
    pass


@dataclass(frozen=True, slots=True)
class _Found:
    start: int
    end: int
    value: Mapping[str, object]


def _objects_in(text: str) -> Iterator[_Found]:
    """Every outermost JSON object in a text."""
    decoder = json.JSONDecoder(object_pairs_hook=_without_duplicates)
    position = 0
    for _ in range(_STARTS_LIMIT):
        position = text.find("{", position)
        if position < 0:
            return
        try:
            value, end = decoder.raw_decode(text, position)
        except _AmbiguousObject as error:
            raise UnusableReply(f"The JSON object names {str(error)!r} twice.") from None
        except (ValueError, RecursionError):
            position += 1
        else:
            yield _Found(position, end, value)
            position = end


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names: dict[str, object] = {}
    for name, value in pairs:
        if name in names:
            raise _AmbiguousObject(visible(name, 40))
        names[name] = value
    return names


def _verdict(found: Mapping[str, object]) -> Verdict:
    approved = found["approved"]
    if not isinstance(approved, bool):
        raise UnusableReply(f'"approved" must be true or false, not {_shown(approved)}.')
    listed = found.get("issues", [])
    if not isinstance(listed, list):
        raise UnusableReply(f'"issues" must be a list, not {_shown(listed)}.')
    issues = tuple(_issue(f"issues[{index}]", entry) for index, entry in enumerate(listed))
    summary = _text(found, "summary", "", SUMMARY_LIMIT) if "summary" in found else ""
    if not approved and not issues and not summary:
        raise UnusableReply("The change was not approved, but neither an issue nor a summary says why.")
    verdict = Verdict(False, issues, summary)
    return _bounded(verdict if not approved else _approved_unless_major(verdict))


def _approved_unless_major(verdict: Verdict) -> Verdict:
    if not verdict.major_issues_count:
        return replace(verdict, approved=True)
    note = f"(Not approved: the auditor said approved, but listed {verdict.major_issues_count} major.)"
    return replace(verdict, summary=_joined(verdict.summary, note), overruled=True)


def _bounded(verdict: Verdict) -> Verdict:
    missing = len(verdict.issues) - ISSUES_LIMIT
    if missing <= 0:
        return verdict
    most_important = sorted(verdict.issues, key=lambda issue: issue.severity != "major")[:ISSUES_LIMIT]
    note = f"({missing} more issues were left out.)"
    return replace(verdict, issues=tuple(most_important), summary=_joined(verdict.summary, note))


def _joined(summary: str, note: str) -> str:
    room = visible(summary, SUMMARY_LIMIT - len(note) - 1, multiline=True)
    return f"{room} {note}".strip()


def _issue(where: str, entry: object) -> Issue:
    if not isinstance(entry, dict):
        raise UnusableReply(f"{where} must be an object, not {_shown(entry)}.")
    severity = entry.get("severity")
    if not _is_severity(severity):
        raise UnusableReply(f'{where}.severity must be "minor" or "major", not {_shown(severity)}.')
    description = _text(entry, "description", f"{where}.", DESCRIPTION_LIMIT)
    if not description:
        raise UnusableReply(f"{where}.description is empty.")
    category = _text(entry, "category", f"{where}.", CATEGORY_LIMIT) if "category" in entry else ""
    path = _text(entry, "file_path", f"{where}.", PATH_LIMIT) if entry.get("file_path") is not None else None
    return Issue(severity, category or "general", description, path or None, _line_number(where, entry))


def _is_severity(value: object) -> TypeGuard[Severity]:
    return value == "minor" or value == "major"


def _line_number(where: str, entry: Mapping[str, object]) -> int | None:
    number = entry.get("line_number")
    if number is None:
        return None
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise UnusableReply(f"{where}.line_number must be a whole number from 1, or null, not {_shown(number)}.")
    return number


def _text(found: Mapping[str, object], name: str, where: str, limit: int) -> str:
    value = found.get(name)
    if not isinstance(value, str):
        raise UnusableReply(f"{where}{name} must be a text, not {_shown(value)}.")
    return visible(value.strip(), limit, multiline=limit >= DESCRIPTION_LIMIT)


def _shown(value: object) -> str:
    return visible(json.dumps(value), 80)
