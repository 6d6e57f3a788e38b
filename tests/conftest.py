"""Fixtures that every test may use; everything else is a factory with overrides (``tests/factories.py``)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from autopack_mcp.clock import ManualClock


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, the loop the product uses."""
    return "asyncio"


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still on a Wednesday noon, far from every window's edge."""
    return ManualClock(datetime(2026, 11, 18, 12, 0, tzinfo=UTC))
