"""One phase of a plan, as a native plan or a run request writes it, and the rules that every phase keeps.

It owns ids, categories, paths and rehearsal scripts; it does not know how phases are grouped into tiers. ``plan_file``
and ``run_request`` read all their phases through one PhaseReader, which therefore sees every id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Literal

from autopack_mcp.config.settings import COMPLEXITIES, Complexity
from autopack_mcp.documents import Value, shown
from autopack_mcp.plans.plan import DEFAULT_LIMITS, UNVERIFIED, PhaseSpec, PlanLimits, RehearsalScript
from autopack_mcp.sections import Section, spelled

NAME_LIMIT = 200  # Characters of a name; it stands in every status line.
DESCRIPTION_LIMIT = 20_000  # Characters of a description; it stands in every prompt of its phase.
PATH_LIMIT = 500
COMMAND_LIMIT = 4_000

PHASE_KEYS = (
    "id",
    "name",
    "description",
    "category",
    "complexity",
    "acceptance_criteria",
    "allowed_paths",
    "context_paths",
    "verify",
    "token_cap",
    "cost_cap_usd",
    "allow_fuzzy",
    "rehearsal",
)
PHASE_OLD_KEYS = ("phase_id", "task_category")
REHEARSAL_KEYS = ("files", "reject_first")
LIMIT_KEYS = ("cpu_s", "memory_mb", "output_mb", "processes")

# The most that can be written: more is a slip of the pen, and what is multiplied by a million must still be a number.
CPU_MOST_S = 30 * 24 * 3_600
MEMORY_MOST_MB = 100_000_000
OUTPUT_MOST_MB = 1_000_000
PROCESSES_MOST = 4_000_000  # Linux has no more.

_NO_CAP = "For no cap leave the key out."

# Ids become parts of git refs and trailers, so they keep to what both allow.
_ID = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?<![.])(?<!\.lock)\Z")
_DRIVE = re.compile(r"[A-Za-z]:")
PathKind = Literal["pattern", "file"]


@dataclass(frozen=True, slots=True)
class SpendingCaps:
    """The caps of a run or of a phase as its plan gives them: tokens and integer nano-dollars, None where uncapped."""

    tokens: int | None = None
    nano_usd: int | None = None


class PhaseReader:
    """Reads the phases of one plan, each once, in any order; ``run_caps`` are those that the plan has for the run."""

    def __init__(self, known_categories: Set[str], run_caps: SpendingCaps) -> None:
        self._known_categories = known_categories
        self._run_caps = run_caps
        self._lines_of_ids: dict[str, int] = {}

    def phase(self, section: Section) -> PhaseSpec | None:
        """One phase with our keys; None when it has no usable id."""
        section.refuse_unknown((*PHASE_KEYS, *PHASE_OLD_KEYS))
        return self.finished(
            section,
            acceptance_criteria=section.texts("acceptance_criteria", lines=True),
            allowed_paths=tuple(workspace_paths(section, "allowed_paths")),
            context_paths=tuple(workspace_paths(section, "context_paths")),
            verify=verify_command(section, "verify"),
            caps=self._caps(section),
            rehearsal=_rehearsal(section),
            allow_fuzzy=section.flag("allow_fuzzy", default=False) if "allow_fuzzy" in section else None,
        )

    def finished(
        self,
        section: Section,
        *,
        acceptance_criteria: tuple[str, ...],
        allowed_paths: tuple[str, ...],
        context_paths: tuple[str, ...],
        verify: str | None,
        caps: SpendingCaps = SpendingCaps(),
        rehearsal: RehearsalScript | None = None,
        allow_fuzzy: bool | None = None,
    ) -> PhaseSpec | None:
        """The phase, with the keys that both kinds of plan write alike; None when it has no usable id."""
        phase_id = read_id(section, ("id", "phase_id"), self._lines_of_ids)
        name = section.text("name", limit=NAME_LIMIT)
        description = section.text("description", limit=DESCRIPTION_LIMIT, lines=True)
        if "name" not in section and "description" not in section:
            section.error(None, "says nothing about what to do: write a description.")
        category, complexity = self._category(section), _complexity(section)
        if phase_id is None:
            return None
        return PhaseSpec(
            phase_id=phase_id,
            name=name or phase_id,
            description=description or name or "",
            task_category=category,
            complexity=complexity,
            acceptance_criteria=acceptance_criteria,
            allowed_paths=allowed_paths,
            context_paths=context_paths,
            verify=verify,
            rehearsal=rehearsal,
            token_cap=caps.tokens,
            cost_cap_nano=caps.nano_usd,
            allow_fuzzy=allow_fuzzy,
        )

    def _caps(self, section: Section) -> SpendingCaps:
        caps, run = spending_caps(section), self._run_caps
        for key, of_phase, of_run in (
            ("token_cap", caps.tokens, run.tokens),
            ("cost_cap_usd", caps.nano_usd, run.nano_usd),
        ):
            if of_phase is not None and of_run is not None and of_phase > of_run:
                section.warn_once(key, f"is above the run's own {key}, which stops this phase first.")
        return caps

    def _category(self, section: Section) -> str:
        _, key = spelled((section,), ("category", "task_category"))
        category = section.value(key)
        if category is None or (isinstance(category, str) and category in self._known_categories):
            return "general" if category is None else str(category)
        section.warn_once(key, f"{shown(category)} is a category that models.yaml does not know; general is used.")
        return "general"


def _complexity(section: Section) -> Complexity:
    value = section.value("complexity")
    for complexity in COMPLEXITIES:
        if value == complexity:
            return complexity
    if value is not None:
        section.warn_once("complexity", f"{shown(value)} is not low, medium or high; medium is used.")
    return "medium"


def read_id(section: Section, spellings: tuple[str, ...], taken: dict[str, int]) -> str | None:
    """An id that no other thing of its kind has; ``taken`` maps each to its line and learns this one."""
    _, key = spelled((section,), spellings)
    found = section.text(key, limit=NAME_LIMIT)
    if found is None:
        if key not in section:
            section.error(None, f"needs an {spellings[0]}.")
        return None
    if not _ID.match(found):
        rule = "an id has up to 64 letters, digits and . _ -, begins with a letter or digit and does not end in a dot"
        section.error(key, f"{shown(found)}: {rule}.")
        return None
    if found in taken:
        section.error(key, f"{found!r} is already the id on line {taken[found]}.")
        return None
    taken[found] = section.line(key)
    return found


def spending_caps(section: Section) -> SpendingCaps:
    """``token_cap`` and ``cost_cap_usd``, of a run or of a phase."""
    return SpendingCaps(section.whole("token_cap", zero_hint=_NO_CAP), section.nano_usd("cost_cap_usd"))


def command_limits(section: Section) -> PlanLimits:
    """``limits`` of a plan: what each of its commands may use, and the defaults for what is not said."""
    limits = section.section("limits")
    limits.refuse_unknown(LIMIT_KEYS)
    return PlanLimits(
        cpu_s=limits.whole("cpu_s", most=CPU_MOST_S),
        memory_mb=limits.whole("memory_mb", most=MEMORY_MOST_MB),
        output_mb=limits.whole("output_mb", most=OUTPUT_MOST_MB) or DEFAULT_LIMITS.output_mb,
        processes=limits.whole("processes", most=PROCESSES_MOST) or DEFAULT_LIMITS.processes,
    )


def verify_command(section: Section, key: str) -> str | None:
    """A verification command, ``UNVERIFIED`` when the word none is written, or None when nothing is."""
    return checked_command(section.text(key, limit=COMMAND_LIMIT, lines=True))


def checked_command(command: str | None) -> str | None:
    """``UNVERIFIED`` for the word none in any case, else the command without blanks around it."""
    if command is None:
        return None
    stripped = command.strip()
    return UNVERIFIED if stripped.lower() == UNVERIFIED else stripped


def workspace_paths(section: Section, key: str) -> Iterator[str]:
    """A list of path patterns, each inside the workspace; the others are problems."""
    for index, pattern in section.numbered_texts(key, limit=PATH_LIMIT):
        objection = path_objection(pattern)
        if objection is None:
            yield tidy_path(pattern)
        else:
            section.findings.add((*section.path, key, index), f"{shown(pattern)} {objection}")


def path_objection(path: str, kind: PathKind = "pattern") -> str | None:
    """Why a path of a plan may not be used; None when it stays inside the workspace and out of .git."""
    parts = path.split("/")
    if path.startswith(("/", "~")) or _DRIVE.match(path):
        return "is not relative to the repository."
    if "\\" in path:
        return "has a backslash; write / between folders."
    if ".." in parts:
        return "leaves the workspace."
    if any(part.lower() == ".git" for part in parts):
        return "points into .git."
    if not any(part not in ("", ".") for part in parts):
        return "names nothing. Leave allowed_paths out to allow the whole workspace."
    return "is a folder, not a file." if kind == "file" and parts[-1] in ("", ".") else None


def tidy_path(path: str) -> str:
    """``./src//a.py`` as ``src/a.py``, and a folder ``src/`` as the pattern ``src/**`` of everything below it."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return "/".join([*parts, "**"] if path.endswith("/") else parts)


def _rehearsal(section: Section) -> RehearsalScript | None:
    if "rehearsal" not in section:
        return None
    script = section.section("rehearsal")
    script.refuse_unknown(REHEARSAL_KEYS)
    reject_first = script.text("reject_first", lines=True)
    return RehearsalScript(dict(_files(script.section("files"))), reject_first)


def _files(section: Section) -> Iterator[tuple[str, str]]:
    """Whole files by path; their text is anything but binary."""
    for path in section.names():
        text = section.value(path)
        objection = path_objection(path, "file") or _file_objection(path, text)
        if objection is not None:
            section.error(path, objection)
        else:
            yield tidy_path(path), str(text)


def _file_objection(path: str, text: Value) -> str | None:
    if len(path) > PATH_LIMIT or not path.isprintable():
        return "is not a path that a plan may write."
    if not isinstance(text, str):
        return f"must be the file's whole text, not {shown(text)}."
    return "must not hold a NUL character." if "\0" in text else None
