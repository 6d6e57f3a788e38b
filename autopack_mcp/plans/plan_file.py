"""A plan as a person wrote it: a native YAML plan, or a predecessor's JSON run request, into a Plan.

It owns the native keys and the rules of a whole plan, and reports every problem at once with file and line. It starts
nothing and looks at a repository only to see that one is there; the command line and the tools call it.
"""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import Path, PurePath

from autopack_mcp.documents import file_text, read_document
from autopack_mcp.errors import PlanError, Problem
from autopack_mcp.plans.phases import (
    COMMAND_LIMIT,
    DESCRIPTION_LIMIT,
    LIMIT_KEYS,
    NAME_LIMIT,
    PHASE_KEYS,
    PHASE_OLD_KEYS,
    REHEARSAL_KEYS,
    PhaseReader,
    SpendingCaps,
    checked_command,
    command_limits,
    read_id,
    spending_caps,
    verify_command,
)
from autopack_mcp.plans.plan import ATTEMPTS_LIMIT, UNVERIFIED, VERIFY_TIMEOUT_S, Plan, TierSpec
from autopack_mcp.plans.repository_url import is_url, url_objection
from autopack_mcp.plans.run_request import is_run_request, request_name, request_tiers, request_token_cap
from autopack_mcp.sections import Findings, Section, text_objection

TIERS_LIMIT = 500
PHASES_LIMIT = 5_000  # Five times the largest plan that is promised to load within a second.
ATTEMPTS_MOST = 20
VERIFY_TIMEOUT_MOST_S = 24 * 3600

# Every key that the loader knows, by the place where it stands; docs/plans.md explains each, and a test compares.
KEYS = {
    "": (
        "name",
        "repository",
        "base",
        "setup",
        "verify",
        "verify_timeout_s",
        "verify_network",
        "limits",
        "token_cap",
        "cost_cap_usd",
        "attempts_limit",
        "on_failure",
        "allow_fuzzy",
        "tiers",
    ),
    "tiers": ("id", "name", "description", "phases"),
    "phases": PHASE_KEYS,
    "rehearsal": REHEARSAL_KEYS,
    "limits": LIMIT_KEYS,
}
OLD_KEYS = {"tiers": ("tier_id",), "phases": PHASE_OLD_KEYS}

_REVISION = re.compile(r"[A-Za-z0-9@][A-Za-z0-9._/@{}^~-]{0,199}\Z")  # No leading dash: git would read an option.


def load_plan(
    text: str,
    source: str,
    *,
    known_categories: Set[str],
    repository: Path | str | None = None,
    verify: str | None = None,
    folder: Path | None = None,
) -> Plan:
    """Read a plan and check all of it.

    Args:
        source: what problems name as their file; ``Plan.source``.
        known_categories: ``Settings.categories``; a phase of another one becomes ``general``, with a warning.
        repository: wins over the plan's own; a path is relative to the current folder, as a shell has it.
        verify: wins over the plan's own command (not over a phase's).
        folder: where a relative ``repository`` of the plan starts; without it, such a plan is refused.

    Raises:
        PlanError: with every problem at once; nothing was started.
    """
    findings = Findings(read_document(text, source))
    root = findings.root()
    plan = None
    if root is not None:
        read = _request if is_run_request(root) else _native
        plan = read(root, known_categories, _repository(root, repository, folder), verify)
    if plan is None or findings.has_errors:
        raise PlanError(findings.problems)
    return plan


def load_plan_file(
    path: Path, *, known_categories: Set[str], repository: Path | str | None = None, verify: str | None = None
) -> Plan:
    """``load_plan`` of a file, whose own folder is where a relative repository starts.

    Raises:
        PlanError: also when the file cannot be read.
    """
    text = file_text(path)
    if isinstance(text, Problem):
        raise PlanError((text,))
    return load_plan(
        text,
        str(path),
        known_categories=known_categories,
        repository=repository,
        verify=verify,
        folder=path.absolute().parent,
    )


def _native(root: Section, known_categories: Set[str], repository: str, verify: str | None) -> Plan:
    root.refuse_unknown(KEYS[""])
    caps = spending_caps(root)
    tiers = _tiers(root, PhaseReader(known_categories, caps))
    return Plan(
        name=root.text("name", limit=NAME_LIMIT) or PurePath(root.source).stem,
        repository=repository,
        verify=_verify(root, "verify", verify, tiers),
        tiers=tiers,
        base=_base(root),
        setup=root.text("setup", limit=COMMAND_LIMIT, lines=True),
        token_cap=caps.tokens,
        cost_cap_nano=caps.nano_usd,
        attempts_limit=root.whole("attempts_limit", most=ATTEMPTS_MOST) or ATTEMPTS_LIMIT,
        on_failure=root.choice("on_failure", ("stop", "continue"), "stop"),
        verify_timeout_s=root.whole("verify_timeout_s", most=VERIFY_TIMEOUT_MOST_S) or VERIFY_TIMEOUT_S,
        verify_network=root.flag("verify_network", default=False),
        limits=command_limits(root),
        allow_fuzzy=root.flag("allow_fuzzy", default=False),
        source=root.source,
        warnings=root.findings.problems,
    )


