"""Who asks for something, and through what.

It owns nothing else; whoever asks names one, and it is stored with every request, note and override.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks, and through what: both are stored with every request, note and override."""

    author: str
    client: str
