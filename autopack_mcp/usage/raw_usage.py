"""The usage object of a provider as it is kept beside the numbers that were read from it.

It owns how much of one is kept, so that a hostile object can neither fill the disk nor be refused by a database; it
reads no number. ``reading`` keeps what providers send, ``recorder`` what is reported from elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

from autopack_mcp.text_safety import whole

# A vendor's object has some 30 numbers, three deep.
DEPTH_LIMIT = 8
ITEMS_LIMIT = 1_000  # In all of it.
TEXT_LIMIT = 1_000  # Characters of one text or key in it.


def kept_usage(usage: Mapping[str, object]) -> dict[str, object]:
    """A copy of ``usage``, without what lies beyond the limits.

    Texts are whole (``text_safety.whole``). A number that JSON has no word for, such as NaN, becomes a text, because
    PostgreSQL refuses a document with one.
    """
    return _Copy().of_object(usage, 0)


@dataclass(slots=True)
class _Copy:
    """One copy while it is being made; it counts what there is still room for."""

    items_left: int = ITEMS_LIMIT

    def of_object(self, value: Mapping[str, object], depth: int) -> dict[str, object]:
        kept: dict[str, object] = {}
        for name, item in value.items():
            if not self._has_room(depth):
                break
            kept[_text(name)] = self._of(item, depth + 1)
        return kept

    def _of(self, value: object, depth: int) -> object:
        if isinstance(value, Mapping):
            return self.of_object(value, depth)
        if isinstance(value, (list, tuple)):
            return [self._of(item, depth + 1) for item in value if self._has_room(depth)]
        if isinstance(value, float):
            return value if isfinite(value) else str(value)
        return value if value is None or isinstance(value, (bool, int)) else _text(value)

    def _has_room(self, depth: int) -> bool:
        self.items_left -= 1
        return depth < DEPTH_LIMIT and self.items_left >= 0


def _text(value: object) -> str:
    return whole(str(value))[:TEXT_LIMIT]
