"""The wheel has in it what a checkout has beside the code: installed anywhere, it starts with the default config."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import anyio
import pytest
from mcp import Client, StdioServerParameters

from tests.shape.sources import PACKAGE, ROOT

BUILD_TIMEOUT_S = 50


@dataclass(frozen=True, slots=True)
class Installation:
    """An environment with the wheel in it, and an empty folder and an empty home to run it from."""

    bin: Path
    folder: Path
    home: Path

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment with next to nothing in its own environment."""
        return subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=self.folder,
            env={"HOME": str(self.home), "PATH": os.defpath},
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_S,
            check=False,
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout without fetching anything."""
    folder = tmp_path_factory.mktemp("dist")
    run_checked(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installation(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel in an environment of its own, which sees the dependencies of the one the tests run in."""
    folder = tmp_path_factory.mktemp("installation")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--disable-pip-version-check"]
    if find_spec("pip") is None:
        uv = shutil.which("uv")
        assert uv is not None, "an environment without pip was made by uv"
        install = [uv, "pip", "install", "--python", str(python)]
    run_checked(*install, "--quiet", "--no-deps", "--no-index", str(wheel))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    ours = folder / "venv" / "lib" / version / "site-packages"
    (ours / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    for name in ("empty", "home"):
        (folder / name).mkdir()
    return Installation(folder / "venv" / "bin", folder / "empty", folder / "home")


def run_checked(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def files_below(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_wheel_holds_every_file_of_the_package_and_of_config(wheel: Path) -> None:
    expected = {f"autopack_mcp/{name}" for name in files_below(PACKAGE)}
    expected |= {f"autopack_mcp/_config/{name}" for name in files_below(ROOT / "config")}
    with ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("autopack_mcp/")}
    assert held == expected


def test_wheel_holds_the_default_config_and_the_example(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        assert {"autopack_mcp/_config/models.yaml", "autopack_mcp/_config/plan.example.yaml"} <= set(archive.namelist())


def test_installed_program_finds_its_own_default_config(installation: Installation) -> None:
    code = "from autopack_mcp.config import shipped; print(shipped.__file__); print(shipped.default_config_text())"
    found = installation.run("python", "-I", "-c", code)
    assert found.returncode == 0, found.stderr
    file, _, text = found.stdout.partition("\n")
    assert Path(file).is_relative_to(installation.bin.parent)
    assert text.strip() == (ROOT / "config" / "models.yaml").read_text(encoding="utf-8").strip()


def test_installed_program_finds_its_example_repository(installation: Installation) -> None:
    code = "from autopack_mcp.config import shipped; print(*shipped.example_repository(), sep='\\n')"
    found = installation.run("python", "-I", "-c", code)
    assert set(found.stdout.split("\n")) - {""} == files_below(ROOT / "config" / "example_repository")


@pytest.mark.parametrize(
    "program, arguments",
    [("autopack-mcp", []), ("python", ["-I", "-m", "autopack_mcp"])],
    ids=["its command", "python -m"],
)
def test_installed_program_checks_its_config_in_an_empty_folder(
    installation: Installation, program: str, arguments: list[str]
) -> None:
    checked = installation.run(program, *arguments, "config", "check")
    assert checked.returncode == 0, checked.stderr
    assert files_below(installation.folder) == set()


@pytest.mark.anyio
async def test_block_of_mcp_json_works_as_pasted_where_the_command_is_on_the_path(installation: Installation) -> None:
    block = json.loads((ROOT / "mcp.json").read_text(encoding="utf-8"))["mcpServers"]["autopack"]
    environment = {"HOME": str(installation.home), "PATH": f"{installation.bin}{os.pathsep}{os.defpath}"}
    pasted = StdioServerParameters(**block, env=environment, cwd=installation.folder)
    with anyio.fail_after(30):
        async with Client(pasted) as client:
            tools = await client.list_tools()
    assert "get_run_status" in {tool.name for tool in tools.tools}


@pytest.mark.parametrize("page", ["docs/connect.md"])
def test_block_in_the_docs_is_the_one_in_mcp_json(page: str) -> None:
    blocks = re.findall(r"```json\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert json.loads((ROOT / "mcp.json").read_text(encoding="utf-8")) in map(json.loads, blocks)
