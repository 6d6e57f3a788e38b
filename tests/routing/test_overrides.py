"""Overrides: which of several answers, when they end, and that only the like of a wish is undone."""

from __future__ import annotations

from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest

from autopack_mcp.database.engine import Database
from autopack_mcp.errors import OverrideRefused
from autopack_mcp.routing.overrides import (
    Override,
    add_override,
    overrides_in_force,
    overrides_of_context,
    winning_override,
    withdraw_overrides,
)
from tests.factories import NOON

SECOND = timedelta(seconds=1)


def an_override(number: int = 1, pattern: str = "ui:low", role: str = "builder", **overrides: Any) -> Override:
    category, _, complexity = pattern.partition(":")
    values: dict[str, Any] = {
        "scope": "run",
        "run_id": "R1",
        "model": f"model-{number}",
        "author": "ada",
        "created_at": NOON,
    }
    return Override(number, role=role, category=category, complexity=complexity, **{**values, **overrides})


def winner(*candidates: Override, role: str = "builder", category: str = "ui", complexity: str = "low") -> int | None:
    """The number of the override that answers, in whatever order they come."""
    winners = {
        None if found is None else found.override_id
        for order in permutations(candidates)
        for found in [winning_override(order, role, category, complexity, NOON)]
    }
    assert len(winners) == 1
    return winners.pop()


@pytest.mark.parametrize(
    "pattern, question, answers",
    [
        pytest.param("ui:low", "ui:low", True, id="exact"),
        pytest.param("ui:low", "ui:high", False, id="another complexity"),
        pytest.param("ui*:*", "ui_admin:high", True, id="beginning"),
        pytest.param("*:low", "core:low", True, id="any category"),
        pytest.param("ui:*", "core:low", False, id="another category"),
        pytest.param("u?:low", "ui:low", True, id="one letter"),
        pytest.param("[tu]i:low", "ui:low", True, id="a letter of a set"),
        pytest.param("[!tu]i:low", "ui:low", False, id="a letter not of a set"),
        pytest.param("UI:low", "ui:low", False, id="case counts"),
    ],
)
def test_a_pattern_is_a_shell_glob_on_category_and_complexity(pattern: str, question: str, answers: bool) -> None:
    category, _, complexity = question.partition(":")
    assert an_override(pattern=pattern).answers("builder", category, complexity, NOON) == answers


@pytest.mark.parametrize("pattern, answers", [("builder", True), ("*", True), ("auditor", False), ("agent:*", False)])
def test_a_role_is_matched_like_a_pattern(pattern: str, answers: bool) -> None:
    assert an_override(role=pattern).answers("builder", "ui", "low", NOON) == answers


@pytest.mark.parametrize(
    "stronger, weaker",
    [
        pytest.param("ui:low", "u?:low", id="exact before pattern"),
        pytest.param("ui:low", "ui*:low*", id="exact before a pattern with as many letters"),
        pytest.param("*:low", "ui:*", id="more literal characters, on whichever side"),
        pytest.param("ui*:low", "ui:*", id="more literal characters"),
        pytest.param("?i:low", "[abcdefghijklmnopqrstuvwxyz]?:low", id="the letters of a set are not literal"),
    ],
)
def test_the_more_exact_of_two_answers_though_it_is_older(stronger: str, weaker: str) -> None:
    assert winner(an_override(1, stronger), an_override(2, weaker)) == 1


def test_of_two_equally_exact_ones_the_newest_answers() -> None:
    assert winner(an_override(1), an_override(2), an_override(3, "ui:high")) == 2


def test_of_two_equally_exact_ones_that_which_names_the_role_goes_before_any_role() -> None:
    assert winner(an_override(1, role="builder"), an_override(2, role="*")) == 1
    assert winner(an_override(1, role="agent:*"), an_override(2, role="*"), role="agent:planner") == 1


def test_exactness_about_the_question_goes_before_exactness_about_the_role() -> None:
    assert winner(an_override(1, "ui:low", role="*"), an_override(2, "ui:*", role="builder")) == 1


