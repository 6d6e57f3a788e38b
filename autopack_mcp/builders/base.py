"""Who writes a change: the protocol of a builder, the job that it gets and the answer that it gives.

There are two kinds, and one protocol. One answers a question with edits and never touches a file; the other opens a
session and edits files in the workspace itself, and git says afterwards what it changed. Neither verifies or commits,
books its own session or knows of states. The executor is the only caller; docs/builders.md draws both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from autopack_mcp.llm_service import PhaseAccount
from autopack_mcp.plans.plan import PhaseSpec
from autopack_mcp.prompts import Repair
from autopack_mcp.usage.event import ReportedUsage


@dataclass(frozen=True, slots=True)
class BuildJob:
    """One attempt at a phase: what to do, and why earlier attempts were not kept.

    ``files`` are shown only to a builder that opens no session; another one finds them in ``workspace``, which is its
    working folder. ``session_id`` is the session that an earlier process of ours opened for this very attempt.
    ``repair`` is a reply of this very attempt whose edits do not fit, for a builder that answers with edits to mend.
    ``traceparent`` is for the environment of what it starts: its place in the run's trace (W3C Trace Context).
    """

    phase: PhaseSpec
    account: PhaseAccount
    workspace: Path
    files: Mapping[str, str] = field(default_factory=dict)
    hints: Sequence[str] = ()
    session_id: str | None = None
    is_rehearsal: bool = False
    traceparent: str | None = None
    repair: Repair | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """Leave to work inside the workspace: under what name, on whose account, and how much at most.

    The bounds are reserved before the session runs, like those of any call, and charged in full when nobody can say
    afterwards what it used. ``timeout_s`` is when it is ended.
    """

    session_id: str
    provider: str
    model: str
    bound_input_tokens: int
    bound_output_tokens: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Built:
    """A builder's answer; ``error`` says why it holds no change, and it was paid for all the same.

    ``reply`` is the raw text from which the edits can be read again after a crash; a builder with a session leaves it
    empty. ``usage`` is what a session spent, None when that is unknown; what was asked through our own door is booked
    already, and no part of it.
    """

    reply: str
    summary: str
    model: str
    reasons: tuple[str, ...]
    error: str | None = None
    usage: ReportedUsage | None = None


class Builder(Protocol):
    """Writes one change. Cancelling the task that awaits it stops it at once; what it cost is booked all the same."""

    async def prepare(self, job: BuildJob) -> Session | None:
        """Open a session, or take up ``job.session_id`` again; None from a builder that answers with edits.

        It buys nothing and touches no file. The id is stored before ``build`` is called, so after a crash it comes back
        here; a builder that has lost that session answers with another id, and the attempt is given up.

        Raises:
            UnusableReply: this attempt cannot be made; the next one may.
        """
        ...

    async def build(self, job: BuildJob) -> Built:
        """The change for one attempt: as a reply, or made in ``job.workspace`` by the session ``job.session_id``.

        A session that a crash or a pause interrupted finds the files as it left them. When this ends, however it ends,
        nothing that it started may still be running.

        Raises:
            QuotaExhausted: a cap denies it; nothing was spent. RoutingError, ProviderError: nobody could be asked.
            UnusableReply: no change came of it.
        """
        ...
