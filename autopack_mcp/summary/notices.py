"""What a person should know about the configuration, whatever they asked for: a file that cannot be used, in one line.

It owns that line. It reads no file itself: the settings in force carry what is wrong with the file that should have
taken their place. The summaries of runs and of usage hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autopack_mcp.config.settings import Settings
from autopack_mcp.errors import ConfigError, Problem
from autopack_mcp.text_safety import visible

NOTICE_LIMIT = 500  # Characters: a path, a line number and a sentence that may quote the file.


def config_notice(settings: Callable[[], Settings] | None) -> str:
    """Why the configuration cannot be used, with file and line; "" while it can, or where there is none to ask for."""
    if settings is None:
        return ""
    try:
        # Settings that carry errors are those from before: a file with an error of its own never came into force.
        return _in_words("The configuration cannot be used and the last good one stays in force", settings().warnings)
    except ConfigError as error:
        return _in_words("The configuration cannot be used", error.problems)


def _in_words(what: str, found: Sequence[Problem]) -> str:
    errors = [problem for problem in found if problem.severity == "error"]
    if not errors:
        return ""
    # What is missing stands on no line; what is wrong there is the better place to begin.
    first = min(errors, key=lambda problem: problem.line is None)
    more = len(errors) - 1
    rest = f" (and {more:,} more problem{'s' if more > 1 else ''})" if more else ""
    return visible(f"{what}: {first}{rest}", NOTICE_LIMIT)
