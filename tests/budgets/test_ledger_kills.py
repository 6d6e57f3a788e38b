"""A process killed before any one of its statements: the ledger adds up all the same, and no sent call is forgotten."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# For n = 1, 2, …: a forked child makes one call (reserve, send, settle) and is killed before its n-th statement, BEGIN
# and COMMIT included; then the survivors expire what it held and look. The first child that lives ends the game.
KILL_AT_EVERY_STATEMENT = """
import json, os, signal, sqlite3, sys
from datetime import timedelta
from itertools import count
from autopack_mcp.budgets import ledger
from autopack_mcp.database.migrate import open_database
from autopack_mcp.database.tables import reservations, usage_events
from sqlalchemy import func, select
from tests.factories import NOON, held_against, insert_run, reservation, run_cap, truth_of, window_cap
from tests.ledger_truth import assert_ledger_adds_up

url, sent_file = sys.argv[1:]
rules = held_against(window_cap(tokens=100_000), run_cap(tokens=100_000), alert_levels_percent=(1,))


def die_before(number):
    left = [number]

    def statement_begins(*_):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if url.startswith("sqlite"):
        def watch(connection):
            connection.connection.dbapi_connection.set_trace_callback(statement_begins)
        return watch
    import psycopg

    # Every way to the server leads through these three; BEGIN is sent with the first statement of a transaction.
    for owner, name in ((psycopg.Cursor, "execute"), (psycopg.Connection, "execute"), (psycopg.Connection, "commit")):
        def counted(*arguments, original=getattr(owner, name), **options):
            statement_begins()
            return original(*arguments, **options)
        setattr(owner, name, counted)
    return lambda connection: None


def one_call(number):
    database = open_database(url)
    database.write_now(lambda connection: None)
    database.write_now(die_before(number))
    promise = reservation(f"call-{number}")
    database.write_now(ledger.reserve, promise, rules, None, NOON)
    with open(sent_file, "a") as sent:
        print(promise.call_id, file=sent, flush=True)
    database.write_now(ledger.settle, truth_of(promise, tokens=70), rules, NOON)
    os._exit(0)


def looked():
    database = open_database(url)
    late = NOON + timedelta(minutes=2)
    expired = database.write_now(ledger.expire_overdue, rules, late)
    database.read_now(assert_ledger_adds_up)
    def read(connection):
        states = connection.execute(select(reservations.c.state)).scalars().all()
        booked = connection.execute(select(usage_events.c.call_id)).scalars().all()
        charged = connection.execute(select(func.sum(usage_events.c.charged_tokens))).scalar_one()
        return states, booked, int(charged or 0)
    states, booked, charged = database.read_now(read)
    database.close_now()
    sent = open(sent_file).read().split()
    return {"expired": expired, "states": states, "charged": charged, "forgotten": sorted(set(sent) - set(booked))}


open(sent_file, "w").close()
seen = []
for number in count(1):
    child = os.fork()
    if child == 0:
        one_call(number)
    _, status = os.waitpid(child, 0)
    seen.append({"killed": os.WIFSIGNALED(status), **looked()})
    if not seen[-1]["killed"]:
        break
print(json.dumps(seen))
"""


def test_a_process_killed_before_any_statement_loses_nothing(database_url: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILL_AT_EVERY_STATEMENT, database_url, str(tmp_path / "sent.txt")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert [one["killed"] for one in seen] == [True] * (len(seen) - 1) + [False]
    # Reserve and settle are some fifteen statements; killed in the first half nothing is promised, later it expires.
    assert len(seen) > 12
    assert {one["expired"] for one in seen} == {0, 1}
    assert all(one["forgotten"] == [] for one in seen)
    last = seen[-1]
    lost = last["states"].count("expired")
    assert (last["states"].count("held"), last["states"].count("settled")) == (0, 1)
    assert last["charged"] == 70 + 100 * lost
