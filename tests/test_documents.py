"""Reading YAML and JSON texts: what they say, where it stands, and what no text may do to us."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.documents import (
    DOCUMENT_BYTES,
    DOCUMENT_DEPTH,
    Document,
    Value,
    dotted,
    file_text,
    read_document,
    shown,
)
from autopack_mcp.errors import Problem


def read(text: str) -> Document:
    return read_document(text, "x.yaml")


def messages(text: str) -> list[str]:
    return [str(problem) for problem in read(text).problems]


@pytest.mark.parametrize(
    "text, data",
    [
        ("", None),
        ("# only a comment\n", None),
        ("a: 1\nb: [x, 'y']\n", {"a": 1, "b": ["x", "y"]}),
        ("- a\n- b: c\n", ["a", {"b": "c"}]),
        ("\ufeffa: 1\n", {"a": 1}),
        ("a: 1\r\nb:\r\n  - c\r\n", {"a": 1, "b": ["c"]}),
        ('{\n\t"a": 1,\n\t"b": ["c"]\n}', {"a": 1, "b": ["c"]}),
        ("%YAML 1.1\n---\na: 1\n...\n", {"a": 1}),
        ("a: &x [1]\nb: *x\n", {"a": [1], "b": [1]}),
        ("a: |\n  one\n  two\n", {"a": "one\ntwo\n"}),
        ("a: !!str 1\n", {"a": "1"}),
        ("'<<': 1\n", {"<<": 1}),
    ],
    ids=[
        "empty",
        "comment",
        "mapping",
        "list",
        "BOM",
        "CRLF",
        "tabs in JSON",
        "directive",
        "alias",
        "block",
        "str",
        "<<",
    ],
)
def test_a_text_becomes_plain_data(text: str, data: Value) -> None:
    assert read(text).data == data
    assert read(text).problems == ()


@pytest.mark.parametrize(
    "word, value",
    [
        ("~", None),
        ("null", None),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("0", 0),
        ("-12", -12),
        ("5_000_000", 5_000_000),
        ("007", "007"),
        ("0.8", Decimal("0.8")),
        (".5", Decimal("0.5")),
        ("1e3", Decimal(1000)),
        ("1.2.3", "1.2.3"),
        ("12:30", "12:30"),
        ("2026-11-18", "2026-11-18"),
        (".inf", ".inf"),
        ("0x10", "0x10"),
        ("'1'", "1"),
        ("9" * 60, "9" * 60),
        ("1e999999999", "1e999999999"),
        ("-", [None]),
    ],
)
def test_a_word_means_what_a_person_expects(word: str, value: Value) -> None:
    assert read(f"k: {word}\n" if word != "-" else "k:\n-\n").data == {"k": value}


def test_numbers_are_exact() -> None:
    assert str(read("k: 0.1\n").data) == "{'k': Decimal('0.1')}"


def test_every_key_and_item_has_its_line() -> None:
    document = read("# c\na:\n  b: 1\n  c:\n    - x\n    - y: 2\n      z: 3\n")
    expected = {
        (): 2,
        ("a",): 2,
        ("a", "b"): 3,
        ("a", "c"): 4,
        ("a", "c", 0): 5,
        ("a", "c", 1): 6,
        ("a", "c", 1, "y"): 6,
        ("a", "c", 1, "z"): 7,
    }
    assert document.lines == expected
    assert document.line(("a", "c", 1, "not there")) == 6
    assert document.line(("not", "there")) == 2


def test_what_an_alias_repeats_has_the_line_of_the_alias() -> None:
    document = read("a: &x\n  k: 1\nb: *x\n")
    assert document.line(("b", "k")) == 3


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3: error: the key 'a' stands here again; it is already on line 1."),
        ("a: 1\n<<: {b: 1}\n", "x.yaml:2: error: merge keys (<<) are not read; write the keys out."),
        ("a: 1\n'': 2\n", "x.yaml:2: error: a key is empty."),
        ("a: 1\n? [b]\n: 2\n", "x.yaml:2: error: a key must be a word, not a list or a mapping."),
        ("a: &x 1\n*x : 2\n", "x.yaml:2: error: a key must be a word, not an alias."),
        ("a: *x\n", "x.yaml:1: error: the alias *x has no finished anchor &x before it."),
        ("a: &x [*x]\n", "x.yaml:1: error: the alias *x has no finished anchor &x before it."),
        ("a: 1\n---\nb: 2\n", "x.yaml:2: error: a second document begins (---); only one is read."),
        ("a:\n\tb: 1\n", "x.yaml:2: error: a tab stands where only spaces may indent."),
        ("a: 1\nb: c: d\n", "x.yaml:2: error: not valid YAML: mapping values are not allowed in this context."),
        ("a: 'b\n", "x.yaml:2: error: not valid YAML while scanning a quoted scalar: found unexpected end of stream."),
        ("a: 1\nb: \x01\n", "x.yaml:2: error: has the control character '\\x01', which a text file must not hold."),
        ("a: \ud800\n", "x.yaml:1: error: has the control character '\\ud800', which a text file must not hold."),
        (
            "a: 1\nb: !!python/object/apply:os.system [exit]\n",
            "x.yaml:2: error: tags such as '!!python/object/apply:os.system' are not read; write plain values.",
        ),
        ("a: !thing 1\n", "x.yaml:1: error: tags such as '!thing' are not read; write plain values."),
    ],
    ids=[
        "doubled key",
        "merge key",
        "empty key",
        "list as key",
        "alias as key",
        "unknown alias",
        "alias of itself",
        "two documents",
        "tab",
        "syntax",
        "open quote",
        "control character",
        "surrogate",
        "python object",
        "own tag",
    ],
)
def test_what_cannot_be_read_is_one_problem_with_its_line(text: str, expected: str) -> None:
    assert messages(text) == [expected]


def test_a_key_that_stands_there_three_times_is_compared_with_the_first() -> None:
    assert [message.split("line ")[1] for message in messages("a: 1\na: 2\na: 3\n")] == ["1.", "1."]
    assert read("a: 1\na: {b: 2}\n").data == {"a": 1}


def test_a_broken_text_has_no_data() -> None:
    assert read("a: 1\nb: [\n").data is None


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "a: {b: [", "[{"])
def test_a_text_that_only_nests_is_refused_and_does_not_kill_the_process(opening: str) -> None:
    (problem,) = read(opening * 200_000).problems
    assert problem.message in (
        f"is nested deeper than {DOCUMENT_DEPTH} levels.",
        "a key must be a word, not a list or a mapping.",
    )


def test_nesting_is_allowed_up_to_the_bound() -> None:
    assert read("[" * DOCUMENT_DEPTH + "]" * DOCUMENT_DEPTH).problems == ()
    assert len(read("[" * (DOCUMENT_DEPTH + 1) + "]" * (DOCUMENT_DEPTH + 1)).problems) == 1


def test_aliases_that_multiply_are_refused() -> None:
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 10))
    (problem,) = read("l0: &l0 [x]\n" + levels).problems
    assert "aliases counted as what they repeat" in problem.message


def test_too_many_values_are_refused() -> None:
    (problem,) = read("[" + "1," * 300_000 + "]").problems
    assert "more than 250,000 values" in problem.message


@pytest.mark.parametrize("text", ["a" * (DOCUMENT_BYTES + 1), "é" * (DOCUMENT_BYTES // 2 + 1)], ids=["ascii", "utf-8"])
def test_a_text_above_the_size_limit_is_not_parsed(text: str) -> None:
    assert messages(text) == ["x.yaml: error: is larger than 8 MiB, the most that is read."]


@given(st.text())
def test_no_text_raises(text: str) -> None:
    document = read(text)
    assert all(problem.line is None or problem.line >= 1 for problem in document.problems)


@given(st.text(alphabet="[]{}:,-?&*!|>'\"#%@`~<\n\t ab1.\\u"))
def test_no_yaml_like_text_raises(text: str) -> None:
    read(text)


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1, max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), _json, max_size=5))
def test_json_as_other_programs_write_it_reads_as_it_was_written(data: Value) -> None:
    assert read(json.dumps(data)).data == data
    assert read(json.dumps(data, indent="\t")).data == data


@given(
    st.dictionaries(st.text(alphabet="abcdef", min_size=1), st.text(alphabet="xyz -:#'\"\n") | st.integers(0, 10**9))
)
def test_yaml_as_other_programs_write_it_reads_as_it_was_written(data: Value) -> None:
    assert read(yaml.safe_dump(data)).data == data


def test_an_emoji_in_escaped_json_is_one_character_and_a_backslash_stays_one() -> None:
    assert read('{"a": "\\ud83d\\ude00", "b": "\\\\ud83d\\\\ude00"}').data == {"a": "😀", "b": "\\ud83d\\ude00"}


def test_a_large_text_is_read_in_good_time() -> None:
    text = "".join(f"- id: p{n}\n  name: phase {n}\n  paths: [a, b, c]\n" for n in range(5_000))
    started = time.perf_counter()
    data = read(text).data
    assert isinstance(data, list)
    assert len(data) == 5_000
    assert time.perf_counter() - started < 5.0


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("ä\r\n".encode())
    assert file_text(tmp_path / "a") == "ä\r\n"


@pytest.mark.parametrize(
    "prepare, expected",
    [
        (lambda path: None, "cannot be read: No such file or directory."),
        (lambda path: path.mkdir(), "is not a file."),
        (lambda path: path.symlink_to("/dev/zero"), "is not a file."),
        (lambda path: path.write_bytes(b"a: 1\nb: \xff\n"), "is not UTF-8 text. Save it as UTF-8."),
        (lambda path: path.write_bytes(b" " * (DOCUMENT_BYTES + 1)), "is larger than 8 MiB, the most that is read."),
    ],
    ids=["missing", "folder", "device", "not UTF-8", "too large"],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, prepare: Callable[[Path], object], expected: str) -> None:
    path = tmp_path / "a"
    prepare(path)
    problem = file_text(path)
    assert isinstance(problem, Problem)
    assert problem.message == expected
    assert problem.file == str(path)


def test_a_file_in_the_wrong_encoding_says_on_which_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a: 1\nb: \xff\n")
    problem = file_text(Path(tmp_path / "a"))
    assert isinstance(problem, Problem)
    assert problem.line == 2


def test_values_and_paths_are_shown_on_one_short_line() -> None:
    assert dotted(("tiers", 0, "phases", 2, "id")) == "tiers[0].phases[2].id"
    assert dotted(("models", "gpt-6.1-sol", "price")) == "models.gpt-6.1-sol.price"
    assert dotted(("a\nb", "../c")) == "'a\\nb'.'../c'"
    assert shown("x" * 100) == repr("x" * 100)[:59] + "…"
    values: list[Value] = [None, True, 3, Decimal("0.5"), [], {}]
    assert [shown(value) for value in values] == [
        "nothing",
        "true",
        "3",
        "0.5",
        "a list",
        "a mapping",
    ]
