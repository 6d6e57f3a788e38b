"""A run as a block of Markdown to paste into any chat: where it stands, what it asks, what it has cost.

Pure: it words a RunSummary and reads nothing. Words that others wrote (plans, models, notes) can neither leave their
place in the Markdown nor pass for instructions. The tools, the page and the command line hand it out.
"""

from __future__ import annotations

from autopack_mcp.summary.run import RunSummary


def context_block(run: RunSummary) -> str:
    """Markdown of a few dozen lines: run id, state, tier and phase, percent, last summary, plan, questions, cost."""
    raise NotImplementedError
