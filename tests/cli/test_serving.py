"""The verbs that stay, as real processes: who supervises, who only reads, and that a run outlives who started it."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from autopack_mcp.app import machine_name, open_autopack
from autopack_mcp.database.sqlite import known_fault
from autopack_mcp.runs.supervision import supervisor_of
from autopack_mcp.traces.spans import Span, unexported_spans, write_span
from tests.factories import NOON, insert_run
from tests.projects import a_phase, a_plan, git, make_repository

LIMIT_S = 30  # A cold start of a Python server on a busy machine.


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A new AUTOPACK_HOME without keys, for processes of ours."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "VIRTUAL_ENV") if name in os.environ}
    root = str(Path(__file__).parents[2])
    return {**kept, "HOME": str(tmp_path), "AUTOPACK_HOME": str(tmp_path / "home"), "PYTHONPATH": root}


def autopack(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "autopack_mcp", *arguments]
    return subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=LIMIT_S, check=False)


@contextmanager
def serving(environ: dict[str, str], *options: str) -> Iterator[str]:
    """A real ``serve``; gives its first line and everything after it that it said at once."""
    argv = [sys.executable, "-m", "autopack_mcp", "serve", "--port", "auto", *options]
    process = subprocess.Popen(
        argv, env={**environ, "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    try:
        yield said
    finally:
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=LIMIT_S)
        assert process.returncode in (0, -signal.SIGTERM), rest


def url_in(said: str) -> str:
    return said.split()[1]


@contextmanager
def ending_the_detached(environ: dict[str, str]) -> Iterator[None]:
    """Ends the supervisor that a command has started on its own, by its id."""
    try:
        yield
    finally:
        opened = open_autopack(environ)
        record = opened.database.read_now(supervisor_of, machine_name())
        opened.database.close_now()
        if record is not None:
            os.kill(record.pid, signal.SIGTERM)
            wait_until(lambda: not Path(f"/proc/{record.pid}/cmdline").exists() or is_zombie(record.pid))


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def wait_until(is_so) -> None:
    """Look at a fact of another process until it is so."""
    deadline = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def collecting() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """A collector of traces: its address, and what it was sent."""
    taken: list[ExportTraceServiceRequest] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            taken.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_said: object) -> None:
            """Nothing: it would stand in the middle of the tests' dots."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", taken
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_server_sends_the_spans_of_its_runs_to_a_collector(environ: dict[str, str]) -> None:
    opened = open_autopack(environ)
    opened.database.write_now(insert_run, state="succeeded", lease_token=0)
    opened.database.write_now(write_span, Span("ab" * 8, "R1", "run", "run R1", NOON, NOON))
    with collecting() as (url, taken), serving({**environ, "OTEL_EXPORTER_OTLP_ENDPOINT": url}):
        wait_until(lambda: opened.database.read_now(unexported_spans, 1) == ())
    opened.database.close_now()
    (request,) = taken
    assert [span.name for span in request.resource_spans[0].scope_spans[0].spans] == ["run R1"]


