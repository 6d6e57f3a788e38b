"""Standing orders as people see them: what is in force, what has fired, and nothing that cannot act any more."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from autopack_mcp.budgets.standing_orders import StandingOrder, add_order, withdraw_order
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import order_firings
from autopack_mcp.runs.store import run_by_id
from autopack_mcp.summary.needs import OVERRULE
from autopack_mcp.summary.orders import FIRINGS_SHOWN, OrderView, order_views, orders_of_run
from autopack_mcp.summary.run import run_summary
from autopack_mcp.summary.usage import usage_summary
from tests.factories import NOON, insert_run, settings

SAYS = "pause any run when openai reaches 80 % of its cap of the week"


def lay(database: Database, **overrides: Any) -> int:
    """Pause any run when openai reaches 80 % of its week."""
    values: dict[str, Any] = {
        "order_id": 0, "action": "pause", "subject": "provider", "unit": "percent", "threshold": 80, "run_id": None,
        "author": "ann", "client": "a phone", "created_at": NOON,
    }  # fmt: skip
    if overrides.get("subject", "provider") == "provider":
        values |= {"provider": "openai", "period": "week"}
    return database.write_now(add_order, StandingOrder(**{**values, **overrides}))


def fire(database: Database, order_id: int, run_id: str = "R1", minute: int = 0, **overrides: Any) -> None:
    """An order fired, and the run was paused half a minute later."""
    row = {
        "order_id": order_id, "run_id": run_id, "action": "pause", "scope": f"provider/openai/week/{minute}",
        "unit": "tokens", "threshold": 800, "used": 790, "call_id": "c", "did": "the run was paused",
        "why": f"Standing order {order_id} ({SAYS}): That is so.",
        "fired_at": NOON + timedelta(minutes=minute), "handled_at": NOON + timedelta(minutes=minute, seconds=30),
        **overrides,
    }  # fmt: skip
    database.write_now(lambda connection: connection.execute(insert(order_firings).values(**row)))


@pytest.fixture
def runs(database: Database) -> Database:
    """R1 runs, R2 has ended, R3 rehearses."""
    database.write_now(insert_run, "R1")
    database.write_now(lambda connection: insert_run(connection, "R2", state="succeeded"))
    database.write_now(lambda connection: insert_run(connection, "R3", is_rehearsal=True))
    return database


def numbers(views: tuple[OrderView, ...]) -> list[int]:
    return [view.order_id for view in views]


def of_run(database: Database, run_id: str) -> tuple[OrderView, ...]:
    return database.read_now(lambda connection: orders_of_run(connection, run_by_id(connection, run_id)))


def test_an_order_says_what_it_does_who_wants_it_and_when_it_fired(runs: Database) -> None:
    number = lay(runs, author="ann\u202e", client="a\x1bphone")
    fire(runs, number)
    (view,) = runs.read_now(order_views)

    assert view.order == SAYS
    assert (view.author, view.client, view.created_at, view.withdrawn_at) == ("ann\\u202e", "a\\x1bphone", NOON, None)
    (firing,) = view.firings
    assert (firing.run_id, firing.fired_at, firing.did, firing.why) == ("R1", NOON, "the run was paused", "That is so.")


def test_a_firing_that_nobody_has_acted_on_says_so_and_one_that_told_names_no_run(runs: Database) -> None:
    fire(runs, lay(runs), did="", handled_at=None)
    fire(runs, lay(runs, action="tell"), run_id="", did="told")
    waiting, telling = runs.read_now(order_views)
    assert (waiting.firings[0].did, waiting.firings[0].run_id) == ("not acted on yet", "R1")
    assert (telling.firings[0].did, telling.firings[0].run_id) == ("told", None)


def test_orders_that_can_do_nothing_any_more_are_shown_when_all_are_asked_for(runs: Database) -> None:
    kept, of_ended, withdrawn = lay(runs), lay(runs, run_id="R2"), lay(runs)
    runs.write_now(withdraw_order, withdrawn, NOON)

    assert numbers(runs.read_now(order_views)) == [kept]
    every = runs.read_now(order_views, with_withdrawn=True)
    assert numbers(every) == [withdrawn, of_ended, kept]
    assert [view.withdrawn_at for view in every] == [NOON, None, None]


def test_of_many_firings_the_newest_are_shown(runs: Database) -> None:
    number = lay(runs)
    for minute in range(FIRINGS_SHOWN + 1):
        fire(runs, number, minute=minute)
    (view,) = runs.read_now(order_views)
    shown = [firing.fired_at for firing in view.firings]
    assert shown == [NOON + timedelta(minutes=minute) for minute in range(FIRINGS_SHOWN, 0, -1)]


def test_a_run_shows_the_orders_that_may_stop_it_and_those_that_have(runs: Database) -> None:
    every, mine, other = lay(runs), lay(runs, run_id="R1"), lay(runs, run_id="R2")
    told = lay(runs, action="tell", subject="run")
    lay(runs, action="tell")  # Of a provider, which is no run's business.
    fired, unfired = lay(runs, run_id="R1", threshold=90), lay(runs, run_id="R1", threshold=95)
    for number in (fired, unfired):
        runs.write_now(withdraw_order, number, NOON)
    fire(runs, fired)
    fire(runs, every, run_id="R2", minute=1)

    shown = of_run(runs, "R1")
    assert numbers(shown) == [every, mine, told, fired]
    assert [len(view.firings) for view in shown] == [0, 0, 0, 1]
    assert numbers(of_run(runs, "R2")) == [every]
    assert other not in numbers(of_run(runs, "R2"))


def test_a_rehearsal_shows_only_orders_that_name_it(runs: Database) -> None:
    lay(runs)
    mine = lay(runs, run_id="R3")
    assert numbers(of_run(runs, "R3")) == [mine]


def test_the_summaries_of_a_run_and_of_usage_hold_them(runs: Database) -> None:
    number = lay(runs, run_id="R1")
    run = runs.read_now(run_summary, "R1", NOON)
    assert numbers(run.orders) == [number]

    assert numbers(runs.read_now(usage_summary, settings(), NOON).orders) == [number]
    assert runs.read_now(usage_summary, settings(), NOON, "week", -1).orders == ()


def test_a_run_that_an_order_paused_needs_a_person_who_is_told_that_it_will_not_stop_it_again(runs: Database) -> None:
    why = "Standing order 1 (pause run R4 when it reaches $5.00): That is $5.00."
    facts = {"state": "paused", "why": why, "stopped_by": {"order_id": 1}}
    runs.write_now(lambda connection: insert_run(connection, "R4", **facts))
    needs = runs.read_now(run_summary, "R4", NOON).needs_you
    assert needs is not None
    assert needs.what == OVERRULE
    assert needs.say == "resume run R4"


def test_a_run_that_a_person_paused_is_not_taken_for_one_that_an_order_stopped_whatever_the_reason_says(
    runs: Database,
) -> None:
    why = "Standing order 1 is a good name for a plan"
    runs.write_now(lambda connection: insert_run(connection, "R4", state="paused", why=why))
    needs = runs.read_now(run_summary, "R4", NOON).needs_you
    assert needs is not None
    assert needs.what == "It is paused, and goes on when it is resumed."
