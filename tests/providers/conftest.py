"""Fixtures of the provider tests."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture(scope="session")
def loaded_sdks() -> None:
    """Both SDKs are imported before the first test is timed; the adapters would do it at their first call."""
    for sdk in ("openai", "anthropic"):
        importlib.import_module(sdk)
