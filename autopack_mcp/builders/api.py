"""The builder that asks a model through the API: it answers with edits and never touches the workspace itself.

``app`` makes one for the supervisor; what it asks goes through the one door for paid tokens, which also scripts the
answers of a rehearsal.
"""

from __future__ import annotations

from autopack_mcp.builders.base import BuildJob, Built
from autopack_mcp.llm_service import AsyncLlmService


class ApiBuilder:
    """Asks the model that the router names for whole files or search/replace blocks."""

    def __init__(self, service: AsyncLlmService) -> None:
        self._service = service

    async def prepare(self, job: BuildJob) -> None:
        """No session: every attempt is one question."""

    async def build(self, job: BuildJob) -> Built:
        """See ``Builder.build``."""
        built = await self._service.ask_builder(job.phase, job.files, job.account, job.hints, job.repair)
        summary = built.reply.summary if built.reply else ""
        decision = built.answer.decision
        # Edits that may be mended are no error yet: whoever applies them sees what is wrong with them.
        error = None if built.is_misfit else built.error
        return Built(built.answer.text, summary, decision.model, decision.reasons, error)
