"""The public names for people with their own loop: open with a database URL and a config path, call, close.

It only opens: every class here is the real one, wired by ``app``. ``LlmService`` is synchronous, as its users call it;
``AsyncLlmService`` is what the supervisor uses too (contract 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from anyio.from_thread import start_blocking_portal

from autopack_mcp import app, llm_service
from autopack_mcp.llm_service import AuditorResult, BuilderResult, Completion
from autopack_mcp.plan import PhaseSpec
from autopack_mcp.providers.base import ChatMessage
from autopack_mcp.routing import model_router
from autopack_mcp.routing.model_router import RouteDecision
from autopack_mcp.runs.rules import run_rules
from autopack_mcp.usage import recorder, service


class AsyncLlmService(llm_service.AsyncLlmService):
    """Builder, auditor and agents, routed, capped and recorded. Use it as an async context manager, or ``aclose`` it.

    Args:
        db_url: a SQLAlchemy URL; without one, the database of AUTOPACK_HOME.
        config_path: a models.yaml; without one, that of AUTOPACK_HOME, else the packaged default.

    Raises:
        ConfigError, DatabaseError: one of them cannot be used.
    """

    def __init__(self, db_url: str | None = None, config_path: str | Path | None = None) -> None:
        self._autopack = app.open_autopack(db_url=db_url, config_path=config_path)
        self._calls = app.call_door(self._autopack)
        super().__init__(self._calls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give connections back; what was booked is booked."""
        await self._calls.close()
        await self._autopack.database.close()


class LlmService:
    """``AsyncLlmService`` for callers without an event loop; it runs its own in a thread. Close it, or use ``with``."""

    def __init__(self, db_url: str | None = None, config_path: str | Path | None = None) -> None:
        self._portal_context = start_blocking_portal("asyncio")
        self._portal = self._portal_context.__enter__()
        try:
            self._service = self._portal.call(AsyncLlmService, db_url, config_path)
        except BaseException:
            self._portal_context.__exit__(None, None, None)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give connections back and end the thread."""
        self._portal.call(self._service.aclose)
        self._portal_context.__exit__(None, None, None)

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
        return self._portal.call(
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
        verification_output: str = "",
    ) -> AuditorResult:
        """See ``llm_service.AsyncLlmService.execute_auditor_review``."""
        return self._portal.call(
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
    ) -> Completion:
        """See ``llm_service.AsyncLlmService.complete``."""
        return self._portal.call(
            self._service.complete,
            role, messages, run_id, phase_id, run_context, task_category, complexity, max_output_tokens,
        )  # fmt: skip


class ModelRouter(model_router.ModelRouter):
    """``select_model`` over a database and a config, read afresh for each question. Close it, or use ``with``."""

    def __init__(self, db_url: str | None = None, config_path: str | Path | None = None) -> None:
        self._autopack = app.open_autopack(db_url=db_url, config_path=config_path)
        self._reader = app.snapshot_reader(self._autopack)
        super().__init__(self._read)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Give connections back."""
        self._autopack.database.close_now()

    def select_model(
        self,
        role: str,
        task_category: str = "general",
        complexity: str = "medium",
        run_context: Mapping[str, Any] | None = None,
    ) -> RouteDecision:
        """See ``routing.model_router.ModelRouter.select_model``."""
        return super().select_model(role, task_category, complexity, run_context)

    def _read(self, run_context: Mapping[str, Any]) -> model_router.RoutingSnapshot:
        database, now = self._autopack.database, self._autopack.clock.now()
        run_id = run_context.get("run_id")
        rules = database.read_now(run_rules, run_id, now) if run_id else None
        return database.read_now(self._reader.read, rules)


class UsageRecorder(recorder.UsageRecorder):
    """``record_usage`` for calls that were made elsewhere. Close it, or use ``with``."""

    def __init__(self, db_url: str | None = None, config_path: str | Path | None = None) -> None:
        self._autopack = app.open_autopack(db_url=db_url, config_path=config_path)
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
        self._autopack = app.open_autopack(db_url=db_url, config_path=config_path)
        super().__init__(self._autopack.database, self._autopack.clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Give connections back."""
        self._autopack.database.close_now()
