"""What a plan would cost for real, from its rehearsal: tokens and dollars per phase and role, and the caps in its way.

It owns ``Estimate`` and every assumption in it, each of which says on what it rests. It buys nothing and starts
nothing; ``autopack-mcp rehearse`` shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from statistics import quantiles
from typing import Literal

from sqlalchemy import Connection

from autopack_mcp.budgets.call_rules import caps_of_run
from autopack_mcp.budgets.caps import CallScope, RunCaps, ScopeCap, own_caps_of_call, window_caps_of_call
from autopack_mcp.budgets.counters import scope_use
from autopack_mcp.config.settings import Settings
from autopack_mcp.money import usd
from autopack_mcp.runs.records import PhaseRecord
from autopack_mcp.runs.store import phases_of_run
from autopack_mcp.text_safety import visible
from autopack_mcp.usage.event import ReportedUsage, TokenCounts, UsageLine
from autopack_mcp.usage.history import PastAnswer, RehearsedCall, past_answers, rehearsed_calls
from autopack_mcp.usage.prices import PriceBook

Level = Literal["low", "typical", "high"]
LEVELS: tuple[Level, ...] = ("low", "typical", "high")
BYTES_PER_TOKEN: Mapping[Level, int] = {"low": 5, "typical": 4, "high": 3}  # Of code and English; 4 is usual.
ENOUGH_CALLS = 5  # Fewer answers of one's own say less than an assumption for everybody.
SMALL_SAMPLE = 20  # Below it an estimate says that its sample is small.
NAME_LIMIT = 120  # Characters of a phase's name.
# Without answers of one's own. A builder writes whole files or blocks, an auditor a verdict.
TYPICAL_OUTPUT: Mapping[str, tuple[int, int, int]] = {"builder": (500, 2_000, 8_000), "auditor": (100, 400, 1_500)}
HIGH_ATTEMPTS = 2  # The high figure lets every phase be tried twice; low and typical once.


_ASSUMED = (
    "Prompts are those of the rehearsal at {low}, {typical} and {high} bytes a token (low, typical, high).",
    "The prompt of an auditor holds the scripted change instead of the real one.",
    "Answers are as long as their basis says: of own answers the first tenth, the middle and the last tenth.",
    "A sample of fewer than {small} answers is small.",
    "Every phase is tried once, in the high case {attempts} times. No prompt is served from a cache.",
    "Models are those that the rehearsal was routed to; prices and what is used of each cap are those of now.",
    "A cap stops a call whose whole promise does not fit: all bytes of its prompt and its longest answer.",
)


@dataclass(frozen=True, slots=True)
class Span:
    """One figure three times."""

    low: int
    typical: int
    high: int


@dataclass(frozen=True, slots=True)
class CostSpan:
    """Dollars, or None where the model has no known price."""

    low: Decimal | None
    typical: Decimal | None
    high: Decimal | None


@dataclass(frozen=True, slots=True)
class RoleEstimate:
    """One role in one phase, or summed up. ``basis`` says on what the length of its answers rests."""

    phase_id: str
    phase_name: str
    role: str
    model: str
    provider: str
    prompt_tokens: Span
    completion_tokens: Span
    cost_usd: CostSpan
    basis: str


@dataclass(frozen=True, slots=True)
class CapInTheWay:
    """A cap and the phase in which a call would not fit any more, None where all fit; ``left`` is of now."""

    label: str
    unit: Literal["tokens", "usd"]
    allowance: Decimal
    left: Decimal
    low: str | None
    typical: str | None
    high: str | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A whole plan. ``caps`` has only those that are in the way in at least one of the three cases."""

    run_id: str
    roles: tuple[RoleEstimate, ...]
    tokens: Span
    cost_usd: CostSpan
    unpriced_models: tuple[str, ...]
    caps: tuple[CapInTheWay, ...]
    assumptions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of the real run in three cases; ``tokens`` and ``nano`` by level, and what is reserved for it."""

    asked: RehearsedCall
    tokens: Mapping[Level, int]
    nano: Mapping[Level, int]


def estimate_of(connection: Connection, run_id: str, settings: Settings, prices: PriceBook, now: datetime) -> Estimate:
    """What a rehearsed run would use if it were real. It should have gone through; what it never asked is not in it."""
    phases = {phase.phase_id: phase for phase in phases_of_run(connection, run_id)}
    asked = _first_of_each(rehearsed_calls(connection, run_id), phases)
    answers = past_answers(connection)
    roles = tuple(_role(call, phases[call.phase_id], answers, prices, now) for call in asked)
    calls = [_call(call, role) for call, role in zip(asked, roles, strict=True)]
    return Estimate(
        run_id=run_id,
        roles=roles,
        tokens=Span(*(sum(call.tokens[level] for call in calls) for level in LEVELS)),
        cost_usd=_cost_sum(roles),
        unpriced_models=tuple(sorted({role.model for role in roles if role.cost_usd.typical is None})),
        caps=tuple(_caps_in_the_way(connection, run_id, settings, calls, now)),
        assumptions=_assumptions(),
    )


def _first_of_each(calls: Sequence[RehearsedCall], phases: Mapping[str, PhaseRecord]) -> list[RehearsedCall]:
    """The first question of each role about each phase, as a run asks them; scripted rejections say nothing of it."""
    first: dict[tuple[str, str], RehearsedCall] = {}
    in_order = sorted(calls, key=lambda call: (phases[call.phase_id].phase_index, call.attempt, call.role != "builder"))
    for call in in_order:
        first.setdefault((call.phase_id, call.role), call)
    return list(first.values())


def _role(
    call: RehearsedCall, phase: PhaseRecord, answers: Sequence[PastAnswer], prices: PriceBook, now: datetime
) -> RoleEstimate:
    output, basis = _answer_length(call, phase, answers)
    prompt = {level: -(-call.bound_input // BYTES_PER_TOKEN[level]) for level in LEVELS}
    times = {"low": 1, "typical": 1, "high": HIGH_ATTEMPTS}
    counts = {
        level: TokenCounts(
            uncached_input=prompt[level] * times[level],
            output=min(getattr(output, level), call.bound_output) * times[level],
        )
        for level in LEVELS
    }
    return RoleEstimate(
        phase_id=visible(phase.phase_id, NAME_LIMIT),
        phase_name=visible(phase.name, NAME_LIMIT),
        role=call.role,
        model=call.model,
        provider=call.provider,
        prompt_tokens=Span(*(counts[level].total_input for level in LEVELS)),
        completion_tokens=Span(*(counts[level].output for level in LEVELS)),
        cost_usd=CostSpan(*(_cost(call, counts[level], prices, now) for level in LEVELS)),
        basis=basis,
    )


def _answer_length(call: RehearsedCall, phase: PhaseRecord, answers: Sequence[PastAnswer]) -> tuple[Span, str]:
    """How long answers are: one's own as alike as there are enough of, else what is assumed for everybody."""
    of_role = [answer for answer in answers if answer.role == call.role]
    of_category = [answer for answer in of_role if answer.category == phase.task_category]
    alike = [answer for answer in of_category if answer.complexity == phase.complexity]
    category = visible(phase.task_category, NAME_LIMIT)
    for found, what in (
        (alike, f"{category}, {phase.complexity}"),
        (of_category, category),
        (of_role, "any category"),
    ):
        if len(found) >= ENOUGH_CALLS:
            tenths = quantiles((answer.output for answer in found), n=10, method="inclusive")
            small = ", a small sample" if len(found) < SMALL_SAMPLE else ""
            span = Span(*(max(round(tenths[index]), 1) for index in (0, 4, 8)))
            return span, f"{len(found)} own answers ({call.role}, {what}{small})"
    return Span(*TYPICAL_OUTPUT[call.role]), f"assumed: only {len(of_role)} own answers ({call.role})"


