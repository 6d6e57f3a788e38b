"""The door over a real database, with accounts at a test's own upstream or played by a script.

It owns the wiring that ``app`` does for the product, so that a test can give prices, keys, waits and providers by name;
the tests of the door and of everything that asks through it use it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import RowMapping, select

from autopack_mcp import calls
from autopack_mcp.budgets.ledger import Ledger, book_external
from autopack_mcp.calls import Ask, CallDoor
from autopack_mcp.clock import ManualClock
from autopack_mcp.config.settings import ModelPrice, ProviderSettings, Settings, WindowCap
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import reservations, usage_events
from autopack_mcp.notes import Note
from autopack_mcp.providers.base import CallObservation, ChatMessage, Provider, ProviderCall, ProviderReply
from autopack_mcp.providers.pacing import RetryPolicy
from autopack_mcp.providers.registry import open_provider
from autopack_mcp.providers.scripted import ScriptedProvider
from autopack_mcp.routing.model_map import current_model_map, model_map_to_json
from autopack_mcp.routing.snapshot import SnapshotReader
from autopack_mcp.runs.rules import run_rules
from autopack_mcp.traces.texts import WordKeeper
from autopack_mcp.usage.prices import PriceBook, UnitPrices
from tests.factories import (
    NOON,
    call_scope,
    held_against,
    provider_settings,
    reservation,
    settings,
    token_counts,
    usage_event,
)
from tests.providers.upstream import Answer, Upstream

KEYS = {"OPENAI_API_KEY": "sk-test-1b4fJ9qLw2Zx7V", "ANTHROPIC_API_KEY": "sk-ant-test-8Kd3Nm1b"}
# Dollars per million tokens; whole numbers, so that a test can work out the nano-dollars in its head.
PRICES = {
    "gpt-big": ModelPrice(Decimal(4), Decimal(16)),
    "gpt-small": ModelPrice(Decimal(1), Decimal(4)),
    "claude": ModelPrice(Decimal(3), Decimal(15)),
}
PROMPT = "Please add a function that computes the sum of two unusual numbers."
QUESTION = (ChatMessage("user", PROMPT),)


def question(**overrides: Any) -> Ask:
    """The builder of a general phase of medium complexity, answered by gpt-big in at most 100 tokens."""
    return Ask(**{"role": "builder", "messages": QUESTION, "max_output_tokens": 100, "timeout_s": 30.0, **overrides})


def bound_of(ask: Ask) -> int:
    """What is reserved for a question: its bytes, the overhead, and the longest answer."""
    return sum(len(message.content.encode()) + 16 for message in ask.messages) + 64 + ask.max_output_tokens


def at(url: str) -> dict[str, ProviderSettings]:
    """The accounts of the usual settings, all answered by one server."""
    openai, anthropic = (settings().providers[name] for name in ("openai", "anthropic"))
    return {
        "openai": replace(openai, base_url=url, sdk="openai", api="chat"),
        "anthropic": replace(anthropic, base_url=url, sdk="anthropic", api="messages"),
    }


def capped(tokens: int, **overrides: Any) -> Settings:
    """The usual accounts, openai's with so many tokens a week."""
    return settings(provider_settings(WindowCap("week", tokens=tokens)), **overrides)


def spend(database: Database, tokens: int, provider: str = "openai") -> None:
    """Tokens that are gone already, at noon."""
    counts = token_counts(uncached_input=tokens, output=0)
    scope = call_scope(provider=provider, run_id=None, phase_id=None)
    database.write_now(book_external, usage_event(counts=counts, scope=scope), held_against(), NOON)


def says(text: str = "An answer.") -> ScriptedProvider:
    """A provider that always answers so."""
    return ScriptedProvider(lambda _: text)


def a_map() -> dict[str, Any]:
    """The model map that a run of the usual settings pins."""
    return model_map_to_json(current_model_map(settings(), ()))


class Held:
    """A provider that is held in the middle of its answer, or before it sends; ``begun`` tells when it is."""

    def __init__(self, *, sends: bool = True) -> None:
        self.sends = sends
        self.begun = asyncio.Event()
        self.calls = 0

    async def complete(self, call: ProviderCall, observation: CallObservation) -> ProviderReply:
        """Never returns."""
        self.calls += 1
        observation.sent = self.sends
        self.begun.set()
        await asyncio.Event().wait()
        raise AssertionError("it is never said")

    async def close(self) -> None:
        """Nothing to give back."""


