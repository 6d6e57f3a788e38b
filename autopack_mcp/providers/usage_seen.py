"""What a stream has said that it used, and whether that is its last word.

It owns the difference between the truth about a call and a lower bound of it: a usage that came before the answer
ended, or before one that cannot be read, is only the latter. The SDK adapters feed it and book nothing themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

from autopack_mcp.providers.base import CallObservation
from autopack_mcp.usage.event import ReportedUsage
from autopack_mcp.usage.reading import JsonObject, UsageApi, read_own_usage, read_usage


@dataclass(slots=True)
class UsageSeen:
    """The usage of one stream; it keeps the observation of its call current.

    It is mutable on purpose: servers may tell usage with every piece, and only the last one counts.
    """

    api: UsageApi
    observation: CallObservation
    _is_last_word: bool = False

    def take(self, body: JsonObject, *, is_last_word: bool = True) -> None:
        """Read a usage that has arrived; zeros say nothing, and what cannot be read takes the last word from another.

        ``is_last_word`` is false for what a stream tells before its answer, which may only know the input.
        """
        usage = read_own_usage(self.api, body)
        if usage is not None:
            self.observation.usage = usage
            self._is_last_word = is_last_word
        elif read_usage(self.api, body) is None:
            self._is_last_word = False

    def goes_on(self) -> None:
        """A piece of the answer has arrived, so whatever was told before was not all of it."""
        self._is_last_word = False

    def final(self) -> ReportedUsage | None:
        """The truth about the call, None when the stream did not tell it; the observation then has a lower bound."""
        return self.observation.usage if self._is_last_word else None