def test_one_port_answers_health_the_page_and_nothing_under_another_name(environ: dict[str, str]) -> None:
    with serving(environ) as said:
        with urllib.request.urlopen(f"{url_in(said)}/health", timeout=LIMIT_S) as answer:
            assert json.load(answer)["status"] == "ok"
        with urllib.request.urlopen(url_in(said), timeout=LIMIT_S) as answer:
            assert b"<html" in answer.read()
        strange = urllib.request.Request(url_in(said), headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(strange, timeout=LIMIT_S)
        assert refused.value.code in (400, 421)
        refused.value.close()


def test_a_second_serve_says_who_holds_the_place_and_serves_reading(environ: dict[str, str]) -> None:
    with serving(environ) as first, serving(environ) as second:
        opened = open_autopack(environ)
        holder = opened.database.read_now(supervisor_of, machine_name())
        opened.database.close_now()
        with urllib.request.urlopen(f"{url_in(second)}/health", timeout=LIMIT_S) as answer:
            assert answer.status == 200

        assert holder is not None
        assert holder.url == url_in(first)
        assert url_in(first) != url_in(second)


def test_a_taken_port_is_one_clear_line(environ: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = autopack(environ, "serve", "--port", port)

    assert done.returncode == 1
    assert done.stderr.startswith(f"error: Port {port} on 127.0.0.1 is taken")
    assert len(done.stderr.splitlines()) == 2


def test_starting_a_run_brings_up_a_supervisor_that_finishes_it(environ: dict[str, str], tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "project")
    plan = tmp_path / "plan.yaml"
    plan.write_text(a_plan(repository), encoding="utf-8")

    with ending_the_detached(environ):
        done = autopack(environ, "start", str(plan), "--rehearse", "--wait")
        status = json.loads(autopack(environ, "status", "--json").stdout)

    assert done.returncode == 0, done.stderr
    assert (status["state"], status["percent_complete"]) == ("succeeded", 100.0)
    assert git(repository, "rev-list", "--count", f"main..{status['branch']}") == "2"
    log = (Path(environ["AUTOPACK_HOME"]) / "serve.log").read_text()
    assert log.count("can, very rarely, damage") == int(known_fault(sqlite3.sqlite_version_info) is not None)


def test_processes_find_postgresql_in_the_file_env_of_their_home(
    environ: dict[str, str], tmp_path: Path, postgres_url: str
) -> None:
    home = Path(environ["AUTOPACK_HOME"])
    home.mkdir()
    (home / "env").touch(0o600)
    (home / "env").write_text(f"AUTOPACK_DATABASE_URL='{postgres_url}'\n")
    plan = tmp_path / "plan.yaml"
    plan.write_text(a_plan(make_repository(tmp_path / "project")), encoding="utf-8")

    with ending_the_detached(environ):
        done = autopack(environ, "start", str(plan), "--rehearse", "--wait")
        status = json.loads(autopack(environ, "status", "--json").stdout)

    assert done.returncode == 0, done.stderr
    assert status["state"] == "succeeded"
    assert not (home / "autopack.db").exists()


def test_waiting_for_a_run_that_fails_ends_with_an_error_code(environ: dict[str, str], tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "project")
    plan = tmp_path / "plan.yaml"
    plan.write_text(a_plan(repository, [a_phase("a", verify="false")], attempts_limit=1), encoding="utf-8")

    with ending_the_detached(environ):
        done = autopack(environ, "start", str(plan), "--rehearse", "--wait")
        run_id = json.loads(autopack(environ, "status", "--json").stdout)["run_id"]
        cancelled = autopack(environ, "cancel", run_id)
        again = autopack(environ, "pause", run_id)

    assert done.returncode == 1
    assert "needs_attention" in done.stdout
    assert "is cancelled" in cancelled.stdout
    assert again.returncode == 1
    assert "cancelled" in again.stderr


def test_a_real_run_without_keys_names_the_variable_and_where_to_put_it(
    environ: dict[str, str], tmp_path: Path
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(a_plan(make_repository(tmp_path / "project")), encoding="utf-8")

    with ending_the_detached(environ):
        done = autopack(environ, "start", str(plan))
        runs = json.loads(autopack(environ, "runs", "--json").stdout)

    assert done.returncode == 1
    assert "_API_KEY is not set in the supervisor's environment" in done.stderr
    assert "AUTOPACK_HOME/env" in done.stderr
    assert runs["total"] == 0


def test_the_demo_ends_by_itself_with_real_commits_and_code_zero(environ: dict[str, str]) -> None:
    done = autopack(environ, "demo", "--once")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "no model is called and no tokens are bought" in done.stdout
    assert "100 %" in done.stdout
    assert "claude mcp add autopack" in done.stdout


def test_stop_ends_the_server_of_this_home_and_says_when_there_is_none(environ: dict[str, str]) -> None:
    argv = [sys.executable, "-m", "autopack_mcp", "serve", "--port", "auto"]
    with subprocess.Popen(argv, env={**environ, "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = url_in(server.stdout.readline())
        done = autopack(environ, "stop")
        server.communicate(timeout=LIMIT_S)

    assert url in done.stdout
    assert server.returncode == 0
    assert "No server is running" in autopack(environ, "stop").stdout


def test_a_port_that_is_ours_says_so(environ: dict[str, str]) -> None:
    with serving(environ) as said:
        done = autopack(environ, "serve", "--port", url_in(said).rpartition(":")[2])

    assert done.returncode == 1
    assert "It is autopack-mcp itself" in done.stderr


def test_a_demo_whose_terminal_is_closed_leaves_nothing_behind(environ: dict[str, str], tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "autopack_mcp", "demo"]
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    surroundings = {**environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)}
    with subprocess.Popen(argv, env=surroundings, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "is queued" in line:
                break
        demo.send_signal(signal.SIGHUP)
        demo.communicate(timeout=LIMIT_S)

    assert list(temporary.iterdir()) == []
