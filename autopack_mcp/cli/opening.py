"""Opens what a verb needs and closes it again, and says who is asking.

It owns the lifetime of an Autopack on the command line; ``app`` wires it.
"""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from autopack_mcp.app import Autopack, open_autopack

if TYPE_CHECKING:
    from autopack_mcp.control.control import Control
    from autopack_mcp.control.person import Person

T = TypeVar("T")


@contextmanager
def opened() -> Iterator[Autopack]:
    """The Autopack of AUTOPACK_HOME, for a verb that only reads."""
    autopack = open_autopack()
    try:
        yield autopack
    finally:
        autopack.database.close_now()


def acting(act: Callable[[Control, Person], Coroutine[object, object, T]]) -> T:
    """Run one act of a person at this terminal."""
    return asyncio.run(_acting(act))


async def _acting(act: Callable[[Control, Person], Coroutine[object, object, T]]) -> T:
    # Lazy: verbs that only read must not pay for it.
    from autopack_mcp.app import control

    autopack = open_autopack()
    try:
        return await act(control(autopack), asked_here())
    finally:
        await autopack.database.close()


def asked_here() -> Person:
    """Who sits at this terminal."""
    # Lazy: see above.
    from autopack_mcp.control.person import Person

    return Person(_user(), "command line")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
