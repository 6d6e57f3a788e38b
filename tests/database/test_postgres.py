"""PostgreSQL as a person meets it: addresses as they are pasted, one writer at a time, and complaints in one line."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event

import pytest
from sqlalchemy import Connection, insert, select, text, update

from autopack_mcp.database.bare import BareStatement
from autopack_mcp.database.engine import BUSY_TIMEOUT_S, Database
from autopack_mcp.database.migrate import open_database
from autopack_mcp.database.postgres import IDLE_LIMIT_S, WRITE_LOCK_KEY
from autopack_mcp.database.tables import budget_scopes, metadata, run_events
from autopack_mcp.errors import DatabaseBusy, DatabaseError, DatabaseUnusable
from tests.database.strangers import held_write_lock
from tests.factories import NOON
from tests.postgres import GUARDED, PostgresServer


@pytest.fixture
def engine() -> str:
    """Everything here is about this one."""
    return "postgresql"


WRONG = "battery-staple"
BARE = BareStatement(lambda _: insert(run_events), ("run_id", "occurred_at", "kind", "why"))


def note_event(connection: Connection, why: str = "because") -> None:
    connection.execute(insert(run_events).values(run_id="R1", occurred_at=NOON, kind="test", why=why))


def whys(connection: Connection) -> list[str]:
    return list(connection.scalars(select(run_events.c.why).order_by(run_events.c.event_id)))


def setting(connection: Connection, name: str) -> object:
    return connection.execute(text("SELECT current_setting(:name)"), {"name": name}).scalar_one()


# --- one writer at a time


def begin_counting(connection: Connection) -> None:
    row = {"scope": "s", "settled_tokens": 0, "reserved_tokens": 0, "settled_nano": 0, "reserved_nano": 0}
    connection.execute(insert(budget_scopes).values(row))


def read_and_add_one(connection: Connection) -> None:
    """What only a writer that is alone may do: add to what it has read before."""
    seen = connection.execute(select(budget_scopes.c.settled_tokens)).scalar_one()
    connection.execute(update(budget_scopes).values(settled_tokens=seen + 1))


def test_of_many_processes_one_writes_at_a_time(database: Database) -> None:
    database.write_now(begin_counting)
    others = [open_database(str(database.url)) for _ in range(4)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: others[number % 4].write_now(read_and_add_one), range(80)))
    for other in others:
        other.close_now()
    assert database.read_now(lambda found: found.execute(select(budget_scopes.c.settled_tokens)).scalar_one()) == 80


def test_readers_do_not_wait_for_a_writer(database: Database) -> None:
    with held_write_lock(database):
        assert database.read_now(whys) == []


def test_whoever_waits_for_the_lock_for_too_long_is_told_so(database: Database) -> None:
    impatient = open_database(str(database.url), busy_timeout_s=0.05)
    with held_write_lock(database), pytest.raises(DatabaseBusy) as caught:
        impatient.write_now(note_event)
    impatient.close_now()
    assert caught.value.waited_s == 0.05


def test_a_stopped_process_holds_others_up_for_less_than_they_wait(database: Database) -> None:
    assert IDLE_LIMIT_S < BUSY_TIMEOUT_S
    assert database.write_now(setting, "idle_in_transaction_session_timeout") == f"{IDLE_LIMIT_S:g}s"
    assert database.write_now(setting, "lock_timeout") == f"{BUSY_TIMEOUT_S:g}s"
    assert WRITE_LOCK_KEY.to_bytes(8, "big") == b"autopack"


STOP_IN_THE_MIDDLE = """
import os, signal, sys
from sqlalchemy import insert
from autopack_mcp.database.engine import Database
from autopack_mcp.database.tables import run_events
from autopack_mcp.errors import DatabaseUnusable
from tests.factories import NOON

def stop_in_the_middle(connection):
    connection.execute(insert(run_events).values(run_id="R1", occurred_at=NOON, kind="test", why="half"))
    os.kill(os.getpid(), signal.SIGSTOP)
    connection.execute(insert(run_events).values(run_id="R1", occurred_at=NOON, kind="test", why="done"))

database = Database(sys.argv[1])
try:
    database.write_now(stop_in_the_middle)
except DatabaseUnusable as error:
    print(error)
