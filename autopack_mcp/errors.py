"""Every error the product raises on purpose, as one tree.

    AutopackError(code, hint)
    ├── ConfigError(problems)              all problems of models.yaml reported together
    ├── PlanError(problems)                all problems of a plan reported together
    ├── RunError
    │   ├── RunNotFound(run_id)
    │   ├── IllegalTransition(state, event)
    │   ├── RequestRefused(why)            the person's request does not fit the run
    │   ├── LeaseLost(run_id)              someone else owns this run now: stop writing
    │   ├── WorkspaceError(detail)         git refused, or the repository is not what the plan says
    │   └── SupervisorUnavailable(why)
    ├── RoutingError
    │   ├── NoRoute(role, category, complexity)
    │   ├── OverrideRefused(why)
    │   ├── QuotaExhausted(denial)
    │   └── StandingOrderFired(denial)
    ├── ProviderError(provider, model, request_id, retryable)
    │   ├── ProviderRateLimited(retry_after_s) · ProviderUnavailable
    │   ├── ProviderRefused(status)        auth, bad request, policy: not retryable
    │   └── MissingKey(api_key_env)
    ├── UnusableReply(reason)              paid for, could not be used: still recorded
    │   └── EditMisfit(misfits)            edits that can be read, but do not fit the files as they are
    ├── UsageError
    │   ├── ImpossibleTokenCounts(parent, child)
    │   ├── UsageConflict(call_id)         same call, different numbers: be loud
    │   ├── UsageTooOld(call_id, events_from)
    │   └── UnknownCall(call_id)
    └── DatabaseError
        ├── SchemaTooNew(found, supported)
        ├── DatabaseBusy(waited_s)
        └── DatabaseUnusable(detail)       read-only folder, disk full, not a database

Each carries a stable ``code`` (for programs), the facts as attributes, and a ``hint`` that tells a person what to do
next. They are raised where the fact is known and caught at four places only: the supervisor, the tool boundary, the
page and the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a file a person wrote: where it is, what it is, and whether it stops us."""

    message: str
    file: str = ""
    line: int | None = None
    where: str = ""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        subject = f"{self.where}: {self.message}" if self.where else self.message
        return f"{place}: {self.severity}: {subject}" if place else f"{self.severity}: {subject}"


class AutopackError(Exception):
    """Base of every deliberate error; ``str()`` is one sentence, ``hint`` is what to do about it."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class _ProblemsError(AutopackError):
    def __init__(self, problems: tuple[Problem, ...], *, hint: str = "") -> None:
        super().__init__("\n".join(map(str, problems)), hint=hint)
        self.problems = problems


class ConfigError(_ProblemsError):
    """models.yaml cannot be used; ``problems`` has every reason, each with file and line."""

    code = "config_invalid"


class PlanError(_ProblemsError):
    """A plan cannot be started; ``problems`` has every reason, each with file and line. Nothing was started."""

    code = "plan_invalid"


class RunError(AutopackError):
    """Something about a run."""

    code = "run_error"


class RunNotFound(RunError):
    """No run has this id; ``known`` lists the newest ids that exist."""

    code = "run_not_found"

    def __init__(self, run_id: str, known: tuple[str, ...] = ()) -> None:
        exists = f"Known runs, newest first: {', '.join(known)}." if known else "There are no runs yet."
        super().__init__(f"No run {run_id!r}.", hint=exists)
        self.run_id = run_id
        self.known = known


class IllegalTransition(RunError):
    """The state machine has no such move; ``allowed`` names the events that the state does accept."""

    code = "illegal_transition"

    def __init__(self, state: str, event: str, allowed: tuple[str, ...] = ()) -> None:
        may = f"Allowed now: {', '.join(allowed)}." if allowed else "Nothing can be asked of it any more."
        super().__init__(f"{event!r} is not possible while the run is {state!r}.", hint=may)
        self.state = state
        self.event = event
        self.allowed = allowed


class RequestRefused(RunError):
    """A person's request cannot be carried out as asked."""

    code = "request_refused"


class LeaseLost(RunError):
    """Another process owns this run now; whoever gets this must stop writing at once."""

    code = "lease_lost"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"The lease on run {run_id!r} is held by another process.")
        self.run_id = run_id


class WorkspaceError(RunError):
    """Git refused, or the repository is not what the plan says it is."""

    code = "workspace_error"


