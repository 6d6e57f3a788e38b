"""Whether attempts at a phase go round in circles: the same failure again and again, or the same change.

Pure: it compares what attempts left behind and knows no run. ``outcomes`` asks it when an attempt was not kept. That
nothing happens for a while is no repetition: a slow phase is not a stuck one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from autopack_mcp.runs.records import AttemptRecord

SAME_LIMIT = 3  # So often the same is a circle (docs/runs.md, "Stuck"): twice may be chance.

# What differs from try to try although nothing else does, in the order in which it is taken out.
_PASSING = (
    (re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]"), ""),  # Colours of a terminal.
    (re.compile(r"(?:/private)?/(?:tmp|var/tmp|var/folders|dev/shm)/[^\s'\":,;)\]]*"), "<temporary>"),
    (re.compile(r"\b0x[0-9A-Fa-f]+\b"), "<id>"),
    (re.compile(r"\b[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\b"), "<id>"),
    # A hash, or the random name of a request: long, and with a digit in it, which hardly any word has.
    (re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{7,}\b"), "<id>"),
    (re.compile(r"\b(?=[A-Za-z_]*\d)\w{16,}\b"), "<id>"),
    (re.compile(r"\d+(?:[.,:]\d+)*\s?(?:ns|µs|us|ms|s|sec|secs|seconds?|min|mins|minutes?)\b"), "<time>"),
    (re.compile(r"\d+(?:[.,:]\d+)*"), "<n>"),
    (re.compile(r"\s+"), " "),
)


def lasting(reason: str) -> str:
    """The part of a failure's words that the same failure has again: without times, numbers, ids, temporary paths."""
    for pattern, word in _PASSING:
        reason = pattern.sub(word, reason)
    return reason.strip()


def repetition(attempts: Sequence[AttemptRecord]) -> str | None:
    """What the newest attempt has repeated for the third time at least, in words; None when it is new in some way.

    Args:
        attempts: at one phase, none of them kept, the newest last.
    """
    newest = attempts[-1]
    same_failure = sum(lasting(attempt.reason) == lasting(newest.reason) for attempt in attempts)
    if same_failure >= SAME_LIMIT:
        return f"{same_failure} attempts failed in the same way"
    same_change = sum(attempt.tree == newest.tree for attempt in attempts)
    if newest.tree is not None and same_change >= SAME_LIMIT:
        return f"{same_change} attempts brought the same change"
    return None
