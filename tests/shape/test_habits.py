"""Habits that a reader may rely on: one clock, one voice, imports at the top."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.shape.sources import Source, package_sources

SPEAKING = ("autopack_mcp/cli/", "autopack_mcp/demo.py")
WALL_CLOCKS = {
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
    "datetime.datetime.now",
    "datetime.date.today",
    "time.time",
    "time.time_ns",
}


def calls(source: Source) -> Iterator[ast.Call]:
    return (node for node in ast.walk(source.tree) if isinstance(node, ast.Call))


def wall_clock_calls(source: Source) -> list[str]:
    return [source.at(call) for call in calls(source) if ast.unparse(call.func) in WALL_CLOCKS]


def says_why(text: str | None) -> bool:
    """Whether a text speaks of importing late."""
    return re.search(r"\b(lazy|lazily|import(s|ed|ing)?|load(s|ed|ing)?)\b", text or "", re.IGNORECASE) is not None


def silent_lazy_imports(source: Source) -> list[str]:
    """Imports inside functions that neither a comment in the function, its docstring nor the file's speaks of."""
    if says_why(ast.get_docstring(source.tree)):
        return []
    lines = source.text.splitlines()
    return [
        f"{source.at(node)} {ast.unparse(node)}"
        for function in source.functions()
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
        and not says_why(ast.get_docstring(function))
        and not any("#" in line for line in lines[function.lineno : node.lineno])
    ]


def test_only_the_clock_asks_for_the_time() -> None:
    asking = [
        place
        for source in package_sources()
        if source.path != "autopack_mcp/clock.py"
        for place in wall_clock_calls(source)
    ]
    assert asking == []


def test_only_the_command_line_prints() -> None:
    printing = [
        source.at(call)
        for source in package_sources()
        if not source.path.startswith(SPEAKING)
        for call in calls(source)
        if ast.unparse(call.func) == "print"
    ]
    assert printing == []


def test_import_inside_a_function_says_why() -> None:
    assert [place for source in package_sources() for place in silent_lazy_imports(source)] == []


@pytest.mark.parametrize(
    "text, is_silent",
    [
        ("def f():\n    import heavy\n", True),
        ("def f():\n    import heavy  # Lazy: half a second.\n", False),
        ("def f():\n    # Half a second.\n    import heavy\n", False),
        ('def f():\n    """Answer; heavy is loaded when it is needed."""\n    import heavy\n', False),
        ('"""Its parts are imported when they are asked for."""\ndef f():\n    import heavy\n', False),
        ("import heavy\n", False),
    ],
    ids=["silent", "behind it", "above it", "in the docstring", "in the file's docstring", "at the top"],
)
def test_reasons_of_lazy_imports_are_recognised(text: str, is_silent: bool) -> None:
    assert bool(silent_lazy_imports(Source("example.py", text, ast.parse(text)))) == is_silent


@pytest.mark.parametrize(
    "text, places",
    [
        ("import time\ntime.time()", ["example.py:2"]),
        ("datetime.now(UTC)", ["example.py:1"]),
        ("time.monotonic()", []),
        ("clock.now()", []),
    ],
    ids=["time", "now", "monotonic is no wall clock", "our clock"],
)
def test_wall_clocks_are_recognised(text: str, places: list[str]) -> None:
    assert wall_clock_calls(Source("example.py", text, ast.parse(text))) == places
