"""A newer version is installed in the middle of a run: it brings the database up to date, and the run goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from autopack_mcp.clock import ManualClock
from autopack_mcp.database.migrate import HEAD, MIGRATIONS, schema_version
from tests.durability.old_world import WORLDS, bring_back
from tests.durability.picture import booked_calls
from tests.durability.scene import PATIENT
from tests.factories import NOON
from tests.ledger_truth import assert_ledger_adds_up
from tests.postgres import PostgresServer
from tests.projects import git
from tests.runs.house import reopen_house

pytestmark = [pytest.mark.anyio, PATIENT]

LATER_S = 3600.0  # Longer than any lease: of the run, of the supervisor, of a call.
VERSIONS = sorted(file.stem for file in WORLDS.glob("*.json"))


@pytest.fixture
def old_url(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a database without any table."""
    if engine == "sqlite":
        yield f"sqlite:///{tmp_path}/home/autopack.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = server.create()
    yield server.url(name)
    server.drop(name)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_run_that_an_older_version_began_goes_on_under_this_one(
    old_url: str, version: str, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    rows = bring_back(version, old_url, tmp_path)
    [began] = rows["runs"]
    kept = [phase["commit_sha"] for phase in rows["phases"] if phase["state"] == "succeeded"]
    environ = {"AUTOPACK_DATABASE_URL": old_url}
    async with reopen_house(tmp_path, environ, ManualClock(NOON + timedelta(seconds=LATER_S))) as house:
        assert house.autopack.database.read_now(schema_version) == HEAD
        async with house.supervising():
            run = await house.stopped(began["run_id"])
        calls = house.autopack.database.read_now(booked_calls)
        house.autopack.database.read_now(assert_ledger_adds_up)

    # Phase a was done by the old version and b, whose call was in flight, by this one.
    assert (began["state"], run.state, [phase.state for phase in run.phases]) == (
        "running",
        "succeeded",
        ["succeeded"] * 2,
    )
    commits = git(tmp_path / "project", "rev-list", "--reverse", f"main..{run.branch}").splitlines()
    assert commits[:1] == kept
    assert [phase.commit for phase in run.phases] == commits
    assert Counter(call.words for call in calls.elements()) == {
        "builder of a: ok": 1,
        "auditor of a: ok": 1,
        "builder of b: expired": 1,
        "builder of b: ok": 1,
        "auditor of b: ok": 1,
    }


def test_there_is_a_world_of_every_schema_that_a_run_may_have_begun_under() -> None:
    schemas = sorted(file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))
    # Not of the first one, which no release had.
    assert schemas[1:-1] == VERSIONS
