"""A whole run on this machine in under a minute: a real small repository, a real server, scripted replies.

It owns a temporary folder and one server process and gives both back at the end. Everything but the models' replies is
what a real run has; it says so plainly, because a rehearsal must never pass for the real thing.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from autopack_mcp import app
from autopack_mcp.app import Autopack
from autopack_mcp.cli.output import print_table
from autopack_mcp.cli.watching import watch
from autopack_mcp.config.shipped import example_plan_text, example_repository
from autopack_mcp.control.person import Person
from autopack_mcp.errors import AutopackError, SupervisorUnavailable
from autopack_mcp.runs.supervision import supervisor_of
from autopack_mcp.summary.run import RunSummary
from autopack_mcp.summary.shown import tokens_text, usd_text
from autopack_mcp.tokens import new_token

REPLY_PAUSE_S = 0.3  # A scripted reply takes this long, so that a person can watch the bar move.
START_LIMIT_S = 30.0  # A first start compiles and migrates; a slow laptop gets plenty.
STOP_LIMIT_S = 10.0
LOOK_S = 0.05


def run_demo(*, once: bool) -> int:
    """Show a run; returns the exit code: 0 when everything in it went well. Without ``once`` it stays until Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # A closed terminal ends the demo as Ctrl-C does: nothing of it may stay behind.
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="autopack-demo-") as folder:
        place = Path(folder)
        environ = {**os.environ, "AUTOPACK_HOME": str(place / "home")}
        environ.pop("AUTOPACK_DATABASE_URL", None)
        repository = _make_repository(place / "tally")
        click.echo("This is a rehearsal: no model is called and no tokens are bought. The replies are scripted;")
        click.echo("the repository, the server, the commands, the caps and the commits are real.\n")
        try:
            with _server(environ, place / "serve.log") as server, _opened(environ) as autopack:
                return _show(autopack, _wait_for_supervisor(autopack, server), repository, once=once)
        except KeyboardInterrupt:
            click.echo("\nStopped; the temporary folder is removed.")
            return 0 if not once else 1


def _show(autopack: Autopack, url: str, repository: Path, *, once: bool) -> int:
    plan = repository.parent / "plan.example.yaml"
    plan.write_text(example_plan_text(), encoding="utf-8")
    started = asyncio.run(_start(autopack.environ, plan, repository))
    click.echo(f"{started}\n")
    run = watch(autopack, started.split()[1])
    problems = _problems(run, repository, url)
    _show_commits(run, repository)
    _show_usage(autopack, run)
    if once:
        click.echo("\nThis demo ends now; without ONCE=1 it stays up, and these lines connect a chat to it.")
    _show_connections(autopack, url)
    for problem in problems:
        click.echo(f"PROBLEM: {problem}", err=True)
    if once:
        return 1 if problems else 0
    click.echo("\nThe page stays up. Press Ctrl-C to stop it and remove everything.")
    signal.pause()
    return 0


async def _start(environ: Mapping[str, str], plan: Path, repository: Path) -> str:
    autopack = app.open_autopack(environ)
    try:
        person = Person("demo", "command line")
        started = await app.control(autopack).start_file(plan, person, repository=repository, is_rehearsal=True)
        return started.message
    finally:
        await autopack.database.close()


def _problems(run: RunSummary, repository: Path, url: str) -> list[str]:
    """What a demo that only looked fine would hide."""
    found = []
    if run.state != "succeeded":
        found.append(f"the run is {run.state}: {run.why}")
    commits = _git(repository, "rev-list", "--count", f"main..{run.branch}").strip()
    if commits != str(run.total_phases):
        found.append(f"the branch has {commits} commits for {run.total_phases} phases")
    for path in ("/health", "/", f"/runs/{run.run_id}"):
        try:
            urllib.request.urlopen(url + path, timeout=10).close()
        except OSError as error:  # An answer that is not 2xx is one, too.
            found.append(f"{path}: {error}")
    return found


def _show_commits(run: RunSummary, repository: Path) -> None:
    click.echo(f"\nCommits of branch {run.branch}, made by this run:\n")
    click.echo(_git(repository, "log", "--reverse", "--format=  %h %s", f"main..{run.branch}"))


