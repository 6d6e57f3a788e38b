"""The words of a call as rows: prompt and reply, without secrets, compressed, kept for some days.

It owns how words are packed and found again; it counts nothing, for numbers live with the event of the call. The door
for paid tokens packs and writes them in the transaction that books the call; experiments and the command line read.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import import_module
from typing import Any

from sqlalchemy import Connection, Dialect, delete, func, select

from autopack_mcp.clock import to_us
from autopack_mcp.database.bare import BareStatement
from autopack_mcp.database.tables import call_texts
from autopack_mcp.traces.redaction import redacted

log = logging.getLogger(__name__)

LEVEL = 1  # zlib's fastest: 200 KB of code take 2 ms and a third of the room; the best level takes three times as long.
TEXTS_PER_COMMIT = 200  # Some MB; nobody who books a call waits long for such a deletion.
CALLS_NAMED = 5  # How many ids an error names: enough to find the one that was meant.


@dataclass(frozen=True, slots=True)
class Words:
    """What was said in a call: the messages of the prompt as (role, content), and the reply as far as there is one."""

    messages: tuple[tuple[str, str], ...]
    max_output_tokens: int
    reply: str | None = None
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class PackedWords:
    """The same without secrets, compressed; ``redactions`` is how many were taken out of both."""

    request: bytes
    reply: bytes | None
    redactions: int


@dataclass(frozen=True, slots=True)
class KeptCall:
    """The words of one call as they are kept, and whose they are. ``words`` hold marks where secrets stood."""

    call_id: str
    run_id: str | None
    phase_id: str | None
    role: str
    model: str
    words: Words
    redactions: int
    stored_at: datetime


class WordKeeper:
    """Packs the words of calls while the settings say that they are kept.

    Args:
        is_wanted: whether words are kept now.
        known_secrets: keys of this process by the name of their variable; they never enter a row.
    """

    def __init__(self, is_wanted: Callable[[], bool], known_secrets: Callable[[], Mapping[str, str]]) -> None:
        self._is_wanted = is_wanted
        self._known_secrets = known_secrets

    def packed(self, words: Callable[[], Words]) -> PackedWords | None:
        """What to write down of a call, None when nothing is to be kept; then ``words`` is not asked."""
        if not self._is_wanted():
            return None
        try:
            return pack(words(), self._known_secrets())
        except Exception:  # Whatever goes wrong with words: a paid call must be booked, with them or without.
            log.exception("the words of a call could not be kept")
            return None


def pack(words: Words, known_secrets: Mapping[str, str]) -> PackedWords:
    """Words without their secrets, compressed."""
    count = 0

    def clean(text: str) -> str:
        nonlocal count
        found = redacted(text, known_secrets)
        count += found.count
        return found.text

    messages = [[role, clean(content)] for role, content in words.messages]
    request = _squeezed({"messages": messages, "max_output_tokens": words.max_output_tokens})
    reply = None
    if words.reply is not None:
        reply = _squeezed({"text": clean(words.reply), "finish_reason": words.finish_reason})
    return PackedWords(request, reply, count)


def unpack(request: bytes, reply: bytes | None) -> Words:
    """The words that ``pack`` has packed."""
    asked = json.loads(zlib.decompress(request))
    said = {} if reply is None else json.loads(zlib.decompress(reply))
    messages = tuple((role, content) for role, content in asked["messages"])
    return Words(messages, asked["max_output_tokens"], said.get("text"), said.get("finish_reason"))


def _squeezed(value: Mapping[str, Any]) -> bytes:
    return zlib.compress(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"), LEVEL)


def _insert(dialect: Dialect) -> Any:
    # By name: only the dialect in use is loaded, and each has an insert of its own that can take a conflict.
    return import_module(f"sqlalchemy.dialects.{dialect.name}").insert(call_texts)


# Words never stand in the way of a booking, not even those that stand there already.
_KEEP = BareStatement(lambda dialect: _insert(dialect).on_conflict_do_nothing())


def write_words(
    connection: Connection,
    packed: PackedWords,
    *,
    call_id: str,
    run_id: str | None,
    phase_id: str | None,
    role: str,
    model: str,
    at: datetime,
) -> None:
    """Keep the words of a call; those that are kept already stay."""
    row = {
        "call_id": call_id,
        "run_id": run_id,
        "phase_id": phase_id,
        "role": role,
        "model": model,
        "request": packed.request,
        "reply": packed.reply,
        "redactions": packed.redactions,
        "stored_at": to_us(at),
    }
    _KEEP.run(connection, row)


def kept_call(connection: Connection, call_id: str) -> KeptCall | None:
    """The words of a call; None when they were never kept, or have gone."""
    row = connection.execute(select(call_texts).where(call_texts.c.call_id == call_id)).mappings().first()
    if row is None:
        return None
    facts = {name: row[name] for name in _facts()}
    return KeptCall(words=unpack(row["request"], row["reply"]), **facts)


@cache
def _facts() -> tuple[str, ...]:
    return tuple(name for name in KeptCall.__dataclass_fields__ if name != "words")


def newest_kept(connection: Connection, limit: int = CALLS_NAMED) -> tuple[str, ...]:
    """The calls whose words were kept last, newest first."""
    found = select(call_texts.c.call_id).order_by(call_texts.c.stored_at.desc(), call_texts.c.call_id).limit(limit)
    return tuple(connection.execute(found).scalars())


def words_before(connection: Connection, before: datetime) -> int:
    """How many calls have words that are older than this moment."""
    old = select(func.count()).select_from(call_texts).where(call_texts.c.stored_at < before)
    return int(connection.execute(old).scalar_one())


def forget_some_words(connection: Connection, before: datetime) -> int:
    """Delete words that are older than this moment, ``TEXTS_PER_COMMIT`` at most; returns how many."""
    old = select(call_texts.c.call_id).where(call_texts.c.stored_at < before).limit(TEXTS_PER_COMMIT)
    calls: Sequence[str] = connection.execute(old).scalars().all()
    if not calls:
        return 0
    return connection.execute(delete(call_texts).where(call_texts.c.call_id.in_(calls))).rowcount
