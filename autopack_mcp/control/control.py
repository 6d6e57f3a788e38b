"""Everything that people may ask of runs, behind one door, from any client.

It hands each wish to the part that knows its noun (``starting``, ``requests``, ``notes``, ``overrides``, ``orders``)
and moves no run itself. The MCP tools and the command line call it, so both answer alike.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from autopack_mcp.clock import Clock
from autopack_mcp.config.settings import Settings
from autopack_mcp.control.caps import CapWish
from autopack_mcp.control.forks import Forks, ForkWish
from autopack_mcp.control.notes import NoteOutcome, Notes
from autopack_mcp.control.orders import OrderOutcome, Orders, OrderWish
from autopack_mcp.control.overrides import OverrideOutcome, Overrides, OverrideWish
from autopack_mcp.control.person import Person
from autopack_mcp.control.requests import ACKNOWLEDGE_S, WAIT_S, RequestOutcome, Requests
from autopack_mcp.control.starting import Started, Starting
from autopack_mcp.database.engine import Database
from autopack_mcp.home import Home
from autopack_mcp.notes import Source
from autopack_mcp.routing.snapshot import SnapshotReader
from autopack_mcp.runs.launch import SupervisorLauncher
from autopack_mcp.runs.phase_wishes import PhaseWish
from autopack_mcp.runs.requests import Action


class Control:
    """The one door. What each method does, and what it raises, is said where it is done."""

    def __init__(
        self,
        *,
        home: Home,
        database: Database,
        clock: Clock,
        settings: Callable[[], Settings],
        supervisors: SupervisorLauncher,
        snapshots: SnapshotReader,
        wait_s: float = WAIT_S,
        acknowledge_s: float = ACKNOWLEDGE_S,
    ) -> None:
        self._starting = Starting(
            home=home,
            database=database,
            clock=clock,
            settings=settings,
            supervisors=supervisors,
            snapshots=snapshots,
        )
        self._forks = Forks(
            database=database, clock=clock, settings=settings, snapshots=snapshots, starting=self._starting
        )
        self._requests = Requests(
            database=database,
            clock=clock,
            settings=settings,
            supervisors=supervisors,
            wait_s=wait_s,
            acknowledge_s=acknowledge_s,
        )
        self._notes = Notes(database=database, clock=clock)
        self._overrides = Overrides(database=database, clock=clock, settings=settings, snapshots=snapshots)
        self._orders = Orders(database=database, clock=clock, settings=settings)

    async def start_named(self, name: str, person: Person, *, is_rehearsal: bool = False) -> Started:
        """Start a plan of a plan folder by its name."""
        return await self._starting.start_named(name, person, is_rehearsal=is_rehearsal)

    async def start_inline(self, text: str, person: Person, *, is_rehearsal: bool = False) -> Started:
        """Start a plan given as text, where the configuration allows that."""
        return await self._starting.start_inline(text, person, is_rehearsal=is_rehearsal)

    async def start_file(
        self,
        file: Path,
        person: Person,
        *,
        repository: Path | str | None = None,
        verify: str | None = None,
        is_rehearsal: bool = False,
    ) -> Started:
        """Start the plan of a file."""
        return await self._starting.start_file(
            file, person, repository=repository, verify=verify, is_rehearsal=is_rehearsal
        )

    async def fork(self, wish: ForkWish, source: Source, person: Person, *, may_set_commands: bool = False) -> Started:
        """Begin a run again from one of its phases, perhaps otherwise."""
        return await self._forks.fork(wish, source, person, may_set_commands=may_set_commands)

    async def request(self, run_id: str, action: Action, person: Person, *, now: bool = False) -> RequestOutcome:
        """Ask a run to pause, resume, cancel or give up."""
        return await self._requests.request(run_id, action, person, now=now)

    async def about_phase(
        self, run_id: str, wish: PhaseWish, person: Person, *, may_set_commands: bool = False
    ) -> RequestOutcome:
        """Try a phase anew, skip it or edit it."""
        return await self._requests.about_phase(run_id, wish, person, may_set_commands=may_set_commands)

    async def raise_cap(self, run_id: str, wish: CapWish, person: Person) -> RequestOutcome:
        """Give a run, or one of its phases, other caps."""
        return await self._requests.raise_cap(run_id, wish, person)

    async def add_note(self, run_id: str, text: str, source: Source, person: Person) -> NoteOutcome:
        """Put a note in force for the whole run."""
        return await self._notes.add_note(run_id, text, source, person)

    async def withdraw_note(self, run_id: str, note_id: int) -> str:
        """Take a note out of all later prompts."""
        return await self._notes.withdraw_note(run_id, note_id)

    async def override(self, wish: OverrideWish, person: Person) -> OverrideOutcome:
        """Choose another model for part of a run, or for all later runs."""
        return await self._overrides.override(wish, person)

    async def set_order(self, wish: OrderWish, person: Person) -> OrderOutcome:
        """Lay down a standing order."""
        return await self._orders.set_order(wish, person)

    async def remove_order(self, order_id: int) -> str:
        """Take a standing order out of force."""
        return await self._orders.remove_order(order_id)
