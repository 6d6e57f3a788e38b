"""A patch made in memory is one that git applies, and it contains what the edits said and nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopack_mcp.errors import UnusableReply
from autopack_mcp.replies.edits import DeleteFile, Edit, SearchReplace, WholeFile
from autopack_mcp.replies.patch import edited_files, patch_of

FILES = {"src/app.py": "one\ntwo\nthree\n", "README.md": "# Title\n"}


def patched(files: Mapping[str, str], patch: str) -> dict[str, str]:
    """What a folder with these files holds after git applied the patch."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(text.encode())
        apply = ["git", "apply", "--whitespace=nowarn", "-"]
        done = subprocess.run(apply, input=patch.encode(), cwd=folder, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return {
            str(path.relative_to(folder)): path.read_bytes().decode() for path in folder.rglob("*") if path.is_file()
        }


@pytest.mark.parametrize(
    "edits, changed",
    [
        pytest.param([WholeFile("new.py", "x = 1\n")], {"new.py": "x = 1\n"}, id="a new file"),
        pytest.param([WholeFile("a b/ä.py", "x = 1\n")], {"a b/ä.py": "x = 1\n"}, id="an odd name"),
        pytest.param([WholeFile("empty.py", "")], {"empty.py": ""}, id="an empty file"),
        pytest.param([WholeFile("src/app.py", "all new")], {"src/app.py": "all new"}, id="no last line break"),
        pytest.param(
            [SearchReplace("src/app.py", "two\n", "2\n")], {"src/app.py": "one\n2\nthree\n"}, id="a part of a file"
        ),
        pytest.param([DeleteFile("README.md")], {"README.md": None}, id="a deleted file"),
        pytest.param(
            [DeleteFile("README.md"), WholeFile("docs/index.md", "# Title\n")],
            {"README.md": None, "docs/index.md": "# Title\n"},
            id="several files",
        ),
    ],
)
def test_git_applies_what_the_edits_say(edits: list[Edit], changed: dict[str, str | None]) -> None:
    after = edited_files(FILES, edits, ())
    assert after == changed
    expected = {path: text for path, text in {**FILES, **changed}.items() if text is not None}
    assert patched(FILES, patch_of(FILES, after)) == expected


_lines = st.lists(st.sampled_from(["", "a", "b", "+c", "-d", "@@ e", "\\ No", "ü\r", "x\x0cy\u2028z"]), max_size=6)
_texts = st.builds(lambda lines, end: "\n".join(lines) + end, _lines, st.sampled_from(["", "\n"]))


@settings(max_examples=30, deadline=None)
@given(before=st.dictionaries(st.sampled_from("abc"), _texts), after=st.dictionaries(st.sampled_from("abc"), _texts))
def test_whatever_the_texts_are_git_makes_the_one_of_the_other(before: dict[str, str], after: dict[str, str]) -> None:
    edits: list[Edit] = [DeleteFile(path) for path in before.keys() - after.keys()]
    edits += [WholeFile(path, text) for path, text in after.items()]
    try:
        changed = edited_files(before, edits, ())
    except UnusableReply:
        assert before == after
        return
    # A whole file keeps the line endings of the one that it replaces, so what was asked for may differ in them.
    wanted = {path: text for path, text in {**before, **changed}.items() if text is not None}
    assert patched(before, patch_of(before, changed)) == wanted
    assert {path: text.replace("\r", "") for path, text in wanted.items()} == {
        path: text.replace("\r", "") for path, text in after.items()
    }


def test_a_file_that_stays_as_it_is_is_not_in_the_patch() -> None:
    after = edited_files(FILES, [WholeFile("README.md", "# Title\n"), WholeFile("new.py", "x\n")], ())
    assert set(after) == {"new.py"}


def test_edits_that_change_nothing_are_refused() -> None:
    with pytest.raises(UnusableReply, match="change nothing"):
        edited_files(FILES, [WholeFile("README.md", "# Title\n")], ())


@pytest.mark.parametrize(
    "edit, why",
    [
        pytest.param(WholeFile("../x", "x"), "leaves the workspace", id="outside"),
        pytest.param(WholeFile(".git/hooks/x", "x"), "not the builder's", id="inside .git"),
        pytest.param(WholeFile("docs/x.md", "x"), "is not allowed in this phase", id="not allowed"),
        pytest.param(SearchReplace("src/gone.py", "a\n", "b\n"), "does not exist", id="no such file"),
        pytest.param(SearchReplace("src/app.py", "four\n", "4\n"), "do not occur", id="fits nowhere"),
    ],
)
def test_an_edit_that_may_not_be_made_is_refused_with_a_reason(edit: Edit, why: str) -> None:
    with pytest.raises(UnusableReply, match=why):
        edited_files(FILES, [edit], ("src",) if "docs" in edit.path else ())
    assert FILES["README.md"] == "# Title\n"


def test_one_file_named_in_two_ways_is_refused() -> None:
    with pytest.raises(UnusableReply, match="named twice"):
        edited_files(FILES, [WholeFile("README.md", "a"), DeleteFile("README.md")], ())
