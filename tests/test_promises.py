"""Every promise is held by a test and stands where it says; every test of a whole run holds a promise."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.promises import PROMISES, Promise

ROOT = Path(__file__).parents[1]
# What these files do, people notice: a test there that holds no promise is a promise that nobody wrote down.
WHOLE_RUNS = ("tests/e2e/test_*.py", "tests/runs/test_supervisor.py")


@cache
def names_in(path: str) -> frozenset[str]:
    """The test functions of a file; none when there is no such file."""
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(function.name for function in functions if function.name.startswith("test_"))


@cache
def headings_in(path: str) -> frozenset[str]:
    """The headings of a document; none when there is no such file."""
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    lines = file.read_text(encoding="utf-8").splitlines()
    return frozenset(line.lstrip("#").strip() for line in lines if line.startswith("#"))


def whole_runs() -> Iterator[str]:
    for pattern in WHOLE_RUNS:
        for file in sorted(ROOT.glob(pattern)):
            path = file.relative_to(ROOT).as_posix()
            yield from (f"{path}::{name}" for name in sorted(names_in(path)))


def numbers_in_the_code() -> set[int]:
    """Every contract that a comment or a docstring calls by its number."""
    found: set[int] = set()
    for file in (ROOT / "autopack_mcp").rglob("*.py"):
        for match in re.finditer(r"\bcontracts? ((?:\d+(?:, | and | to )?)+)", file.read_text(encoding="utf-8")):
            found |= {int(number) for number in re.findall(r"\d+", match[1])}
    return found


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.says[:50])
def test_a_promise_is_held_by_tests_that_exist(promise: Promise) -> None:
    assert promise.held_by
    missing = [test for test in promise.held_by if test.partition("::")[2] not in names_in(test.partition("::")[0])]
    assert missing == []


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.says[:50])
def test_a_promise_stands_where_it_says(promise: Promise) -> None:
    assert promise.promised_in
    for place in promise.promised_in:
        path, _, heading = place.partition("#")
        assert heading in headings_in(path), place


def test_every_test_of_a_whole_run_holds_a_promise() -> None:
    held = {test for promise in PROMISES for test in promise.held_by}
    assert [test for test in whole_runs() if test not in held] == []


def test_every_contract_that_the_code_names_is_a_promise() -> None:
    assert numbers_in_the_code() - {promise.number for promise in PROMISES} == set()


def test_no_promise_is_made_twice() -> None:
    assert [says for says, count in Counter(promise.says for promise in PROMISES).items() if count > 1] == []
    for promise in PROMISES:
        assert len(set(promise.held_by)) == len(promise.held_by)
