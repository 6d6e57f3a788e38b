"""Steer autonomous LLM build runs from the chat you already have open.

The path, which is also the order of the folders:

    plan YAML → run → tier → phase → router → reservation → provider call → usage event → rollup → summary → tool / page

    plans          read what is wanted             routing     chooses a model, with reasons
    runs           moves it, phase by phase        budgets     reserves before a call, settles after it
    llm_service    asks builder and auditor        providers   talk to the vendors
    replies        read what came back             usage       reads, prices and sums what was spent
    summary        says how it stands              mcp_server, status_page, cli   show it; control acts
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autopack_mcp.library import AsyncLlmService, LlmService, ModelRouter, UsageRecorder, UsageService

__version__ = "0.1.0"
__all__ = ["AsyncLlmService", "LlmService", "ModelRouter", "UsageRecorder", "UsageService", "__version__"]


def __getattr__(name: str) -> Any:
    # Lazy on purpose: the command line imports this package and must start without the library (docs/architecture.md).
    if name in __all__:
        from autopack_mcp import library

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
