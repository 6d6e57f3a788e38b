"""The words of calls: packed without secrets, found again, gone after some days."""

from __future__ import annotations

import zlib
from datetime import datetime, timedelta

import pytest

from autopack_mcp.database.engine import Database
from autopack_mcp.traces import texts
from autopack_mcp.traces.texts import (
    WordKeeper,
    Words,
    forget_some_words,
    kept_call,
    newest_kept,
    pack,
    unpack,
    words_before,
    write_words,
)
from tests.factories import NOON

WORDS = Words((("system", "Be brief."), ("user", "How long is a piece of string? ☃")), 100, "Twice its half.", "stop")


def keep(database: Database, call_id: str, words: Words = WORDS, at: datetime = NOON) -> None:
    facts = {"call_id": call_id, "run_id": "R1", "phase_id": "P1", "role": "builder", "model": "gpt-big", "at": at}
    database.write_now(write_words, pack(words, {}), **facts)  # type: ignore[arg-type]


def test_words_come_back_as_they_were() -> None:
    packed = pack(WORDS, {})
    assert unpack(packed.request, packed.reply) == WORDS
    assert packed.redactions == 0


def test_a_call_without_an_answer_has_no_reply() -> None:
    packed = pack(Words((("user", "Hello?"),), 100), {})
    assert packed.reply is None
    assert unpack(packed.request, None) == Words((("user", "Hello?"),), 100)


def test_secrets_of_prompt_and_reply_are_taken_out_before_anything_is_packed() -> None:
    words = Words((("user", "my key is topsecret1"),), 9, "so topsecret1 it is, with password=hunter2", "stop")
    packed = pack(words, {"OURS": "topsecret1"})
    raw = zlib.decompress(packed.request) + zlib.decompress(packed.reply or b"")
    assert packed.redactions == 3
    assert b"topsecret1" not in raw
    assert b"hunter2" not in raw


def test_half_a_character_keeps_nothing_from_being_packed() -> None:
    packed = pack(Words((("user", "a\ud800b\0"),), 9), {})
    assert unpack(packed.request, None).messages == (("user", "a?b\0"),)


def test_large_words_take_a_fraction_of_their_room() -> None:
    text = "def add(a: int, b: int) -> int:\n    return a + b\n" * 2_000
    assert len(pack(Words((("user", text),), 9), {}).request) < len(text) / 10


def test_nothing_is_packed_when_it_is_not_wanted() -> None:
    def unasked() -> Words:
        raise AssertionError("nobody asks for the words")

    assert WordKeeper(lambda: False, dict).packed(unasked) is None


def test_words_that_cannot_be_packed_are_logged_and_left(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> dict[str, str]:
        raise ValueError("no secrets today")

    assert WordKeeper(lambda: True, broken).packed(lambda: WORDS) is None
    assert "could not be kept" in caplog.text


def test_a_call_is_found_by_its_id_with_whose_it_is(database: Database) -> None:
    keep(database, "c-1")
    found = database.read_now(kept_call, "c-1")
    assert found is not None
    assert (found.run_id, found.phase_id, found.role, found.model) == ("R1", "P1", "builder", "gpt-big")
    assert (found.words, found.redactions, found.stored_at) == (WORDS, 0, NOON)
    assert database.read_now(kept_call, "c-2") is None


def test_what_is_kept_already_stays(database: Database) -> None:
    keep(database, "c-1")
    keep(database, "c-1", Words((("user", "something else"),), 1))
    found = database.read_now(kept_call, "c-1")
    assert found is not None
    assert found.words == WORDS


def test_the_newest_come_first(database: Database) -> None:
    for minutes, call_id in enumerate(("c-a", "c-b", "c-c")):
        keep(database, call_id, at=NOON + timedelta(minutes=minutes))
    assert database.read_now(newest_kept, 2) == ("c-c", "c-b")


def test_words_older_than_a_moment_go_in_short_transactions(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "TEXTS_PER_COMMIT", 2)
    for day in range(6):
        keep(database, f"c-{day}", at=NOON + timedelta(days=day))
    before = NOON + timedelta(days=5)
    assert database.read_now(words_before, before) == 5
    assert [database.write_now(forget_some_words, before) for _ in range(4)] == [2, 2, 1, 0]
    assert database.read_now(newest_kept) == ("c-5",)
