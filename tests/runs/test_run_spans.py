"""The trace of whole runs: one tree of spans, each written with what it tells of; a plan's commands find it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from autopack_mcp.budgets.ledger import RunFence
from autopack_mcp.database.engine import Database
from autopack_mcp.errors import LeaseLost
from autopack_mcp.runs.outcomes import FailureRule, WasVerified, write_outcome
from autopack_mcp.runs.run_spans import Step, step_of
from autopack_mcp.runs.states import PHASE_ACTIVE
from autopack_mcp.runs.store import phases_of_run
from autopack_mcp.traces.spans import Span, run_span_id, span_id_of, spans_of_run, trace_id_of
from tests.factories import NOON, insert_attempt, insert_phase, insert_run
from tests.projects import a_phase, a_plan, make_repository
from tests.runs.house import ANN, House, open_house
from tests.span_truth import assert_spans_add_up, steps_done

pytestmark = pytest.mark.anyio


@pytest.fixture
async def house(tmp_path: Path, empty_database: Path | str) -> AsyncIterator[House]:
    async with open_house(tmp_path, empty_database) as opened:
        yield opened


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "project")


def spans(house: House, run_id: str) -> tuple[Span, ...]:
    return house.autopack.database.read_now(spans_of_run, run_id)


def tree(found: tuple[Span, ...], parent_id: str | None = None, depth: int = 0) -> list[str]:
    """A line for each span, its children indented below it, each with its status."""
    lines: list[str] = []
    for span in found:
        if span.parent_id == parent_id:
            lines += [f"{'  ' * depth}{span.kind}: {span.name} {span.status}", *tree(found, span.span_id, depth + 1)]
    return lines


async def test_a_run_is_one_tree_of_everything_it_did(house: House, repository: Path) -> None:
    async with house.supervising():
        run_id = await house.start(a_plan(repository, [a_phase("a")]))
        await house.stopped(run_id)

    found = spans(house, run_id)
    builder, auditor = (span.attributes["gen_ai.request.model"] for span in found if span.kind == "llm_call")
    assert tree(found) == [
        f"run: run {run_id} ok",
        "  setup: setup ok",
        "  phase: phase a ok",
        "    attempt: attempt 1 at a ok",
        f"      llm_call: chat {builder} ok",
        "      git: apply a ok",
        "      verification: verify a ok",
        f"      llm_call: chat {auditor} ok",
        "      git: commit a ok",
    ]
    house.autopack.database.read_now(assert_spans_add_up, run_id)
    assert not [name for span in found for name in span.attributes if "cost" in name or "usd" in name]


async def test_what_failed_says_so_and_a_phase_tried_anew_begins_anew(house: House, repository: Path) -> None:
    plan = a_plan(repository, [a_phase("a", verify="exit 3")], attempts_limit=1)
    async with house.supervising():
        run_id = await house.start(plan)
        await house.stopped(run_id)
        first = spans(house, run_id)
        await house.control.request(run_id, "resume", ANN)
        await house.stopped(run_id)
        await house.control.request(run_id, "cancel", ANN)
        await house.stopped(run_id)

    told = [(span.kind, span.status, span.attributes.get("error.type")) for span in first if span.kind != "llm_call"]
    assert ("verification", "error", "red") in told
    assert [(span.status, span.attributes["autopack.state"]) for span in first if span.kind == "attempt"] == [
        ("error", "failed")
    ]
    both = spans(house, run_id)
    assert [span.status for span in both if span.kind == "phase"] == ["error", "error"]
    assert {span.parent_id for span in both if span.kind == "phase"} == {run_span_id(run_id)}
    assert [(span.status, span.attributes["autopack.state"]) for span in both if span.kind == "run"] == [
        ("unset", "cancelled")
    ]
    house.autopack.database.read_now(assert_spans_add_up, run_id)


async def test_a_supervisor_that_goes_in_mid_call_leaves_no_span_open_or_doubled(
    house: House, repository: Path
) -> None:
    house.gate.close()
    async with house.supervising():
        run_id = await house.start(a_plan(repository))
        await house.gate.reached.wait()
    assert [span.kind for span in spans(house, run_id) if span.ended_at is None] == ["run", "phase", "attempt"]
    house.gate.open()
    async with house.supervising():
        await house.stopped(run_id)

    house.autopack.database.read_now(assert_spans_add_up, run_id)
    steps = house.autopack.database.read_now(steps_done, run_id)
    assert steps == {f"{step} {phase}": 1 for step in ("apply", "verify", "commit") for phase in "ab"}


async def test_set_up_and_verification_find_their_place_in_the_trace(
    house: House, repository: Path, tmp_path: Path
) -> None:
    setup_file, verify_file = tmp_path / "setup.txt", tmp_path / "verify.txt"
    plan = a_plan(
        repository,
        [a_phase("a", verify=f"printenv TRACEPARENT > {verify_file}")],
        setup=f"printenv TRACEPARENT > {setup_file}",
    )
    async with house.supervising():
        run_id = await house.start(plan)
        await house.stopped(run_id)

    found = spans(house, run_id)
    (verification,) = (span for span in found if span.kind == "verification")
    trace_id = verification.trace_id
    assert setup_file.read_text().strip() == f"00-{trace_id}-{run_span_id(run_id)}-01"
    assert verify_file.read_text().strip() == f"00-{trace_id}-{verification.span_id}-01"


def test_a_process_that_lost_its_run_writes_no_span_of_it(database: Database) -> None:
    def world(connection) -> None:
        insert_run(connection)
        insert_phase(connection, state="verifying", attempt=1)
        insert_attempt(connection)

    database.write_now(world)
    (phase,) = database.read_now(phases_of_run, "R1")
    outcome, rule, step = WasVerified("green", 0, ""), FailureRule(3, "stop"), Step("verify", NOON)
    with pytest.raises(LeaseLost):
        database.write_now(write_outcome, RunFence("R1", 0), phase, outcome, rule, NOON, step)
    assert database.read_now(spans_of_run, "R1") == ()
    database.write_now(write_outcome, RunFence("R1", 1), phase, outcome, rule, NOON, step)
    (span,) = database.read_now(spans_of_run, "R1")
    assert (span.name, span.status, span.attributes["autopack.outcome"]) == ("verify P1", "ok", "green")


def test_a_run_from_before_there_were_traces_has_one_made_from_its_id(database: Database) -> None:
    database.write_now(insert_run)
    assert trace_id_of("R1", None) == trace_id_of("R1", None) != trace_id_of("R2", None)
    assert trace_id_of("R1", "ab" * 16) == "ab" * 16
    assert len(trace_id_of("R1", None)) == 32


def test_ids_are_of_their_parts_and_of_nothing_else() -> None:
    assert span_id_of("R1", "phase", "a", 1) == span_id_of("R1", "phase", "a", 1)
    assert len({span_id_of("R1", "a", "b"), span_id_of("R1", "ab"), span_id_of("R1a", "b"), span_id_of("R1")}) == 4
    assert len(span_id_of("R1")) == 16


def test_only_steps_without_a_call_are_spans_of_their_own() -> None:
    assert {state for state in PHASE_ACTIVE if step_of(state, NOON) is None} == {"building", "auditing"}