def _cost(call: RehearsedCall, counts: TokenCounts, prices: PriceBook, now: datetime) -> Decimal | None:
    usage = ReportedUsage((UsageLine(call.model, counts),))
    price = prices.price_usage(call.provider, call.model, usage, now)
    return None if price is None else usd(price.cost_nano)


def _call(call: RehearsedCall, role: RoleEstimate) -> _Call:
    def nano(level: Level) -> int:
        cost: Decimal | None = getattr(role.cost_usd, level)
        return 0 if cost is None else int(cost * 1_000_000_000)

    tokens = {level: getattr(role.prompt_tokens, level) + getattr(role.completion_tokens, level) for level in LEVELS}
    return _Call(call, tokens, {level: nano(level) for level in LEVELS})


def _cost_sum(roles: Sequence[RoleEstimate]) -> CostSpan:
    def total(level: Level) -> Decimal | None:
        known = [cost for role in roles if (cost := getattr(role.cost_usd, level)) is not None]
        return sum(known, Decimal(0)) if known else None

    return CostSpan(*(total(level) for level in LEVELS))


def _caps_in_the_way(
    connection: Connection, run_id: str, settings: Settings, calls: Sequence[_Call], now: datetime
) -> Iterator[CapInTheWay]:
    caps: dict[str, tuple[ScopeCap, int, int, list[_Call]]] = {}
    for call in calls:
        for cap, used_tokens, used_nano in _caps_of(connection, run_id, settings, call.asked, now):
            caps.setdefault(cap.scope, (cap, used_tokens, used_nano, []))[3].append(call)
    for cap, used_tokens, used_nano, counted in caps.values():
        if cap.allowance_tokens is not None:
            stops = _stops(counted, cap.allowance_tokens - used_tokens, lambda call: call.tokens, _bound_tokens)
            if any(stops.values()):
                left = Decimal(cap.allowance_tokens - used_tokens)
                yield CapInTheWay(cap.label, "tokens", Decimal(cap.allowance_tokens), left, **stops)
        if cap.allowance_nano is not None:
            stops = _stops(counted, cap.allowance_nano - used_nano, lambda call: call.nano, _bound_nano)
            if any(stops.values()):
                left = usd(cap.allowance_nano - used_nano)
                yield CapInTheWay(cap.label, "usd", usd(cap.allowance_nano), left, **stops)


