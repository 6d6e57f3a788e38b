"""A supervisor that stood still for longer than its lease wakes up: it writes nothing but what its calls have cost."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from autopack_mcp.clock import ManualClock, SystemClock
from autopack_mcp.database.tables import reservations, usage_events
from autopack_mcp.runs.store import phases_of_run
from benchmarks.billing import BillingUpstream, billing_upstream
from tests.durability.scene import PATIENT, enqueue, home_on, until
from tests.ledger_truth import assert_ledger_adds_up, everything
from tests.projects import STARTING_FILES, a_phase, a_plan, git, make_repository
from tests.runs.house import House
from tests.runs.programs import SERVE, running

pytestmark = [pytest.mark.anyio, PATIENT]

ANSWER_S = 1.0  # From the bill to the answer: long enough to be stopped in between.
LATER = timedelta(hours=1)  # For the successor every lease has ended.
# What a call's end may touch, long after the run is somebody else's.
LEDGER = {
    "reservations", "usage_events", "usage_lines", "usage_hours", "usage_days", "usage_phases", "budget_scopes",
    "breaches", "alerts", "spans", "call_texts", "outbox",
}  # fmt: skip
# It hangs the first time, so that a supervisor can be stopped in it; no reset removes what git ignores.
HANGS_ONCE = {"check.sh": "if [ -e again ]; then exit 0; fi\ntouch again\nsleep 3600\n", ".gitignore": "again\n"}


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[BillingUpstream]:
    with billing_upstream(tmp_path / "billed.txt", ANSWER_S) as opened:
        yield opened


async def _in_a_call_and_in_a_command(house: House, upstream: BillingUpstream, calling: str, checking: str) -> bool:
    """Whether one run's auditor has been asked and has not answered, while the other's command hangs."""
    database = house.autopack.database
    [phase] = await database.read(phases_of_run, checking)
    hangs = phase.state == "verifying" and (house.autopack.home.workspaces / checking / "again").exists()
    asked = [call.phase_id for call in upstream.billed() if call.role == "auditor"]
    return hangs and asked == ["calling"] and await database.read(_is_held, calling)


def _is_held(connection: Connection, run_id: str) -> bool:
    held = select(reservations.c.call_id).where(reservations.c.run_id == run_id, reservations.c.state == "held")
    return connection.execute(held).first() is not None


def _beside_the_ledger(connection: Connection) -> Mapping[str, list[tuple[Any, ...]]]:
    return {name: rows for name, rows in everything(connection).items() if name not in LEDGER}


def _refs_and_files(*folders: Path) -> list[str]:
    """Every ref of each repository, and what differs in its checkout."""
    return [git(folder, *words) for folder in folders for words in (("for-each-ref",), ("status", "--porcelain"))]


def _statuses(connection: Connection) -> list[tuple[str, str, str]]:
    columns = (usage_events.c.phase_id, usage_events.c.role, usage_events.c.status)
    return sorted((str(a), str(b), str(c)) for a, b, c in connection.execute(select(*columns)))


async def test_a_supervisor_that_was_stopped_for_longer_than_its_lease_only_closes_its_ledger(
    database_url: str, tmp_path: Path, upstream: BillingUpstream
) -> None:
    one = make_repository(tmp_path / "one")
    other = make_repository(tmp_path / "other", {**STARTING_FILES, **HANGS_ONCE})
    first = home_on(tmp_path, "first", database_url, upstream)
    second = home_on(tmp_path, "second", database_url, upstream, ManualClock(SystemClock().now() + LATER))
    database = first.autopack.database
    calling = await enqueue(first.autopack, tmp_path / "calling.yaml", a_plan(one, [a_phase("calling")]))
    checking = await enqueue(first.autopack, tmp_path / "checking.yaml", a_plan(other, [a_phase("checking")]))

    async with running(first.autopack.environ, *SERVE) as zombie:
        await until(lambda: _in_a_call_and_in_a_command(first, upstream, calling, checking))
        zombie.process.send_signal(signal.SIGSTOP)
        async with second.supervising():
            runs = [await second.stopped(run_id) for run_id in (calling, checking)]
        folders = [one, other, *(Path(run.workspace) for run in runs)]
        before, stood = await database.read(_beside_the_ledger), _refs_and_files(*folders)
        charged = await database.read(_statuses)
        zombie.process.send_signal(signal.SIGCONT)
        exit_code = await zombie.process.wait()

    # It found its place taken and ended, and in between it wrote what its call had really cost, in place of "expired".
    assert exit_code == 0
    assert [run.state for run in runs] == ["succeeded"] * 2
    assert await database.read(_beside_the_ledger) == before
    assert _refs_and_files(*folders) == stood
    assert ("calling", "auditor", "expired") in charged
    assert await database.read(_statuses) == sorted(
        (phase, role, "ok")
        for phase, role in (
            ("calling", "builder"), ("calling", "auditor"), ("calling", "auditor"), ("checking", "builder"),
            ("checking", "auditor"),
        )
    )  # fmt: skip
    assert len(upstream.billed()) == 5
    await database.read(assert_ledger_adds_up)
    for house in (first, second):
        await house.autopack.database.close()
