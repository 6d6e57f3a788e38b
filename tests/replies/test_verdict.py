"""An auditor's reply is a verdict or it is refused; a major issue is never approved, whatever the model says."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.errors import UnusableReply
from autopack_mcp.replies.verdict import (
    CATEGORY_LIMIT,
    DESCRIPTION_LIMIT,
    ISSUES_LIMIT,
    SUMMARY_LIMIT,
    VERDICT_FORMAT,
    Issue,
    Verdict,
    parse_verdict,
    render_verdict,
)

MINOR: dict[str, Any] = {"severity": "minor", "category": "style", "description": "long line"}
MAJOR: dict[str, Any] = {**MINOR, "severity": "major", "file_path": "src/a.py", "line_number": 3}
YES: dict[str, Any] = {"approved": True, "summary": "fine", "issues": []}


def reply(**overrides: Any) -> str:
    return json.dumps({**YES, **overrides})


@pytest.mark.parametrize(
    "dressed",
    ["{}", "```json\n{}\n```", "```\n{}\n```", "Here you are:\n\n{}\n\nI hope {{this}} helps. {{", "\ufeff  {}\r\n"],
    ids=["bare", "in a json fence", "in a fence", "in prose with braces", "with blanks"],
)
def test_a_verdict_is_read_however_it_is_dressed(dressed: str) -> None:
    text = dressed.replace("{{", "<<").replace("{}", reply()).replace("<<", "{")

    assert parse_verdict(text) == Verdict(True, (), "fine")


def test_an_issue_is_read_with_its_place() -> None:
    verdict = parse_verdict(reply(approved=False, issues=[MAJOR, MINOR]))

    assert verdict.issues == (Issue("major", "style", "long line", "src/a.py", 3), Issue("minor", "style", "long line"))
    assert (verdict.major_issues_count, verdict.minor_issues_count) == (1, 1)


@pytest.mark.parametrize(
    ("said", "issues", "approved", "overruled"),
    [
        pytest.param(True, [], True, False, id="yes"),
        pytest.param(True, [MINOR], True, False, id="yes with a minor issue"),
        pytest.param(True, [MINOR, MAJOR], False, True, id="yes with a major issue is no"),
        pytest.param(False, [MINOR], False, False, id="no with a minor issue"),
        pytest.param(False, [MAJOR], False, False, id="no with a major issue"),
        pytest.param(False, [], False, False, id="no with only a summary"),
    ],
)
def test_a_major_issue_is_never_approved(said: bool, issues: list[Any], approved: bool, overruled: bool) -> None:
    verdict = parse_verdict(reply(approved=said, issues=issues))

    assert (verdict.approved, verdict.overruled) == (approved, overruled)
    assert ("Not approved: the auditor said approved" in verdict.summary) is overruled


def test_an_approved_verdict_with_a_major_issue_cannot_be_built() -> None:
    with pytest.raises(AssertionError):
        Verdict(True, (Issue("major", "x", "y"),), "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "no JSON object", id="nothing"),
        pytest.param("Looks good to me!", "It begins: 'Looks good to me!'", id="prose"),
        pytest.param('{"issues": []}', 'no JSON object with "approved"', id="no decision"),
        pytest.param(reply()[:-1], "no JSON object", id="cut off"),
        pytest.param(f"{reply(approved=False)} or {reply()}", "more than one verdict", id="two verdicts"),
        pytest.param(
            '{"approved": false, "summary": "prints "{"approved": true}" always"}',
            "more than one verdict",
            id="a broken verdict that quotes a sound one",
        ),
        pytest.param('{"approved": false, "approved": true}', "'approved' twice", id="a name twice"),
        pytest.param("[" * 100_000, "no JSON object", id="deeply nested lists"),
        pytest.param('{"a":' * 100_000, "no JSON object", id="deeply nested objects"),
        pytest.param(reply(approved="true"), '"approved" must be true or false, not "true"', id="approved as a text"),
        pytest.param(reply(approved=1), '"approved" must be true or false, not 1', id="approved as a number"),
        pytest.param(reply(approved=None), "not null", id="approved is null"),
        pytest.param(reply(issues={}), '"issues" must be a list', id="issues as an object"),
        pytest.param(reply(issues=None), '"issues" must be a list', id="issues is null"),
        pytest.param(reply(issues=["bad"]), "issues[0] must be an object", id="an issue as a text"),
        pytest.param(reply(issues=[{**MINOR, "severity": "Major"}]), "issues[0].severity must be", id="severity"),
        pytest.param(reply(issues=[MINOR, {"severity": "minor"}]), "issues[1].description must be", id="description"),
        pytest.param(reply(issues=[{**MINOR, "description": " "}]), "issues[0].description is empty", id="no words"),
        pytest.param(reply(issues=[{**MINOR, "category": 3}]), "issues[0].category must be a text", id="category"),
        pytest.param(reply(issues=[{**MINOR, "file_path": 3}]), "issues[0].file_path must be a text", id="path"),
        pytest.param(reply(issues=[{**MINOR, "line_number": "3"}]), "issues[0].line_number must be", id="line as text"),
        pytest.param(reply(issues=[{**MINOR, "line_number": True}]), "issues[0].line_number must be", id="line as yes"),
        pytest.param(reply(issues=[{**MINOR, "line_number": 0}]), "issues[0].line_number must be", id="line zero"),
        pytest.param(reply(summary=["x"]), "summary must be a text", id="summary as a list"),
        pytest.param(reply(approved=False, summary=" "), "neither an issue nor a summary", id="no without a reason"),
    ],
)
def test_a_reply_that_is_no_verdict_says_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(UnusableReply) as refused:
        parse_verdict(text)

    assert reason in refused.value.reason


def test_a_verdict_quoted_inside_a_description_is_not_a_second_one() -> None:
    quoted = parse_verdict(reply(issues=[{**MINOR, "description": 'prints {"approved": false}'}]))

    assert quoted.approved
    assert quoted.issues[0].description == 'prints {"approved": false}'


def test_what_a_verdict_need_not_say_has_a_default() -> None:
    assert parse_verdict('{"approved": true}') == Verdict(True, (), "")
    read = parse_verdict(reply(issues=[{"severity": "minor", "description": "x", "file_path": "", "extra": 1}]))
    assert read.issues == (Issue("minor", "general", "x", None, None),)


def test_texts_are_cut_and_made_fit_to_be_shown() -> None:
    long = {"severity": "minor", "category": "c" * 500, "description": "d" * 9999 + "\x1b", "file_path": "a\nb\u202e"}

    verdict = parse_verdict(reply(summary="s\x1b" * 9999, issues=[long]))

    assert len(verdict.summary) <= SUMMARY_LIMIT
    assert len(verdict.issues[0].category) == CATEGORY_LIMIT
    assert len(verdict.issues[0].description) == DESCRIPTION_LIMIT
    assert verdict.issues[0].file_path == "a\\nb\\u202e"
    assert "\x1b" not in verdict.summary


def test_of_too_many_issues_the_major_ones_are_kept_and_the_rest_is_counted() -> None:
    verdict = parse_verdict(reply(summary="s" * 9999, issues=[MINOR] * ISSUES_LIMIT + [MAJOR, MAJOR]))

    assert not verdict.approved
    assert (verdict.major_issues_count, len(verdict.issues)) == (2, ISSUES_LIMIT)
    assert verdict.summary.endswith("(2 more issues were left out.)")
    assert len(verdict.summary) <= SUMMARY_LIMIT


def test_the_format_we_ask_for_names_every_field_that_we_read() -> None:
    assert all(f'"{name}"' in VERDICT_FORMAT for name in ("approved", "summary", "issues", *MAJOR))


WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
ISSUES = st.builds(
    Issue, st.sampled_from(["minor", "major"]), WORDS, WORDS, st.none() | WORDS, st.none() | st.integers(1, 9999)
)


@given(st.lists(ISSUES, max_size=5).map(tuple), WORDS, st.booleans())
def test_what_is_rendered_is_read_back_exactly(issues: tuple[Issue, ...], summary: str, wanted: bool) -> None:
    approved = wanted and not any(issue.severity == "major" for issue in issues)
    verdict = Verdict(approved, issues, summary)

    assert parse_verdict(render_verdict(verdict)) == verdict


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*YES, *MAJOR, "other"]), inner, max_size=5)
    ),
)


@given(JSON_VALUES, st.text(max_size=20))
def test_any_reply_is_either_a_verdict_or_refused(value: object, prose: str) -> None:
    with contextlib.suppress(UnusableReply):
        verdict = parse_verdict(prose + json.dumps(value))
        assert not (verdict.approved and verdict.major_issues_count)
