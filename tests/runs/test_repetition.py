"""What counts as the same again, and what does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.runs.records import AttemptRecord
from autopack_mcp.runs.repetition import SAME_LIMIT, lasting, repetition
from tests.factories import NOON


def an_attempt(reason: str, **overrides: Any) -> AttemptRecord:
    values: dict[str, Any] = dict.fromkeys(AttemptRecord.__dataclass_fields__)
    known = {"run_id": "R1", "phase_id": "P1", "attempt": 1, "state": "failed", "parent_commit": "0" * 40}
    return AttemptRecord(**{**values, **known, "started_at": NOON, "reason": reason, **overrides})


@pytest.mark.parametrize(
    "first, second",
    [
        ("1 failed, 12 passed in 0.31s", "1 failed, 12 passed in 1.20s"),
        ("took 950 ms", "took 1.1 s"),
        ("FileNotFoundError: '/tmp/pytest-of-ann/pytest-3/x0'", "FileNotFoundError: '/tmp/pytest-of-ann/pytest-41/x0'"),
        ("in /private/var/folders/zz/a1/T/q", "in /private/var/folders/zz/b2/T/q"),
        ("<Thing object at 0x7f3a2b10>", "<Thing object at 0x7F11CC98>"),
        ("commit 9fceb02d0ae598e95dc970b74767f19372d61af8", "commit 0123456789abcdef0123456789abcdef01234567"),
        ("request req_011CSHoEeqs5C35K2UUqR7Fy failed", "request req_011CTQzWnmQe4NEeUrPNCqj1 failed"),
        ("id 123e4567-e89b-42d3-a456-426614174000", "id 9b2e1c1a-0000-4444-8888-aaaabbbbcccc"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("at line 12,\n  column 4", "at line 7, column 90"),
        ("2026-11-22 08:15:01 it broke", "2026-11-23 19:00:59 it broke"),
    ],
    ids=[
        "seconds", "another unit", "temporary folder", "temporary folder of a Mac", "address", "hash", "request id",
        "uuid", "colours", "lines and blanks", "dates",
    ],
)  # fmt: skip
def test_what_passes_by_makes_no_difference(first: str, second: str) -> None:
    assert lasting(first) == lasting(second)


@pytest.mark.parametrize(
    "first, second",
    [
        ("test_add failed", "test_sub failed"),
        ("expected 'a'", "expected 'b'"),
        ("src/a.py is wrong", "src/b.py is wrong"),
        ("the verification command failed", "the auditor rejected it"),
        ("internationalization", "containerization"),
        ("feedback", "defaced"),
    ],
)
def test_what_lasts_does(first: str, second: str) -> None:
    assert lasting(first) != lasting(second)


@pytest.mark.parametrize("count, is_said", [(SAME_LIMIT - 1, False), (SAME_LIMIT, True), (SAME_LIMIT + 1, True)])
def test_the_same_failure_is_a_circle_from_the_third_time_on(count: int, is_said: bool) -> None:
    found = repetition([an_attempt(f"red in {number} s") for number in range(count)])

    assert found == (f"{count} attempts failed in the same way" if is_said else None)


def test_failures_that_take_turns_go_round_as_well() -> None:
    turns = [an_attempt(reason) for reason in ("red", "rejected", "red", "rejected", "red")]

    assert [repetition(turns[: count + 1]) is not None for count in range(5)] == [False, False, False, False, True]


def test_the_same_change_is_a_circle_whatever_is_said_about_it() -> None:
    said = ("too long", "badly named", "no test")
    same = [an_attempt(reason, tree="t" * 40) for reason in said]

    assert repetition(same) == "3 attempts brought the same change"
    assert repetition([*same[:2], an_attempt(said[2], tree="u" * 40)]) is None


def test_attempts_without_a_change_are_not_the_same_change() -> None:
    assert repetition([an_attempt(reason) for reason in ("prose", "no such file", "nothing changed")]) is None


@given(st.lists(st.text(max_size=40), min_size=1, max_size=SAME_LIMIT - 1))
def test_fewer_attempts_than_three_are_never_a_circle(reasons: list[str]) -> None:
    assert repetition([an_attempt(reason, tree="t" * 40) for reason in reasons]) is None


@given(st.text(max_size=200))
def test_any_words_have_a_lasting_part_that_stays_as_it_is(reason: str) -> None:
    # Words that were taken out leave none behind that would be taken out next time.
    assert lasting(lasting(reason)) == lasting(reason)
