"""Who may import whom: the contracts of ``.importlinter``, and what they cannot say."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from tests.shape.sources import PACKAGE, ROOT, package_sources

HEAVY = {"mcp", "openai", "anthropic"}
SUBMODULES = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()}
# ``status`` asked for an empty home, as a person's shell would run it; then what it took to answer.
STATUS = """
import sys
from autopack_mcp.cli.main import main
sys.argv = ["autopack-mcp", "status", "--json"]
try:
    main()
except SystemExit:
    pass
print(*sys.modules, sep="\\n", file=sys.stderr)
"""


def names_from_the_top(node: ast.AST) -> set[str]:
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "autopack_mcp":
        return {alias.name for alias in node.names} - SUBMODULES - {"__version__"}
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names} & {"autopack_mcp"}
    return set()


def test_import_contracts_hold() -> None:
    # In a process of its own: the linter switches off the loggers of whoever runs it.
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_inside_imports_through_the_top() -> None:
    through = [
        f"{source.path}: {names}"
        for source in package_sources()
        for node in ast.walk(source.tree)
        if (names := names_from_the_top(node))
    ]
    assert through == []


def test_importing_the_package_loads_none_of_its_modules() -> None:
    code = "import sys, autopack_mcp; print(*(name for name in sys.modules if name.startswith('autopack_mcp.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert loaded.stdout.split() == []


def test_status_answers_without_the_protocol_and_the_sdks(tmp_path: Path) -> None:
    environment = {**os.environ, "AUTOPACK_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    asked = subprocess.run(
        [sys.executable, "-c", STATUS], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert asked.returncode == 0, asked.stderr
    loaded = set(asked.stderr.split())
    assert "autopack_mcp.cli.reading" in loaded
    assert loaded & HEAVY == set()
