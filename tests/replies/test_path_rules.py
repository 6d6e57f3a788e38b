"""What a pattern allows, and that no name, however it is spelled, gets past the rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.errors import UnusableReply
from autopack_mcp.replies.path_rules import check_allowed, check_path, is_allowed


@pytest.mark.parametrize(
    ("pattern", "path", "allowed"),
    [
        pytest.param("src", "src/deep/a.py", True, id="a bare folder is everything below"),
        pytest.param("src/", "src/deep/a.py", True, id="with a slash"),
        pytest.param("./src", "src/a.py", True, id="with a dot"),
        pytest.param("src", "srcs/a.py", False, id="not what only begins alike"),
        pytest.param("src/a.py", "src/a.py", True, id="one file"),
        pytest.param("src/*.py", "src/a.py", True, id="star"),
        pytest.param("src/*.py", "src/deep/a.py", False, id="star stays within a name"),
        pytest.param("src/*", "src/deep/a.py", False, id="star is no folder"),
        pytest.param("src/**", "src/deep/deeper/a.py", True, id="two stars"),
        pytest.param("src/**", "src", False, id="two stars are below"),
        pytest.param("**", "a/.hidden", True, id="everything"),
        pytest.param("**/test_*.py", "test_a.py", True, id="at the top"),
        pytest.param("**/test_*.py", "x/y/test_a.py", True, id="or below"),
        pytest.param("src/**/a.py", "src/a.py", True, id="no folder between"),
        pytest.param("src/**/a.py", "src/x/y/a.py", True, id="many folders between"),
        pytest.param("a**b/c", "axb/c", True, id="two stars within a name are one"),
        pytest.param("a**/c", "ax/y/c", False, id="two stars within a name cross no folder"),
        pytest.param("?.py", "a.py", True, id="one character"),
        pytest.param("?", "/", False, id="no slash for a character"),
        pytest.param("[a-c].py", "b.py", True, id="a set"),
        pytest.param("[!a-c].py", "b.py", False, id="not of a set"),
        pytest.param("[!a]b", "/b", False, id="no slash for a set"),
        pytest.param("[]]x", "]x", True, id="a bracket in a set"),
        pytest.param("[", "[", True, id="a bracket alone"),
        pytest.param("[]?", "[]a", True, id="an empty set is two letters"),
        pytest.param("[!]?", "[!]a", True, id="a set of nothing but a mark is three letters"),
        pytest.param("[c-a]", "b", False, id="a range that runs backwards is empty"),
        pytest.param("[!c-a]", "b", True, id="and not of it is anything"),
        pytest.param("app/[id]/page.tsx", "app/[id]/page.tsx", True, id="a folder in brackets"),
        pytest.param("src", "SRC/a.py", False, id="case counts"),
        pytest.param("a.c", "abc", False, id="a dot is a dot"),
        pytest.param("", "a", False, id="nothing"),
        pytest.param("**/" * 30 + "x", "a/" * 400 + "y", False, id="many stars take no time"),
    ],
)
def test_a_pattern_allows(pattern: str, path: str, allowed: bool) -> None:
    assert is_allowed(path, (pattern,)) is allowed
    assert is_allowed(path, ("none", pattern)) is allowed
    assert is_allowed(path, ())


def test_what_is_allowed_is_named_when_a_path_is_refused() -> None:
    check_allowed("src/a.py", ("src", "tests"))
    with pytest.raises(UnusableReply, match=r"'docs/a' is not allowed in this phase. Allowed: src, tests\."):
        check_allowed("docs/a", ("src", "tests"))


@given(st.text(st.sampled_from("ab*?[]!/.^-\\\n"), max_size=12), st.text(st.sampled_from("ab/.[]*^"), max_size=12))
def test_any_pattern_can_be_asked_and_matches_itself(pattern: str, path: str) -> None:
    is_allowed(path, (pattern,))
    literal = f"a{pattern}".rstrip("/")
    assert is_allowed(literal, (literal,))
    assert is_allowed(f"{literal}/below", (literal,))


NAMES = st.sampled_from(
    [
        "..",
        ".",
        "",
        ".git",
        ".GIT",
        ".git.",
        ".git ",
        "GIT~1",
        ".autopack",
        "a",
        "b.py",
        "-x",
        "~",
        "C:",
        "\u200b",
        "\n",
    ]
)


@given(st.lists(NAMES | st.text(max_size=4), min_size=1, max_size=5))
def test_a_path_that_passes_stays_below_its_folder_and_out_of_git(names: list[str]) -> None:
    path = "/".join(names)
    try:
        check_path(path)
    except UnusableReply as refused:
        assert "Nothing was written" in refused.reason  # noqa: PT017  # Most paths pass one way or the other.
        return
    kept = path.split("/")
    assert not path.startswith("/")
    assert not {"", ".", ".."} & set(kept)
    assert not {".git", ".autopack"} & {name.lower().rstrip(". ") for name in kept}
    assert path.isprintable()
