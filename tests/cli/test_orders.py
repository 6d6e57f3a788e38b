"""Standing orders on the command line: laid down, listed, shown in a status, taken back."""

from __future__ import annotations

import json

import pytest

from autopack_mcp.budgets.standing_orders import orders_in_force
from autopack_mcp.database.tables import alerts, order_firings
from autopack_mcp.errors import AutopackError
from tests.cli.test_acting import house, typed
from tests.factories import NOON, insert_phase, insert_run
from tests.runs.house import House

pytestmark = pytest.mark.anyio
__all__ = ["house"]
FIRED = {
    "order_id": 1, "run_id": "R1", "action": "pause", "scope": "run/R1", "unit": "nano_usd", "threshold": 1, "used": 1,
    "call_id": "c", "why": "", "fired_at": NOON, "did": "the run was paused", "handled_at": NOON,
}  # fmt: skip
ALERT = {
    "scope": "provider/anthropic/week/2026-W47", "unit": "tokens", "level_percent": 80, "allowance": 1_000, "used": 812,
    "call_id": "c", "label": "anthropic's cap of the week", "occurred_at": NOON,
}  # fmt: skip


async def test_an_order_is_laid_down_listed_and_removed(house: House) -> None:
    database = house.autopack.database
    database.write_now(insert_run)
    database.write_now(insert_phase)
    laid = await typed("order", "pause", "run", "$5", "--run", "R1")
    every = await typed("order", "cancel", "Anthropic", "80 %", "--period", "week")
    assert laid.output == (
        "Standing order 1 is in force: pause run R1 when it reaches $5.00. $0.00 of $5.00 are used now."
        " It may fire up to one call early: until a call has ended, it counts with the most that it may use.\n"
    )
    assert "Standing order 2 is in force: cancel any run when anthropic reaches 80 %" in every.output
    database.write_now(lambda connection: connection.execute(order_firings.insert().values(**FIRED)))

    lines = [line.split("\t") for line in (await typed("orders")).output.splitlines()]
    assert [line[:2] for line in lines] == [
        ["order", "says"],
        ["1", "pause run R1 when it reaches $5.00"],
        ["2", "cancel any run when anthropic reaches 80 % of its cap of the week"],
    ]
    assert [line[4] for line in lines[1:]] == ["2026-11-18 12:00 UTC: the run was paused", "not yet"]
    assert "through command line" in lines[1][2]

    removed = await typed("order", "--remove", "1")
    assert removed.output == "Standing order 1 is removed: pause run R1 when it reaches $5.00.\n"
    assert [one.order_id for one in database.read_now(orders_in_force)] == [2]
    assert [one["order_id"] for one in json.loads((await typed("orders", "--json")).output)] == [2]
    every_line = (await typed("orders", "--all")).output.splitlines()
    assert [line.split("\t")[0] for line in every_line] == ["order", "2", "1"]
    assert "(removed 20" in every_line[2]


async def test_status_and_usage_show_orders_and_alerts(house: House) -> None:
    database = house.autopack.database
    database.write_now(insert_run)
    database.write_now(insert_phase)
    await typed("order", "pause", "run", "$5", "--run", "R1")
    database.write_now(lambda connection: connection.execute(order_firings.insert().values(**FIRED)))
    now = {"occurred_at": house.autopack.clock.now()}
    database.write_now(lambda connection: connection.execute(alerts.insert().values(**{**ALERT, **now})))

    line = "Order 1: pause run R1 when it reaches $5.00 (2026-11-18 12:00 UTC: the run was paused)\n"
    assert f"  {line}" in (await typed("status", "R1")).output
    usage = (await typed("usage")).output
    assert line in usage
    assert "Alert: 80 % of anthropic's cap of the week was reached at 20" in usage


async def test_without_an_order_the_list_says_how_to_lay_one_down(house: House) -> None:
    assert "autopack-mcp order pause PROVIDER 80%" in (await typed("orders")).output


@pytest.mark.parametrize(
    "words, said",
    [
        ((), "Give ACTION WHEN REACHES"),
        (("pause", "anthropic"), "Give ACTION WHEN REACHES"),
        (("stop", "anthropic", "80%"), "Try autopack-mcp order pause anthropic 80% or autopack-mcp order cancel"),
        (("halt",), "'halt' is no action; it is pause, cancel or tell."),
        (("pause", "run"), "write '$5' or 5usd"),
        (("list",), "To list the standing orders: autopack-mcp orders"),
        (("remove", "anthropic"), "Give the number of one order: remove 3."),
        (("remove", "1", "2"), "Give the number of one order: remove 3."),
        (("remove", "1", "--run", "R1"), "--remove takes nothing else."),
        (("--remove", "1", "--run", "R1"), "--remove takes nothing else."),
        (("--remove", "x"), "'x' is not a valid integer"),
    ],
    ids=["nothing", "no amount", "stop", "unknown action", "an amount that the shell took", "list", "remove no number",
         "remove two", "remove of a run", "removing and more", "no number"],
)  # fmt: skip
async def test_wrong_usage_is_said_with_exit_code_two(house: House, words: tuple[str, ...], said: str) -> None:
    answer = await typed("order", *words)
    assert (answer.exit_code, said in answer.output) == (2, True)


@pytest.mark.parametrize(
    "words",
    [("remove", "1"), ("rm", "1"), ("delete", "1"), ("stop", "1"), ("--remove", "1")],
    ids=lambda words: " ".join(words),
)
async def test_whatever_word_takes_an_order_back_is_understood(house: House, words: tuple[str, ...]) -> None:
    await typed("order", "tell", "all", "5usd")
    assert (await typed("order", *words)).output.startswith("Standing order 1 is removed: tell when everything")


@pytest.mark.parametrize(
    "words, says",
    [
        (("18000", "tokens"), "18,000 tokens"), (("1.5M",), "1,500,000 tokens"), (("80", "%"), "80 % of its cap"),
        (("5", "usd"), "$5.00"),
    ],
)  # fmt: skip
async def test_an_amount_needs_no_quotes(house: House, words: tuple[str, ...], says: str) -> None:
    answer = await typed("order", "tell", "anthropic", *words)
    assert f"tell when anthropic reaches {says}" in answer.output


@pytest.mark.parametrize(
    "words, said",
    [
        (("pause", "anthropic", "80"), "'80' of what? It has no unit."),
        (("pause", "run", "$5", "--run", "R9"), "No run 'R9'."),
        (("--remove", "7"), "No standing order 7 is in force."),
    ],
    ids=["no unit", "unknown run", "unknown order"],
)
async def test_an_order_that_cannot_be_is_refused_in_words(house: House, words: tuple[str, ...], said: str) -> None:
    error = (await typed("order", *words)).exception
    assert isinstance(error, AutopackError)
    assert said in error.message
