"""Unified diffs as models write them: made by seed from a change whose outcome is known, then spoilt in one named way.

It owns the project that is changed, the change, and the ways of spoiling; nothing is stored. The tests of the diff lane
and its benchmark ask for ``spoilt(kind, seed)`` and compare what comes of the reply with ``after``.
"""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Files = Mapping[str, str]
_HEADING = re.compile(r"@@ -(\d+),?(\d*) \+(\d+),?(\d*) @@.*")
_WORDS = [
    "count", "total", "items", "path", "name", "result", "value", "cache", "limit", "owner", "token", "phase", "state",
    "order", "entry",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class SpoiltDiff:
    """A reply that was meant to make ``after`` of ``before``; a missing path is a file that is not there."""

    before: Files
    after: Files
    reply: str


@dataclass(slots=True)
class _Case:
    """A change on its way to becoming a reply; ``diffs`` has the lines of each file's diff."""

    dice: random.Random
    before: dict[str, str]
    after: dict[str, str]
    diffs: dict[str, list[str]]

    @property
    def lines(self) -> list[str]:
        return [line for diff in self.diffs.values() for line in diff]


def spoilt(kind: str, seed: int) -> SpoiltDiff:
    """The case of a kind that a seed makes; the same one every time."""
    dice = random.Random(f"{kind}/{seed}")
    return KINDS[kind](dice)


# A project and a change ------------------------------------------------------------------------------------------


def _case(dice: random.Random, *, files: int | None = None, line_break: str = "\n") -> _Case:
    paths = dice.sample(["src/app.py", "src/store.py", "lib/rules.py", "tools/run.py"], files or dice.choice([1, 1, 2]))
    before = {path: _source(dice).replace("\n", line_break) for path in paths}
    after = {path: _changed(dice, text) for path, text in before.items()}
    return _made(dice, before, after)


def _made(dice: random.Random, before: dict[str, str], after: dict[str, str]) -> _Case:
    paths = [*before, *(path for path in after if path not in before)]
    return _Case(dice, before, after, {path: _diff(path, before.get(path), after.get(path)) for path in paths})


def _source(dice: random.Random) -> str:
    """Functions with a fair share of lines that occur again and again, as in real code."""
    lines = ["import os", ""]
    for number in range(dice.randint(4, 9)):
        name = f"{dice.choice(_WORDS)}_{number}"
        lines += ["", f"def {name}({dice.choice(_WORDS)}):"]
        for _ in range(dice.randint(2, 7)):
            lines.append(_statement(dice))
            if dice.random() < 0.2:
                lines.append("")
        lines += [dice.choice(["    return None", f"    return {dice.choice(_WORDS)}"]), ""]
    return "\n".join(lines) + ("\n" if dice.random() < 0.9 else "")


def _statement(dice: random.Random) -> str:
    first, second = dice.choice(_WORDS), dice.choice(_WORDS)
    plain = [f"    {first} = {dice.randint(0, 99)}", f"    {first} = {second} + 1", "    pass", "    # see above"]
    nested = [f"    if {first}:\n        {second} = None", f"    for {first} in {second}:\n        print({first})"]
    return dice.choice([*plain, *plain, *nested])


def _changed(dice: random.Random, text: str) -> str:
    """The text after one to three changes of one to three lines, none of them only about blanks."""
    line_break = "\r\n" if "\r\n" in text else "\n"
    lines = text.split(line_break)
    for _ in range(dice.randint(1, 3)):
        place = dice.randrange(1, len(lines) - 2)
        fresh = [f"    {dice.choice(_WORDS)} = {dice.randint(100, 999_999)}" for _ in range(dice.randint(1, 3))]
        lines[place : place + dice.choice([0, 1, 1, 2])] = fresh if dice.random() < 0.85 else fresh[:1]
    return line_break.join(lines)


def _diff(path: str, before: str | None, after: str | None) -> list[str]:
    """The true diff of one file, lines without breaks."""
    old = "/dev/null" if before is None else f"a/{path}"
    new = "/dev/null" if after is None else f"b/{path}"
    lines = [f"diff --git a/{path} b/{path}", *(["new file mode 100644"] if before is None else [])]
    hunks = difflib.unified_diff(_kept_ends(before), _kept_ends(after), old, new, lineterm="\n")
    for line in hunks:
        lines.append(line.removesuffix("\n"))
        if not line.endswith("\n"):
            lines.append("\\ No newline at end of file")
    return lines


def _kept_ends(text: str | None) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text or "")


# Replies ---------------------------------------------------------------------------------------------------------


def _finished(case: _Case, lines: list[str] | None = None) -> SpoiltDiff:
    """The case as a reply: bare, or in a fence with a sentence around it."""
    text = "\n".join(case.lines if lines is None else lines) + "\n"
    if case.dice.random() < 0.5:
        text = f"Here is the change.\n\n```diff\n{text}```\n\nIt should work now.\n"
    return SpoiltDiff(case.before, case.after, text)