def _caps_of(
    connection: Connection, run_id: str, settings: Settings, call: RehearsedCall, now: datetime
) -> Iterator[tuple[ScopeCap, int, int]]:
    """The caps that the real call must fit, with what counts against each of them now."""
    shared = CallScope(call.provider, call.role, "run")
    for cap in window_caps_of_call(settings, shared, now):
        use = scope_use(connection, shared, cap, now)
        yield cap, use.settled_tokens + use.reserved_tokens, use.settled_nano + use.reserved_nano
    own = CallScope(call.provider, call.role, "run", run_id, call.phase_id)
    for cap in own_caps_of_call(own, caps_of_run(connection, run_id, call.phase_id) or RunCaps()):
        # Named after the rehearsal it would mislead: it is the real run's own, of which nothing is used yet.
        label = "the run's own cap" if cap.kind == "run" else f"the cap of phase {visible(call.phase_id, NAME_LIMIT)}"
        yield replace(cap, label=label), 0, 0


def _stops(
    calls: Sequence[_Call], left: int, weight: Callable[[_Call], Mapping[Level, int]], bound: Callable[[_Call], int]
) -> dict[Level, str | None]:
    """In which phase a call is denied, in each case: what is promised for it must fit beside what went before."""
    found: dict[Level, str | None] = {}
    for level in LEVELS:
        spent = 0
        found[level] = None
        for call in calls:
            if spent + max(bound(call), weight(call)[level]) > left:
                found[level] = visible(call.asked.phase_id, NAME_LIMIT)
                break
            spent += weight(call)[level]
    return found


def _bound_tokens(call: _Call) -> int:
    return call.asked.bound_input + call.asked.bound_output


def _bound_nano(call: _Call) -> int:
    return call.asked.bound_nano or 0


def _assumptions() -> tuple[str, ...]:
    low, typical, high = BYTES_PER_TOKEN.values()
    return tuple(
        sentence.format(low=low, typical=typical, high=high, small=SMALL_SAMPLE, attempts=HIGH_ATTEMPTS)
        for sentence in _ASSUMED
    )
