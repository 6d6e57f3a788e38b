"""Notes of people: in force at once, withdrawn once."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopack_mcp.errors import AutopackError, IllegalTransition, RequestRefused
from autopack_mcp.notes import NOTE_LIMIT
from tests.control.counter import BOB, Counter
from tests.factories import NOON
from tests.runs.house import ANN

pytestmark = pytest.mark.anyio


async def test_a_note_is_in_force_at_once_and_names_its_file(counter: Counter, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    counter.a_run("running", workspace=str(workspace))
    control = counter.control()

    early = await control.add_note("R1", "  Be brief.  ", "tool", BOB)
    workspace.mkdir()
    late = await control.add_note("R1", "No test data.", "cli", ANN)

    assert early.message == f"Note {early.note_id} will stand in every later prompt of run R1 until it is withdrawn."
    assert (early.timestamp, early.notes_file) == (NOON, str(workspace / ".autopack" / "human_notes.md"))
    written = Path(late.notes_file).read_text(encoding="utf-8")
    assert f"(note {early.note_id}, tool) Be brief." in written
    assert f"(note {late.note_id}, cli) No test data." in written
    assert [note.author for note in (await counter.house.run("R1")).notes] == ["bob", "ann"]


async def test_a_note_is_withdrawn_once(counter: Counter) -> None:
    counter.a_run("paused")
    control = counter.control()
    note = await control.add_note("R1", "Be brief.", "tool", ANN)

    assert await control.withdraw_note("R1", note.note_id) == (
        f"Note {note.note_id} will not be in later prompts of run R1."
    )
    with pytest.raises(RequestRefused) as caught:
        await control.withdraw_note("R1", note.note_id)
    assert str(caught.value) == f"Run R1 has no note {note.note_id} in force. Its status lists the notes."


@pytest.mark.parametrize(
    "state, text, error, words",
    [
        ("succeeded", "words", IllegalTransition, "'note' is not possible while the run is 'succeeded'"),
        ("running", "  ", RequestRefused, "The note is empty."),
        ("running", "x" * (NOTE_LIMIT + 1), RequestRefused, f"has {NOTE_LIMIT + 1} characters"),
    ],
    ids=["the run has ended", "empty", "too long"],
)
async def test_a_note_that_nobody_would_read_is_refused(
    counter: Counter, state: str, text: str, error: type[AutopackError], words: str
) -> None:
    counter.a_run(state)

    with pytest.raises(error, match=words):
        await counter.control().add_note("R1", text, "tool", ANN)
