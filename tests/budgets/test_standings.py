"""Standings: how far a cap is used, to the token, in tokens and in dollars, for real and for rehearsed calls."""

from __future__ import annotations

from decimal import Decimal

import pytest

from autopack_mcp.budgets.counters import ScopeUse
from autopack_mcp.budgets.ledger import book_external, reserve
from autopack_mcp.budgets.standings import CapStanding, ProviderStanding, provider_standings
from autopack_mcp.config.settings import WindowCap
from autopack_mcp.database.engine import Database
from tests.factories import (
    NOON,
    call_scope,
    held_against,
    provider_settings,
    reservation,
    settings,
    usage_event,
    window_cap,
)


def standing(
    use: ScopeUse, *, tokens: int | None = None, nano_usd: int | None = None, ratio: str = "0.8"
) -> CapStanding:
    return CapStanding(window_cap(tokens=tokens, nano_usd=nano_usd), use, Decimal(ratio))


@pytest.mark.parametrize("unit", ["tokens", "nano_usd"])
@pytest.mark.parametrize(
    "settled, reserved, is_over_soft, is_exhausted",
    [
        pytest.param(799, 0, False, False, id="soft limit - 1"),
        pytest.param(800, 0, True, False, id="soft limit"),
        pytest.param(801, 0, True, False, id="soft limit + 1"),
        pytest.param(300, 500, True, False, id="soft limit by calls in flight"),
        pytest.param(999, 0, True, False, id="cap - 1"),
        pytest.param(400, 600, True, True, id="cap"),
        pytest.param(1_001, 0, True, True, id="cap + 1"),
    ],
)
def test_limits_are_reached_at_the_very_token(
    unit: str, settled: int, reserved: int, is_over_soft: bool, is_exhausted: bool
) -> None:
    in_tokens, in_dollars = ScopeUse(settled, reserved), ScopeUse(0, 0, settled, reserved)
    found = standing(in_tokens, tokens=1_000) if unit == "tokens" else standing(in_dollars, nano_usd=1_000)
    assert (found.is_over_soft, found.is_exhausted) == (is_over_soft, is_exhausted)
    assert found.used_fraction == (settled + reserved) / 1_000


@pytest.mark.parametrize("used, is_over", [(0, False), (2, False), (3, True)])
def test_a_soft_limit_that_is_no_whole_number_is_reached_above_it(used: int, is_over: bool) -> None:
    assert standing(ScopeUse(used), ratio="0.7", tokens=3).is_over_soft == is_over  # 2.1 tokens


def test_the_larger_share_of_tokens_and_dollars_counts() -> None:
    found = standing(ScopeUse(100, 0, 900, 0), tokens=1_000, nano_usd=1_000)
    assert (found.used_fraction, found.is_over_soft, found.is_over_soft_tokens) == (0.9, True, False)


def test_an_allowance_of_nothing_is_used_up() -> None:
    found = standing(ScopeUse(), tokens=0)
    assert (found.used_fraction, found.is_exhausted) == (1.0, True)


def test_an_account_tells_its_fullest_cap_over_the_soft_limit_and_its_first_used_up_one() -> None:
    full, fuller, half = (standing(ScopeUse(used), tokens=1_000) for used in (1_000, 1_500, 500))
    account = ProviderStanding("openai", None, (half, full, fuller))
    assert (account.soft_cap, account.exhausted_cap) == (fuller, full)
    calm = ProviderStanding("openai", None, (half,))
    assert (calm.soft_cap, calm.exhausted_cap) == (None, None)


def test_every_configured_account_is_read_with_what_is_settled_and_reserved(database: Database) -> None:
    config = settings(provider_settings(WindowCap("week", tokens=2_000), share="0.5"))
    caps = (window_cap(tokens=1_000),)
    database.write_now(book_external, usage_event(), held_against(*caps), NOON)
    database.write_now(reserve, reservation(), held_against(*caps), None, NOON)
    found = database.read_now(provider_standings, config, NOON, lambda account: account.provider != "anthropic")
    assert set(found) == {"openai", "anthropic"}
    (cap,) = found["openai"].caps
    assert (cap.cap.allowance_tokens, cap.use.settled_tokens, cap.use.reserved_tokens) == (1_000, 100, 100)
    assert found["openai"].missing_key_variable is None
    assert found["anthropic"] == ProviderStanding("anthropic", "ANTHROPIC_API_KEY")


def test_a_rehearsal_sees_its_own_shadow_beside_the_real_use(database: Database) -> None:
    config = settings(provider_settings(WindowCap("week", tokens=1_000)))
    rehearsed = call_scope(purpose="rehearsal")
    database.write_now(book_external, usage_event(), held_against(), NOON)
    database.write_now(book_external, usage_event(scope=rehearsed), held_against(), NOON)
    real = database.read_now(provider_standings, config, NOON, lambda _: True)
    shadow = database.read_now(provider_standings, config, NOON, lambda _: True, purpose="rehearsal", run_id="R1")
    assert real["openai"].caps[0].used_tokens == 100
    assert shadow["openai"].caps[0].used_tokens == 200