def _request(root: Section, known_categories: Set[str], repository: str, verify: str | None) -> Plan:
    caps = SpendingCaps(request_token_cap(root))
    tiers = request_tiers(root, PhaseReader(known_categories, caps), phases_limit=PHASES_LIMIT)
    return Plan(
        name=request_name(root, root.source),
        repository=repository,
        verify=_verify(root, None, verify, tiers),
        tiers=tiers,
        token_cap=caps.tokens,
        source=root.source,
        warnings=root.findings.problems,
    )


def _tiers(root: Section, reader: PhaseReader) -> tuple[TierSpec, ...]:
    tiers = []
    lines: dict[str, int] = {}
    for section in root.listed_sections("tiers", limit=TIERS_LIMIT):
        section.refuse_unknown((*KEYS["tiers"], *OLD_KEYS["tiers"]))
        tier_id = read_id(section, ("id", "tier_id"), lines)
        name = section.text("name", limit=NAME_LIMIT)
        description = section.text("description", limit=DESCRIPTION_LIMIT, lines=True)
        phases = tuple(reader.phase(phase) for phase in section.listed_sections("phases", limit=PHASES_LIMIT))
        if not section.value("phases"):
            section.error(None, "has no phase. A tier needs at least one.")
        good = tuple(phase for phase in phases if phase is not None)
        tiers.append(TierSpec(tier_id or "", name or tier_id or "", good, description or ""))
    if not root.value("tiers"):
        root.error("tiers", "a plan needs at least one tier with at least one phase.")
    return tuple(tiers)


def _base(root: Section) -> str:
    base = root.text("base", limit=NAME_LIMIT)
    if base is not None and not _REVISION.match(base):
        root.error("base", f"must be a branch, tag or commit of the repository, not {base!r}.")
    return base or "HEAD"


def _verify(root: Section, key: str | None, override: str | None, tiers: tuple[TierSpec, ...]) -> str:
    """The plan's command. It may be missing only when every phase has its own, and then nothing asks for it."""
    if override is not None:
        objection = text_objection(override, COMMAND_LIMIT, allow_lines=True)
        if objection is not None:
            root.error(None, f"the verification command that was given {objection}")
        return checked_command(override) or UNVERIFIED
    command = None if key is None else verify_command(root, key)
    have_their_own = [phase.verify is not None for tier in tiers for phase in tier.phases]
    if command is None and (key is None or key not in root) and not (have_their_own and all(have_their_own)):
        how = "Give one with --verify" if key is None else "Write one here or give it with --verify"
        root.error(key, f"there is no verification command. {how}; to go without, write `verify: none`.")
    return command or UNVERIFIED


def _repository(root: Section, override: Path | str | None, folder: Path | None) -> str:
    """The URL or the absolute path of a git repository; a problem is said when there is none."""
    if override is not None:
        if _is_no_path(str(override)):
            return _checked_url(root, None, str(override))
        return _checked_repository(root, None, Path(override).absolute())
    named = None if is_run_request(root) else root.text("repository", limit=COMMAND_LIMIT)
    if named is None:
        if is_run_request(root):
            root.error(None, "a run request names no repository. Give one with --repository.")
        elif "repository" not in root:
            root.error("repository", "is missing. Write the folder of a git repository, or give --repository.")
        return ""
    if _is_no_path(named):
        return _checked_url(root, "repository", named)
    path = Path(named).expanduser() if named.startswith(("~/", "/")) or named == "~" else Path(named)
    if not path.is_absolute() and folder is None:
        root.error("repository", f"{named!r} is relative, but this plan has no folder. Write the whole path.")
        return ""
    return _checked_repository(root, "repository", path if folder is None else folder / path)


def _is_no_path(repository: str) -> bool:
    """Whether it is a URL, or so written that git would take it for something else than a path."""
    return is_url(repository) or url_objection(repository) is not None


def _checked_url(root: Section, key: str | None, repository: str) -> str:
    """The URL, when it is a good one; otherwise a problem is said, which repeats nothing of it."""
    objection = url_objection(repository)
    if objection is None:
        return repository
    root.error(key, f"the repository {objection}")
    return ""


def _checked_repository(root: Section, key: str | None, path: Path) -> str:
    try:
        resolved = path.resolve()
        if not resolved.is_dir():
            root.error(key, f"the repository {str(resolved)!r} is not a folder.")
        elif not _looks_like_git(resolved):
            root.error(key, f"{str(resolved)!r} is not a git repository. Name its top folder, or run `git init` there.")
        return str(resolved)
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle.
        root.error(key, f"the repository {str(path)!r} cannot be looked at: {error}.")
        return ""


def _looks_like_git(path: Path) -> bool:
    """A cheap look, not a judgement: git itself is asked when the run makes its workspace."""
    is_bare = (path / "HEAD").is_file() and (path / "objects").is_dir() and (path / "refs").is_dir()
    return is_bare or (path / ".git").exists()
