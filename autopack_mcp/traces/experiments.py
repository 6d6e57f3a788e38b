"""Prompts that were sent again, perhaps with other words or to another model: which call was tried again, by whom.

It owns the rows that lead from an experiment to the call it repeats; what both said and cost stands with the calls
themselves. The door writes one with each try of an experiment, in the transaction that books it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from autopack_mcp.database.tables import experiments


@dataclass(frozen=True, slots=True)
class Experiment:
    """A call that is sent again. ``edits`` are those that a person asked for, none when it is sent as it was."""

    of_call_id: str
    edits: Mapping[str, Any]
    author: str
    client: str


def write_experiment(connection: Connection, call_id: str, experiment: Experiment, at: datetime) -> None:
    """Note that a call was a try of this experiment."""
    connection.execute(
        insert(experiments).values(
            call_id=call_id,
            of_call_id=experiment.of_call_id,
            edits=dict(experiment.edits),
            author=experiment.author,
            client=experiment.client,
            created_at=at,
        )
    )


def experiments_with(connection: Connection, of_call_id: str) -> tuple[str, ...]:
    """The calls that were tries to repeat this one, oldest first."""
    found = select(experiments.c.call_id).where(experiments.c.of_call_id == of_call_id)
    return tuple(connection.execute(found.order_by(experiments.c.created_at, experiments.c.call_id)).scalars())
