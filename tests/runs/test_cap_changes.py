"""Other caps for a run that is under way: what is changed, what is said, and whether the run goes on."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import pytest

from autopack_mcp.budgets.call_rules import RulesInForce, caps_of_run
from autopack_mcp.budgets.caps import RunCaps
from autopack_mcp.budgets.ledger import RunFence, book_external, reserve
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import phases, runs
from autopack_mcp.errors import Denial, LeaseLost, QuotaExhausted
from autopack_mcp.plans.plan import PhaseSpec
from autopack_mcp.runs.obeying import Obeyed, obey
from autopack_mcp.runs.own_caps import NewCaps, insert_phase_caps, set_caps
from autopack_mcp.runs.requests import add_request, request_by_id
from autopack_mcp.runs.states import RUN_ENDED
from autopack_mcp.runs.stops import facts_of
from autopack_mcp.runs.store import claimable_runs, events_of_run, run_by_id
from tests.factories import (
    NOON,
    call_scope,
    held_against,
    insert_phase,
    insert_run,
    reservation,
    settings,
    token_counts,
    usage_event,
)

CENT = 10_000_000  # Nano-dollars.
LATER = NOON + timedelta(seconds=60)


def a_run(database: Database, state: str = "running", **overrides: Any) -> None:
    """Run R1, whose phases are P1 (100 tokens) and P2 (no cap)."""
    free = {"lease_owner": None, "lease_expires_at": None}
    database.write_now(lambda connection: insert_run(connection, state=state, **{**free, **overrides}))
    database.write_now(insert_phase)
    database.write_now(insert_phase, 2)
    database.write_now(insert_phase_caps, "R1", (PhaseSpec("P1", "", "", token_cap=100),))


def spent(database: Database, tokens: int, nano_usd: int = 0, phase_id: str = "P1", purpose: Any = "run") -> None:
    scope = call_scope(run_id="R1", phase_id=phase_id, purpose=purpose)
    event = usage_event(counts=token_counts(uncached_input=tokens, output=0), cost_nano=nano_usd, scope=scope)
    database.write_now(book_external, event, held_against(), NOON)


def stopped(database: Database, tokens: int, phase_id: str = "P2") -> None:
    """The run as it is after a denied call of so many tokens and a cent."""
    call = reservation(
        scope=call_scope(run_id="R1", phase_id=phase_id), bound_input=tokens - 1, bound_output=1, bound_nano=CENT
    )
    denial = database.write_now(reserve, call, RulesInForce(settings()), None, NOON)
    assert isinstance(denial, Denial)
    stop_with(database, str(QuotaExhausted(denial)), facts_of(denial))


def stop_with(database: Database, why: str, stopped_by: dict[str, Any] | None = None) -> None:
    facts = runs.update().values(state="budget_paused", why=why, stopped_by=stopped_by)
    database.write_now(lambda connection: connection.execute(facts))


def asked(database: Database, at: datetime = LATER, fence: RunFence | None = None, **new: Any) -> Obeyed | None:
    request_id = database.write_now(add_request, "R1", "raise_cap", "ann", "chat", NOON, asdict(NewCaps(**new)))
    request = database.read_now(request_by_id, request_id)
    return database.write_now(obey, request, fence, "me", at)


def said(database: Database, **new: Any) -> str:
    obeyed = asked(database, **new)
    assert obeyed is not None
    return obeyed.answer


def caps(database: Database, phase_id: str | None = None) -> RunCaps | None:
    return database.read_now(caps_of_run, "R1", phase_id)


def events(database: Database) -> list[str]:
    return [f"{event.kind} {event.phase_id}: {event.why}" for event in database.read_now(events_of_run, "R1", 9)][::-1]


# ── what is changed and what is said ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("state", ["queued", "running", "pausing", "paused", "needs_attention"])
def test_a_cap_is_the_new_total_and_the_log_says_who_changed_it_from_what_to_what(
    database: Database, state: str
) -> None:
    a_run(database, state, token_cap=1_000)
    spent(database, 300)

    assert (
        said(database, tokens=2_000)
        == "The cap of run R1 is now 2,000 tokens (before: 1,000 tokens); 300 tokens are used."
    )
    assert caps(database) == RunCaps(2_000)
    assert events(database) == [
        "cap None: ann through chat changed the cap of run R1 from 1,000 tokens to 2,000 tokens"
    ]
    assert database.read_now(run_by_id, "R1").state == state


def test_tokens_and_dollars_are_two_caps_that_may_be_changed_at_once(database: Database) -> None:
    a_run(database)
    spent(database, 300, 5 * CENT)

    assert said(database, tokens=2_000, nano_usd=20 * CENT) == (
        "The cap of run R1 is now 2,000 tokens (there was none); 300 tokens are used."
        " The cap of run R1 is now $0.20 (there was none); $0.05 are used."
    )
    assert caps(database) == RunCaps(2_000, 20 * CENT)
    assert len(events(database)) == 2
    assert said(database, tokens=2_000, nano_usd=30 * CENT) == (
        "The cap of run R1 is 2,000 tokens already; nothing was changed."
        " The cap of run R1 is now $0.30 (before: $0.20); $0.05 are used."
    )
    assert caps(database) == RunCaps(2_000, 30 * CENT)


def test_a_phase_has_caps_of_its_own_whether_its_plan_gave_it_some_or_not(database: Database) -> None:
    a_run(database, token_cap=1_000)
    spent(database, 30)

    assert said(database, tokens=150, phase_id="P1") == (
        "The cap of phase P1 of run R1 is now 150 tokens (before: 100 tokens); 30 tokens are used."
    )
    assert "(there was none); $0.00 are used." in said(database, nano_usd=CENT, phase_id="P2")
    assert caps(database, "P1") == RunCaps(1_000, None, 150)
    assert caps(database, "P2") == RunCaps(1_000, None, None, CENT)
    assert events(database)[0] == (
        "cap P1: ann through chat changed the cap of phase P1 of run R1 from 100 tokens to 150 tokens"
    )


@pytest.mark.parametrize(
    "cap, fits, warns", [(301, True, False), (300, False, True), (299, False, True), (1, False, True)]
)
def test_a_cap_below_what_is_spent_is_said_and_denies_the_next_call_and_nothing_else(
    database: Database, cap: int, fits: bool, warns: bool
) -> None:
    a_run(database, token_cap=1_000)
    spent(database, 300)

    assert ("Nothing of it is left: the next call is denied." in said(database, tokens=cap)) == warns
    call = reservation(scope=call_scope(run_id="R1", phase_id="P2"), bound_input=1, bound_output=0)
    found = database.write_now(reserve, call, RulesInForce(settings()), None, LATER)
    assert isinstance(found, datetime) == fits
    assert database.read_now(run_by_id, "R1").state == "running"


@pytest.mark.parametrize("new", [{"tokens": 1_000}, {"tokens": 100, "phase_id": "P1"}], ids=["run", "phase"])
def test_a_cap_that_is_so_already_changes_nothing_and_leaves_no_event(database: Database, new: dict[str, Any]) -> None:
    a_run(database, token_cap=1_000)
    before = database.read_now(run_by_id, "R1")

    assert "already; nothing was changed." in said(database, **new)
    assert events(database) == []
    assert database.read_now(run_by_id, "R1") == before


def test_a_rehearsal_is_measured_by_what_it_rehearsed(database: Database) -> None:
    a_run(database, token_cap=1_000, is_rehearsal=True)
    spent(database, 400, purpose="rehearsal")
    spent(database, 77)

    assert said(database, tokens=2_000).endswith("; 400 tokens are used.")


def test_what_makes_the_cap_of_a_phase_matter_less_is_said(database: Database) -> None:
    a_run(database, token_cap=1_000, cost_cap_nano=CENT)
    database.write_now(lambda connection: insert_phase(connection, 3, state="succeeded"))

    assert said(database, tokens=1_001, phase_id="P2").endswith(
        " The cap of the whole run is lower, 1,000 tokens, and stops it first."
    )
    assert "lower" not in said(database, tokens=1_000, phase_id="P2")
    assert said(database, tokens=5, phase_id="P3").endswith(
        " Phase P3 is succeeded already: its cap matters only if it is tried again."
    )


# ── a run that a cap has stopped ─────────────────────────────────────────────────────────────────────────────────────


def test_a_run_goes_on_when_the_cap_that_stopped_it_becomes_large_enough(database: Database) -> None:
    a_run(database, token_cap=1_000)
    spent(database, 300)
    stopped(database, 800)

    assert said(database, tokens=1_100).endswith("; 300 tokens are used. The run goes on where it paused.")
    run = database.read_now(run_by_id, "R1")
    assert (run.state, run.why) == ("running", "ann through chat raised the cap that had stopped it")
    assert (run.lease_owner, run.token_cap) == (None, 1_100)
    assert database.read_now(claimable_runs, LATER) == (run,)
    assert [event.partition(":")[0] for event in events(database)] == ["cap None", "run None"]


def test_a_run_stays_stopped_and_says_how_much_it_needs_when_the_cap_is_still_too_small(database: Database) -> None:
    a_run(database, token_cap=1_000)
    spent(database, 300)
    stopped(database, 800)
    stays = (
        " The call that was denied needs 1,100 tokens in all, so the run stays stopped:"
        " raise the cap of run R1 to at least 1,100 tokens."
    )

    assert said(database, tokens=1_099).endswith(f"; 300 tokens are used.{stays}")
    assert said(database, tokens=1_099) == f"The cap of run R1 is 1,099 tokens already; nothing was changed.{stays}"
    assert said(database, tokens=200).endswith(f"the next call is denied.{stays}")
    run = database.read_now(run_by_id, "R1")
    assert (run.state, run.token_cap) == ("budget_paused", 200)


def test_a_run_whose_cap_is_still_too_small_gives_the_new_one_as_its_reason(database: Database) -> None:
    a_run(database, token_cap=1_000)
    spent(database, 300)
    stopped(database, 800)
    too_small = "which is not enough: the call that was denied needs at least 1,100 tokens in all."

    said(database, tokens=1_099)
    assert database.read_now(run_by_id, "R1").why == f"The cap of run R1 is now 1,099 tokens, {too_small}"
    said(database, nano_usd=CENT)
    assert database.read_now(run_by_id, "R1").why == f"The cap of run R1 is now 1,099 tokens, {too_small}"
    said(database, tokens=1_100)
    assert database.read_now(run_by_id, "R1").state == "running"


def test_a_cap_that_is_enough_for_one_call_alone_says_what_the_rest_may_take(database: Database) -> None:
    a_run(database, token_cap=1_000)
    database.write_now(lambda connection: connection.execute(phases.update().values(state="succeeded")))
    database.write_now(lambda connection: insert_phase(connection, 3))
    spent(database, 600)
    stopped(database, 500)
    rest = " At what the phase that is done took, the phase that is left may bring it to about 1,700 tokens in all."

    assert said(database, tokens=1_100).endswith(f"The run goes on where it paused.{rest}")


def test_a_cap_that_is_enough_for_the_rest_says_no_more_than_that(database: Database) -> None:
    a_run(database, token_cap=1_000)
    database.write_now(lambda connection: connection.execute(phases.update().values(state="succeeded")))
    database.write_now(lambda connection: insert_phase(connection, 3))
    spent(database, 600)
    stopped(database, 500)

    assert said(database, tokens=1_700).endswith("The run goes on where it paused.")


def test_the_cap_of_a_phase_lets_its_run_go_on(database: Database) -> None:
    a_run(database, token_cap=1_000)
    stopped(database, 101, phase_id="P1")

    assert said(database, tokens=2_000).endswith(
        " Another cap has stopped the run, so it stays stopped:"
        " raise the cap of phase P1 of run R1 to at least 110 tokens."
    )
    assert said(database, tokens=101, phase_id="P1").endswith("The run goes on where it paused.")
    assert database.read_now(run_by_id, "R1").state == "running"


def test_another_unit_of_the_same_cap_does_not_let_the_run_go_on(database: Database) -> None:
    a_run(database, cost_cap_nano=CENT // 2)
    stopped(database, 10)

    assert said(database, tokens=9_000).endswith("so it stays stopped: raise the cap of run R1 to at least $0.01.")
    assert said(database, nano_usd=2 * CENT).endswith("The run goes on where it paused.")


@pytest.mark.parametrize(
    "why",
    ["Openai's cap of the week is 1,000 tokens: 900 tokens are used and…", ""],
)
def test_a_run_that_another_cap_has_stopped_stays_stopped_and_says_so(database: Database, why: str) -> None:
    a_run(database, token_cap=1_000)
    stop_with(database, why)

    assert said(database, tokens=2_000).endswith(
        " Another cap has stopped the run, so it stays stopped; see to that one, then resume the run."
    )
    run = database.read_now(run_by_id, "R1")
    assert (run.state, run.why, run.token_cap) == ("budget_paused", why, 2_000)


# ── who may ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("state", [*sorted(RUN_ENDED), "cancelling"])
def test_a_run_that_has_ended_or_is_about_to_is_refused(database: Database, state: str) -> None:
    a_run(database, state, token_cap=1_000)

    assert said(database, tokens=2_000).startswith(f"'raise_cap' is not possible while the run is {state!r}.")
    assert caps(database) == RunCaps(1_000)


def test_a_phase_that_the_run_does_not_have_is_refused_with_those_it_has(database: Database) -> None:
    a_run(database)

    assert said(database, tokens=9, phase_id="P9") == "Run R1 has no phase 'P9'. Its phases: P1, P2."
    assert caps(database, "P9") == RunCaps()


def test_a_run_in_anothers_hands_is_left_to_its_owner(database: Database) -> None:
    until = LATER + timedelta(seconds=9)
    a_run(database, token_cap=1_000, lease_owner="another", lease_expires_at=until, lease_token=7)

    assert asked(database, tokens=2_000) is None
    assert caps(database) == RunCaps(1_000)
    assert asked(database, tokens=2_000, fence=RunFence("R1", 7)) is not None
    run = database.read_now(run_by_id, "R1")
    assert (run.token_cap, run.lease_owner, run.lease_token) == (2_000, "another", 7)


def test_whoever_has_lost_a_run_changes_no_cap_of_it(database: Database) -> None:
    a_run(database, token_cap=1_000)

    with pytest.raises(LeaseLost):
        asked(database, tokens=2_000, fence=RunFence("R1", 0))
    with pytest.raises(LeaseLost):
        database.write_now(set_caps, RunFence("R1", 0), NewCaps(tokens=5, phase_id="P2"), LATER)
    assert caps(database, "P2") == RunCaps(1_000)
    assert events(database) == []
