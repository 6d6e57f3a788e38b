"""Events out of bytes, however the network cuts them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.providers.sse import EventReader

EVENTS: list[object] = [{"a": 1}, {"text": "zwei\nZeilen ☃"}, [], "x", {"b": {"c": None}}]


def read(*chunks: bytes) -> tuple[list[object], bool]:
    reader = EventReader()
    return [event for chunk in chunks for event in reader.feed(chunk)], reader.is_done


def streamed(events: Sequence[object], newline: str = "\n") -> bytes:
    lines = [f"data: {json.dumps(event, ensure_ascii=False)}{newline}{newline}" for event in events]
    return "".join([*lines, f"data: [DONE]{newline}{newline}"]).encode()


@given(cuts=st.lists(st.integers(0, 200)), newline=st.sampled_from(["\n", "\r\n"]))
def test_it_does_not_matter_where_the_network_cuts(cuts: list[int], newline: str) -> None:
    whole = streamed(EVENTS, newline)
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    assert read(*(whole[start:end] for start, end in pairwise(edges))) == (EVENTS, True)


@pytest.mark.parametrize(
    "chunk",
    [
        pytest.param(b": keep-alive\n\n", id="a comment"),
        pytest.param(b"event: ping\nid: 7\nretry: 100\n\n", id="an event without data"),
        pytest.param(b"\n\n\r\n", id="blank lines"),
        pytest.param(b"data: {}", id="an event that does not end"),
        pytest.param(b"data: {}\n", id="an event whose blank line is missing"),
        pytest.param(b"Hello, this is no stream.\n\n", id="no event"),
        pytest.param(b"data:\n\ndata: \r\n\r\n", id="events of nothing"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_is_no_whole_event_says_nothing(chunk: bytes) -> None:
    assert read(chunk) == ([], False)


def test_other_fields_and_missing_spaces_do_not_matter() -> None:
    assert read(b'id: 1\nevent: x\ndata:{"a":\ndata: 1}\n\n') == ([{"a": 1}], False)


def test_nothing_counts_after_the_end() -> None:
    assert read(b"data: [DONE]\n\ndata: {}\n\n", b"data: {}\n\n") == ([], True)


@pytest.mark.parametrize("data", [b"{not json", b"\xff\xfe", b"DONE"])
def test_what_is_no_json_is_an_error(data: bytes) -> None:
    with pytest.raises((json.JSONDecodeError, UnicodeDecodeError)):
        read(b"data: " + data + b"\n\n")
