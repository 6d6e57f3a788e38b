"""A person's choice of model: which questions it answers, and which of several choices wins (contract 10).

Matching is pure; the store below keeps overrides as rows with an author and a time, and never changes ``models.yaml``.
The router asks, the ``override_model`` tool and the command line write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, insert, or_, select, update

from autopack_mcp.clock import from_us, to_us
from autopack_mcp.database.bare import BareStatement
from autopack_mcp.database.tables import overrides
from autopack_mcp.errors import OverrideRefused

_WILDCARD = re.compile(r"\*|\?|\[!?+\]?+[^\]]*\]")  # As fnmatch reads them: a bracket that is never closed is a letter.
# In the order of ``Override.rank``.
_RANK_IN_WORDS = (
    "it has no wildcard", "its pattern is more literal", "it names the role", "its role is more literal", "it is newer",
)  # fmt: skip
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
    def rank(self) -> tuple[int, ...]:
        """Sorts the winner last: exact before pattern, then more literal characters, then newest (contract 10).

        Of two that are equally exact about the question, one that names its role goes before one for any role.
        """
        return (*_exactness(self.pattern), *_exactness(self.role), self.override_id)


def _exactness(pattern: str) -> tuple[bool, int]:
    literal = _WILDCARD.sub("", pattern)
    return literal == pattern, len(literal)


def winning_override(
    candidates: Iterable[Override], role: str, category: str, complexity: str, at: datetime
) -> Override | None:
    """The override of one scope that answers a question, None when none does."""
    speaking = [override for override in candidates if override.answers(role, category, complexity, at)]
    if len(speaking) > 1:
        return max(speaking, key=lambda override: override.rank)
    return speaking[0] if speaking else None


def speaking_overrides(
    candidates: Iterable[Override], role: str, category: str, complexity: str, at: datetime
) -> tuple[Override, ...]:
    """All overrides of one scope that could answer a question, the winner first."""
    speaking = (override for override in candidates if override.answers(role, category, complexity, at))
    return tuple(sorted(speaking, key=lambda override: override.rank, reverse=True))


def wins_by(winner: Override, loser: Override) -> str:
    """Why one override of a scope goes before another, in words: the first point of ``rank`` in which they differ."""
    pairs = zip(_RANK_IN_WORDS, winner.rank, loser.rank, strict=True)
    return next(words for words, ours, theirs in pairs if ours != theirs)


def overrides_of_context(run_context: Mapping[str, Any]) -> tuple[Override, ...]:
    """The overrides that a library caller brings along, as ``Override`` objects newer than any row.

    Args:
        run_context: ``{"model_overrides": {"builder": {"core_backend:medium": "gpt-4o"}}}``. A key without a colon
            means every complexity of that category; globs work as in any override; the key may be missing or None.

    Raises:
        OverrideRefused: ``model_overrides`` has another shape.
    """
    by_role = run_context.get("model_overrides") or {}
    found: list[Override] = []
    for role, key, model in _choices(by_role):
        category, _, complexity = key.partition(":")
        number = _IN_CONTEXT_FROM + len(found)
        found.append(Override(number, "run", role, category, complexity or "*", model, "run context"))
    return tuple(found)


def _choices(by_role: object) -> Iterator[tuple[str, str, str]]:
    """(role, pattern, model) of each choice in a run context."""
    if not isinstance(by_role, Mapping):
        raise _misshapen(by_role)
    for role, choices in by_role.items():
        if not isinstance(choices, Mapping):
            raise _misshapen(choices)
        for key, model in choices.items():
            if not (isinstance(role, str) and isinstance(key, str) and isinstance(model, str)):
                raise _misshapen({key: model})
            yield role, key, model


def _misshapen(found: object) -> OverrideRefused:
    return OverrideRefused(
        f"The run context's model_overrides cannot be read at {found!r:.100}.",
        hint='Write {"builder": {"core_backend:medium": "gpt-4o"}}: role, then category:complexity, then the model.',
    )


def overrides_in_force(connection: Connection, run_id: str | None, at: datetime) -> tuple[Override, ...]:
    """The overrides of one run that stood at a moment, or the global ones for None; oldest first."""
    if run_id is None:
        rows = _OF_ALL.rows(connection, {"at_us": to_us(at)})
    else:
        rows = _OF_RUN.rows(connection, {"at_us": to_us(at), "wanted_run": run_id})
    return tuple(map(_from_driver, rows))


def _is_standing(at: ColumnElement[Any] | datetime) -> ColumnElement[bool]:
    unexpired = or_(overrides.c.expires_at.is_(None), overrides.c.expires_at > at)
    not_withdrawn = or_(overrides.c.withdrawn_at.is_(None), overrides.c.withdrawn_at > at)
    return and_(overrides.c.created_at <= at, not_withdrawn, unexpired)


def _in_force(in_scope: ColumnElement[bool]) -> Select[Any]:
    fields = (overrides.c[name] for name in Override.__dataclass_fields__)
    return select(*fields).where(in_scope, _is_standing(bindparam("at_us"))).order_by(overrides.c.override_id)


# Bare: every call asks what was chosen for it.
_OF_ALL = BareStatement(lambda _: _in_force(overrides.c.scope == "global"))
_OF_RUN = BareStatement(lambda _: _in_force(overrides.c.run_id == bindparam("wanted_run")))


def _from_driver(row: tuple[Any, ...]) -> Override:
    facts = dict(zip(Override.__dataclass_fields__, row, strict=True))
    times = {name: None if facts[name] is None else from_us(facts[name]) for name in ("created_at", "expires_at")}
    return Override(**{**facts, **times})


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
        _is_standing(at),
    )
    return connection.execute(update(overrides).where(same).values(withdrawn_at=at)).rowcount
