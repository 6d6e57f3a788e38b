"""The door when a caller gives up, and what it says of notes: nothing sent goes unbooked, nothing unsent is charged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from threading import Event
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection

from autopack_mcp.budgets.ledger import Ledger, Reservation, RunFence
from autopack_mcp.calls import LEASE_MARGIN_S
from autopack_mcp.clock import ManualClock
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import Denial, ProviderRateLimited
from autopack_mcp.notes import add_note, notes_in_force, notes_of_run
from tests.doors import Held, a_map, bound_of, open_scene, question, says, upstream_scene
from tests.factories import NOON, insert_run, settings
from tests.ledger_truth import assert_ledger_adds_up
from tests.providers.upstream import Answer, ChatSpeech, MessagesSpeech, error

pytestmark = pytest.mark.anyio

CHAT, MESSAGES = ChatSpeech(), MessagesSpeech()
WELL = Answer([*CHAT.begun("An answer."), *CHAT.ended()])  # 11 tokens in, of them 4 cached; 7 out.
BUSY = error(429, {"error": {"message": "Slow down.", "type": "rate_limit_error"}}, retry_after="2")
BROKEN = error(500, {"error": {"message": "Oops.", "type": "server_error"}})
BOUND = bound_of(question())


PATIENCE_S = 20.0  # Of a test, on a machine with other work.


# --- giving up


async def test_cancelling_in_mid_stream_books_it_as_cut_and_is_not_swallowed(
    database: Database, clock: ManualClock
) -> None:
    answer = Answer([*MESSAGES.begun("half"), "hang"])
    async with upstream_scene(database, clock, answer) as (scene, upstream):
        asking = asyncio.create_task(scene.ask(role="auditor"))
        with anyio.fail_after(PATIENCE_S):
            await upstream.was_asked.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await upstream.client_gone.wait()
    assert scene.facts("status", "error", "charged_tokens") == [("cut", "interrupted", BOUND)]
    assert scene.reservations() == ["settled"]


async def test_a_second_cancel_does_not_lose_the_row_either(database: Database, clock: ManualClock) -> None:
    provider = Held()
    async with open_scene(database, clock, provider) as scene:
        asking = asyncio.create_task(scene.ask())
        await provider.begun.wait()
        with writer_busy(database) as go_on:
            for _ in range(3):
                asking.cancel()
                await asyncio.sleep(0)
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await asking
    assert scene.facts("status") == [("cut",)]


async def test_cancelling_before_anything_was_sent_releases(database: Database, clock: ManualClock) -> None:
    provider = Held(sends=False)
    async with open_scene(database, clock, provider) as scene:
        asking = asyncio.create_task(scene.ask())
        await provider.begun.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert (scene.reservations(), scene.events()) == (["released"], [])


async def test_cancelling_while_reserving_releases_and_sends_nothing(database: Database, clock: ManualClock) -> None:
    provider = Held()
    async with open_scene(database, clock, provider) as scene:
        reserving = asyncio.Event()
        scene.ledger.reserve = announced(scene.ledger.reserve, reserving)  # type: ignore[method-assign]  # to know when
        with writer_busy(database) as go_on:
            asking = asyncio.create_task(scene.ask())
            with anyio.fail_after(PATIENCE_S):
                await reserving.wait()
            asking.cancel()
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.sleep(0)
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await asking
    assert (scene.reservations(), scene.events(), provider.calls) == (["released"], [], 0)
    database.read_now(assert_ledger_adds_up)


async def test_cancelling_while_a_reservation_is_denied_is_still_a_cancel(
    database: Database, clock: ManualClock
) -> None:
    database.write_now(insert_run, model_map=a_map(), lease_token=2)
    async with open_scene(database, clock, says()) as scene:
        reserving = asyncio.Event()
        scene.ledger.reserve = announced(scene.ledger.reserve, reserving)  # type: ignore[method-assign]  # to know when
        with writer_busy(database) as go_on:
            asking = asyncio.create_task(scene.ask(run_id="R1", fence=RunFence("R1", 1)))
            with anyio.fail_after(PATIENCE_S):
                await reserving.wait()
            asking.cancel()
            await asyncio.sleep(0)
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await asking
    assert scene.reservations() == []


def announced(reserve: Callable[..., Any], begun: asyncio.Event) -> Callable[..., Any]:
    """``reserve``, telling when it has been handed to the writer."""

    async def announcing(*arguments: Any, **options: Any) -> Any:
        asyncio.get_running_loop().call_soon(begun.set)
        return await reserve(*arguments, **options)

    return announcing


@contextmanager
def writer_busy(database: Database) -> Iterator[Event]:
    """The writer is held until the event that is given is set."""
    go_on, is_held = Event(), Event()

    def occupy(_connection: Connection) -> None:
        is_held.set()
        go_on.wait(PATIENCE_S)

    occupied = database._writer.submit(occupy)
    is_held.wait(PATIENCE_S)
    try:
        yield go_on
    finally:
        go_on.set()
        occupied.result()


class SlowLedger(Ledger):
    """The machine sleeps for so many seconds between a reservation and whatever follows it; the first time only."""

    def __init__(self, database: Database, clock: ManualClock, sleep_s: float) -> None:
        super().__init__(database, clock, settings)
        self._machine = clock
        self._sleep_s = sleep_s

    async def reserve(
        self, reservation: Reservation, fence: RunFence | None = None, *, will_wait: bool = False
    ) -> datetime | Denial:
        outcome = await super().reserve(reservation, fence, will_wait=will_wait)
        self._machine.advance(self._sleep_s)
        self._sleep_s = 0
        return outcome


@pytest.mark.parametrize(
    "slept_s, states", [(LEASE_MARGIN_S, ["settled"]), (LEASE_MARGIN_S + 1, ["released", "settled"])]
)
async def test_a_call_that_would_outlive_its_reservation_is_reserved_anew(
    database: Database, clock: ManualClock, slept_s: float, states: list[str]
) -> None:
    ledger = SlowLedger(database, clock, slept_s)
    async with open_scene(database, clock, says(), ledger=ledger) as scene:
        await scene.ask()
    assert scene.reservations() == states
    assert len(scene.events()) == 1


# --- notes


def note(database: Database, text: str = "No new dependencies.") -> None:
    database.write_now(add_note, "R1", text, "tool", "ada", NOON)


def delivered(database: Database) -> list[tuple[str | None, int]]:
    return [(one.first_phase_id, one.delivered_count) for one in database.read_now(notes_of_run, "R1")]


async def test_a_note_is_delivered_once_with_the_first_try_that_a_model_may_have_read(
    database: Database, clock: ManualClock
) -> None:
    note(database)
    async with upstream_scene(database, clock, BUSY, BROKEN, WELL) as (scene, _):
        await scene.ask(run_id="R1", phase_id="P1", notes=await scene.door.notes("R1"))
        assert delivered(database) == [("P1", 1)]
        await scene.ask(run_id="R1", phase_id="P2", notes=await scene.door.notes("R1"))
    assert delivered(database) == [("P1", 2)]


async def test_a_note_that_reached_no_model_is_not_called_delivered(database: Database, clock: ManualClock) -> None:
    note(database)
    async with upstream_scene(database, clock, BUSY) as (scene, _):
        with pytest.raises(ProviderRateLimited):
            await scene.ask(run_id="R1", phase_id="P1", notes=await scene.door.notes("R1"))
    assert delivered(database) == [(None, 0)]


async def test_a_note_of_an_interrupted_call_counts_as_delivered(database: Database, clock: ManualClock) -> None:
    note(database)
    provider = Held()
    async with open_scene(database, clock, provider) as scene:
        notes = database.read_now(notes_in_force, "R1")
        asking = asyncio.create_task(scene.ask(run_id="R1", phase_id="P1", notes=notes))
        await provider.begun.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert delivered(database) == [("P1", 1)]


async def test_a_caller_without_a_run_has_no_notes(database: Database, clock: ManualClock) -> None:
    note(database)
    async with open_scene(database, clock, says()) as scene:
        assert (await scene.door.notes(None), await scene.door.notes("label")) == ((), ())
