"""Plans as people write them: what each key means, and every mistake at once with its line."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack_mcp.errors import PlanError
from autopack_mcp.plans import plan_file
from autopack_mcp.plans.plan import PhaseSpec, Plan, PlanLimits, RehearsalScript, TierSpec
from autopack_mcp.plans.plan_file import load_plan, load_plan_file

CATEGORIES = frozenset({"general", "docs", "core_backend"})


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    return tmp_path / "repository"


def plan_of(text: str, **overrides: Any) -> Plan:
    return load_plan(text, "plan.yaml", **{"known_categories": CATEGORIES, **overrides})


def problems(text: str, **overrides: Any) -> list[str]:
    with pytest.raises(PlanError) as caught:
        plan_of(text, **overrides)
    return [str(problem) for problem in caught.value.problems]


def phase_of(keys: str, repository: Path) -> PhaseSpec:
    (phase,) = plan_of(one_phase(keys), repository=repository).phases
    return phase


def one_phase(keys: str) -> str:
    return f"verify: none\ntiers: [{{id: t, phases: [{{id: p, name: n, {keys}}}]}}]\n"


EVERYTHING = """name: Everything
repository: repository
base: release/1.2
setup: make venv
verify: make test
verify_timeout_s: 30
verify_network: true
allow_fuzzy: true
limits: {cpu_s: 1_000, memory_mb: 2_000, output_mb: 3, processes: 40}
token_cap: 100_000
cost_cap_usd: 1.25
attempts_limit: 2
on_failure: continue
tiers:
  - id: one
    name: The first
    description: of two
    phases:
      - id: a
        name: A
        description: |
          Do this,
          then that.
        category: docs
        complexity: high
        acceptance_criteria: [one, two]
        allowed_paths: [src/, ./README.md]
        context_paths: [docs/*.md]
        verify: make docs
        token_cap: 60_000
        cost_cap_usd: 0.75
        rehearsal:
          files: {README.md: "text\\n", empty.txt: ""}
          reject_first: no
  - tier_id: two
    phases:
      - phase_id: b
        name: B
        task_category: core_backend
"""


def test_every_key_of_a_plan_is_read(repository: Path) -> None:
    plan = plan_of(EVERYTHING, folder=repository.parent)
    assert plan == Plan(
        name="Everything",
        repository=str(repository),
        verify="make test",
        base="release/1.2",
        setup="make venv",
        token_cap=100_000,
        cost_cap_nano=1_250_000_000,
        attempts_limit=2,
        on_failure="continue",
        verify_timeout_s=30,
        verify_network=True,
        allow_fuzzy=True,
        limits=PlanLimits(cpu_s=1_000, memory_mb=2_000, output_mb=3, processes=40),
        source="plan.yaml",
        tiers=(
            TierSpec(
                "one",
                "The first",
                (
                    PhaseSpec(
                        phase_id="a",
                        name="A",
                        description="Do this,\nthen that.\n",
                        task_category="docs",
                        complexity="high",
                        acceptance_criteria=("one", "two"),
                        allowed_paths=("src/**", "README.md"),
                        context_paths=("docs/*.md",),
                        verify="make docs",
                        rehearsal=RehearsalScript({"README.md": "text\n", "empty.txt": ""}, "no"),
                        token_cap=60_000,
                        cost_cap_nano=750_000_000,
                    ),
                ),
                "of two",
            ),
            TierSpec("two", "two", (PhaseSpec("b", "B", "B", "core_backend"),)),
        ),
    )


def test_what_is_left_out_has_its_default(repository: Path) -> None:
    plan = plan_of(one_phase(""), repository=repository)
    assert plan == Plan(
        "plan", str(repository), "none", (TierSpec("t", "t", (PhaseSpec("p", "n", "n"),)),), source="plan.yaml"
    )


def test_the_same_plan_comes_from_json(repository: Path) -> None:
    data = {"name": "é😀", "verify": "none", "tiers": [{"id": "t", "phases": [{"id": "p", "name": "n"}]}]}
    plan = plan_of(json.dumps(data, indent="\t"), repository=repository)
    assert (plan.name, plan.phases) == ("é😀", (PhaseSpec("p", "n", "n"),))


@pytest.mark.parametrize("change", [lambda t: "\ufeff" + t, lambda t: t.replace("\n", "\r\n")], ids=["BOM", "CRLF"])
def test_what_editors_do_to_files_changes_nothing(repository: Path, change: Any) -> None:
    text = "verify: |\n  make a\n  make b\ntiers:\n- id: t\n  phases:\n  - id: p\n    name: n\n"
    assert plan_of(change(text), repository=repository) == plan_of(text, repository=repository)


# --- Repository and command ---


def test_a_relative_repository_starts_at_the_folder_of_the_plan(repository: Path) -> None:
    path = repository.parent / "plans" / "p.yaml"
    path.parent.mkdir()
    path.write_text("repository: ../repository\n" + one_phase(""))
    assert load_plan_file(path, known_categories=CATEGORIES).repository == str(repository)


def test_a_plan_without_a_folder_cannot_name_a_relative_repository() -> None:
    assert problems("repository: .\n" + one_phase("")) == [
        "plan.yaml:1: error: repository: '.' is relative, but this plan has no folder. Write the whole path."
    ]


def test_the_repository_that_was_given_wins(repository: Path) -> None:
    text = "repository: /nowhere\n" + one_phase("")
    assert plan_of(text, repository=repository).repository == str(repository)


def test_a_given_repository_starts_at_the_current_folder(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository.parent)
    assert plan_of(one_phase(""), repository=Path("repository")).repository == str(repository)


@pytest.mark.parametrize(
    "layout", [("HEAD", "objects/", "refs/"), (".git",), (".git/",)], ids=["bare", "worktree", "checkout"]
)
def test_every_kind_of_git_repository_is_one(tmp_path: Path, layout: tuple[str, ...]) -> None:
    for name in layout:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_text("")
    assert plan_of(one_phase(""), repository=tmp_path).repository == str(tmp_path)


@pytest.mark.parametrize(
    "line, expected",
    [
        ("", "repository: is missing. Write the folder of a git repository, or give --repository."),
        ("repository: 3", "repository: must be text, not 3. Put it in quotes."),
        ("repository: HERE/nothing", "repository: the repository 'HERE/nothing' is not a folder."),
        ("repository: HERE/file", "repository: the repository 'HERE/file' is not a folder."),
        (
            "repository: HERE",
            "repository: 'HERE' is not a git repository. Name its top folder, or run `git init` there.",
        ),
        ("repository: HERE/loop", "repository: the repository 'HERE/loop' cannot be looked at: "),
        ("repository: HERE/" + "x" * 300, "repository: the repository 'HERE/" + "x" * 300),
    ],
    ids=["missing", "number", "not there", "file", "no git", "circle", "long"],
)
def test_a_plan_without_a_usable_repository_is_refused(tmp_path: Path, line: str, expected: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (problem,) = problems(line.replace("HERE", str(tmp_path)) + "\n" + one_phase(""))
    assert problem.split("error: ")[1].startswith(expected.replace("HERE", str(tmp_path)))


def test_a_plan_without_a_command_must_say_so(repository: Path) -> None:
    text = one_phase("").replace("verify: none\n", "")
    assert problems(text, repository=repository) == [
        (
            "plan.yaml:1: error: verify: there is no verification command. Write one here or give it with --verify; "
            "to go without, write `verify: none`."
        )
    ]
    assert problems("verify:\n" + text, repository=repository) != []


def test_a_plan_whose_phases_all_have_commands_needs_none_of_its_own(repository: Path) -> None:
    text = one_phase("verify: make").replace("verify: none\n", "")
    assert [phase.verify for phase in plan_of(text, repository=repository).phases] == ["make"]


@pytest.mark.parametrize("word", ["none", "None", "' NONE '"])
def test_none_means_unverified_however_it_is_written(repository: Path, word: str) -> None:
    assert plan_of(one_phase("").replace("none", word), repository=repository).verify == "none"
    assert phase_of(f"verify: {word}", repository).verify == "none"


def test_the_command_that_was_given_wins_over_the_plans_but_not_over_a_phases(repository: Path) -> None:
    plan = plan_of(one_phase("verify: phase"), repository=repository, verify=" given ")
    assert (plan.verify, plan.phases[0].verify) == ("given", "phase")


def test_an_empty_command_that_was_given_is_refused(repository: Path) -> None:
    assert problems(one_phase(""), repository=repository, verify=" ") == [
        "plan.yaml:1: error: the verification command that was given must not be empty."
    ]


def test_limits_that_a_plan_does_not_give_have_defaults(repository: Path) -> None:
    plan = plan_of(one_phase("") + "limits: {processes: 7}\n", repository=repository)
    assert plan.limits == PlanLimits(cpu_s=None, memory_mb=None, output_mb=256, processes=7)


# --- Mistakes ---


@pytest.mark.parametrize(
    "line, expected",
    [
        ("token_cap: 0", "token_cap: must be at least 1, not 0. For no cap leave the key out."),
        ("token_cap: lots", "token_cap: must be a whole number, not 'lots'."),
        ("cost_cap_usd: 0", "cost_cap_usd: must be an amount of dollars above 0, not 0. For no cap leave the key out."),
        ("cost_cap_usd: -1.5", "cost_cap_usd: must be an amount of dollars above 0, not -1.5."),
        ("attempts_limit: 21", "attempts_limit: must be from 1 to 20, not 21."),
        ("verify_timeout_s: 0", "verify_timeout_s: must be from 1 to 86,400, not 0."),
        ("verify_network: sometimes", "verify_network: must be true or false, not 'sometimes'."),
        ("allow_fuzzy: a little", "allow_fuzzy: must be true or false, not 'a little'."),
        ("limits: 4 GB", "limits: must hold keys and values, not '4 GB'."),
        ("limits: {memory: 4}", "limits.memory: is not known here. Did you mean 'memory_mb'?"),
        ("limits: {memory_mb: 4.5}", "limits.memory_mb: must be a whole number, not 4.5."),
        ("limits: {cpu_s: 0}", "limits.cpu_s: must be from 1 to 2,592,000, not 0."),
        ("on_failure: ignore", "on_failure: must be stop or continue, not 'ignore'."),
        ("base: --upload-pack=x", "base: must be a branch, tag or commit of the repository, not '--upload-pack=x'."),
        ("base: 'a b'", "base: must be a branch, tag or commit of the repository, not 'a b'."),
        ("setup: [a]", "setup: must be text, not a list."),
        ('name: "a\\u001b[31m"', "name: must not hold the control character '\\x1b'."),
        ("name: " + "x" * 201, "name: has 201 characters; 200 is the most."),
        ("tokens_cap: 1", "tokens_cap: is not known here. Did you mean 'token_cap'?"),
        ("builder_mode: x", "builder_mode: is not known here."),
    ],
)
def test_a_mistake_in_the_head_of_a_plan_is_said_with_its_key(repository: Path, line: str, expected: str) -> None:
    (problem,) = problems(one_phase("") + line + "\n", repository=repository)
    assert problem.startswith(f"plan.yaml:3: error: {expected}")


@pytest.mark.parametrize(
    "keys, expected",
    [
        ("id: 7", "id: must be text, not 7. Put it in quotes."),
        ("id: 'a b'", "id: 'a b': an id has up to 64"),
        ("id: a/b", "id: 'a/b': an id has up to 64"),
        ("id: .a", "id: '.a': an id has up to 64"),
        ("id: a.", "id: 'a.': an id has up to 64"),
        ("id: a..b", "id: 'a..b': an id has up to 64"),
        ("id: a.lock", "id: 'a.lock': an id has up to 64"),
        ("id: " + "a" * 65, f"id: '{'a' * 58}…: an id has up to 64"),
        ("id: p, phase_id: q", "phase_id: says something else than id on line 6. Keep one."),
        ("id: p, acceptance_criteria: one", "acceptance_criteria: must be a list, not 'one'."),
        ("id: p, description: ''", "description: must not be empty."),
        ("id: p, verify: true", "verify: must be text, not true."),
        ("id: p, token_cap: 0", "token_cap: must be at least 1, not 0. For no cap leave the key out."),
        ("id: p, token_cap: -1", "token_cap: must be at least 1, not -1."),
        ("id: p, token_cap: 1.5", "token_cap: must be a whole number, not 1.5."),
        ("id: p, cost_cap_usd: 0", "cost_cap_usd: must be an amount of dollars above 0, not 0. For no cap leave the"),
        ("id: p, cost_cap_usd: .nan", "cost_cap_usd: must be a number, not '.nan'."),
        ("id: p, tokens_cap: 5", "tokens_cap: is not known here. Did you mean 'token_cap'?"),
        ("id: p, allow_fuzzy: 1", "allow_fuzzy: must be true or false, not 1."),
        ("id: p, alowed_paths: []", "alowed_paths: is not known here. Did you mean 'allowed_paths'?"),
        ("id: p, allowed_paths: [/etc/passwd]", "allowed_paths[0]: '/etc/passwd' is not relative to the repository."),
        ("id: p, allowed_paths: ['~/x']", "allowed_paths[0]: '~/x' is not relative to the repository."),
        ("id: p, allowed_paths: ['C:/x']", "allowed_paths[0]: 'C:/x' is not relative to the repository."),
        ("id: p, allowed_paths: [ok, a/../../b]", "allowed_paths[1]: 'a/../../b' leaves the workspace."),
        ("id: p, allowed_paths: ['..']", "allowed_paths[0]: '..' leaves the workspace."),
        ("id: p, allowed_paths: [.git/config]", "allowed_paths[0]: '.git/config' points into .git."),
        ("id: p, allowed_paths: [sub/.GIT/hooks]", "allowed_paths[0]: 'sub/.GIT/hooks' points into .git."),
        ("id: p, allowed_paths: ['a\\b']", "allowed_paths[0]: 'a\\\\b' has a backslash; write / between folders."),
        ("id: p, allowed_paths: [./]", "allowed_paths[0]: './' names nothing."),
        ("id: p, context_paths: [../secret]", "context_paths[0]: '../secret' leaves the workspace."),
        ("id: p, rehearsal: {files: {../a: x}}", "rehearsal.files.'../a': leaves the workspace."),
        ("id: p, rehearsal: {files: {.git/a: x}}", "rehearsal.files.'.git/a': points into .git."),
        ("id: p, rehearsal: {files: {a/: x}}", "rehearsal.files.'a/': is a folder, not a file."),
        ("id: p, rehearsal: {files: {a: 1}}", "rehearsal.files.a: must be the file's whole text, not 1."),
        ("id: p, rehearsal: {files: {a: ~}}", "rehearsal.files.a: must be the file's whole text, not nothing."),
        ('id: p, rehearsal: {files: {a: "\\0"}}', "rehearsal.files.a: must not hold a NUL character."),
        ("id: p, rehearsal: {reject: x}", "rehearsal.reject: is not known here. Did you mean 'reject_first'?"),
        ("id: p, rehearsal: yes", "rehearsal: must hold keys and values, not 'yes'."),
    ],
)
def test_a_mistake_in_a_phase_is_said_with_its_key(repository: Path, keys: str, expected: str) -> None:
    text = f"verify: none\ntiers:\n- id: t\n  phases:\n\n  - {{name: n, {keys}}}\n"
    (problem,) = problems(text, repository=repository)
    assert problem.startswith(f"plan.yaml:6: error: tiers[0].phases[0].{expected}")


def test_likely_places_are_allowed_by_name_only_and_a_phase_may_leave_the_word_to_its_plan(repository: Path) -> None:
    assert phase_of("complexity: low", repository).allow_fuzzy is None
    assert phase_of("allow_fuzzy: true", repository).allow_fuzzy is True
    assert phase_of("allow_fuzzy: false", repository).allow_fuzzy is False


@pytest.mark.parametrize("path", [".gitignore", ".github/ci.yml", "a/b/*.py", "**/*.md", "src/[ab].py", "...", "a..b"])
def test_ordinary_paths_are_allowed(repository: Path, path: str) -> None:
    assert phase_of(f"allowed_paths: ['{path}']", repository).allowed_paths == (path,)


def test_a_phase_that_says_nothing_is_refused(repository: Path) -> None:
    assert problems("verify: none\ntiers:\n- id: t\n  phases:\n  - id: p\n", repository=repository) == [
        "plan.yaml:5: error: tiers[0].phases[0]: says nothing about what to do: write a description."
    ]


@pytest.mark.parametrize(
    "tiers, expected",
    [
        ("", ["1: error: tiers: a plan needs at least one tier with at least one phase."]),
        ("tiers: []", ["2: error: tiers: a plan needs at least one tier with at least one phase."]),
        ("tiers:\n- id: t", ["3: error: tiers[0]: has no phase. A tier needs at least one."]),
        ("tiers:\n- id: t\n  phases: []", ["3: error: tiers[0]: has no phase. A tier needs at least one."]),
        ("tiers:\n- phases: [{id: p, name: n}]", ["3: error: tiers[0]: needs an id."]),
        ("tiers:\n- words", ["3: error: tiers[0]: must hold keys and values, not 'words'."]),
        ("tiers: {id: t}", ["2: error: tiers: must be a list, not keys and values."]),
        ("phases: [{id: p, name: n}]", None),
    ],
    ids=["none", "empty", "no phases", "empty tier", "no id", "words", "mapping", "phases at the top"],
)
def test_a_plan_without_phases_in_tiers_is_refused(repository: Path, tiers: str, expected: list[str] | None) -> None:
    found = problems(f"verify: none\n{tiers}\n", repository=repository)
    if expected is not None:
        assert found == [f"plan.yaml:{line}" for line in expected]
    assert found


def test_a_doubled_id_is_refused_wherever_it_stands(repository: Path) -> None:
    text = """verify: none
tiers:
  - id: t
    phases:
      - {id: p, name: n}
      - {id: p, name: n}
  - id: t
    phases:
      - {id: q, name: n}
      - {id: p, name: n}
"""
    assert problems(text, repository=repository) == [
        "plan.yaml:6: error: tiers[0].phases[1].id: 'p' is already the id on line 5.",
        "plan.yaml:7: error: tiers[1].id: 't' is already the id on line 3.",
        "plan.yaml:10: error: tiers[1].phases[1].id: 'p' is already the id on line 5.",
    ]


def test_an_unknown_category_or_complexity_is_a_warning_that_names_the_fallback(repository: Path) -> None:
    text = """verify: none
tiers:
  - id: t
    phases:
      - {id: a, name: n, category: poetry, complexity: enormous}
      - {id: b, name: n, category: docs}
      - id: c
        name: n
        category: poetry
"""
    plan = plan_of(text, repository=repository)
    assert [(phase.task_category, phase.complexity) for phase in plan.phases] == [
        ("general", "medium"),
        ("docs", "medium"),
        ("general", "medium"),
    ]
    assert [str(warning) for warning in plan.warnings] == [
        (
            "plan.yaml:5: warning: tiers[0].phases[0].category: 'poetry' is a category that models.yaml does not know; "
            "general is used. (Also on line 9.)"
        ),
        "plan.yaml:5: warning: tiers[0].phases[0].complexity: 'enormous' is not low, medium or high; medium is used.",
    ]


def test_a_phase_cap_above_the_cap_of_the_run_is_a_warning_with_its_lines(repository: Path) -> None:
    text = """verify: none
token_cap: 100
cost_cap_usd: 2
tiers:
  - id: t
    phases:
      - {id: a, name: n, token_cap: 100, cost_cap_usd: 2.01}
      - id: b
        name: n
        token_cap: 101
      - {id: c, name: n, token_cap: 102, cost_cap_usd: 2}
"""
    plan = plan_of(text, repository=repository)
    assert [phase.token_cap for phase in plan.phases] == [100, 101, 102]
    assert [str(warning) for warning in plan.warnings] == [
        (
            "plan.yaml:7: warning: tiers[0].phases[0].cost_cap_usd: is above the run's own cost_cap_usd, which stops "
            "this phase first."
        ),
        (
            "plan.yaml:10: warning: tiers[0].phases[1].token_cap: is above the run's own token_cap, which stops this "
            "phase first. (Also on line 11.)"
        ),
    ]


def test_a_phase_may_be_capped_where_the_run_is_not(repository: Path) -> None:
    plan = plan_of(one_phase("token_cap: 9, cost_cap_usd: 0.000000001"), repository=repository)
    assert (plan.token_cap, plan.warnings) == (None, ())
    assert (plan.phases[0].token_cap, plan.phases[0].cost_cap_nano) == (9, 1)


def test_every_problem_is_reported_at_once_with_its_line(tmp_path: Path) -> None:
    text = """# A plan with many mistakes.
repository: nowhere
token_cap: none
on_failure: retry
tiers:
  - id: one
    phases:
      - id: a
        name: fine
      - id: a
        name: doubled
        allowed_paths:
          - src/**
          - ../other
      - id: b c
        name: |
          two
          lines
        complexity: 11
  - id: two
    phases: []
verfy: make
verify: make
verify: make again
"""
    found = problems(text, folder=tmp_path)
    assert [(int(problem.split(":")[1]), problem.split(": ")[1]) for problem in found] == [
        (2, "error"),
        (3, "error"),
        (4, "error"),
        (10, "error"),
        (14, "error"),
        (15, "error"),
        (16, "error"),
        (19, "warning"),
        (20, "error"),
        (22, "error"),
        (24, "error"),
    ]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "plan.yaml:1: error: is empty."),
        ("- a\n", "plan.yaml:1: error: must hold keys and values, but holds a list."),
        ("a: [", "plan.yaml:2: error: not valid YAML"),
        ("tiers:\n\t- id: a\n", "plan.yaml:2: error: a tab stands where only spaces may indent."),
        ("[" * 100_000, "plan.yaml:1: error: is nested deeper than 32 levels."),
    ],
    ids=["empty", "list", "broken", "tab", "nested"],
)
def test_what_is_no_plan_is_one_problem(text: str, expected: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(expected)


def test_a_file_that_is_not_there_is_one_problem(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"p\.yaml: error: cannot be read: No such file"):
        load_plan_file(tmp_path / "p.yaml", known_categories=CATEGORIES)


_keys = sorted({key for table in (plan_file.KEYS, plan_file.OLD_KEYS) for keys in table.values() for key in keys})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*_keys, "files", "run", "scope", "paths", "read_only_context"]), inner)
        ),
        max_leaves=30,
    )
)
def test_no_shape_of_values_makes_the_loader_raise_anything_else(data: object) -> None:
    with pytest.raises(PlanError):
        plan_of(json.dumps(data), repository=Path("/nowhere"))


