"""Fixtures that every test may use; everything else is a factory with overrides (``tests/factories.py``)."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import pytest
from sqlalchemy import Engine, StaticPool, create_engine

from autopack_mcp.clock import ManualClock
from autopack_mcp.database.engine import Database
from autopack_mcp.database.migrate import open_database
from autopack_mcp.database.tables import metadata
from tests.postgres import PostgresServer, running_postgres
from tests.postgres import why_it_cannot_run as why_no_postgres
from tests.upstream.harness import Upstream, running_upstream, why_it_cannot_run


def require_in_ci(reason: str) -> NoReturn:
    """Skip a test that this machine cannot run, and say why; with ``CI=true`` it fails, for there it must run."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"This must run in CI: {reason}")
    pytest.skip(reason)


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, the loop the product uses."""
    return "asyncio"


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still on a Wednesday noon, far from every window's edge."""
    return ManualClock(datetime(2026, 11, 18, 12, 0, tzinfo=UTC))


@pytest.fixture(scope="session")
def empty_database_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the current schema and no rows; migrating one for every test would take most of the time."""
    file = tmp_path_factory.mktemp("database") / "empty.db"
    open_database(f"sqlite:///{file}").close_now()
    return file


@pytest.fixture(scope="session")
def ledger_in_memory() -> Iterator[Engine]:
    """Every table and no row, in memory: for properties, whose hundreds of examples roll back what they did."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with engine.begin() as connection:
        metadata.create_all(connection)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL server for all tests of this process; tests that need a database of it ask for ``database``."""
    if reason := why_no_postgres():
        require_in_ci(reason)
    with ExitStack() as stack:
        try:
            running = stack.enter_context(running_postgres())
        except (AssertionError, OSError) as error:
            require_in_ci(f"PostgreSQL does not start: {error}")
        yield running


@pytest.fixture(scope="session")
def empty_postgres(postgres: PostgresServer) -> str:
    """The name of a database with the current schema and no rows; those of the tests are made like it."""
    name = postgres.create()
    open_database(postgres.url(name)).close_now()
    return name


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> str:
    """What ``database`` is made on: a test that uses it runs on both (docs/testing.md).

    ``@pytest.mark.parametrize("engine", ["sqlite"])`` keeps a test to one; a folder's conftest may keep all of its own.
    """
    return str(request.param)


@pytest.fixture
def postgres_url(postgres: PostgresServer, empty_postgres: str) -> Iterator[str]:
    """The address of a PostgreSQL database of this test's own, with the current schema and no rows."""
    with postgres.lent(empty_postgres) as name:
        yield postgres.url(name)


@pytest.fixture
def empty_database(engine: str, request: pytest.FixtureRequest) -> Path | str:
    """What a house begins with (``tests/runs/house.py``): the file it copies, or the address of a database."""
    wanted = "empty_database_file" if engine == "sqlite" else "postgres_url"
    found: Path | str = request.getfixturevalue(wanted)
    return found


@pytest.fixture
def database_url(empty_database: Path | str, tmp_path: Path) -> str:
    """The address of a database of this test's own, with the current schema and no rows."""
    if isinstance(empty_database, str):
        return empty_database
    return f"sqlite:///{shutil.copy(empty_database, tmp_path / 'autopack.db')}"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database of this test's own, on a real engine, with the current schema and no rows."""
    opened = open_database(database_url)
    yield opened
    asyncio.run(opened.close())


@pytest.fixture(scope="session")
def upstream_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """One upstream for all tests of this process; tests ask for ``upstream``."""
    if reason := why_it_cannot_run():
        require_in_ci(reason)
    with running_upstream(tmp_path_factory.mktemp("upstream") / "stderr.log") as running:
        yield running


@pytest.fixture
def upstream(upstream_process: Upstream) -> Iterator[Upstream]:
    """A scripted HTTP upstream with an empty script; a request it had no answer for fails the test."""
    upstream_process.forget()
    yield upstream_process
    assert not upstream_process.unanswered()