database.close_now()
"""


@pytest.fixture
def stopped_writer(database: Database) -> Iterator[subprocess.Popen[str]]:
    """Another process, stopped by a signal in the middle of its write."""
    command = [sys.executable, "-c", STOP_IN_THE_MIDDLE, str(database.url)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        yield process
        process.kill()


def test_a_process_that_is_stopped_in_the_middle_of_a_write_frees_the_others(
    database: Database, stopped_writer: subprocess.Popen[str]
) -> None:
    database.write_now(note_event, "in spite of it")
    assert database.read_now(whys) == ["in spite of it"]
    stopped_writer.send_signal(signal.SIGCONT)
    said, _ = stopped_writer.communicate()
    assert "stood still" in said or "was lost" in said, "what it is told depends on which word of the server came first"
    assert database.read_now(whys) == ["in spite of it"]


# --- what is stored


def test_a_text_with_a_nul_is_stored_without_it(database: Database) -> None:
    database.write_now(note_event, "a\0b")
    assert database.read_now(whys) == ["a\N{REPLACEMENT CHARACTER}b"]


@pytest.mark.anyio
async def test_asking_for_a_nul_finds_nothing_and_is_no_error(database: Database) -> None:
    found = select(run_events.c.why).where(run_events.c.run_id == "R\0")
    assert await database.read(lambda connection: connection.execute(found).all()) == []


def test_every_count_of_tokens_and_money_has_room(database: Database) -> None:
    small = {
        f"{table.name}.{column.name}"
        for table in metadata.sorted_tables
        for column in table.columns
        if column.name.endswith(("_tokens", "_nano", "_cap")) or "bound" in column.name
        if str(column.type) != "BIGINT"
    }
    assert small == set()


# --- addresses and who may come in


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_an_address_may_be_written_as_people_paste_it(database: Database, scheme: str) -> None:
    _, _, rest = str(database.url).partition("://")
    again = open_database(f"{scheme}://{rest}")
    again.write_now(note_event)
    again.close_now()
    assert database.read_now(whys) == ["because"]


def test_what_an_address_says_itself_stands(database: Database) -> None:
    named = Database(f"{database.url}&connect_timeout=3&application_name=mine".replace("connect_timeout=10&", ""))
    assert named.read_now(setting, "application_name") == "mine"
    assert named.connect_arguments()["connect_timeout"] == "3"
    named.close_now()


@pytest.fixture
def guarded(database: Database, postgres: PostgresServer) -> Callable[[str], str]:
    """The address of the same database for the one user that needs a password."""
    return lambda password: postgres.url(str(database.url.database), f"{GUARDED[0]}:{password}")


def test_the_right_password_opens(guarded: Callable[[str], str]) -> None:
    Database(guarded(GUARDED[1].replace(" ", "%20"))).close_now()


def test_a_wrong_password_is_said_in_one_line_and_shown_nowhere(
    guarded: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(DatabaseUnusable, match="refuses the user or the password") as caught:
        open_database(guarded(WRONG))
    said = str(caught.value) + "".join(traceback.format_exception(caught.value)) + caplog.text
    assert WRONG not in said
    assert "\n" not in str(caught.value)


def test_a_user_who_may_not_make_tables_is_told_what_to_do(postgres: PostgresServer) -> None:
    name = postgres.create()
    with pytest.raises(DatabaseUnusable, match="may not do that") as caught:
        open_database(postgres.url(name, f"{GUARDED[0]}:{GUARDED[1].replace(' ', '%20')}"))
    postgres.drop(name)
    assert "owner" in caught.value.hint


def test_a_database_that_is_missing_is_named_as_the_thing_to_mend(postgres: PostgresServer) -> None:
    with pytest.raises(DatabaseUnusable, match="no such database") as caught:
        open_database(postgres.url("nobody_made_it"))
    assert "createdb" in caught.value.hint


@pytest.mark.parametrize(
    "address, said",
    [("me:secret@/db?host=/nowhere", "cannot be reached"), ("me:secret@127.0.0.1:1/db", "cannot be reached"),
     ("me:secret@no-such-host.invalid/db", "cannot be reached"),
     ("me:secret@127.0.0.1:1/db?pgbouncer=true", 'invalid connection option "pgbouncer"'),
     ("me:secret@127.0.0.1:1/db?sslmode=perhaps", "invalid sslmode"),
     ("me:secret@127.0.0.1:1/db?connect_timeout=soon", "bad value for connect_timeout")],
    ids=["socket", "port", "host", "option", "mode", "number"],
)  # fmt: skip
def test_a_server_that_cannot_be_reached_is_one_line_without_the_password(address: str, said: str) -> None:
    with pytest.raises(DatabaseUnusable, match=said) as caught:
        open_database(f"postgresql://{address}")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "AUTOPACK_DATABASE_URL" in caught.value.hint


WITHOUT_THE_DRIVER = """
import sys
sys.modules["psycopg"] = None
from autopack_mcp.database.migrate import open_database
from autopack_mcp.errors import DatabaseUnusable
try:
    open_database("postgresql://me:secret@host/db")
except DatabaseUnusable as error:
    print(error)
