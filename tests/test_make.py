"""The two commands of the README on machines that differ: what make offers, and how it gets what it needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import require_in_ci
from tests.shape.sources import ROOT

TARGETS = ["setup", "demo", "test", "check", "bench", "serve"]
NEW_ENOUGH = "exit 0"
TOO_OLD = "exit 1"


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine on which only the given programs exist; each writes down how it was called."""

    folder: Path

    def has(self, program: str, script: str = NEW_ENOUGH) -> None:
        """Put a program on PATH: a shell script."""
        self._write(self.folder / "bin" / program, script)

    def has_environment(self, script: str = NEW_ENOUGH) -> None:
        """Put a .venv there, with this for its Python."""
        self._write(self.folder / ".venv" / "bin" / "python", script)

    def install(self, kind: str = "runtime") -> subprocess.CompletedProcess[str]:
        """Run the installer as make does."""
        environment = {"PATH": str(self.folder / "bin"), "VENV": str(self.folder / ".venv")}
        command = ["/bin/sh", str(ROOT / "requirements" / "install.sh"), kind]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    def calls(self) -> list[str]:
        """What was called so far, with its arguments; questions (``-c``) are left out."""
        log = self.folder / "calls"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        return [line.replace(str(self.folder), "…") for line in lines if " -c " not in line]

    def _write(self, program: Path, script: str) -> None:
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "{program.name} $*" >> "{self.folder}/calls"\n{script}\n', "utf-8")
        program.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "with space").mkdir()
    return Machine(tmp_path / "with space")


def test_make_alone_lists_the_targets() -> None:
    make = shutil.which("make")
    if make is None:
        require_in_ci("make is not installed")
    said = subprocess.run([make], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^make (\w+) +\S", said, re.MULTILINE) == TARGETS


def test_uv_makes_the_environment_and_fills_it_where_it_is_there(machine: Machine) -> None:
    environment = machine.folder / ".venv" / "bin"
    made = f'/bin/mkdir -p "{environment}"; /bin/cp "{machine.folder}/bin/python3" "{environment}/python"'
    machine.has("uv", f'if [ "$1" = venv ]; then {made}; fi')
    machine.has("python3")
    assert machine.install("dev").returncode == 0
    into = "uv pip install --quiet --python …/.venv/bin/python"
    assert machine.calls() == [
        "uv venv --quiet --python …/bin/python3 …/.venv",
        f"{into} --require-hashes --compile-bytecode --requirement requirements/dev.txt",
        f"{into} --no-deps --no-build-isolation --editable .",
    ]


def test_plain_pip_does_it_where_uv_is_not(machine: Machine) -> None:
    machine.has_environment()
    assert machine.install().returncode == 0
    quiet_pip = "python -m pip --quiet --disable-pip-version-check --no-input install"
    assert machine.calls()[-2:] == [
        f"{quiet_pip} --require-hashes --requirement requirements/runtime.txt",
        f"{quiet_pip} --no-deps --no-build-isolation --editable .",
    ]


def test_newest_python_that_really_runs_is_taken(machine: Machine) -> None:
    machine.has("uv", "exit 3")
    machine.has("python3.13", "exit 127")  # A shim of a version that is not switched on.
    machine.has("python3.12")
    machine.has("python3.11")
    machine.install()
    assert machine.calls() == ["uv venv --quiet --python …/bin/python3.12 …/.venv"]


def test_machine_without_a_new_python_is_told_so(machine: Machine) -> None:
    machine.has("python3", TOO_OLD)
    refused = machine.install()
    assert refused.returncode == 1
    assert "needs Python 3.11 or newer" in refused.stderr
    assert not (machine.folder / ".venv").exists()


def test_python_that_cannot_make_environments_is_told_what_to_install(machine: Machine) -> None:
    machine.has("python3", 'case "$*" in *ensurepip*) exit 1;; esac')
    refused = machine.install()
    assert refused.returncode == 1
    assert "apt-get install python3-venv" in refused.stderr


def test_environment_with_an_old_python_is_left_alone_and_named(machine: Machine) -> None:
    machine.has("uv")
    machine.has("python3")
    machine.has_environment(TOO_OLD)
    refused = machine.install()
    assert refused.returncode == 1
    assert "older than 3.11 or gone" in refused.stderr
    assert machine.calls() == []


def test_failed_installation_is_a_failure(machine: Machine) -> None:
    machine.has_environment()
    machine.has("uv", "exit 7")
    assert machine.install().returncode == 7


def test_ci_script_is_sound_and_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True, check=False).returncode == 0
