"""The predecessor's JSON run requests: ``{run, tiers, phases}``, accepted as they are.

It owns the shape of a request (formats.md, contract 23) and names in a warning each key that does nothing here. It
knows no repository and no command of a run, which a request has not; ``plan_file`` calls it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePath

from autopack_mcp.documents import shown
from autopack_mcp.plans.phases import (
    DESCRIPTION_LIMIT,
    NAME_LIMIT,
    PATH_LIMIT,
    PhaseReader,
    path_objection,
    read_id,
    tidy_path,
    verify_command,
    workspace_paths,
)
from autopack_mcp.plans.plan import PhaseSpec, TierSpec
from autopack_mcp.sections import Section

TOKEN_CAP = 5_000_000  # What the predecessor gives a run whose request names no token_cap.
_INDEX_LIMIT = 1_000_000
_PHASE_KEYS = (
    "phase_id",
    "phase_index",
    "tier_id",
    "name",
    "description",
    "task_category",
    "complexity",
    "scope",
    "acceptance_criteria",
)


@dataclass(slots=True)
class _Tier:
    """A tier whose phases are still being collected, each with the place that its index gives it."""

    section: Section
    index: int
    tier_id: str
    name: str
    description: str
    phases: list[tuple[int, PhaseSpec]] = field(default_factory=list)


def is_run_request(root: Section) -> bool:
    """True for a mapping in the predecessor's form: phases beside the tiers, and none of our keys."""
    return "run" in root or ("phases" in root and not {"name", "repository", "verify"}.intersection(root.names()))


def request_name(root: Section, source: str) -> str:
    """What the run is called: the request's run id, else the name of the file."""
    return root.section("run").text("run_id", limit=NAME_LIMIT) or PurePath(source).stem


def request_token_cap(root: Section) -> int:
    """The token cap of the request, or the predecessor's default."""
    return root.section("run").whole("token_cap", zero_hint="Leave it out for 5,000,000.") or TOKEN_CAP


def request_tiers(root: Section, reader: PhaseReader, *, phases_limit: int) -> tuple[TierSpec, ...]:
    """The tiers by ``tier_index``, each with its phases by ``phase_index``; without these, in the file's order."""
    root.warn_unknown(("run", "tiers", "phases"))
    root.section("run").warn_unknown(("run_id", "token_cap"))
    tiers = _tiers(root)
    for place, section in enumerate(root.listed_sections("phases", limit=phases_limit)):
        phase = _phase(section, reader)
        tier = _tier_of(section, tiers)
        index = section.whole("phase_index", least=0, most=_INDEX_LIMIT)
        if phase is not None and tier is not None:
            tier.phases.append((place if index is None else index, phase))
    for tier in tiers.values():
        if not tier.phases:
            tier.section.error(None, f"the tier {tier.tier_id!r} has no phase.")
    # Sorting is stable, so equal indexes keep the file's order.
    in_order = sorted(tiers.values(), key=lambda tier: tier.index)
    return tuple(TierSpec(tier.tier_id, tier.name, _in_order(tier.phases), tier.description) for tier in in_order)


def _in_order(phases: list[tuple[int, PhaseSpec]]) -> tuple[PhaseSpec, ...]:
    return tuple(phase for _, phase in sorted(phases, key=lambda placed: placed[0]))


def _tiers(root: Section) -> dict[str, _Tier]:
    tiers: dict[str, _Tier] = {}
    lines: dict[str, int] = {}
    for place, section in enumerate(root.listed_sections("tiers")):
        section.warn_unknown(("tier_id", "tier_index", "name", "description"))
        tier_id = read_id(section, ("tier_id",), lines)
        index = section.whole("tier_index", least=0, most=_INDEX_LIMIT)
        name = section.text("name", limit=NAME_LIMIT)
        description = section.text("description", limit=DESCRIPTION_LIMIT, lines=True)
        if tier_id is not None:
            place = place if index is None else index
            tiers[tier_id] = _Tier(section, place, tier_id, name or tier_id, description or "")
    return tiers


def _tier_of(section: Section, tiers: dict[str, _Tier]) -> _Tier | None:
    tier_id = section.value("tier_id")
    tier = tiers.get(tier_id) if isinstance(tier_id, str) else None
    if tier is None:
        message = f"names the tier {shown(tier_id)}, which does not exist. Tiers: {', '.join(tiers) or 'none'}."
        section.error("tier_id", message)
    return tier


def _phase(section: Section, reader: PhaseReader) -> PhaseSpec | None:
    section.warn_unknown(_PHASE_KEYS)
    scope = section.section("scope")
    scope.warn_unknown(("paths", "read_only_context", "acceptance_criteria", "test_cmd"))
    return reader.finished(
        section,
        acceptance_criteria=_criteria(section) or _criteria(scope),
        allowed_paths=tuple(workspace_paths(scope, "paths")),
        context_paths=_context_paths(scope),
        verify=verify_command(scope, "test_cmd"),
    )


def _criteria(section: Section) -> tuple[str, ...]:
    """A list of criteria, or one that stands alone."""
    if isinstance(section.value("acceptance_criteria"), str):
        one = section.text("acceptance_criteria", lines=True)
        return () if one is None else (one,)
    return section.texts("acceptance_criteria", lines=True)


def _context_paths(scope: Section) -> tuple[str, ...]:
    """Paths, or mappings with a ``path`` (and a reason, which is for people)."""
    paths = []
    for index, entry in enumerate(scope.items("read_only_context")):
        path = entry.get("path") if isinstance(entry, dict) else entry
        objection = path_objection(path) if isinstance(path, str) and len(path) <= PATH_LIMIT else "is not a path."
        if objection is None:
            paths.append(tidy_path(str(path)))
        else:
            scope.findings.add((*scope.path, "read_only_context", index), f"{shown(path)} {objection}")
    return tuple(paths)
