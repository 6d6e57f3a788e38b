"""Whether a call fits an allowance, and why not, in numbers a person can check.

Pure: the ledger asks it for each cap and each standing order of a call; what comes of a denial is the ledger's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from autopack_mcp.budgets.caps import ScopeCap
from autopack_mcp.budgets.counters import ScopeUse
from autopack_mcp.budgets.measures import Measure, amount, in_words, measures
from autopack_mcp.errors import Denial


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a call may weigh at most; ``nano_usd`` is None when the price of its model is unknown.

    ``is_rough``: whoever asks comes again with tighter bounds when these do not fit.
    """

    call_id: str
    model: str
    tokens: int
    nano_usd: int | None
    is_rough: bool = False


def denials_of(cap: ScopeCap, use: ScopeUse, call: Wanted) -> Iterator[Denial]:
    """One denial for each unit in which the call does not fit: ``used + wanted > allowance``."""
    for measure in measures(cap, use):
        wanted = call.tokens if measure.unit == "tokens" else call.nano_usd
        if wanted is None:
            # More than the whole allowance, so that nobody waits for calls in flight.
            yield replace(_denial(cap, measure, measure.allowance + 1, _unpriced(call.model)), is_unpriced=True)
        elif measure.used + wanted > measure.allowance:
            yield _denial(cap, measure, wanted, _does_not_fit(measure, wanted))


def denials_at(cap: ScopeCap, use: ScopeUse) -> Iterator[Denial]:
    """The same for a call that does not count on this counter: denied as soon as the allowance is reached."""
    for measure in measures(cap, use):
        if measure.used >= measure.allowance:
            yield _denial(cap, measure, 1, f"{amount(measure.unit, measure.used)} are used.")


def _denial(cap: ScopeCap, measure: Measure, wanted: int, why: str) -> Denial:
    return Denial(
        scope=cap.scope,
        unit=measure.unit,
        used=measure.used,
        in_flight=measure.in_flight,
        wanted=wanted,
        allowance=measure.allowance,
        resets_at=cap.resets_at,
        why=f"{in_words(cap, measure)}: {why}",
    )


def _unpriced(model: str) -> str:
    return f"the price of {model!r} is unknown, so nothing can be promised. Give it a price: in models.yaml."


def _does_not_fit(measure: Measure, wanted: int) -> str:
    unit = measure.unit
    in_flight = f" ({amount(unit, measure.in_flight)} of it by calls in flight)" if measure.in_flight else ""
    return f"{amount(unit, measure.used)} are used{in_flight} and this call may need {amount(unit, wanted)}."
