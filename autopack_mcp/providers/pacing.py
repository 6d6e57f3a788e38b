"""Whether to try a request again, and how long to wait before.

It owns the bounds of retrying as a pure decision and a small loop around it; it reserves nothing, books nothing and
sends nothing. ``llm_service`` asks it between two tries, because each try is a reservation and a row of its own: that
is also why a retry library, whose loop hides the tries, would not make this smaller.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from autopack_mcp.errors import ProviderError, ProviderRateLimited, ProviderUnavailable

TRIES_LIMIT = (
    4  # One request and three repeats: with the delays below at most about 10 s of patience without Retry-After.
)
FIRST_DELAY_S = 1.0
DELAY_LIMIT_S = 20.0
RETRY_AFTER_LIMIT_S = 60.0  # A longer wish is a quota, not a hiccup: better to fall back or to pause than to sit there.

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Bounds of retrying one request. Delays in seconds; ``tries_limit`` counts the first try.

    Raises:
        ValueError: a bound that would mean "never try" or "wait backwards".
    """

    tries_limit: int = TRIES_LIMIT
    first_delay_s: float = FIRST_DELAY_S
    delay_limit_s: float = DELAY_LIMIT_S
    retry_after_limit_s: float = RETRY_AFTER_LIMIT_S

    def __post_init__(self) -> None:
        if self.tries_limit < 1 or min(self.first_delay_s, self.delay_limit_s, self.retry_after_limit_s) < 0:
            raise ValueError(f"impossible retry bounds: {self!r}")

    def delay_s(self, tries: int, error: BaseException, *, jitter: float = 0.5) -> float | None:
        """Seconds to wait before the next try, or None when there must be none.

        Args:
            tries: how many were made so far, the failed one included; 1 or more.
            error: why the last one failed. Only a ProviderError that calls itself retryable is tried again.
            jitter: a number in [0, 1) from the caller's random source, so that callers that failed together do not come
                back together. It moves a backoff between half and all of its step, and a Retry-After up by a tenth.
        """
        if tries >= self.tries_limit or not isinstance(error, ProviderError) or not error.retryable:
            return None
        wish = error.retry_after_s if isinstance(error, (ProviderRateLimited, ProviderUnavailable)) else None
        if wish is not None and wish > self.retry_after_limit_s:
            return None
        step = min(self.first_delay_s * 2.0 ** (tries - 1), self.delay_limit_s)
        backoff = step * (0.5 + jitter / 2)
        return backoff if wish is None else max(backoff, wish * (1 + jitter / 10))


async def retried(
    try_once: Callable[[int], Awaitable[T]],
    policy: RetryPolicy,
    *,
    wait: Callable[[float], Awaitable[object]] = asyncio.sleep,
    draw: Callable[[], float] = random.random,
) -> T:
    """The result of the first try that succeeds.

    Args:
        try_once: makes try number 1, 2, …; it does its own reserving and settling.
        policy: when to give up.
        wait: waits that many seconds.
        draw: the random source of the jitter.

    Raises:
        ProviderError: of the last try, unchanged. Anything that is not retryable comes through at once.
    """
    tries = 0
    while True:
        tries += 1
        try:
            return await try_once(tries)
        except ProviderError as error:
            delay = policy.delay_s(tries, error, jitter=draw())
            if delay is None:
                raise
        await wait(delay)