# --- Size and speed ---


def large_plan(phases: int) -> str:
    tiers = [
        {
            "id": f"tier-{start}",
            "name": f"Tier {start}",
            "phases": [
                {
                    "id": f"phase-{number}",
                    "name": f"Phase {number}",
                    "description": "What to do, in a sentence or two that say it to the builder. " * 3,
                    "category": "docs",
                    "complexity": "low",
                    "acceptance_criteria": ["it works", "it is tested", "it is described"],
                    "allowed_paths": ["src/**", "tests/**"],
                    "context_paths": ["README.md"],
                }
                for number in range(start, start + 50)
            ],
        }
        for start in range(0, phases, 50)
    ]
    return json.dumps({"verify": "make", "tiers": tiers}, indent=1)


def test_a_thousand_phases_load_within_a_second(repository: Path) -> None:
    text = large_plan(1_000)
    started = time.perf_counter()
    plan = plan_of(text, repository=repository)
    elapsed = time.perf_counter() - started
    assert len(plan.phases) == 1_000
    assert elapsed < 1.0


def test_a_thousand_mistakes_are_found_within_a_second(repository: Path) -> None:
    text = large_plan(1_000).replace('"src/**"', '"../x"').replace("docs", "poetry")
    started = time.perf_counter()
    found = problems(text, repository=repository)
    assert len(found) == 1_001
    assert time.perf_counter() - started < 1.0


def test_too_many_phases_are_refused(repository: Path) -> None:
    phases = ", ".join(["{}"] * (plan_file.PHASES_LIMIT + 1))
    text = f"verify: none\ntiers: [{{id: t, phases: [{phases}]}}]\n"
    assert "has 5,001 entries; 5,000 is the most." in problems(text, repository=repository)[0]


def test_every_key_that_the_loader_knows_is_in_the_reference() -> None:
    reference = (Path(__file__).parents[2] / "docs" / "plans.md").read_text(encoding="utf-8")
    assert sorted(key for key in _keys if f"`{key}`" not in reference) == []
