"""The README: its commands exist, its files exist, its block is the one that works."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from autopack_mcp.cli.main import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
VERBS = re.compile(r"autopack-mcp ([a-z]+(?:-[a-z]+)*)")
LINKS = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def test_the_block_to_paste_is_mcp_json() -> None:
    block = re.search(r"```json\n(.*?)```", README, re.DOTALL)

    assert block
    assert json.loads(block[1]) == json.loads((ROOT / "mcp.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", DOCS, ids=lambda file: file.name)
def test_every_verb_that_is_named_exists(file: Path) -> None:
    for verb in set(VERBS.findall(file.read_text(encoding="utf-8"))) - {"is"}:
        assert CliRunner().invoke(cli, [verb, "--help"]).exit_code == 0, verb


@pytest.mark.parametrize("file", DOCS, ids=lambda file: file.name)
def test_every_file_that_is_linked_exists(file: Path) -> None:
    for link in LINKS.findall(file.read_text(encoding="utf-8")):
        assert (file.parent / link).exists(), link


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    for target in set(re.findall(r"(?:`|^    )make ([a-z]+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_module_and_folder_of_the_path_exists() -> None:
    path = README[README.index("## The path") : README.index("## Test")]

    for name in re.findall(r"`([a-z_]+(?:\.py|/))`", path):
        assert (ROOT / "autopack_mcp" / name).exists(), name
