"""The project of the end-to-end test, the plan for it, and what the two models are told to answer.

Its one test fails at the start. The plan has two tiers and four phases; the second phase is rejected once.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.e2e.scene import LARGE_BUILDER, SMALL_BUILDER, approval, of_auditor, of_builder, rejection, replaces, writes
from tests.projects import make_repository
from tests.upstream.harness import Answer, Upstream

NOTE = "Write for people who have never programmed.\nNo test data from customers, please."
RULES = "Every function has a docstring."
LATER_RULES = "Docstrings are forbidden."
ISSUE = "top_words counts in no order; the most frequent word must come first."
VERDICT = "The order is wrong."

FAILING_TEST = """\
import unittest

from tally.text import word_count


class WordCount(unittest.TestCase):
    def test_words_are_counted(self):
        self.assertEqual(word_count("the quick brown fox"), 4)
"""
START = {
    "tally/__init__.py": "",
    "tally/text.py": 'def word_count(text):\n    """How many words."""\n    return len(text)\n',
    "tests/__init__.py": "",
    "tests/test_text.py": FAILING_TEST,
}
COUNTED = START["tally/text.py"].replace("len(text)", "len(text.split())")
TOP_WORDS = '\n\ndef top_words(text):\n    """Words by frequency."""\n    return Counter(text.split())'
UNORDERED = f"from collections import Counter\n\n\n{COUNTED}{TOP_WORDS}.items()\n"
ORDERED = f"from collections import Counter\n\n\n{COUNTED}{TOP_WORDS}.most_common()\n"
REPORT = 'import sys\n\nfrom tally.text import word_count\n\nprint(word_count(sys.stdin.read()), "words")\n'
README = "# tally\n\nIt counts words.\n"

# What each phase's commit changes in the end, in plan order.
CHANGES = {
    "word-count": {"tally/text.py": COUNTED},
    "top-words": {"tally/text.py": ORDERED},
    "report": {"tally/__main__.py": REPORT},
    "readme": {"README.md": README},
}
PLAN = {
    "name": "Tally grows up",
    "verify": "python -m unittest --quiet",
    "token_cap": 400_000,
    "tiers": [
        {
            "id": "mend",
            "name": "Mend",
            "phases": [
                {
                    "id": "word-count",
                    "name": "Count words",
                    "description": "word_count must count words, not letters.",
                    "category": "core_backend",
                    "allowed_paths": ["tally/text.py"],
                    "context_paths": ["tests/test_text.py"],
                },
                {
                    "id": "top-words",
                    "name": "The most frequent words",
                    "description": "Add top_words(text) to tally/text.py.",
                    "category": "core_backend_high",
                    "complexity": "high",
                    "acceptance_criteria": ["the most frequent word comes first"],
                    "allowed_paths": ["tally/text.py"],
                },
            ],
        },
        {
            "id": "tell",
            "name": "Tell",
            "phases": [
                {
                    "id": "report",
                    "name": "A report",
                    "description": "Let `python -m tally` print.",
                    "complexity": "low",
                },
                {"id": "readme", "name": "A README", "description": "Say it.", "category": "docs", "complexity": "low"},
            ],
        },
    ],
}


def make_project(folder: Path) -> Path:
    """The repository, with rules for every prompt beside the work."""
    repository = make_repository(folder, START)
    rules_file(repository).parent.mkdir()
    rules_file(repository).write_text(RULES, encoding="utf-8")
    return repository


def rules_file(repository: Path) -> Path:
    """Where a project's rules for every prompt stand."""
    return repository / ".autopack" / "rules.md"


def plan_text(repository: Path) -> str:
    """The plan as a file of it would read."""
    return yaml.safe_dump({**PLAN, "repository": str(repository)}, sort_keys=False)


def script_models(upstream: Upstream) -> None:
    """Every answer of the run, each with an id and numbers that no other has."""
    upstream.script(
        of_builder("word-count"),
        _answer(
            1, replaces("tally/text.py", "    return len(text)\n", "    return len(text.split())\n", "Counts words.")
        ),
    )
    upstream.script(of_auditor("word-count"), _answer(2, approval()))
    upstream.script(
        of_builder("top-words", LARGE_BUILDER),
        _answer(3, writes("tally/text.py", UNORDERED)),
        _answer(5, writes("tally/text.py", ORDERED, "Adds top_words.")),
    )
    upstream.script(of_auditor("top-words"), _answer(4, rejection(VERDICT, ISSUE)), _answer(6, approval()))
    upstream.script(of_builder("report", SMALL_BUILDER), _answer(7, writes("tally/__main__.py", REPORT)))
    upstream.script(of_auditor("report"), _answer(8, approval()))
    upstream.script(of_builder("readme", SMALL_BUILDER), _answer(9, writes("README.md", README, "Says it.")))
    upstream.script(of_auditor("readme"), _answer(10, approval()))


def _answer(number: int, text: str) -> Answer:
    return Answer(
        text=text, response_id=f"answer-{number}", input_tokens=1_000 + 7 * number, output_tokens=100 + number
    )
