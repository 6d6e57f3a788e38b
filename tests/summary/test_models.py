"""Which model, and why: what is shown is the router's own answer."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal

import pytest

from autopack_mcp.budgets.ledger import book_external
from autopack_mcp.config.settings import (
    FallbackStrategy,
    ProviderSettings,
    RoleModels,
    Settings,
    WindowCap,
)
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import RequestRefused, RunNotFound
from autopack_mcp.money import NANO_PER_USD
from autopack_mcp.routing.model_map import current_model_map, model_map_to_json
from autopack_mcp.routing.model_router import choose
from autopack_mcp.routing.overrides import Override, add_override
from autopack_mcp.routing.snapshot import read_snapshot
from autopack_mcp.runs.rules import run_rules
from autopack_mcp.runs.store import phases_of_run
from autopack_mcp.summary.explanation import explain_model
from autopack_mcp.summary.models import (
    ModelMapping,
    ModelRow,
    PhaseModelChange,
    model_mapping,
    phase_model_changes,
)
from autopack_mcp.summary.outlook import RoutingSources
from tests.factories import (
    NOON,
    held_against,
    insert_phase,
    insert_run,
    provider_settings,
    settings,
    token_counts,
    usage_event,
)


def sources(of: Settings | None = None, *missing_keys: str) -> RoutingSources:
    def has_key(provider: ProviderSettings) -> bool:
        return provider.provider not in missing_keys

    return RoutingSources(of or settings(), has_key, lambda model: None)


def with_run(database: Database, of: Settings | None = None, **facts: Any) -> None:
    model_map = model_map_to_json(current_model_map(of or settings(), ()))
    database.write_now(insert_run, **{"model_map": model_map, **facts})


def choose_for(database: Database, category: str, model: str, run_id: str | None = "R1", **facts: Any) -> None:
    scope: Literal["run", "global"] = "global" if run_id is None else "run"
    wish = Override(0, scope, "builder", category, "*", model, "me", NOON, run_id=run_id)
    database.write_now(add_override, replace(wish, **facts), "test")


def mapping(database: Database, of: Settings | None = None, run_id: str | None = None) -> ModelMapping:
    return database.read_now(model_mapping, sources(of), NOON, run_id)


def told(rows: tuple[ModelRow, ...]) -> list[tuple[str, str, str, str | None, tuple[str, ...]]]:
    return [(row.role, row.category, row.complexity, row.model, row.also) for row in rows]


def test_the_map_says_everything_once(database: Database) -> None:
    assert told(mapping(database).rows) == [
        ("builder", "general", "low", "gpt-small", ()),
        ("builder", "general", "medium", "gpt-big", ()),
        ("builder", "general", "high", "gpt-big", ()),
        ("builder", "security", "*", "claude", ()),
        ("auditor", "general", "*", "claude", ("security",)),
        ("agent:planner", "general", "*", "gpt-big", ()),
    ]


def test_a_row_for_every_complexity_gives_the_reasons_of_each(database: Database) -> None:
    row = next(row for row in mapping(database).rows if row.role == "auditor")
    assert row.reasons == tuple(f"complexity {name} uses claude as auditor" for name in ("low", "medium", "high"))


def test_every_row_is_the_routers_own_answer(database: Database) -> None:
    given = sources()
    snapshot = database.read_now(read_snapshot, given.settings, NOON, given.has_key, given.unit_price)
    for row in mapping(database).rows:
        for category in (row.category, *row.also):
            for complexity in ("low", "medium", "high") if row.complexity == "*" else (row.complexity,):
                decision = choose(snapshot, row.role, category, complexity)
                assert (row.model, row.provider, row.rule) == (decision.model, decision.provider, decision.rule)


def test_a_run_shows_the_kinds_of_phases_that_are_still_to_be_done(database: Database) -> None:
    with_run(database)
    kinds = [
        ("ui", "low", "queued"),
        ("general", "high", "succeeded"),
        ("ui", "low", "auditing"),
        ("ui", "high", "failed"),
    ]
    for index, (category, complexity, state) in enumerate(kinds, start=1):
        database.write_now(insert_phase, index, task_category=category, complexity=complexity, state=state)
    rows = mapping(database, run_id="R1").rows
    assert [(row.role, row.category, row.complexity, row.model, row.phase_ids) for row in rows] == [
        ("builder", "ui", "low", "gpt-small", ("P1", "P3")),
        ("auditor", "ui", "low", "claude", ("P1", "P3")),
        ("builder", "ui", "high", "gpt-big", ("P4",)),
        ("auditor", "ui", "high", "claude", ("P4",)),
    ]


def test_a_run_keeps_the_map_it_pinned_and_a_new_run_gets_the_present_one(database: Database) -> None:
    with_run(database)
    database.write_now(insert_phase, complexity="low")
    now = settings(complexity_models={"low": RoleModels("gpt-big", "claude")})
    assert mapping(database, now, "R1").rows[0].model == "gpt-small"
    assert explain(database, of=now, complexity="low") == "gpt-big"


def test_overrides_in_force_are_listed_the_runs_own_first(database: Database) -> None:
    everybodys = Override(
        7, "global", "auditor", "*", "high", "gpt-big", "boss\x1b[31m", NOON, NOON + timedelta(hours=1)
    )
    expired = replace(everybodys, override_id=8, expires_at=NOON)
    pinned = model_map_to_json(current_model_map(settings(), (everybodys, expired)))
    with_run(database, model_map=pinned)
    choose_for(database, "ui*", "claude")
    shown = mapping(database, run_id="R1").overrides
    assert [(one.scope, one.role, one.pattern, one.model, one.author) for one in shown] == [
        ("run", "builder", "ui*:*", "claude", "me"),
        ("global", "auditor", "*:high", "gpt-big", "boss\\x1b[31m"),
    ]


def test_choices_and_standings_tell_the_state_of_every_provider(database: Database) -> None:
    event = usage_event(counts=token_counts(uncached_input=85, output=0))
    database.write_now(book_external, event, held_against(), NOON)
    of = settings(provider_settings(WindowCap("week", 100)))
    answer = database.read_now(model_mapping, sources(of, "anthropic"), NOON, None)
    assert [(one.model, one.state) for one in answer.choices] == [
        ("gpt-big", "over its soft limit"), ("gpt-small", "over its soft limit"),
    ]  # fmt: skip
    states = {one.provider: (one.state, one.missing_key_variable, len(one.caps)) for one in answer.standings}
    assert states == {"openai": ("over its soft limit", None, 1), "anthropic": ("no key", "ANTHROPIC_API_KEY", 0)}
    (row,) = [row for row in answer.rows if row.category == "security" and row.role == "builder"]
    assert row.blocked_by == "no API key: ANTHROPIC_API_KEY is not set"


def test_a_used_up_cap_is_said_of_its_provider(database: Database) -> None:
    database.write_now(book_external, usage_event(cost_nano=NANO_PER_USD), held_against(), NOON)
    of = settings(provider_settings(WindowCap("day", nano_usd=NANO_PER_USD)))
    answer = mapping(database, of)
    assert next(one.state for one in answer.standings if one.provider == "openai") == "cap reached"


def test_a_rehearsal_needs_no_key(database: Database) -> None:
    with_run(database, is_rehearsal=True)
    database.write_now(insert_phase)
    answer = database.read_now(model_mapping, sources(None, "openai", "anthropic"), NOON, "R1")
    assert answer.is_rehearsal
    assert [row.blocked_by for row in answer.rows] == [None, None]


def test_an_explanation_has_the_decision_its_reasons_caps_and_choices(database: Database) -> None:
    of = settings(provider_settings(WindowCap("week", 100)))
    found = database.read_now(explain_model, sources(of), NOON, "builder", "general", "high")
    assert (found.row.model, found.row.rule, found.row.reasons) == (
        "gpt-big", "complexity", ("complexity high uses gpt-big as builder",),
    )  # fmt: skip
    assert found.standing is not None
    assert [cap.cap_tokens for cap in found.standing.caps] == [100]
    assert [choice.model for choice in found.choices] == ["gpt-big", "gpt-small", "claude"]


def test_no_model_at_all_is_an_answer_with_its_reason(database: Database) -> None:
    found = database.read_now(explain_model, sources(settings(complexity_models={})), NOON, "builder", "general", "low")
    assert (found.row.model, found.standing) == (None, None)
    assert found.row.error is not None
    assert "complexity_models.low names no builder" in found.row.error


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (
            ("biulder", "general", "low"),
            "Unknown role 'biulder'. Known are builder, auditor, agent:planner, agent:<name>",
        ),
        (("agent:", "general", "low"), "Unknown role 'agent:'."),
        (("builder", "general", "huge"), "Unknown complexity 'huge'. Known are low, medium, high."),
        (("builder", "securty", "low"), "Unknown category 'securty'. Known are general, security."),
        (("builder", "\x1b[31m", "low"), "Unknown category '\\\\x1b[31m'."),
    ],
    ids=["role", "agent without a name", "complexity", "category", "hostile"],
)
def test_a_typo_is_refused_with_what_exists(database: Database, question: tuple[str, str, str], message: str) -> None:
    with pytest.raises(RequestRefused) as refusal:
        database.read_now(explain_model, sources(), NOON, *question)
    assert message in str(refusal.value)


def test_a_category_that_only_the_plan_knows_can_be_asked_about(database: Database) -> None:
    with_run(database)
    database.write_now(insert_phase, task_category="odd")
    assert explain(database, category="odd", run_id="R1") == "gpt-big"
    with pytest.raises(RequestRefused):
        explain(database, category="odd")


def test_an_unknown_run_is_refused(database: Database) -> None:
    for ask in (lambda: mapping(database, run_id="R9"), lambda: explain(database, run_id="R9")):
        with pytest.raises(RunNotFound):
            ask()


def test_an_override_changes_future_phases_only(database: Database) -> None:
    with_run(database)
    states = ["succeeded", "building", "queued", "failed", "skipped", "queued"]
    for index, state in enumerate(states, start=1):
        category = "general" if index == 6 else "ui"
        database.write_now(insert_phase, index, task_category=category, state=state)
    before = snapshot_of(database)
    choose_for(database, "ui", "claude")
    changes = phase_model_changes(before, snapshot_of(database), database.read_now(phases_of_run, "R1"))
    assert changes == (
        PhaseModelChange("P3", "phase 3", "builder", "gpt-big", "claude"),
        PhaseModelChange("P4", "phase 4", "builder", "gpt-big", "claude"),
    )


def test_a_question_that_gets_its_first_model_is_a_change(database: Database) -> None:
    of = settings(complexity_models={}, fallback_strategy=FallbackStrategy())
    with_run(database, of)
    database.write_now(insert_phase)
    before = snapshot_of(database, of)
    choose_for(database, "*", "claude")
    changes = phase_model_changes(before, snapshot_of(database, of), database.read_now(phases_of_run, "R1"))
    assert [(change.from_model, change.to_model) for change in changes] == [(None, "claude")]


def snapshot_of(database: Database, of: Settings | None = None) -> Any:
    given = sources(of)
    rules = database.read_now(run_rules, "R1", NOON)
    return database.read_now(read_snapshot, given.settings, NOON, given.has_key, given.unit_price, rules)


def explain(
    database: Database,
    of: Settings | None = None,
    category: str = "general",
    complexity: str = "medium",
    run_id: str | None = None,
) -> str | None:
    found = database.read_now(explain_model, sources(of), NOON, "builder", category, complexity, run_id)
    return found.row.model
