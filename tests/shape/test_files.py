"""Every file says what it is for, and a package's ``__init__`` says only that."""

from __future__ import annotations

import ast
from itertools import chain

import pytest

import autopack_mcp
from tests.shape.sources import package_sources, sources_in

# What ``from autopack_mcp import …`` promises; a name may be added, never taken away or given another meaning.
PUBLIC_NAMES = ["AsyncLlmService", "LlmService", "ModelRouter", "UsageRecorder", "UsageService"]


def test_every_file_opens_with_a_docstring() -> None:
    silent = [
        source.path
        for source in chain(package_sources(), sources_in("tests"), sources_in("benchmarks"))
        if not ast.get_docstring(source.tree)
    ]
    assert silent == []


def test_packages_hold_a_docstring_and_no_code() -> None:
    talkative = [
        source.path
        for source in package_sources()
        if source.path.endswith("/__init__.py")
        and source.path != "autopack_mcp/__init__.py"
        and len(source.tree.body) > 1
    ]
    assert talkative == []


def test_public_names_are_exactly_the_promised_ones() -> None:
    assert sorted(autopack_mcp.__all__) == [*PUBLIC_NAMES, "__version__"]


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_public_name_can_be_imported(name: str) -> None:
    assert getattr(autopack_mcp, name).__name__ == name