def test_a_bracket_that_is_never_closed_is_a_letter() -> None:
    assert winner(an_override(1, "[ui:low"), an_override(2, "?ui:low"), category="[ui") == 1


def test_an_empty_set_is_two_letters() -> None:
    assert winner(an_override(1, "[]ui:low"), an_override(2, "[[]?ui:low"), category="[]ui") == 1


def test_none_answers_a_question_that_none_speaks_to() -> None:
    assert winner(an_override(), role="auditor") is None


@pytest.mark.parametrize(
    "left, answers", [(-SECOND, False), (SECOND * 0, False), (SECOND, True)], ids=["past", "now", "a second to go"]
)
def test_an_override_ends_at_its_expiry(database: Database, left: timedelta, answers: bool) -> None:
    ending = an_override(expires_at=NOON + left)
    assert ending.answers("builder", "ui", "low", NOON) == answers
    database.write_now(add_override, ending, "test")
    assert bool(database.read_now(overrides_in_force, "R1", NOON)) == answers


# --- rows


def test_an_override_comes_back_as_it_was_written(database: Database) -> None:
    written = an_override(expires_at=NOON + SECOND)
    number = database.write_now(add_override, written, "test")
    (found,) = database.read_now(overrides_in_force, "R1", NOON)
    assert found == an_override(number, model="model-1", expires_at=NOON + SECOND)


def test_overrides_of_a_run_and_of_all_stay_apart(database: Database) -> None:
    for one in (an_override(), an_override(run_id="R2"), an_override(scope="global", run_id=None)):
        database.write_now(add_override, one, "test")
    assert [one.run_id for one in database.read_now(overrides_in_force, "R1", NOON)] == ["R1"]
    assert [one.scope for one in database.read_now(overrides_in_force, None, NOON)] == ["global"]


@pytest.mark.parametrize(
    "like, undone",
    [
        pytest.param(an_override(), 2, id="the same"),
        pytest.param(an_override(model="another"), 2, id="whatever their model"),
        pytest.param(an_override(pattern="ui:*"), 0, id="not another pattern"),
        pytest.param(an_override(role="*"), 0, id="not another role"),
        pytest.param(an_override(run_id="R2"), 0, id="not another run"),
        pytest.param(an_override(scope="global", run_id=None), 0, id="not another scope"),
    ],
)
def test_undo_withdraws_every_standing_override_like_the_wish(database: Database, like: Override, undone: int) -> None:
    for one in (an_override(), an_override(), an_override(expires_at=NOON - SECOND)):
        database.write_now(add_override, one, "test")
    assert database.write_now(withdraw_overrides, like, NOON) == undone
    assert len(database.read_now(overrides_in_force, "R1", NOON)) == 2 - undone
    assert database.write_now(withdraw_overrides, like, NOON) == 0


# --- a library caller's run context


@pytest.mark.parametrize("context", [{}, {"model_overrides": None}, {"model_overrides": {}}, {"run_id": "R1"}])
def test_a_context_without_overrides_has_none(context: dict[str, Any]) -> None:
    assert overrides_of_context(context) == ()


def test_a_context_is_newer_than_every_row_and_may_leave_the_complexity_out() -> None:
    newest_row = an_override(1 << 61)
    (of_context, general) = overrides_of_context({"model_overrides": {"builder": {"ui:low": "mine", "core": "other"}}})
    assert winner(newest_row, of_context) == of_context.override_id
    assert (general.pattern, general.model, general.author) == ("core:*", "other", "run context")


@pytest.mark.parametrize(
    "value",
    ["builder", ["builder"], {"builder": "gpt-4o"}, {"builder": {"ui:low": None}}, {"builder": {1: "gpt-4o"}}],
    ids=["text", "list", "no pattern", "no model", "a number"],
)
def test_overrides_of_another_shape_are_refused_with_an_example(value: object) -> None:
    with pytest.raises(OverrideRefused, match="core_backend:medium"):
        overrides_of_context({"model_overrides": value})
