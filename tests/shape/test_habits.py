"""Habits that a reader may rely on: one clock, one voice, imports at the top."""

from __future__ import annotations

import ast
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


def lazy_imports(source: Source) -> Iterator[ast.Import | ast.ImportFrom]:
    for function in source.functions():
        yield from (node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom))


def says_why(source: Source, node: ast.stmt) -> bool:
    """Whether a comment stands on the line of a node, or in the lines just above it that import too."""
    lines = source.text.splitlines()
    above = node.lineno - 2
    while above >= 0 and lines[above].strip().startswith(("import ", "from ")) and "#" not in lines[above]:
        above -= 1
    return "#" in lines[node.lineno - 1] or "#" in lines[above]


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
    silent = [
        f"{source.at(node)} {ast.unparse(node)}"
        for source in package_sources()
        for node in lazy_imports(source)
        if not says_why(source, node)
    ]
    assert silent == []


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
