"""Who writes a change: the protocol of a builder, the job that it gets and the answer that it gives.

A builder never verifies or commits, and knows nothing of states. The executor is its only caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from autopack_mcp.llm_service import PhaseAccount
from autopack_mcp.plans.plan import PhaseSpec


@dataclass(frozen=True, slots=True)
class BuildJob:
    """One attempt at a phase: what to do, what the files look like now, and why earlier attempts were not kept."""

    phase: PhaseSpec
    files: Mapping[str, str]
    account: PhaseAccount
    hints: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Built:
    """A builder's answer. ``reply`` is its raw text, from which the edits can be read again after a crash.

    ``error`` says why the reply holds no edits; it was paid for all the same.
    """

    reply: str
    summary: str
    model: str
    reasons: tuple[str, ...]
    error: str | None = None


class Builder(Protocol):
    """Writes one change. Cancelling the task that awaits it stops it at once; what it cost is booked all the same."""

    async def build(self, job: BuildJob) -> Built:
        """The change for one attempt.

        Raises:
            QuotaExhausted: a cap denies it; nothing was spent. RoutingError, ProviderError: nobody could be asked.
        """
        ...
