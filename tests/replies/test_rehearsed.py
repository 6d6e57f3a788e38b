"""What a rehearsal's scripted models answer: the plan's script, or a change that does nothing where it may."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autopack_mcp.plans.plan import PhaseSpec, RehearsalScript
from autopack_mcp.replies.edits import WholeFile, parse_edits
from autopack_mcp.replies.patch import edited_files
from autopack_mcp.replies.rehearsed import rehearsed_edits, rehearsed_verdict
from autopack_mcp.replies.verdict import parse_verdict

PHASE = PhaseSpec("P1", "Greet", "Say hello.")


def edits(phase: PhaseSpec, **files: str) -> list[tuple[str, str]]:
    """(path, text) of every file that the scripted builder writes."""
    reply = parse_edits(rehearsed_edits(phase, files))
    return [(edit.path, edit.content) for edit in reply.edits if isinstance(edit, WholeFile)]


def test_a_script_is_played_as_it_stands() -> None:
    files = {"a.py": "x = 1\n", "b.md": "*** END\n```\nno line break at the end"}
    phase = replace(PHASE, rehearsal=RehearsalScript(files))
    assert dict(edits(phase)) == files
    assert parse_edits(rehearsed_edits(phase, {})).summary == "Rehearsed: Greet"


@pytest.mark.parametrize(
    "allowed, files, path",
    [
        pytest.param((), {}, "rehearsal-P1.txt", id="anywhere"),
        pytest.param(("src",), {}, "src/rehearsal-P1.txt", id="a folder"),
        pytest.param(("src/**",), {}, "src/rehearsal-P1.txt", id="everything below"),
        pytest.param(("src/*.py",), {}, "src/rehearsal-P1.py", id="an ending"),
        pytest.param(("tests/**/test_*.py",), {}, "tests/test_rehearsal-P1.py", id="a beginning and an ending"),
        pytest.param(("src/app.py",), {"src/app.py": "x\n"}, "src/app.py", id="one file"),
        pytest.param(("Makefile",), {"Makefile": "all:\n"}, "Makefile", id="one file without an ending"),
        pytest.param(("src/app.py", "docs"), {}, "docs/rehearsal-P1.txt", id="the first that has room"),
        pytest.param(("src/new.py",), {}, "src/new.py", id="a file that is not there yet"),
    ],
)
def test_without_a_script_the_change_is_harmless_and_allowed(
    allowed: tuple[str, ...], files: dict[str, str], path: str
) -> None:
    phase = replace(PHASE, allowed_paths=allowed)
    ((found, text),) = edits(phase, **files)
    assert found == path
    assert text.strip() == files.get(path, text).strip()
    assert edited_files(files, [WholeFile(found, text)], allowed)


def test_a_stand_in_that_is_code_is_blank() -> None:
    ((_, text),) = edits(replace(PHASE, allowed_paths=("src/*.py",)))
    assert text == "\n"


def test_the_auditor_approves_and_says_that_nobody_looked() -> None:
    verdict = parse_verdict(rehearsed_verdict(PHASE, 1))
    assert verdict.approved
    assert "nothing was reviewed" in verdict.summary


@pytest.mark.parametrize("attempt, approved", [(1, False), (2, True), (3, True)])
def test_a_script_may_reject_the_first_attempt(attempt: int, approved: bool) -> None:
    phase = replace(PHASE, rehearsal=RehearsalScript(reject_first="No tests."))
    verdict = parse_verdict(rehearsed_verdict(phase, attempt))
    assert verdict.approved == approved
    assert [issue.description for issue in verdict.issues] == ([] if approved else ["No tests."])
