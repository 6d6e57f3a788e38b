"""The project's own source files as syntax trees, for the tests that look at their shape.

It owns how files and functions are found and how long a function is; the limits are in the tests.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "autopack_mcp"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Source:
    """One Python file: its path from the top of the checkout, its text and its tree."""

    path: str
    text: str
    tree: ast.Module

    def at(self, node: ast.expr | ast.stmt) -> str:
        """Where a node stands, as an editor opens it."""
        return f"{self.path}:{node.lineno}"

    def functions(self) -> Iterator[Function]:
        """Every function and method, nested ones too."""
        return (node for node in ast.walk(self.tree) if isinstance(node, Function))


@cache
def sources_in(folder: str) -> tuple[Source, ...]:
    """Every Python file below a folder of the checkout."""
    return tuple(_read(path) for path in sorted((ROOT / folder).rglob("*.py")) if "node_modules" not in path.parts)


def package_sources() -> tuple[Source, ...]:
    """Every file of ``autopack_mcp``."""
    return sources_in("autopack_mcp")


def body_lines(function: Function) -> int:
    """Lines from the first statement to the last; a docstring is not counted."""
    statements = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    if not statements:
        return 0
    last = statements[-1]
    assert last.end_lineno is not None
    return last.end_lineno - statements[0].lineno + 1


def _read(path: Path) -> Source:
    text = path.read_text(encoding="utf-8")
    return Source(str(path.relative_to(ROOT)), text, ast.parse(text))
