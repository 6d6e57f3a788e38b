"""What every test of control begins with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from autopack_mcp.clock import ManualClock
from tests.control.counter import Counter
from tests.projects import make_repository
from tests.runs.house import open_house


@pytest.fixture
async def counter(tmp_path: Path, empty_database: Path | str, clock: ManualClock) -> AsyncIterator[Counter]:
    async with open_house(tmp_path, empty_database, clock=clock) as house:
        yield Counter(house, clock)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "project")
