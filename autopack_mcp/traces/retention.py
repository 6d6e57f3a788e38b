"""Deletes words and spans by age: words when a person no longer wants them kept, spans with the calls they tell of.

It deletes in short transactions, because calls go on meanwhile; killed in between, it goes on where it stopped. What a
call cost is nowhere here and stays. ``usage prune`` asks for it, and ``serve`` now and then for the words.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from autopack_mcp.database.engine import Database
from autopack_mcp.traces.spans import forget_some_spans, spans_before
from autopack_mcp.traces.texts import forget_some_words, words_before

PAUSE_S = 0.02  # Between two commits, so that other processes, which ask for the lock now and then, get it.


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How many calls lost their words, and how many spans went."""

    words: int = 0
    spans: int = 0


def words_cutoff(now: datetime, keep_days: int) -> datetime:
    """The moment before which words are too old to be kept."""
    return now - timedelta(days=keep_days)


def forgettable(connection: Connection, words_until: datetime, spans_until: datetime) -> Forgotten:
    """What would go, were everything before these moments deleted now."""
    return Forgotten(words_before(connection, words_until), spans_before(connection, spans_until))


def forget(
    database: Database,
    words_until: datetime,
    spans_until: datetime | None,
    pause: Callable[[float], object] = time.sleep,
) -> Forgotten:
    """Delete words, and spans too unless ``spans_until`` is None, that are older than these moments; for a thread."""
    words = _all(database, forget_some_words, words_until, pause)
    return Forgotten(words, 0 if spans_until is None else _all(database, forget_some_spans, spans_until, pause))


def _all(
    database: Database,
    forget_some: Callable[[Connection, datetime], int],
    before: datetime,
    pause: Callable[[float], object],
) -> int:
    gone = 0
    while (some := database.write_now(forget_some, before)) > 0:
        gone += some
        pause(PAUSE_S)
    return gone