@dataclass
class Scene:
    """A door and what a test may change about its world while it is open."""

    database: Database
    clock: ManualClock
    config: Settings
    keys: dict[str, str]
    prices: Mapping[str, ModelPrice]
    ledger: Ledger
    waits: list[float] = field(default_factory=list)
    while_waiting: Callable[[], Awaitable[object]] | None = None
    door: CallDoor = field(init=False)

    async def ask(self, *, notes: tuple[Note, ...] = (), **overrides: Any) -> calls.Answer:
        return await self.door.ask(question(**overrides), notes)

    async def wait(self, seconds: float) -> None:
        """Takes no time; a test may let something happen meanwhile."""
        self.waits.append(seconds)
        if self.while_waiting is not None:
            await self.while_waiting()

    def key_of(self, account: ProviderSettings) -> str | None:
        return self.keys.get(account.api_key_env or "")

    def unit_price(self, model: str) -> UnitPrices | None:
        price = self.prices.get(model)
        return None if price is None else UnitPrices(price.input, price.output)

    def events(self) -> list[RowMapping]:
        """Every booked row, in the order in which they were written."""
        rows = select(usage_events).order_by(usage_events.c.recorded_at, usage_events.c.occurred_at)
        return self.database.read_now(lambda connection: list(connection.execute(rows).mappings()))

    def facts(self, *names: str) -> list[tuple[object, ...]]:
        """These columns of every booked row."""
        return [tuple(row[name] for name in names) for row in self.events()]

    async def hold(self, tokens: int, **overrides: Any) -> str:
        """Somebody else's call in flight that takes so many tokens of its account's week."""
        promise = reservation(bound_input=tokens, bound_output=0, **overrides)
        assert isinstance(await self.ledger.reserve(promise), datetime)
        return promise.call_id

    def reservations(self) -> list[str]:
        """The state of every reservation there ever was, in alphabetical order."""
        rows = select(reservations.c.state)
        return sorted(self.database.read_now(lambda connection: connection.execute(rows).scalars().all()))


@asynccontextmanager
async def open_scene(
    database: Database,
    clock: ManualClock,
    provider: Provider | None = None,
    *,
    config: Settings | None = None,
    prices: Mapping[str, ModelPrice] = PRICES,
    ledger: Ledger | None = None,
    tries: int = 3,
    rehearsal_pause: Callable[[], Awaitable[None]] | None = None,
    words: WordKeeper | None = None,
) -> AsyncIterator[Scene]:
    """A door whose accounts are all played by ``provider``, or really called where ``config`` says they are."""
    wanted = config or settings()
    ledger = ledger or Ledger(database, clock, lambda: scene.config)
    scene = Scene(database, clock, wanted, dict(KEYS), prices, ledger)
    scene.door = CallDoor(
        database=database,
        ledger=scene.ledger,
        clock=clock,
        settings=lambda: scene.config,
        price_book=lambda: PriceBook(scene.prices),
        key_of=scene.key_of,
        snapshots=SnapshotReader(
            settings=lambda: scene.config,
            clock=clock,
            has_key=lambda account: scene.key_of(account) is not None,
            unit_price=scene.unit_price,
        ),
        run_rules=run_rules,
        open_provider=open_provider if provider is None else lambda account, key: provider,
        retry=RetryPolicy(tries_limit=tries),
        rehearsal_pause=rehearsal_pause,
        words=words,
        wait=scene.wait,
    )
    try:
        yield scene
    finally:
        await scene.door.close()


@asynccontextmanager
async def upstream_scene(
    database: Database, clock: ManualClock, *answers: Answer, **overrides: Any
) -> AsyncIterator[tuple[Scene, Upstream]]:
    """A door that really calls a server, which answers so."""
    async with Upstream(*answers) as upstream:
        config = settings(providers=at(upstream.url), **overrides)
        async with open_scene(database, clock, config=config) as scene:
            yield scene, upstream
