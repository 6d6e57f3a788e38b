"""How each model did on the person's own work: approvals, first tries, and what an approved phase cost.

It owns ModelScorecard and what counts for and against a model (docs/summaries.md#scorecard); the sums are read by
``runs.track_record``. It compares within a category and never across, and shows every rate with its counts. Tools and
the command line show it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from math import sqrt
from typing import TypeVar

from sqlalchemy import Connection

from autopack_mcp.config.settings import COMPLEXITIES
from autopack_mcp.errors import RequestRefused
from autopack_mcp.money import usd
from autopack_mcp.runs.track_record import (
    AttemptCosts,
    Begun,
    CallCosts,
    EndedAttempts,
    ExperimentCosts,
    attempt_costs,
    attempt_endings,
    experiment_costs,
)
from autopack_mcp.text_safety import visible
from autopack_mcp.usage.spans import LONGEST_SPAN, Moment, asked_span

# Below this many, a rate of one half is known to no better than 15 points either way (95 %). It is also where Brown,
# Cai and DasGupta, "Interval Estimation for a Binomial Proportion" (Statistical Science 16, 2001), draw the line
# between small and large samples; for the small ones they recommend Wilson's interval, which is used here for all.
SMALL_SAMPLE = 40
_Z_95 = 1.959964  # Of the normal distribution: 95 % lie within so many standard deviations.
_NAME_LIMIT = 120  # Characters of a model's or a category's name.

NOTE = (
    "Rehearsals, experiments and auxiliary agents are not in these numbers. Compare within a category, and look at"
    " the complexities: who is given the harder phases is approved less often."
)
_JUDGED = frozenset({"approved", "rejected", "failed"})
_WITH_VERDICT = frozenset({"approved", "disturbed", "rejected"})
_UNDECIDED = frozenset({"interrupted", "open"})

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Rate:
    """``hits`` of ``tries`` in percent (0 to 100), and where the true rate lies in 95 of 100 such samples.

    The interval is Wilson's. All percents are None when nothing was tried.
    """

    hits: int
    tries: int
    percent: float | None
    low_percent: float | None
    high_percent: float | None


@dataclass(frozen=True, slots=True)
class BuilderScore:
    """One model as builder in one category.

    ``attempts`` are those that were judged: approved, rejected, or failed by the builder's own doing. ``approval`` is
    approved of these; ``first_try`` is phases approved at their first attempt, of those whose first attempt this model
    made. Ended by a person is ``interrupted_attempts``; ended by something else that says nothing about the change (no
    provider answered, no usable verdict, not committed) is ``unjudged_attempts``: neither counts for or against it.

    ``tokens``, ``cost_usd`` and ``calls`` are what judged attempts took: the builder's calls of this model, and the
    auditor's calls about its changes. ``cost_usd`` is the sum of the known prices, None when no call has one;
    ``unpriced_calls`` are not in it. The two per approved phase are over ``counted_phases``, the approved ones whose
    calls have not been deleted by age; None when there is none.
    """

    category: str
    model: str
    attempts: int
    approved_attempts: int
    approval: Rate
    first_try: Rate
    sample: str
    is_small_sample: bool
    attempts_by_complexity: dict[str, int]
    interrupted_attempts: int
    unjudged_attempts: int
    calls: int
    unpriced_calls: int
    tokens: int
    cost_usd: Decimal | None
    counted_phases: int
    tokens_per_approved_phase: int | None
    cost_usd_per_approved_phase: Decimal | None


@dataclass(frozen=True, slots=True)
class AuditorScore:
    """One model as auditor, over all categories asked for.

    ``verdicts`` are those that could be used, ``rejection`` how many of them said no. ``unusable_verdicts`` could not
    be used even when asked for once more. ``tokens`` and the rest are what its calls took, for whatever attempt that
    has ended; ``tokens_per_verdict`` is None when it gave no usable one whose calls are still there.
    """

    model: str
    verdicts: int
    rejected: int
    rejection: Rate
    unusable_verdicts: int
    sample: str
    is_small_sample: bool
    calls: int
    unpriced_calls: int
    tokens: int
    cost_usd: Decimal | None
    tokens_per_verdict: int | None


@dataclass(frozen=True, slots=True)
class ExperimentScore:
    """What experiments with one model took; they have no verdict, so they are in no rate."""

    model: str
    calls: int
    unpriced_calls: int
    tokens: int
    cost_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class ModelScorecard:
    """Every model that made or judged an attempt at the phases begun in ``since <= begun < until`` (None: no bound).

    ``builders`` are sorted by category, then by attempts. ``interrupted_attempts``, ``unjudged_attempts`` and
    ``open_attempts`` count all that no rate holds, also those that no model has answered. ``uncounted_phases`` were
    approved, but calls of theirs have been deleted by age, so that nobody knows any more what they cost.
    """

    since: datetime | None
    until: datetime | None
    category: str | None
    complexity: str | None
    builders: tuple[BuilderScore, ...]
    auditors: tuple[AuditorScore, ...]
    experiments: tuple[ExperimentScore, ...]
    interrupted_attempts: int
    unjudged_attempts: int
    open_attempts: int
    uncounted_phases: int
    small_sample: int
    note: str


@dataclass(frozen=True, slots=True)
class ScorecardWish:
    """Which phases a scorecard is asked about: begun in the last ``days``, or ``from_`` … ``to``, or ever (neither)."""

    days: int | None = None
    from_: Moment | None = None
    to: Moment | None = None
    category: str | None = None
    complexity: str | None = None


def model_scorecard(connection: Connection, now: datetime, wish: ScorecardWish) -> ModelScorecard:
    """How each model did. An unknown category is an empty scorecard: plans may have any.

    Raises:
        RequestRefused: a complexity or a stretch of time that does not exist.
    """
    begun = _begun(wish, now)
    endings, costs = attempt_endings(connection, begun), attempt_costs(connection, begun)
    return ModelScorecard(
        since=begun.since,
        until=begun.until,
        category=None if wish.category is None else visible(wish.category, _NAME_LIMIT),
        complexity=wish.complexity,
        builders=_builders(endings, costs),
        auditors=_auditors(endings, costs),
        experiments=tuple(map(_experiment, experiment_costs(connection, begun))),
        interrupted_attempts=_count(endings, lambda one: one.ending == "interrupted"),
        unjudged_attempts=_count(endings, _is_unjudged),
        open_attempts=_count(endings, lambda one: one.ending == "open"),
        uncounted_phases=_count(endings, lambda one: one.ending == "approved" and one.is_pruned),
        small_sample=SMALL_SAMPLE,
        note=NOTE,
    )


def wilson(hits: int, tries: int) -> Rate:
    """A rate with its 95 % interval, each in percent, rounded to one decimal.

    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference" (1927).
    """
    assert 0 <= hits <= tries, f"{hits} of {tries}"
    if tries == 0:
        return Rate(0, 0, None, None, None)
    share, square = hits / tries, _Z_95**2
    middle = share + square / (2 * tries)
    reach = _Z_95 * sqrt(share * (1 - share) / tries + square / (4 * tries**2))
    low, high = ((middle + side * reach) / (1 + square / tries) for side in (-1, 1))
    return Rate(hits, tries, _percent(share), _percent(max(low, 0.0)), _percent(min(high, 1.0)))


def _percent(share: float) -> float:
    return round(share * 100, 1)


# ── what was asked ───────────────────────────────────────────────────────────────────────────────────────────────────


def _begun(wish: ScorecardWish, now: datetime) -> Begun:
    if wish.complexity is not None and wish.complexity not in COMPLEXITIES:
        asked = visible(wish.complexity, _NAME_LIMIT)
        raise RequestRefused(f"Unknown complexity {asked!r}.", hint=f"Known are {', '.join(COMPLEXITIES)}.")
    if wish.days is not None and (wish.from_ is not None or wish.to is not None):
        raise RequestRefused(
            "The last days and a stretch of time were both asked for.", hint="Ask for days, or for from and to."
        )
    if wish.days is not None:
        return Begun((now - _last(wish.days)).replace(microsecond=0), None, wish.category, wish.complexity)
    if wish.from_ is None and wish.to is None:
        return Begun(None, None, wish.category, wish.complexity)
    span = asked_span(now, from_=wish.from_, to=wish.to)
    return Begun(span.start, span.end, wish.category, wish.complexity)


def _last(days: int) -> timedelta:
    if not 1 <= days <= LONGEST_SPAN.days:
        raise RequestRefused(
            f"The last {days} days are no stretch of time.", hint=f"Ask for 1 to {LONGEST_SPAN.days:,} days."
        )
    return timedelta(days=days)


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _builders(endings: Sequence[EndedAttempts], costs: Sequence[AttemptCosts]) -> tuple[BuilderScore, ...]:
    by_kind = _grouped(endings, lambda one: (one.category, one.builder_model) if one.builder_model else None)
    spent = _grouped(costs, _who_pays)
    scores = (
        _builder(category, model, by_kind.get((category, model), []), spent.get((category, model), []))
        for category, model in by_kind.keys() | spent.keys()
    )
    return tuple(sorted(scores, key=lambda one: (one.category, -one.attempts, one.model)))


def _who_pays(one: AttemptCosts) -> tuple[str, str] | None:
    """The category and model whose score holds a cost.

    A builder's call is paid by the model that answered it, also when the next try at the same attempt went to another;
    an auditor's call by the model whose change it judged.
    """
    if one.ending not in _JUDGED:
        return None
    model = one.model if one.role == "builder" else one.builder_model
    return None if model is None else (one.category, model)


def _builder(
    category: str, model: str, endings: Sequence[EndedAttempts], costs: Sequence[AttemptCosts]
) -> BuilderScore:
    judged = [one for one in endings if one.ending in _JUDGED]
    tries, approved = _count(judged), _count(judged, _is_approved)
    first = [one for one in judged if one.is_first]
    counted = _count(judged, lambda one: _is_approved(one) and not one.is_pruned)
    spent = _summed(costs)
    cost_usd = _known_usd(spent)
    return BuilderScore(
        category=visible(category, _NAME_LIMIT),
        model=visible(model, _NAME_LIMIT),
        attempts=tries,
        approved_attempts=approved,
        approval=wilson(approved, tries),
        first_try=wilson(_count(first, _is_approved), _count(first)),
        sample=_sample(tries, "attempt"),
        is_small_sample=tries < SMALL_SAMPLE,
        attempts_by_complexity={name: _count(judged, _is_of(name)) for name in COMPLEXITIES},
        interrupted_attempts=_count(endings, lambda one: one.ending == "interrupted"),
        unjudged_attempts=_count(endings, _is_unjudged),
        calls=spent.calls,
        unpriced_calls=spent.unpriced_calls,
        tokens=spent.tokens,
        cost_usd=cost_usd,
        counted_phases=counted,
        tokens_per_approved_phase=spent.tokens // counted if counted else None,
        cost_usd_per_approved_phase=cost_usd / counted if counted and cost_usd is not None else None,
    )


def _auditors(endings: Sequence[EndedAttempts], costs: Sequence[AttemptCosts]) -> tuple[AuditorScore, ...]:
    judged = _grouped(endings, lambda one: one.auditor_model if one.ending not in _UNDECIDED else None)
    spent = _grouped(costs, lambda one: one.model if one.role == "auditor" and one.ending not in _UNDECIDED else None)
    scores = (_auditor(model, judged.get(model, []), spent.get(model, [])) for model in judged.keys() | spent.keys())
    return tuple(sorted(scores, key=lambda one: (-one.verdicts, one.model)))


def _auditor(model: str, endings: Sequence[EndedAttempts], costs: Sequence[AttemptCosts]) -> AuditorScore:
    given = [one for one in endings if one.ending in _WITH_VERDICT]
    verdicts, rejected = _count(given), _count(given, lambda one: one.ending == "rejected")
    counted = _count(given, lambda one: not one.is_pruned)
    spent = _summed(costs)
    return AuditorScore(
        model=visible(model, _NAME_LIMIT),
        verdicts=verdicts,
        rejected=rejected,
        rejection=wilson(rejected, verdicts),
        unusable_verdicts=_count(endings, lambda one: one.ending == "no verdict"),
        sample=_sample(verdicts, "verdict"),
        is_small_sample=verdicts < SMALL_SAMPLE,
        calls=spent.calls,
        unpriced_calls=spent.unpriced_calls,
        tokens=spent.tokens,
        cost_usd=_known_usd(spent),
        tokens_per_verdict=spent.tokens // counted if counted else None,
    )


def _experiment(found: ExperimentCosts) -> ExperimentScore:
    spent = found.spent
    name = visible(found.model, _NAME_LIMIT)
    return ExperimentScore(name, spent.calls, spent.unpriced_calls, spent.tokens, _known_usd(spent))


# ── counting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _grouped(rows: Iterable[T], key: Callable[[T], K | None]) -> dict[K, list[T]]:
    """Rows by key, without those that have none."""
    groups: dict[K, list[T]] = {}
    for row in rows:
        name = key(row)
        if name is not None:
            groups.setdefault(name, []).append(row)
    return groups


def _count(rows: Iterable[EndedAttempts], which: Callable[[EndedAttempts], bool] = lambda one: True) -> int:
    return sum(row.attempts for row in rows if which(row))


def _summed(rows: Iterable[AttemptCosts]) -> CallCosts:
    return sum((row.spent for row in rows), CallCosts())


def _known_usd(spent: CallCosts) -> Decimal | None:
    return None if spent.calls and spent.unpriced_calls == spent.calls else usd(spent.cost_nano)


def _is_approved(one: EndedAttempts) -> bool:
    return one.ending == "approved"


def _is_unjudged(one: EndedAttempts) -> bool:
    return one.ending not in _JUDGED | _UNDECIDED


def _is_of(complexity: str) -> Callable[[EndedAttempts], bool]:
    return lambda one: one.complexity == complexity


def _sample(count: int, noun: str) -> str:
    counted = f"{count:,} {noun}{'' if count == 1 else 's'}"
    return f"small ({counted})" if count < SMALL_SAMPLE else counted
