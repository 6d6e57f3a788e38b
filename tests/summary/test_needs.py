"""What a person is told to do about a run that stands still: only what would let it go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import insert

from autopack_mcp.budgets.call_rules import RulesInForce
from autopack_mcp.budgets.ledger import book_external, reserve
from autopack_mcp.budgets.standing_orders import StandingOrder, add_order
from autopack_mcp.config.settings import Settings, WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import order_firings, runs
from autopack_mcp.errors import ConfigError, Denial, Problem
from autopack_mcp.runs.stops import facts_of
from autopack_mcp.summary.needs import OVERRULE, NeedsYou
from autopack_mcp.summary.run import run_summary
from tests.factories import (
    NOON,
    call_scope,
    held_against,
    insert_phase,
    insert_run,
    insert_supervisor,
    provider_settings,
    reservation,
    settings,
    token_counts,
    usage_event,
)

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
OPENAI_FULL = settings(provider_settings(WindowCap("week", tokens=1_000)))


@pytest.fixture(autouse=True)
def supervised(database: Database) -> None:
    database.write_now(lambda connection: insert_supervisor(connection, lease_expires_at=MONDAY + timedelta(days=1)))


def needed(database: Database, under: Callable[[], Settings] | None = None, at: datetime = NOON) -> NeedsYou | None:
    found = database.read_now(run_summary, "R1", at, under).needs_you
    return None if found is None else replace(found, command="")


def typed(database: Database, under: Callable[[], Settings] | None = None) -> str:
    found = database.read_now(run_summary, "R1", NOON, under).needs_you
    assert found is not None
    return found.command


def a_run(database: Database, **facts: Any) -> None:
    database.write_now(lambda connection: insert_run(connection, **facts))


def phases(database: Database, *states: str) -> None:
    for index, state in enumerate(states, start=1):
        database.write_now(partial(insert_phase, index=index, state=state))


def spent(database: Database, tokens: int, phase_id: str = "P1", nano_usd: int | None = 0) -> None:
    counts = token_counts(uncached_input=tokens, output=0)
    event = usage_event(scope=call_scope(phase_id=phase_id), counts=counts, cost_nano=nano_usd)
    database.write_now(book_external, event, held_against(), NOON)


def stopped(database: Database, under: Settings, tokens: int, phase_id: str = "P1") -> None:
    """The run as a denied call of so many tokens leaves it."""
    call = reservation(scope=call_scope(phase_id=phase_id), bound_input=tokens - 1, bound_output=1)
    denial = database.write_now(reserve, call, RulesInForce(under), None, NOON)
    assert isinstance(denial, Denial)
    facts = runs.update().values(state="budget_paused", why=denial.why, stopped_by=facts_of(denial))
    database.write_now(lambda connection: connection.execute(facts))


@pytest.mark.parametrize(
    ("state", "what"),
    [
        ("paused", "It is paused, and goes on when it is resumed."),
        ("budget_paused", "Resuming helps when what stopped it has changed."),
        ("needs_attention", "It cannot go on by itself."),
    ],
)
def test_a_run_that_waits_says_what_helps_and_leaves_the_reason_to_its_why(
    database: Database, state: str, what: str
) -> None:
    a_run(database, state=state, why="because.")
    assert needed(database) == NeedsYou(what, "resume run R1")


@pytest.mark.parametrize(
    ("state", "first", "say"),
    [
        ("failed", "Retrying gives phase P2 a full set of attempts.", "retry phase P2 of run R1"),
        ("auditing", "Resuming goes on with phase P2 where it stopped; retry drops its attempt.", "resume run R1"),
        ("queued", "Resuming tries again to begin with phase P2.", "resume run R1"),
    ],
)
def test_a_run_that_needs_attention_says_every_phrase_that_helps(
    database: Database, state: str, first: str, say: str
) -> None:
    a_run(database, state="needs_attention", why="phase P2 failed: red")
    phases(database, "succeeded", state, "queued")

    assert needed(database) == NeedsYou(
        f"It cannot go on by itself. {first} Or say: skip phase P2 because …, edit phase P2: …, another model for phase"
        " P2, cancel run R1.",
        say,
    )


def test_a_run_that_nobody_advances_needs_a_person(database: Database) -> None:
    a_run(database)
    assert needed(database) is None
    later = MONDAY + timedelta(days=2)
    assert needed(database, at=later) == NeedsYou("Nobody advances it: no supervisor is running.", "resume run R1")


# ── its own cap ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_cap_that_stops_a_run_before_any_phase_is_done_must_be_at_least_what_the_call_needs(
    database: Database,
) -> None:
    a_run(database, token_cap=2_000)
    phases(database, "building", "queued")
    stopped(database, settings(), 34_620)
    assert needed(database) == NeedsYou(
        "Its own cap must be at least 34,620 tokens; then it goes on where it paused.",
        "raise the cap of run R1 to at least 35,000 tokens",
    )


def test_what_is_left_of_a_run_is_estimated_by_what_its_phases_took(database: Database) -> None:
    a_run(database, token_cap=20_000)
    phases(database, "succeeded", "failed", "building", "queued", "queued")
    for phase_id, tokens in (("P1", 6_000), ("P2", 5_001), ("P3", 400)):
        spent(database, tokens, phase_id)
    stopped(database, settings(), 9_000, "P3")
    # 11,401 are used and 9,000 wanted; two phases took 11,001, so three more may take 16,502.
    assert needed(database) == NeedsYou(
        "Its own cap must be at least 20,401 tokens; then it goes on where it paused."
        " At what the 2 phases that are done took, the 3 that are left may bring it to about 37,000 tokens in all.",
        "raise the cap of run R1 to 37,000 tokens",
    )


@pytest.mark.parametrize(
    ("nano_usd", "say"),
    [(1_000_000_000, "raise the cap of run R1 to $2.10"), (None, "raise the cap of run R1 to at least $0.0010")],
    ids=["priced", "not all priced"],
)
def test_dollars_are_estimated_where_every_call_has_a_price(database: Database, nano_usd: int | None, say: str) -> None:
    a_run(database, cost_cap_nano=1_000_000)
    phases(database, "succeeded", "building")
    spent(database, 10, nano_usd=nano_usd)
    if nano_usd is None:
        database.write_now(lambda connection: connection.execute(runs.update().values(cost_cap_nano=999_999)))
    stopped(database, settings(), 100, "P2")
    found = needed(database)
    assert found is not None
    assert found.say == say


def test_the_cap_of_a_phase_is_named_as_that(database: Database) -> None:
    a_run(database, state="budget_paused", stopped_by={"scope": "phase/R1/P1", "unit": "tokens", "needed": 9})
    assert needed(database) == NeedsYou(
        "The cap of its phase must be at least 9 tokens; then it goes on where it paused.",
        "raise the cap of phase P1 of run R1 to at least 9 tokens",
    )


@pytest.mark.parametrize(
    ("stop", "command"),
    [
        ({"scope": "run/R1", "unit": "tokens", "needed": 34_620}, "autopack-mcp raise-cap R1 --tokens 35000"),
        (
            {"scope": "run/R1", "unit": "nano_usd", "needed": 1_230_000_000_000},
            "autopack-mcp raise-cap R1 --usd 1300.00",
        ),
        (
            {"scope": "phase/R1/a%2Fb", "unit": "tokens", "needed": 9},
            "autopack-mcp raise-cap R1 --tokens 9 --phase a/b",
        ),
    ],
    ids=["tokens", "dollars", "a phase"],
)
def test_what_to_type_at_a_terminal_is_the_same_wish(database: Database, stop: dict[str, Any], command: str) -> None:
    a_run(database, state="budget_paused", stopped_by=stop)
    assert typed(database) == command


def test_where_only_waiting_helps_there_is_nothing_to_type(database: Database) -> None:
    a_run(database)
    spent(database, 900)
    stopped(database, OPENAI_FULL, 200)
    assert typed(database) == ""
    assert typed(database, settings) == "autopack-mcp resume R1"


# ── a cap that others share ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("under", "ways"),
    [
        pytest.param(OPENAI_FULL, ", or choose models of another provider than openai for it", id="an account's"),
        pytest.param(settings(role_caps={"builder": (WindowCap("week", 1_000),)}), "", id="a role's"),
        pytest.param(settings(global_caps=(WindowCap("week", 1_000),)), "", id="that of all calls"),
    ],
)
def test_a_cap_that_is_used_up_is_waited_for_or_raised_in_the_file(
    database: Database, under: Settings, ways: str
) -> None:
    a_run(database)
    spent(database, 900)
    stopped(database, under, 200)
    full = NeedsYou(
        "Resuming does not help before the cap resets at 2026-11-23 00:00 UTC:"
        f" wait, raise the cap in models.yaml{ways}.",
        "resume run R1 after 2026-11-23 00:00 UTC",
    )
    assert needed(database, lambda: under) == full
    assert needed(database) == full


def test_resuming_is_offered_as_soon_as_there_is_room_again(database: Database) -> None:
    a_run(database)
    spent(database, 900)
    stopped(database, OPENAI_FULL, 200)
    enough, too_little = (settings(provider_settings(WindowCap("week", tokens))) for tokens in (1_100, 1_099))
    found = needed(database, lambda: enough)
    assert found is not None
    assert found == NeedsYou(
        "There is room again below the cap that stopped it: it goes on where it paused.", "resume run R1"
    )
    assert needed(database, lambda: too_little) != found
    assert needed(database, settings) == found  # The cap is gone.
    assert needed(database, lambda: OPENAI_FULL, MONDAY) == needed(database, None, MONDAY) == found


def test_a_file_that_cannot_be_used_keeps_no_run_from_being_shown(database: Database) -> None:
    def broken() -> Settings:
        raise ConfigError((Problem("is no YAML", "models.yaml", 3),))

    a_run(database)
    spent(database, 900)
    stopped(database, OPENAI_FULL, 200)
    found = needed(database, broken)
    assert found is not None
    assert found.say == "resume run R1 after 2026-11-23 00:00 UTC"


# ── standing orders ──────────────────────────────────────────────────────────────────────────────────────────────────


def lay(database: Database, tokens: int, **overrides: Any) -> int:
    values: dict[str, Any] = {
        "order_id": 0, "action": "pause", "subject": "run", "unit": "tokens", "threshold": tokens, "run_id": "R1",
        "author": "ann", "client": "a phone", "created_at": NOON, **overrides,
    }  # fmt: skip
    return database.write_now(add_order, StandingOrder(**values))


def paused_by(database: Database, order_id: int, wanted: int | None = 200) -> None:
    row = {
        "order_id": order_id, "run_id": "R1", "action": "pause", "scope": "run/R1", "unit": "tokens", "threshold": 1,
        "used": 1, "call_id": "c", "why": "", "fired_at": NOON, "did": "the run was paused", "handled_at": NOON,
    }  # fmt: skip
    database.write_now(lambda connection: connection.execute(insert(order_firings).values(**row)))
    facts = {"order_id": order_id} | ({} if wanted is None else {"unit": "tokens", "wanted": wanted})
    stop = runs.update().values(state="paused", stopped_by=facts)
    database.write_now(lambda connection: connection.execute(stop))


@pytest.fixture
def ordered(database: Database) -> Database:
    """R1 has used 900 tokens in phase P1, and an order at 1,000 tokens has paused it at a call of 200."""
    a_run(database)
    phases(database, "building")
    spent(database, 900)
    paused_by(database, lay(database, 1_000))
    return database


def test_a_run_that_its_only_order_paused_may_be_resumed(ordered: Database) -> None:
    assert needed(ordered, settings) == NeedsYou(OVERRULE, "resume run R1")


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"tokens": 1_099}, id="the same call does not fit it"),
        pytest.param({"tokens": 1_099, "subject": "phase"}, id="nor one about the phase"),
        pytest.param({"tokens": 900, "run_id": None, "subject": "provider", "provider": "openai", "period": "week"},
                     id="nor one about an account, which is reached"),
    ],
)  # fmt: skip
def test_an_order_that_would_stop_it_again_is_to_be_removed_first(ordered: Database, other: dict[str, Any]) -> None:
    assert lay(ordered, **other) == 2
    assert needed(ordered, settings) == NeedsYou(
        "Resuming does not help: standing order 2 stops it at its next call.",
        "remove standing order 2, then resume run R1",
    )


def test_such_an_order_is_removed_and_the_run_resumed_in_one_line(ordered: Database) -> None:
    lay(ordered, 1_050)
    assert typed(ordered, settings) == "autopack-mcp order remove 2 && autopack-mcp resume R1"


def test_several_such_orders_are_named_together(ordered: Database) -> None:
    lay(ordered, 1_050)
    lay(ordered, 800, action="cancel")
    found = needed(ordered, settings)
    assert found is not None
    assert found.say == "remove standing orders 2 and 3, then resume run R1"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"tokens": 1_100}, id="it fits"),
        pytest.param({"tokens": 1, "action": "tell"}, id="it only tells"),
        pytest.param({"tokens": 1, "run_id": "R2"}, id="it is about another run"),
        pytest.param({"tokens": 901, "subject": "provider", "provider": "openai", "period": "week"},
                     id="an account's is not reached"),
    ],
)  # fmt: skip
def test_an_order_that_is_not_in_the_way_is_not_named(ordered: Database, other: dict[str, Any]) -> None:
    lay(ordered, **other)
    assert needed(ordered, settings) == NeedsYou(OVERRULE, "resume run R1")


def test_an_order_that_has_acted_on_the_run_is_not_in_the_way(ordered: Database) -> None:
    paused_by(ordered, lay(ordered, 1_050), wanted=None)
    assert needed(ordered, settings) == NeedsYou(OVERRULE, "resume run R1")
