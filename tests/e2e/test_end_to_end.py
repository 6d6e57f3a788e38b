"""A real plan on a real repository, built and audited over real HTTP, watched and steered from a chat.

One run is lived once (``story``); each test reads one promise off it: the journal is what the upstream served, and
every number that people see must follow from it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterable
from math import floor
from pathlib import Path

import pytest

from tests.e2e.scene import AUDITOR, BUILDER, LARGE_BUILDER, PRICES, SHARE, SMALL_BUILDER, WEEKLY_CAP, total_tokens
from tests.e2e.story import Story, live
from tests.e2e.tally import CHANGES, ISSUE, LATER_RULES, NOTE, PLAN, RULES, VERDICT, make_project
from tests.upstream.harness import Served, Upstream

PROVIDERS = {"/v1/chat/completions": "openai", "/v1/messages": "anthropic"}
# Who is asked about which phase, in the order of the run; the second phase takes two attempts.
CALLS = [
    ("word-count", BUILDER), ("word-count", AUDITOR),
    ("top-words", LARGE_BUILDER), ("top-words", AUDITOR), ("top-words", LARGE_BUILDER), ("top-words", AUDITOR),
    ("report", SMALL_BUILDER), ("report", AUDITOR),
    ("readme", SMALL_BUILDER), ("readme", AUDITOR),
]  # fmt: skip


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, empty_database_file: Path, upstream_process: Upstream) -> Story:
    upstream_process.forget()
    return asyncio.run(live(tmp_path_factory.mktemp("story"), empty_database_file, upstream_process))


def nano_usd(calls: Iterable[Served]) -> int:
    """What these calls cost at the prices of the config: dollars per million tokens are 1,000 nano-dollars each."""
    return sum(
        1_000 * (PRICES[call.model][0] * (call.input_tokens or 0) + PRICES[call.model][1] * (call.output_tokens or 0))
        for call in calls
    )


def tokens(calls: Iterable[Served]) -> int:
    return sum((call.input_tokens or 0) + (call.output_tokens or 0) for call in calls)


def is_green(folder: Path) -> bool:
    return subprocess.run([sys.executable, "-m", "unittest"], cwd=folder, capture_output=True).returncode == 0


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_run_succeeds_and_says_so_in_every_field(story: Story) -> None:
    final = story.final
    assert (final["state"], final["percent_complete"], final["needs_you"]) == ("succeeded", 100, None)
    assert (final["completed_tiers"], final["total_tiers"]) == (2, 2)
    assert (final["completed_phases"], final["total_phases"]) == (4, 4)
    assert [phase["attempt"] for phase in final["phases"]] == [1, 2, 1, 1]
    assert {phase["is_verified"] for phase in final["phases"]} == {"verified"}
    assert (final["major_issues_count"], final["minor_issues_count"]) == (0, 0)  # Of the attempts that were kept.
    assert final["token_cap"] == PLAN["token_cap"]


def test_each_phase_is_one_commit_with_its_files_and_trailers_and_nothing_else(story: Story) -> None:
    commits = story.git("rev-list", "--reverse", f"main..{story.branch}").splitlines()
    for commit, (phase_id, files), attempt in zip(commits, CHANGES.items(), (1, 2, 1, 1), strict=True):
        assert story.git("show", "--format=", "--name-only", commit).splitlines() == list(files)
        trailers = story.git("show", "--no-patch", "--format=%(trailers:only,unfold)", commit)
        assert trailers.splitlines() == [
            f"Autopack-Run: {story.run_id}", f"Autopack-Phase: {phase_id}", f"Autopack-Attempt: {attempt}"
        ]  # fmt: skip
        assert {path: story.git("show", f"{commit}:{path}") for path in files} == {
            path: text.strip() for path, text in files.items()
        }
    assert [phase["commit"] for phase in story.final["phases"]] == [commit[:10] for commit in commits]


def test_the_tests_of_the_project_fail_before_and_pass_on_the_runs_branch(story: Story, tmp_path: Path) -> None:
    assert not is_green(make_project(tmp_path / "before"))
    story.git("clone", "--quiet", f"--branch={story.branch}", str(story.repository), str(tmp_path / "after"))
    assert is_green(tmp_path / "after")


def test_the_persons_checkout_is_not_touched(story: Story) -> None:
    assert story.git("status", "--porcelain") == ""
    assert story.git("rev-parse", "HEAD", "main").split() == [story.base, story.base]
    assert story.git("for-each-ref", "--format=%(refname)").splitlines() == [
        f"refs/autopack/{story.run_id}/base", f"refs/heads/{story.branch}", "refs/heads/main"
    ]  # fmt: skip


# ── what the models were asked ───────────────────────────────────────────────────────────────────────────────────────


def test_every_phase_asks_its_builder_and_then_its_auditor_and_nobody_else(story: Story) -> None:
    assert [call.model for call in story.journal] == [model for _, model in CALLS]
    for call, (phase_id, _) in zip(story.journal, CALLS, strict=True):
        assert f"## Phase {phase_id}:" in call.prompt


def test_every_prompt_has_the_rules_as_they_stood_at_the_start(story: Story) -> None:
    assert all(f"> {RULES}" in call.prompt for call in story.journal)
    assert not any(LATER_RULES in call.prompt for call in story.journal)


def test_a_rejected_attempt_is_told_why_and_nobody_else_is(story: Story) -> None:
    told = [call for call in story.journal if ISSUE in call.prompt]
    assert told == [story.journal[4]]
    assert VERDICT in told[0].prompt
    assert "Counter(text.split()).items()" not in told[0].prompt  # The rejected change was rolled back.


def test_the_auditor_sees_the_real_diff_and_the_acceptance_criteria(story: Story) -> None:
    audit = story.journal[5].prompt
    assert "the most frequent word comes first" in audit
    assert "> +    return Counter(text.split()).most_common()" in audit
    assert "OK" in audit.partition("## Verification")[2]  # What unittest said on exactly this change.


def test_an_override_for_the_run_changes_the_next_phase_and_no_other(story: Story) -> None:
    answer = story.said["override"]
    assert [(change["phase_id"], change["role"], change["to_model"]) for change in answer["changes"]] == [
        ("top-words", "builder", LARGE_BUILDER)
    ]
    # The phase in hand when it was said matches the pattern too, and kept what it had begun with.
    assert [phase_id for phase_id, model in CALLS if model == LARGE_BUILDER] == ["top-words", "top-words"]
    assert [phase["builder_model"] for phase in story.final["phases"]] == [
        BUILDER, LARGE_BUILDER, SMALL_BUILDER, SMALL_BUILDER
    ]  # fmt: skip


def test_a_note_is_quoted_in_every_later_prompt_and_the_status_says_who_got_it_first(story: Story) -> None:
    quoted = "\n".join(f"> {line}" for line in NOTE.splitlines())
    assert [quoted in call.prompt for call in story.journal] == [False, *[True] * (len(CALLS) - 1)]
    [note] = story.final["notes"]
    assert note["note_id"] == story.said["note"]["note_id"]
    assert note["delivered"] == f"first in phase word-count, {len(CALLS) - 1} prompts so far"
    assert "No test data from customers" in Path(story.said["note"]["notes_file"]).read_text(encoding="utf-8")


# ── watching and steering ────────────────────────────────────────────────────────────────────────────────────────────


def test_pause_holds_the_run_at_a_step_boundary_until_it_is_told_to_go_on(story: Story) -> None:
    paused = story.said["paused"]
    assert (story.said["pause"]["state"], story.said["pause"]["is_pending"]) == ("paused", False)
    assert (paused["state"], paused["current_phase_state"]) == (
        "paused",
        "applying (paused)",
    )  # The builder's answer is kept.
    assert paused["needs_you"]["say"] == f"resume run {story.run_id}"
    assert (story.said["resume"]["state"], story.said["resume"]["is_pending"]) == ("running", False)
    assert "tokens_reserved" not in paused  # Absent is none: nothing stays promised while it rests.


def test_progress_as_the_chat_saw_it_never_goes_back(story: Story) -> None:
    seen = [status["percent_complete"] for status in story.statuses]
    assert seen == sorted(seen)
    assert {0, 25, 50, 75, 100} == set(seen)
    spent = [status["tokens_used"] for status in story.statuses]
    assert spent == sorted(spent)


@pytest.mark.parametrize("index", ["current_tier_index", "current_phase_index"])
def test_the_place_in_the_plan_moves_only_forward(story: Story, index: str) -> None:
    places = [status[index] for status in story.statuses]
    assert places == sorted(places)
    assert places[0] == 1


def test_the_context_block_says_where_the_run_stands_and_quotes_what_others_wrote(story: Story) -> None:
    assert story.context.startswith(f"# Run `{story.run_id}`: succeeded, 100 %")
    for part in ("Says it.", str(story.repository), f"`{story.branch}`", "No test data", "tally.yaml"):
        assert part in story.context
    assert f"{tokens(story.journal):,} used" in story.context


# ── what it cost ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_call_that_was_served_is_booked_as_it_was_served_and_nothing_else_is(story: Story) -> None:
    served = [
        (PROVIDERS[call.path], call.model, call.response_id, call.input_tokens, call.output_tokens, nano_usd([call]))
        for call in story.journal
    ]
    booked = [
        (row["provider"], row["model"], row["response_id"], row["uncached_input"], row["output"], row["cost_nano"])
        for row in story.booked
    ]
    assert booked == served
    assert {row["status"] for row in story.booked} == {"ok"}
    assert {row["usage_source"] for row in story.booked} == {"provider"}


def test_every_row_names_its_phase_attempt_and_role(story: Story) -> None:
    attempts = [1, 1, 1, 1, 2, 2, 1, 1, 1, 1]
    roles = {AUDITOR: "auditor"}
    assert [(row["run_id"], row["phase_id"], row["attempt"], row["role"]) for row in story.booked] == [
        (story.run_id, phase_id, attempt, roles.get(model, "builder"))
        for (phase_id, model), attempt in zip(CALLS, attempts, strict=True)
    ]


def test_nothing_is_left_reserved(story: Story) -> None:
    assert story.held == []
    assert "tokens_reserved" not in story.final
    assert all("reserved_tokens" not in row for row in story.usage["providers"])
    assert any(status.get("tokens_reserved") for status in story.statuses)  # It was promised before it was spent.


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_the_usage_of_an_account_is_what_it_served_against_the_cap_that_is_ours(story: Story, provider: str) -> None:
    calls = [call for call in story.journal if PROVIDERS[call.path] == provider]
    [row] = [row for row in story.usage["providers"] if row["provider"] == provider]
    assert row["prompt_tokens"] == sum(call.input_tokens or 0 for call in calls)
    assert row["completion_tokens"] == sum(call.output_tokens or 0 for call in calls)
    assert row["total_tokens"] == tokens(calls) > 0
    assert row["cap_tokens"] == floor(WEEKLY_CAP * SHARE)
    assert row["percent_of_cap"] == floor(1_000 * tokens(calls) / row["cap_tokens"]) / 10
    assert row["cost_usd"] == pytest.approx(nano_usd(calls) / 1e9, abs=1e-6)


def test_the_usage_of_a_model_is_what_it_served(story: Story) -> None:
    used = {row["model"]: row["total_tokens"] for row in story.usage["models"]}
    assert used == {
        model: tokens(call for call in story.journal if call.model == model) for _, model in dict.fromkeys(CALLS)
    }


def test_run_usage_and_rows_agree_on_the_total(story: Story) -> None:
    total = tokens(story.journal)
    assert story.final["tokens_used"] == story.usage["total_tokens"] == total
    assert sum(total_tokens(row) for row in story.booked) == total
    assert story.final["cost_usd"] == pytest.approx(nano_usd(story.journal) / 1e9, abs=1e-6)
