"""The row of whoever advances runs: which process it is, where it answers, which keys it can see.

A row with a lease says who it is, a token fences an older holder off; its process renews it, everyone reads it. A
machine has one ``serve`` at most, and any number of workers beside it, each under a name of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, select, update

from autopack_mcp.database.tables import supervisors

SUPERVISOR_LEASE_S = 6.0  # As the run lease: three missed heartbeats of 2 s (contract 30).
GONE_WORKER_KEPT_S = 86_400  # A worker's name never comes back; for a day its row shows who was there.

SupervisorKind = Literal["serve", "worker"]


@dataclass(frozen=True, slots=True)
class SupervisorRecord:
    """Who advances runs. ``key_variables`` names variables that are set, never their values.

    A ``serve`` advances the runs of its ``machine``; for a ``worker``, which advances those that any machine reaches,
    that is a name of its own, and its ``url`` is empty: it answers no requests.
    """

    machine: str
    token: int
    pid: int
    url: str
    version: str
    key_variables: Sequence[str]
    sandbox: str
    started_at: datetime
    lease_expires_at: datetime
    kind: SupervisorKind = "serve"

    def is_alive(self, at: datetime) -> bool:
        """Whether its lease still runs."""
        return self.lease_expires_at >= at


def supervisor_of(connection: Connection, machine: str) -> SupervisorRecord | None:
    """The newest supervisor of a machine, alive or not; None when there never was one."""
    columns = [supervisors.c[name] for name in SupervisorRecord.__dataclass_fields__]
    row = connection.execute(select(*columns).where(supervisors.c.machine == machine)).mappings().first()
    return None if row is None else SupervisorRecord(**row)


def live_workers(connection: Connection, at: datetime) -> tuple[SupervisorRecord, ...]:
    """Every worker whose lease runs at a moment, the longest lease first."""
    columns = [supervisors.c[name] for name in SupervisorRecord.__dataclass_fields__]
    found = select(*columns).where(_is_live_worker(at))
    found = found.order_by(supervisors.c.lease_expires_at.desc(), supervisors.c.machine)
    return tuple(SupervisorRecord(**row) for row in connection.execute(found).mappings())


def count_live_workers(connection: Connection, at: datetime) -> int:
    """How many workers are alive at a moment."""
    found = select(func.count()).select_from(supervisors).where(_is_live_worker(at))
    return int(connection.execute(found).scalar_one())


def forget_gone_workers(connection: Connection, at: datetime) -> None:
    """Remove the rows of workers that have been dead for a day."""
    long_ago = at - timedelta(seconds=GONE_WORKER_KEPT_S)
    gone = and_(supervisors.c.kind == "worker", supervisors.c.lease_expires_at < long_ago)
    connection.execute(delete(supervisors).where(gone))


def take_over(connection: Connection, wish: SupervisorRecord, at: datetime) -> SupervisorRecord | None:
    """Become the supervisor of a machine; None when another one is alive. The token outdates every earlier holder."""
    known = supervisor_of(connection, wish.machine)
    facts = {
        "pid": wish.pid,
        "url": wish.url,
        "version": wish.version,
        "key_variables": list(wish.key_variables),
        "sandbox": wish.sandbox,
        "started_at": at,
        "lease_expires_at": at + timedelta(seconds=SUPERVISOR_LEASE_S),
        "kind": wish.kind,
    }
    if known is None:
        connection.execute(insert(supervisors).values(machine=wish.machine, token=1, **facts))
    elif known.is_alive(at):
        return None
    else:
        mine = and_(supervisors.c.machine == wish.machine, supervisors.c.token == known.token)
        connection.execute(update(supervisors).where(mine).values(token=known.token + 1, **facts))
    return supervisor_of(connection, wish.machine)


def renew_supervisor(connection: Connection, mine: SupervisorRecord, keys: Sequence[str], at: datetime) -> bool:
    """Prolong the lease and say which keys can be seen now; False when somebody else has taken over."""
    row = and_(supervisors.c.machine == mine.machine, supervisors.c.token == mine.token)
    lease_expires_at = at + timedelta(seconds=SUPERVISOR_LEASE_S)
    done = connection.execute(
        update(supervisors).where(row).values(lease_expires_at=lease_expires_at, key_variables=list(keys))
    )
    return done.rowcount == 1


def step_down(connection: Connection, mine: SupervisorRecord, at: datetime) -> None:
    """End the lease now, so that a successor need not wait for it to run out."""
    row = and_(supervisors.c.machine == mine.machine, supervisors.c.token == mine.token)
    connection.execute(update(supervisors).where(row).values(lease_expires_at=at - timedelta(microseconds=1)))


def _is_live_worker(at: datetime) -> ColumnElement[bool]:
    return and_(supervisors.c.kind == "worker", supervisors.c.lease_expires_at >= at)
