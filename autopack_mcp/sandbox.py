"""How commands are confined on this machine: bubblewrap where it works, and in plain words when it does not.

It owns what a confined command may see, write and reach; it starts nothing but one probe. The status shows its
description, and the workspace and the verification wrap what they run with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from autopack_mcp import keeper

PROBE_TIMEOUT_S = 5.0  # bubblewrap starts in about 5 ms; a probe this slow is a sandbox that does not work.

CONFINED = (
    "Commands run in bubblewrap: read-only system, private home and /tmp, own process namespace, "
    "network only where the plan asks for it."
)
# What ``processes`` sees to with and without a sandbox.
KEPT = (
    "A keeper ends whatever they start, also what detaches itself, "
    "and limits processor time, memory, output and processes."
)
NOT_KEPT = "What wipes its environment and detaches itself may outlive them; only their time and output are limited."

# Folders whose content a command must not see: sockets of the host's services, and other people's temporary files.
_PRIVATE_FOLDERS = ("/tmp", "/var/tmp", "/run")
# Tool chains that people install below their home; the rest of a home (keys, browser profiles, mail) stays hidden.
_TOOL_FOLDERS = (
    ".asdf", ".bun", ".cargo/bin", ".cargo/git", ".cargo/registry", ".conda", ".deno", ".local/bin", ".local/lib",
    ".local/share/mise", ".local/share/pipx", ".local/share/pnpm", ".local/share/uv", ".nvm", ".pyenv", ".rbenv",
    ".rustup", ".sdkman", ".volta", "anaconda3", "go", "miniconda3", "miniforge3",
)  # fmt: skip
# Where a company's own certificates are named; without them no setup command reaches its package registry.
_CERTIFICATE_VARIABLES = (
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "PIP_CERT",
    "GIT_SSL_CAINFO",
)  # fmt: skip
_MEGABYTE = 1_000_000
_RESOLVER = "/run/systemd/resolve"  # Where /etc/resolv.conf often points; without it a network has no names.


@dataclass(frozen=True, slots=True)
class Reach:
    """What a sandboxed command may touch, as absolute paths; a plain sandbox cannot enforce it.

    ``protected`` stays read-only although it lies inside ``writable``; ``hidden`` is empty for the command, but for
    what the other three show of it. ``scratch_mb`` bounds each of the folders that are its own (``/tmp``, a home):
    they lie in memory, and with None the kernel gives each of them half of it.
    """

    writable: tuple[Path, ...]
    readable: tuple[Path, ...] = ()
    protected: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    network: bool = False
    scratch_mb: int | None = None


@dataclass(frozen=True, slots=True)
class Sandbox:
    """How commands are confined on this machine; ``description`` is the sentence that the status shows."""

    kind: Literal["bubblewrap", "plain"]
    description: str
    program: str = ""
    can_size: bool = False

    def wrap(self, argv: Sequence[str], reach: Reach, environ: Mapping[str, str]) -> tuple[str, ...]:
        """``argv`` as it must be started to be confined; ``environ`` is the command's, for its HOME and PATH."""
        if self.kind == "plain":
            return tuple(argv)
        sized = reach if self.can_size else replace(reach, scratch_mb=None)
        return (self.program, *_confinement(sized, environ), "--", *argv)


def plain_sandbox(why: str) -> Sandbox:
    """No sandbox, and the reason in words."""
    return Sandbox("plain", f"Commands run unsandboxed: {why}. {_keeping()}")


def detect_sandbox(environ: Mapping[str, str]) -> Sandbox:
    """bubblewrap when it is installed and starts a command with everything we ask of it; otherwise plain, and why.

    Starts one process and waits for it (about 10 ms), so ask once, when the program starts.
    """
    program = shutil.which("bwrap", path=environ.get("PATH"))
    if program is None:
        return plain_sandbox("bubblewrap is not installed")
    sandbox = Sandbox("bubblewrap", f"{CONFINED} {_keeping()}", program, can_size=True)
    # Older versions know no sizes, and one that is set-uid grants none; that is no reason to do without it.
    failure = ""
    for candidate in (sandbox, replace(sandbox, can_size=False)):
        failure = _failure(candidate, environ)
        if not failure:
            return candidate
    return plain_sandbox(failure)


def _failure(sandbox: Sandbox, environ: Mapping[str, str]) -> str:
    """Why a command cannot be confined so, in words; empty when it can."""
    with tempfile.TemporaryDirectory() as folder:
        argv = sandbox.wrap(["true"], Reach(writable=(Path(folder),), scratch_mb=1), environ)
        try:
            probe = subprocess.run(argv, capture_output=True, timeout=PROBE_TIMEOUT_S, check=False, env=dict(environ))
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"bubblewrap does not start ({error})"
    complaint = probe.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
    says = f"bubblewrap is installed but does not work here ({complaint or probe.returncode})"
    return says if probe.returncode != 0 else ""


def _keeping() -> str:
    return KEPT if keeper.is_possible() else NOT_KEPT


def _confinement(reach: Reach, environ: Mapping[str, str]) -> list[str]:
    """bubblewrap's arguments; later mounts lie over earlier ones, so the order is the rule."""
    private = [Path(folder) for folder in _PRIVATE_FOLDERS] + _home(environ)
    flags = ["--die-with-parent", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    flags += ["--cap-drop", "ALL"] + ([] if reach.network else ["--unshare-net"])
    flags += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    flags += _scratch([folder for folder in private if folder.is_dir() and not folder.is_symlink()], reach.scratch_mb)
    flags += _binds("--ro-bind-try", _tools(private, environ) + ([Path(_RESOLVER)] if reach.network else []))
    flags += _scratch(reach.hidden, reach.scratch_mb)
    flags += _binds("--ro-bind", reach.readable) + _binds("--bind", reach.writable)
    flags += _binds("--ro-bind", reach.protected)
    return [*flags, "--setenv", "TMPDIR", "/tmp", "--chdir", str(reach.writable[0])]


def _home(environ: Mapping[str, str]) -> list[Path]:
    home = Path(environ.get("HOME") or "/").resolve()
    return [home] if home != Path("/") and home.is_dir() else []


def _tools(private: Sequence[Path], environ: Mapping[str, str]) -> list[Path]:
    """What lies below a private folder and commands cannot do without: tool chains, PATH, certificates."""
    known = [home / folder for home in _home(environ) for folder in _TOOL_FOLDERS]
    path = [Path(entry) for entry in environ.get("PATH", "").split(os.pathsep)]
    certificates = [Path(environ[name]) for name in _CERTIFICATE_VARIABLES if name in environ]
    wanted = certificates + [folder for entry in path for folder in _program_folders(entry)]
    return known + [found for found in wanted if any(folder in found.parents for folder in private)]


def _program_folders(entry: Path) -> list[Path]:
    """A virtual environment's bin is of no use without the lib beside it and the Python it was made from."""
    if not (entry.parent / "pyvenv.cfg").is_file():
        return [entry]
    return [entry.parent, (entry / "python").resolve().parent.parent]


def _scratch(folders: Iterable[Path], size_mb: int | None) -> list[str]:
    size = [] if size_mb is None else ["--size", str(size_mb * _MEGABYTE)]
    return [word for folder in folders for word in (*size, "--tmpfs", str(folder))]


def _binds(flag: str, folders: Iterable[Path]) -> list[str]:
    return [word for folder in folders for word in (flag, str(folder), str(folder))]
