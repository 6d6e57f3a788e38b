"""A configuration that cannot be used is told wherever somebody looks, in one line with file and line number."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopack_mcp.app import open_autopack
from autopack_mcp.config.settings import Settings
from autopack_mcp.errors import ConfigError, Problem
from autopack_mcp.summary.notices import NOTICE_LIMIT, config_notice
from autopack_mcp.summary.run import RunSummary
from tests.factories import insert_run, settings

BAD = Problem("is no number", "/home/ann/models.yaml", 3, "providers.openai.weekly_cap_tokens")
STAYS = "The configuration cannot be used and the last good one stays in force: "


def test_a_good_file_is_no_notice_whatever_it_is_warned_of() -> None:
    hint = Problem("is an old name", "models.yaml", 2, severity="warning")
    assert config_notice(lambda: settings(warnings=(hint,))) == config_notice(None) == ""


def test_a_bad_file_is_named_with_its_line_and_the_rest_is_counted() -> None:
    line = "/home/ann/models.yaml:3: error: providers.openai.weekly_cap_tokens: is no number"
    assert config_notice(lambda: settings(warnings=(BAD,))) == f"{STAYS}{line}"
    assert config_notice(lambda: settings(warnings=(BAD, BAD))).endswith(f"{line} (and 1 more problem)")
    assert config_notice(lambda: settings(warnings=(BAD,) * 3)).endswith("(and 2 more problems)")


def test_a_file_that_was_never_good_is_told_as_well() -> None:
    def never_good() -> Settings:
        raise ConfigError((BAD,))

    assert config_notice(never_good).startswith("The configuration cannot be used: /home/ann/models.yaml:3: error: ")


def test_what_the_file_says_is_made_visible_and_cut() -> None:
    notice = config_notice(lambda: settings(warnings=(Problem("\x1b[31m\n" * 500),)))
    assert "\x1b" not in notice
    assert "\n" not in notice
    assert NOTICE_LIMIT - 10 < len(notice) <= NOTICE_LIMIT


@pytest.mark.anyio
async def test_a_file_that_becomes_bad_is_noticed_by_every_summary_until_it_is_mended(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    autopack = open_autopack({"AUTOPACK_HOME": str(tmp_path), "AUTOPACK_CONFIG": str(file)})
    good = "providers: {openai: {}}\ncomplexity_models:\n"
    good += "".join(f"  {level}: {{builder: gpt-4o, auditor: gpt-4o}}\n" for level in ("low", "medium", "high"))

    async def noticed() -> list[str]:
        summaries = autopack.summaries
        run = await summaries.current()
        assert isinstance(run, RunSummary)
        return [run.notice, (await summaries.runs()).notice, (await summaries.usage()).notice]

    try:
        file.write_text(good, encoding="utf-8")
        autopack.database.write_now(insert_run)
        assert await noticed() == ["", "", ""]
        file.write_text(f"{good}  high: [\n", encoding="utf-8")
        autopack.database.write_now(lambda connection: insert_run(connection, "R2", state="failed"))
        found = await noticed()
        assert len(set(found)) == 1
        assert found[0].startswith(f"{STAYS}{file}:")
        file.write_text(good, encoding="utf-8")
        autopack.database.write_now(lambda connection: insert_run(connection, "R3", state="failed"))
        assert await noticed() == ["", "", ""]
    finally:
        await autopack.database.close()
