"""A builder's session in the workspace: paid for like any call, and its change taken by git.

It owns the promise before a session runs, the row that it becomes, and the way from changed files to edits under the
rules that hold for every builder. It writes no state and starts no process; the executor is its only caller.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from autopack_mcp.budgets.caps import CallScope
from autopack_mcp.budgets.ledger import Ledger, Reservation
from autopack_mcp.builders.base import Builder, BuildJob, Built, Session
from autopack_mcp.calls import LEASE_MARGIN_S, LOOK_AGAIN_S, LOOKS_LIMIT
from autopack_mcp.clock import Clock
from autopack_mcp.errors import Denial, ProviderError, QuotaExhausted, StandingOrderFired, UnusableReply, WorkspaceError
from autopack_mcp.replies.edited import FILE_LIMIT_BYTES
from autopack_mcp.replies.edits import FILES_LIMIT, DeleteFile, WholeFile, parse_edits, render_edits
from autopack_mcp.replies.path_rules import check_allowed, check_path
from autopack_mcp.text_safety import visible
from autopack_mcp.tries import ERROR_SHOWN_CHARS
from autopack_mcp.usage.event import Purpose, Status, TokenCounts, UsageEvent, UsageSource
from autopack_mcp.usage.prices import PriceBook
from autopack_mcp.workspace.clone import Workspace
from autopack_mcp.workspace.files import read_file
from autopack_mcp.workspace.git import Git

_MARK = "autopack-session"  # A file in .git that says whose half-done work the checkout holds.
_INDEX = "autopack-session-index"  # Git looks at the session's work with an index of its own.
_PLAIN_MODES = ("100644", "100755")


class SessionBooks:
    """Runs sessions that are promised their tokens. Give every part by name; ``wait`` waits that many seconds."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        clock: Clock,
        price_book: Callable[[], PriceBook],
        wait: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._price_book = price_book
        self._wait = wait

    async def run(self, builder: Builder, job: BuildJob, session: Session) -> Built:
        """Let a builder work in its session: promised before it starts, booked however it ends.

        A session that reports no usage is charged its whole promise and booked as estimated, never as nothing.

        Raises:
            QuotaExhausted, StandingOrderFired: denied; it was not started. LeaseLost: the run is somebody else's.
            UnusableReply: it took too long. Whatever ``Builder.build`` raises.
        """
        promise = self._promise(job, session)
        await self._reserve(promise, job)
        try:
            async with asyncio.timeout(session.timeout_s) as deadline:
                built = await builder.build(job)
        except BaseException as error:
            await self._book_ended(promise, error)
            if isinstance(error, TimeoutError) and deadline.expired():
                raise UnusableReply(f"the session ran into its deadline of {session.timeout_s:g} s") from error
            raise
        await self._ledger.settle(self._event_of(promise, built))
        return built

    def _promise(self, job: BuildJob, session: Session) -> Reservation:
        account = job.account
        purpose: Purpose = "rehearsal" if job.is_rehearsal else "run"
        account_of = (session.provider, session.model)
        bounds = (session.bound_input_tokens, session.bound_output_tokens)
        return Reservation(
            call_id=f"c-{secrets.token_hex(8)}",
            scope=CallScope(session.provider, "builder", purpose, account.run_id, job.phase.phase_id),
            model=session.model,
            bound_input=bounds[0],
            bound_output=bounds[1],
            bound_nano=self._price_book().upper_bound_nano(*account_of, *bounds, self._clock.now()),
            lease_s=session.timeout_s + LEASE_MARGIN_S,
            attempt=account.attempt,
            category=job.phase.task_category,
        )

    async def _reserve(self, promise: Reservation, job: BuildJob) -> None:
        """The promise, after waiting for calls in flight if need be (contract 16)."""
        for looks_left in reversed(range(LOOKS_LIMIT)):
            answer = await self._ledger.reserve(promise, job.account.fence, will_wait=looks_left > 0)
            if not isinstance(answer, Denial):
                return
            if looks_left == 0 or not answer.is_due_to_calls_in_flight:
                raise StandingOrderFired(answer) if answer.order_id is not None else QuotaExhausted(answer)
            await self._wait(LOOK_AGAIN_S)

    async def _book_ended(self, promise: Reservation, error: BaseException) -> None:
        if isinstance(error, ProviderError) and error.billed == "no":
            await self._ledger.release(promise.call_id)
            return
        is_cancelled = isinstance(error, asyncio.CancelledError)
        said = "interrupted" if is_cancelled else f"{type(error).__name__}: {error}"
        await self._ledger.settle(self._unknown(promise, "cut" if is_cancelled else "failed", said))

    def _event_of(self, promise: Reservation, built: Built) -> UsageEvent:
        usage = built.usage
        if usage is None:
            return self._unknown(promise, "ok", "the builder reported no usage; its whole promise is charged")
        price = self._price_book().price_usage(promise.scope.provider, promise.model, usage, self._clock.now())
        return replace(
            self._event(promise, "ok", "provider", usage.counts),
            cost_nano=price.cost_nano if price else None,
            price_version=price.version if price else None,
            tool_calls=usage.tool_calls,
            raw_usage=usage.raw,
            lines=usage.lines,
        )

    def _unknown(self, promise: Reservation, status: Status, why: str) -> UsageEvent:
        counts = TokenCounts(uncached_input=promise.bound_input, output=promise.bound_output)
        event = self._event(promise, status, "estimated", counts)
        return replace(event, cost_nano=promise.bound_nano, error=visible(why, ERROR_SHOWN_CHARS))

    def _event(self, promise: Reservation, status: Status, source: UsageSource, counts: TokenCounts) -> UsageEvent:
        scope = promise.scope
        return UsageEvent(
            call_id=promise.call_id,
            provider=scope.provider,
            model=promise.model,
            role=scope.role,
            purpose=scope.purpose,
            status=status,
            usage_source=source,
            counts=counts,
            occurred_at=self._clock.now(),  # The ledger puts it where it was reserved.
            run_id=scope.run_id,
            phase_id=scope.phase_id,
            attempt=promise.attempt,
            category=promise.category,
        )


