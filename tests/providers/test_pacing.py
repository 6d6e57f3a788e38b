"""When a request is tried again, and after how long."""

from __future__ import annotations

import asyncio

import pytest

from autopack_mcp.errors import ProviderError, ProviderRateLimited, ProviderRefused, ProviderUnavailable, UnusableReply
from autopack_mcp.providers.pacing import RETRY_AFTER_LIMIT_S, RetryPolicy, retried

pytestmark = pytest.mark.anyio

POLICY = RetryPolicy(tries_limit=4, first_delay_s=1, delay_limit_s=3, retry_after_limit_s=60)


def limited(retry_after_s: float | None = None) -> ProviderRateLimited:
    return ProviderRateLimited("slow down", provider="acme", retry_after_s=retry_after_s)


def unavailable(retry_after_s: float | None = None) -> ProviderUnavailable:
    return ProviderUnavailable("oops", provider="acme", retry_after_s=retry_after_s)


REFUSED = ProviderRefused("no", provider="acme", status=401)


@pytest.mark.parametrize(
    "tries, jitter, delay",
    [
        (1, 0.0, 0.5),
        (1, 1.0, 1.0),
        (2, 0.0, 1.0),
        (2, 1.0, 2.0),
        (3, 1.0, 3.0),
        (3, 0.0, 1.5),
        (4, 0.0, None),
        (5, 0.0, None),
    ],
)
def test_backoff_doubles_up_to_its_limit_and_ends(tries: int, jitter: float, delay: float | None) -> None:
    assert POLICY.delay_s(tries, unavailable(), jitter=jitter) == delay


@pytest.mark.parametrize(
    "wish, delay",
    [(None, 0.75), (0.0, 0.75), (30.0, 31.5), (RETRY_AFTER_LIMIT_S, 63.0), (RETRY_AFTER_LIMIT_S + 0.1, None)],
)
@pytest.mark.parametrize("kind", [limited, unavailable])
def test_wish_of_the_provider_is_honoured_up_to_a_bound(kind, wish: float | None, delay: float | None) -> None:
    assert POLICY.delay_s(1, kind(wish), jitter=0.5) == delay


@pytest.mark.parametrize(
    "error",
    [REFUSED, ProviderError("?", provider="acme"), UnusableReply("prose"), ValueError(), asyncio.CancelledError()],
)
def test_what_waiting_cannot_help_is_never_tried_again(error: BaseException) -> None:
    assert POLICY.delay_s(1, error) is None


@pytest.mark.parametrize("bounds", [{"tries_limit": 0}, {"first_delay_s": -1}, {"retry_after_limit_s": -1}])
def test_impossible_bounds_are_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="impossible"):
        RetryPolicy(**bounds)


async def test_loop_waits_between_tries_and_returns_the_first_success() -> None:
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    async def try_once(number: int) -> str:
        if number < 3:
            raise limited(10.0 * number)
        return f"try {number}"

    assert await retried(try_once, POLICY, wait=wait, draw=lambda: 0.0) == "try 3"
    assert waited == [10.0, 20.0]


@pytest.mark.parametrize("error, tries", [(unavailable(), 4), (REFUSED, 1), (limited(3600), 1)])
async def test_loop_gives_up_with_the_last_error(error: ProviderError, tries: int) -> None:
    numbers: list[int] = []

    async def wait(_: float) -> None:
        pass

    async def try_once(number: int) -> str:
        numbers.append(number)
        raise error

    with pytest.raises(type(error)) as caught:
        await retried(try_once, POLICY, wait=wait)

    assert caught.value is error
    assert numbers == list(range(1, tries + 1))
