"""What has stopped a run: a cap of its own, a cap that it shares with others, or a standing order.

It owns what a run keeps of that (``runs.stopped_by``): the denied call in numbers, from its denial or its firing. Each
move of a run forgets it. What a person is told to do about a stop, and the answer to one who raises a cap, go by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from autopack_mcp.budgets.counter_names import CounterName, read_counter_name
from autopack_mcp.budgets.measures import Unit
from autopack_mcp.errors import Denial
from autopack_mcp.runs.records import RunRecord


@dataclass(frozen=True, slots=True)
class CapStop:
    """A run's own cap that denied a call. ``needed`` is the least total of it, in ``unit``, that lets the call through.

    ``wanted`` is the part of that which the denied call alone may need; ``phase_id`` is set when it was the cap of a
    phase.
    """

    run_id: str
    unit: Unit
    needed: int
    wanted: int = 0
    phase_id: str | None = None

    @property
    def whose(self) -> str:
        """The cap in a sentence: "the cap of run r-1"."""
        owner = f"run {self.run_id}" if self.phase_id is None else f"phase {self.phase_id} of run {self.run_id}"
        return f"the cap of {owner}"


@dataclass(frozen=True, slots=True)
class SharedCapStop:
    """A cap of an account, of a role or of all calls that denied a call, which may need ``wanted`` in ``unit``.

    Nobody raises it for one run: a person changes models.yaml, or it resets at ``resets_at``.
    """

    counter: CounterName
    unit: Unit
    wanted: int
    resets_at: datetime


@dataclass(frozen=True, slots=True)
class OrderStop:
    """A standing order that stopped a run. ``wanted`` is what the denied call may need in ``unit``; None when unknown.

    It is unknown where the call was none of the run's own steps.
    """

    order_id: int
    unit: Unit | None = None
    wanted: int | None = None


def facts_of(denial: Denial | None) -> dict[str, Any] | None:
    """What a run keeps of the denial that stops it; None where no larger allowance would help."""
    if denial is None or (denial.is_unpriced and denial.order_id is None):
        return None
    facts: dict[str, Any] = {"scope": denial.scope, "unit": denial.unit, "needed": denial.used + denial.wanted}
    facts["wanted"] = denial.wanted
    return facts if denial.order_id is None else {**facts, "order_id": denial.order_id}


def facts_of_order(order_id: int, kept: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What a run keeps of an order that stops it: ``kept``, when that is of the call that the order denied."""
    return kept if kept is not None and kept.get("order_id") == order_id else {"order_id": order_id}


def cap_stop(run: RunRecord) -> CapStop | None:
    """The own cap that has stopped a run; None for a run that is not stopped, or was by something else."""
    if run.state != "budget_paused" or run.stopped_by is None:
        return None
    facts: Mapping[str, Any] = run.stopped_by
    counter = _counter(facts)
    if counter is None or counter.kind not in ("run", "phase") or counter.call.run_id != run.run_id:
        return None
    return CapStop(run.run_id, facts["unit"], facts["needed"], facts.get("wanted", 0), counter.call.phase_id)


def shared_cap_stop(run: RunRecord) -> SharedCapStop | None:
    """The cap that others share which has stopped a run; None for a run that something else, or nothing, stopped."""
    if run.state != "budget_paused" or run.stopped_by is None:
        return None
    facts: Mapping[str, Any] = run.stopped_by
    counter = _counter(facts)
    if counter is None or counter.span is None:
        return None
    return SharedCapStop(counter, facts["unit"], facts.get("wanted", 0), counter.span.end)


def order_stop(run: RunRecord) -> OrderStop | None:
    """The standing order by which a run stands where it does; None when it was something else."""
    facts = run.stopped_by
    if facts is None or "order_id" not in facts:
        return None
    return OrderStop(facts["order_id"], facts.get("unit"), facts.get("wanted"))


def rounded_up(count: int) -> int:
    """An amount for a person to say: up to two figures, so never less than it was."""
    step: int = 10 ** max(0, len(str(count)) - 2)
    return -(-count // step) * step


def _counter(facts: Mapping[str, Any]) -> CounterName | None:
    return read_counter_name(facts["scope"]) if "scope" in facts else None
