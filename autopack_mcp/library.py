"""The public names for people with their own loop: open with a database URL and a config path, call, close.

It only opens: every class here is the real one, wired by ``app``. ``LlmService`` is synchronous, as its users call it;
``AsyncLlmService`` is what the supervisor uses too (contract 1).
"""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from pathlib import Path
from threading import Event, Thread, current_thread
from types import TracebackType
from typing import Any, Never, ParamSpec, Self, TypeVar
from weakref import finalize

from sqlalchemy import Connection

from autopack_mcp import app, llm_service
from autopack_mcp.database.changes import ChangeWatch
from autopack_mcp.errors import RequestRefused
from autopack_mcp.experiments import PromptEdits, RetriedPrompt
from autopack_mcp.llm_service import AuditorResult, BuilderResult, Completion
from autopack_mcp.plans.plan import PhaseSpec
from autopack_mcp.providers.base import ChatMessage
from autopack_mcp.routing import model_router
from autopack_mcp.routing.model_router import RoutingSnapshot
from autopack_mcp.routing.snapshot import KeptSnapshots
from autopack_mcp.runs.rules import run_rules
from autopack_mcp.usage import recorder, service

P = ParamSpec("P")
T = TypeVar("T")


class AsyncLlmService(llm_service.AsyncLlmService):
    """Builder, auditor and agents, routed, capped and recorded. Use it as an async context manager, or ``aclose`` it.

    Args:
        db_url: a SQLAlchemy URL; without one, the database of AUTOPACK_HOME.
        config_path: a models.yaml; without one, that of AUTOPACK_HOME, else the packaged default.

    Raises:
        ConfigError, DatabaseError: one of them cannot be used.
    """

    def __init__(self, db_url: str | None = None, config_path: str | Path | None = None) -> None:
        self._autopack = app.open_checked(db_url=db_url, config_path=config_path)
        self._calls = app.call_door(self._autopack)
        self._experiments = app.experiments(self._autopack, self._calls)
        super().__init__(self._calls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def retry_prompt(
        self,
        call_id: str,
        *,
        model: str | None = None,
        replace: Sequence[tuple[str, str]] = (),
        append: str | None = None,
        max_output_tokens: int | None = None,
    ) -> RetriedPrompt:
        """Send the prompt of a recorded call again, with edits or as it was; see ``Experiments.retry_prompt``."""
        edits = PromptEdits(model, tuple(replace), append, max_output_tokens)
        return await self._experiments.retry_prompt(call_id, edits, author=_author(), client="library")

    async def aclose(self) -> None:
        """Give connections back; what was booked is booked."""
        await self._calls.close()
        await self._autopack.database.close()


class LlmService:
    """``AsyncLlmService`` for callers without an event loop; it runs its own in a thread. Close it, or use ``with``.

    Safe for threads. One that is forgotten is closed when nobody holds it any more, and keeps no program from ending.
    """

    def __init__(self, db_url: str | None = None, config_path: str | Path | None = None) -> None:
        self._service = AsyncLlmService(db_url, config_path)
        self._loop = _LoopThread()
        self._closing = finalize(self, _close, self._loop, self._service)
        # At the end of the program there is nothing to save: what was booked is on disk before its call returned.
        self._closing.atexit = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Interrupt calls in flight, give connections back and end the thread; safe to call twice."""
        self._closing()

    def execute_builder_phase(
        self,
        phase_spec: PhaseSpec | Mapping[str, Any],
        file_context: Mapping[str, Any],
        run_id: str | None = None,
        phase_id: str | None = None,
        run_context: Mapping[str, Any] | None = None,
        project_rules: str | None = None,
        run_hints: Sequence[str] | str | None = None,
    ) -> BuilderResult:
        """See ``llm_service.AsyncLlmService.execute_builder_phase``."""
        return self._loop.call(
            self._service.execute_builder_phase,
            phase_spec, file_context, run_id, phase_id, run_context, project_rules, run_hints,
        )  # fmt: skip

    def execute_auditor_review(
        self,
        patch_content: str,
        phase_spec: PhaseSpec | Mapping[str, Any],
        run_id: str | None = None,
        phase_id: str | None = None,
        run_context: Mapping[str, Any] | None = None,
        project_rules: str | None = None,
        verification_output: str | None = None,
    ) -> AuditorResult:
        """See ``llm_service.AsyncLlmService.execute_auditor_review``."""
        return self._loop.call(
            self._service.execute_auditor_review,
            patch_content, phase_spec, run_id, phase_id, run_context, project_rules, verification_output,
        )  # fmt: skip

    def complete(
        self,
        role: str,
        messages: Sequence[ChatMessage | Mapping[str, str]],
        run_id: str | None = None,
        phase_id: str | None = None,
        run_context: Mapping[str, Any] | None = None,
        task_category: str = "general",
        complexity: str = "medium",
        max_output_tokens: int = llm_service.AGENT_OUTPUT_TOKENS,
        **unbounded: Never,
    ) -> Completion:
        """See ``llm_service.AsyncLlmService.complete``."""
        return self._loop.call(
            self._service.complete,
            role, messages, run_id, phase_id, run_context, task_category, complexity, max_output_tokens, **unbounded,
        )  # fmt: skip

    def retry_prompt(
        self,
        call_id: str,
        *,
        model: str | None = None,
        replace: Sequence[tuple[str, str]] = (),
        append: str | None = None,
        max_output_tokens: int | None = None,
    ) -> RetriedPrompt:
        """See ``AsyncLlmService.retry_prompt``."""
        return self._loop.call(
            self._service.retry_prompt, call_id, model=model, replace=replace, append=append,
            max_output_tokens=max_output_tokens,
        )  # fmt: skip


class _LoopThread:
    """An event loop in a thread of its own; a daemon, so that a program which forgets it can still end."""

    def __init__(self) -> None:
        self._is_ready = Event()
        self._calls: set[asyncio.Task[Any]] = set()
        self._thread = Thread(target=self._run, name="autopack-llm-service", daemon=True)
        self._thread.start()
        self._is_ready.wait()

    def call(self, work: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``work`` returns, once it is done there. A caller who is interrupted interrupts the work."""
        if not self._thread.is_alive():
            raise RequestRefused("This LlmService is closed.", hint="Open a new one.")
        future = asyncio.run_coroutine_threadsafe(self._tracked(work, *args, **kwargs), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C: the call is cut and booked, not left running unseen.
            raise

    def end(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Interrupt what is running, wait until it has ended, do ``last`` and stop."""
        if current_thread() is self._thread:
            # Collected by chance in the loop's own thread, which cannot wait for itself.
            Thread(target=self.end, args=(last,), name="autopack-llm-service-end").start()
            return
        try:
            self.call(self._interrupted)
            self.call(last)
        finally:
            self._loop.call_soon_threadsafe(self._may_stop.set)
            self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        self._loop, self._may_stop = asyncio.get_running_loop(), asyncio.Event()
        self._is_ready.set()
        await self._may_stop.wait()

    async def _tracked(self, work: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        call = asyncio.current_task()
        assert call is not None, "a coroutine runs in a task"
        self._calls.add(call)
        try:
            return await work(*args, **kwargs)
        finally:
            self._calls.discard(call)

    async def _interrupted(self) -> None:
        running = self._calls - {asyncio.current_task()}
        for call in running:
            call.cancel()
        # Each books what it may have cost before it ends.
        await asyncio.gather(*running, return_exceptions=True)


def _author() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _close(loop: _LoopThread, service: AsyncLlmService) -> None:
    loop.end(service.aclose)


class ModelRouter(model_router.ModelRouter):
    """``select_model`` over a database and a config; a change of either is seen at the next question.

    Close it, or use ``with``. Safe for threads.
    """

    def __init__(self, db_url: str | None = None, config_path: str | Path | None = None) -> None:
        self._autopack = app.open_checked(db_url=db_url, config_path=config_path)
        self._reader = app.snapshot_reader(self._autopack)
        self._changes = ChangeWatch(self._autopack.database)
        self._kept = KeptSnapshots(self._read, self._version)
        super().__init__(lambda run_context: self._kept.get(run_context.get("run_id")))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Give connections back; safe to call twice."""
        self._changes.close()
        self._autopack.database.close_now()

    def _read(self, run_id: str | None) -> RoutingSnapshot:
        return self._autopack.database.read_now(self._read_in, run_id)

    def _read_in(self, connection: Connection, run_id: str | None) -> RoutingSnapshot:
        rules = run_rules(connection, run_id, self._autopack.clock.now()) if run_id else None
        return self._reader.read(connection, rules)

    def _version(self) -> Hashable:
        commits = self._changes.version()
        return None if commits is None else (commits, self._autopack.settings().digest, self._autopack.visible_keys())


class UsageRecorder(recorder.UsageRecorder):
    """``record_usage`` for calls that were made elsewhere. Close it, or use ``with``."""

    def __init__(self, db_url: str | None = None, config_path: str | Path | None = None) -> None:
        self._autopack = app.open_checked(db_url=db_url, config_path=config_path)
        books = app.usage_recorder(self._autopack)
        super().__init__(books.book, self._autopack.price_book)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Give connections back."""
        self._autopack.database.close_now()


class UsageService(service.UsageService):
    """Usage by provider and by model, from the ledger. Close it, or use ``with``."""

    def __init__(self, db_url: str | None = None, config_path: str | Path | None = None) -> None:
        self._autopack = app.open_checked(db_url=db_url, config_path=config_path)
        super().__init__(self._autopack.database, self._autopack.clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Give connections back."""
        self._autopack.database.close_now()
