"""Small real git repositories and plans for them: what a run works on in tests."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

GREEN = "sh check.sh"
STARTING_FILES = {"check.sh": "exit 0\n", "README.md": "A project.\n"}


def make_repository(folder: Path, files: Mapping[str, str] = STARTING_FILES) -> Path:
    """A repository on branch main with one commit of these files."""
    for path, text in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=start")
    return folder


def git(folder: Path, *words: str) -> str:
    """What git prints there."""
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@localhost")
    done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def a_phase(phase_id: str, **overrides: Any) -> dict[str, Any]:
    """A phase that writes a file of its own name."""
    values = {
        "id": phase_id,
        "name": f"Phase {phase_id}",
        "description": f"Write {phase_id}.txt.",
        "rehearsal": {"files": {f"{phase_id}.txt": f"{phase_id}\n"}},
    }
    return {**values, **overrides}


def a_plan(repository: Path | str, *tiers: list[dict[str, Any]], **overrides: Any) -> str:
    """A plan with these tiers of phases; one tier with phases a and b when none is given."""
    listed = tiers or ([a_phase("a"), a_phase("b")],)
    values = {
        "name": "a plan",
        "repository": str(repository),
        "verify": GREEN,
        "tiers": [
            {"id": f"t{number}", "name": f"Tier {number}", "phases": phases}
            for number, phases in enumerate(listed, start=1)
        ],
    }
    return yaml.safe_dump({**values, **overrides}, sort_keys=False)
