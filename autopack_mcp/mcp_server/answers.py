"""What a tool hands back: one JSON object that opens with a sentence, small enough for any chat.

It owns the size of a result and its two renderings; what an answer says is each tool's. Clients differ: some hand a
model only the structured content, others only the text, so both carry the whole answer (docs/mcp.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TypeAlias, TypeVar

from mcp.types import CallToolResult, TextContent

from autopack_mcp.summary.shown import Plain
from autopack_mcp.text_safety import visible

T = TypeVar("T")
Answer: TypeAlias = "dict[str, Plain]"

CUT_BYTES = 3  # Of the "…" that stands for what was cut.
RESULT_BYTES = 8_000  # Both renderings together, as UTF-8 JSON: what one call may cost a connection and a context.


def result_of(answer: Answer) -> CallToolResult:
    """An answer in both renderings."""
    return CallToolResult(content=[TextContent(type="text", text=_text(answer))], structured_content=answer)


def result_bytes(answer: Answer) -> int:
    """How much JSON the two renderings of an answer are, in bytes."""
    text = _text(answer)
    return len(text.encode()) + json_bytes(text)


def json_bytes(text: str) -> int:
    """Bytes of a text as a JSON string."""
    return len(json.dumps(text, ensure_ascii=False).encode())


def first_that_fits(build: Callable[[T], Answer], rooms: Iterable[T]) -> Answer:
    """The answer built for the first of ``rooms`` (widest first) that is no larger than ``RESULT_BYTES``.

    The last one is taken as it is: it must be narrow enough for anything.
    """
    answer: Answer = {}
    for room in rooms:
        answer = build(room)
        if result_bytes(answer) <= RESULT_BYTES:
            break
    return answer


def how_many_fit(build: Callable[[int], Answer], most: int) -> int:
    """The largest count up to ``most`` for which the answer is no larger than ``RESULT_BYTES``; 0 when none is."""
    if result_bytes(build(most)) <= RESULT_BYTES:
        return most
    fitting = 0
    while fitting + 1 < most:
        middle = (fitting + most) // 2
        if result_bytes(build(middle)) <= RESULT_BYTES:
            fitting = middle
        else:
            most = middle
    return fitting


def short(text: str, room: int, *, multiline: bool = False) -> str:
    """Somebody's words, every hidden character shown, cut so that they take ``room`` bytes of JSON.

    They stand on one line unless they may have lines.
    """
    shown = visible(text, room, multiline=multiline)
    if json_bytes(shown) - 2 <= room:
        return shown
    used = kept = 0
    for kept, character in enumerate(shown):  # noqa: B007  The number of characters before the one that is too much.
        # Nothing else needs an escape in JSON: control characters are visible text by now.
        used += 2 if character in '"\\\n\t' else len(character.encode())
        if used > room - CUT_BYTES:
            break
    # One character longer, so that it is cut as well where only its last one is too much.
    return visible(f"{shown}…", kept + 1, multiline=multiline)


def known(**fields: Plain) -> Answer:
    """Only the fields that say something: one that is absent reads like null, none or zero, and costs nothing."""
    return {name: value for name, value in fields.items() if value}


def numbered(count: int, noun: str) -> str:
    """``1 phase``, ``3 phases``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _text(answer: Answer) -> str:
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