def _show_usage(autopack: Autopack, run: RunSummary) -> None:
    click.echo("Rehearsed usage against caps (nothing was bought):\n")
    rows = [
        (
            phase.name,
            f"{phase.builder_model} / {phase.auditor_model}",
            str(phase.attempt),
            tokens_text(phase.tokens_used),
            usd_text(phase.cost_usd),
        )
        for phase in run.phases
    ]
    print_table(("phase", "builder / auditor", "attempts", "tokens", "would cost"), rows)
    click.echo()
    caps = [("this run", tokens_text(run.tokens_used), tokens_text(run.token_cap or 0), "")]
    for standing in autopack.summaries.models_now(run.run_id).standings:
        for cap in standing.caps:
            if cap.cap_tokens is not None and cap.used_tokens:
                resets = "" if cap.resets_at is None else f"{cap.resets_at:%a %d %b %H:%M} UTC"
                row = (f"{cap.label}, {cap.window_label}", tokens_text(cap.used_tokens),
                       tokens_text(cap.cap_tokens), resets)  # fmt: skip
                if row not in caps:  # A cap of all calls stands with every provider.
                    caps.append(row)
    print_table(("cap", "used", "of", "resets"), caps)


def _show_connections(autopack: Autopack, url: str) -> None:
    """The lines that connect a chat client to exactly this demo."""
    home, program = str(autopack.home.path), [sys.executable, "-m", "autopack_mcp", "stdio"]
    server = {"command": program[0], "args": program[1:], "env": {"AUTOPACK_HOME": home}}
    block = json.dumps({"mcpServers": {"autopack": server}}, indent=2)
    token = new_token(autopack.home)
    click.echo(f"\nThe page: {url}")
    click.echo("\nClaude Code, in a terminal:\n")
    click.echo(f"  claude mcp add autopack --env AUTOPACK_HOME={home} -- {' '.join(program)}")
    click.echo("  or over HTTP:")
    click.echo(f'  claude mcp add --transport http autopack {url}/mcp --header "Authorization: Bearer {token}"')
    click.echo("\nCursor (~/.cursor/mcp.json) and Claude Desktop (claude_desktop_config.json):\n")
    click.echo("\n".join(f"  {line}" for line in block.splitlines()))
    click.echo('\nThen ask: "Show me the status of the current run."')


def _wait_for_supervisor(autopack: Autopack, server: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and server.poll() is None:
        record = autopack.database.read_now(supervisor_of, app.machine_name())
        if record is not None and record.is_alive(autopack.clock.now()):
            return record.url
        time.sleep(LOOK_S)
    raise SupervisorUnavailable("The demo's server did not come up; its log is above.")


@contextmanager
def _opened(environ: Mapping[str, str]) -> Iterator[Autopack]:
    autopack = app.open_autopack(environ)
    try:
        yield autopack
    finally:
        autopack.database.close_now()


@contextmanager
def _server(environ: Mapping[str, str], log_file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real ``serve`` as a child process, ended by its id; its log is shown when something fails."""
    argv = [sys.executable, "-m", "autopack_mcp", "serve", "--port", "auto", "--rehearsal-pause", str(REPLY_PAUSE_S)]
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            argv, env=dict(environ), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    except AutopackError:
        click.echo(log_file.read_text(encoding="utf-8", errors="replace"), err=True)
        raise
    finally:
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _make_repository(folder: Path) -> Path:
    for path, text in example_repository().items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    _git(folder, "init", "--quiet", "--initial-branch=main")
    _git(folder, "add", "--all")
    _git(folder, "commit", "--quiet", "--message=Start tally")
    return folder


def _git(repository: Path, *words: str) -> str:
    identity = ("-c", "user.name=demo", "-c", "user.email=demo@localhost", "-c", "commit.gpgsign=false")
    program = shutil.which("git")
    if program is None:
        raise SupervisorUnavailable("git is not installed, or not on PATH.")
    done = subprocess.run(
        [program, *identity, *words],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout
