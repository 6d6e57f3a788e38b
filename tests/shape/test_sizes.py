"""Functions stay short enough to be read at a glance."""

from __future__ import annotations

import ast
from itertools import chain

from tests.shape.sources import body_lines, package_sources, sources_in

LONGEST_LINES = 70
USUAL_LINES = 40
USUAL_SHARE = 0.95


def test_no_function_is_longer_than_seventy_lines() -> None:
    too_long = [
        f"{source.at(function)} {function.name}: {body_lines(function)} lines"
        for source in chain(package_sources(), sources_in("tests"), sources_in("benchmarks"))
        for function in source.functions()
        if body_lines(function) > LONGEST_LINES
    ]
    assert too_long == []


def test_nineteen_of_twenty_functions_stay_under_forty_lines() -> None:
    lengths = [body_lines(function) for source in package_sources() for function in source.functions()]
    assert sum(length < USUAL_LINES for length in lengths) >= USUAL_SHARE * len(lengths)


def test_a_docstring_is_not_counted_and_a_decorator_is_not_the_body() -> None:
    text = '@decorate\ndef two():\n    """Says.\n\n    Much.\n    """\n    first = 1\n\n    return first\n'
    function = ast.parse(text).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert body_lines(function) == 3