def _each_line(case: _Case, spoil: Callable[[str], str]) -> list[str]:
    return [spoil(line) for line in case.lines]


def _is_heading(line: str) -> bool:
    return line.startswith("@@ ")


def _is_old(line: str) -> bool:
    """A line of a hunk that must be in the file, and is more than a blank one."""
    return line[:1] in (" ", "-") and bool(line[1:].strip()) and not line.startswith("--- ")


def _renumbered(line: str, spoil: Callable[[list[int]], list[int]]) -> str:
    found = _HEADING.fullmatch(line)
    if found is None:
        return line
    start, count, new_start, new_count = spoil([int(number) if number else 1 for number in found.groups()])
    return f"@@ -{start},{count} +{new_start},{new_count} @@"


# The ways of spoiling one ----------------------------------------------------------------------------------------


def _unspoilt(dice: random.Random) -> SpoiltDiff:
    return _finished(_case(dice))


def _wrong_counts(dice: random.Random) -> SpoiltDiff:
    case = _case(dice)

    def spoil(numbers: list[int]) -> list[int]:
        start, count, new_start, new_count = numbers
        return [start, max(0, count + dice.choice([-2, -1, 1, 2])), new_start, max(0, new_count + dice.randint(-2, 2))]

    return _finished(case, _each_line(case, lambda line: _renumbered(line, spoil)))


def _no_line_numbers(dice: random.Random) -> SpoiltDiff:
    case = _case(dice)
    heading = dice.choice(["@@", "@@ @@", "@@ ... @@", "@@ … @@"])
    return _finished(case, _each_line(case, lambda line: heading if _is_heading(line) else line))


def _shifted_context(dice: random.Random) -> SpoiltDiff:
    case = _case(dice)

    def spoil(numbers: list[int]) -> list[int]:
        by = dice.choice([-30, -7, -3, -1, 1, 2, 5, 11, 40])
        return [max(1, numbers[0] + by), numbers[1], max(1, numbers[2] + by), numbers[3]]

    return _finished(case, _each_line(case, lambda line: _renumbered(line, spoil)))


def _trailing_blanks(dice: random.Random) -> SpoiltDiff:
    case = _case(dice)
    lines, reach = case.lines, dice.choice(["one", "some", "all"])
    chosen = dice.choice([number for number, line in enumerate(lines) if _is_old(line)])
    for number, line in enumerate(lines):
        is_body = line[:1] in (" ", "-", "+") and not line.startswith(("--- ", "+++ "))
        if (
            number == chosen
            or (is_body and reach == "all")
            or (_is_old(line) and reach == "some" and dice.random() < 0.3)
        ):
            lines[number] = line + dice.choice([" ", "  ", "\t"])
    return _finished(case, lines)


def _crlf(dice: random.Random) -> SpoiltDiff:
    if dice.random() < 0.4:
        # The file has carriage returns, and the model left them out.
        case = _case(dice, line_break="\r\n")
        return _finished(case, _each_line(case, lambda line: line.removesuffix("\r")))
    case = _case(dice)
    spoilt_diff = _finished(case, _each_line(case, lambda line: line + "\r"))
    everywhere = spoilt_diff.reply.replace("\r\n", "\n").replace("\n", "\r\n")
    return SpoiltDiff(case.before, case.after, dice.choice([spoilt_diff.reply, everywhere]))


def _missing_context_line(dice: random.Random) -> SpoiltDiff:
    case = _case(dice)
    lines = case.lines
    context = [number for number, line in enumerate(lines) if line.startswith(" ")]
    for number in sorted(dice.sample(context, min(len(context), dice.choice([1, 1, 2]))), reverse=True):
        del lines[number]
    return _finished(case, lines)


def _indent_shift(dice: random.Random) -> SpoiltDiff:
    case = _case(dice)
    by = dice.choice(["    ", "\t", "  "])

    def spoil(line: str) -> str:
        if line[:1] not in (" ", "-", "+") or line.startswith(("--- ", "+++ ")) or not line[1:].strip():
            return line
        return line[0] + by + line[1:]

    return _finished(case, _each_line(case, spoil))


def _duplicate_context(dice: random.Random) -> SpoiltDiff:
    """The file has the part that changes twice, and the diff does not, or wrongly, say which one is meant."""
    part = _source(dice).rstrip("\n") + "\n"
    head, tail = "\n".join(["# first", "first = 1", ""]), "\n".join(["# last", "last = 1", ""])
    copies = dice.choice([2, 2, 3])
    meant = dice.randrange(copies)
    changed = _changed(dice, part)
    before = head + part * copies + tail
    after = head + "".join(changed if number == meant else part for number in range(copies)) + tail
    case = _made(dice, {"src/app.py": before}, {"src/app.py": after})
    by = part.count("\n") * dice.choice([-1, 1])

    def elsewhere(numbers: list[int]) -> list[int]:
        return [max(1, numbers[0] + by), numbers[1], max(1, numbers[2] + by), numbers[3]]

    how: Callable[[str], str] = dice.choice(
        [lambda line: _renumbered(line, elsewhere), lambda line: "@@ @@" if _is_heading(line) else line]
    )
    return _finished(case, _each_line(case, how))


