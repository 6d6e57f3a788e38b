"""Reading a mapping key by key: what is accepted, and what is said about the rest."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest

from autopack_mcp.documents import read_document
from autopack_mcp.sections import Findings, Section, nearest, spelled


def section_of(text: str) -> Section:
    root = Findings(read_document(text, "f")).root()
    assert root is not None
    return root


def said(section: Section) -> list[tuple[int | None, str, str, str]]:
    return [(problem.line, problem.severity, problem.where, problem.message) for problem in section.findings.problems]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "f:1: error: is empty."),
        ("- a\n", "f:1: error: must hold keys and values, but holds a list."),
        ("just words\n", "f:1: error: must hold keys and values, but holds 'just words'."),
        ("a: [\n", "f:2: error: not valid YAML while parsing a flow node: did not find expected node content."),
    ],
    ids=["empty", "list", "words", "broken"],
)
def test_what_is_no_mapping_is_one_problem(text: str, message: str) -> None:
    findings = Findings(read_document(text, "f"))
    assert findings.root() is None
    assert [str(problem) for problem in findings.problems] == [message]
    assert findings.has_errors


@pytest.mark.parametrize(
    "value, read, expected",
    [
        ("hello", lambda s: s.text("k"), "hello"),
        ("' padded '", lambda s: s.text("k"), "padded"),
        ("1", lambda s: s.text("k"), "must be text, not 1. Put it in quotes."),
        ("1.10", lambda s: s.text("k"), "must be text, not 1.10. Put it in quotes."),
        ("[a]", lambda s: s.text("k"), "must be text, not a list."),
        ("' '", lambda s: s.text("k"), "must not be empty."),
        ("abcdef", lambda s: s.text("k", limit=5), "has 6 characters; 5 is the most."),
        ('"a\\nb"', lambda s: s.text("k"), "must stand on one line."),
        ('"a\\r\\nb"', lambda s: s.text("k", lines=True), "a\nb"),
        ('"a\\eb"', lambda s: s.text("k", lines=True), "must not hold the control character '\\x1b'."),
        ('"a\\u0085b"', lambda s: s.text("k", lines=True), "must not hold the control character '\\x85'."),
        ("7", lambda s: s.whole("k"), 7),
        ("0", lambda s: s.whole("k", zero_hint="Leave it out."), "must be at least 1, not 0. Leave it out."),
        ("-5", lambda s: s.whole("k"), "must be at least 1, not -5."),
        ("101", lambda s: s.whole("k", most=100), "must be from 1 to 100, not 101."),
        ("1.5", lambda s: s.whole("k"), "must be a whole number, not 1.5."),
        ("true", lambda s: s.whole("k"), "must be a whole number, not true."),
        ("lots", lambda s: s.whole("k"), "must be a whole number, not 'lots'."),
        (
            "9223372036854775808",
            lambda s: s.whole("k"),
            "must be at most 9,223,372,036,854,775,807, not 9,223,372,036,854,775,808.",
        ),
        ("0.1", lambda s: s.decimal("k"), Decimal("0.1")),
        ("3", lambda s: s.decimal("k"), Decimal(3)),
        ("false", lambda s: s.decimal("k"), "must be a number, not false."),
        ("2.50", lambda s: s.nano_usd("k"), 2_500_000_000),
        ("0.0000000019", lambda s: s.nano_usd("k"), 1),
        ("0", lambda s: s.nano_usd("k"), "must be an amount of dollars above 0, not 0. For no cap leave the key out."),
        ("true", lambda s: s.flag("k", default=False), True),
        ("yes", lambda s: s.flag("k", default=False), "must be true or false, not 'yes'."),
        ("b", lambda s: s.choice("k", ("a", "b"), "a"), "b"),
        ("c", lambda s: s.choice("k", ("a", "b"), "a"), "must be a or b, not 'c'."),
        ("[x, y]", lambda s: s.texts("k"), ("x", "y")),
        ("x", lambda s: s.texts("k"), "must be a list, not 'x'."),
        ("{a: 1}", lambda s: s.texts("k"), "must be a list, not keys and values."),
        ("[a, b, c]", lambda s: s.items("k", limit=2), "has 3 entries; 2 is the most."),
        ("x", lambda s: s.section("k"), "must hold keys and values, not 'x'."),
        ("[x]", lambda s: list(s.listed_sections("k")), "must hold keys and values, not 'x'."),
    ],
)
def test_a_reader_answers_or_says_what_is_wrong(
    value: str, read: Callable[[Section], object], expected: object
) -> None:
    section = section_of(f"other: 0\nk: {value}\n")
    found = read(section)
    if said(section):
        ((line, severity, where, message),) = said(section)
        assert (line, severity, message) == (2, "error", expected)
        assert where.startswith("k")
    else:
        assert found == expected


@pytest.mark.parametrize("text", ["a: 1\n", "a: 1\nk:\n", "a: 1\nk: ~\n"], ids=["missing", "nothing", "null"])
def test_a_key_with_nothing_in_it_reads_as_if_it_were_not_there(text: str) -> None:
    section = section_of(text)
    assert "k" not in section
    assert section.text("k") is None
    assert section.whole("k") is None
    assert section.flag("k", default=True) is True
    assert section.texts("k") == ()
    assert section.section("k").names() == ()
    assert said(section) == []


def test_a_wrong_entry_of_a_list_is_left_out_and_has_its_own_line() -> None:
    section = section_of("k:\n  - good\n  - 2\n  -\n")
    assert section.texts("k") == ("good",)
    assert said(section) == [
        (3, "error", "k[1]", "must be text, not 2. Put it in quotes."),
        (4, "error", "k[2]", "must be text, not nothing."),
    ]


def test_an_unknown_key_is_refused_with_what_was_probably_meant() -> None:
    section = section_of("weekly_cap_token: 1\nzzz: 2\nold: 3\n")
    section.refuse_unknown(("weekly_cap_tokens", "sdk"), unimplemented=("old",))
    assert said(section) == [
        (1, "error", "weekly_cap_token", "is not known here. Did you mean 'weekly_cap_tokens'?"),
        (2, "error", "zzz", "is not known here. Known: weekly_cap_tokens, sdk."),
        (3, "warning", "old", "is not implemented here and does nothing."),
    ]


def test_a_warning_that_many_lines_share_is_said_once_with_their_lines() -> None:
    section = section_of("k:\n" + "- x\n" * 10)
    for index in range(10):
        section.findings.warn_once(("k", index), "is odd.")
    section.findings.warn_once(("k", 3), "is odder.")
    assert said(section) == [
        (2, "warning", "k[0]", "is odd. (Also on line 3, 4, 5, 6, 7 and 4 more.)"),
        (5, "warning", "k[3]", "is odder."),
    ]
    assert not section.findings.has_errors


def test_problems_stand_in_the_order_of_the_lines_and_errors_first() -> None:
    section = section_of("a: 1\nb: 2\n")
    section.warn("b", "w")
    section.error("b", "e")
    section.error("a", "x")
    assert [(line, severity) for line, severity, *_ in said(section)] == [(1, "error"), (2, "error"), (2, "warning")]


def test_two_spellings_may_agree_but_not_differ() -> None:
    section = section_of("new: 1\nold: 1\nother: 2\n")
    assert spelled((section,), ("new", "old")) == (section, "new")
    assert spelled((section,), ("none", "neither")) == (section, "none")
    assert said(section) == []
    spelled((section,), ("new", "other"))
    assert said(section) == [(3, "error", "other", "says something else than new on line 1. Keep one.")]


def test_a_word_that_is_like_nothing_known_gets_no_guess() -> None:
    assert nearest("banana", ("sdk", "api")) == ""
    assert nearest("x" * 100_000, ("sdk", "api")) == ""