"""


def test_a_missing_driver_is_said_with_the_way_to_install_it() -> None:
    ended = subprocess.run([sys.executable, "-c", WITHOUT_THE_DRIVER], capture_output=True, text=True, check=True)
    expected = (
        'PostgreSQL needs the driver psycopg, which is not installed. Install it: pip install "autopack-mcp[postgres]".'
    )
    assert ended.stdout.strip() == expected


# --- the server's complaints


def raise_state(connection: Connection, state: str) -> None:
    note_event(connection)
    connection.execute(
        text(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}', MESSAGE = 'as the test says'; END $$")
    )


@pytest.mark.parametrize(
    "state, kind, said",
    [("53100", DatabaseUnusable, "The disk of the database server is full."),
     ("53200", DatabaseUnusable, "The database server is out of memory."),
     ("53300", DatabaseUnusable, "no connection to spare"),
     ("58030", DatabaseUnusable, "The disk of the database server reports an error."),
     ("57P01", DatabaseUnusable, "The connection to the database server was lost."),
     ("08006", DatabaseUnusable, "The connection to the database server was lost."),
     ("25P03", DatabaseUnusable, "ended a write that stood still"),
     ("25006", DatabaseUnusable, "The database is read-only."),
     ("42501", DatabaseUnusable, "may not do that"),
     ("XX001", DatabaseUnusable, "The database is damaged."),
     ("XX002", DatabaseUnusable, "An index of the database is damaged."),
     ("55P03", DatabaseBusy, "stayed locked"),
     ("40001", DatabaseBusy, "stayed locked"),
     ("40P01", DatabaseBusy, "stayed locked"),
     ("P0001", DatabaseError, "The database refused: as the test says")],
)  # fmt: skip
def test_each_complaint_is_one_clear_line_and_nothing_is_written(
    database: Database, state: str, kind: type[DatabaseError], said: str
) -> None:
    with pytest.raises(DatabaseError, match=said) as caught:
        database.write_now(raise_state, state)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert database.read_now(whys) == []


def fail_twice(failures: list[str]) -> Callable[[Connection], None]:
    def operation(connection: Connection) -> None:
        if failures:
            raise_state(connection, failures.pop())
        note_event(connection)

    return operation


def test_what_the_server_undid_because_of_a_neighbour_is_tried_again(database: Database) -> None:
    database.write_now(fail_twice(["40001", "40P01"]))
    assert database.read_now(whys) == ["because"]


def test_a_server_that_was_restarted_between_two_writes_is_not_noticed(
    database: Database, postgres: PostgresServer
) -> None:
    database.write_now(note_event, "before")
    assert database.read_now(whys) == ["before"]
    postgres.stop()
    postgres.start()
    database.write_now(note_event, "after")
    assert database.read_now(whys) == ["before", "after"]


def test_a_server_that_is_gone_is_said_and_found_again_when_it_is_back(
    database: Database, postgres: PostgresServer
) -> None:
    postgres.stop()
    try:
        for act in (lambda: database.write_now(note_event), lambda: database.read_now(whys)):
            with pytest.raises(DatabaseUnusable, match="cannot be reached"):
                act()
    finally:
        postgres.start()
    database.write_now(note_event)
    assert database.read_now(whys) == ["because"]


def note_event_bare(connection: Connection) -> None:
    BARE.run(connection, {"run_id": "R1", "occurred_at": 1, "kind": "test", "why": "because"})


@pytest.mark.parametrize("write", [note_event, note_event_bare])
def test_a_connection_that_ends_in_the_middle_of_a_write_takes_all_of_it_along(
    database: Database, postgres: PostgresServer, write: Callable[[Connection], None]
) -> None:
    def write_and_lose(connection: Connection) -> None:
        write(connection)
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with postgres.connect() as stranger:
            stranger.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        write(connection)

    with pytest.raises(DatabaseUnusable, match="was lost"):
        database.write_now(write_and_lose)
    assert database.read_now(whys) == []
    database.write_now(note_event)
    assert database.read_now(whys) == ["because"]


def test_closing_gives_every_connection_back(database: Database, postgres: PostgresServer) -> None:
    database.write_now(note_event)
    database.read_now(whys)
    database.close_now()
    open_ones = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'autopack-mcp'"
    with postgres.connect() as stranger:
        while stranger.execute(open_ones).fetchone() != (0,):  # A session ends a moment after its connection.
            stranger.execute("SELECT pg_sleep(0.01)")


def test_a_stranger_sees_who_we_are(database: Database) -> None:
    assert database.read_now(setting, "application_name") == "autopack-mcp"


DIE_AT_COMMIT = """
CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER dying AFTER INSERT ON run_events DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION die();
"""


def test_a_batch_whose_commit_nobody_answers_is_refused_and_not_repeated(database: Database) -> None:
    database.write_now(lambda connection: connection.execute(text(DIE_AT_COMMIT)))
    done: list[str] = []

    def note(why: str, connection: Connection) -> None:
        note_event(connection, why)
        done.append(why)

    is_held, go_on = Event(), Event()

    def hold(_connection: Connection) -> None:
        is_held.set()
        go_on.wait(BUSY_TIMEOUT_S)

    held = database._writer.submit(hold)
    assert is_held.wait(BUSY_TIMEOUT_S)
    answers = [database._writer.submit(partial(note, why)) for why in ("one", "other")]
    go_on.set()
    held.result(BUSY_TIMEOUT_S)
    for answer in answers:
        with pytest.raises(DatabaseUnusable, match="connection to the database server was lost"):
            answer.result(BUSY_TIMEOUT_S)
    assert done == ["one", "other"]
    assert database.read_now(whys) == []