async def make_room(workspace: Workspace, parent: str, session_id: str) -> None:
    """The checkout as this session left it, or clean at ``parent`` when it never worked here.

    Raises:
        WorkspaceError: git refused.
    """
    mark = workspace.path / ".git" / _MARK
    if mark.is_file() and mark.read_text() == session_id:
        return
    await workspace.reset(parent)
    mark.write_text(session_id)


async def taken_change(workspace: Workspace, parent: str, allowed_paths: tuple[str, ...], summary: str) -> str:
    """What the files of the workspace have become since ``parent``, as a reply that ``parse_edits`` reads.

    What git ignores is no part of it, whatever the session committed or staged itself is. The rules are those of every
    builder: paths, allowed paths, no links, texts only, the limits of a reply; file modes stay as they are.

    Raises:
        UnusableReply: a change breaks a rule, or there is none; the reason is for the next attempt.
        WorkspaceError: git refused.
    """
    changes, tree = await _changes_since(workspace, parent)
    edits = [_edit(workspace.path, change, allowed_paths) for change in changes]
    if not edits:
        raise UnusableReply("the builder changed no file")
    reply = render_edits(edits, summary)
    # Now as any other reply: what cannot be applied again to the same commit could not be kept after a crash.
    await workspace.reset(parent)
    if (await workspace.apply(parse_edits(reply).edits, allowed_paths)).tree != tree:
        raise UnusableReply("the change cannot be taken exactly: line endings of existing files stay as they are")
    return reply


async def _changes_since(workspace: Workspace, parent: str) -> tuple[list[tuple[str, str, str]], str]:
    """Old mode, new mode and path of each changed file, and the tree that they make."""
    git = Git(workspace.path / ".git", work_tree=workspace.path, label=workspace.run_id)
    index = workspace.path / ".git" / _INDEX
    index.unlink(missing_ok=True)
    own_index = {"GIT_INDEX_FILE": str(index)}
    await git.run("read-tree", parent, environ=own_index)
    await git.run("add", "--all", environ=own_index)
    tree = (await git.run("write-tree", environ=own_index)).strip()
    listing = await git.run("diff-tree", "-r", "-z", "--no-renames", "--raw", parent, tree)
    words = listing.split("\0")[:-1]
    if len(words) // 2 > FILES_LIMIT:
        raise UnusableReply(f"{len(words) // 2} files were changed; at most {FILES_LIMIT} are taken at once.")
    facts = (word.removeprefix(":").split() for word in words[::2])
    return [(fact[0], fact[1], path) for fact, path in zip(facts, words[1::2], strict=True)], tree


def _edit(root: Path, change: tuple[str, str, str], allowed_paths: tuple[str, ...]) -> WholeFile | DeleteFile:
    old_mode, new_mode, path = change
    check_path(path)
    check_allowed(path, allowed_paths)
    if new_mode == "000000":
        return DeleteFile(path)
    shown = repr(visible(path, 200))
    if new_mode not in _PLAIN_MODES:
        raise UnusableReply(f"{shown} became a link or a repository of its own; only plain files are taken.")
    if new_mode != (old_mode if old_mode in _PLAIN_MODES else "100644"):
        raise UnusableReply(f"The mode of {shown} was changed; files keep theirs, and new ones are not executable.")
    content = read_file(root, path, FILE_LIMIT_BYTES)
    if content is None:
        raise WorkspaceError(f"{shown} disappeared while it was read.", hint="Something still writes there; end it.")
    return WholeFile(path, _text(shown, content))


def _text(shown: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise UnusableReply(f"{shown} is a binary file or not UTF-8; it can only be deleted.") from None
