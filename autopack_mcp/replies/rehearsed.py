"""What a scripted builder and auditor answer in a rehearsal: the plan's own script, or a harmless stand-in.

Pure: the door hands these texts to the scripted provider instead of asking a model. A phase without a script gets the
smallest change that its allowed paths permit, so that workspace, command, audit and commit still happen for real.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from autopack_mcp.errors import UnusableReply
from autopack_mcp.plans.plan import PhaseSpec
from autopack_mcp.replies.edits import WholeFile, render_edits
from autopack_mcp.replies.path_rules import check_path, is_allowed
from autopack_mcp.replies.verdict import Issue, Verdict, render_verdict

_WILDCARD = re.compile(r"[*?\[]")


def rehearsed_edits(phase: PhaseSpec, files: Mapping[str, str]) -> str:
    """The scripted builder's reply to a phase; ``files`` are those its prompt shows."""
    script = phase.rehearsal
    if script is not None and script.files:
        edits = [WholeFile(path, text) for path, text in script.files.items()]
        return render_edits(edits, f"Rehearsed: {phase.name}")
    return render_edits([_stand_in(phase, files)], f"Rehearsed without a script: {phase.name}")


def rehearsed_verdict(phase: PhaseSpec, attempt: int) -> str:
    """The scripted auditor's reply: approval, but for a first attempt that the script rejects."""
    reason = phase.rehearsal.reject_first if phase.rehearsal is not None else None
    if reason is not None and attempt == 1:
        issue = Issue("major", "rehearsal", reason)
        return render_verdict(Verdict(approved=False, issues=(issue,), summary=reason))
    return render_verdict(Verdict(approved=True, issues=(), summary="Rehearsed: nothing was reviewed by a model."))


def _stand_in(phase: PhaseSpec, files: Mapping[str, str]) -> WholeFile:
    """A change that does nothing: a new file where one is allowed, else one more line break in a file.

    The new file is a text where its name is free, and blank where a pattern demands an ending: a blank line is valid in
    nearly every language.
    """
    name = f"rehearsal-{phase.phase_id}"
    for pattern in phase.allowed_paths or ("",):
        if pattern in files:
            continue  # A file, although it has no ending.
        path = f"{_folder(pattern)}{name}.txt"
        if _may_write(path, phase.allowed_paths):
            return WholeFile(path, f"Phase {phase.phase_id} was rehearsed; no model was asked.\n")
        path = _fitting(pattern, name)
        if path != pattern and _may_write(path, phase.allowed_paths):
            return WholeFile(path, "\n")
    path = next((path for path in files if is_allowed(path, phase.allowed_paths)), phase.allowed_paths[0])
    return WholeFile(path, files.get(path, "") + "\n")


def _may_write(path: str, allowed_paths: Sequence[str]) -> bool:
    try:
        check_path(path)
    except UnusableReply:
        return False
    return is_allowed(path, allowed_paths)


def _fitting(pattern: str, name: str) -> str:
    """A path that ``pattern`` most likely matches: ``tests/**/test_*.py`` becomes ``tests/test_<name>.py``."""
    return pattern.replace("**/", "").replace("**", name).replace("*", name).replace("?", "x")


def _folder(pattern: str) -> str:
    """The folder that a pattern begins with, with its slash."""
    literal = _WILDCARD.split(pattern, maxsplit=1)[0]
    if literal == pattern and not pattern.endswith("/"):
        # A bare name may be a folder, and then everything below it is allowed; a file is found out by not matching.
        return f"{pattern}/" if pattern and "." not in pattern.rpartition("/")[2] else ""
    return literal[: literal.rfind("/") + 1]
