"""Reads a stream event without trusting it: what is missing or of another type reads as empty.

It owns nothing but that tolerance, because compatible servers leave out and null what the vendors always send; it
raises nothing and decides nothing. The SDK adapters and the translation of errors use it.
"""

from __future__ import annotations

from collections.abc import Mapping

from autopack_mcp.text_safety import whole
from autopack_mcp.usage.reading import NAME_LIMIT, JsonObject


def text_in(event: JsonObject, name: str) -> str:
    """The text under ``name``, or ""."""
    value = event.get(name)
    return value if isinstance(value, str) else ""


def name_in(event: JsonObject, name: str) -> str:
    """A name (of an answer, of a model) that any store can hold, or ""; a longer one than any vendor gives is cut."""
    return whole(text_in(event, name))[:NAME_LIMIT]


def object_in(event: JsonObject, name: str) -> JsonObject:
    """The object under ``name``, or an empty one."""
    value = event.get(name)
    return value if isinstance(value, Mapping) else {}


def objects_in(event: JsonObject, name: str) -> list[JsonObject]:
    """The objects of the list under ``name``; what is no object is left out."""
    value = event.get(name)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
