"""Answers: whole in both renderings, and never larger than a chat can take."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autopack_mcp.mcp_server.answers import (
    RESULT_BYTES,
    Answer,
    first_that_fits,
    how_many_fit,
    json_bytes,
    known,
    result_bytes,
    result_of,
    short,
)


def lines(count: int) -> Answer:
    return {"lines": ["x" * 50] * count}


def test_both_renderings_say_the_same() -> None:
    result = result_of({"headline": "Über 100 %", "cap": None})
    assert result.structured_content == {"headline": "Über 100 %", "cap": None}
    assert [json.loads(block.text) for block in result.content] == [result.structured_content]  # type: ignore[union-attr]


def test_size_is_what_both_renderings_put_on_the_wire() -> None:
    result = result_of({"said": '"é\\'})
    wire = json.dumps(result.model_dump(mode="json")["content"][0]["text"], ensure_ascii=False)
    structured = json.dumps(result.structured_content, ensure_ascii=False, separators=(",", ":"))
    assert result_bytes({"said": '"é\\'}) == len(wire.encode()) + len(structured.encode())


def test_first_room_that_fits_is_taken_and_the_last_one_in_any_case() -> None:
    assert first_that_fits(lines, (1000, 60, 10)) == lines(60)
    assert first_that_fits(lines, (1000, 900)) == lines(900)


@given(most=st.integers(0, 400))
def test_as_many_lines_as_fit(most: int) -> None:
    count = how_many_fit(lines, most)
    assert result_bytes(lines(count)) <= RESULT_BYTES
    assert count == most or result_bytes(lines(count + 1)) > RESULT_BYTES


@given(text=st.text(), room=st.integers(3, 60))
@example(text="0\x1f\x1f\U000101fe\U0002673c", room=25)  # Only its last character is too much.
def test_short_text_takes_no_more_than_its_room(text: str, room: int) -> None:
    assert json_bytes(short(text, room)) - 2 <= room
    assert json_bytes(short(text, room, multiline=True)) - 2 <= room
    assert "\n" not in short(text, room)


@pytest.mark.parametrize(
    "text, shown",
    [
        ("twelve chars", "twelve chars"),
        ("thirteen chars", "thirteen …"),
        ("a\x1b[31mbcd", "a\\x1b[31…"),
        ("äöüäöüä", "äöüä…"),
        ("😀😀😀😀", "😀😀…"),
    ],
    ids=["fits", "is cut", "hidden characters are shown", "two bytes each", "four bytes each"],
)
def test_text_is_cut_by_its_bytes(text: str, shown: str) -> None:
    assert short(text, 12) == shown


def test_fields_that_say_nothing_are_left_out() -> None:
    assert known(a=None, b="", c=0, d=[], e=False, f="x", g=1) == {"f": "x", "g": 1}
