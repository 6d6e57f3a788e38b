"""Which model answers what, and why: for a run, or for a run that would start now.

It owns the shapes; the choices are made by the router's own function over the router's own snapshot, so what is shown
is what would be used. It spends nothing and reserves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection

from autopack_mcp.config import ProviderSettings, Settings
from autopack_mcp.routing.model_router import Choice, RoutingSnapshot, Rule
from autopack_mcp.runs.records import PhaseRecord
from autopack_mcp.summary.usage import CapView
from autopack_mcp.usage.prices import UnitPrices


@dataclass(frozen=True, slots=True)
class RoutingSources:
    """What a choice needs beside the database: the settings in force, and answers about keys and prices."""

    settings: Settings
    has_key: Callable[[ProviderSettings], bool]
    unit_price: Callable[[str], UnitPrices | None]


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One answer of the router. Without a model, ``error`` says why there is none.

    ``complexity`` is "*" where low, medium and high are answered alike; ``also`` lists the other categories that are
    answered like ``category``. ``phase_ids`` are the unfinished phases of the run that ask exactly this.
    ``blocked_by`` says why a call would fail right now; ``replaces`` is the model that a soft limit took away.
    """

    role: str
    category: str
    complexity: str
    model: str | None
    provider: str | None
    rule: Rule | None
    reasons: tuple[str, ...]
    blocked_by: str | None = None
    replaces: str | None = None
    error: str | None = None
    also: tuple[str, ...] = ()
    phase_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OverrideView:
    """A person's choice in force. ``pattern`` is the glob on ``category:complexity``; no ``expires_at`` is for good."""

    override_id: int
    scope: Literal["run", "global"]
    role: str
    pattern: str
    model: str
    author: str
    created_at: datetime | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class StandingView:
    """One provider: the variable of the key it lacks (None when it can be called), its state in a word, and its caps.

    ``state`` is "ok", "over its soft limit", "cap reached" or "no key".
    """

    provider: str
    state: str
    missing_key_variable: str | None
    caps: tuple[CapView, ...]


@dataclass(frozen=True, slots=True)
class ModelMapping:
    """Which model is used for what. With a ``run_id``: what its unfinished phases will be given; else: a new run.

    ``choices`` are the models that may be chosen now, with their state (contract 13); ``warnings`` are those of the
    configuration file.
    """

    run_id: str | None
    is_rehearsal: bool
    rows: tuple[ModelRow, ...]
    overrides: tuple[OverrideView, ...]
    choices: tuple[Choice, ...]
    standings: tuple[StandingView, ...]
    categories: tuple[str, ...]
    complexities: tuple[str, ...]
    source: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelExplanation:
    """Why a question is answered by this model: the decision, its provider's caps, and what else may be chosen."""

    run_id: str | None
    row: ModelRow
    standing: StandingView | None
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class PhaseModelChange:
    """A future phase that another model will answer; None where no model can be chosen."""

    phase_id: str
    name: str
    role: str
    from_model: str | None
    to_model: str | None


def model_mapping(
    connection: Connection, sources: RoutingSources, now: datetime, run_id: str | None = None
) -> ModelMapping:
    """Who answers what: for the unfinished phases of a run, or for every known category and complexity.

    Raises:
        RunNotFound: no such run.
    """
    raise NotImplementedError


def explain_model(
    connection: Connection,
    sources: RoutingSources,
    now: datetime,
    role: str,
    category: str,
    complexity: str,
    run_id: str | None = None,
) -> ModelExplanation:
    """Which model would answer this question, and why. No model at all is an answer: ``row.error`` says why.

    Raises:
        RunNotFound: no such run.
        RequestRefused: an unknown role, category or complexity; the hint lists those that exist.
    """
    raise NotImplementedError


def phase_model_changes(
    before: RoutingSnapshot, after: RoutingSnapshot, phases: Sequence[PhaseRecord]
) -> tuple[PhaseModelChange, ...]:
    """Which future phases another model answers after a change, builder and auditor apart, in plan order.

    Future are the queued phases and those that a retry would queue again (contract 10).
    """
    raise NotImplementedError
