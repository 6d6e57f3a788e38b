"""What a crash left and what became of it, as text that a person can read: the same words for the same thing each time.

It owns the wording; ids, times, models and counts of tokens, which differ from run to run, are left out or replaced.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from sqlalchemy import Connection, select

from autopack_mcp.database.tables import attempts, phases, reservations, runs, usage_events

WIDTH = 110
COMMIT = re.compile(r"\b[0-9a-f]{10,40}\b")


@dataclass(frozen=True, slots=True)
class Call:
    """One row of the ledger, as far as two runs can be compared by it."""

    phase_id: str
    role: str
    status: str
    charged_tokens: int
    charged_nano: int

    @property
    def words(self) -> str:
        """Who was called for what, and how it ended."""
        return f"{self.role} of {self.phase_id}: {self.status}"


@dataclass(frozen=True, slots=True)
class Recovery:
    """One crash and what followed; the lines of each part stand in the order of the file."""

    database: tuple[str, ...]
    folders: str
    wrote: tuple[str, ...]
    ended: tuple[str, ...]
    ledger: tuple[str, ...]


def booked_calls(connection: Connection) -> Counter[Call]:
    """Every usage event."""
    names = ("phase_id", "role", "status", "charged_tokens", "charged_nano")
    found = connection.execute(select(*(usage_events.c[name] for name in names)))
    return Counter(Call(*row) for row in found)


def calls_in_flight(connection: Connection) -> Counter[Call]:
    """Every reservation that nobody closed, as the event that it becomes when its lease ends."""
    held = connection.execute(select(reservations).where(reservations.c.state == "held")).mappings()
    return Counter(
        Call(row["phase_id"], row["role"], "expired", row["bound_input"] + row["bound_output"], row["bound_nano"] or 0)
        for row in held
    )


def database_lines(connection: Connection) -> tuple[str, ...]:
    """The run and each phase with state and reason, then the calls."""
    [run] = connection.execute(select(runs)).mappings()
    lines = [f"run      {run['state']}: {_plain(run['why'])}"]
    models = {
        model: f"the {role}"
        for row in connection.execute(select(attempts)).mappings()
        for role in ("builder", "auditor")
        if (model := row[f"{role}_model"])
    }
    for phase in connection.execute(select(phases).order_by(phases.c.phase_index)).mappings():
        why = _plain(phase["why"])
        for model, word in models.items():
            why = why.replace(model, word)
        lines.append(f"phase {phase['phase_id']}  {phase['state']}: {why}".rstrip(": "))
    in_flight = [f"{call.role} of {call.phase_id}: in flight" for call in calls_in_flight(connection)]
    calls = ", ".join([*_words(booked_calls(connection)), *in_flight])
    return (*lines, f"calls    {calls or 'none'}")


def folder_line(workspace: Path, repository: Path, branch: str) -> str:
    """Where the workspace stands and what in it differs, and where the run's branch stands."""
    parts = list(workspace.parent.glob(".*.part")) if workspace.parent.is_dir() else []
    if not (workspace / ".git").is_dir():
        stands = "workspace half made" if parts else "no workspace"
    else:
        changed = [line.split()[-1] for line in _git(workspace, "status", "--porcelain").splitlines()]
        stands = f"workspace at {_phase_at(workspace, 'HEAD')}" + (f" with {', '.join(changed)}" if changed else "")
    at = _phase_at(repository, branch) if _git(repository, "branch", "--list", branch) else None
    return f"{stands}; {'no branch yet' if at is None else f'branch at {at}'}"


def difference(found: Counter[Call], undisturbed: Counter[Call]) -> tuple[str, ...]:
    """What one ledger has more (+) or less (-) than the other."""
    more = [f"+ {words}" for words in _words(found - undisturbed)]
    less = [f"- {words}" for words in _words(undisturbed - found)]
    return (*more, *less) or ("the same",)


def drawn(title: str, recoveries: Sequence[Recovery]) -> str:
    """The picture of one window; every crash in it must have had the same database, recovery and end."""
    first = recoveries[0]
    folders = tuple(dict.fromkeys(recovery.folders for recovery in recoveries))
    parts = (
        ("stood in the database", first.database),
        ("stood in the folders, one line for each state that a crash can leave", folders),
        ("the next supervisor wrote", _wrapped(first.wrote) or ("nothing",)),
        ("it ended", first.ended),
        ("its ledger beside that of a run without a fault", first.ledger),
    )
    return f"{title}\n" + "".join(f"\n{head}\n" + "".join(f"    {line}\n" for line in lines) for head, lines in parts)


def _wrapped(names: Sequence[str]) -> Sequence[str]:
    """As many names to a line as fit; none is broken in two."""
    unbroken = ", ".join(name.replace(" ", "\N{NO-BREAK SPACE}") for name in names)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in wrap(unbroken, WIDTH - 4)]


def _words(calls: Counter[Call]) -> Iterable[str]:
    return sorted(call.words for call in calls.elements())


def _plain(why: str) -> str:
    return COMMIT.sub("<commit>", why)


def _phase_at(folder: Path, name: str) -> str:
    phase = _git(folder, "log", "-1", "--format=%(trailers:key=Autopack-Phase,valueonly)", name)
    return f"the commit of {phase}" if phase else "the start"


def _git(folder: Path, *words: str) -> str:
    # A look must not tidy up what a crash left: git would write a fresh index.
    environ = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    done = subprocess.run(["git", *words], cwd=folder, env=environ, check=True, capture_output=True, text=True)
    return done.stdout.strip()
