"""Standing orders as people lay them down: what is understood, what is refused, and what the answer says."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from autopack_mcp.budgets.caps import CallScope
from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.budgets.standing_orders import OrderAction, StandingOrder, orders_in_force
from autopack_mcp.config.settings import Window, WindowCap
from autopack_mcp.control.orders import EARLY, OrderOutcome, OrderWish
from autopack_mcp.database.tables import order_firings, phase_caps, standing_orders
from autopack_mcp.errors import AutopackError, IllegalTransition, RequestRefused, RunNotFound
from tests.control.counter import BOB, Counter, count_of
from tests.factories import NOON, held_against, insert_phase, provider_settings, settings, token_counts, usage_event

pytestmark = pytest.mark.anyio
DOLLAR = 1_000_000_000
SO_ALREADY = "That is so already: 830,000 tokens of 800,000 tokens are used now"


@pytest.fixture
def counter(counter: Counter) -> Counter:
    """Anthropic has a million tokens a week, all calls ten dollars a day; runs R1 (in phase P1) and R2 (ended)."""
    anthropic = provider_settings(
        WindowCap("week", tokens=1_000_000), provider="anthropic", api_key_env="ANTHROPIC_API_KEY"
    )
    counter.changed_settings = {
        "providers": settings(anthropic).providers,
        "global_caps": (WindowCap("day", nano_usd=10 * DOLLAR),),
    }
    counter.a_run("running", run_id="R1")
    counter.write(partial(insert_phase, index=1, state="building", attempt=1))
    counter.a_run("succeeded", run_id="R2")
    return counter


async def lay(
    counter: Counter,
    action: OrderAction,
    when: str,
    reaches: str,
    period: Window | None = None,
    run_id: str | None = None,
) -> OrderOutcome:
    return await counter.control().set_order(OrderWish(action, when, reaches, period, run_id), BOB)


def in_force(counter: Counter) -> tuple[StandingOrder, ...]:
    found: tuple[StandingOrder, ...] = counter.read(orders_in_force)
    return found


def spent(counter: Counter, tokens: int, nano: int = 0, **scope: Any) -> None:
    """Tokens that are gone already."""
    owner = CallScope(**{"provider": "anthropic", "role": "builder", "purpose": "run", **scope})
    event = usage_event(scope=owner, counts=token_counts(uncached_input=tokens, output=0), cost_nano=nano)
    counter.write(book_external, event, held_against(), NOON)


@pytest.mark.parametrize(
    "wish, facts, said",
    [
        pytest.param(
            ("pause", "anthropic", "80%", None, "R1"),
            ("pause", "provider", "percent", 80, "R1", "anthropic", "week"),
            "pause run R1 when anthropic reaches 80 % of its cap of the week. 0 tokens of 800,000 tokens are used now.",
            id="pause a run at a share of a provider's week",
        ),
        pytest.param(
            ("cancel", "Anthropic", "80 %", None, None),
            ("cancel", "provider", "percent", 80, None, "anthropic", "week"),
            "cancel any run when anthropic reaches 80 % of its cap of the week."
            " 0 tokens of 800,000 tokens are used now.",
            id="cancel every run there",
        ),
        pytest.param(
            ("pause", "run", "$5", None, "R1"),
            ("pause", "run", "nano_usd", 5 * DOLLAR, "R1", None, None),
            "pause run R1 when it reaches $5.00. $0.00 of $5.00 are used now.",
            id="what the run has cost",
        ),
        pytest.param(
            ("pause", "phase", "200k", None, "R1"),
            ("pause", "phase", "tokens", 200_000, "R1", None, None),
            "pause run R1 when a phase of it reaches 200,000 tokens. 0 tokens of 200,000 tokens are used now.",
            id="what a phase has used",
        ),
        pytest.param(
            ("pause", "run", "$5", None, None),
            ("pause", "run", "nano_usd", 5 * DOLLAR, None, None, None),
            "pause any run when it reaches $5.00.",
            id="what any run has cost",
        ),
        pytest.param(
            ("tell", "all", "50%", "day", None),
            ("tell", "global", "percent", 50, None, None, "day"),
            "tell when everything together reaches 50 % of its cap of the day. $0.00 of $5.00 are used now.",
            id="tell of all calls",
        ),
    ],
)
async def test_a_wish_becomes_an_order_whose_answer_says_what_will_happen(
    counter: Counter, wish: Any, facts: tuple[Any, ...], said: str
) -> None:
    outcome = await lay(counter, *wish)

    (order,) = in_force(counter)
    names = ("action", "subject", "unit", "threshold", "run_id", "provider", "period")
    assert tuple(getattr(order, name) for name in names) == facts
    assert (order.author, order.client, order.created_at) == ("bob", "a phone", NOON)
    assert (outcome.order_id, outcome.is_new) == (order.order_id, True)
    early = "" if wish[0] == "tell" else f" {EARLY}"
    assert outcome.message == f"Standing order {order.order_id} is in force: {said}{early}"
    assert said.startswith(outcome.order)


@pytest.mark.parametrize(
    "wish, said",
    [
        (
            ("pause", "anthropic", "80%", None, "R1"),
            f"{SO_ALREADY}, so the next call of run R1 will be denied and the run",
        ),
        (
            ("cancel", "anthropic", "80%"),
            f"{SO_ALREADY}, so the next call of any run will be denied and the run cancel",
        ),
        (("tell", "anthropic", "80%"), f"{SO_ALREADY}."),
        (("pause", "anthropic", "90%", None, "R1"), "week. 830,000 tokens of 900,000 tokens are used now."),
        (("pause", "run", "$5", None, "R1"), "That is so already: $6.00 of $5.00 are used now"),
        (("pause", "phase", "830,000 tokens", None, "R1"), "830,000 tokens of 830,000 tokens are used now, so the"),
    ],
    ids=["pause", "cancel", "tell", "not yet", "of a run", "of the phase in hand"],
)
async def test_the_answer_says_how_far_it_is_and_when_it_is_so_already(counter: Counter, wish: Any, said: str) -> None:
    spent(counter, 830_000, 6 * DOLLAR, run_id="R1", phase_id="P1")
    assert said in (await lay(counter, *wish)).message


async def test_saying_the_same_twice_changes_nothing_until_the_order_has_fired(counter: Counter) -> None:
    first = await lay(counter, "pause", "anthropic", "80%", run_id="R1")
    again = await lay(counter, "pause", "Anthropic", "80 %", "week", "R1")
    assert (again.order_id, again.is_new) == (first.order_id, False)
    assert again.message.startswith(f"Standing order {first.order_id} says that already: pause run R1")

    row = {
        "order_id": first.order_id, "run_id": "R1", "action": "pause", "scope": "provider/anthropic/week/2026-W47",
        "unit": "tokens", "threshold": 1, "used": 1, "call_id": "c", "why": "", "fired_at": NOON, "did": "",
    }  # fmt: skip
    counter.write(lambda connection: connection.execute(order_firings.insert().values(**row)))
    new = await lay(counter, "pause", "anthropic", "80%", run_id="R1")
    assert (new.is_new, [order.order_id for order in in_force(counter)]) == (True, [new.order_id])
    assert f"takes the place of standing order {first.order_id}, which said the same and has fired." in new.message


@pytest.mark.parametrize(
    "wish, error, said",
    [
        (("pause", "anthropic", "80"), RequestRefused, "'80' of what? It has no unit."),
        (("pause", "claude", "80%"), RequestRefused, "'claude' is no provider. Providers are"),
        (("pause", "", "80%"), RequestRefused, "'' is no provider."),
        (
            ("pause", "openai", "80%"),
            RequestRefused,
            "Openai has no cap of the week: percent of what? Configured are anthropic's week, the day of all calls.",
        ),
        (("pause", "anthropic", "80%", "day"), RequestRefused, "Anthropic has no cap of the day: percent of what?"),
        (("pause", "all", "80%"), RequestRefused, "Everything together has no cap of the week: percent of what?"),
        (("pause", "run", "80%", None, "R1"), RequestRefused, "Run R1 has no cap: percent of what?"),
        (("pause", "phase", "80%", None, "R1"), RequestRefused, "No phase of run R1 has a cap: percent of what?"),
        (("pause", "run", "$5", "day", "R1"), RequestRefused, "this order takes no period"),
        (("tell", "anthropic", "80%", None, "R1"), RequestRefused, "concerns no single run. Leave the run out."),
        (("pause", "run", "$5", None, "R9"), RunNotFound, "No run 'R9'. Known runs"),
        (("pause", "run", "$5", None, "R2"), IllegalTransition, "'order' is not possible while the run is 'succeeded'"),
    ],
    ids=[
        "no unit", "no provider", "nobody", "no cap", "no cap of that period", "no global cap", "run without a cap",
        "phases without caps", "period of a run", "telling one run of a provider", "unknown run", "ended run",
    ],
)  # fmt: skip
async def test_what_could_never_hold_is_refused_and_nothing_is_written(
    counter: Counter, wish: Any, error: type[AutopackError], said: str
) -> None:
    with pytest.raises(error) as caught:
        await lay(counter, *wish)
    assert said in str(caught.value)
    assert counter.read(count_of, standing_orders) == 0


@pytest.mark.parametrize(
    "when, of_run, of_phase",
    [("run", {"token_cap": 1_000}, None), ("phase", {}, {"cost_cap_nano": DOLLAR})],
    ids=["run", "phase"],
)
async def test_a_share_of_a_runs_own_cap_can_be_named(
    counter: Counter, when: str, of_run: dict[str, int], of_phase: dict[str, int] | None
) -> None:
    counter.a_run("running", run_id="R3", **of_run)
    counter.write(partial(insert_phase, index=1, run_id="R3", state="building", attempt=1))
    if of_phase is not None:
        row = {"run_id": "R3", "phase_id": "P1", **of_phase}
        counter.write(lambda connection: connection.execute(phase_caps.insert().values(**row)))

    outcome = await lay(counter, "pause", when, "50%", run_id="R3")
    assert outcome.message.endswith(
        f"{'0 tokens of 500 tokens' if when == 'run' else '$0.00 of $0.50'} are used now. {EARLY}"
    )


async def test_an_order_is_removed_once(counter: Counter) -> None:
    kept = await lay(counter, "tell", "run", "$5")
    order = await lay(counter, "pause", "run", "$5", run_id="R1")
    control = counter.control()

    assert await control.remove_order(order.order_id) == (
        f"Standing order {order.order_id} is removed: pause run R1 when it reaches $5.00."
    )
    assert [one.order_id for one in in_force(counter)] == [kept.order_id]
    for number in (order.order_id, 99):
        with pytest.raises(RequestRefused) as caught:
            await control.remove_order(number)
        assert str(caught.value) == (
            f"No standing order {number} is in force. In force are {kept.order_id}: tell when any run reaches $5.00."
        )


async def test_where_no_order_is_in_force_removing_says_so(counter: Counter) -> None:
    with pytest.raises(RequestRefused, match="No standing order is in force"):
        await counter.control().remove_order(1)
