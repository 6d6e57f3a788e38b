"""Standing orders from the sentence in a chat to what it causes, on a whole product; and how little an answer takes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import select

from autopack_mcp import app
from autopack_mcp.budgets.caps import CallScope
from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.budgets.standing_orders import orders_in_force
from autopack_mcp.clock import ManualClock
from autopack_mcp.database.tables import outbox, standing_orders
from autopack_mcp.mcp_server.answers import RESULT_BYTES, result_bytes
from autopack_mcp.mcp_server.orders import orders_shown
from autopack_mcp.mcp_server.runs import run_status
from autopack_mcp.summary.alerts import AlertView
from autopack_mcp.summary.orders import FiringView, OrderView
from tests.control.counter import count_of
from tests.factories import NOON, held_against, token_counts, usage_event
from tests.mcp_server.samples import run_view
from tests.mcp_server.test_acting import Chat, chat_of
from tests.projects import a_phase, a_plan, make_repository
from tests.runs.house import House, open_house

pytestmark = pytest.mark.anyio
DOLLAR = 1_000_000_000
KEYS = {"OPENAI_API_KEY": "sk-test-of-openai-0000", "ANTHROPIC_API_KEY": "sk-ant-test-of-anthropic-0000"}
WEEK_OF_ANTHROPIC = 10_000_000  # Of the packaged configuration.


@pytest.fixture
async def house(tmp_path: Path, empty_database_file: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path, empty_database_file, environ=KEYS, clock=ManualClock(NOON)) as opened:
        repository = make_repository(tmp_path / "project")
        opened.autopack.home.plans.mkdir()
        plan = a_plan(repository, [a_phase("a"), a_phase("b")])
        (opened.autopack.home.plans / "small.yaml").write_text(plan, encoding="utf-8")
        yield opened


@pytest.fixture
async def chat(house: House) -> AsyncIterator[Chat]:
    """A client while somebody supervises; calls of models are held until the gate opens."""
    house.gate.close()
    async with house.supervising(), chat_of(house, "auto") as connected:
        yield connected
        house.gate.open()


async def rehearsing(chat: Chat) -> str:
    """A rehearsal whose first call is held."""
    run_id = str((await chat.asks("control_run", action="start", plan="small", rehearse=True))["run_id"])
    await chat.house.gate.reached.wait()
    return run_id


def spend(house: House, tokens: int, nano: int = 0, **scope: Any) -> None:
    """Tokens of anthropic that are spent elsewhere, or on the account of a run."""
    owner = CallScope(**{"provider": "anthropic", "role": "builder", "purpose": "run", **scope})
    counts = token_counts(uncached_input=tokens, output=0)
    event = usage_event(scope=owner, counts=counts, cost_nano=nano, occurred_at=house.autopack.clock.now())
    house.autopack.database.write_now(book_external, event, held_against(), house.autopack.clock.now())


async def order_of_status(chat: Chat, run_id: str) -> dict[str, Any]:
    status = await chat.asks("get_run_status", run_id=run_id)
    (order,) = status["orders"]
    return dict(order)


# ── the sentences that people say ────────────────────────────────────────────────────────────────────────────────────


async def test_stop_the_run_if_anthropic_goes_over_80_percent_of_the_weekly_cap(chat: Chat) -> None:
    spend(chat.house, 7_999_000)
    run_id = await rehearsing(chat)
    said = await chat.asks("set_standing_order", action="stop", when="Anthropic", reaches="80%")
    words = f"cancel run {run_id} when anthropic reaches 80 % of its cap of the week"
    assert said["message"] == (
        f"Standing order 1 is in force: {words}. 7,999,000 tokens of 8,000,000 tokens are used now."
        " It may fire up to one call early: until a call has ended, it counts with the most that it may use."
    )

    chat.house.gate.open()
    run = await chat.house.stopped(run_id)
    # The builder is another provider's; the auditor's call would have gone over.
    assert (run.state, run.why[:19]) == ("cancelled", "Standing order 1 (c")
    assert run.tokens_used < 1_000_000
    order = await order_of_status(chat, run_id)
    assert (order["order_id"], order["order"]) == (1, words)
    assert order["fired"].startswith(
        "2026-11-18 12:00 UTC: the run was cancelled. That is 8,000,000 tokens: 7,999,000 tokens are used"
    )


async def test_pause_every_run_when_a_provider_reaches_a_share_of_its_week(house: House) -> None:
    spend(house, 8_000_000)
    async with house.supervising(), chat_of(house, "auto") as chat:
        said = await chat.asks("set_standing_order", action="pause", when="anthropic", reaches="80%", run_id="*")
        assert said["message"].endswith("so the next call of any run will be denied and the run paused.")
        runs = [str((await chat.asks("control_run", action="start", plan="small"))["run_id"]) for _ in range(2)]
        stopped = [await house.stopped(run_id) for run_id in runs]
        assert [run.state for run in stopped] == ["paused", "paused"]
        assert stopped[0].needs_you is not None
        assert "lay down another one" in stopped[0].needs_you.what
        (order,) = (await chat.asks("usage_summary"))["orders"]
        firings = [f"2026-11-18 12:00 UTC: the run was paused ({run_id}). That is 8,000,000 tokens" for run_id in runs]
        assert order["fired"].startswith(tuple(firings))


@pytest.mark.parametrize(
    "wish, words, tokens, nano",
    [
        pytest.param({"when": "run", "reaches": "$5"}, "it reaches $5.00", 1, 5 * DOLLAR, id="the run has cost $5"),
        pytest.param(
            {"when": "phase", "reaches": "200,000 tokens"},
            "a phase of it reaches 200,000 tokens",
            200_000,
            0,
            id="a phase has used 200,000 tokens",
        ),
    ],
)
async def test_pause_the_run_when_it_or_a_phase_has_used_so_much(
    chat: Chat, wish: dict[str, str], words: str, tokens: int, nano: int
) -> None:
    run_id = await rehearsing(chat)
    said = await chat.asks("set_standing_order", action="pause", **wish)
    assert said["order"] == f"pause run {run_id} when {words}"
    spend(chat.house, tokens, nano, run_id=run_id, phase_id="a", purpose="rehearsal")

    chat.house.gate.open()
    paused = await chat.house.stopped(run_id)
    assert (paused.state, paused.current_phase_state) == ("paused", "auditing")
    await chat.asks("control_run", action="resume")
    assert (await chat.house.stopped(run_id)).state == "succeeded"
    assert "the run was paused" in (await order_of_status(chat, run_id))["fired"]


async def test_tell_me_when_a_provider_has_used_so_much(chat: Chat) -> None:
    said = await chat.asks("set_standing_order", action="tell", when="anthropic", reaches="50%", period="week")
    assert said["order"] == "tell when anthropic reaches 50 % of its cap of the week"
    house = chat.house
    event = usage_event(
        scope=CallScope("anthropic", "builder", "run"),
        counts=token_counts(uncached_input=WEEK_OF_ANTHROPIC // 2, output=0),
        occurred_at=NOON,
    )
    app.usage_recorder(house.autopack).record_usage(event)

    texts = house.autopack.database.read_now(lambda connection: connection.execute(select(outbox.c.text)).all())
    assert [text for (text,) in texts] == [f"Standing order 1 ({said['order']}): 5,000,000 tokens are spent."]
    (order,) = (await chat.asks("usage_summary"))["orders"]
    assert order["fired"] == "2026-11-18 12:00 UTC: told. 5,000,000 tokens are spent."


# ── arguments ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_order_is_removed_by_its_number(chat: Chat) -> None:
    laid = await chat.asks("set_standing_order", action="tell", when="run", reaches="$5", run_id="*")
    again = await chat.asks("set_standing_order", action="tell", when="run", reaches="5 USD", run_id="*")
    assert (again["order_id"], again["is_new"]) == (laid["order_id"], False)

    removed = await chat.asks("set_standing_order", remove=laid["order_id"])
    assert (removed["order_id"], removed["in_force"]) == (laid["order_id"], False)
    assert chat.house.autopack.database.read_now(orders_in_force) == ()
    refusal = await chat.is_refused("set_standing_order", remove=laid["order_id"])
    assert "No standing order is in force." in refusal


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({}, "A standing order needs action, when and reaches."),
        ({"action": "pause", "when": "run"}, "A standing order needs action, when and reaches."),
        ({"remove": 1, "action": "pause"}, "remove takes nothing else."),
        ({"action": "stop it", "when": "run", "reaches": "$5"}, "it is one of 'pause', 'cancel' or 'tell'"),
        ({"action": "pause", "when": "run", "reaches": "5", "run_id": "*"}, "'5' of what? It has no unit."),
        ({"action": "pause", "when": "run", "reaches": "$5"}, "There is no run."),
        ({"action": "pause", "when": "run", "reaches": "$5", "run_id": "r-9"}, "No run 'r-9'."),
        ({"action": "tell", "when": "x", "reaches": "$5"}, "'x' is no provider.\nProviders are anthropic, glm"),
        (
            {"action": "pause", "when": "openai", "reaches": "80%", "period": "day", "run_id": "*"},
            "Openai has no cap of the day: percent of what?\nConfigured are openai's week",
        ),
        ({"action": "tell", "when": "all", "reaches": "$5", "period": "hour"}, "period cannot be 'hour'"),
    ],
    ids=[
        "nothing", "no amount", "removing and more", "unknown action", "no unit", "no run", "unknown run",
        "unknown provider", "no such cap", "unknown period",
    ],
)  # fmt: skip
async def test_an_order_that_cannot_be_is_refused_and_nothing_is_written(
    house: House, arguments: dict[str, Any], said: str
) -> None:
    async with chat_of(house, "auto") as chat:
        assert said in await chat.is_refused("set_standing_order", **arguments)
    assert house.autopack.database.read_now(count_of, standing_orders) == 0


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def order_view(
    number: int = 1, *, fired: bool = False, words: str = "pause any run when it reaches $5.00"
) -> OrderView:
    firing = FiringView("r-1", NOON + timedelta(minutes=number), "the run was paused", words)
    firings = (firing,) if fired else ()
    return OrderView(number, words, "pause", None, None, None, "ann", "a phone", NOON, None, firings)


def test_of_many_orders_those_that_fired_and_the_newest_are_shown() -> None:
    orders = [order_view(number, fired=number in (2, 3)) for number in range(1, 8)]
    shown: list[Any] = orders_shown(orders, 4, 400)
    assert [one["order_id"] for one in shown] == [2, 3, 6, 7]
    assert orders_shown(orders, 0, 400) == []


@given(st.text(max_size=400), st.integers(0, 40))
@hypothesis_settings(max_examples=30, deadline=None)
def test_a_status_with_many_orders_and_alerts_is_small_and_says_what_is_not_in_it(words: str, count: int) -> None:
    orders = tuple(order_view(number, fired=True, words=words) for number in range(count))
    alerts = tuple(AlertView(80, words, NOON, words) for _ in range(count))
    answer = run_status(run_view(orders=orders, alerts=alerts))
    assert result_bytes(answer) <= RESULT_BYTES
    shown = len(answer.get("orders", []))  # type: ignore[arg-type]
    if shown < count:
        assert f"{shown} of {count} standing orders" in str(answer["truncated"])
