"""Runs whose providers, models or own commands misbehave: what is tried again, what is booked, what is said."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from autopack_mcp.processes import OUTPUT_CAP_BYTES
from autopack_mcp.summary.run import RunSummary
from autopack_mcp.workspace.verify import SHOWN_LIMIT
from tests.e2e.scene import (
    OUTPUT_LIMIT,
    QUICK,
    approval,
    attempts_of,
    events,
    facts,
    held,
    of_auditor,
    of_builder,
    open_scene,
    quick_door,
    rejection,
    script_phase,
    total_tokens,
    writes,
)
from tests.ledger_truth import assert_ledger_adds_up
from tests.projects import a_phase, a_plan, git, make_repository
from tests.runs.house import House
from tests.upstream.harness import Answer, Fault, Served, Upstream

pytestmark = pytest.mark.anyio

GOOD = writes("a.txt", "a\n")
NEVER_MS = 3_600_000
# What a hostile builder tries, each in an attempt of its own, and what it is told in the next.
FORBIDDEN = {
    "b.txt": "'b.txt' is not allowed in this phase",
    "../outside.txt": "'../outside.txt' leaves the workspace",
    "/outside.txt": "'/outside.txt' is not relative",
    ".git/hooks/post-checkout": "'.git/hooks/post-checkout' points into a folder that is not the builder's",
    ".autopack/human_notes.md": "'.autopack/human_notes.md' points into a folder that is not the builder's",
    "away/evil.txt": "'away' is a symbolic link",
    "away.txt": "'away.txt' is a symbolic link",
}


@pytest.fixture
async def house(tmp_path: Path, empty_database_file: Path, upstream: Upstream) -> AsyncIterator[House]:
    addresses = (upstream.openai_base_url, upstream.anthropic_base_url)
    async with open_scene(tmp_path, empty_database_file, *addresses) as opened:
        yield opened
        # However a run went: what is booked adds up, and nothing is left promised to a call that is over.
        await opened.autopack.database.read(assert_ledger_adds_up)
        assert await opened.autopack.database.read(held) == []


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "project")


async def carried_out(
    house: House,
    repository: Path,
    phase: dict[str, Any] | None = None,
    call_timeout_s: float | None = None,
    **plan: Any,
) -> RunSummary:
    """A run of one phase, as soon as nobody advances it any more."""
    text = a_plan(repository, [phase or a_phase("a")], **{"attempts_limit": 2, **plan})
    async with house.supervising(quick_door(house, call_timeout_s=call_timeout_s)):
        return await house.stopped(await house.start(text, is_rehearsal=False))


def asked(upstream: Upstream, provider: str) -> list[Served]:
    path = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}[provider]
    return [served for served in upstream.journal() if served.path == path]


# ── the provider ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_refused_key_fails_the_attempt_with_the_reason_and_costs_nothing(
    house: House, repository: Path, upstream: Upstream
) -> None:
    upstream.always(of_builder("a"), Fault(status=401, message="Incorrect API key provided"))
    run = await carried_out(house, repository, attempts_limit=1)
    [event] = await house.autopack.database.read(events)

    assert (run.state, run.tokens_used) == ("needs_attention", 0)
    assert "openai answered 401" in run.why
    assert facts(event, "status", "charged_tokens", "cost_nano", "response_id") == ("failed", 0, 0, None)
    assert "Incorrect API key" in event["error"]
    assert len(upstream.journal()) == 1  # Asking again with the same key would not help.


async def test_a_rate_limited_call_is_made_again_and_both_tries_have_a_row(
    house: House, repository: Path, upstream: Upstream
) -> None:
    upstream.script(of_builder("a"), Fault(status=429, retry_after_s=0), Answer(text=GOOD, response_id="second"))
    upstream.script(of_auditor("a"), Answer(text=approval()))
    run = await carried_out(house, repository)
    first, second, _ = await house.autopack.database.read(events)

    assert (run.state, run.phases[0].attempt) == ("succeeded", 1)
    assert facts(first, "status", "charged_tokens", "attempt") == ("failed", 0, 1)
    assert facts(second, "status", "charged_tokens", "attempt", "response_id") == ("ok", 120, 1, "second")


async def test_a_wish_to_wait_for_hours_is_taken_for_a_quota_and_ends_the_trying(
    house: House, repository: Path, upstream: Upstream
) -> None:
    upstream.always(of_builder("a"), Fault(status=429, retry_after_s=7_200))
    run = await carried_out(house, repository, attempts_limit=1)

    assert run.state == "needs_attention"
    assert len(upstream.journal()) == 1


async def test_a_provider_that_stays_broken_fails_the_attempt_after_a_bounded_number_of_requests(
    house: House, repository: Path, upstream: Upstream
) -> None:
    upstream.always(of_builder("a"), Fault(status=500, message="try later"))
    run = await carried_out(house, repository, attempts_limit=1)
    booked = await house.autopack.database.read(events)

    assert (run.state, run.phases[0].attempt) == ("needs_attention", 1)
    assert "answered 500" in run.why
    assert len(upstream.journal()) == QUICK.tries_limit == len(booked)
    # Nobody can prove that a 5xx was free, so each is charged what was reserved for it, and the run says so.
    assert {facts(event, "status", "usage_source") for event in booked} == {("failed", "estimated")}
    assert run.tokens_used == sum(total_tokens(event) for event in booked) > QUICK.tries_limit * OUTPUT_LIMIT


async def test_a_call_that_hangs_ends_at_its_deadline_and_is_made_again(
    house: House, repository: Path, upstream: Upstream
) -> None:
    upstream.script(of_builder("a"), Answer(text=GOOD, starts_after_ms=NEVER_MS), Answer(text=GOOD))
    upstream.script(of_auditor("a"), Answer(text=approval()))
    run = await carried_out(house, repository, call_timeout_s=1.5)
    hung, answered, _ = await house.autopack.database.read(events)

    assert (run.state, run.phases[0].attempt) == ("succeeded", 1)
    assert "within 1.5 s" in hung["error"]
    assert facts(hung, "status", "usage_source") == ("failed", "estimated")
    assert hung["charged_tokens"] > OUTPUT_LIMIT
    assert answered["status"] == "ok"


async def test_a_builders_stream_that_is_cut_is_charged_in_full_and_asked_for_again(
    house: House, repository: Path, upstream: Upstream
) -> None:
    upstream.script(of_builder("a"), Answer(text=GOOD * 9, cut_after_pieces=3, response_id="cut"), Answer(text=GOOD))
    upstream.script(of_auditor("a"), Answer(text=approval()))
    run = await carried_out(house, repository)
    cut, whole, _ = await house.autopack.database.read(events)

    assert (run.state, run.phases[0].attempt) == ("succeeded", 1)
    # OpenAI tells the usage with the last event, which never came.
    assert facts(cut, "status", "usage_source", "response_id") == ("cut", "estimated", "cut")
    assert cut["charged_tokens"] > OUTPUT_LIMIT
    assert facts(whole, "status", "charged_tokens") == ("ok", 120)


async def test_an_auditors_stream_that_is_cut_keeps_what_was_seen_and_is_charged_in_full(
    house: House, repository: Path, upstream: Upstream
) -> None:
    upstream.script(of_builder("a"), Answer(text=GOOD))
    upstream.script(
        of_auditor("a"), Answer(text=approval() * 9, input_tokens=77, cut_after_pieces=3), Answer(text=approval())
    )
    run = await carried_out(house, repository)
    _, cut, whole = await house.autopack.database.read(events)

    assert (run.state, run.phases[0].attempt) == ("succeeded", 1)
    assert facts(cut, "provider", "status", "usage_source", "uncached_input") == ("anthropic", "cut", "partial", 77)
    assert cut["charged_tokens"] > OUTPUT_LIMIT > total_tokens(cut)
    assert whole["status"] == "ok"


async def test_streams_that_are_always_cut_fail_the_attempt_and_the_next_one_goes_on(
    house: House, repository: Path, upstream: Upstream
) -> None:
    torso = Answer(text=GOOD * 9, cut_after_pieces=2)
    upstream.script(of_builder("a"), *[torso] * QUICK.tries_limit, Answer(text=GOOD))
    upstream.script(of_auditor("a"), Answer(text=approval()))
    run = await carried_out(house, repository)

    assert (run.state, run.phases[0].attempt) == ("succeeded", 2)
    assert "openai broke off the connection" in asked(upstream, "openai")[-1].prompt


# ── the models ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_prose_instead_of_edits_fails_the_attempt_is_paid_for_and_the_reason_is_fed_back(
    house: House, repository: Path, upstream: Upstream
) -> None:
    prose = Answer(text="I would rather talk about the weather.", input_tokens=300, output_tokens=9)
    upstream.script(of_builder("a"), prose, Answer(text=GOOD))
    upstream.script(of_auditor("a"), Answer(text=approval()))
    run = await carried_out(house, repository)
    first, second = asked(upstream, "openai")
    [talk, *_] = await house.autopack.database.read(events)

    assert (run.state, run.phases[0].attempt) == ("succeeded", 2)
    assert facts(talk, "status", "charged_tokens", "attempt") == ("ok", 309, 1)
    assert "earlier attempts" not in first.prompt
    assert "the builder's reply cannot be used" in second.prompt
    assert git(repository, "log", "--format=%(trailers:key=Autopack-Attempt,valueonly)", "-1", run.branch) == "2"


async def test_a_builder_that_writes_where_it_may_not_is_refused_each_time_and_told_why(
    house: House, tmp_path: Path, upstream: Upstream
) -> None:
    away = tmp_path / "elsewhere"
    away.mkdir()
    repository = make_repository(tmp_path / "project")
    (repository / "away").symlink_to(away)
    (repository / "away.txt").symlink_to(away / "evil.txt")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=links")
    hostile = [Answer(text=GOOD + writes(path, "echo evil\n")) for path in FORBIDDEN]
    upstream.script(of_builder("a"), *hostile, Answer(text=GOOD))
    upstream.script(of_auditor("a"), Answer(text=approval()))
    phase = a_phase("a", allowed_paths=["a.txt", "away", "away.txt"])
    run = await carried_out(house, repository, phase, attempts_limit=len(FORBIDDEN) + 1)

    assert (run.state, run.phases[0].attempt) == ("succeeded", len(FORBIDDEN) + 1)
    for served, reason in zip(asked(upstream, "openai")[1:], FORBIDDEN.values(), strict=True):
        assert reason in served.prompt.rpartition("Why earlier attempts")[2]
    assert git(repository, "diff", "--name-only", f"main..{run.branch}") == "a.txt"
    assert list(away.iterdir()) == []
    assert not list(tmp_path.rglob("outside.txt"))
    assert not list(tmp_path.rglob("*hooks/post-checkout"))
    assert "evil" not in (Path(run.workspace) / ".autopack" / "human_notes.md").read_text(encoding="utf-8")


async def test_an_unusable_verdict_is_asked_for_once_more_within_the_attempt(
    house: House, repository: Path, upstream: Upstream
) -> None:
    upstream.script(of_builder("a"), Answer(text=GOOD))
    upstream.script(of_auditor("a"), Answer(text="Looks fine to me!"), Answer(text=approval()))
    run = await carried_out(house, repository)

    assert (run.state, run.phases[0].attempt) == ("succeeded", 1)
    assert [event["role"] for event in await house.autopack.database.read(events)] == ["builder", "auditor", "auditor"]


async def test_two_unusable_verdicts_cost_the_attempt(house: House, repository: Path, upstream: Upstream) -> None:
    upstream.script(of_builder("a"), Answer(text=GOOD), Answer(text=GOOD))
    upstream.script(of_auditor("a"), *[Answer(text="Looks fine to me!")] * 2, Answer(text=approval()))
    run = await carried_out(house, repository)

    assert (run.state, run.phases[0].attempt) == ("succeeded", 2)
    assert "verdict cannot be used" in asked(upstream, "openai")[1].prompt


async def test_a_change_that_is_rejected_to_the_end_leaves_no_commit_and_asks_for_a_person(
    house: House, repository: Path, upstream: Upstream
) -> None:
    upstream.always(of_builder("a"), Answer(text=GOOD))
    upstream.always(of_auditor("a"), Answer(text=rejection("Not like this.", "It says a instead of b.")))
    run = await carried_out(house, repository)

    assert (run.state, run.phases[0].attempt, run.percent_complete) == ("needs_attention", 2, 0.0)
    assert "It says a instead of b." in run.phases[0].why
    assert run.needs_you is not None
    assert git(repository, "branch", "--list", run.branch) == ""


# ── the verification ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_verification_that_hangs_is_ended_at_its_deadline_and_the_reason_is_fed_back(
    house: House, repository: Path, upstream: Upstream
) -> None:
    upstream.script(of_builder("a"), Answer(text=writes("slow", "yes\n")), Answer(text=GOOD))
    upstream.script(of_auditor("a"), Answer(text=approval()))
    hangs_once = "if test -e slow; then echo waiting for a friend; sleep 3600; fi"
    run = await carried_out(house, repository, a_phase("a", verify=hangs_once), verify_timeout_s=1)
    [hung, _] = await house.autopack.database.read(attempts_of, run.run_id)

    assert (run.state, run.phases[0].attempt) == ("succeeded", 2)
    assert (hung["verify_outcome"], hung["verify_exit_code"]) == ("timeout", None)
    second = asked(upstream, "openai")[1].prompt
    assert "ran into its deadline" in second
    assert "waiting for a friend" in second
    assert len(asked(upstream, "anthropic")) == 1  # A red verification skips the auditor (contract 21).


async def test_a_verification_that_floods_its_output_keeps_the_head_and_the_tail_of_it(
    house: House, repository: Path, upstream: Upstream
) -> None:
    script_phase(upstream, "a")
    flood = f"echo THE HEAD; head -c {3 * OUTPUT_CAP_BYTES} /dev/zero | tr '\\0' x | fold; echo; echo THE TAIL"
    run = await carried_out(house, repository, a_phase("a", verify=flood))
    [attempt] = await house.autopack.database.read(attempts_of, run.run_id)
    output = attempt["verify_output"]

    assert run.state == "succeeded"
    assert OUTPUT_CAP_BYTES * 0.9 < len(output) <= SHOWN_LIMIT
    assert output.startswith("THE HEAD\n")
    assert output.rstrip().endswith("THE TAIL")
    assert "bytes" in output.replace("x", "")
    [audit] = asked(upstream, "anthropic")
    assert "THE TAIL" in audit.prompt
    assert len(audit.prompt) < 20_000
