"""What a call is measured against is read with the call: a cap raised a moment ago holds for the very next one."""

from __future__ import annotations

from datetime import datetime

import pytest
from sqlalchemy import insert, update

from autopack_mcp.budgets import ledger
from autopack_mcp.budgets.call_rules import CallRules, RulesInForce, caps_of_run
from autopack_mcp.budgets.caps import CallScope, RunCaps
from autopack_mcp.budgets.standing_orders import StandingOrder, add_order
from autopack_mcp.config.settings import Settings, WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import phase_caps, runs
from autopack_mcp.errors import Denial
from tests.factories import NOON, call_scope, insert_run, provider_settings, reservation, settings


def rules(database: Database, config: Settings, call: CallScope, at: datetime = NOON) -> CallRules:
    return database.read_now(RulesInForce(config), call, at)


def kinds(found: CallRules) -> list[tuple[str, int | None]]:
    return [(cap.kind, cap.allowance_tokens) for cap in found.caps]


CAPPED = settings(
    provider_settings(WindowCap("day", 1_000), WindowCap("week", 5_000), share="0.5"),
    role_caps={"builder": (WindowCap("month", 70_000),), "auditor": (WindowCap("day", 1),)},
    global_caps=(WindowCap("week", 90_000),),
)


def test_a_call_must_fit_its_provider_its_role_everything_its_run_and_its_phase(database: Database) -> None:
    database.write_now(insert_run, token_cap=4_000)
    cap = insert(phase_caps).values(run_id="R1", phase_id="P1", token_cap=300)
    database.write_now(lambda connection: connection.execute(cap) and None)
    assert kinds(rules(database, CAPPED, call_scope())) == [
        ("provider", 500),
        ("provider", 2_500),
        ("role", 70_000),
        ("global", 90_000),
        ("run", 4_000),
        ("phase", 300),
    ]


def test_a_label_that_is_no_run_has_no_caps_of_its_own(database: Database) -> None:
    assert database.read_now(caps_of_run, "a label", "P1") is None
    assert [kind for kind, _ in kinds(rules(database, CAPPED, call_scope(run_id="a label")))] == [
        "provider", "provider", "role", "global",
    ]  # fmt: skip


def test_another_phase_of_the_run_has_its_own_cap_or_none(database: Database) -> None:
    database.write_now(insert_run, token_cap=4_000)
    cap = insert(phase_caps).values(run_id="R1", phase_id="P1", cost_cap_nano=7)
    database.write_now(lambda connection: connection.execute(cap) and None)
    assert database.read_now(caps_of_run, "R1", "P1") == RunCaps(4_000, None, None, 7)
    assert database.read_now(caps_of_run, "R1", "P2") == RunCaps(4_000)
    assert database.read_now(caps_of_run, "R1", None) == RunCaps(4_000)


def test_a_cap_raised_in_the_meantime_holds_for_the_next_call(database: Database) -> None:
    database.write_now(insert_run, token_cap=150)
    in_force = RulesInForce(settings())
    assert database.write_now(ledger.reserve, reservation(), in_force, None, NOON) == NOON
    denial = database.write_now(ledger.reserve, reservation(), in_force, None, NOON)
    assert isinstance(denial, Denial)
    assert denial.scope == "run/R1"
    database.write_now(lambda connection: connection.execute(update(runs).values(token_cap=200)) and None)
    assert database.write_now(ledger.reserve, reservation(), in_force, None, NOON) == NOON


@pytest.mark.parametrize("config", [
    pytest.param(settings(role_caps={"builder": (WindowCap("day", 150),)}), id="of its role"),
    pytest.param(settings(global_caps=(WindowCap("month", 150),)), id="of all calls"),
])  # fmt: skip
def test_shared_caps_deny_across_runs_and_providers(database: Database, config: Settings) -> None:
    in_force = RulesInForce(config)
    first = reservation(scope=call_scope(run_id="R1", provider="anthropic"))
    assert database.write_now(ledger.reserve, first, in_force, None, NOON) == NOON
    second = reservation(scope=call_scope(run_id="R2"))
    denial = database.write_now(ledger.reserve, second, in_force, None, NOON)
    assert isinstance(denial, Denial)
    assert (denial.used, denial.wanted, denial.allowance) == (100, 100, 150)


def test_a_role_cap_leaves_other_roles_alone(database: Database) -> None:
    in_force = RulesInForce(settings(role_caps={"auditor": (WindowCap("day", 1),)}))
    assert database.write_now(ledger.reserve, reservation(), in_force, None, NOON) == NOON


def test_orders_stop_runs_of_the_database_and_tell_of_all_calls(database: Database) -> None:
    for action in ("pause", "tell"):
        order = StandingOrder(0, action, "global", "tokens", 500, None, "ann", "a test", NOON, period="week")
        database.write_now(add_order, order)
    labelled = rules(database, settings(), call_scope(run_id="a label"))
    assert (len(labelled.stops), len(labelled.tells)) == (0, 1)
    database.write_now(insert_run)
    of_a_run = rules(database, settings(), call_scope())
    assert (len(of_a_run.stops), len(of_a_run.tells)) == (1, 1)
