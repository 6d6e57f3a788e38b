"""What a confined command can see, write and reach, tried with the real bubblewrap where this machine has it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from autopack_mcp.processes import CommandResult, run_command
from autopack_mcp.sandbox import CONFINED, KEPT, NOT_KEPT, Reach, detect_sandbox, plain_sandbox

SANDBOX = detect_sandbox(os.environ)
KEEPING = KEPT if sys.platform == "linux" else NOT_KEPT
needs_bubblewrap = pytest.mark.skipif(SANDBOX.kind == "plain", reason=SANDBOX.description)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A person's home with a secret, a tool and a workspace in it."""
    home = tmp_path / "home"
    for folder in (".ssh", ".local/bin", "work/.git", "data", "venv/bin"):
        (home / folder).mkdir(parents=True)
    (home / ".ssh" / "id").write_text("private")
    (home / ".local/bin" / "tool").write_text("a tool")
    (home / "work/.git" / "config").write_text("untouched")
    (home / "data" / "ledger").write_text("ours")
    (home / "venv" / "pyvenv.cfg").write_text("")
    return home


async def confined(
    script: str, home: Path, *, network: bool = False, data: bool = False, scratch_mb: int | None = None
) -> CommandResult:
    environ: Mapping[str, str] = {"PATH": f"{home}/venv/bin:{os.environ['PATH']}", "HOME": str(home)}
    work = home / "work"
    reach = Reach(
        writable=(work,),
        readable=(home / "data",) if data else (),
        protected=(work / ".git",),
        hidden=(home / "data",),
        network=network,
        scratch_mb=scratch_mb,
    )
    argv = SANDBOX.wrap(["sh", "-c", script], reach, environ)
    return await run_command(argv, cwd=work, env=environ, timeout_s=10)


def test_without_bubblewrap_the_status_says_so(tmp_path: Path) -> None:
    sandbox = detect_sandbox({"PATH": str(tmp_path)})

    assert sandbox.kind == "plain"
    assert sandbox.description == f"Commands run unsandboxed: bubblewrap is not installed. {KEEPING}"
    assert sandbox.wrap(["a", "b"], Reach(writable=(tmp_path,)), {}) == ("a", "b")


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1", "uid map: Permission denied"),
        ("exit 7", "does not work here (7)"),
    ],
    ids=["with a complaint", "without a word"],
)
def test_a_bubblewrap_that_does_not_work_here_is_not_used_and_the_status_says_why(
    tmp_path: Path, script: str, why: str
) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)

    sandbox = detect_sandbox({"PATH": f"{tmp_path}:{os.environ['PATH']}"})

    assert sandbox.kind == "plain"
    assert why in sandbox.description


def test_a_plain_sandbox_gives_its_reason() -> None:
    assert plain_sandbox("the plan says so").description == f"Commands run unsandboxed: the plan says so. {KEEPING}"


@needs_bubblewrap
def test_the_status_says_what_the_sandbox_does() -> None:
    assert SANDBOX.description == f"{CONFINED} {KEEPING}"


@needs_bubblewrap
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("script", "works"),
    [
        pytest.param("echo x > made && cat made", True, id="writes its workspace"),
        pytest.param("echo x > /tmp/made && echo x > ~/made", True, id="has a temporary folder and a home of its own"),
        pytest.param("cat ~/.local/bin/tool ~/venv/pyvenv.cfg", True, id="sees tools and what PATH points to"),
        pytest.param("cat .git/config", True, id="reads what is protected"),
        pytest.param("echo x > .git/config", False, id="does not write what is protected"),
        pytest.param("cat ~/.ssh/id", False, id="does not see the home"),
        pytest.param("cat ~/data/ledger", False, id="does not see what is hidden"),
        pytest.param("echo x > ~/.local/bin/tool", False, id="does not write tools"),
        pytest.param("echo x > /etc/made || echo x > /usr/made", False, id="does not write the system"),
        pytest.param("mount -o remount,rw / || umount /tmp", False, id="does not undo its own mounts"),
        pytest.param("ls /proc | grep -c '^[0-9]' | grep -qx '[1-9]'", True, id="sees only its own processes"),
    ],
)
async def test_a_confined_command(home: Path, script: str, works: bool) -> None:
    result = await confined(script, home)

    assert (result.exit_code == 0) is works, result.output
    assert (home / "work/.git/config").read_text() == "untouched"
    assert not (home / "made").exists()


@needs_bubblewrap
@pytest.mark.anyio
async def test_what_is_readable_is_shown_although_it_lies_in_a_hidden_folder(home: Path) -> None:
    assert (await confined("cat ~/data/ledger", home, data=True)).output == "ours"


@pytest.mark.skipif(not SANDBOX.can_size, reason="this bubblewrap knows no sizes")
@pytest.mark.anyio
@pytest.mark.parametrize("folder", ["/tmp", "~"])
async def test_folders_in_memory_are_full_at_their_size(home: Path, folder: str) -> None:
    result = await confined(f"head -c 2000000 /dev/zero > {folder}/made", home, scratch_mb=1)

    assert result.exit_code != 0
    assert "No space left on device" in result.output


def test_an_older_bubblewrap_is_used_without_sizes(tmp_path: Path) -> None:
    older = tmp_path / "bwrap"
    older.write_text('#!/bin/sh\ncase "$*" in *--size*) echo "bwrap: Unknown option --size" >&2; exit 1;; esac\n')
    older.chmod(0o755)
    reach = Reach(writable=(tmp_path,), scratch_mb=1)

    sandbox = detect_sandbox({"PATH": f"{tmp_path}:{os.environ['PATH']}"})

    assert (sandbox.kind, sandbox.can_size) == ("bubblewrap", False)
    assert "--size" not in sandbox.wrap(["true"], reach, {})
    assert "--size" in replace(sandbox, can_size=True).wrap(["true"], reach, {})


@needs_bubblewrap
@pytest.mark.anyio
async def test_a_confined_command_has_a_network_only_when_asked(home: Path) -> None:
    interfaces = "sed -n 's/^ *\\([^:]*\\):.*/\\1/p' /proc/net/dev"

    alone = (await confined(interfaces, home)).output.split()
    connected = (await confined(interfaces, home, network=True)).output.split()

    assert alone == ["lo"]
    assert set(connected) == {name.name for name in Path("/sys/class/net").iterdir() if name.is_dir()}


@needs_bubblewrap
@pytest.mark.anyio
async def test_a_confined_command_leaves_nothing_running(home: Path) -> None:
    result = await confined("setsid env -i sleep 4242 & echo done", home)

    assert result.output == "done\n"
    listing = await run_command(["ps", "-A", "-o", "args="], cwd="/", env={"PATH": os.environ["PATH"]}, timeout_s=10)
    assert "sleep 4242" not in listing.output
