"""What is installed is what was checked, from wherever it is fetched; and each dependency has its reason in docs."""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from typing import Any

import pytest

from tests.shape.sources import ROOT, package_sources

# Never imported by name: SQLAlchemy loads its drivers by URL.
LOADED_BY_NAME = {"aiosqlite"}


@pytest.fixture
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def distribution_name(requirement: str) -> str:
    """``SQLAlchemy[asyncio]>=2.1`` → ``sqlalchemy``."""
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-").replace(".", "-")


def pins(kind: str) -> dict[str, str]:
    """Name → version of every requirement that carries at least one hash."""
    text = (ROOT / "requirements" / f"{kind}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)[^\n]*\\\n    --hash=sha256:", text, re.MULTILINE))


def imported_distributions() -> set[str]:
    """Every distribution that some module of the package imports."""
    imported: set[str] = set()
    for source in package_sources():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported.add(node.module.split(".")[0])
    known = packages_distributions()
    ours_or_pythons = sys.stdlib_module_names | {"autopack_mcp"}
    return {distribution_name(known.get(name, [name])[0]) for name in imported - ours_or_pythons}


@pytest.mark.parametrize("kind", ["runtime", "dev"])
def test_every_pin_has_a_hash_and_none_an_address(kind: str) -> None:
    text = (ROOT / "requirements" / f"{kind}.txt").read_text(encoding="utf-8")
    assert len(pins(kind)) == len(re.findall(r"^[^\s#]", text, re.MULTILINE))
    assert "://" not in text


def test_dev_pins_contain_the_runtime_ones() -> None:
    assert pins("runtime").items() <= pins("dev").items()


def test_every_declared_dependency_is_pinned(project: dict[str, Any]) -> None:
    declared = {distribution_name(line) for line in project["project"]["dependencies"]}
    assert declared <= set(pins("runtime"))


def test_package_imports_nothing_that_it_does_not_declare(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"].values()
    declared = [*project["project"]["dependencies"], *(line for extra in extras for line in extra)]
    assert imported_distributions() - set(map(distribution_name, declared)) == set()


def test_package_declares_nothing_that_it_does_not_import(project: dict[str, Any]) -> None:
    declared = {distribution_name(line) for line in project["project"]["dependencies"]}
    assert declared - imported_distributions() - LOADED_BY_NAME == set()


def test_every_dependency_has_its_line_in_the_docs(project: dict[str, Any]) -> None:
    groups = [*project["project"]["optional-dependencies"].values(), *project["dependency-groups"].values()]
    lines = [line for group in (project["project"]["dependencies"], *groups) for line in group if isinstance(line, str)]
    documented = re.findall(r"^\| `([a-z0-9-]+)", (ROOT / "docs" / "dependencies.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(documented) == sorted(set(map(distribution_name, lines)))


def test_test_upstream_is_pinned_by_hash_and_without_an_address() -> None:
    lock = json.loads((ROOT / "tests/upstream/package-lock.json").read_text(encoding="utf-8"))
    fetched = {path: package for path, package in lock["packages"].items() if path}
    assert fetched
    assert all(package["integrity"].startswith("sha512-") for package in fetched.values())
    assert not any("resolved" in package for package in fetched.values())