def _renamed_file(dice: random.Random) -> SpoiltDiff:
    case = _case(dice, files=1)
    (path,) = case.before
    other = dice.choice(["src/moved.py", "app.py", f"old/{path}"])
    how = dice.choice(["gone", "two names", "half a rename", "git"])
    if how == "gone":
        return _finished(case, _each_line(case, lambda line: line.replace(path, other)))
    after = {other: case.after[path]}
    renaming = {
        "two names": [],
        "half a rename": [f"rename to {other}"],
        "git": ["similarity index 90%", f"rename from {path}", f"rename to {other}"],
    }[how]
    lines = [f"diff --git a/{path} b/{other}", *renaming, f"--- a/{path}", f"+++ b/{other}", *case.lines[3:]]
    return _finished(_Case(dice, case.before, after, {}), lines)


def _new_file_without_header(dice: random.Random) -> SpoiltDiff:
    case = _case(dice, files=1)
    after = {**case.after, "src/fresh.py": _source(dice)}
    case = _made(dice, case.before, after)
    new = case.diffs["src/fresh.py"]
    case.diffs["src/fresh.py"] = dice.choice(
        [
            [line for line in new if not line.startswith("new file")],
            ["--- a/src/fresh.py", *new[3:]],
            ["--- /dev/null", *new[3:]],
            ["diff --git a/src/fresh.py b/src/fresh.py", "--- a/src/fresh.py", *new[3:]],
            new[3:],
            new[4:],
        ]
    )
    return _finished(case)


def _fenced_in_prose(dice: random.Random) -> SpoiltDiff:
    case = _case(dice)
    bullets = "- it keeps the tests green\n+ and is shorter\n"
    parts = [f"In `{path}`:\n\n```{dice.choice(['diff', 'patch', ''])}\n" + "\n".join(diff) + "\n```\n"
             for path, diff in case.diffs.items()]  # fmt: skip
    example = "You run it so:\n\n```sh\npython -m app\n```\n"
    text = f"I looked at it.\n\n{bullets}\n" + "\n".join(parts) + f"\nWhy:\n\n{bullets}\n{example}"
    return SpoiltDiff(case.before, case.after, text)


def _truncated(dice: random.Random) -> SpoiltDiff:
    """Cut anywhere but exactly behind a hunk: such a rest is a whole diff, and only the provider knows better."""
    case = _case(dice)
    text = "\n".join(case.lines) + "\n"
    ends = {0, len(text), len(text) - 1}
    ends |= {match.start() for match in re.finditer(r"^(?:diff --git |@@ |\\ No newline)", text, re.MULTILINE)}
    ends |= {end - 1 for end in ends}
    cut = dice.choice([place for place in range(1, len(text)) if place not in ends])
    is_fenced = dice.random() < 0.3
    return SpoiltDiff(case.before, case.after, f"```diff\n{text[:cut]}" if is_fenced else text[:cut])


def _lost_first_column(dice: random.Random) -> SpoiltDiff:
    """Some lines of hunks lost the sign in front, most often the blank of a kept line."""
    case = _case(dice)
    lines = case.lines
    body = [
        number for number, line in enumerate(lines)
        if line[:1] in (" ", "+") and line[1:].strip() and not line.startswith("+++ ")
    ]  # fmt: skip
    for number in dice.sample(body, dice.choice([1, 1, 3])):
        lines[number] = lines[number][1:]
    return _finished(case, lines)


def _blank_lines_emptied(dice: random.Random) -> SpoiltDiff:
    case = _case(dice)
    return _finished(case, _each_line(case, lambda line: "" if line == " " else line))


def _no_prefixes(dice: random.Random) -> SpoiltDiff:
    case = _case(dice)

    def spoil(line: str) -> str:
        if line.startswith("diff --git ") and dice.random() < 0.5:
            return re.sub(r" [ab]/", " ", line)
        return re.sub(r"^(---|\+\+\+) [ab]/", r"\1 ", line)

    lines = _each_line(case, spoil)
    return _finished(case, [line for line in lines if not line.startswith("diff --git a/")])


KINDS: dict[str, Callable[[random.Random], SpoiltDiff]] = {
    "unspoilt": _unspoilt,
    "wrong counts": _wrong_counts,
    "no line numbers": _no_line_numbers,
    "shifted context": _shifted_context,
    "trailing blanks": _trailing_blanks,
    "CRLF": _crlf,
    "missing context line": _missing_context_line,
    "indent shift": _indent_shift,
    "duplicate context": _duplicate_context,
    "renamed file": _renamed_file,
    "new file without header": _new_file_without_header,
    "fenced in prose": _fenced_in_prose,
    "truncated": _truncated,
    "lost first column": _lost_first_column,
    "blank lines emptied": _blank_lines_emptied,
    "no a/ and b/": _no_prefixes,
}