class SupervisorUnavailable(RunError):
    """No supervisor is alive and none could be started."""

    code = "supervisor_unavailable"


class RoutingError(AutopackError):
    """No model can be chosen, or a choice cannot be made as asked."""

    code = "routing_error"


class NoRoute(RoutingError):
    """Nothing configured answers for this role, category and complexity."""

    code = "no_route"

    def __init__(self, role: str, category: str, complexity: str, why: str) -> None:
        super().__init__(
            f"No model for role {role!r}, category {category!r}, complexity {complexity!r}: {why}",
            hint="Set one in models.yaml or with an override.",
        )
        self.role = role
        self.category = category
        self.complexity = complexity


class OverrideRefused(RoutingError):
    """An override names something that does not exist or may not be changed."""

    code = "override_refused"


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a reservation did not fit: the one scope that said no, in numbers.

    ``unit`` says what the numbers count: tokens, or integer nano-dollars. ``in_flight`` is the part of ``used`` that is
    only reserved: when it alone explains the denial, waiting may help (contract 16). ``order_id`` is set when it was
    not a cap but a standing order that said no; ``is_unpriced`` when no allowance would help, because the price of the
    model is unknown.
    """

    scope: str
    unit: Literal["tokens", "nano_usd"]
    used: int
    in_flight: int
    wanted: int
    allowance: int
    resets_at: datetime | None
    why: str
    order_id: int | None = None
    is_unpriced: bool = False

    @property
    def is_due_to_calls_in_flight(self) -> bool:
        """True when the call would fit if every call in flight turned out to be free."""
        return self.used - self.in_flight + self.wanted <= self.allowance


class QuotaExhausted(RoutingError):
    """A cap denies the call; nothing was bought and nothing was booked."""

    code = "quota_exhausted"

    def __init__(self, denial: Denial) -> None:
        resets = f" It resets at {denial.resets_at:%Y-%m-%d %H:%M} UTC." if denial.resets_at else ""
        # A cap without a window is a run's or a phase's: no other provider helps it, and no time.
        hint = "Raise the cap, wait for the reset, or choose another provider." if resets else "Raise the cap to go on."
        super().__init__(denial.why + resets, hint=hint)
        self.denial = denial


class StandingOrderFired(RoutingError):
    """A standing order denies the call and asks for its run to stop; nothing was bought and nothing was booked."""

    code = "standing_order_fired"

    def __init__(self, denial: Denial) -> None:
        super().__init__(denial.why, hint="Resume the run to go on all the same, or remove the standing order.")
        self.denial = denial


class ProviderError(AutopackError):
    """A provider did not give an answer.

    ``billed`` says what is known about money: "no" only when the request provably never reached generation.
    """

    code = "provider_error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        provider: str,
        model: str = "",
        request_id: str | None = None,
        billed: Literal["no", "unknown"] = "unknown",
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.provider = provider
        self.model = model
        self.request_id = request_id
        self.billed = billed


class ProviderRateLimited(ProviderError):
    """The provider answered 429; ``retry_after_s`` is its own wish, None when it named none."""

    code = "provider_rate_limited"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        provider: str,
        model: str = "",
        request_id: str | None = None,
        billed: Literal["no", "unknown"] = "no",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, provider=provider, model=model, request_id=request_id, billed=billed)
        self.retry_after_s = retry_after_s


class ProviderUnavailable(ProviderError):
    """A 5xx, a dropped connection, a deadline: the same request may succeed later."""

    code = "provider_unavailable"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        provider: str,
        model: str = "",
        request_id: str | None = None,
        billed: Literal["no", "unknown"] = "unknown",
        retry_after_s: float | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, provider=provider, model=model, request_id=request_id, billed=billed, hint=hint)
        self.retry_after_s = retry_after_s


class ProviderRefused(ProviderError):
    """Auth, bad request, policy: asking again changes nothing. ``status`` is the HTTP status."""

    code = "provider_refused"

    def __init__(
        self,
        message: str,
        *,
        provider: str,
        model: str = "",
        request_id: str | None = None,
        status: int,
        billed: Literal["no", "unknown"] = "no",
        hint: str = "",
    ) -> None:
        super().__init__(message, provider=provider, model=model, request_id=request_id, billed=billed, hint=hint)
        self.status = status


class MissingKey(ProviderError):
    """The environment has no key for this provider; ``api_key_env`` is the variable to set.

    ``also`` are further variables that are needed and not set.
    """

    code = "missing_key"

    def __init__(self, provider: str, api_key_env: str, *, where: str = "", also: Sequence[str] = ()) -> None:
        line = f"{api_key_env}=…"
        further = f" Missing as well: {', '.join(also)}." if also else ""
        super().__init__(
            f"No API key for provider {provider!r}: the variable {api_key_env} is not set"
            f"{f' in {where}' if where else ''}.",
            provider=provider,
            billed="no",
            hint=f"Set {api_key_env} there, or put the line {line} into AUTOPACK_HOME/env (mode 0600).{further}",
        )
        self.api_key_env = api_key_env


class UnusableReply(AutopackError):
    """A model's answer was paid for and recorded, but cannot be used; ``reason`` is fed back to the next attempt."""

    code = "unusable_reply"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Lines of a file as they are: ``text``, of which the first is line ``first_line``, counted from 1."""

    first_line: int
    text: str


@dataclass(frozen=True, slots=True)
class Misfit:
    """One part of a change that has no place in its file: why, the part as it was written, and what stands there."""

    path: str
    why: str
    refused: str
    excerpts: tuple[Excerpt, ...] = ()


class EditMisfit(UnusableReply):
    """Edits that can be read but do not fit the files; who sees ``misfits`` may well write ones that do."""

    code = "edit_misfit"

    def __init__(self, misfits: tuple[Misfit, ...]) -> None:
        super().__init__("\n".join(misfit.why for misfit in misfits))
        self.misfits = misfits


class UsageError(AutopackError):
    """The ledger refuses a booking."""

    code = "usage_error"


class ImpossibleTokenCounts(UsageError):
    """A part is larger than its whole, or negative: ``parent`` and ``child`` are (name, count)."""

    code = "impossible_token_counts"

    def __init__(self, parent: tuple[str, int], child: tuple[str, int]) -> None:
        super().__init__(f"{child[0]} = {child[1]} does not fit into {parent[0]} = {parent[1]}.")
        self.parent = parent
        self.child = child


class UsageConflict(UsageError):
    """The same call was booked before with other numbers; the first booking stands."""

    code = "usage_conflict"

    def __init__(self, call_id: str, detail: str) -> None:
        super().__init__(f"Call {call_id!r} is already booked with other numbers: {detail}.")
        self.call_id = call_id


class UsageTooOld(UsageError):
    """A call made elsewhere is from a time whose events were deleted by age, so it may have been counted already."""

    code = "usage_too_old"

    def __init__(self, call_id: str, events_from: datetime) -> None:
        super().__init__(
            f"Call {call_id!r} is from before {events_from:%Y-%m-%d}, and older events were deleted by age.",
            hint="Leave it out: whether it was counted before, nobody can say any more.",
        )
        self.call_id = call_id
        self.events_from = events_from


class UnknownCall(UsageError):
    """A settle or release names a call that was never reserved."""

    code = "unknown_call"

    def __init__(self, call_id: str) -> None:
        super().__init__(
            f"Call {call_id!r} was never reserved.", hint="Book a call made elsewhere with UsageRecorder.record_usage."
        )
        self.call_id = call_id


class DatabaseError(AutopackError):
    """The database cannot be used as it is."""

    code = "database_error"


class SchemaTooNew(DatabaseError):
    """A newer version of this program has written the database."""

    code = "schema_too_new"

    def __init__(self, found: str, supported: str) -> None:
        super().__init__(
            f"The database has schema {found!r}, this program knows up to {supported!r}.",
            hint="Install the newer autopack-mcp, or point AUTOPACK_HOME at another folder. Nothing was changed.",
        )
        self.found = found
        self.supported = supported


class DatabaseBusy(DatabaseError):
    """Another process kept the database locked for longer than we wait."""

    code = "database_busy"

    def __init__(self, waited_s: float) -> None:
        super().__init__(
            f"The database stayed locked for {waited_s:.0f} s.",
            hint="Find the process that holds it (autopack-mcp status names the supervisor) and try again.",
        )
        self.waited_s = waited_s


class DatabaseUnusable(DatabaseError):
    """The folder is read-only, the disk is full, or the file is not a database."""

    code = "database_unusable"
