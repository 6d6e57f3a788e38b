"""A person's choice of model: which questions it answers, and which of several choices wins (contract 10).

Matching is pure; the store below keeps overrides as rows with an author and a time, and never changes ``models.yaml``.
The router asks, the ``override_model`` tool and the command line write.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Literal

from sqlalchemy import Connection, and_, insert, or_, select, update

from autopack_mcp.database.tables import overrides

_WILDCARDS = frozenset("*?[]")
_IN_CONTEXT_FROM = 1 << 62  # Overrides of a library caller's run context are newer than any row.


@dataclass(frozen=True, slots=True)
class Override:
    """One choice: for this role, categories and complexities matching the globs, use this model.

    ``override_id`` grows with time, so that of two equally exact overrides the newer one wins.
    """

    override_id: int
    scope: Literal["run", "global"]
    role: str
    category: str
    complexity: str
    model: str
    author: str
    created_at: datetime | None = None
    expires_at: datetime | None = None
    run_id: str | None = None

    @property
    def pattern(self) -> str:
        """The shell glob that a question's ``category:complexity`` must match."""
        return f"{self.category}:{self.complexity}"

    def answers(self, role: str, category: str, complexity: str, at: datetime) -> bool:
        """Whether it speaks to this question and has not expired."""
        if self.expires_at is not None and self.expires_at <= at:
            return False
        return fnmatchcase(role, self.role) and fnmatchcase(f"{category}:{complexity}", self.pattern)

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Sorts the winner last: exact before pattern, then more literal characters, then newest."""
        pattern = f"{self.role} {self.pattern}"
        literal = sum(character not in _WILDCARDS for character in pattern)
        return (not _WILDCARDS & set(pattern), literal, self.override_id)


def winning_override(
    candidates: Iterable[Override], role: str, category: str, complexity: str, at: datetime
) -> Override | None:
    """The override of one scope that answers a question, None when none does."""
    speaking = [override for override in candidates if override.answers(role, category, complexity, at)]
    return max(speaking, key=lambda override: override.rank, default=None)


def overrides_of_context(model_overrides: Mapping[str, Mapping[str, str]]) -> tuple[Override, ...]:
    """The overrides of a library caller's run context: ``{"builder": {"core_backend:medium": "gpt-4o"}}``.

    A key without a colon means every complexity of that category.
    """
    found: list[Override] = []
    for role, choices in model_overrides.items():
        for key, model in choices.items():
            category, _, complexity = key.partition(":")
            number = _IN_CONTEXT_FROM + len(found)
            found.append(Override(number, "run", role, category, complexity or "*", model, "run context"))
    return tuple(found)


def overrides_in_force(connection: Connection, run_id: str | None, at: datetime) -> tuple[Override, ...]:
    """The standing overrides of one run, or the global ones for None; oldest first."""
    in_scope = overrides.c.scope == "global" if run_id is None else overrides.c.run_id == run_id
    unexpired = or_(overrides.c.expires_at.is_(None), overrides.c.expires_at > at)
    found = (
        select(overrides)
        .where(in_scope, overrides.c.withdrawn_at.is_(None), unexpired)
        .order_by(overrides.c.override_id)
    )
    fields = Override.__dataclass_fields__
    return tuple(Override(**{name: row[name] for name in fields}) for row in connection.execute(found).mappings())


def add_override(connection: Connection, override: Override, client: str) -> int:
    """Write one override down; its ``override_id`` is given by the database and returned."""
    row = {name: getattr(override, name) for name in Override.__dataclass_fields__ if name != "override_id"}
    done = connection.execute(insert(overrides).values(**row, client=client))
    assert done.inserted_primary_key is not None, "the key is generated"
    return int(done.inserted_primary_key[0])


def withdraw_overrides(connection: Connection, like: Override, at: datetime) -> int:
    """Undo every standing override of the same scope, run, role and pattern; returns how many there were."""
    same = and_(
        overrides.c.scope == like.scope,
        overrides.c.run_id.is_(None) if like.run_id is None else overrides.c.run_id == like.run_id,
        overrides.c.role == like.role,
        overrides.c.category == like.category,
        overrides.c.complexity == like.complexity,
        overrides.c.withdrawn_at.is_(None),
    )
    return connection.execute(update(overrides).where(same).values(withdrawn_at=at)).rowcount
